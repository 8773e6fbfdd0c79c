"""What a report stands on: the inputs with their hashes, the runs that wrote them, the versions in use."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import UsageError
from ..models import CARD, read_json
from ..stream.resume import State, read_state

MODELS = ("policy", "adapter", "prm")
"""Settings of a run that may name the folder of a training."""


def sha256(path: str) -> str | None:
    """Of a plain file; None for stdin and pipes, which can be read only once."""
    try:
        if path == "-" or not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def wrote(path: str) -> dict[str, Any]:
    """What is known of the run that wrote a file: command, version, settings, and the seconds that it took; nothing
    where nothing is known."""
    state = _state(path)
    if state is None:
        return {}
    run = {"command": state.command, "version": state.version, "config": state.config}
    return run | ({"seconds": state.seconds} if state.seconds else {})


def _state(path: str) -> State | None:
    try:
        return read_state(path)
    except UsageError:  # a file of that name that is not ours
        return None


def cost_behind(paths: Iterable[str]) -> dict[str, Any]:
    """What it took to make these files, as far as files tell: the runs that wrote them, those that wrote their inputs,
    and the trainings of the models in use, each once. `whole` is False where something came by a pipe, or from a run
    of an earlier version."""
    total = {"runs": 0, "tokens": 0, "seconds": 0.0, "cpu_hours": 0.0, "gpu_hours": 0.0}
    whole, seen, left = True, set(), list(paths)
    while left:
        path = left.pop()
        if os.path.realpath(path) in seen:
            continue
        seen.add(os.path.realpath(path))
        state, card = _state(path), read_json(Path(path) / CARD)
        if state is not None:
            inputs, tokens, models = state.inputs, state.tokens, [state.config.get(key) for key in MODELS]
            seconds, cpu_seconds, gpus = state.seconds, state.cpu_seconds, state.gpus
        elif card is not None:
            options, spent = card.get("options", {}), card.get("cost", {})
            inputs, tokens, models = options.get("inputs", []), 0, [options.get("policy")]
            seconds, cpu_seconds, gpus = (spent.get(key, 0) for key in ("seconds", "cpu_seconds", "gpus"))
        else:
            whole = whole and path != "-"  # a file that nobody searched or trained for: problems, say
            continue
        whole = whole and bool(inputs and cpu_seconds)
        left += [*inputs, *(model for model in models if model)]
        total["runs"] += 1
        total["tokens"] += tokens
        total["seconds"] += seconds
        total["cpu_hours"] += cpu_seconds / 3600
        total["gpu_hours"] += gpus * seconds / 3600
    return {name: round(value, 4) for name, value in total.items()} | {"whole": whole}


def versions() -> dict[str, str]:
    """Of all that numbers depend on."""
    return {"medsss": __version__, "python": ".".join(map(str, sys.version_info[:3])), "numpy": np.__version__}
