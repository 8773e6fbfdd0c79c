"""`medsss eval`: answers in, one report out; or two runs compared; or a reward model's step scores held against gold.
Costs no model and no torch: all curves of a problem with 16 candidates take about a millisecond."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, TypeVar

import typer

from medsss_cli import __version__
from medsss_cli.answers import Extract
from medsss_cli.console import Progress, note, say
from medsss_cli.errors import UsageError
from medsss_cli.evaluation.accuracy import answers_report
from medsss_cli.evaluation.compare import comparison_report
from medsss_cli.evaluation.items import read_item
from medsss_cli.evaluation.plots import check_plot, draw
from medsss_cli.evaluation.provenance import cost_behind, sha256, versions, wrote
from medsss_cli.evaluation.steps import read_steps, step_report
from medsss_cli.settings import Opt, check
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import HasId, Where, check_inputs, first_of_each, read_records
from medsss_cli.stream.outputs import check_outputs, open_whole

from ._options import Inputs, Output, Restart, Strict, options, refuse_given
from ._tables import report_text

T = TypeVar("T", bound=HasId)


class Points(tuple[int, ...]):
    """Numbers of candidates, in order."""

    @classmethod
    def parse(cls, text: str) -> Points:
        """`1,4,16`. Raises UsageError."""
        try:
            points = sorted({int(part) for part in text.split(",")})
        except ValueError:
            points = [0]
        if points[0] < 1:
            raise UsageError(f"not a list of numbers of candidates: --k {text}", hint="--k 1,4,16")
        return cls(points)


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What to evaluate, how, and what to make of it."""

    GROUP: ClassVar[str] = ""

    inputs: Inputs = ()
    output: Output = None
    name: Annotated[str | None, Opt("What to call this run in the report.", metavar="LABEL")] = None
    by: Annotated[str | None, Opt("Accuracies by a field of the record: meta.clinic.kind.", metavar="FIELD")] = None
    compare: Annotated[
        tuple[str, str] | None, Opt("Compare two runs, paired by id, with an exact test.", metavar="A B")
    ] = None
    steps: Annotated[bool, Opt("Hold step scores against gold: first-error F1, AUROC, calibration.")] = False

    k: Annotated[
        Points | None,
        Opt("Where to draw curves; 1,2,4,... and N otherwise.", metavar="K,K", parse=Points.parse, group="Measures"),
    ] = None
    extract: Annotated[
        Extract | None, Opt("Read the answers anew, whatever verdicts the records carry.", group="Measures")
    ] = None
    threshold: Annotated[
        float,
        Opt("--steps: a step that scores below is held for wrong.", least=0, most=1, metavar="P", group="Measures"),
    ] = 0.5

    plot: Annotated[str | None, Opt("Draw a figure (.png, .svg, .pdf).", metavar="FILE", group="Output")] = None
    restart: Restart = False
    strict: Strict = False
    quiet: Annotated[
        bool, Opt("The report alone: no progress, no tables.", names=("--quiet", "-q"), group="Output")
    ] = False

    def __post_init__(self) -> None:
        check(self)


@options
def run(*, given: EvalOptions) -> None:
    """Say how good answers are: accuracy with intervals, unparsed rate, pass@k, majority@k, likeliest@k, best-of-k.

    Reads samples, scored records, or problems with a `response` or `output`; error records count as failed problems.
    The report is one JSON object, on stdout or in -o FILE; tables of it go to stderr. On a terminal the tables alone
    are shown. Failed problems and unread answers stay in the denominator. Exit status 1 where a line was bad, 2 where
    there was nothing to evaluate.
    """
    _refuse(given)
    sources = given.compare or given.inputs or ("-",)
    check_inputs(sources)
    check_outputs(sources, {"-o": given.output, "--plot": given.plot})
    with ExitStack() as stack:
        faults = stack.enter_context(Faults(strict=given.strict))
        out = stack.enter_context(open_whole(given.output, inputs=sources, restart=given.restart))
        figure = None
        if given.plot is not None:
            check_plot(given.plot)
            figure = stack.enter_context(open_whole(given.plot, inputs=sources, restart=given.restart, option="--plot"))
        report = _compared(given, faults) if given.compare else _evaluated(given, sources, faults)
        report |= {"name": given.name, "version": __version__, "versions": versions()}
        if given.extract is not None:
            report["settings"]["extract"] = given.extract
        if figure is not None:
            figure.write_bytes(draw(report, os.path.splitext(str(given.plot))[1][1:].lower()))
        on_screen = given.output is None and not given.quiet and os.isatty(out.fd)
        if on_screen:
            out.write_bytes(report_text(report).encode("utf-8", "replace"))
        else:
            out.write([report])
    if not on_screen and not given.quiet:
        say(report_text(report).rstrip("\n"))
    if given.plot is not None and not given.quiet:
        note(f"eval: drew {given.plot}")
    raise typer.Exit(faults.exit_code)


def _refuse(given: EvalOptions) -> None:
    """An option that is not looked at is a mistake, not a wish to be passed over."""
    if given.compare is not None:
        refuse_given(("steps", "by", "k", "threshold", "plot"), "has no place beside --compare")
        if given.inputs:
            raise UsageError("input files have no place beside --compare, which names both runs")
        if given.compare == ("-", "-"):
            raise UsageError("--compare: only one of the two runs can be stdin")
    elif given.steps:
        refuse_given(("by", "k", "extract"), "has no place beside --steps")
    else:
        refuse_given(("threshold",), "wants --steps")


def _read(
    sources: Sequence[str], parse: Callable[[dict[str, Any], Where], T], given: EvalOptions, faults: Faults
) -> list[T]:
    """The records, of each id the first."""
    records = []
    with Progress("eval", quiet=given.quiet) as progress:
        found = first_of_each(read_records(sources, parse, on_bad=faults.bad), on_bad=faults.bad)
        for _, record in found:
            records.append(record)
            progress.advance()
    return records


def _evaluated(given: EvalOptions, sources: Sequence[str], faults: Faults) -> dict[str, Any]:
    """The report of one run: of its answers, or of its step scores."""
    if given.steps:
        scored = _read(sources, read_steps, given, faults)
        if not any(item.trajectories for item in scored):
            raise UsageError(
                "there is nothing to evaluate: the input holds no step scores with gold labels",
                hint="medsss clinic | medsss sample | medsss bon --prm R | medsss eval --steps",
            )
        report = step_report(scored, given.threshold)
    else:
        items = _read(sources, partial(read_item, rejudge=given.extract, by=given.by), given, faults)
        if not items:
            raise UsageError(
                "there is nothing to evaluate: the input holds no answers",
                hint="pipe in what `medsss sample` or `bon` writes",
            )
        report = answers_report(items, given.k or (), given.by)
    runs = [{"input": path} | found for path in sources if (found := wrote(path))]
    made_from = {"inputs": list(sources), "sha256": {path: sha256(path) for path in sources}, "runs": runs}
    return report | {
        "bad_lines": faults.bad_lines,
        "seconds": sum(run["seconds"] for run in runs) if runs and all("seconds" in run for run in runs) else None,
        "cost": cost_behind(sources),
        "made_from": made_from | report.get("made_from", {}),
    }


def _compared(given: EvalOptions, faults: Faults) -> dict[str, Any]:
    """The report of two runs, A and B."""
    assert given.compare is not None
    sides, made_from = [], {}
    for label, source in zip("ab", given.compare, strict=True):
        before = faults.bad_lines
        items = _read([source], partial(read_item, rejudge=given.extract), given, faults)
        bad = faults.bad_lines - before
        made_from[label] = {"input": source, "sha256": sha256(source), "problems": len(items), "bad_lines": bad}
        made_from[label] |= wrote(source)
        sides.append(items)
    try:
        report = comparison_report(*sides)
    except ValueError as error:
        raise UsageError(
            f"there is nothing to compare: {error}, {' and '.join(given.compare)}",
            hint="runs are paired by the ids of problems",
        ) from None
    return report | {"made_from": {"runs": made_from}}
