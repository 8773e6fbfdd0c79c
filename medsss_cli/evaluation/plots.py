"""Figures by matplotlib (the `plot` extra): curves over k, accuracies, differences, reliability of a reward model."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from ..errors import MissingExtra, UsageError
from .accuracy import all_curves

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
    """The figure that fits the report: curves (accuracies where there are none, or groups), a comparison, reliability.
    `kind` is png, svg or pdf."""
    from matplotlib.figure import Figure

    figure = Figure(dpi=150, layout="constrained")
    match report["kind"]:
        case "step-report":
            _reliability(figure, report)
        case _ if report["pass_at_k"] and not report["by"]:
            _curves(figure, report)
        case _:
            _accuracies(figure, report)
    content = io.BytesIO()
    figure.savefig(content, format=kind)
    return content.getvalue()


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _curves(figure: Any, report: Mapping[str, Any]) -> None:
    """A panel for each answer aggregation, a line for each step aggregation; what needs no reward model in all."""
    from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

    best: Mapping[str, Sequence[Mapping[str, Any]]] = report["best_of_k"]
    ways = [
        (way, title)
        for way, title in (("max", "best score"), ("vote-sum", "vote by sum"), ("vote-mean", "vote by mean"))
        if any(name.endswith(f"-{way}") for name in best)
    ] or [("", "")]
    figure.set_size_inches(1.6 + 3.4 * len(ways) if best else 6.0, 4.2)
    panels = figure.subplots(1, len(ways), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    ks = sorted({point["k"] for point in report["pass_at_k"]})

    def line(axes: Any, name: str, points: Sequence[Mapping[str, Any]], colour: str, style: str, wide: float) -> None:
        at, values, low, high = ([point[key] for point in points] for key in ("k", "value", "low", "high"))
        axes.fill_between(at, low, high, color=colour, alpha=0.09, lw=0)
        (handles[name],) = axes.plot(at, values, style, color=colour, lw=wide, ms=3.5, label=name, clip_on=False)

    black = "#222222"
    plain = {"pass@k": (_GREY, ":o", 1.2), "majority@k": (black, "--o", 1.4), "likeliest@k": (_COLOURS[5], "-.s", 1.4)}
    curves = all_curves(report)
    for axes, (way, title) in zip(panels, ways, strict=True):
        _plain(axes)
        for name, look in plain.items():
            if name in curves:
                line(axes, name, curves[name], *look)
        steps = [name for name in best if way and name.endswith(f"-{way}")]
        for name, colour in zip(steps, _COLOURS, strict=False):
            line(axes, name.removesuffix(f"-{way}"), best[name], colour, "-o", 1.6)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(ks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([str(k) for k in ks])
        axes.set_xlabel("k candidates")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if title:
            axes.set_title(f"{title} ({way})", fontsize=10)
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(max(low, 0.0), min(high, 1.0))
    panels[0].set_ylabel("problems right")
    figure.suptitle(_title(report), fontsize=11)
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9)


def _title(report: Mapping[str, Any]) -> str:
    name = f"{report['name']}: " if report.get("name") else ""
    return f"{name}{report['n']} problems, 95 % intervals"


def _accuracies(figure: Any, report: Mapping[str, Any]) -> None:
    """Of the groups of --by where there are some, else of the data sets."""
    by = report["by"]
    rows = [*list((by["groups"] if by else report["datasets"]).items())[:40], ("all problems", report["micro"])]
    label = f"problems right, by {by['field']}" if by else "problems right"
    names, points = zip(*rows, strict=True)
    from matplotlib.ticker import PercentFormatter

    figure.set_size_inches(7, 1.4 + 0.32 * len(names))
    axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for row, point in enumerate(points):
        colour = _COLOURS[1] if row == len(points) - 1 else _COLOURS[0]
        axes.plot([point["low"], point["high"]], [row, row], color=colour, lw=2, solid_capstyle="butt", clip_on=False)
        axes.plot([point["value"]], [row], "o", color=colour, ms=6, clip_on=False)
    axes.set_yticks(range(len(names)), [name if len(name) < 40 else name[:38] + "..." for name in names])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(label)
    axes.set_xlim(0.0, 1.0)
    figure.suptitle(_title(report), fontsize=11)


def _reliability(figure: Any, report: Mapping[str, Any]) -> None:
    from matplotlib.ticker import PercentFormatter

    figure.set_size_inches(5.2, 6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    filled = [each for each in report["reliability"] if each["n"]]
    _plain(above)
    above.plot([0, 1], [0, 1], "--", color=_GREY, lw=1, label="perfect")
    middles = [(each["low"] + each["high"]) / 2 for each in filled]
    widths = [each["high"] - each["low"] for each in filled]
    rights = [each["right"] for each in filled]
    above.bar(middles, rights, widths, color=_COLOURS[5], edgecolor="white", label="share of right steps")
    above.plot([each["score"] for each in filled], rights, "o", color=_COLOURS[0], ms=4, label="at the mean score")
    above.set_ylim(0, 1)
    above.set_ylabel("steps that are right")
    above.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    above.legend(frameon=False, fontsize=8, loc="upper left")
    _plain(below)
    below.bar(middles, [each["n"] for each in filled], widths, color=_GREY, edgecolor="white")
    below.set_ylabel("steps")
    below.set_xlabel("score of the reward model")
    below.set_xlim(0, 1)
    shown = [
        f"{label} {report[key]:.3f}"
        for label, key in (("ECE", "ece"), ("AUROC", "auroc"), ("Brier", "brier"))
        if report[key] is not None
    ]
    name = f"{report['name']}: " if report.get("name") else ""
    figure.suptitle(f"{name}{report['steps']} steps, {', '.join(shown)}", fontsize=10)
