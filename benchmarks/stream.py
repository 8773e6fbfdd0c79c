"""`medsss label` over many small trees: memory and rate. `python benchmarks/stream.py`

Memory: the peak of the process over 20,000 and over 200,000 trees; constant means that the second is no larger but for
the digests of the ids. Rate: trees a second, as a share of what a bare loop with orjson needs to parse the same file
and write the same bytes back. The two run in turn, a few times, and the share is the median over the pairs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

BARE = """
import sys, orjson
with open(sys.argv[1], "rb") as trees, open(sys.argv[2], "wb") as out:
    for line in trees:
        out.write(orjson.dumps(orjson.loads(line), option=orjson.OPT_APPEND_NEWLINE))
"""


class Cost(NamedTuple):
    """Wall seconds and peak resident memory (MB) of a process."""

    seconds: float
    megabytes: float


def run(command: list[str]) -> Cost:
    """Run it to its end; a failure ends the benchmark."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert child.stderr is not None
    said = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)}: exit status {child.returncode}\n{said}")
    return Cost(seconds, usage.ru_maxrss / 1024)


def make_trees(path: Path, count: int) -> None:
    """Trees of eight nodes: two first steps, two finishes each, of which one is right; one finish is reflected on."""
    from medsss_cli.jsonl import LineWriter
    from medsss_cli.records import Action, Node, Task, Tree, Verdict

    def node(parent: int, depth: int, action: Action, text: str, value: float, verdict: Verdict | None = None) -> Node:
        return Node(
            parent=parent, depth=depth, action=action, text=text, value=value, visits=3, verdict=verdict,
            rollouts=1 if verdict else 6, rollout_value=value, answer=verdict and ("B" if value else "A"),
        )  # fmt: skip

    wrong, right = Verdict.WRONG, Verdict.CORRECT
    with LineWriter(str(path)) as writer:
        for number in range(count):
            sodium, chloride = 130 + number % 20, 95 + number % 13
            step = f"the anion gap is {sodium} - {chloride} - 24 = {sodium - chloride - 24} mmol/L"
            nodes = [
                node(-1, 0, Action.ROOT, "Let's break down this problem step by step.", 0.5),
                node(0, 1, Action.REASON, f"With sodium {sodium}, {step}.", 0.7),
                node(0, 1, Action.REASON, f"The gap leaves chloride out: {sodium} - 24.", 0.2),
                node(1, 2, Action.FINISH, "A gap above 12 is high. The answer is B.", 1.0, right),
                node(1, 2, Action.FINISH, "This is within the normal range. The answer is A.", 0.0, wrong),
                node(2, 2, Action.FINISH, "That is far too high. The answer is B.", 1.0, right),
                node(2, 2, Action.FINISH, "That is normal. The answer is A.", 0.0, wrong),
                node(6, 3, Action.REFLECT, "But wait, chloride belongs to it. The answer is B.", 1.0, right),
            ]
            writer.write(
                [
                    Tree(
                        id=f"tree-{number}",
                        question=f"Sodium {sodium}, chloride {chloride}, bicarbonate 24 mmol/L. The anion gap is?",
                        options={"A": "normal", "B": "high"}, answer="B", dataset="bench", task=Task.CHOICE,
                        nodes=nodes, stats={"nodes": 8, "rollouts": 40}, config={"max_nodes": 60, "seed": 0},
                    )
                ]
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and rate of `medsss label` over many small trees.")
    parser.add_argument("--trees", type=int, default=200_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--to", default="prm", choices=["sft", "preference", "prm"])
    options = parser.parse_args()
    label = [sys.executable, "-m", "medsss_cli.app", "label", "--to", options.to, "--quiet"]
    with tempfile.TemporaryDirectory(prefix="medsss-bench-") as folder:
        small, large, out = (Path(folder, name) for name in ("small.jsonl", "large.jsonl", "out.jsonl"))
        for path, count in ((small, options.trees // 10), (large, options.trees)):
            # In a process of its own: a child's peak memory starts from that of its parent.
            code = f"import stream, pathlib; stream.make_trees(pathlib.Path({str(path)!r}), {count})"
            subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
        print(f"{options.trees} trees, {large.stat().st_size / 1e6:.0f} MB")
        few = run([*label, str(small), "-o", str(out), "--restart"])
        shares, rates, peaks = [], [], []
        for _ in range(options.pairs):
            ours = run([*label, str(large), "-o", str(out), "--restart"])
            wrote = out.stat().st_size
            bare = run([sys.executable, "-c", BARE, str(large), str(out) + ".bare"])
            shares.append(bare.seconds / ours.seconds)
            rates.append(options.trees / ours.seconds)
            peaks.append(ours.megabytes)
        print(f"label --to {options.to} wrote {wrote / 1e6:.0f} MB, {statistics.median(rates):.0f} trees/s")
        print(f"share of orjson alone  {statistics.median(shares):.3f}  (median of {options.pairs} pairs)")
        print(f"peak memory            {few.megabytes:.0f} MB over {options.trees // 10} trees,", end=" ")
        print(f"{max(peaks):.0f} MB over {options.trees} (aim: under 200)")


if __name__ == "__main__":
    main()
