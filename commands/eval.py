"""`medsss eval`: answers in, one report out; or two runs compared; or a reward model's step scores held against gold.
Costs no model and no torch: curves of a problem with 16 candidates take some tenths of a millisecond."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from . import _options as o

if TYPE_CHECKING:
    from medsss_cli.answers import Extract
    from medsss_cli.stream.jsonl import Where
    from medsss_cli.stream.run import HasId, StreamCounts

    T = TypeVar("T", bound=HasId)


def run(
    inputs: o.Inputs = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the report here instead of stdout.", show_default=False
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="LABEL", help="What to call this run in the report.", show_default=False),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare",
            metavar="RUN_A RUN_B",
            help="Compare two runs, paired by id: difference with interval, McNemar's exact test.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        bool, typer.Option("--steps", help="Hold step scores against gold labels: first-error F1, AUROC, calibration.")
    ] = False,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="FIELD",
            help="Accuracies by a field of the record: meta.clinic.kind.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[
        str | None,
        typer.Option(
            "--k", metavar="K,K", help="Where to draw the curves; default 1,2,4,... and N.", show_default=False
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            min=0.0,
            max=1.0,
            metavar="P",
            help="--steps: a step that scores below it is held for wrong; default 0.5.",
            show_default=False,
        ),
    ] = None,
    rejudge: Annotated[
        bool, typer.Option("--rejudge", help="Judge the texts anew, whatever verdicts the records carry.")
    ] = False,
    extract: Annotated[
        Literal["flexible", "strict", "published"] | None,
        typer.Option(
            "--extract",
            help="Judge anew: answers are read from a statement or the last line; a statement; as the authors do.",
            show_default=False,
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option("--resamples", min=1, metavar="N", help="Bootstrap samples behind each interval.")
    ] = 2000,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Draw a figure (.png, .svg, .pdf).", show_default=False),
    ] = None,
    log_samples: Annotated[
        str | None,
        typer.Option(
            "--log-samples",
            metavar="DIR",
            help="Write samples and results in the layout of lm-evaluation-harness.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The report alone: no table and no plot on stderr.")] = False,
    seed: o.Seed = 0,
    errors: o.Errors = None,
    limit: o.Limit = None,
    strict: o.Strict = False,
    quiet: o.Quiet = False,
) -> None:
    """Say how good answers are: accuracy with intervals, unparsed rate, pass@k, majority@k, best-of-k.

    Reads samples, scored records, or problems with a `response` or `output`; error records count as failed problems. A
    table goes to stderr, the report as one JSON object to stdout. All means are over problems; what failed or gave no
    answer stays in the denominator. Exit status 1 where there was nothing to evaluate.
    """
    import time

    from medsss_cli.answers import Extract
    from medsss_cli.console import note
    from medsss_cli.stream.jsonl import LineWriter

    points = _points(k)
    _refuse(
        compare=compare is not None,
        steps=steps,
        given={
            "--by": by is not None,
            "--k": k is not None,
            "--rejudge": rejudge,
            "--extract": extract is not None,
            "--log-samples": log_samples is not None,
            "--threshold": threshold is not None,
            "input files": bool(inputs),
        },
    )
    sources = list(compare or inputs or ())
    _check_output(output, sources, errors)
    if plot is not None:
        from medsss_cli.evaluation.plots import check_plot

        check_plot(plot)
    started = time.monotonic()
    reading = _Reading(errors, limit, strict, quiet)
    way = Extract(extract) if extract is not None else Extract.FLEXIBLE if rejudge else None
    if compare is not None:
        report = _compare(reading, compare, way, name, seed, resamples)
    elif steps:
        report = _steps(reading, sources, 0.5 if threshold is None else threshold, name, seed, resamples)
    else:
        report = _answers(reading, sources, points, by, way, log_samples, name, seed, resamples)
    if way is not None:
        report["settings"]["extract"] = way.value
    if plot is not None:
        from medsss_cli.evaluation.plots import draw

        draw(report, plot)
    if not quiet and not json:
        from ._eval_tables import show

        show(report, figure=plot)
        note(f"eval: {reading.read} records in {time.monotonic() - started:.1f} s")
    writer = LineWriter(output)
    writer.write([report])
    writer.close()
    raise typer.Exit(1 if reading.bad else 0)


def _points(text: str | None) -> list[int] | None:
    from medsss_cli.errors import UsageError

    if text is None:
        return None
    try:
        points = sorted({int(part) for part in text.split(",")})
    except ValueError:
        points = [0]
    if points[0] < 1:
        raise UsageError(f"not a list of numbers of candidates: --k {text}", hint="--k 1,4,16")
    return points


def _refuse(*, compare: bool, steps: bool, given: dict[str, bool]) -> None:
    """An option that is not looked at is a mistake, not a wish to be passed over."""
    from medsss_cli.errors import UsageError

    if compare and steps:
        raise UsageError("--compare and --steps exclude each other")
    foreign = (
        {"--compare": ("--by", "--k", "--log-samples", "--threshold", "input files")}
        if compare
        else {"--steps": ("--by", "--k", "--rejudge", "--extract", "--log-samples")}
        if steps
        else {"a report of answers": ("--threshold",)}
    )
    for what, names in foreign.items():
        for name in names:
            if given[name]:
                raise UsageError(f"{name} have no place beside {what}" if " " in name else f"{what} takes no {name}")


def _check_output(output: str | None, inputs: Sequence[str], errors: str | None) -> None:
    import os

    from medsss_cli.errors import UsageError

    for other in [*inputs, *([errors] if errors else [])]:
        if output and os.path.exists(output) and os.path.isfile(other) and os.path.samefile(output, other):
            raise UsageError(f"-o {output} is also {'--errors' if other == errors else 'an input'}")


class _Reading:
    """The streams of one call: `read` records and `bad` lines in all."""

    def __init__(self, errors: str | None, limit: int | None, strict: bool, quiet: bool) -> None:
        self.read = self.bad = 0
        self._errors = errors
        self._limit = limit
        self._strict = strict
        self._quiet = quiet

    def each(
        self, sources: Sequence[str], parse: Callable[[dict[str, Any], Where], T], take: Callable[[T], None]
    ) -> StreamCounts:
        """Hand every record of the sources to `take`; returns the counts."""
        from medsss_cli.console import Progress
        from medsss_cli.stream.run import Stream

        # The stream says nothing of its own: there is a summary.
        options = o.stream_options(list(sources), None, self._errors, None, self._limit, self._strict, quiet=True)
        stream: Stream[T]
        with (
            Stream(options, command="eval", parse=parse, config={}) as stream,
            Progress("eval", quiet=self._quiet) as progress,
        ):
            for record in stream:
                take(record)
                stream.write(record.id, [])
                progress.advance()
        self.read += stream.counts.read
        self.bad += stream.counts.bad_lines
        return stream.counts


def _answers(
    reading: _Reading,
    sources: list[str],
    points: list[int] | None,
    by: str | None,
    rejudge: Extract | None,
    log_samples: str | None,
    name: str | None,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    from medsss_cli.errors import MedsssError
    from medsss_cli.evaluation.items import item_reader
    from medsss_cli.evaluation.provenance import Hashes, Origin, sidecars
    from medsss_cli.evaluation.totals import Totals

    totals = Totals(points, seed, by)
    hashes = Hashes(sources or ["-"])
    log = None
    if log_samples is not None:
        from medsss_cli.evaluation.harness import SampleLog

        settings = [run["config"] for run in sidecars(sources) if isinstance(run["config"], dict)]
        policy = next((each["policy"] for each in settings if isinstance(each.get("policy"), str)), None)
        log = SampleLog(log_samples, name or policy or "model")
    try:
        parse = item_reader(rejudge=rejudge, by=by, keep=log.add if log is not None else None)
        counts = reading.each(sources, parse, totals.add)
    except BaseException:
        hashes.stop()
        if log is not None:
            log.close()
        raise
    if not totals.count:
        raise MedsssError(
            "there is nothing to evaluate: the input holds no answers",
            hint="pipe in what `medsss sample` or `bon` writes",
        )
    origin = Origin(name, sources or ["-"], hashes.found(), counts.bad_lines, seed, resamples)
    report = totals.report(origin)
    if log is not None:
        log.close(report)
    return report


def _steps(
    reading: _Reading, sources: list[str], threshold: float, name: str | None, seed: int, resamples: int
) -> dict[str, Any]:
    from medsss_cli.errors import MedsssError
    from medsss_cli.evaluation.provenance import Hashes, Origin
    from medsss_cli.evaluation.steps import StepTotals, step_reader

    totals = StepTotals(threshold)
    hashes = Hashes(sources or ["-"])
    try:
        counts = reading.each(sources, step_reader(), totals.add)
    except BaseException:
        hashes.stop()
        raise
    if not totals.trajectories:
        raise MedsssError(
            "there is nothing to evaluate: the input holds no step scores with gold labels",
            hint="medsss clinic | medsss sample | medsss bon --prm R | medsss eval --steps",
        )
    origin = Origin(name, sources or ["-"], hashes.found(), counts.bad_lines, seed, resamples)
    return totals.report(origin)


def _compare(
    reading: _Reading, runs: tuple[str, str], rejudge: Extract | None, name: str | None, seed: int, resamples: int
) -> dict[str, Any]:
    from medsss_cli.errors import MedsssError, UsageError
    from medsss_cli.evaluation.compare import Answers, compare
    from medsss_cli.evaluation.items import item_reader
    from medsss_cli.evaluation.provenance import Hashes, sidecars
    from medsss_cli.stream.jsonl import check_inputs

    if runs[0] == runs[1] == "-":
        raise UsageError("--compare: only one of the two runs can be stdin")
    check_inputs(runs)
    hashes = Hashes(runs)
    sides = (Answers(), Answers())
    parse = item_reader(rejudge=rejudge)
    try:
        bad = [reading.each([run], parse, side.add).bad_lines for run, side in zip(runs, sides, strict=True)]
    except BaseException:
        hashes.stop()
        raise
    try:
        report = compare(*sides, seed=seed, resamples=resamples)
    except ValueError as error:
        raise MedsssError(
            f"there is nothing to compare: {error}, {runs[0]} and {runs[1]}",
            hint="runs are paired by the ids of problems",
        ) from None
    found = hashes.found()
    made_from = {
        label: {"input": run, "sha256": found[run], "problems": len(side), "bad_lines": lines}
        | {key: value for ran in sidecars([run]) for key, value in ran.items() if key != "input"}
        for label, run, side, lines in zip("ab", runs, sides, bad, strict=True)
    }
    return report | {"name": name, "made_from": {"runs": made_from}}
