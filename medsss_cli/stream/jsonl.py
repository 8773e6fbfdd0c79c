"""JSON lines in and out: files, stdin and stdout, in bounded memory. `.gz` and `.zst` are read, not written.

What a line means is not known here: `records.parse` and the layouts say that. Which lines a run still has to do is
`run.py`, what is said of bad ones `faults.py`.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import signal
import stat
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count
from types import FrameType
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar, cast

import msgspec
import orjson

from .. import console
from ..errors import BadRecord, MedsssError, UsageError
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
Record = msgspec.Struct | dict[str, Any]

STDOUT = (None, "-", "/dev/stdout")
"""The names of stdout as an output. (While `guarded_stdout` holds, /dev/stdout itself is stderr.)"""

READ_ERRORS = (EOFError, OSError, zlib.error, zstd.ZstdError)
"""What reading a file may raise, packed data that is cut or broken included."""

LINE_LIMIT = 64 << 20
"""The longest line that is read, in bytes. One that is longer is no record of ours, and would take the memory away."""

COUNT_LIMIT = 1 << 30
"""Files of more bytes than this are not read a first time just to count their records."""

_PIPE_BUF = 4096
_CHUNK = 1 << 16
_BOM = b"\xef\xbb\xbf"


class Where(NamedTuple):
    """A place in the input: `line` counts from 1; in a file that is one JSON array it is the number of the item. Line 0
    is the file as a whole."""

    source: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


OnBad = Callable[[Where, str], None]
"""What is told of a line that cannot be used: where it stands, and why."""


# Reading


def check_inputs(inputs: Sequence[str]) -> None:
    """Raise UsageError for the first input that cannot be read. Opens nothing, so a named pipe is safe."""
    for path in inputs:
        if path == "-":
            if sys.stdin is None:
                raise UsageError("standard input is closed", hint="name a file, or pipe records in")
            continue
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(f"cannot read {path}: {reason}") from None
        if stat.S_ISDIR(mode):
            raise UsageError(f"cannot read {path}: it is a folder", hint="name the files in it")
        if not os.access(path, os.R_OK):
            raise UsageError(f"cannot read {path}: no permission")


def open_text_in(path: str) -> BinaryIO:
    """The bytes of `path`, unpacked: `-` is stdin, names that end in `.gz` and `.zst` are.

    A read raises one of READ_ERRORS where the data end early or are broken. stdin is read through a buffer of its own:
    a thread that still waits for a line there must not hold the lock of `sys.stdin.buffer`, which the interpreter wants
    on its way out. Who is to type the input on a terminal is told so.
    """
    check_inputs([path])
    if path == "-":
        if sys.stdin is not None and sys.stdin.isatty():
            console.note("waiting for records from the terminal; Ctrl-D ends them")
        return io.BufferedReader(io.FileIO(0, closefd=False), _CHUNK)
    try:
        raw = io.FileIO(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    match packed(path):
        case "gz":
            return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
        case "zst":
            return cast(BinaryIO, zstd.ZstdFile(raw))
        case _:
            return io.BufferedReader(raw, _CHUNK)


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

    A file whose first non-blank byte is `[` is one JSON array of objects, as public benchmark files are; it alone is
    held in memory whole. Blank lines, a byte-order mark and CRLF are fine. What cannot be read (broken JSON, NaN,
    invalid UTF-8, a lone surrogate, a line over LINE_LIMIT, something else than an object, packed data that ends early)
    goes to `on_bad`, and the reading goes on if that returns.

    Raises UsageError at once, before anything is read, if one of the inputs cannot be.
    """
    sources = tuple(inputs) or ("-",)
    check_inputs(sources)
    return chain.from_iterable(_read_one(source, on_bad) for source in sources)


def _read_one(source: str, on_bad: OnBad) -> Iterator[tuple[Where, dict[str, Any]]]:
    begun = False
    with open_text_in(source) as stream:
        for number in count(1):
            where = Where("stdin" if source == "-" else source, number)
            try:
                line = rest = stream.readline(LINE_LIMIT + 1)
                while len(line) > LINE_LIMIT and rest and not rest.endswith(b"\n"):
                    rest = stream.readline(_CHUNK)
            except READ_ERRORS as error:
                on_bad(where, f"reading stops here: {_reason(error)}")
                return
            if not line:
                return
            if number == 1:
                line = line.removeprefix(_BOM)
            if not line.strip():
                continue
            if not begun and line.lstrip().startswith(b"["):
                yield from _read_array(line, stream, where, on_bad)
                return
            begun = True
            if len(line) > LINE_LIMIT:
                on_bad(where, f"the line is longer than {LINE_LIMIT >> 20} MiB")
                continue
            try:
                found = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                on_bad(where, f"not JSON: {error.msg} (column {error.colno})")
                continue
            if isinstance(found, dict):
                yield where, found
            else:
                on_bad(where, f"expected a JSON object, found {_JSON_TYPES.get(type(found), 'null')}")


def _read_array(first: bytes, stream: BinaryIO, where: Where, on_bad: OnBad) -> Iterator[tuple[Where, dict[str, Any]]]:
    try:
        items = orjson.loads(first + stream.read())
    except orjson.JSONDecodeError as error:
        on_bad(Where(where.source, where.line + error.lineno - 1), f"not a JSON array: {error.msg}")
        return
    except READ_ERRORS as error:
        on_bad(where, f"reading stops here: {_reason(error)}")
        return
    items.reverse()
    for number in range(1, len(items) + 1):
        item = items.pop()
        place = Where(where.source, number)
        if isinstance(item, dict):
            yield place, item
        else:
            on_bad(place, f"item {number} of the array is {_JSON_TYPES.get(type(item), 'null')}, expected an object")


def _reason(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "the compressed data ends early"
    return getattr(error, "strerror", None) or str(error)


_JSON_TYPES = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}


def count_records(inputs: Sequence[str]) -> int | None:
    """How many records the inputs hold; None where that cannot be known cheaply: stdin, pipes, packed files, files that
    are too large. Costs one read of the files."""
    sizes = [os.path.getsize(path) for path in inputs if os.path.isfile(path) and not packed(path)]
    if not inputs or len(sizes) < len(inputs) or sum(sizes) > COUNT_LIMIT:
        return None
    return sum(1 for _ in read_objects(inputs, on_bad=lambda *_: None))


# Writing

_encoder = msgspec.json.Encoder()


def encode(record: Record) -> bytes:
    """One line with its line feed. Raises BadRecord for what JSON cannot say (a lone surrogate, an unknown type)."""
    try:
        if isinstance(record, msgspec.Struct):
            return _encoder.encode(record) + b"\n"
        return orjson.dumps(record, default=msgspec.to_builtins, option=orjson.OPT_APPEND_NEWLINE)
    except (TypeError, UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise BadRecord(f"cannot be written as JSON: {error}") from None


class LineWriter:
    """Writes groups of whole lines, each group in one write, readable by the other side at once.

    `target` is a file (overwritten), or one of STDOUT. With `fd` it takes over that descriptor, and `target`
    only names it. Errors of the system come out as MedsssError with the file's name; BrokenPipeError alone passes as it
    is.
    """

    def __init__(self, target: str | None = None, *, fd: int | None = None) -> None:
        self.name = "stdout" if target in STDOUT else str(target)
        if fd is not None:
            self.fd = fd
        elif target is None or target in STDOUT:
            self.fd = stdout_fd()
        else:
            try:
                self.fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            except OSError as error:
                raise UsageError(f"cannot write to {target}: {error.strerror}") from None
        self.regular = stat.S_ISREG(os.fstat(self.fd).st_mode)
        self._open = True

    def write(self, objs: Sequence[Record]) -> None:
        """All lines in one write. Nothing is written if one of them cannot be encoded (BadRecord)."""
        if objs:
            self.write_bytes(b"".join([encode(record) for record in objs]))

    def write_bytes(self, lines: bytes) -> None:
        """Whole lines that are JSON already."""
        try:
            write_whole(self.fd, lines, regular=self.regular)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise MedsssError(f"cannot write to {self.name}: {error.strerror}") from None

    def close(self, *, whole: bool = True) -> None:
        """Bring a file to the disk (fsync) and close, whether what it holds is whole or not. Closing twice is fine."""
        if not self._open:
            return
        self._open = False
        try:
            if self.regular:
                os.fsync(self.fd)
        finally:
            os.close(self.fd)

    def __enter__(self) -> LineWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_whole(fd: int, data: bytes, *, regular: bool = False) -> None:
    """Write all of `data`, and let no Ctrl-C cut a line in two.

    A write to a file, or of up to PIPE_BUF bytes to a pipe, is not cut by a signal. A longer one to a pipe is, and the
    KeyboardInterrupt would be raised before we learn how much went out. So the interrupt waits for the end of the line
    there; a second one does not wait, for the reader may never read on.
    """
    if regular or len(data) <= _PIPE_BUF or threading.current_thread() is not threading.main_thread():
        _write_all(fd, data)
        return
    pending: list[int] = []

    def later(signum: int, frame: FrameType | None) -> None:
        if pending:
            raise KeyboardInterrupt
        pending.append(signum)

    previous = signal.signal(signal.SIGINT, later)
    try:
        _write_all(fd, data)
    finally:
        signal.signal(signal.SIGINT, previous)
        if pending:
            signal.raise_signal(signal.SIGINT)


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    if written < len(data):
        view = memoryview(data)
        while written < len(data):
            written += os.write(fd, view[written:])


# stdout carries records alone

_guarded_stdout: int | None = None


@contextlib.contextmanager
def guarded_stdout() -> Iterator[None]:
    """While it is open, whatever else is printed (a library's banner, a C extension, a child process) goes to stderr.

    Descriptor 1 is put aside for LineWriter and `write_stdout`, and stderr is put in its place.
    """
    global _guarded_stdout
    if _guarded_stdout is not None:
        yield
        return
    aside = os.dup(1)
    os.dup2(2, 1)
    _guarded_stdout = aside
    try:
        yield
    finally:
        _guarded_stdout = None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        os.dup2(aside, 1)
        os.close(aside)


def stdout_fd() -> int:
    """Another descriptor of the real stdout. Raises UsageError if that is closed."""
    if sys.stdout is None:
        raise UsageError("standard output is closed", hint="write to a file with -o FILE")
    return os.dup(1 if _guarded_stdout is None else _guarded_stdout)


def write_stdout(text: str) -> None:
    """Text on the real stdout, for the few commands whose result is no record (a table, say)."""
    fd = stdout_fd()
    try:
        write_whole(fd, text.encode("utf-8", "replace"))
    finally:
        os.close(fd)
