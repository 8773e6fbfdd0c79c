"""What is wrong with the input, said one way by all commands: the first three of a cause in full, then their count."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter

import msgspec

from .. import console
from ..errors import BadRecord, MedsssError, UsageError
from ..records import ErrorRecord
from .jsonl import Where
from .outputs import LineWriter, LockedFile, straight

SHOWN = 3  # faults of one cause that are said in full
CAUSES = 100  # that are told apart; beyond them all are "others", for memory is bounded
MESSAGE_LIMIT = 2000  # characters that are shown: some messages quote their record, and a record may be of 64 MiB

_VARIES = re.compile(r"""\d+|(?<!\w)'[^']*'(?!\w)|"[^"]*"|`[^`]*`""")


class Faults:
    """The bad lines and failed records of one run: said on stderr, counted, and written to the file `errors` if there
    is one. With `strict` the first is raised. A cause is what a message says, numbers and quotations aside.

    The file holds the errors of this run alone, for a run that goes on meets every failure again. Raises UsageError
    where it cannot be written, or holds something else than error records. May be called from several threads.
    """

    def __init__(self, *, errors: str | None = None, strict: bool = False) -> None:
        self.bad_lines = 0
        self.failed = 0
        self._strict = strict
        self._file = None if errors is None else _open_errors(errors)
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._lock = threading.Lock()

    def bad(self, where: Where, what: str) -> None:
        """A line that is no record. Raises BadRecord under `strict`."""
        self.bad_lines += 1
        said = f"{where}: {self._count(str(where), 'read', what)}"
        if self._strict:
            raise BadRecord(said, hint="--strict stops at the first bad line")

    def fail(self, id: str, stage: str, error: str) -> None:
        """A record that failed. Raises MedsssError under `strict`."""
        self.failed += 1
        said = f"{id}: {stage}: {self._count(id, stage, error)}"
        if self._strict:
            raise MedsssError(said, hint="--strict stops at the first failure")

    def _count(self, id: str, stage: str, error: str) -> str:
        """Count a fault and say it if it is among the first of its cause; returns the error as it is shown."""
        error = _short(error, MESSAGE_LIMIT)
        with self._lock:
            if self._file is not None:
                self._file.write([ErrorRecord(id=id, error=error, stage=stage)])
            shown = f"{stage}: {error.partition(chr(10))[0]}"
            cause = _VARIES.sub("#", shown)
            if cause not in self._counts and len(self._counts) >= CAUSES:
                cause = shown = "other causes"
            self._counts[cause] += 1
            self._first.setdefault(cause, shown)
            if self._counts[cause] <= SHOWN and not self._strict:
                console.say(f"{id}: {error}" if stage == "read" else f"{id}: {stage}: {error}")
            elif self._counts[cause] == SHOWN + 1:
                console.say("... more of this kind are counted, and not shown")
        return error

    def words(self) -> list[str]:
        """The counts as parts of a summary: "2 failed", "1 bad line"."""
        bad = f"{self.bad_lines} bad line{'s' if self.bad_lines > 1 else ''}"
        return [f"{self.failed} failed"] * bool(self.failed) + [bad] * bool(self.bad_lines)

    def say_causes(self) -> None:
        """A line for each of the commonest causes that had more than was shown, in the words of its first; once."""
        for cause, count in self._counts.most_common(8):
            if count > SHOWN:
                console.note(f"  {count} x {_short(self._first[cause], 160)}")
        self._counts.clear()

    @property
    def exit_code(self) -> int:
        """0 if nothing was wrong, else 1."""
        return 1 if self.failed or self.bad_lines else 0

    def close(self, *, whole: bool = True) -> None:
        """End the file of errors. `whole` says that the run came to its end: no errors then make an empty file."""
        if self._file is not None:
            self._file.close(whole=whole)
            self._file = None

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(whole=kind is None)
        self.say_causes()


def _open_errors(path: str) -> LineWriter:
    if (plain := straight(path, "--errors")) is not None:
        return plain
    file = LockedFile(path, "--errors")
    try:
        if line := os.pread(file.fd, 1 << 20, 0).partition(b"\n")[0]:
            msgspec.json.decode(line, type=ErrorRecord)
    except msgspec.MsgspecError:
        file.close(whole=False)
        said = f"--errors {path} holds something else than the errors of a run"
        raise UsageError(said, hint="choose another file") from None
    return file


def _short(message: str, most: int) -> str:
    if len(message) <= most:
        return message
    half = most // 2
    return f"{message[:half]} [... {len(message) - 2 * half} characters ...] {message[-half:]}"
