"""What a run of evolve.sh did, for somebody who reads it the first time: `python examples/story.py out/demo`.

The policy before and after each stage, the reward model beside what it has to beat, one question as the search valued
it, and where to look further. All of it comes from the files in that folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

STAGES = (
    ("base", "the base policy"),
    ("iteration1", "iteration 1: search, fine-tuning"),
    ("iteration2", "iteration 2: search, fine-tuning"),
    ("evolved", "preference learning (DPO)"),
)
CHOICES = {  # measure of `medsss report`: what it is
    "one of": "one of them, by chance",
    "majority": "the answer of the majority",
    "likeliest": "the policy's own likeliest",
    "min-max": "the reward model's best",
    "min-vote-sum": "a vote, weighed by the reward model",
    "min-likelihood": "reward model times likelihood",
}


def medsss(*arguments: str | Path) -> str:
    """What a command writes."""
    return subprocess.run(["medsss", *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def choice(measure: str) -> str:
    """Which of CHOICES a measure is: "best of 8, min-vote-sum" is "min-vote-sum", "majority@8" "majority"."""
    return next((name for name in CHOICES if measure.startswith(name) or measure.endswith(f", {name}")), "")


def percent(row: dict[str, Any] | None) -> str:
    """`81.0`, or a dash where the run has no such row."""
    return f"{100 * row['value']:.1f}" if row else "-"


def contrast(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of one question a trajectory that ends right and one that ends wrong and began right: the pair whose wrong one
    has the most different values, and of these the shortest. `rows` are records of `label --to prm`."""
    of: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of.setdefault(row["id"], []).append(row)
    pairs = [
        (right, wrong)
        for found in of.values()
        for right in found
        if right["labels"][-1] == 1 and all(label != 0 for label in right["labels"])
        for wrong in found
        if len(wrong["labels"]) > 3 and wrong["labels"][-1] == 0 and wrong["labels"][1] == 1
    ]

    def dull(pair: tuple[dict[str, Any], dict[str, Any]]) -> tuple[int, int]:
        return -len(set(pair[1]["values"])), sum(len(row["completions"]) for row in pair)

    return list(min(pairs, key=dull, default=()))


def main() -> None:
    """Print the story of the folder that the command line names."""
    out = Path(sys.argv[1])
    rows = [json.loads(line) for line in medsss("report", "--json", *sorted(out.glob("*.report.json"))).splitlines()]

    greedy = {row["run"].removesuffix(", greedy"): row for row in rows if row["run"].endswith(", greedy")}
    print(f"The policy: right answers to {greedy['base']['n']} questions that it never saw, in percent")
    before = None
    for name, words in STAGES:
        if name in greedy:
            gain = "" if before is None else f"{100 * (greedy[name]['value'] - before):+.1f}"
            print(f"  {words:<34}{percent(greedy[name]):>6}{gain:>8}")
            before = greedy[name]["value"]

    print("\nThe reward model: which of several answers to take, in percent right")
    chosen = {(row["run"].partition(",")[0], choice(row["measure"])): row for row in rows if "PRM" in row["run"]}
    print(f"  {'of the answers of':<36}{'the base policy':>16}{'the evolved one':>18}")
    for name, words in CHOICES.items():
        print(f"  {words:<36}{percent(chosen.get(('base', name))):>16}{percent(chosen.get(('evolved', name))):>18}")
    print(f"  One seed: read each figure as +- {50 * (greedy['base']['high'] - greedy['base']['low']):.0f} points.")

    [labelled] = out.glob("prm-*.jsonl")
    example = contrast([json.loads(line) for line in labelled.read_text(encoding="utf-8").splitlines()])
    if example:
        print("\nOne question as the search valued it: a step's value is the share of its rollouts that end right")
        kept = out / "example.jsonl"
        kept.write_text("".join(json.dumps(row) + "\n" for row in example), encoding="utf-8")
        print(medsss("view", kept, "--limit", "2").rstrip())

    print(f"\nIn {out}: the evolved policy in policy/, the reward model in {labelled.stem}/,")
    print("trees in iteration*/trees.jsonl, a report beside each measurement. Look further:")
    print(f"  medsss view {out}/iteration1/trees.jsonl --html {out}/trees.html")
    print(f"  medsss report {out}/*.report.json")


if __name__ == "__main__":
    main()
