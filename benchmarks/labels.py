"""Which step labels make the better reward model: `python benchmarks/labels.py out/demo0 out/demo1 out/demo2`.

Each folder is one run of the demo (`SEED=s OUT=FOLDER make demo`). For every kind of labels a reward model is trained
as the demo does it (what the demo left there is used), scores the evolved policy's answers to each test
problem, and is measured twice: on the steps, which the clinic's checker knows to be right or wrong, and by the answers
that it selects. Prints a table for docs/internals/benchmarks.md, of means over the runs with the standard deviation
between them; what is in a folder already is not done again.
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
    rows, model, scored = run / f"prm-{labels}.jsonl", run / f"prm-{labels}", run / f"labels-{labels}.bon.jsonl"
    if not rows.exists():
        medsss("label", run / "prm.trees.jsonl", "--to", "prm", "--labels", labels, *LABEL, out=rows)
    if not (model / "medsss.json").exists():
        medsss("train-prm", rows, "--policy", run / "policy", "--seed", str(seed), *TRAIN, "-o", model)
    medsss("bon", run / "evolved.samples.jsonl", "--prm", model, "-o", scored)
    reports = []
    for name, more in (("answers", ()), ("steps", ("--steps",))):
        report = run / f"labels-{labels}.{name}.json"
        if not report.exists():
            medsss("eval", scored, *more, "--name", labels, out=report)
        reports.append(json.loads(report.read_text()))
    return reports[0], reports[1]


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
    cells = [(labels, seed) for labels in LABELS for seed in range(len(given.runs))]
    with ThreadPoolExecutor(given.jobs) as pool:
        found = list(pool.map(lambda cell: measure(given.runs[cell[1]], *cell), cells))
    answers, steps = ({kind: [] for kind in LABELS} for _ in range(2))
    for (labels, _), (selected, judged) in zip(cells, found, strict=True):
        answers[labels].append(selected)
        steps[labels].append(judged)
    heads = ("labels", "first-error F1", "AUROC", *SELECTIONS)
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for labels in LABELS:
        row = [labels, over([of["first_error"]["f1"]["value"] for of in steps[labels]])]
        row.append(over([of["auroc"] for of in steps[labels]]))
        row += [over([of["best_of_k"][name][-1]["value"] for of in answers[labels]]) for name in SELECTIONS]
        print("| " + " | ".join(row) + " |")
    for name, curve in (("one of N", "pass_at_k"), ("majority", "majority_at_k"), ("likeliest", "likeliest_at_k")):
        point = 0 if name == "one of N" else -1
        print(f"{name}: {over([of[curve][point]['value'] for of in answers[LABELS[0]]])}")


if __name__ == "__main__":
    main()
