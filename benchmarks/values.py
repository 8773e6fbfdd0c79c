"""What each kind of step value knows of a step, and what it costs: `python benchmarks/values.py OUT`.

For each number of rollouts: trees of three times 150 clinic problems (30 nodes, at most one Reflect), and of the steps
on their trajectories, those from a Reflect on left out, the AUROC of the step's value against the clinic's checker,
and the share of the dual labels that agree with it. Writes problems and trees into OUT (some 40 minutes of one core;
what is there is not done again) and prints a table for docs/internals/benchmarks.md. `--search` adds options to the
searches, `--name` the file's name that they go to.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean

from scipy.stats import rankdata

from medsss_cli.clinic.checker import gold_labels
from medsss_cli.labelling.labels import step_labels
from medsss_cli.labelling.trajectories import trajectories
from medsss_cli.labelling.values import StepValues, pooled_counts, values_on
from medsss_cli.problems import to_tree
from medsss_cli.records import Action, Tree
from medsss_cli.stream.jsonl import read_objects

BUDGETS = ("20,5", "10,3", "6,2", "3,1")
SEEDS = (10, 11, 12)


def medsss(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "medsss_cli.app", *map(str, arguments), "-q"], check=True)


def search(out: Path, count: int, budget: str, options: Sequence[str], name: str) -> list[Tree]:
    """The trees of all seeds."""
    problems = [out / f"problems-{seed}.jsonl" for seed in SEEDS]
    for seed, path in zip(SEEDS, problems, strict=True):
        if not path.exists():
            medsss("clinic", "-n", str(count), "--seed", str(seed), "-o", path)
    rollouts, least = budget.split(",")
    found = out / f"trees-{rollouts}-{least}{name}.jsonl"
    numbers = ("--max-nodes", "30", "--rollouts", rollouts, "--min-rollouts", least, *options)
    medsss("search", *problems, "--engine", "hf", *numbers, "-o", found)
    return [to_tree(obj, where) for where, obj in read_objects([str(found)], on_bad=lambda *_: None)]


def smoothed(tree: Tree, path: Sequence[int]) -> list[float]:
    """As least-pooled, but of (k + .25) / (n + .5): none right of many is less than none right of few."""
    counts = pooled_counts(tree)
    shares = [(right + 0.25) / (tries + 0.5) if tries > 1 else float(right) for right, tries in counts]
    return [0.0, *accumulate((shares[index] for index in path[1:]), min)]


VALUES: dict[str, Callable[[Tree, Sequence[int]], list[float]]] = {
    how: lambda tree, path, how=how: values_on(tree, path, how)  # type: ignore[misc]
    for how in StepValues
} | {"least-pooled, smoothed": smoothed}


def measure(grown: Sequence[Tree], values: Callable[[Tree, Sequence[int]], list[float]]) -> tuple[float, float]:
    """The chance that a right step has a larger value than a wrong one, ties half; and the share of the dual labels
    that agree with the checker."""
    truths, found, labels = [], [], []
    for tree in grown:
        seen: set[int] = set()
        for each in trajectories(tree):
            gold = gold_labels(tree, [tree.nodes[index].text for index in each.nodes])
            own = values(tree, each.nodes)
            for index, *row in list(zip(each.nodes, gold, own, step_labels(own), strict=True))[1:]:
                if tree.nodes[tree.nodes[index].parent].action is Action.FINISH:
                    break  # from a Reflect on
                if index not in seen:
                    seen.add(index)
                    for column, value in zip((truths, found, labels), row, strict=True):
                        column.append(value)
    right = truths.count(1)
    above = sum(rank for rank, truth in zip(rankdata(found), truths, strict=True) if truth) - right * (right + 1) / 2
    agree = fmean(label == truth for label, truth in zip(labels, truths, strict=True))
    return float(above / (right * (len(truths) - right))), agree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--problems", type=int, default=150)
    parser.add_argument("--rollouts", nargs="+", default=BUDGETS, metavar="N,N")
    parser.add_argument("--search", nargs="+", default=[], metavar="OPTION")
    parser.add_argument("--name", default="")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print("| rollouts | tokens | " + " | ".join(VALUES) + " |\n" + "|---" * (2 + len(VALUES)) + "|")
    for budget in given.rollouts:
        grown = search(given.out, given.problems, budget, given.search, given.name)
        by_seed = [[tree for tree in grown if tree.id.startswith(f"clinic-seed-{seed}-")] for seed in SEEDS]
        tokens = sum(tree.stats["tokens"] for tree in grown) / len(SEEDS)
        cells = []
        for values in VALUES.values():
            measured = [measure(trees, values) for trees in by_seed]
            each = ", ".join(f"{area:.3f}"[1:] for area, _ in measured)
            cells.append(f"{fmean(m[0] for m in measured):.3f} ({each}); {100 * fmean(m[1] for m in measured):.1f}")
        print(f"| {budget.replace(',', ', ')} | {tokens / 1000:.0f} k | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
