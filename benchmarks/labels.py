"""Which step labels make the better reward model: `python benchmarks/labels.py out/demo0 out/demo1 out/demo2`.

Each folder is one run of the demo (`SEED=s OUT=FOLDER make demo`). For every kind of labels a reward model is trained
as the demo does it (what the demo left there is used), scores the evolved policy's sixteen answers to each test
problem, and is measured twice: on the steps, which the clinic's checker knows to be right or wrong, and by the answers
that it selects. Prints a table for docs/internals/benchmarks.md; what is in a folder already is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

LABELS = ("hard", "soft", "monotone", "dual", "dual-soft", "published")
LABEL = ("--values", "rollout", "--all")
TRAIN = ("--full", "--lr", "5e-4", "--epochs", "4", "--batch-size", "8", "--accumulation", "1")
SELECTIONS = ("min-max", "min-vote-sum", "mean-vote-sum")


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


def measure(run: Path, labels: str, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report of the selected answers, and that of the steps."""
    rows, model, scored = run / f"prm-{labels}.jsonl", run / f"prm-{labels}", run / f"bon-{labels}.jsonl"
    policy = run / "iteration2" / "policy"
    if not rows.exists():
        medsss("label", run / "prm.trees.jsonl", "--to", "prm", "--labels", labels, *LABEL, out=rows)
    if not (model / "medsss.json").exists():
        medsss("train-prm", rows, "--policy", policy, "--seed", str(seed), *TRAIN, "-o", model)
    medsss("bon", run / "iteration2.samples.jsonl", "--prm", model, "-o", scored)
    reports = []
    for name, more in (("answers", ()), ("steps", ("--steps",))):
        report = run / f"labels-{labels}.{name}.json"
        if not report.exists():
            medsss("eval", scored, *more, "--name", labels, out=report)
        reports.append(json.loads(report.read_text()))
    return reports[0], reports[1]


def percent(measured: dict[str, float]) -> str:
    return f"{100 * measured['value']:.1f} ({100 * measured['low']:.1f} to {100 * measured['high']:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    cells = [(labels, seed) for labels in LABELS for seed in range(len(given.runs))]
    with ThreadPoolExecutor(given.jobs) as pool:
        found = list(pool.map(lambda cell: measure(given.runs[cell[1]], *cell), cells))
    heads = ("labels", "seed", "first-error F1", "AUROC", *SELECTIONS)
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for (labels, seed), (answers, steps) in zip(cells, found, strict=True):
        best = [percent(answers["best_of_k"][name][-1]) for name in SELECTIONS]
        row = [labels, str(seed), percent(steps["first_error"]["f1"]), f"{steps['auroc']:.3f}", *best]
        print("| " + " | ".join(row) + " |")
    votes = (percent(answers["majority_at_k"][-1]) for answers, _ in found[: len(given.runs)])
    print("\nmajority@16: " + "; ".join(f"seed {seed} {vote}" for seed, vote in enumerate(votes)))


if __name__ == "__main__":
    main()
