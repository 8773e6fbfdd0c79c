"""Where rows come from: files of several formats, stdin, and data sets of the hub. What they mean is the layouts'
business.

A file is read by its name: `.csv`, `.tsv` and `.parquet` as tables, `.json` also as one object that holds the rows, all
else as JSON lines or a JSON array. `.gz` and `.zst` may follow. Nothing touches the network but `hf:`.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

import orjson

from ..errors import UsageError
from ..stream.jsonl import READ_ERRORS, OnBad, Where, check_inputs, open_text_in, read_objects

Rows = Iterator[tuple[Where, dict[str, Any]]]

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def find_sources(named: Sequence[str]) -> list[str]:
    """The files, `-` and `hf:` names to read; no name at all is stdin. Raises UsageError for what cannot be read."""
    sources = list(named) or ["-"]
    check_inputs([source for source in sources if not source.startswith("hf:")])
    return sources


def read_rows(source: str, *, on_bad: OnBad) -> Rows:
    """The rows of one source of `find_sources`, with their places. What cannot be read goes to `on_bad`. Raises
    UsageError where the source as a whole cannot be read."""
    if source.startswith("hf:"):
        yield from _hub(source)
        return
    match _format(source):
        case ".csv" | ".tsv":
            yield from _table(source, on_bad)
        case ".parquet":
            yield from _parquet(source)
        case ".json":
            yield from _json(source, on_bad)
        case _:
            yield from read_objects([source], on_bad=on_bad)


def stem(source: str) -> str:
    """The name that ids and data sets of a source get: its file's name without folder and endings, the last part of a
    hub name, "stdin" for a pipe."""
    if source.startswith("hf:"):
        return PurePath(source.partition("@")[0].split(":")[1]).name or "hf"
    path = PurePath(source)
    while path.suffix in (*SUFFIXES, ".gz", ".zst"):
        path = path.with_suffix("")
    return "stdin" if path.name in {"-", "stdin", ""} else path.name


def _format(path: str) -> str:
    """The ending of a data file's name, without .gz and .zst; the empty string for any other."""
    name = path.lower()
    for packed in (".gz", ".zst"):
        name = name.removesuffix(packed)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


# Tables


def _table(source: str, on_bad: OnBad) -> Rows:
    """Rows of a .csv or .tsv, whose first line names the columns. All values are texts; an empty cell is None."""
    csv.field_size_limit(1 << 24)
    with open_text_in(source) as raw:
        lines = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        reader = csv.reader(lines, delimiter="\t" if _format(source) == ".tsv" else ",")
        try:
            names = [name.strip() for name in next(reader, [])]
            for cells in reader:
                where = Where(source, reader.line_num)
                if any(cells) and len(cells) != len(names):
                    on_bad(where, f"{len(cells)} cells where the first line has {len(names)}")
                elif any(cells):
                    yield where, {name: cell or None for name, cell in zip(names, cells, strict=True)}
        except (UnicodeDecodeError, csv.Error, *READ_ERRORS) as error:
            on_bad(Where(source, reader.line_num + 1), f"reading stops here: {error}")


def _parquet(source: str) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield Where(source, number), row
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"cannot read {source} as parquet: {error}") from None


# One object that holds the rows


def _json(source: str, on_bad: OnBad) -> Rows:
    """A .json file: an array or JSON lines as everywhere, or one object that holds the rows."""
    found = None  # JSON lines, or broken: the reader of lines says what
    with contextlib.suppress(orjson.JSONDecodeError, *READ_ERRORS), open_text_in(source) as raw:
        begin = raw.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
        if begin.startswith(b"{") and not _is_lines(begin):
            found = orjson.loads(begin + raw.read())
    if not isinstance(found, dict):
        yield from read_objects([source], on_bad=on_bad)
        return
    for number, row in enumerate(_inside(found), start=1):
        where = Where(source, number)
        if isinstance(row, dict):
            yield where, row
        else:
            on_bad(where, "expected a JSON object")


def _is_lines(begin: bytes) -> bool:
    """Whether a text begins with a line that is an object of its own, and another: JSON lines are not held whole."""
    first, _, rest = begin.partition(b"\n")
    try:
        return bool(rest.strip()) and isinstance(orjson.loads(first), dict)
    except orjson.JSONDecodeError:
        return False


def _inside(found: dict[str, Any]) -> Iterator[Any]:
    """The rows of a file that is one object: the object itself where one of its values is a plain one; else rows by
    their id (PubMedQA's), or data sets by their name, as lists (HuatuoGPT-o1's) or by id (MIRAGE's)."""
    if not found or not _holds(found):
        yield found
        return
    for key, value in found.items():
        if isinstance(value, list):
            named: Iterable[tuple[object, Any]] = enumerate(value, start=1)
        elif value and all(isinstance(row, dict) for row in value.values()):
            named = value.items()
        else:
            yield {"id": key} | value
            continue
        for name, row in named:
            if isinstance(row, dict):
                own = row.get("id")
                id = own if isinstance(own, str) else f"{key}-{name if own is None else own}"
                yield {"dataset": key} | row | {"id": id}
            else:
                yield row


def _holds(found: dict[str, Any]) -> bool:
    return all(isinstance(value, list | dict) for value in found.values())


# The hub


def _hub(source: str) -> Rows:
    """Rows of `hf:NAME[[:CONFIG]:SPLIT][@REVISION]`, streamed."""
    named, _, revision = source.removeprefix("hf:").partition("@")
    name, *parts = named.split(":")
    if not name or len(parts) > 2:
        raise UsageError(f"not a data set of the hub: {source}", hint="hf:NAME[[:CONFIG]:SPLIT][@REVISION]")
    config, split = [None, None, *parts][-2:]
    offline = "it needs the hub (huggingface.co): go online, or download the files and name them instead"
    number = 0
    try:
        import datasets

        datasets.disable_progress_bars()
        if split is None:
            names = datasets.get_dataset_split_names(name, revision=revision or None)
            if len(names) != 1:
                raise UsageError(f"{source} has the splits {', '.join(names)}", hint=f"choose one: hf:{name}:SPLIT")
            split = names[0]
        for row in datasets.load_dataset(name, config, split=split, streaming=True, revision=revision or None):
            number += 1
            yield Where(source, number), dict(row)
    except (UsageError, GeneratorExit):
        raise
    except Exception as error:
        # Its errors have no common base: offline, no such name, a script that it refuses, files that it cannot read.
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        done = f"{source} breaks off after {number} rows" if number else f"cannot load {source}"
        raise UsageError(f"{done}: {first}", hint=offline) from None
