"""Outputs that are one thing made of the whole input (a report, a page, a curriculum): there whole, or not at all.

Outputs that grow record by record are another matter: `run.py`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from ..errors import UsageError
from .jsonl import LineWriter, packed, stdout_fd
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
    target = None if path in (None, "-") else path
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

    No input and `-` are stdin, an output that is None or `-` is stdout: the shell may have opened a file for them. No
    `--errors` is no output.
    """
    places = [("the input", path) for path in inputs or ("-",)]
    for option, path in outputs.items():
        if path is None and option == "--errors":
            continue
        if path is not None and packed(path):
            bare = path.removesuffix(f".{packed(path)}")
            raise UsageError(f"{option} {path}: outputs are not packed", hint=f"write {bare}, and pack it then")
        for other in places:
            if _same(other, (option, path or "-")):
                raise UsageError(f"{_shown(other)} and {_shown((option, path or '-'))} are the same file")
        places.append((option, path or "-"))


def _same(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether two places are one regular file, there already or not."""
    here, there = _status(one), _status(other)
    if here is None or there is None:
        return (
            here is there and "-" not in (one[1], other[1]) and os.path.realpath(one[1]) == os.path.realpath(other[1])
        )
    return stat.S_ISREG(here.st_mode) and os.path.samestat(here, there)


def _status(place: tuple[str, str]) -> os.stat_result | None:
    role, path = place
    try:
        if path != "-":
            return os.stat(path)
        if role == "the input":
            return os.fstat(0)
        fd = stdout_fd()
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)
    except (OSError, ValueError, UsageError):
        return None


def _shown(place: tuple[str, str]) -> str:
    role, path = place
    return f"{role} {path}" if path != "-" else "stdin" if role == "the input" else "stdout"
