"""How long the program takes to say its help, against Python that does nothing: `python benchmarks/startup.py`.

The runs are paired: in each round every command runs once, in an order drawn by chance, so that a busy machine slows
all of them alike. Medians over the rounds, of the times, of their differences to bare Python in the same round and of
the ratios. A first round warms the caches and is not counted. On a machine that others use as well, read the CPU time.
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
from typing import NamedTuple

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "medsss --help": ["medsss", "--help"],
    "medsss label --help": ["medsss", "label", "--help"],
    "medsss eval --help": ["medsss", "eval", "--help"],
    "medsss search --help": ["medsss", "search", "--help"],
}
AIMS = {"medsss --help": 150, "medsss label --help": 250}


class Spent(NamedTuple):
    """Milliseconds of one run: wall clock, and CPU of the process."""

    wall: float
    cpu: float


def milliseconds(command: list[str]) -> Spent:
    """Run it once; a failure ends the benchmark."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "PATH": path})
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)}: exit status {child.returncode}")
    return Spent(1000 * wall, 1000 * (usage.ru_utime + usage.ru_stime))


def main() -> None:
    parser = argparse.ArgumentParser(description="Start-up times, in pairs with bare Python.")
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    times: dict[str, list[Spent]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name in random.sample(list(COMMANDS), len(COMMANDS)):
            spent = milliseconds(COMMANDS[name])
            if number:
                times[name].append(spent)
    bare = times["python -c pass"]
    print(f"median of {rounds} rounds      wall      CPU   CPU over bare   ratio")
    for name, taken in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*taken, strict=True))
        more = statistics.median(a.cpu - b.cpu for a, b in zip(taken, bare, strict=True))
        ratio = statistics.median(a.wall / b.wall for a, b in zip(taken, bare, strict=True))
        aim = f"   aim {AIMS[name]} ms" if name in AIMS else ""
        print(f"{name:22} {wall:6.0f} ms {cpu:5.0f} ms {more:12.0f} ms {ratio:7.1f}{aim}")


if __name__ == "__main__":
    main()
