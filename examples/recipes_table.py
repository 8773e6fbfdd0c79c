"""The table of `examples/recipes.sh`: what each row generated, and what it got right. Averages over seeds with several.

    python examples/recipes_table.py out/recipes/0 out/recipes/1 out/recipes/2
    python examples/recipes_table.py --tokens FILE...     # tokens generated for samples and tree records

Of files with corrections only these count: the answers before them were paid for in the file they came from. Where a
folder holds candidates (N of recipes.sh), a second table has them: one of N, majority, likeliest, and the reward
model's vote and best where one scored them; the mean over the folders, and each of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

ROWS = (  # name, report, files that it paid for beside those of the rows named before it
    ("base", "medcritical/student.report.json", ()),
    ("rejection sampling alone", "rejection.report.json", ("rejection.samples.jsonl",)),
    ("MedCritical, stage 1", "medcritical/stage1.report.json", ("medcritical/teacher.jsonl",)),
    (
        "MedCritical, stage 2",
        "medcritical/stage2.*.report.json",
        ("medcritical/teacher.jsonl", "medcritical/round*/answers.jsonl", "medcritical/round*/corrected.jsonl"),
    ),
    ("MedS3, one iteration", "meds3.report.json", ("meds3.draws.jsonl", "meds3.trees.jsonl")),
    ("GRPO", "grpo.report.json", ("grpo/medsss.json",)),
)


def tokens(path: Path) -> int:
    """Tokens that were generated for a file of samples or tree records, in a file of corrections for these alone, or by
    the grpo training of a card."""
    if path.name == "medsss.json":
        return int(json.loads(path.read_text(encoding="utf-8"))["summary"]["metrics"]["tokens"])
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    responses = [response for record in records for response in record.get("responses", ())]
    corrections = [response for response in responses if "corrects" in response]
    trees = sum(record["stats"]["tokens"] for record in records if "nodes" in record)
    return trees + sum(response["tokens"] for response in corrections or responses)


def line(name: str, report: str, files: tuple[str, ...], folders: list[Path]) -> str:
    """A row: the tokens of each run, and its accuracy with the 95 % interval."""
    cells = [name]
    for folder in folders:
        spent = sum(tokens(path) for pattern in files for path in folder.glob(pattern))
        found = sorted(folder.glob(report))
        if not found:
            cells.append("-")
            continue
        shares = json.loads(found[-1].read_text(encoding="utf-8"))["micro"]
        value, low, high = (100 * shares[key] for key in ("value", "low", "high"))
        cells.append(f"{value:.1f} ({low:.1f} to {high:.1f}), {spent / 1000:.0f}k")
    return f"| {' | '.join(cells)} |"


CANDIDATES = (  # file name, name
    ("base", "base"),
    ("rejection", "rejection sampling alone"),
    ("medcritical", "MedCritical"),
    ("meds3", "MedS3, one iteration"),
    ("grpo", "GRPO"),
)
CURVES = {"one of N": ("pass_at_k", 0), "pass@N": ("pass_at_k", -1), "majority": ("majority_at_k", -1)}
CURVES |= {"likeliest": ("likeliest_at_k", -1), "PRM's best": ("min-max", -1), "PRM's vote": ("min-vote-sum", -1)}
CURVES["PRM x likelihood"] = ("min-likelihood", -1)


def candidates(report: str, name: str, folders: list[Path]) -> str | None:
    """A row of the second table: for each measure the mean over the folders, and each of them, in percent."""
    found = [folder / f"{report}.candidates.json" for folder in folders]
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in found if path.exists()]
    if not reports:
        return None
    cells = [name]
    for curve, point in CURVES.values():
        curves = [r.get(curve) or r.get("best_of_k", {}).get(curve) for r in reports]
        values = [100 * points[point]["value"] for points in curves if points]
        each = ", ".join(f"{value:.1f}" for value in values)
        cells.append(f"{fmean(values):.1f} ({each})" if values else "-")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="The table of examples/recipes.sh, or the tokens of files.")
    parser.add_argument("paths", type=Path, nargs="+", help="folders of examples/recipes.sh, one for each seed")
    parser.add_argument("--tokens", action="store_true", help="the tokens that were generated for these files")
    options = parser.parse_args()
    if options.tokens:
        print(sum(tokens(path) for path in options.paths))
        return
    print(f"| % right, tokens generated | {' | '.join(path.name for path in options.paths)} |")
    print("|---" * (len(options.paths) + 1) + "|")
    for name, report, files in ROWS:
        print(line(name, report, files, options.paths))
    rows = [row for report, name in CANDIDATES if (row := candidates(report, name, options.paths))]
    if rows:
        print("", f"| % right | {' | '.join(CURVES)} |", "|---" * (len(CURVES) + 1) + "|", *rows, sep="\n")


if __name__ == "__main__":
    main()
