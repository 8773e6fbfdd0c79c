"""What a report stands on: the inputs with their hashes, the runs that wrote them, the versions in use."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .. import __version__
from ..errors import UsageError
from ..stream.resume import read_state
from .intervals import LEVEL
from .measures import DRAWS


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
    try:
        state = read_state(path)
    except UsageError:  # a file of that name that is not ours
        return {}
    if state is None:
        return {}
    run = {"command": state.command, "version": state.version, "config": state.config}
    return run | ({"seconds": state.seconds} if state.seconds else {})


@dataclass(frozen=True)
class Origin:
    """What a report says of where it comes from: the run's name, `inputs`, unreadable lines, and the seed of what is
    drawn."""

    name: str | None
    inputs: Sequence[str]
    bad_lines: int = 0
    seed: int = 0

    @cached_property
    def runs(self) -> list[dict[str, Any]]:
        """What wrote the inputs, where that is known: see `wrote`."""
        return [{"input": path} | found for path in self.inputs if (found := wrote(path))]

    def made_from(self) -> dict[str, Any]:
        """The fields `inputs`, `sha256` and `runs`."""
        return {"inputs": list(self.inputs), "sha256": {i: sha256(i) for i in self.inputs}, "runs": self.runs}

    def settings(self, **more: Any) -> dict[str, Any]:
        """The fields `settings`, `version` and `versions`."""
        settings = {"seed": self.seed, "draws": DRAWS, "level": LEVEL, **more}
        return {"settings": settings, "version": __version__, "versions": versions()}


def versions() -> dict[str, str]:
    """Of all that numbers depend on."""
    return {"medsss": __version__, "python": ".".join(map(str, sys.version_info[:3])), "numpy": np.__version__}
