"""What is wrong with the input, said one way by all commands: the first three of a cause in full, then their count."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Sequence

import msgspec

from .. import console
from ..errors import BadRecord, MedsssError, UsageError
from ..records import ErrorRecord
from .jsonl import Record, Where
from .locked import LockedFile

SHOWN = 3
"""How many faults of one cause are said in full."""

CAUSES = 100
"""How many causes are told apart; beyond them all are "others", for memory is bounded."""

MESSAGE_LIMIT = 2000
"""Characters of a message that are shown: some quote their record, and a record may be of 64 MiB."""

_VARIES = re.compile(r"""\d+|(?<!\w)'[^']*'(?!\w)|"[^"]*"|`[^`]*`""")


class Faults:
    """The bad lines and failed records of one run: said on stderr, counted, and written to the file `errors` if there
    is one. With `strict` the first is raised. A cause is what a message says, numbers and quotations aside.

    Raises UsageError for a file of `errors` that cannot be written, or that holds something else than error records.
    May be called from several threads.
    """

    def __init__(self, *, errors: str | None = None, strict: bool = False) -> None:
        self.bad_lines = 0
        self.failed = 0
        self._strict = strict
        self._errors = None if errors is None else _ErrorsFile(errors)
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._told = False
        self._lock = threading.Lock()

    def bad(self, where: Where, what: str) -> None:
        """A line that is no record. Raises BadRecord under `strict`."""
        what = _short(what)
        with self._lock:
            self.bad_lines += 1
            self._add(str(where), "read", what, f"{where}: {what}")
        if self._strict:
            raise BadRecord(f"{where}: {what}", hint="--strict stops at the first bad line")

    def fail(self, id: str, stage: str, error: str) -> None:
        """A record that failed. Raises MedsssError under `strict`."""
        error = _short(error)
        with self._lock:
            self.failed += 1
            self._add(id, stage, error, f"{id}: {stage}: {error}")
        if self._strict:
            raise MedsssError(f"{id}: {stage}: {error}", hint="--strict stops at the first failure")

    def _add(self, id: str, stage: str, error: str, line: str) -> None:
        if self._errors is not None:
            self._errors.write([ErrorRecord(id=id, error=error, stage=stage)])
        shown = f"{stage}: {error.splitlines()[0] if error else error}"
        cause = _VARIES.sub("#", shown)
        if cause not in self._counts and len(self._counts) >= CAUSES:
            cause = shown = "other causes"
        self._counts[cause] += 1
        self._first.setdefault(cause, shown)
        if self._counts[cause] <= SHOWN and not self._strict:
            console.say(line)
        elif self._counts[cause] == SHOWN + 1:
            console.say("... more of this kind are counted, and not shown")

    def words(self) -> list[str]:
        """The counts as parts of a summary: "2 failed", "1 bad line"."""
        bad = f"{self.bad_lines} bad line{'s' if self.bad_lines > 1 else ''}"
        return [f"{self.failed} failed"] * bool(self.failed) + [bad] * bool(self.bad_lines)

    def say_causes(self, most: int = 8) -> None:
        """A line for each of the commonest causes that had more than was shown, in the words of its first; once."""
        for cause, count in [] if self._told else self._counts.most_common(most):
            if count > SHOWN:
                console.note(f"  {count} x {_short(self._first[cause], 160)}")
        self._told = True

    @property
    def exit_code(self) -> int:
        """0 if nothing was wrong, else 1."""
        return 1 if self.failed or self.bad_lines else 0

    def close(self, *, whole: bool = True) -> None:
        """End the file of errors. `whole` says that the run came to its end: no errors then make an empty file."""
        if self._errors is not None:
            self._errors.close(whole=whole)
            self._errors = None

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(whole=kind is None)
        if kind is None:
            self.say_causes()


class _ErrorsFile(LockedFile):
    """The errors of this run alone: a run that goes on meets every failure again. What stood there before is
    overwritten with the first error, or at a good end; a run that is refused leaves it."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "--errors")
        self._begun = not self.regular
        line = os.pread(self.fd, 1 << 20, 0).partition(b"\n")[0] if self.regular else b""
        try:
            if line:
                msgspec.json.decode(line, type=ErrorRecord)
        except msgspec.MsgspecError:
            super().close()
            raise UsageError(
                f"--errors {path} holds something else than the errors of a run", hint="choose another file"
            ) from None

    def write(self, objs: Sequence[Record]) -> None:
        self._begin()
        super().write(objs)

    def _begin(self) -> None:
        if not self._begun:
            os.ftruncate(self.fd, 0)
            self._begun = True

    def close(self, *, whole: bool = True) -> None:
        if whole:
            self._begin()
        super().close(whole=whole)


def _short(message: str, most: int = MESSAGE_LIMIT) -> str:
    if len(message) <= most:
        return message
    half = most // 2
    return f"{message[:half]} [... {len(message) - 2 * half} characters ...] {message[-half:]}"
