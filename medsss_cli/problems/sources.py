"""Where rows come from: files of several formats, stdin, and data sets of the hub. What they mean is the layouts'
business.

A file is read by its name: `.csv`, `.tsv` and `.parquet` as tables, `.json` also as one object that holds the rows, all
else as JSON lines or a JSON array. `.gz` and `.zst` may follow. Nothing touches the network but `hf:`.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from itertools import count
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
    suffixes = [suffix for suffix in PurePath(source.lower()).suffixes[-2:] if suffix not in (".gz", ".zst")]
    match suffixes[-1:]:
        case _ if source.startswith("hf:"):
            yield from _hub(source)
        case [".csv" | ".tsv" as suffix]:
            yield from _table(source, "\t" if suffix == ".tsv" else ",", on_bad)
        case [".parquet"]:
            yield from _parquet(source)
        case [".json"] if found := _whole_object(source):
            for number, row in enumerate(_inside(found), start=1):
                if isinstance(row, dict):
                    yield Where(source, number), row
                else:
                    on_bad(Where(source, number), "expected a JSON object")
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


def _table(source: str, delimiter: str, on_bad: OnBad) -> Rows:
    """Rows of a .csv or .tsv, whose first line names the columns. All values are texts; an empty cell is None."""
    csv.field_size_limit(1 << 24)
    with open_text_in(source) as raw:
        reader = csv.reader(io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""), delimiter=delimiter)
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

    numbers = count(1)
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from ((Where(source, next(numbers)), row) for row in batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"cannot read {source} as parquet: {error}") from None


def _whole_object(source: str) -> dict[str, Any] | None:
    """The object that a .json file is, if it is one: JSON lines are not held whole, and the reader of lines says what
    is wrong with a broken file."""
    with contextlib.suppress(orjson.JSONDecodeError, *READ_ERRORS), open_text_in(source) as raw:
        begin = raw.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
        first, _, rest = begin.partition(b"\n")
        with contextlib.suppress(orjson.JSONDecodeError):
            if rest.strip() and isinstance(orjson.loads(first), dict):
                return None
        found = orjson.loads(begin + raw.read()) if begin.startswith(b"{") else None
        return found if isinstance(found, dict) else None
    return None


def _inside(found: dict[str, Any]) -> Iterator[Any]:
    """The rows of a file that is one object: the object itself where one of its values is a plain one; else rows by
    their id (PubMedQA's), or data sets by their name, as lists (HuatuoGPT-o1's) or by id (MIRAGE's)."""
    if not all(isinstance(value, list | dict) for value in found.values()):
        yield found
        return
    for key, value in found.items():
        if isinstance(value, dict) and not all(isinstance(row, dict) for row in value.values()):
            yield {"id": key} | value
            continue
        for name, row in value.items() if isinstance(value, dict) else enumerate(value, start=1):
            own = row.get("id") if isinstance(row, dict) else None
            id = own if isinstance(own, str) else f"{key}-{name if own is None else own}"
            yield {"dataset": key} | row | {"id": id} if isinstance(row, dict) else row


def _hub(source: str) -> Rows:
    """Rows of `hf:NAME[[:CONFIG]:SPLIT][@REVISION]`, streamed."""
    named, _, revision = source.removeprefix("hf:").partition("@")
    name, *parts = named.split(":")
    if not name or len(parts) > 2:
        raise UsageError(f"not a data set of the hub: {source}", hint="hf:NAME[[:CONFIG]:SPLIT][@REVISION]")
    config, split = [None, None, *parts][-2:]
    number = 0
    try:
        import datasets

        datasets.disable_progress_bars()
        loaded = datasets.load_dataset(name, config, split=split, streaming=True, revision=revision or None)
        if split is None:
            if len(loaded) != 1:
                raise UsageError(f"{source} has the splits {', '.join(loaded)}", hint=f"choose one: hf:{name}:SPLIT")
            [loaded] = loaded.values()
        for row in loaded:
            number += 1
            yield Where(source, number), dict(row)
    except (UsageError, GeneratorExit):
        raise
    except Exception as error:
        # Its errors have no common base: offline, no such name, a script that it refuses, files that it cannot read.
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise UsageError(
            f"{source} breaks off after {number} rows: {first}" if number else f"cannot load {source}: {first}",
            hint="it needs the hub (huggingface.co): go online, or download the files and name them instead",
        ) from None
