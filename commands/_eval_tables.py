"""The tables and terminal plots of `medsss eval`, on stderr, for people. The report itself is JSON."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

MOST_ROWS = 60
"""Rows of one table; the report has them all."""


def show(report: dict[str, Any], *, figure: str | None) -> None:
    """The report as tables; as a plot too, if stderr is a terminal and no figure was drawn."""
    match report["kind"]:
        case "comparison":
            _show_comparison(report)
        case "step-report":
            _show_steps(report)
        case _:
            _show_answers(report)
    if figure is None and sys.stderr is not None and sys.stderr.isatty():
        from medsss_cli.console import say

        for line in _plot(report, min(shutil.get_terminal_size().columns - 1, 100)):
            say(line)
    elif figure is not None:
        from medsss_cli.console import note

        note(f"eval: drew {figure}")


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _probability(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}"


def _interval(point: Mapping[str, Any]) -> tuple[str, str]:
    return _percent(point["value"]), f"{_percent(point['low'])} to {_percent(point['high'])}"


def _safe(text: str) -> str:
    from medsss_cli.console import printable

    return printable(text).replace("[", r"\[")


def _table(first: str, columns: Sequence[str], title: str | None = None) -> Any:
    from rich.table import Table

    table = Table(box=None, title=None if title is None else _safe(title), pad_edge=False)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _show_answers(report: dict[str, Any]) -> None:
    from medsss_cli.console import console, printable

    screen = console()
    table = _table("data set", ("n", "accuracy %", "95 % interval", "unparsed %"), report["name"] or None)

    def add(name: str, row: Mapping[str, Any]) -> None:
        table.add_row(_safe(name), str(row["n"]), *_interval(row), _percent(row["unparsed"]))

    for dataset, row in list(report["datasets"].items())[:MOST_ROWS]:
        add(dataset, row)
    table.add_section()
    add("all problems (micro)", report["micro"] | {"unparsed": report["unparsed"]})
    if report["macro"]:
        table.add_row(f"mean of {report['macro']['datasets']} data sets (macro)", "", *_interval(report["macro"]), "")
    screen.print(table)
    if report["by"]:
        table = _table(_safe(report["by"]["field"]), ("n", "accuracy %", "95 % interval", "unparsed %"))
        groups = list(report["by"]["groups"].items())
        for group, row in groups[:MOST_ROWS]:
            add(group, row)
        screen.print(table)
        if len(groups) > MOST_ROWS:
            screen.print(f"... and {len(groups) - MOST_ROWS} more, in the report", markup=False)
    curves = {"pass@k": report["pass_at_k"], "majority@k": report["majority_at_k"], **report["best_of_k"]}
    points = sorted({point["k"] for curve in curves.values() for point in curve})
    if points:
        table = _table("\n% right, k =", [f"\n{k}" for k in points])
        for curve, values in curves.items():
            found = {point["k"]: _percent(point["value"]) for point in values}
            if found:
                table.add_row(curve, *(found.get(k, "-") for k in points))
        screen.print(table)
    strategies = ", ".join(report["made_from"]["strategies"])
    screen.print(
        f"accuracy of {report['accuracy_of']}" + (f" ({printable(strategies)})" if strategies else ""), markup=False
    )
    if report["forms"]:
        total = sum(report["forms"].values())
        shown = ", ".join(f"{printable(form)} {_percent(count / total)} %" for form, count in report["forms"].items())
        screen.print(f"answers read as: {shown}", markup=False)
    if report["tokens"]:
        seconds = f", {report['seconds']:.0f} s of sampling and scoring" if report["seconds"] is not None else ""
        screen.print(
            f"{report['tokens']} tokens generated, {report['tokens_per_response']} a response{seconds}", markup=False
        )
    if report["failed"]:
        screen.print(f"{report['failed']} problems failed; they count as wrong", markup=False)
    _show_bad_lines(screen, report["bad_lines"])


def _show_bad_lines(screen: Any, count: int) -> None:
    if count:
        screen.print(f"{count} lines could not be used; they are not counted", markup=False)


def _show_comparison(report: dict[str, Any]) -> None:
    from medsss_cli.console import console, printable

    screen = console()
    tested = report["pairs"]["mcnemar_p"] is not None  # with one verdict a problem
    columns = ("pairs", "A %", "B %", "B - A", "95 % interval", *(("only A:B", "p") if tested else ()))
    table = _table("data set", columns, report["name"] or None)
    rows = [*list(report["datasets"].items())[:MOST_ROWS], ("all pairs", report["pairs"])]
    for index, (dataset, row) in enumerate(rows):
        if index == len(rows) - 1:
            table.add_section()
        gap = row["difference"]
        test = [f"{row['only_a_right']}:{row['only_b_right']}", _probability(row["mcnemar_p"])] if tested else []
        table.add_row(
            _safe(dataset),
            str(row["n"]),
            _percent(row["a"]),
            _percent(row["b"]),
            f"{100 * gap['value']:+.1f}",
            f"{100 * gap['low']:+.1f} to {100 * gap['high']:+.1f}",
            *test,
        )
    screen.print(table)
    runs = report["made_from"]["runs"]
    for label, run in runs.items():
        screen.print(f"{label.upper()}: {printable(run['input'])}, {run['problems']} problems", markup=False)
    if tested:
        screen.print("p: McNemar's exact test on the problems that only A, or only B, got right", markup=False)
    else:
        screen.print("no McNemar's test: it wants one verdict a problem, and some have a share of right answers")
    for key, label in (("only_a", "A"), ("only_b", "B")):
        alone = report["unmatched"][key]
        if alone["n"]:
            shown = ", ".join(map(printable, alone["ids"][:5])) + (", ..." if alone["n"] > 5 else "")
            screen.print(f"only in {label}, left out: {alone['n']} ({shown})", markup=False)
    changed = report["different_problems"]
    if changed["n"]:
        shown = ", ".join(map(printable, changed["ids"][:5]))
        screen.print(
            f"{changed['n']} pairs have one id but different problems ({shown}): are these runs over the same data?",
            markup=False,
        )
    _show_bad_lines(screen, sum(run["bad_lines"] for run in runs.values()))


def _show_steps(report: dict[str, Any]) -> None:
    from medsss_cli.console import console

    screen = console()
    columns = ("wrong", "hit %", "right", "hit %", "F1 %", "95 % interval")
    table = _table(f"first error, threshold {report['threshold']:g}", columns, report["name"] or None)
    rows = [*list(report["datasets"].items())[:MOST_ROWS], ("all trajectories", report["first_error"])]
    for index, (dataset, row) in enumerate(rows):
        if index == len(rows) - 1:
            table.add_section()
        cells: list[str] = []
        for kind in ("wrong", "right"):
            cells += [str(row[kind]["n"]), _percent(row[kind]["value"])] if row[kind] else ["0", "-"]
        table.add_row(_safe(dataset), *cells, *(_interval(row["f1"]) if row["f1"] else ("-", "-")))
    screen.print(table)
    shown = [
        f"{label} {report[key]:.3f}"
        for label, key in (("AUROC", "auroc"), ("Brier", "brier"), ("calibration error", "ece"))
        if report[key] is not None
    ]
    screen.print(
        f"{report['steps']} labelled steps, {report['right_steps']} of them right: {', '.join(shown)}", markup=False
    )
    best = max(
        (row for row in report["by_threshold"] if row["f1"] is not None), key=lambda row: row["f1"], default=None
    )
    if best is not None:
        screen.print(f"largest F1 {_percent(best['f1'])} % at threshold {best['threshold']:g}", markup=False)
    if report["unscored"]:
        screen.print(f"{report['unscored']} answers have no step scores; they are left out", markup=False)
    if report["failed"]:
        screen.print(f"{report['failed']} problems failed; they have no steps", markup=False)
    _show_bad_lines(screen, report["bad_lines"])


def _plot(report: dict[str, Any], width: int) -> list[str]:
    from medsss_cli.console import printable
    from medsss_cli.evaluation.terminal import Bar, bar_plot, curve_plot

    if report["kind"] == "comparison":
        return []
    if report["kind"] == "step-report":
        bars = [
            Bar(f"{row['low']:.2f} to {row['high']:.2f}", row["right"], row["right"], row["right"], f"{row['n']} steps")
            for row in report["reliability"]
            if row["n"]
        ]
        return ["", "right steps % by score", *bar_plot(bars, width)]
    if report["pass_at_k"]:
        chosen = ["pass@k", "majority@k", *report["made_from"]["strategies"], "min-max", "min-vote-sum"]
        curves = {"pass@k": report["pass_at_k"], "majority@k": report["majority_at_k"], **report["best_of_k"]}
        lines = {
            name: [(point["k"], point["value"]) for point in curves[name]]
            for name in dict.fromkeys(chosen)
            if curves.get(name)
        }
        if any(len(line) > 1 for line in lines.values()):
            return ["", *curve_plot(lines, width)]
    rows = report["by"]["groups"] if report["by"] else report["datasets"]
    bars = [
        Bar(printable(name).replace("\n", " "), row["value"], row["low"], row["high"], f"n {row['n']}")
        for name, row in list(rows.items())[:MOST_ROWS]
    ]
    return ["", *bar_plot(bars, width)]
