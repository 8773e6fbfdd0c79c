"""Fixtures that every test may use. The plain functions behind them: `from helpers import run_medsss, write_jsonl`."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from helpers import Ran, run_medsss

# Threads that wait for one another on busy cores cost more than they give, and the tests run two at a time.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def medsss() -> Callable[..., Ran]:
    """`medsss(["label", "--to", "prm", path], stdin=...)`: see `run_medsss`."""
    return run_medsss
