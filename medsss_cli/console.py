"""Messages for people, on stderr: notes, warnings and a line of progress. Records go elsewhere (`jsonl.py`).

On a terminal the line of progress is redrawn in place; anywhere else it is a plain line a minute, with no control
characters, so that a log file stays readable. It goes on by a thread of its own, for between two records of a search
minutes may pass.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_INTERVAL = 60.0
"""Seconds between two progress lines where stderr is no terminal."""

_LIVE_INTERVAL = 0.1
_TICK = 1.0
_lock = threading.RLock()
_live: Progress | None = None
_current: Progress | None = None
_doing: str | None = None
_verbose = False
_progress = True


def be_verbose() -> None:
    """From now on more is said: `is_verbose` is true, and Python's warnings are shown, which it keeps to itself."""
    import warnings

    global _verbose
    _verbose = True
    warnings.simplefilter("default")


def is_verbose() -> bool:
    """Whether the user asked for detail (-v); then libraries need not be kept quiet."""
    return _verbose


def is_quiet() -> bool:
    """Whether the run that is under way shows no progress and no notes (-q)."""
    return _current is not None and _current.quiet


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """For as long as this lasts the line of progress says `what` ("loading MODEL") in place of a count."""
    global _doing
    _doing = what
    try:
        yield
    finally:
        _doing = None


def hide_progress() -> None:
    """No line of progress from now on: nothing is got done (a dry run)."""
    global _progress
    _progress = False


def console() -> Console:
    """A Rich console on stderr, for tables. Importing Rich takes a tenth of a second, so it waits for the first use."""
    from rich.console import Console

    return Console(stderr=True)


def note(msg: str) -> None:
    """One line for whoever watches."""
    _say(f"medsss: {msg}")


def warn(msg: str) -> None:
    """One line about something that went wrong while the run goes on."""
    _say(f"medsss: warning: {msg}")


def say(msg: str) -> None:
    """One line as it is, with nothing put before it: `file:line: what`."""
    _say(msg)


def _say(line: str) -> None:
    if sys.stderr is None:
        return
    with _lock:
        text = printable(line) + "\n"
        if _live is not None:
            text = "\r\x1b[K" + text + _live.line()
        _write(text)


def printable(text: str) -> str:
    """`text` without control characters other than line feeds: an id may hold the escape codes of a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):  # nobody listens: not a reason to end the work
        pass


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class Progress:
    """How far a run is: `advance` counts records, `set` shows further numbers ("trees 12 | nodes 340").

    `total` may be unknown (None), or an estimate; with it the line tells the time that is left at the rate so far.
    `quiet` shows nothing. Both methods may be called from any thread and are cheap: at most ten redraws a second.
    """

    def __init__(self, label: str, total: int | None = None, quiet: bool = False) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._fields: dict[str, str | int | float] = {}
        self._start = time.monotonic()
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self.quiet = quiet
        self._quiet = quiet or sys.stderr is None or not _progress
        self._next = self._start if self._terminal else self._start + PLAIN_INTERVAL
        self._said = False
        self._over = threading.Event()

    def __enter__(self) -> Progress:
        global _live, _current
        _current = self
        if not self._quiet:
            if self._terminal:
                _live = self
            threading.Thread(target=self._tick, name="medsss-progress", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        global _live, _current
        self._over.set()
        _current = None
        with _lock:
            if _live is self:
                _live = None
                _write("\r\x1b[K" + self.line() + "\n")
            elif self._said and not self._quiet:
                _write(self.line() + "\n")

    def advance(self, n: int = 1) -> None:
        """`n` more are done."""
        self._done += n
        self._show()

    def set(self, **fields: str | int | float) -> None:
        """Numbers to show beside the count; a name given again is replaced."""
        self._fields.update(fields)
        self._show()

    def line(self) -> str:
        """The text that is shown now. On a terminal what does not fit is left out, the last fields first: half a number
        would be a wrong one."""
        of = f"/{self._total}" if self._total is not None else ""
        seconds = time.monotonic() - self._start
        room = _columns() - 1 if self._terminal else None
        if _doing is not None:
            return printable(f"{_doing} | {clock(seconds)}").replace("\n", " ")[:room]
        text = printable(f"{self._label} {self._done}{of} | {clock(seconds)}")
        if self._total is not None and 0 < self._done < self._total:
            text += f", left {clock(seconds / self._done * (self._total - self._done))}"
        for name, value in list(self._fields.items()):
            shown = f"{value:.3g}" if isinstance(value, float) else str(value)
            longer = f"{text} | {name.replace('_', ' ')} {printable(shown)}"
            if room is not None and len(longer) > room:
                break
            text = longer
        return text.replace("\n", " ")[:room]

    def _tick(self) -> None:
        while not self._over.wait(_TICK if self._terminal else max(self._next - time.monotonic(), _TICK)):
            self._show()

    def _show(self) -> None:
        if self._quiet or time.monotonic() < self._next:
            return
        with _lock:
            now = time.monotonic()
            if now < self._next or self._over.is_set():
                return
            if self._terminal:
                self._next = now + _LIVE_INTERVAL
                if _live is self:
                    _write("\r\x1b[K" + self.line())
            else:
                self._next = now + PLAIN_INTERVAL
                self._said = True
                _write(self.line() + "\n")


def _columns() -> int:
    """The width of the terminal on stderr now. Not `shutil`'s: it asks stdout, and believes a COLUMNS that is stale."""
    try:
        return max(os.get_terminal_size(sys.stderr.fileno()).columns or 80, 20)
    except (OSError, ValueError):
        return 80
