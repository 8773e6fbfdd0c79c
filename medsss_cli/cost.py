"""What a run costs. The state beside an output and a model's card record it, `evaluation/provenance.py` adds it up."""

from __future__ import annotations

import os
import sys
import time


class Meter:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), sum(os.times()[:4])

    def spent(self) -> dict[str, float]:
        """`seconds` of wall time, `cpu_seconds` of this process and of its children that have ended, and how many
        `gpus` it can see, where it has loaded torch; a server's are not known."""
        torch = sys.modules.get("torch")
        return {
            "seconds": time.monotonic() - self._wall,
            "cpu_seconds": sum(os.times()[:4]) - self._cpu,
            "gpus": 0 if torch is None else torch.cuda.device_count(),
        }
