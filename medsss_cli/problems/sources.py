"""Where rows come from: files of several formats, folders of them, stdin, and data sets of the hub. Rows only: what
they mean is the layouts' business.

A file is read by its name: `.csv`, `.tsv` and `.parquet` as tables, `.json` also as one object that holds the rows
(PubMedQA's and BioASQ's own files, MedS-Ins, BioMRC, MIRAGE, the evaluation files of HuatuoGPT-o1), all else as JSON
lines or a JSON array. `.gz` and `.zst` may follow. Nothing touches the network but `hf:`.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from ..errors import UsageError
from ..stream.jsonl import READ_ERRORS, Where, check_inputs, open_text_in, read_objects
from ._fields import stem
from .benchmarks import BENCHMARKS, benchmark
from .layouts import detect

Rows = Iterator[tuple[Where, dict[str, Any]]]
OnBad = Callable[[Where, str], None]

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")

# MMLU's own csv files have no line of names.
_MMLU_COLUMNS = ["question", "A", "B", "C", "D", "answer"]


def find_sources(named: Sequence[str]) -> list[str]:
    """The files, `-` and `hf:` names that `named` stands for, folders replaced by the data files in them, sorted by
    path. No name at all is stdin. Raises UsageError for what cannot be read and for a folder without data files."""
    found: list[str] = []
    for name in named or ("-",):
        if name.startswith("hf:"):
            found.append(name)
        elif name != "-" and os.path.isdir(name):
            inside = [
                str(path)
                for path in sorted(Path(name).rglob("*"))
                if path.is_file() and _format(str(path)) and not any(part.startswith(".") for part in path.parts[1:])
            ]
            # What DDXPlus ships beside its patients is no data set.
            inside = [
                path for path in inside if not os.path.basename(path).startswith("release_") or "patients" in path
            ]
            if not inside:
                raise UsageError(f"the folder {name} holds no data files", hint=f"read are {', '.join(SUFFIXES)}")
            found += inside
        else:
            check_inputs([name])
            found.append(name)
    return found


def read_rows(source: str, *, on_bad: OnBad, layout: str | None = None) -> Rows:
    """The rows of one source of `find_sources`, with their places. What cannot be read goes to `on_bad`, a file
    without rows too. Raises UsageError where the source as a whole cannot be read."""
    if source.startswith("hf:"):
        yield from _hub(source)
        return
    bad = 0

    def counted(where: Where, what: str) -> None:
        nonlocal bad
        bad += 1
        on_bad(where, what)

    rows: Rows
    match _format(source):
        case ".csv" | ".tsv":
            rows = _table(source, counted, layout)
        case ".parquet":
            rows = _parquet(source)
        case ".json":
            rows = _json(source, counted)
        case _:
            rows = read_objects([source], on_bad=counted)
    any_row = False
    for row in rows:
        any_row = True
        yield row
    if not any_row and not bad and source != "-":
        on_bad(Where(source, 0), "holds no record")


def source_stem(source: str) -> str:
    """The name that ids and data sets of a source get: its file's name without endings, the hub name's last part."""
    return stem(Where(source, 0))


def _format(path: str) -> str:
    """The ending of a data file's name, without .gz and .zst; the empty string for any other."""
    name = path.lower()
    for packed in (".gz", ".zst"):
        name = name.removesuffix(packed)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


# Tables


def _table(source: str, on_bad: OnBad, layout: str | None) -> Rows:
    """Rows of a .csv or .tsv, whose first line names the columns; empty cells are left out. All values are texts."""
    csv.field_size_limit(1 << 24)
    with open_text_in(source) as raw:
        lines = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        reader = csv.reader(lines, delimiter="\t" if _format(source) == ".tsv" else ",")
        names: list[str] | None = None
        number = 0
        while True:
            number += 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except UnicodeDecodeError as error:
                on_bad(Where(source, number), f"not UTF-8: {error.reason}; reading stops here")
                return
            except (csv.Error, *READ_ERRORS) as error:
                on_bad(Where(source, number), f"reading stops here: {error}")
                return
            where = Where(source, reader.line_num)
            if names is None:
                if layout == "mmlu" and len(cells) == len(_MMLU_COLUMNS) and "question" not in cells:
                    names = _MMLU_COLUMNS
                else:
                    names = [name.strip() for name in cells]
                    continue
            if not any(cells):
                continue
            if len(cells) != len(names):
                on_bad(where, f"{len(cells)} cells where the first line names {len(names)} columns")
                continue
            row: dict[str, Any] = {name: cell for name, cell in zip(names, cells, strict=True) if cell != ""}
            if names is _MMLU_COLUMNS:
                row = {"question": row["question"], "choices": cells[1:5], "answer": row["answer"]}
            yield where, row


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
    try:
        with open_text_in(source) as raw:
            begin = raw.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
            content = begin + raw.read() if begin.startswith(b"{") else b""
        found = orjson.loads(content) if content else None
    except orjson.JSONDecodeError:
        found = None  # JSON lines, or broken: the reader of lines says what
    except READ_ERRORS:
        found = None
    if not isinstance(found, dict):
        yield from read_objects([source], on_bad=on_bad)
        return
    for number, row in enumerate(_inside(found), start=1):
        where = Where(source, number)
        if isinstance(row, dict):
            yield where, row
        else:
            on_bad(where, "expected a JSON object")


def _inside(found: dict[str, Any]) -> Iterator[Any]:
    """The rows of a file that is one object, in the ways that public files are."""
    if detect(found) is not None:
        yield found
    elif isinstance(found.get("questions"), list):  # BioASQ
        yield from found["questions"]
    elif isinstance(found.get("Instances"), list):  # MedS-Ins
        shared = {"definition": found.get("Definition")} | {
            key.lower(): found[key] for key in ("Source", "Categories") if key in found
        }
        for row in found["Instances"]:
            yield shared | row if isinstance(row, dict) else row
    elif all(isinstance(found.get(key), list) for key in ("abstracts", "titles", "entities_list", "answers")):  # BioMRC
        for abstract, title, entities, answer in zip(
            found["abstracts"], found["titles"], found["entities_list"], found["answers"], strict=False
        ):
            yield {"abstract": abstract, "title": title, "entities_list": entities, "answer": answer}
    elif found and all(isinstance(value, (list, dict)) for value in found.values()):
        for key, value in found.items():
            yield from _keyed(key, value)
    else:
        yield found


def _keyed(key: str, value: list[Any] | dict[str, Any]) -> Iterator[Any]:
    """The rows under one key: a row whose id the key is, or a data set of that name, as a list or by id."""
    if isinstance(value, dict) and detect(value) is not None:
        yield {"id": key} | value
        return
    for number, (name, row) in enumerate(
        value.items() if isinstance(value, dict) else ((None, item) for item in value), start=1
    ):
        if isinstance(row, dict):
            own = row.get("id")
            id = f"{key}-{name or own or number}" if not isinstance(own, str) else own
            yield row | {"id": id, "dataset": key}
        else:
            yield row


# The hub


def _hub(source: str) -> Rows:
    """Rows of `hf:NAME[:CONFIG][:SPLIT]`, streamed. A benchmark's own name stands for its copy on the hub; one part
    after NAME is a config if there is one of that name, else a split; `hf:NAME::SPLIT` says that it is a split."""
    name, config, split = _hub_parts(source)
    offline = "it needs the hub (huggingface.co): go online, or download the files and name them instead"
    try:
        import datasets

        datasets.disable_progress_bars()
        if split is None and config is not None and config not in datasets.get_dataset_config_names(name):
            config, split = None, config
        known = next((b for b in BENCHMARKS if b.hub is not None and b.hub.partition(":")[0] == name), None)
        if split is None:
            names = datasets.get_dataset_split_names(name, config)
            if len(names) == 1:
                split = names[0]
            elif known is not None and known.split in names:
                split = known.split
            else:
                raise UsageError(
                    f"{source} has the splits {', '.join(names)}", hint=f"choose one: hf:{name}:{config or ''}:SPLIT"
                )
        rows = iter(datasets.load_dataset(name, config, split=split, streaming=True))
    except UsageError:
        raise
    except Exception as error:
        # Its errors have no common base: offline, no such name, a script that it refuses, files that it cannot read.
        raise UsageError(f"cannot load {source}: {_first_line(error)}", hint=offline) from None
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise UsageError(f"{source} breaks off after {number} rows: {_first_line(error)}", hint=offline) from None
        number += 1
        yield Where(source, number), dict(row)


def _hub_parts(source: str) -> tuple[str, str | None, str | None]:
    parts = source.removeprefix("hf:").split(":")
    known = benchmark(parts[0])
    if known is not None:
        if known.hub is None:
            raise UsageError(
                f"{known.name} has no copy on the hub that we know of",
                hint=f"name its files instead; their layouts: {', '.join(known.layouts)}",
            )
        name, _, config = known.hub.partition(":")
        if config:
            parts = [name, config, *(parts[1:] or [known.split])]
        elif len(parts) == 1:
            return name, None, known.split
        else:
            parts[0] = name
    if not parts[0] or len(parts) > 3:
        raise UsageError(f"not a data set of the hub: {source}", hint="hf:NAME[:CONFIG][:SPLIT]")
    config_or_split = parts[1] if len(parts) > 1 else ""
    return parts[0], config_or_split or None, (parts[2] or None) if len(parts) == 3 else None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
