"""`medsss report`: several eval reports in, one table out, for people. Costs nothing.

Reports are what `medsss eval` writes. The table goes to stdout, for it is all that this command makes; `--json` gives
its rows as JSON lines instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Annotated, Any

import typer

from medsss_cli.errors import BadRecord, UsageError
from medsss_cli.evaluation.reports import all_curves
from medsss_cli.settings import Opt
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import Where, read_records
from medsss_cli.stream.outputs import LineWriter, write_stdout

from ._options import Strict, options
from ._tables import aligned, percent, span


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: `value`, `low` and `high` are shares in [0, 1], the last two a 95 % interval. Of several
    `runs` these are means over the runs, and `spread` is the standard deviation of their values; None for one run.
    `cost` is what `eval` found behind the report (`provenance.cost_behind`)."""

    run: str
    measure: str
    n: int
    value: float
    low: float
    high: float
    cost: dict[str, float]
    runs: int = 1
    spread: float | None = None


@options
def run(
    *,
    inputs: Annotated[
        tuple[str, ...], Opt("Reports of `eval`; `-` or nothing is stdin.", argument=True, metavar="INPUT")
    ] = (),
    cost: Annotated[
        bool,
        Opt(
            "Add to the table what each row took: tokens generated, seconds, hours of CPU and GPU, all runs behind it."
        ),
    ] = False,
    markdown: Annotated[bool, Opt("Write the table in Markdown.")] = False,
    json: Annotated[bool, Opt("Write the rows as JSON lines, not as a table.")] = False,
    strict: Strict = False,
) -> None:
    """Put several eval reports into one table: greedy, one of N, majority@N, best of N, each with its interval; for
    reports of `eval --steps`, first errors found.

    Reports of one name are seeds of one run: their mean and its spread over them stand in one row.
    """
    if markdown and json:
        raise UsageError("--markdown and --json exclude each other")

    def parse(report: dict[str, Any], where: Where) -> list[Row]:
        try:
            return list(report_rows(report, where.source))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadRecord(f"not a report of `medsss eval` ({type(error).__name__}: {error})") from None

    with Faults(strict=strict) as faults:
        found = [row for _, rows in read_records(inputs, parse, on_bad=faults.bad) for row in rows]
    if not found:
        raise UsageError("there is no report to show", hint="write some with `medsss eval ... -o NAME.report.json`")
    rows = over_runs(found)
    if json:
        with LineWriter() as out:
            out.write([asdict(row) for row in rows])
    else:
        write_stdout(table(rows, cost=cost, markdown=markdown))
    raise typer.Exit(faults.exit_code)


def report_rows(report: dict[str, Any], default_name: str) -> Iterator[Row]:
    """The rows of one report: its accuracy and, where it has N > 1 answers a problem, what N bring.

    Of the best-of-N aggregations the one selected by, min-vote-sum (the paper's) and min-likelihood are shown. That of
    `eval --steps` gives what its reward model says of first errors. Raises KeyError, TypeError or ValueError for
    anything else.
    """
    cost = dict(report.get("cost") or {"runs": 0})
    if not cost.pop("runs"):  # no run is known (an input by a pipe, an earlier version): the answers' tokens are
        cost = {"tokens": report.get("tokens", 0), "seconds": 0.0, "cpu_hours": 0.0, "gpu_hours": 0.0, "whole": False}

    def row(measure: str, point: dict[str, Any]) -> Row:
        value, low, high = (float(point[key]) for key in ("value", "low", "high"))
        return Row(report["name"] or default_name, measure, int(point["n"]), value, low, high, cost)

    if report["kind"] == "step-report":
        found, threshold = report["first_error"], report["threshold"]
        for key, measure in (("wrong", "first error found"), ("right", "no error found"), ("f1", "F1 of first errors")):
            if found[key] is not None:
                yield row(f"{measure}, threshold {threshold:g}", {"n": report["trajectories"]} | found[key])
        return
    if report["kind"] != "report":
        raise ValueError("its `kind` is not `report`")
    strategies = list(report["made_from"]["strategies"])
    most = max((int(size) for size in report["responses_per_problem"]), default=0)
    curves = all_curves(report)
    if most <= 1:
        yield row("accuracy", report["micro"])
    else:
        # What a reward model has to beat stands above what it brings.
        yield row("one of N", curves["pass@k"][0])
        for curve in ("majority@k", "likeliest@k", *(() if strategies else ("pass@k",))):
            if curve in curves:
                yield row(curve.replace("@k", f"@{curves[curve][-1]['k']}"), curves[curve][-1])
    if strategies:
        yield row(f"best of {most}, {' / '.join(strategies)}", report["micro"])
    for curve in ("min-vote-sum", "min-likelihood"):
        if curve in curves and curve not in strategies:
            yield row(f"best of {curves[curve][-1]['k']}, {curve}", curves[curve][-1])


def over_runs(rows: Sequence[Row]) -> list[Row]:
    """One row for all that have one run's name and one measure: the means of their numbers (`n` the smallest), and the
    standard deviation of the values with n - 1. By hand: .5 and .7 give .6 with a spread of .1414."""
    alike: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        alike.setdefault((row.run, row.measure), []).append(row)
    merged = []
    for (run, measure), found in alike.items():
        value, low, high = (fmean(getattr(row, key) for row in found) for key in ("value", "low", "high"))
        spread = stdev(row.value for row in found) if len(found) > 1 else None
        spent = {name: fmean(row.cost[name] for row in found) for name in found[0].cost}
        merged.append(Row(run, measure, min(row.n for row in found), value, low, high, spent, len(found), spread))
    return merged


def table(rows: Sequence[Row], *, cost: bool, markdown: bool = False) -> str:
    """Aligned columns, or Markdown; percentages with one decimal. Runs and their spread have columns where a row is of
    several; "+" stands behind costs that a pipe hides a part of."""
    several = any(row.runs > 1 for row in rows)
    head = ["run", "measure", *(["runs"] if several else []), "n", "%", *(["+-"] if several else []), "95 % interval"]
    head += ["tokens", "s", "CPU h", "GPU h"] if cost else []
    body = []
    for row in rows:
        shown = [row.run, row.measure, *([str(row.runs)] if several else []), str(row.n), percent(row.value)]
        shown += [*([percent(row.spread)] if several else []), span(asdict(row))]
        if cost:
            spent = row.cost
            tokens = f"{spent['tokens'] / 1000:.0f} k" if spent["tokens"] >= 10_000 else f"{spent['tokens']:.0f}"
            shown += [tokens + ("" if spent["whole"] == 1 else "+"), f"{spent['seconds']:.0f}"]
            shown += [f"{spent['cpu_hours']:.2f}", f"{spent['gpu_hours']:.2f}"]
        body.append(shown)
    return "\n".join(aligned(head, body, left=2, markdown=markdown)) + "\n"
