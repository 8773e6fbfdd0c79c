r"""The figure of docs/when-search-pays.md: `python docs/figures/recipes.py level\ 1=out/recipes level\ 2=out/recipes2`.

Each folder holds the seeds' folders of examples/recipes.sh. A dot is one seed's share of right greedy answers with its
95 % interval, the bar the mean over the seeds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "medsss", "font.size": 10}
import matplotlib.pyplot as plt  # noqa: E402

ROWS = {
    "base": "medcritical/student.report.json",
    "rejection sampling": "rejection.report.json",
    "MedCritical": "medcritical/stage*.report.json",
    "MedS3": "meds3.report.json",
    "GRPO": "grpo.report.json",
}


def main() -> None:
    levels = [argument.split("=", 1) for argument in sys.argv[1:]]
    _, panels = plt.subplots(1, len(levels), figsize=(4 + 3 * len(levels), 2.8), sharey=True, squeeze=False)
    for panel, (title, folder) in zip(panels[0], levels, strict=True):
        seeds = sorted(path for path in Path(folder).iterdir() if path.is_dir())
        for row, pattern in enumerate(ROWS.values()):
            means = []
            for place, seed in enumerate(seeds):
                found = sorted(seed.glob(pattern))
                if not found:
                    continue
                of = json.loads(found[-1].read_text(encoding="utf-8"))["micro"]
                value, low, high = (100 * of[key] for key in ("value", "low", "high"))
                height = row + 0.2 * (place - (len(seeds) - 1) / 2)
                panel.errorbar(
                    value, height, xerr=[[value - low], [high - value]], fmt="o", ms=4, lw=1, color="#3b7dd8"
                )
                means.append(value)
            if means:
                panel.plot([fmean(means)] * 2, [row - 0.38, row + 0.38], color="#d2691e", lw=2)
        panel.set_title(f"{title}: % right, greedy")
        panel.set_yticks(range(len(ROWS)), ROWS)
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].invert_yaxis()
    plt.tight_layout()
    # A white ground: the page may be dark.
    plt.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
