"""The line of progress: what a person who waits for a day reads from it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import time

import pytest

from medsss_cli import console
from medsss_cli.console import Progress, clock


def test_the_line_tells_the_time_that_is_left_at_the_rate_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Progress("trees", total=8) as progress:
        assert progress.line() == "trees 0/8 | 0:00:00"
        now = 3600.0
        progress.advance(2)
        progress.set(in_flight=4)
        assert progress.line() == "trees 2/8 | 1:00:00, left 3:00:00 | in flight 4"
        progress.advance(6)
        assert progress.line() == "trees 8/8 | 1:00:00 | in flight 4"


def test_without_a_total_the_line_promises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Progress("trees") as progress:
        progress.advance()
        assert progress.line() == "trees 1 | 0:00:00"


def test_clocks_are_hours_minutes_and_seconds() -> None:
    assert [clock(seconds) for seconds in (0.9, 61, 3599.99, 90061)] == ["0:00:00", "0:01:01", "0:59:59", "25:01:01"]


def test_a_log_file_gets_plain_lines_though_nothing_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search whose trees take an hour each must still show that it lives: here 0.2 s stand for the minute."""
    assert console.PLAIN_INTERVAL == 60
    monkeypatch.setattr(console, "PLAIN_INTERVAL", 0.2)
    monkeypatch.setattr(console, "_TICK", 0.02)
    with Progress("trees", total=8) as progress:
        progress.set(in_flight=4)
        time.sleep(0.9)
    said = capsys.readouterr().err
    assert said.isascii()
    assert all(line.isprintable() for line in said.splitlines())
    assert 3 <= said.count("trees 0/8 | 0:00:00 | in flight 4\n") <= 6
    assert re.fullmatch(r"(trees 0/8 \| 0:00:0\d \| in flight 4\n)+", said)
    time.sleep(0.5)
    assert capsys.readouterr().err == ""


def test_no_log_line_from_a_run_of_less_than_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("trees") as progress:
        progress.advance(5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("columns", [80, 44])
def test_the_line_fits_the_terminal_and_shows_no_half_numbers(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """A line that wraps cannot be drawn over, and fills the screen; "nodes 3" in the place of 340 misleads. The width
    is the terminal's, not that of a COLUMNS which was right before the window was made smaller."""
    monkeypatch.setenv("COLUMNS", "200")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(console.sys, "stderr", terminal)
        with Progress("trees", total=8000) as progress:
            progress.advance(12)
            progress.set(in_flight=64, solved=7, tok_per_s=1234, nodes=340, rollouts=1023)
            progress.set(nodes=341)
            console.note("a note")
            shown = os.read(master, 1 << 16).decode()
        shown += os.read(master, 1 << 16).decode()
    os.close(master)
    drawn = [line for line in re.split(r"[\r\n]+(?:\x1b\[K)?", shown) if line]
    assert "medsss: a note" in drawn
    assert all(len(line) < columns for line in drawn)
    fields = " | in flight 64 | solved 7" if columns == 80 else ""
    assert re.fullmatch(r"trees 12/8000 \| 0:00:0\d, left \d+:\d\d:\d\d" + re.escape(fields), drawn[-1])
