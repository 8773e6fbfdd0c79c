"""What a run costs: wall time, processor time, GPUs. The state beside an output and a model's card record it, and
`evaluation/provenance.py` adds it up."""

from __future__ import annotations

import os
import sys
import time


class Meter:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), _processor()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._wall

    @property
    def cpu_seconds(self) -> float:
        """Processor time of this process, and of its children that have ended."""
        return _processor() - self._cpu


def _processor() -> float:
    return sum(os.times()[:4])


def gpus() -> int:
    """How many GPUs this process can see, where it has loaded torch; a server's are not known."""
    torch = sys.modules.get("torch")
    return torch.cuda.device_count() if torch is not None else 0
