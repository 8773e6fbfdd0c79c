"""`medsss eval`: answers in, one report out; or two runs compared; or a reward model's step scores held against gold.
Costs no model and no torch: all curves of a problem with 16 candidates take about a millisecond."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any, TypeVar

import typer

from medsss_cli import __version__
from medsss_cli.answers import Extract
from medsss_cli.console import Progress, note, say
from medsss_cli.errors import UsageError
from medsss_cli.evaluation.items import Item, read_item
from medsss_cli.evaluation.plots import check_plot, draw
from medsss_cli.evaluation.provenance import cost_behind, sha256, versions, wrote
from medsss_cli.evaluation.reports import answers_report, comparison_report
from medsss_cli.evaluation.steps import StepItem, read_steps, step_report
from medsss_cli.settings import Opt
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import HasId, Where, check_inputs, first_of_each, read_records
from medsss_cli.stream.outputs import check_outputs, open_whole

from ._options import Inputs, Output, Restart, Strict, options, refuse_given
from ._tables import report_text

T = TypeVar("T", bound=HasId)


@options
def run(
    *,
    inputs: Inputs = (),
    output: Output = None,
    name: Annotated[str | None, Opt("What to call this run in the report.", metavar="LABEL")] = None,
    by: Annotated[str | None, Opt("Accuracies by a field of the record: meta.clinic.kind.", metavar="FIELD")] = None,
    compare: Annotated[
        tuple[str, str] | None, Opt("Compare two runs, paired by id, with an exact test.", metavar="A B")
    ] = None,
    steps: Annotated[bool, Opt("Hold step scores against gold: first-error F1, AUROC, calibration.")] = False,
    k: Annotated[
        str | None, Opt("Where to draw curves; 1,2,4,... and N otherwise.", metavar="K,K", group="Measures")
    ] = None,
    extract: Annotated[
        Extract | None, Opt("Read the answers anew, whatever verdicts the records carry.", group="Measures")
    ] = None,
    threshold: Annotated[
        float,
        Opt("--steps: a step that scores below is held for wrong.", least=0, most=1, metavar="P", group="Measures"),
    ] = 0.5,
    plot: Annotated[str | None, Opt("Draw a figure (.png, .svg, .pdf).", metavar="FILE", group="Output")] = None,
    restart: Restart = False,
    strict: Strict = False,
    quiet: Annotated[
        bool, Opt("The report alone: no progress, no tables.", names=("--quiet", "-q"), group="Output")
    ] = False,
) -> None:
    """Say how good answers are: accuracy with intervals, unparsed rate, pass@k, majority@k, likeliest@k, best-of-k.

    Reads samples, scored records, or problems with a `response` or `output`; error records count as failed problems.
    The report is one JSON object, on stdout or in -o FILE; tables of it go to stderr. On a terminal the tables alone
    are shown. Failed problems and unread answers stay in the denominator. Exit status 1 where a line was bad, 2 where
    there was nothing to evaluate.
    """
    if compare is not None:
        refuse_given(("inputs", "steps", "by", "k", "threshold", "plot"), "has no place beside --compare")
    elif steps:
        refuse_given(("by", "k", "extract"), "has no place beside --steps")
    else:
        refuse_given(("threshold",), "wants --steps")
    points = _points(k)
    sources = compare or inputs or ("-",)
    check_inputs(sources)
    check_outputs(sources, {"-o": output, "--plot": plot})
    with ExitStack() as stack:
        faults = stack.enter_context(Faults(strict=strict))
        out = stack.enter_context(open_whole(output, inputs=sources, restart=restart))
        figure = None
        if plot is not None:
            check_plot(plot)
            figure = stack.enter_context(open_whole(plot, inputs=sources, restart=restart, option="--plot"))
        read = partial(_read, faults=faults, quiet=quiet)
        if compare is not None:
            report = _compared(compare, partial(read, parse=partial(read_item, rejudge=extract)), faults)
        else:
            if steps:
                report = _of_steps(read(sources, read_steps), threshold)
            else:
                report = _of_answers(read(sources, partial(read_item, rejudge=extract, by=by)), points, by)
            report |= _behind(sources, report.get("made_from", {}))
        report |= {"name": name, "bad_lines": faults.bad_lines, "version": __version__, "versions": versions()}
        if extract is not None:
            report["settings"]["extract"] = extract
        if figure is not None:
            figure.write_bytes(draw(report, os.path.splitext(str(plot))[1][1:].lower()))
        on_screen = output is None and not quiet and os.isatty(out.fd)
        if on_screen:
            out.write_bytes(report_text(report).encode("utf-8", "replace"))
        else:
            out.write([report])
    if not on_screen and not quiet:
        say(report_text(report).rstrip("\n"))
    if plot is not None and not quiet:
        note(f"eval: drew {plot}")
    raise typer.Exit(faults.exit_code)


def _points(text: str | None) -> list[int]:
    """`1,4,16`. Raises UsageError."""
    points = text.split(",") if text else []
    if not all(point.strip().isdecimal() and int(point) > 0 for point in points):
        raise UsageError(f"not a list of numbers of candidates: --k {text}", hint="--k 1,4,16")
    return sorted({int(point) for point in points})


def _read(
    sources: Sequence[str], parse: Callable[[dict[str, Any], Where], T], *, faults: Faults, quiet: bool
) -> list[T]:
    """The records, of each id the first."""
    records = []
    with Progress("eval", quiet=quiet) as progress:
        for _, record in first_of_each(read_records(sources, parse, on_bad=faults.bad), on_bad=faults.bad):
            records.append(record)
            progress.advance()
    return records


def _of_steps(items: list[StepItem], threshold: float) -> dict[str, Any]:
    """The report of step scores. Raises UsageError where there are none."""
    if not any(item.trajectories for item in items):
        raise UsageError(
            "there is nothing to evaluate: the input holds no step scores with gold labels",
            hint="medsss clinic | medsss sample | medsss bon --prm R | medsss eval --steps",
        )
    return step_report(items, threshold)


def _of_answers(items: list[Item], points: list[int], by: str | None) -> dict[str, Any]:
    """The report of answers. Raises UsageError where there are none."""
    if not items:
        hint = "pipe in what `medsss sample` or `bon` writes"
        raise UsageError("there is nothing to evaluate: the input holds no answers", hint=hint)
    return answers_report(items, points, by)


def _behind(sources: Sequence[str], made_from: dict[str, Any]) -> dict[str, Any]:
    """What a report of one run stands on, and what that took."""
    runs = [{"input": path} | found for path in sources if (found := wrote(path))]
    told = {"inputs": list(sources), "sha256": {path: sha256(path) for path in sources}, "runs": runs}
    return {
        "seconds": sum(run["seconds"] for run in runs) if runs and all("seconds" in run for run in runs) else None,
        "cost": cost_behind(sources),
        "made_from": told | made_from,
    }


def _compared(sources: tuple[str, str], read: Callable[[Sequence[str]], list[Item]], faults: Faults) -> dict[str, Any]:
    """The report of two runs, A and B."""
    if sources == ("-", "-"):
        raise UsageError("--compare: only one of the two runs can be stdin")
    sides, made_from = [], {}
    for label, source in zip("ab", sources, strict=True):
        before = faults.bad_lines
        items = read([source])
        bad = faults.bad_lines - before
        made_from[label] = {"input": source, "sha256": sha256(source), "problems": len(items), "bad_lines": bad}
        made_from[label] |= wrote(source)
        sides.append(items)
    try:
        report = comparison_report(*sides)
    except ValueError as error:
        raise UsageError(
            f"there is nothing to compare: {error}, {' and '.join(sources)}",
            hint="runs are paired by the ids of problems",
        ) from None
    return report | {"made_from": {"runs": made_from}}
