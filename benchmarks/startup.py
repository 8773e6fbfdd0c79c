"""How long the program takes to say its help, against Python that does nothing: `python benchmarks/startup.py`.

The runs are paired: in each round every command runs once, in an order drawn by chance, so that a busy machine slows
all of them alike. Medians over the rounds, of the times, of their differences to bare Python in the same round and of
the ratios. A first round warms the caches and is not counted.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "medsss --help": ["medsss", "--help"],
    "medsss label --help": ["medsss", "label", "--help"],
    "medsss eval --help": ["medsss", "eval", "--help"],
    "medsss search --help": ["medsss", "search", "--help"],
}
AIMS = {"medsss --help": 150, "medsss label --help": 250}


def milliseconds(command: list[str]) -> float:
    """Wall time of one run."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env={**os.environ, "PATH": path})
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description="Start-up times, in pairs with bare Python.")
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name in random.sample(list(COMMANDS), len(COMMANDS)):
            taken = milliseconds(COMMANDS[name])
            if number:
                times[name].append(taken)
    bare = times["python -c pass"]
    print(f"median of {rounds} rounds      time   over bare   ratio")
    for name, taken in times.items():
        more = statistics.median(a - b for a, b in zip(taken, bare, strict=True))
        ratio = statistics.median(a / b for a, b in zip(taken, bare, strict=True))
        aim = f"   aim {AIMS[name]} ms" if name in AIMS else ""
        print(f"{name:22} {statistics.median(taken):6.0f} ms {more:8.0f} ms {ratio:7.1f}{aim}")


if __name__ == "__main__":
    main()
