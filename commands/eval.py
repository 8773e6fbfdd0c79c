"""`medsss eval`: answers in, one report out. Costs no model and no torch; curves of a problem with right and wrong
candidates take one or two milliseconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options as o

if TYPE_CHECKING:
    from medsss_cli.jsonl import Where
    from medsss_cli.metrics import Tally

FAILED = "(failed)"
MAJORITY, PASS = "majority@k", "pass@k"


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
    k: Annotated[
        str | None,
        typer.Option(
            "--k", metavar="K,K", help="Where to draw the curves; default 1,2,4,... and N.", show_default=False
        ),
    ] = None,
    rejudge: Annotated[
        bool, typer.Option("--rejudge", help="Judge the texts anew, whatever verdicts the records carry.")
    ] = False,
    resamples: Annotated[
        int, typer.Option("--resamples", min=1, metavar="N", help="Bootstrap samples behind each interval.")
    ] = 2000,
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
    from medsss_cli.console import Progress
    from medsss_cli.errors import MedsssError
    from medsss_cli.jsonl import LineWriter
    from medsss_cli.streams import Stream

    points = _points(k)
    _check_output(output, inputs or [], errors)
    options = o.stream_options(inputs, None, errors, None, limit, strict, quiet=True)  # it has its own summary
    totals = _Totals(points, seed)
    stream: Stream[_Item]
    with (
        Stream(options, command="eval", parse=_item_reader(rejudge), config={}) as stream,
        Progress("eval", quiet=quiet) as progress,
    ):
        for item in stream:
            totals.add(item)
            stream.write(item.id, [])
            progress.advance()
    if not totals.problems.count:
        raise MedsssError(
            "there is nothing to evaluate: the input holds no answers",
            hint="pipe in what `medsss sample` or `bon` writes",
        )
    report = totals.report(name=name, resamples=resamples, bad_lines=stream.counts.bad_lines, inputs=inputs or ["-"])
    if not quiet:
        _show(report)
    writer = LineWriter(output)
    writer.write([report])
    writer.close()
    raise typer.Exit(stream.exit_code())


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


def _check_output(output: str | None, inputs: Sequence[str], errors: str | None) -> None:
    import os

    from medsss_cli.errors import UsageError

    for other in [*inputs, *([errors] if errors else [])]:
        if output and os.path.exists(output) and os.path.isfile(other) and os.path.samefile(output, other):
            raise UsageError(f"-o {output} is also {'--errors' if other == errors else 'an input'}")


# One problem


@dataclass(frozen=True, slots=True)
class _Item:
    """What is looked at of a record. `keys`, `correct` and `scores` run beside each other, one entry a candidate;
    `keys` are normalised answers, `scores` the step scores. `selected` is None where nothing was selected. No
    candidates: it failed."""

    id: str
    dataset: str
    kind: str
    keys: list[str | None] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    unparsed: int = 0
    truncated: int = 0
    tokens: int = 0
    scores: list[list[float]] | None = None
    selected: int | None = None
    strategy: str | None = None


def _item_reader(rejudge: bool) -> Callable[[dict[str, Any], Where], _Item]:
    from medsss_cli.adapters import to_samples
    from medsss_cli.answers import answer_key
    from medsss_cli.records import Verdict

    def read(obj: dict[str, Any], where: Where) -> _Item:
        if {"id", "error", "stage"} == set(obj) and isinstance(obj["id"], str):
            return _Item(obj["id"], FAILED, "failed")
        samples = to_samples(obj, where, rejudge=rejudge)
        responses = samples.responses
        correct = [response.verdict is Verdict.CORRECT for response in responses]
        keys: list[str | None] = []
        for response in responses:
            # A verdict that came with the record but without the answer: right ones agree with the gold answer.
            answer = (
                response.answer
                if response.answer is not None or response.verdict is not Verdict.CORRECT
                else samples.answer
            )
            keys.append(None if response.verdict is Verdict.NO_ANSWER else answer_key(samples, answer))
        scores, selected = _scores(obj, samples.id)
        return _Item(
            id=samples.id,
            dataset=samples.dataset,
            kind="scored" if selected is not None else "samples" if "responses" in obj else "responses",
            keys=keys,
            correct=correct,
            unparsed=sum(response.verdict is Verdict.NO_ANSWER for response in responses),
            truncated=sum(response.finish_reason == "length" for response in responses),
            tokens=sum(response.tokens for response in responses),
            scores=scores,
            selected=selected,
            strategy=str(obj.get("strategy", "unknown")) if selected is not None else None,
        )

    return read


def _scores(obj: dict[str, Any], id: str) -> tuple[list[list[float]] | None, int | None]:
    """The step scores and the selection of a scored record; None and None for any other."""
    from medsss_cli.errors import BadRecord

    candidates = obj.get("candidates")
    if not isinstance(candidates, list) or "responses" in obj:
        return None, None
    selected = obj.get("selected")
    if not isinstance(selected, int) or isinstance(selected, bool) or not 0 <= selected < len(candidates):
        raise BadRecord(
            f"{id}: `selected` must be the number of a candidate (0 to {len(candidates) - 1}), got {selected!r}"
        )
    found = [candidate.get("step_scores") if isinstance(candidate, dict) else None for candidate in candidates]
    if all(steps is None for steps in found):
        return None, selected
    scores: list[list[float]] = []
    for steps in found:
        if not isinstance(steps, list) or not all(isinstance(x, (int, float)) and 0.0 <= x <= 1.0 for x in steps):
            raise BadRecord(f"{id}: `step_scores` must be lists of numbers in [0, 1]")
        scores.append(steps)
    return scores, selected


# All problems


class _Totals:
    """The tallies of a run: memory for data sets and points of curves, none for problems."""

    def __init__(self, points: list[int] | None, seed: int) -> None:
        from medsss_cli.metrics import Tally
        from medsss_cli.prm.aggregate import StepAggregation

        self._points = points
        self._seed = seed
        self._new: Callable[[], Tally] = Tally
        self._steps = list(StepAggregation)
        self.problems = Tally()
        self._datasets: dict[str, Tally] = {}
        self._unparsed: dict[str, list[int]] = {}
        self._curves: dict[str, dict[int, Tally]] = {}
        self._kinds: Counter[str] = Counter()
        self._strategies: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._tokens = self._truncated = 0

    def add(self, item: _Item) -> None:
        """Count a problem."""
        self._kinds[item.kind] += 1
        n = len(item.correct)
        if not n:
            value = 0.0
        elif item.selected is not None:
            value = float(item.correct[item.selected])
        else:
            value = sum(item.correct) / n
        self.problems.add(value)
        self._datasets.setdefault(item.dataset, self._new()).add(value)
        unparsed = self._unparsed.setdefault(item.dataset, [0, 0])
        unparsed[0] += item.unparsed
        unparsed[1] += n
        if not n:
            return
        self._sizes[n] += 1
        self._tokens += item.tokens
        self._truncated += item.truncated
        if item.strategy is not None:
            self._strategies[item.strategy] += 1
        if n > 1 or self._points is not None:
            self._add_curves(item)

    def _add_curves(self, item: _Item) -> None:
        from medsss_cli.metrics import best_of_ks, k_values, pass_at_k, votes_at_k

        n, right = len(item.correct), sum(item.correct)
        by_step = self._step_scores(item)
        answered = [key is not None for key in item.keys]
        ks = [k for k in self._points or k_values(n) if k <= n]
        for k in ks:
            self._tally(PASS, k).add(pass_at_k(n, right, k))
            votes = votes_at_k(item.keys, item.correct, list(by_step.values()), k, self._seed)
            self._tally(MAJORITY, k).add(votes.majority)
            for step, by_sum, by_mean in zip(by_step, votes.by_sum, votes.by_mean, strict=True):
                self._tally(f"{step}-vote-sum", k).add(by_sum)
                self._tally(f"{step}-vote-mean", k).add(by_mean)
        for step, scores in by_step.items():
            for k, best in zip(ks, best_of_ks(scores, item.correct, answered, ks), strict=True):
                self._tally(f"{step}-max", k).add(best)

    def _step_scores(self, item: _Item) -> dict[str, list[float]]:
        """The score of every candidate, by step aggregation; nothing without step scores."""
        from medsss_cli.prm.aggregate import aggregate_steps

        if item.scores is None:
            return {}
        return {str(how): [aggregate_steps(steps, how) for steps in item.scores] for how in self._steps}

    def _tally(self, curve: str, k: int) -> Tally:
        points = self._curves.setdefault(curve, {})
        if k not in points:
            points[k] = self._new()
        return points[k]

    def report(self, *, name: str | None, resamples: int, bad_lines: int, inputs: Sequence[str]) -> dict[str, Any]:
        """The report, as it is written."""
        from medsss_cli import __version__
        from medsss_cli.metrics import LEVEL, SUBSETS, Interval, as_record, macro_interval

        def interval(tally: Tally) -> dict[str, Any]:
            return {"n": tally.count, **as_record(tally.interval(self._seed, resamples=resamples))}

        named = {name: tally for name, tally in sorted(self._datasets.items()) if name != FAILED}
        macro: Interval | None = None
        if named:
            macro = macro_interval(list(named.values()), self._seed, resamples=resamples)
        unparsed, responses = (sum(counts[i] for counts in self._unparsed.values()) for i in (0, 1))
        order = [PASS, MAJORITY, *(f"{step}-{way}" for step in self._steps for way in ("max", "vote-sum", "vote-mean"))]
        curves = {
            curve: [{"k": k, **interval(tally)} for k, tally in sorted(self._curves[curve].items())]
            for curve in order
            if curve in self._curves
        }
        return {
            "kind": "report",
            "name": name,
            "n": self.problems.count,
            "failed": self._kinds["failed"],
            "bad_lines": bad_lines,
            "responses": responses,
            "responses_per_problem": {str(n): count for n, count in sorted(self._sizes.items())},
            "accuracy_of": "the selected candidate" if self._strategies else "a response, averaged over each problem's",
            "datasets": {
                dataset: interval(tally) | {"unparsed": _share(*self._unparsed[dataset])}
                for dataset, tally in self._datasets.items()
            },
            "micro": interval(self.problems),
            "macro": None if macro is None else {"datasets": len(named), **as_record(macro)},
            "unparsed": _share(unparsed, responses),
            "truncated": _share(self._truncated, responses),
            "tokens_per_response": round(self._tokens / responses, 1) if responses else None,
            "pass_at_k": curves.pop(PASS, []),
            "majority_at_k": curves.pop(MAJORITY, []),
            "best_of_k": curves,
            "made_from": {
                "inputs": list(inputs),
                "records": dict(self._kinds),
                "strategies": dict(self._strategies),
                "runs": list(_sidecars(inputs)),
            },
            "settings": {"seed": self._seed, "resamples": resamples, "level": LEVEL, "subsets": SUBSETS},
            "version": __version__,
        }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _sidecars(inputs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the commands that wrote the input files left beside them (FILE.run.json): command, version and settings."""
    import orjson

    for path in inputs:
        try:
            with open(f"{path}.run.json", "rb") as file:
                found = orjson.loads(file.read())
        except (OSError, orjson.JSONDecodeError):
            continue
        if isinstance(found, dict):
            yield {"input": path} | {key: found.get(key) for key in ("command", "version", "config")}


# The table


def _show(report: dict[str, Any]) -> None:
    """The report as tables on stderr."""
    from rich.table import Table

    from medsss_cli.console import console, printable

    screen = console()

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    def cells(point: dict[str, Any]) -> tuple[str, str]:
        return percent(point["value"]), f"{percent(point['low'])} to {percent(point['high'])}"

    table = Table(box=None, title=printable(report["name"]) if report["name"] else None, pad_edge=False)
    table.add_column("data set", overflow="fold")
    for column in ("n", "accuracy %", "95 % interval", "unparsed %"):
        table.add_column(column, justify="right")
    for dataset, row in report["datasets"].items():
        table.add_row(printable(dataset).replace("[", r"\["), str(row["n"]), *cells(row), percent(row["unparsed"]))
    table.add_section()
    table.add_row("all problems (micro)", str(report["n"]), *cells(report["micro"]), percent(report["unparsed"]))
    if report["macro"]:
        table.add_row(f"mean of {report['macro']['datasets']} data sets (macro)", "", *cells(report["macro"]), "")
    screen.print(table)
    curves = {PASS: report["pass_at_k"], MAJORITY: report["majority_at_k"], **report["best_of_k"]}
    points = sorted({point["k"] for curve in curves.values() for point in curve})
    if points:
        table = Table(box=None, pad_edge=False)
        table.add_column("\n% right, k =")
        for k in points:
            table.add_column(f"\n{k}", justify="right")
        for curve, values in curves.items():
            found = {point["k"]: percent(point["value"]) for point in values}
            if found:
                table.add_row(curve, *(found.get(k, "-") for k in points))
        screen.print(table)
    strategies = ", ".join(report["made_from"]["strategies"])
    screen.print(
        f"accuracy of {report['accuracy_of']}" + (f" ({printable(strategies)})" if strategies else ""), markup=False
    )
    if report["failed"]:
        screen.print(f"{report['failed']} problems failed; they count as wrong", markup=False)
    if report["bad_lines"]:
        screen.print(f"{report['bad_lines']} lines could not be used; they are not counted", markup=False)
