"""Figures by matplotlib (the `plot` extra): curves over k, accuracies by group, the reliability of a reward model."""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ..errors import MissingExtra, UsageError
from ..selection import AnswerAggregation
from .reports import all_curves

_ENDINGS = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, which people with any colour vision can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#777777"


def check_plot(path: str) -> None:
    """Before the work: raise UsageError for a file that takes no figure, MissingExtra without matplotlib."""
    if not path.lower().endswith(_ENDINGS):
        raise UsageError(f"not the name of a figure: --plot {path}", hint=f"a name that ends in {', '.join(_ENDINGS)}")
    if find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib", "plot")


def draw(report: Mapping[str, Any], kind: str) -> bytes:
    """The figure of a report: accuracies where there are groups (--by) or no curves. `kind` is png, svg or pdf."""
    from matplotlib.figure import Figure

    figure = Figure(dpi=150, layout="constrained")
    if report["kind"] == "step-report":
        about = _reliability(figure, report)
    else:
        about = (_accuracies if report["by"] or not report["pass_at_k"] else _curves)(figure, report)
    name = f"{report['name']}: " if report.get("name") else ""
    figure.suptitle(name + about, fontsize=11)
    content = io.BytesIO()
    figure.savefig(content, format=kind)
    return content.getvalue()


def _axis(axes: Any, along: str, label: str) -> None:
    """Shares in percent along x or y."""
    from matplotlib.ticker import PercentFormatter

    axes.spines[["top", "right", "left"] if along == "x" else ["top", "right"]].set_visible(False)
    axes.grid(axis=along, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    getattr(axes, f"{along}axis").set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set(**{f"{along}label": label})


def _curves(figure: Any, report: Mapping[str, Any]) -> str:
    """A panel for each answer aggregation, a line for each step aggregation; what needs no reward model in all."""
    curves = all_curves(report)
    best = list(report["best_of_k"])
    ways = [str(way) for way in AnswerAggregation if any(name.endswith(f"-{way}") for name in best)]
    figure.set_size_inches(1.6 + 3.4 * len(ways) if ways else 6.0, 4.2)
    panels = figure.subplots(1, len(ways) or 1, sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    ks = sorted({point["k"] for point in report["pass_at_k"]})
    plain = {"pass@k": (_GREY, ":o"), "majority@k": ("#222222", "--o"), "likeliest@k": (_COLOURS[5], "-.s")}
    for axes, way in zip(panels, ways or [""], strict=True):
        looks = {name: look for name, look in plain.items() if name in curves}
        steps = [name for name in best if way and name.endswith(f"-{way}")]
        looks |= {name: (colour, "-o") for name, colour in zip(steps, _COLOURS, strict=False)}
        for name, (colour, style) in looks.items():
            at, values, low, high = ([point[key] for point in curves[name]] for key in ("k", "value", "low", "high"))
            axes.fill_between(at, low, high, color=colour, alpha=0.09, lw=0)
            (handles[name.removesuffix(f"-{way}")],) = axes.plot(at, values, style, color=colour, ms=3.5)
        _axis(axes, "y", "problems right" if axes is panels[0] else "")
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.minorticks_off()
        axes.set_xlabel("k candidates")
        axes.set_title(way and f"best of k by {way}", fontsize=10)
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(max(low, 0.0), min(high, 1.0))
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9)
    return f"{report['n']} problems, 95 % intervals"


def _accuracies(figure: Any, report: Mapping[str, Any]) -> str:
    """A row for each group of --by, else for each data set, and one for all problems."""
    by = report["by"]
    rows = {**dict([*(by["groups"] if by else report["datasets"]).items()][:40]), "all problems": report["micro"]}
    figure.set_size_inches(7, 1.4 + 0.32 * len(rows))
    axes = figure.subplots()
    for row, (name, point) in enumerate(rows.items()):
        colour = _COLOURS[1] if name == "all problems" else _COLOURS[0]
        # Dots at 0 and 100 % are drawn whole.
        axes.plot([point["low"], point["high"]], [row, row], color=colour, lw=2, solid_capstyle="butt", clip_on=False)
        axes.plot([point["value"]], [row], "o", color=colour, ms=6, clip_on=False)
    _axis(axes, "x", f"problems right, by {by['field']}" if by else "problems right")
    axes.set_yticks(range(len(rows)), [name if len(name) < 40 else name[:38] + "..." for name in rows])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.0)
    return f"{report['n']} problems, 95 % intervals"


def _reliability(figure: Any, report: Mapping[str, Any]) -> str:
    """The share of right steps in each bin of scores, and below how many steps there are."""
    figure.set_size_inches(5.2, 6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    filled = [each for each in report["reliability"] if each["n"]]
    n, scores, rights, low, high = ([each[key] for each in filled] for key in ("n", "score", "right", "low", "high"))
    above.plot([0, 1], [0, 1], "--", color=_GREY, lw=1, label="perfect")
    look: dict[str, Any] = {"align": "edge", "edgecolor": "white", "width": high[0] - low[0]}
    above.bar(low, rights, color=_COLOURS[5], label="share of right steps", **look)
    above.plot(scores, rights, "o", color=_COLOURS[0], ms=4, label="at the mean score")
    above.set_ylim(0, 1)
    _axis(above, "y", "steps that are right")
    above.legend(frameon=False, fontsize=8, loc="upper left")
    below.bar(low, n, color=_GREY, **look)
    below.set(xlabel="score of the reward model", ylabel="steps", xlim=(0, 1))
    measures = {"ECE": "ece", "AUROC": "auroc", "Brier": "brier"}
    shown = [f"{label} {report[key]:.3f}" for label, key in measures.items() if report[key] is not None]
    return f"{report['steps']} steps, {', '.join(shown)}"
