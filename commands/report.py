"""`medsss report`: several eval reports in, one table out, for people. Costs nothing.

Reports are what `medsss eval` writes. The table goes to stdout, for it is all that this command makes; `--json` gives
its rows as JSON lines instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import typer

from . import _options as o


class Row(NamedTuple):
    """A line of the table: `value`, `low` and `high` are shares in [0, 1], the last two a 95 % interval."""

    run: str
    measure: str
    n: int
    value: float
    low: float
    high: float


def run(
    inputs: o.Inputs = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write the table in Markdown.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Write the rows as JSON lines, not as a table.")] = False,
    curves: Annotated[
        bool, typer.Option("--all", help="Every best-of-N aggregation, not the best known ones alone.")
    ] = False,
    strict: o.Strict = False,
) -> None:
    """Put several eval reports into one table: greedy, one of N, majority@N, best of N, each with its interval; for
    reports of `eval --steps`, first errors found."""
    from medsss_cli.console import warn
    from medsss_cli.errors import MedsssError, UsageError
    from medsss_cli.stream.jsonl import LineWriter, Where, read_objects, write_stdout

    if markdown and json:
        raise UsageError("--markdown and --json exclude each other")
    bad = 0

    def on_bad(where: Where, what: str) -> None:
        nonlocal bad
        bad += 1
        if strict:
            raise MedsssError(f"{where}: {what}")
        warn(f"{where}: {what}")

    rows: list[Row] = []
    for where, report in read_objects(inputs or [], on_bad=on_bad):
        try:
            rows += report_rows(report, str(where), every=curves)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            on_bad(where, f"not a report of `medsss eval` ({type(error).__name__}: {error})")
    if not rows:
        raise MedsssError("there is no report to show", hint="write some with `medsss eval ... > NAME.report.json`")
    if json:
        writer = LineWriter()
        writer.write([row._asdict() for row in rows])
        writer.close()
    else:
        write_stdout(table(rows, markdown=markdown))
    raise typer.Exit(1 if bad else 0)


def report_rows(report: dict[str, Any], default_name: str, *, every: bool = False) -> Iterator[Row]:
    """The rows of one report: its accuracy and, where it has N > 1 answers a problem, what N bring.

    Of the best-of-N aggregations the one that was selected by and min-vote-sum (the paper's) are shown; `every` shows
    all. A report of `eval --steps` gives what its reward model says of first errors. Raises KeyError, TypeError or
    ValueError for anything else.
    """
    if report.get("kind") == "step-report":
        found, threshold = report["first_error"], report["threshold"]
        for key, measure in (("wrong", "first error found"), ("right", "no error found"), ("f1", "F1 of first errors")):
            if found[key] is not None:
                count = {"n": report["trajectories"]} | found[key]
                yield _row(report["name"] or default_name, f"{measure}, threshold {threshold:g}", count)
        return
    if report.get("kind") != "report":
        raise ValueError("its `kind` is not `report`")
    name = report["name"] or default_name
    strategies = list(report["made_from"]["strategies"])
    best: dict[str, list[dict[str, Any]]] = report["best_of_k"]
    if strategies:
        n = max(int(size) for size in report["responses_per_problem"])
        yield _row(name, f"best of {n}, {' / '.join(strategies)}", report["micro"])
    else:
        many = max((int(size) for size in report["responses_per_problem"]), default=0) > 1
        yield _row(name, "one of N" if many else "accuracy", report["micro"])
        for measure, points in (("majority", report["majority_at_k"]), ("pass", report["pass_at_k"])):
            if points:
                yield _row(name, f"{measure}@{points[-1]['k']}", points[-1])
    for how, points in best.items():
        if points and how not in strategies and (every or how == "min-vote-sum"):
            yield _row(name, f"best of {points[-1]['k']}, {how}", points[-1])


def _row(name: str, measure: str, point: dict[str, Any]) -> Row:
    return Row(name, measure, int(point["n"]), float(point["value"]), float(point["low"]), float(point["high"]))


def table(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """Aligned columns, or Markdown; percentages with one decimal."""
    head = ("run", "measure", "n", "%", "95 % interval")
    body = [
        (row.run, row.measure, str(row.n), f"{100 * row.value:.1f}", f"{100 * row.low:.1f} to {100 * row.high:.1f}")
        for row in rows
    ]
    left = (True, True, False, False, False)
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(cells, widths, left, strict=True)
        ]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    rule = ["-" * width if to_left else "-" * (width - 1) + ":" for width, to_left in zip(widths, left, strict=True)]
    rules = [f"| {' | '.join(rule)} |"] if markdown else ["-" * len(line(head))]
    return "\n".join([line(head), *rules, *map(line, body)]) + "\n"
