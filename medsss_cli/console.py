"""Messages for people, on stderr: notes, warnings and a line of progress. Records go elsewhere (`stream/outputs.py`).

On a terminal rich redraws the line of progress in place; anywhere else it is a plain line a minute, with no control
characters, so that a log file stays readable.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_INTERVAL = 60.0
"""Seconds between two progress lines where stderr is no terminal."""

_current: Progress | None = None


def note(msg: str) -> None:
    """One line for whoever watches."""
    say(f"medsss: {msg}")


def warn(msg: str) -> None:
    """One line about something that went wrong while the run goes on."""
    say(f"medsss: warning: {msg}")


def say(msg: str) -> None:
    """One line as it is, with nothing put before it: `file:line: what`."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody listens: not a reason to end the work
        sys.stderr.write(printable(msg) + "\n")
        sys.stderr.flush()


def is_quiet() -> bool:
    """Whether the run that is under way shows no progress and no notes (-q)."""
    return _current is not None and _current.quiet


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """For as long as this lasts the line of progress says `what` ("loading MODEL") in place of a count. The clock of
    what comes after it begins anew: minutes of loading are no part of a rate."""
    progress = _current or Progress(what)
    progress.what = what
    try:
        yield
    finally:
        progress.what = None
        progress.start()


def printable(text: str) -> str:
    """`text` without control characters other than line feeds: an id may hold the escape codes of a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class Progress:
    """How far a run is: `advance` counts records, `set` shows further numbers ("trees 12 | nodes 340").

    `total` may be unknown (None), or an estimate, which is no longer shown once it is passed; with it the line tells
    the time that is left at the rate so far. `quiet` shows nothing. The clock starts on entering, and anew with
    `start`; `what` stands in place of the count. All methods may be called from any thread.
    """

    def __init__(self, label: str, total: int | None = None, quiet: bool = False) -> None:
        self._label, self._total, self.quiet = label, total, quiet
        self.what: str | None = None
        self._done = 0
        self._fields: dict[str, str | int | float] = {}
        self._start = time.monotonic()
        self._live: Live | None = None
        self._said = False
        self._over = threading.Event()

    def __enter__(self) -> Progress:
        global _current
        _current = self
        self.start()
        if self.quiet or sys.stderr is None:
            return self
        if sys.stderr.isatty():
            from rich.console import Console  # a tenth of a second
            from rich.live import Live
            from rich.text import Text

            def shown() -> Text:
                return Text(self.line(), no_wrap=True, overflow="ellipsis")

            console = Console(stderr=True)
            self._live = Live(get_renderable=shown, console=console, refresh_per_second=4, redirect_stdout=False)
            self._live.start()
        else:
            threading.Thread(target=self._say_now_and_then, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        global _current
        _current = None
        self._over.set()
        if self._live is not None:
            self._live.stop()
        elif self._said:
            say(self.line())

    def start(self) -> None:
        """Work begins now, if none is done yet: what was waited for before is no part of any rate."""
        if not self._done:
            self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start; never 0, so that one can divide by it."""
        return max(time.monotonic() - self._start, 1e-9)

    def advance(self, n: int = 1) -> None:
        """`n` more are done."""
        self._done += n

    def set(self, **fields: str | int | float) -> None:
        """Numbers to show beside the count; a name given again is replaced."""
        self._fields = self._fields | fields

    def line(self) -> str:
        """The text that is shown now."""
        total = self._total if self._total is not None and self._done <= self._total else None
        count = f"{self._label} {self._done}" + ("" if total is None else f"/{total}")
        text = f"{self.what or count} | {clock(self.seconds)}"
        if self.what is None:
            if total is not None and 0 < self._done < total:
                text += f", left {clock(self.seconds / self._done * (total - self._done))}"
            for name, value in self._fields.items():
                text += f" | {name.replace('_', ' ')} " + (f"{value:.3g}" if isinstance(value, float) else str(value))
        return printable(text.replace("\n", " "))

    def _say_now_and_then(self) -> None:
        while not self._over.wait(PLAIN_INTERVAL):
            self._said = True
            say(self.line())
