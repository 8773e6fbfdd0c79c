"""The line of progress: what a person who waits for a day reads from it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import time

import pytest

from medsss_cli import console
from medsss_cli.console import Progress, clock


def test_the_line_tells_the_time_that_is_left_at_the_rate_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a model takes minutes, and is no part of the rate."""
    assert [clock(seconds) for seconds in (0.9, 61, 3599.99, 90061)] == ["0:00:00", "0:01:01", "0:59:59", "25:01:01"]
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Progress("trees", total=8) as progress:
        assert progress.line() == "trees 0/8 | 0:00:00"
        with console.doing("loading P0"):
            now = 600.0
            assert progress.line() == "loading P0 | 0:10:00"
        now = 4200.0
        progress.advance(2)
        progress.set(in_flight=4, tok_per_s=1234.5)
        assert progress.line() == "trees 2/8 | 1:00:00, left 3:00:00 | in flight 4 | tok per s 1.23e+03"
        progress.advance(6)
        progress.set(tok_per_s=7)
        assert progress.line() == "trees 8/8 | 1:00:00 | in flight 4 | tok per s 7"
        assert progress.seconds == 3600
        progress.advance()  # the share of a shard is an estimate: "106/102" stood here
        assert progress.line() == "trees 9 | 1:00:00 | in flight 4 | tok per s 7"


def test_a_log_file_gets_plain_lines_though_nothing_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search whose trees take an hour each must still show that it lives: here 0.05 s stand for the minute."""
    assert console.PLAIN_INTERVAL == 60
    monkeypatch.setattr(console, "PLAIN_INTERVAL", 0.05)
    said = ""
    with Progress("trees", total=8) as progress:
        progress.set(in_flight=4)
        while said.count("\n") < 3:
            time.sleep(0.01)
            said += capsys.readouterr().err
    said += capsys.readouterr().err
    assert re.fullmatch(r"(trees 0/8 \| \d+:\d\d:\d\d \| in flight 4\n){3,}", said)


def test_a_terminal_gets_one_line_that_is_drawn_again_and_notes_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "44")
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(console.sys, "stderr", terminal)
        with Progress("trees", total=8000) as progress:
            progress.advance(12)
            progress.set(in_flight=64, solved=7, tok_per_s=1234, nodes=340, rollouts=1023)
            console.note("a note")
    shown = ""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while data := os.read(master, 4096):
            shown += data.decode()
    os.close(master)
    drawn = [line for line in re.split(r"[\r\n]+|\x1b\[[?\d]*[A-Za-z]", shown) if line]
    assert "medsss: a note" in drawn
    assert all(len(line) <= 44 for line in drawn)
    assert re.match(r"trees 12/8000 \| \d+:\d\d:\d\d, left", drawn[-1])
