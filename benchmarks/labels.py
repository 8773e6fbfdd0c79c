"""Which step labels make the better reward model: `python benchmarks/labels.py out/demo0 out/demo1 out/demo2`.

Each folder is one run of the demo (`SEED=s OUT=FOLDER make demo`). For every kind of labels, every kind of values and
trees of a third of the rollouts, a reward model is trained as the demo does it (what the demo left there is used),
scores the evolved policy's answers to each test problem, and is measured twice: on the steps, which the clinic's
checker knows to be right or wrong, and by the answers that it selects. Prints a table for docs/internals/benchmarks.md,
of means over the runs with the standard deviation between them; what is in a folder already is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What a reward model learns from: labels, made from these values of these trees and the iterations'."""

    labels: str
    values: str = "rollout"
    trees: str = "prm.trees"

    @property
    def name(self) -> str:
        """Of its files; what the demo makes by itself has the demo's names."""
        parts = [self.labels, *([] if self.values == "rollout" else [self.values])]
        return "-".join([*parts, *([] if self.trees == "prm.trees" else ["few"])])


KINDS = [Kind(labels) for labels in ("hard", "soft", "monotone", "dual", "dual-soft", "published")]
KINDS += [Kind("dual", "backed-up"), Kind("dual", "pooled"), Kind("hard", "contrasted"), Kind("soft", "contrasted")]
KINDS += [
    Kind("dual", "backed-up", "prm.few"),
    Kind("dual", "rollout", "prm.few"),
    Kind("hard", "contrasted", "prm.few"),
]
FEW = ("--max-nodes", "12", "--rollouts", "2", "--min-rollouts", "1", "--reflects", "0")
SHORT = ("--max-tokens", "160", "--max-step-tokens", "60", "--engine", "hf")
TRAIN = ("--full", "--lr", "5e-4", "--epochs", "4", "--batch-size", "8", "--accumulation", "1")
SELECTIONS = ("min-max", "min-vote-sum", "mean-vote-sum", "min-likelihood")


def medsss(*arguments: str | Path, out: Path | None = None) -> None:
    """Run the program; with `out` its stdout becomes that file when it has ended well."""
    command = [sys.executable, "-m", "medsss_cli.app", *map(str, arguments), "-q"]
    if out is None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return
    part = out.with_name(out.name + ".part")
    with part.open("wb") as file:
        subprocess.run(command, check=True, stdout=file)
    part.replace(out)


def measure(run: Path, kind: Kind, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report of the selected answers, and that of the steps."""
    name = kind.name
    rows, model, scored = run / f"prm-{name}.jsonl", run / f"prm-{name}", run / f"labels-{name}.bon.jsonl"
    if not rows.exists():
        how = ("--to", "prm", "--labels", kind.labels, "--values", kind.values, "--all")
        medsss("label", *sorted(run.glob("iteration*/trees.jsonl")), run / f"{kind.trees}.jsonl", *how, out=rows)
    if not (model / "medsss.json").exists():
        medsss("train-prm", rows, "--policy", run / "policy", "--seed", str(seed), *TRAIN, "-o", model)
    medsss("bon", run / "evolved.samples.jsonl", "--prm", model, "-o", scored)
    reports = []
    for of, more in (("answers", ()), ("steps", ("--steps",))):
        report = run / f"labels-{name}.{of}.json"
        if not report.exists():
            medsss("eval", scored, *more, "--name", name, out=report)
        reports.append(json.loads(report.read_text()))
    return reports[0], reports[1]


def tokens(run: Path, trees: str) -> float:
    """What a tree of the reward model's own questions cost."""
    with (run / f"{trees}.jsonl").open() as file:
        return fmean(json.loads(line)["stats"]["tokens"] for line in file)


def over(values: list[float]) -> str:
    """Mean and standard deviation over the runs, in percent."""
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for seed, run in enumerate(given.runs):
        few = ("--policy", run / "policy", "--seed", f"{seed}9", *FEW, *SHORT, "-o", run / "prm.few.jsonl")
        medsss("search", run / "prm.pool.jsonl", *few)
    cells = [(kind, seed) for kind in KINDS for seed in range(len(given.runs))]
    with ThreadPoolExecutor(given.jobs) as pool:
        found = list(pool.map(lambda cell: measure(given.runs[cell[1]], *cell), cells))
    heads = ("labels", "values", "tokens a tree", "first-error F1", "AUROC", *SELECTIONS)
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for kind in KINDS:
        answers, steps = zip(*(pair for pair, cell in zip(found, cells, strict=True) if cell[0] == kind), strict=True)
        cost = fmean(tokens(run, kind.trees) for run in given.runs)
        row = [kind.labels, kind.values, f"{cost:.0f}", over([of["first_error"]["f1"]["value"] for of in steps])]
        row.append(over([of["auroc"] for of in steps]))
        row += [over([of["best_of_k"][name][-1]["value"] for of in answers]) for name in SELECTIONS]
        print("| " + " | ".join(row) + " |")
    answers = [pair[0] for pair, cell in zip(found, cells, strict=True) if cell[0] == KINDS[0]]
    for name, curve in (("one of N", "pass_at_k"), ("majority", "majority_at_k"), ("likeliest", "likeliest_at_k")):
        point = 0 if name == "one of N" else -1
        print(f"{name}: {over([of[curve][point]['value'] for of in answers])}")


if __name__ == "__main__":
    main()
