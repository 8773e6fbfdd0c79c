"""What each kind of step value knows of a step, and what it costs: `python benchmarks/values.py OUT`.

For each number of rollouts: trees of three times 150 clinic problems (30 nodes, at most one Reflect), and of the steps
on their trajectories, those from a Reflect on left out, the AUROC of the step's value against the clinic's checker,
and the share of the dual labels that agree with it. Writes problems and trees into OUT (some 40 minutes of one core;
what is there is not done again) and prints a table for docs/internals/benchmarks.md.

A second table takes rollouts away from the trees of the first budget: those that a smaller budget has not, or those
that come after a sequential test has decided on which side of one half the node's share lies: it stops when the
posterior chance of the other side, Beta(k + .5, n - k + .5), is at most the stated error.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean

import msgspec
from scipy.stats import beta, rankdata

from medsss_cli.clinic.checker import gold_labels
from medsss_cli.labelling.labels import StepValues, least_on, pooled_counts, smoothed, step_labels, values_on
from medsss_cli.labelling.trajectories import trajectories
from medsss_cli.problems import to_tree
from medsss_cli.records import Action, Tree
from medsss_cli.stream.jsonl import read_objects

BUDGETS = ("20,5", "10,3", "6,2", "3,1")
SEEDS = (10, 11, 12)
ERRORS = (0.1, 0.05, 0.025)


def medsss(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "medsss_cli.app", *map(str, arguments)], check=True)


def search(out: Path, count: int, budget: str) -> list[Tree]:
    """The trees of all seeds."""
    problems = [out / f"problems-{seed}.jsonl" for seed in SEEDS]
    for seed, path in zip(SEEDS, problems, strict=True):
        if not path.exists():
            medsss("clinic", "-n", str(count), "--seed", str(seed), "-o", path)
    rollouts, least = budget.split(",")
    found = out / f"trees-{rollouts}-{least}.jsonl"
    numbers = ("--max-nodes", "30", "--rollouts", rollouts, "--min-rollouts", least, "-q")
    medsss("search", *problems, "--engine", "hf", *numbers, "-o", found)
    return read(found)


def read(path: Path) -> list[Tree]:
    return [to_tree(obj, where) for where, obj in read_objects([str(path)], on_bad=lambda *_: None)]


def least_pooled(tree: Tree, path: Sequence[int]) -> list[float]:
    """Of the shares k / n the least up to a step."""
    return least_on(tree, path, [right / tries if tries else 0.0 for right, tries in pooled_counts(tree)])


def least_smoothed(tree: Tree, path: Sequence[int]) -> list[float]:
    return least_on(tree, path, smoothed(pooled_counts(tree)))


VALUES: dict[str, Callable[[Tree, Sequence[int]], list[float]]] = {
    StepValues.BACKED_UP: lambda tree, path: values_on(tree, [path], StepValues.BACKED_UP)[0],
    StepValues.ROLLOUT: lambda tree, path: values_on(tree, [path], StepValues.ROLLOUT)[0],
    StepValues.POOLED: lambda tree, path: values_on(tree, [path], StepValues.POOLED)[0],
    "least pooled": least_pooled,
    "least smoothed": least_smoothed,
    StepValues.CONTRASTED: lambda tree, path: values_on(tree, [path], StepValues.CONTRASTED)[0],
}
WORTHLESS = {StepValues.CONTRASTED: StepValues.CONTRASTED.worthless, "least smoothed": 0.1}


def measure(grown: Sequence[Tree], kind: str) -> tuple[float, float]:
    """The chance that a right step has a larger value than a wrong one, ties half; and the share of the dual labels
    that agree with the checker."""
    truths: list[int | None] = []
    found: list[float] = []
    labels: list[float | None] = []
    for tree in grown:
        seen: set[int] = set()
        for each in trajectories(tree):
            gold = gold_labels(tree, [tree.nodes[index].text for index in each.nodes])
            own = VALUES[kind](tree, each.nodes)
            made = step_labels(own, worthless=WORTHLESS.get(kind, 0.0))
            for index, truth, value, label in list(zip(each.nodes, gold, own, made, strict=True))[1:]:
                if tree.nodes[tree.nodes[index].parent].action is Action.FINISH:
                    break  # from a Reflect on
                if index not in seen:
                    seen.add(index)
                    truths.append(truth)
                    found.append(value)
                    labels.append(label)
    right = truths.count(1)
    above = sum(rank for rank, truth in zip(rankdata(found), truths, strict=True) if truth) - right * (right + 1) / 2
    agree = fmean(label == truth for label, truth in zip(labels, truths, strict=True))
    return float(above / (right * (len(truths) - right))), agree


@cache
def decided(right: int, tries: int, error: float) -> bool:
    below = beta.cdf(0.5, right + 0.5, tries - right + 0.5)
    return bool(min(below, 1 - below) <= error)


def thinned(tree: Tree, budget: str, error: float, rng: random.Random) -> Tree:
    """The tree with fewer rollouts: those of a smaller budget, and none after the test has decided (error 0: never)."""
    most, least = map(int, budget.split(","))
    nodes = []
    for node in tree.nodes:
        drawn = [True] * round(node.rollouts * (node.rollout_value or 0)) + [False] * node.rollouts
        drawn = drawn[: node.rollouts]
        rng.shuffle(drawn)
        kept = drawn[: max(most // (node.depth + 1), least)]
        stop = next((n for n in range(1, len(kept)) if error and decided(sum(kept[:n]), n, error)), len(kept))
        if kept:
            node = msgspec.structs.replace(node, rollouts=stop, rollout_value=sum(kept[:stop]) / stop)
        nodes.append(node)
    return msgspec.structs.replace(tree, nodes=nodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--problems", type=int, default=150)
    parser.add_argument("--rollouts", nargs="+", default=BUDGETS, metavar="N,N")
    parser.add_argument("--trees", type=Path, nargs="+", default=[], help="tree files of other searches, a row each")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.trees:
        print(f"| trees | tokens a problem | {' | '.join(VALUES)} |\n{'|---' * (2 + len(VALUES))}|")
        for path in given.trees:
            grown = read(path)
            print(
                f"| {path} | {fmean(tree.stats['tokens'] for tree in grown):.0f} | {cells([grown], list(VALUES))} |",
                flush=True,
            )
        return
    print(f"| rollouts | tokens a problem | {' | '.join(VALUES)} |\n{'|---' * (2 + len(VALUES))}|")
    for budget in given.rollouts:
        grown = search(given.out, given.problems, budget)
        print(
            f"| {budget} | {fmean(tree.stats['tokens'] for tree in grown):.0f} | {cells(seeds(grown), list(VALUES))} |",
            flush=True,
        )
    grown = search(given.out, given.problems, given.rollouts[0])
    kinds = [kind for kind in VALUES if kind != StepValues.BACKED_UP]  # this one would need another search
    print(f"\n| rollouts | share of them | {' | '.join(kinds)} |\n{'|---' * (2 + len(kinds))}|")
    whole = sum(node.rollouts for tree in grown for node in tree.nodes)
    for budget, error in [*((budget, 0.0) for budget in BUDGETS[1:]), *((BUDGETS[0], error) for error in ERRORS)]:
        rng = random.Random(0)
        thin = [thinned(tree, budget, error, rng) for tree in grown]
        share = sum(node.rollouts for tree in thin for node in tree.nodes) / whole
        name = f"sequential, error {error}" if error else budget
        print(f"| {name} | {share:.2f} | {cells(seeds(thin), kinds)} |", flush=True)


def seeds(grown: Sequence[Tree]) -> list[list[Tree]]:
    return [[tree for tree in grown if tree.id.startswith(f"clinic-seed-{seed}-")] for seed in SEEDS]


def cells(by_seed: Sequence[Sequence[Tree]], kinds: Sequence[str]) -> str:
    """For each kind of values the AUROC, mean and seeds, and the share of right labels in percent."""
    found = []
    for kind in kinds:
        measured = [measure(trees, kind) for trees in by_seed]
        each = ", ".join(f"{area:.3f}"[1:] for area, _ in measured)
        agree = fmean(right for _, right in measured)
        found.append(f"{fmean(area for area, _ in measured):.3f} ({each}); {100 * agree:.1f} %")
    return " | ".join(found)


if __name__ == "__main__":
    main()
