"""Ctrl-C and SIGTERM: the first asks the program to end, the second ends it at once.

The first comes out as KeyboardInterrupt, or as the cancelling of what asyncio runs; `stream/run.py` then writes what is
complete. Whoever unwinds calls `next_is_final`, and from there on a signal leaves the process as it stands, which
loses nothing that was written (stream/resume.py, rules 1 to 3). Exit status 130 for SIGINT, 143 for SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType

_terminated = False


def take_over() -> None:
    """Let SIGTERM end the program the way Ctrl-C does. Called once, by the program and never by a library."""
    signal.signal(signal.SIGTERM, _terminate)


def next_is_final() -> None:
    """From now on SIGINT and SIGTERM leave at once, whatever the program waits for. Does nothing in a process that is
    not ours (`take_over`), or in another thread than the main one."""
    if signal.getsignal(signal.SIGTERM) is _terminate and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _leave)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, _leave)


def terminated() -> bool:
    """Whether it was SIGTERM that asked."""
    return _terminated


def _terminate(signum: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run the way Ctrl-C does, asyncio's own handling included. A shell script starts its background
    jobs with SIGINT ignored; they must end all the same."""
    global _terminated
    _terminated = True
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def _leave(signum: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"\nmedsss: stopped at once\n")
    os._exit(143 if signum == signal.SIGTERM or _terminated else 130)
