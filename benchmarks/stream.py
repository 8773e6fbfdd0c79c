"""`medsss label` over many small trees: memory and rate. `python benchmarks/stream.py`; with `--eval 1000000`, `medsss
eval` over so many scored records in its place: time, memory, and what reading them costs alone.

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
from typing import Any, NamedTuple

BARE = """
import sys, orjson
with open(sys.argv[1], "rb") as trees, open(sys.argv[2], "wb") as out:
    for line in trees:
        out.write(orjson.dumps(orjson.loads(line), option=orjson.OPT_APPEND_NEWLINE))
"""


class Cost(NamedTuple):
    """Wall and CPU seconds and peak resident memory (MB) of a process."""

    seconds: float
    megabytes: float
    cpu: float = 0.0


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
    return Cost(seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def make_trees(path: Path, count: int) -> None:
    """Trees of eight nodes: two first steps, two finishes each, of which one is right; one finish is reflected on."""
    from medsss_cli.records import Action, Node, Task, Tree, Verdict
    from medsss_cli.stream.outputs import open_whole

    def node(parent: int, depth: int, action: Action, text: str, value: float, verdict: Verdict | None = None) -> Node:
        return Node(
            parent=parent, depth=depth, action=action, text=text, value=value, visits=3, verdict=verdict,
            rollouts=1 if verdict else 6, rollout_value=value, answer=verdict and ("B" if value else "A"),
        )  # fmt: skip

    wrong, right = Verdict.WRONG, Verdict.CORRECT
    with open_whole(str(path), restart=True) as writer:
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


def make_scored(path: Path, count: int, n: int = 16) -> None:
    """Scored records of four options with `n` candidates of 3 to 5 step scores each; problems of every difficulty, one
    answer in twenty unreadable. About 5 kB a record."""
    import random

    import orjson

    rng = random.Random(0)
    steps = "Step 0: Let's break down this problem step by step.\n\nStep 1: AG = Na - Cl - HCO3.\n\n"
    options = {"A": "normal", "B": "high", "C": "low", "D": "cannot be told"}

    def candidate(ease: float) -> dict[str, Any]:
        answer = None if rng.random() < 0.05 else "B" if rng.random() < ease else rng.choice("ACD")
        scores = [round(rng.random(), 6) for _ in range(rng.randint(3, 5))]
        return {
            "text": f"{steps}Step 2: 140 - 104 - 24 = 12. " + (f"The answer is {answer}." if answer else "So it is."),
            "answer": answer,
            "verdict": "no_answer" if answer is None else "correct" if answer == "B" else "wrong",
            "finish_reason": "eos",
            "tokens": rng.randint(40, 90),
            "step_scores": scores,
            "score": min(scores),
        }

    with open(path, "wb") as file:
        for number in range(count):
            ease = rng.random()
            candidates = [candidate(ease) for _ in range(n)]
            record = {
                "id": f"problem-{number}",
                "question": f"Sodium 140, chloride {95 + number % 13}, bicarbonate 24 mmol/L. The anion gap is?",
                "answer": "B",
                "options": options,
                "dataset": f"bench-{number % 5}",
                "task": "choice",
                "meta": {"clinic": {"kind": f"kind-{number % 7}"}},
                "candidates": candidates,
                "selected": max(range(n), key=lambda i: candidates[i]["score"]),
                "strategy": "min-max",
            }
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def bench_eval(count: int) -> None:
    """Over a tenth and over all of the records."""
    with tempfile.TemporaryDirectory(prefix="medsss-bench-") as folder:
        small, large = Path(folder, "small.jsonl"), Path(folder, "large.jsonl")
        for path, size in ((small, count // 10), (large, count)):
            code = f"import stream, pathlib; stream.make_scored(pathlib.Path({str(path)!r}), {size})"
            subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
        print(f"{count} scored records of 16 candidates, {large.stat().st_size / 1e6:.0f} MB")
        command = [sys.executable, "-m", "medsss_cli.app", "eval", "--quiet", "-o", os.devnull, "--by", "clinic.kind"]
        few, many = run([*command, str(small)]), run([*command, str(large)])
        read = run([sys.executable, "-c", BARE, str(large), os.devnull])
        print(f"eval         {many.seconds:.0f} s wall, {many.cpu:.0f} s of CPU, {count / many.seconds:.0f} records/s")
        each = (many.cpu - few.cpu) / (count - count // 10)
        print(f"a record     {1e6 * each:.0f} us of CPU; a million {1e6 * each / 60:.1f} minutes")
        print(f"peak memory  {few.megabytes:.0f} MB over {count // 10} records, {many.megabytes:.0f} MB over {count}")
        print(f"orjson alone {read.cpu:.0f} s of CPU, reading and writing")


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and rate of `medsss label` or `eval` over many records.")
    parser.add_argument("--eval", type=int, metavar="N", help="`medsss eval` over N scored records")
    parser.add_argument("--trees", type=int, default=200_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--to", default="prm", choices=["sft", "preference", "prm"])
    options = parser.parse_args()
    if options.eval:
        bench_eval(options.eval)
        return
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
