"""Reports as tables of plain text, for people, at most 80 columns wide: what `medsss eval` shows, and `report` too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medsss_cli.console import printable
from medsss_cli.evaluation.reports import all_curves

MOST_ROWS = 60
"""Rows of one table; the report has them all."""

WIDTH = 80


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, markdown: bool = False) -> list[str]:
    """Lines of aligned columns, or of Markdown. The first `left` columns stand to the left, and the widest of them is
    cut where the line would be longer than WIDTH."""
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    over = sum(widths) + 2 * len(widths) - 2 - WIDTH
    if over > 0 and not markdown:
        widest = max(range(left), key=widths.__getitem__)
        widths[widest] = max(widths[widest] - over, 12)

    def cell(text: str, column: int) -> str:
        width = widths[column]
        if column >= left:
            return text.rjust(width)
        return text.ljust(width) if len(text) <= width else text[: width - 3] + "..."

    lines = [[cell(text, i) for i, text in enumerate(row)] for row in cells]
    if markdown:
        dashes = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
        return [f"| {' | '.join(line)} |" for line in (lines[0], dashes, *lines[1:])]
    return ["  ".join(line).rstrip() for line in lines]


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal."""
    return "-" if value is None else f"{100 * value:.1f}"


def span(point: Mapping[str, Any], sign: str = "") -> str:
    """An interval: "34.6 to 57.1"; `sign` "+" writes signs."""
    return f"{100 * point['low']:{sign}.1f} to {100 * point['high']:{sign}.1f}"


def report_text(report: Mapping[str, Any]) -> str:
    """The report of `eval` as tables, with what has to be said of it below."""
    make = {"comparison": _comparison, "step-report": _steps}.get(report["kind"], _answers)
    lines = [*([report["name"]] if report["name"] else []), *make(report)]
    if bad := report["bad_lines"]:
        lines.append(f"{bad} line{'s' if bad > 1 else ''} could not be used; not counted")
    return "\n".join(lines) + "\n"


def _answers(report: Mapping[str, Any]) -> list[str]:
    head = ("n", "accuracy %", "95 % interval", "unparsed %")

    def rows(parts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
        return [
            (name, str(part["n"]), percent(part["value"]), span(part), percent(part["unparsed"]))
            for name, part in list(parts.items())[:MOST_ROWS]
        ]

    whole = rows({"all problems (micro)": report["micro"] | {"unparsed": report["unparsed"]}})
    if macro := report["macro"]:
        whole.append((f"mean of {macro['datasets']} data sets (macro)", "", percent(macro["value"]), span(macro), ""))
    lines = aligned(("data set", *head), rows(report["datasets"]) + whole)
    if report["by"]:
        groups = report["by"]["groups"]
        lines += ["", *aligned((report["by"]["field"], *head), rows(groups))]
        if len(groups) > MOST_ROWS:
            lines.append(f"... and {len(groups) - MOST_ROWS} more, in the report")
    curves = all_curves(report)
    ks = sorted({point["k"] for points in curves.values() for point in points})
    if ks:
        shown = ks if len(ks) <= 8 else [*ks[:7], ks[-1]]  # more do not fit
        found = {name: {point["k"]: percent(point["value"]) for point in points} for name, points in curves.items()}
        body = [(name, *(at.get(k, "-") for k in shown)) for name, at in found.items()]
        lines += ["", *aligned(("% right, k =", *map(str, shown)), body), ""]
    strategies = f" ({', '.join(report['made_from']['strategies'])})" if report["made_from"]["strategies"] else ""
    lines.append(f"accuracy of {report['accuracy_of']}{strategies}")
    if (readable := report["readable"]) and report["unparsed"]:
        lines.append(f"among readable answers {percent(readable['value'])} % ({span(readable)}), n {readable['n']}")
    if report["forms"]:
        total = sum(report["forms"].values())
        lines.append("answers read as: " + ", ".join(f"{f} {percent(c / total)} %" for f, c in report["forms"].items()))
    if report["tokens"]:
        seconds = f", {report['seconds']:.0f} s of sampling and scoring" if report["seconds"] is not None else ""
        lines.append(f"{report['tokens']} tokens generated, {report['tokens_per_response']} a response{seconds}")
    if report["failed"]:
        lines.append(f"{report['failed']} failed; such problems count as wrong")
    return lines


def _comparison(report: Mapping[str, Any]) -> list[str]:
    verdicts = report["pairs"]["only_a_right"] is not None
    rows = []
    for name, part in [*list(report["datasets"].items())[:MOST_ROWS], ("all pairs", report["pairs"])]:
        gap = part["difference"]
        moved = (percent(part["a"]), percent(part["b"]), f"{100 * gap['value']:+.1f}", span(gap, "+"))
        only = (f"{part['only_a_right']}:{part['only_b_right']}",) if verdicts else ()
        rows.append((name, str(part["n"]), *moved, *only, "<.001" if gap["p"] < 0.001 else f"{gap['p']:.3f}"))
    only = ("only A:B",) if verdicts else ()
    lines = aligned(("data set", "pairs", "A %", "B %", "B - A", "95 % interval", *only, "p"), rows)
    runs = report["made_from"]["runs"]
    lines += [f"{label.upper()}: {printable(run['input'])}, {run['problems']} problems" for label, run in runs.items()]
    lines.append(f"p: exact paired test of all signs{' (McNemar)' if verdicts else ''}")
    for ids, start, end in (
        (report["unmatched"]["only_a"], "only in A, left out: ", ""),
        (report["unmatched"]["only_b"], "only in B, left out: ", ""),
        (report["different_problems"], "one id, but two problems: ", "; are these the same data?"),
    ):
        if ids["n"]:
            named = f"{', '.join(map(printable, ids['ids'][:5]))}{', ...' if ids['n'] > 5 else ''}"
            lines.append(f"{start}{ids['n']} ({named}){end}")
    return lines


def _steps(report: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, part in [*list(report["datasets"].items())[:MOST_ROWS], ("all trajectories", report["first_error"])]:
        cells: list[str] = []
        for kind in ("wrong", "right"):
            cells += [str(part[kind]["n"]), percent(part[kind]["value"])] if part[kind] else ["0", "-"]
        rows.append((name, *cells, *((percent(part["f1"]["value"]), span(part["f1"])) if part["f1"] else ("-", "-"))))
    head = (f"first error, threshold {report['threshold']:g}", "wrong", "hit %", "right", "hit %", "F1 %")
    lines = aligned((*head, "95 % interval"), rows)
    measures = {"AUROC": "auroc", "Brier": "brier", "calibration error": "ece"}
    shown = [f"{label} {report[key]:.3f}" for label, key in measures.items() if report[key] is not None]
    lines.append(f"{report['steps']} labelled steps, {report['right_steps']} of them right: {', '.join(shown)}")
    best = max(report["by_threshold"], key=lambda row: row["f1"] if row["f1"] is not None else -1)
    if best["f1"] is not None:
        lines.append(f"largest F1 {percent(best['f1'])} % at threshold {best['threshold']:g}")
    if report["unscored"]:
        lines.append(f"{report['unscored']} answers have no step scores; they are left out")
    if report["failed"]:
        lines.append(f"{report['failed']} failed; such problems have no steps")
    return lines
