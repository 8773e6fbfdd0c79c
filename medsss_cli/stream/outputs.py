"""JSON lines out: to stdout, to a file that this process alone adds to, to a file that is there whole or not at all.

No output is ever an input (`check_outputs`), and none changes before there is something to write.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import orjson

from .. import console
from ..errors import BadRecord, MedsssError, UsageError
from .jsonl import packed

Record = msgspec.Struct | dict[str, Any]

STDOUT = (None, "-", "/dev/stdout")
"""The names of stdout as an output. (After `keep_stdout`, /dev/stdout itself is stderr.)"""

_PIPE_BUF = 4096

_stdout = 1


def keep_stdout() -> None:
    """From now on stdout carries records alone: whatever else is printed (a library's banner, a C extension, a child
    process) goes to stderr. Called by the program, never by a library."""
    global _stdout
    if _stdout == 1:
        _stdout = os.dup(1)
        os.dup2(2, 1)


def write_stdout(text: str) -> None:
    """Text on the real stdout, where a result is no record (a table, say)."""
    with LineWriter() as writer:
        writer.write_bytes(text.encode("utf-8", "replace"))


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
    """Writes groups of whole lines, each group in one write, to stdout or to the descriptor `fd`, which messages call
    `name`. Errors of the system come out as MedsssError, but BrokenPipeError. Raises UsageError for a closed stdout."""

    def __init__(self, name: str = "stdout", fd: int | None = None) -> None:
        if fd is None and sys.stdout is None:
            raise UsageError("standard output is closed", hint="write to a file with -o FILE")
        self.name = name
        self.fd = os.dup(_stdout) if fd is None else fd
        self.regular = stat.S_ISREG(os.fstat(self.fd).st_mode)

    def write(self, objs: Sequence[Record]) -> None:
        """All lines in one write. Nothing is written if one of them cannot be encoded (BadRecord)."""
        if objs:
            self.write_bytes(b"".join([encode(record) for record in objs]))

    def write_bytes(self, lines: bytes) -> None:
        """Whole lines that are JSON already.

        A signal cuts a write of more than PIPE_BUF bytes to a pipe, and the KeyboardInterrupt would be raised before we
        learn how much went out. So a Ctrl-C waits there for the end of the lines; a second one does not wait, for the
        reader may never read on.
        """
        pending: list[int] = []

        def later(signum: int, frame: object) -> None:
            if pending:
                raise KeyboardInterrupt
            pending.append(signum)

        waits = not self.regular and len(lines) > _PIPE_BUF and threading.current_thread() is threading.main_thread()
        previous = signal.signal(signal.SIGINT, later) if waits else None
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(self.fd, left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise MedsssError(f"cannot write to {self.name}: {error.strerror}") from None
        finally:
            if waits:
                signal.signal(signal.SIGINT, previous)
            if pending:
                signal.raise_signal(signal.SIGINT)

    def close(self, *, whole: bool = True) -> None:
        """Bring a file to the disk (fsync) and close, whether what it holds is whole or not."""
        try:
            if self.regular:
                os.fsync(self.fd)
        finally:
            os.close(self.fd)

    def __enter__(self) -> LineWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: str, flags: int, option: str) -> int:
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        raise UsageError(f"cannot write {option} {path}: {error.strerror}") from None


def straight(path: str | None, option: str) -> LineWriter | None:
    """A writer to stdout, a named pipe or a device, which are written to as they are; None for a file."""
    if path in STDOUT:
        return LineWriter()
    if not os.path.exists(path) or os.path.isfile(path) or os.path.isdir(path):
        return None
    return LineWriter(path, _open(path, os.O_WRONLY, option))


class LockedFile(LineWriter):
    """A file that this process alone writes to, made if it was not there. It changes with the first write: then what
    stands after its first `keep` bytes is cut off.

    The lock is flock's: it ends with the process, however that ends, and holds over NFS where the server does. Raises
    UsageError where the file cannot be written, or another process writes to it.
    """

    def __init__(self, path: str, option: str) -> None:
        self.keep, self.begun = 0, False
        self.made = not os.path.exists(path)
        super().__init__(path, _open(path, os.O_RDWR | os.O_CREAT, option))
        busy = False
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            busy = not os.fstat(self.fd).st_nlink  # another process has just removed what it had made
        except BlockingIOError:
            busy = True
        except OSError as error:
            console.warn(f"{path} cannot be locked ({error.strerror}): see that no second process writes to it")
        if busy:
            os.close(self.fd)
            hint = "wait for it, or give each process its own file"
            raise UsageError(f"{option} {path} is being written by another process", hint=hint)

    @property
    def size(self) -> int:
        """Its bytes now."""
        return os.fstat(self.fd).st_size

    def begin(self) -> None:
        """From here on the file changes."""
        self.begun = True
        if self.size != self.keep:
            os.ftruncate(self.fd, self.keep)
        os.lseek(self.fd, 0, os.SEEK_END)

    def write_bytes(self, lines: bytes) -> None:
        if not self.begun:
            self.begin()
        super().write_bytes(lines)

    def close(self, *, whole: bool = True) -> None:
        """`whole` says that the run came to its end: the file holds what this run gave, be it nothing. Otherwise a file
        that was made and got nothing is removed."""
        if whole and not self.begun:
            self.begin()
        elif not whole and self.made and not self.size:
            os.unlink(os.path.realpath(self.name))
        super().close()


@contextlib.contextmanager
def open_whole(
    path: str | None,
    *,
    inputs: Sequence[str] = (),
    errors: str | None = None,
    restart: bool = False,
    option: str = "-o",
) -> Iterator[LineWriter]:
    """A writer to `path` (None and `-` are stdout) for one thing that is made of the whole input: a report, a page, a
    curriculum. To be opened before the work begins: what is written goes to a hidden file, which takes the name when
    the block ends; an exception out of the block, `typer.Exit` among them, leaves nothing behind.

    Raises UsageError where the output is one of `inputs` or the file of `errors`, where something stands in `path` and
    `restart` is not set, and where the folder is not there or not writable. The user names the output by `option`.
    """
    target = None if path in STDOUT else path
    check_outputs(inputs, {option: target, "--errors": errors})
    if (plain := straight(target, option)) is not None:
        with plain:
            yield plain
        return
    assert target is not None
    _check_free(target, restart, option)
    place = os.path.realpath(target)  # a link stays one
    folder, name = os.path.split(place)
    beside = os.path.join(folder, f".{name}.{os.getpid()}.part")
    fd = _open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, option)
    try:
        with LineWriter(target, fd) as writer:
            yield writer
        _check_free(target, restart, option)  # nothing may have come there in the meantime
        if os.path.exists(place):
            os.chmod(beside, stat.S_IMODE(os.stat(place).st_mode))
        os.replace(beside, place)
        with contextlib.suppress(OSError):
            os.unlink(state_path(place))  # it is no longer what a run wrote record by record
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def state_path(out: str) -> str:
    """Where a run that writes OUT record by record keeps its state (`resume.py`)."""
    folder, name = os.path.split(out)
    return os.path.join(folder, f".{name}.medsss")


def _check_free(path: str, restart: bool, option: str) -> None:
    if os.path.isdir(path):
        raise UsageError(f"cannot write {option} {path}: it is a folder")
    if not restart and os.path.exists(path) and os.path.getsize(path):
        hint = f"--restart overwrites it, or choose another {option}"
        raise UsageError(f"{option} {path} is there already", hint=hint)


def check_outputs(inputs: Sequence[str], outputs: Mapping[str, str | None]) -> None:
    """Raise UsageError where an output, named by its option, is an input or another output, links followed.

    No input and `-` are stdin, `-o` None and `-` are stdout: the shell may have opened a file for them. Any other
    option that is None is no output.
    """
    seen: dict[object, str] = {}
    for name in inputs or "-":
        seen[_identity(0 if name == "-" else name)] = "stdin" if name == "-" else f"the input {name}"
    for option, path in outputs.items():
        if path is None and option != "-o":
            continue
        if path is not None and packed(path):
            bare = path.removesuffix(f".{packed(path)}")
            raise UsageError(f"{option} {path}: outputs are not packed", hint=f"write {bare}, and pack it then")
        name = "stdout" if path in STDOUT else f"{option} {path}"
        identity = _identity(_stdout if path is None or path in STDOUT else path)
        if identity is not None and identity in seen:
            raise UsageError(f"{seen[identity]} and {name} are the same file")
        seen[identity] = name


def _identity(file: str | int) -> object:
    """What all names of one regular file have in common, also before it is there; None for pipes and devices."""
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return os.path.realpath(str(file))
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
