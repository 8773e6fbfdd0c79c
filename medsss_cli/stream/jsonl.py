"""JSON lines in: from files, stdin, packed files and JSON arrays, in bounded memory, each object with its place.

What a line means is not known here: `records.parse` and the layouts say that. Which lines a run still has to do is
`run.py`, what is said of bad ones `faults.py`, how lines go out `outputs.py`.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar, cast

import orjson

from .. import console
from ..errors import BadRecord, UsageError
from .shard import digest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class HasId(Protocol):
    """What a stream needs of a record."""

    @property
    def id(self) -> str: ...


T = TypeVar("T")
R = TypeVar("R", bound=HasId)

READ_ERRORS = (EOFError, OSError, zlib.error, zstd.ZstdError)
"""What reading a file may raise, packed data that is cut or broken included."""

LINE_LIMIT = 64 << 20
"""The longest line that is read, in bytes. One that is longer is no record of ours, and would take the memory away."""

COUNT_LIMIT = 1 << 30
"""Files of more bytes than this are not read a first time just to count their records."""

_CHUNK = 1 << 16
_BOM = b"\xef\xbb\xbf"
_JSON_TYPES = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}


class Where(NamedTuple):
    """A place in the input: `line` counts from 1; in a file that is one JSON array it is the number of the item. Line 0
    is the file as a whole."""

    source: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


OnBad = Callable[[Where, str], None]
"""What is told of a line that cannot be used: where it stands, and why."""


def check_inputs(inputs: Sequence[str]) -> None:
    """Raise UsageError for the first input that cannot be read. Opens nothing, so a named pipe is safe."""
    for path in inputs:
        if path == "-" and sys.stdin is None:
            raise UsageError("standard input is closed", hint="name a file, or pipe records in")
        try:
            folder = path != "-" and stat.S_ISDIR(os.stat(path).st_mode)
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read {path}: {_reason(error)}") from None
        if folder:
            raise UsageError(f"cannot read {path}: it is a folder", hint="name the files in it")


def open_text_in(path: str) -> BinaryIO:
    """The bytes of `path`, unpacked: `-` is stdin, names that end in `.gz` and `.zst` are. A read raises one of
    READ_ERRORS where the data end early or are broken. Who is to type the input on a terminal is told so."""
    check_inputs([path])
    if path == "-":
        if sys.stdin.isatty():
            console.note("waiting for records from the terminal; Ctrl-D ends them")
        # A buffer of its own: a thread that still waits for a line here must not hold the lock of `sys.stdin.buffer`,
        # which the interpreter wants on its way out.
        return io.BufferedReader(io.FileIO(0, closefd=False), _CHUNK)
    try:
        match packed(path):
            case "gz":
                return cast(BinaryIO, gzip.open(path))
            case "zst":
                return cast(BinaryIO, zstd.open(path))
            case _:
                return open(path, "rb", buffering=_CHUNK)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {_reason(error)}") from None


def packed(name: str) -> str:
    """`gz`, `zst` or the empty string, by the ending of a file's name."""
    return next((kind for kind in ("gz", "zst") if name.endswith("." + kind)), "")


def read_records(
    inputs: Sequence[str], parse: Callable[[dict[str, Any], Where], T], *, on_bad: OnBad
) -> Iterator[tuple[Where, T]]:
    """What `parse` makes of the objects of `read_objects`. A BadRecord of it goes to `on_bad`."""
    for where, found in read_objects(inputs, on_bad=on_bad):
        try:
            record = parse(found, where)
        except BadRecord as error:
            on_bad(where, str(error))
            continue
        yield where, record


def first_of_each(records: Iterable[tuple[Where, R]], *, on_bad: OnBad) -> Iterator[tuple[Where, R]]:
    """Of each id the first record. A later one is a bad line: its results would be taken for the first one's."""
    seen: set[int] = set()
    for where, record in records:
        if (mark := digest(record.id)) in seen:
            on_bad(where, f"the id {record.id!r} came before; only its first record counts")
        else:
            seen.add(mark)
            yield where, record


def read_objects(inputs: Sequence[str], *, on_bad: OnBad) -> Iterator[tuple[Where, dict[str, Any]]]:
    """The JSON objects of the inputs, in order, with their places; no input at all is stdin.

    A file whose first non-blank byte is `[` is one JSON array of objects, and alone held in memory whole. Blank lines,
    a byte-order mark and CRLF are fine. What cannot be read (broken JSON, NaN, invalid UTF-8, a lone surrogate, a line
    over LINE_LIMIT, something else than an object, packed data that ends early) goes to `on_bad`, and the reading goes
    on if that returns. Raises UsageError at once, before anything is read, if one of the inputs cannot be.
    """
    sources = tuple(inputs) or ("-",)
    check_inputs(sources)
    return chain.from_iterable(_read_one(source, on_bad) for source in sources)


def _read_one(source: str, on_bad: OnBad) -> Iterator[tuple[Where, dict[str, Any]]]:
    name, number, begun = "stdin" if source == "-" else source, 1, False
    try:
        with open_text_in(source) as stream:
            for number in count(1):
                line = stream.readline(LINE_LIMIT + 1)
                if not line:
                    return
                if number == 1:
                    line = line.removeprefix(_BOM)
                if not line.strip():
                    continue
                array = not begun and line.lstrip().startswith(b"[")
                begun = True
                if array:
                    line += stream.read()
                elif len(line) > LINE_LIMIT:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(_CHUNK)
                    on_bad(Where(name, number), f"the line is longer than {LINE_LIMIT >> 20} MiB")
                    continue
                try:
                    found = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    at = number + error.lineno - 1 if array else number
                    on_bad(Where(name, at), f"not JSON: {error.msg} (column {error.colno})")
                    continue
                for place, item in enumerate(found, 1) if array else [(number, found)]:
                    if isinstance(item, dict):
                        yield Where(name, place), item
                    else:
                        kind = _JSON_TYPES.get(type(item), "null")
                        on_bad(Where(name, place), f"expected a JSON object, found {kind}")
    except READ_ERRORS as error:
        on_bad(Where(name, number), f"reading stops here: {_reason(error)}")


def _reason(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "the compressed data ends early"
    return getattr(error, "strerror", None) or str(error)


def count_records(inputs: Sequence[str]) -> int | None:
    """How many records the inputs hold; None where that cannot be known cheaply: stdin, pipes, packed files, files that
    are too large. Costs one read of the files."""
    sizes = [os.path.getsize(path) for path in inputs if os.path.isfile(path) and not packed(path)]
    if not inputs or len(sizes) < len(inputs) or sum(sizes) > COUNT_LIMIT:
        return None
    return sum(1 for _ in read_objects(inputs, on_bad=lambda *_: None))
