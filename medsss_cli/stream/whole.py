"""Outputs that are one thing made of the whole input (a report, a page, a curriculum): there whole, or not at all.

Outputs that grow record by record are another matter: `run.py`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from ..errors import UsageError
from .jsonl import STDOUT, LineWriter, packed, stdout_fd
from .resume import forget_state


@contextlib.contextmanager
def open_whole(
    path: str | None,
    *,
    inputs: Sequence[str] = (),
    errors: str | None = None,
    restart: bool = False,
    option: str = "-o",
) -> Iterator[LineWriter]:
    """A writer to `path` (None and `-` are stdout), to be opened before the work begins.

    What is written goes to a hidden file beside it, which takes the name when the block ends; an exception out of the
    block, `typer.Exit` among them, leaves nothing behind. A named pipe or a device is written to as it is. `inputs` are
    what the command reads (`-` or nothing is stdin), `errors` is its file of errors, `option` is how the user names the
    output.

    Raises UsageError where the output is an input or the errors file, where something stands in `path` and `restart`
    is not set, and where the folder is not there or not writable.
    """
    target = None if path in STDOUT else path
    check_outputs(inputs, {option: target, "--errors": errors})
    if target is None or (os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target)):
        with LineWriter(target) as writer:
            yield writer
        return
    _check_free(target, restart, option)
    place = os.path.realpath(target)  # a link stays one
    folder, name = os.path.split(place)
    beside = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except OSError as error:
        raise UsageError(f"cannot write {option} {target}: {error.strerror}") from None
    try:
        with LineWriter(target, fd=fd) as writer:
            yield writer
        _check_free(target, restart, option)  # nothing may have come there in the meantime
        if os.path.exists(place):
            os.chmod(beside, stat.S_IMODE(os.stat(place).st_mode))
        os.replace(beside, place)
        forget_state(place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _check_free(path: str, restart: bool, option: str) -> None:
    if os.path.isdir(path):
        raise UsageError(f"cannot write {option} {path}: it is a folder")
    if not restart and os.path.exists(path) and os.path.getsize(path):
        raise UsageError(
            f"{option} {path} is there already", hint=f"--restart overwrites it, or choose another {option}"
        )


def check_outputs(inputs: Sequence[str], outputs: Mapping[str, str | None]) -> None:
    """Raise UsageError where an output, named by its option, is an input or another output, links followed.

    No input and `-` are stdin, `-o` None and `-` are stdout: the shell may have opened a file for them. Any other
    option that is None is no output.
    """
    names = {_identity(path, reading=True): "stdin" if path == "-" else f"the input {path}" for path in inputs or "-"}
    names.pop(None, None)
    for option, path in outputs.items():
        if path is None and option != "-o":
            continue
        if path is not None and packed(path):
            bare = path.removesuffix(f".{packed(path)}")
            raise UsageError(f"{option} {path}: outputs are not packed", hint=f"write {bare}, and pack it then")
        name = "stdout" if path in STDOUT else f"{option} {path}"
        identity = _identity("-" if path is None or path in STDOUT else path, reading=False)
        if identity in names:
            raise UsageError(f"{names[identity]} and {name} are the same file")
        if identity is not None:
            names[identity] = name


def _identity(path: str, *, reading: bool) -> object:
    """What all names of one regular file have in common, also before it is there; None for pipes and devices."""
    try:
        if path == "-":
            fd = os.dup(0) if reading else stdout_fd()
            try:
                status = os.fstat(fd)
            finally:
                os.close(fd)
        else:
            status = os.stat(path)
    except FileNotFoundError:
        return os.path.realpath(path)
    except (OSError, ValueError, UsageError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
