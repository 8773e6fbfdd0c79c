"""What a report stands on: the inputs with their hashes, the runs that wrote them, the versions in use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .. import __version__
from ..errors import UsageError
from ..stream.resume import read_state
from .measures import LEVEL


class Hashes:
    """sha256 of each input that is a plain file, worked out in a thread while the file is read for its records; None
    for stdin and pipes, which can be read only once."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self._found: dict[str, str | None] = dict.fromkeys(inputs)
        self._stop = False
        self._thread = threading.Thread(target=self._work, name="medsss-sha256", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        for path in self._found:
            try:
                if path == "-" or not stat.S_ISREG(os.stat(path).st_mode):
                    continue
                hasher = hashlib.sha256()
                with open(path, "rb") as file:
                    while not self._stop and (block := file.read(1 << 20)):
                        hasher.update(block)
                self._found[path] = None if self._stop else hasher.hexdigest()
            except OSError:
                continue

    def found(self) -> dict[str, str | None]:
        """Path -> sha256, once all are done."""
        self._thread.join()
        return dict(self._found)

    def stop(self) -> None:
        """Let it go: nobody will ask."""
        self._stop = True


def sidecars(inputs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the commands that wrote the input files left beside them (stream/resume.py): command, version, settings, and
    the seconds that the run took."""
    for path in inputs:
        with contextlib.suppress(UsageError):
            if (state := read_state(path)) is not None:
                run = {"command": state.command, "version": state.version, "config": state.config}
                yield {"input": path} | run | ({"seconds": state.seconds} if state.seconds else {})


@dataclass(frozen=True)
class Origin:
    """What a report says of where it comes from: the run's name, `inputs` (`hashes` by path), unreadable lines, and the
    seed and number of resamples of its intervals."""

    name: str | None
    inputs: Sequence[str]
    hashes: dict[str, str | None]
    bad_lines: int
    seed: int
    resamples: int

    @cached_property
    def runs(self) -> list[dict[str, Any]]:
        """What wrote the inputs: see `sidecars`."""
        return list(sidecars(self.inputs))

    def made_from(self) -> dict[str, Any]:
        return {"inputs": list(self.inputs), "sha256": self.hashes, "runs": self.runs}

    def settings(self, **more: Any) -> dict[str, Any]:
        """The fields `settings`, `version` and `versions`."""
        settings = {"seed": self.seed, "resamples": self.resamples, "level": LEVEL, **more}
        return {"settings": settings, "version": __version__, "versions": versions()}


def versions() -> dict[str, str]:
    """Of all that numbers depend on."""
    import numpy as np

    return {"medsss": __version__, "python": ".".join(map(str, sys.version_info[:3])), "numpy": np.__version__}
