"""benchmarks/kill.py at a small size: `label`, `sample` and `search` are killed amid their work and lose nothing."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import kill


@pytest.mark.parametrize("command", ["label", "sample", "search"])
def test_killed_again_and_again_the_records_are_those_of_an_undisturbed_run(tmp_path: Path, command: str) -> None:
    """Who is pre-empted on a shared node must find every question once, with the result that the seed gives. Where the
    kills fall is chance, and no matter."""
    [job] = kill.jobs(tmp_path, 0.3, {command})
    tally = kill.kill(job, tmp_path, 3, random.Random(command))
    assert tally.faults == []
    assert (tally.lost, tally.twice, tally.broken) == (0, 0, 0)
    assert tally.records >= job.size
