"""Fixtures that every test may use. The plain functions behind them: `from helpers import run_medsss, write_jsonl`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from documented import Console
from tiny_models import make_tiny_model

# Threads that wait for one another on busy cores cost more than they give, and the tests run two at a time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts background jobs with SIGINT ignored, and what they start inherits that: Ctrl-C could not be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# fmt: off
MODEL = [
    "app", "bon", "clinic_policy", "correct", "docs", "engines", "guided", "hf", "http", "kill",
    "memory", "packaging", "prm_formats", "prm_packing", "recipes", "sample", "scale", "search_command", "train_policy",
    "train_prm", "train_resume", "vllm",
]
# fmt: on
"""Test files that open a model or a server, or build something: `make quick` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem.removeprefix("test_") in MODEL:
            item.add_marker("model")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy of random weights."""
    return make_tiny_model(tmp_path_factory.mktemp("base"), spread=0.1)


@pytest.fixture(scope="session")
def console(tmp_path_factory: pytest.TempPathFactory) -> Console:
    return Console(tmp_path_factory.mktemp("console") / "bin")
