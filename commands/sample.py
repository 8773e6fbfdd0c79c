"""`medsss sample`: n answers of a policy to each problem, judged by rule, with the share that is right.

Costs n completions a problem; with `--correct` n, or 2 n where the policy is native, for each wrong answer. With
`--curriculum K` no policy is opened: from answers that are there the problems are chosen that are worth a search, which
only the whole input can tell, so they are written at the end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

import typer
from msgspec import UNSET

from medsss_cli.console import Progress, note, warn
from medsss_cli.correction import corrections
from medsss_cli.engines import EngineConfig, open_engine
from medsss_cli.errors import BadRecord, UsageError
from medsss_cli.problems import to_problem, to_samples
from medsss_cli.problems.curriculum import ALL, Band, Curriculum
from medsss_cli.records import Problem, Response, Samples, Verdict
from medsss_cli.requests import Engine
from medsss_cli.sampling import SamplingConfig, answers, with_responses
from medsss_cli.settings import Opt, options_of
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import Where, first_of_each, read_records
from medsss_cli.stream.outputs import open_whole
from medsss_cli.stream.run import Stream, StreamOptions, run_concurrently
from medsss_cli.thoughts import Refusal

from ._options import options, refuse_given

PIPE = "medsss sample problems.jsonl -n 8 | medsss sample --curriculum K"

FEW, UNREADABLE = 0.1, 0.2  # shares below and above which a warning says what to do
FEW_ADVICE = (
    "little to learn from; try --prompting instruct, a lower --temperature with a larger -n, --template thought "
    "--reveal-answer, or a stronger --policy as the teacher (--engine http)"
)
UNREADABLE_ADVICE = "look at some with `medsss view`; --prompting instruct tells a chat model the form"


@options
def run(
    *,
    sampling: SamplingConfig,
    engine: EngineConfig,
    curriculum: Annotated[
        int | None,
        Opt(
            "Read samples records and write problems: per dataset the K with the lowest pass rate, those always right "
            "left out. Opens no policy.",
            least=1,
            metavar="K",
        ),
    ] = None,
    pass_rate: Annotated[
        Band | None,
        Opt(
            "Only records with LOW <= pass rate < HIGH (1 counts in LOW:1): --curriculum leaves the others out, "
            "--correct passes them unchanged.",
            parse=Band.parse,
            metavar="LOW:HIGH",
        ),
    ] = None,
    keep: Annotated[bool, Opt("Samples records in the input keep their answers, and get these besides.")] = False,
    correct: Annotated[
        bool, Opt("Read samples records, and have every wrong answer put right, -n tries each.")
    ] = False,
    stream: StreamOptions,
) -> None:
    """Draw n answers to each problem, judge them, and write them with their pass rate.

    Reads problems (any record, or a public benchmark file), writes one samples record a problem. With --correct it
    reads samples records and adds what became of their wrong answers. With --curriculum K it reads samples records and
    writes the hard problems, with `meta.pass_rate`.
    """
    if curriculum is not None:
        drawing = {*options_of(SamplingConfig), *options_of(EngineConfig), "correct", "keep"}
        refuse_given(drawing, "is for drawing, and --curriculum chooses from answers that are there", PIPE)
        refuse_given(("shard", "limit", "ordered"), "does not go with --curriculum, which looks at the whole input")
        raise typer.Exit(_choose(Curriculum(curriculum, pass_rate or ALL), stream))
    if sampling.greedy:
        refuse_given(("temperature", "top_p"), "draws, and --greedy takes the likeliest", "leave one of the two out")
    for wrong, said in (
        (correct and (sampling.template or keep), "--correct goes neither with --template nor with --keep"),
        (pass_rate and not correct, "--pass-rate goes with --curriculum or --correct"),
        (
            sampling.reveal_answer and not (sampling.template or correct),
            "--reveal-answer goes with --template or --correct",
        ),
    ):
        if wrong:
            raise UsageError(said)
    config = engine.writer() | sampling.as_record()
    if correct:
        # "others" is an option of older versions, whose runs go on.
        config |= {"n": sampling.n or 1, "correct": True, "others": 0, "pass_rate": pass_rate}
        put_right = partial(_put_right, sampling, pass_rate or ALL, engine.policy)
        raise typer.Exit(_run(stream, to_samples, config, engine, put_right, "correction"))
    config |= {"keep": True} if keep else {}
    draw = partial(_draw, sampling, engine.policy if keep else None)
    raise typer.Exit(_run(stream, _samples_or_problem if keep else to_problem, config, engine, draw, "response"))


Done = tuple[Samples, list[Response]]
"""The record to write, and the answers that are new in it."""


async def _draw(sampling: SamplingConfig, signed: str | None, problem: Problem, engine: Engine) -> Done:
    """New answers beside those that are kept, `signed` with their policy where there may be several."""
    new = await answers(problem, engine, sampling, policy=signed)
    kept = problem.responses if isinstance(problem, Samples) else []
    return with_responses(problem, [*kept, *new]), new


async def _put_right(sampling: SamplingConfig, band: Band, policy: str, samples: Samples, engine: Engine) -> Done:
    """Corrections of the wrong answers; a record out of the band passes unchanged."""
    if not band.holds(samples.pass_rate):
        return samples, []
    signed = any(response.policy is not UNSET for response in samples.responses)
    new = await corrections(samples, engine, sampling, policy=policy if signed else None)
    return with_responses(samples, [*samples.responses, *new]), new


def _samples_or_problem(obj: dict[str, Any], where: Where) -> Problem:
    """A record with answers as samples, any other as the problem that it holds."""
    return to_samples(obj, where) if "responses" in obj else to_problem(obj, where)


P = TypeVar("P", bound=Problem)


def _run(
    options: StreamOptions,
    parse: Callable[[dict[str, Any], Where], P],
    config: dict[str, Any],
    policy: EngineConfig,
    work: Callable[[P, Engine], Awaitable[Done]],
    what: str,
) -> int:
    """Do `work` on every record of the stream; returns the exit status."""
    with (
        Stream(options, command="sample", parse=parse, config=config) as stream,
        Progress("problems", total=stream.expected(), quiet=options.quiet) as progress,
    ):
        tally = _Tally(progress, what)

        async def whole() -> None:
            async with open_engine(policy) as engine:

                async def one(problem: P) -> Sequence[Samples]:
                    record, new = await work(problem, engine)
                    tally.add(new)
                    return [record]

                await run_concurrently(stream, one, stage="sample", concurrency=engine.concurrency)

        asyncio.run(whole())
    if not options.quiet:
        tally.say()
    return stream.exit_code()


def _choose(chooser: Curriculum, options: StreamOptions) -> int:
    """Write the hard problems of each dataset; returns the exit status."""
    with (
        open_whole(options.output, inputs=options.inputs, errors=options.errors, restart=options.restart) as writer,
        Faults(errors=options.errors, strict=options.strict) as faults,
    ):
        found = read_records(options.inputs, _answered, on_bad=faults.bad)
        for _, samples in first_of_each(found, on_bad=faults.bad):
            chooser.offer(samples)
        if not chooser.counts["offered"]:
            raise UsageError("the input holds no answers to choose by", hint=PIPE)
        chosen = chooser.chosen()
        for problem in chosen:
            writer.write([problem])
    faults.say_causes()
    if not options.quiet:
        left_out = f"{chooser.counts['solved']} always right"
        left_out += f", {chooser.counts['outside']} outside --pass-rate" if chooser.counts["outside"] else ""
        left_out += f", {chooser.counts['unjudged']} not judged" if chooser.counts["unjudged"] else ""
        note(f"curriculum: {len(chosen)} of {chooser.counts['offered']} problems kept; {left_out}")
    return faults.exit_code


def _answered(obj: dict[str, Any], where: Where) -> Samples:
    if not {"responses", "response", "output"} & obj.keys():
        raise BadRecord(f"no answers to choose by: draw them first, {PIPE}")
    return to_samples(obj, where)


class _Tally:
    """Counts new answers as they come, for the line of progress and the summary."""

    def __init__(self, progress: Progress, what: str) -> None:
        self.progress, self.what = progress, what
        self.counts = Counter[str]()
        self.refused = Counter[str]()

    def add(self, new: Sequence[Response]) -> None:
        """A record is done; `new` are its new answers."""
        verdicts = Counter(str(response.verdict) for response in new)
        self.counts += verdicts + Counter(
            problems=1,
            solved=Verdict.CORRECT in verdicts,
            responses=len(new),
            tokens=sum(response.tokens for response in new),
            cut=sum(response.finish_reason == "length" for response in new),
            originals=len({response.corrects for response in new}),
        )
        self.refused.update(form for response in new if (form := response.form or "") in _REFUSED)
        self.progress.set(accuracy=self._share(Verdict.CORRECT), tokens_per_s=self._rate())
        self.progress.advance()

    def _share(self, verdict: Verdict) -> float:
        return self.counts[verdict] / max(self.counts["responses"], 1)

    def _rate(self) -> int:
        return round(self.counts["tokens"] / self.progress.seconds)

    def say(self) -> None:
        """The lines at the end."""
        counts = self.counts
        if counts["problems"]:
            of = f" of {counts['originals']} wrong answers" if self.what == "correction" else ""
            note(
                f"sample: {counts['problems']} problems, {counts['responses']} {self.what}s{of}, "
                f"accuracy {self._share(Verdict.CORRECT):.1%}, unparsed {self._share(Verdict.NO_ANSWER):.1%}, "
                f"{counts['tokens']} tokens at {self._rate()}/s"
            )
        if self.refused:
            reasons = ", ".join(f"{count} {_REFUSED[form]}" for form, count in self.refused.most_common())
            note(f"sample: {self.refused.total()} responses refused, which count as no answer: {reasons}")
        if self.what == "correction":
            if counts["responses"] and not counts["solved"]:
                warn("no correction is right: there is nothing here to train on")
            return
        if counts["solved"] < FEW * counts["problems"]:
            warn(f"{counts['solved']} of {counts['problems']} questions got a right answer: {FEW_ADVICE}")
        unread = counts[Verdict.NO_ANSWER] - self.refused.total()
        if unread > UNREADABLE * counts["responses"]:
            warn(
                f"{unread} of {counts['responses']} responses have no answer that can be read, {counts['cut']} are cut "
                f"off at --max-tokens: {UNREADABLE_ADVICE}"
            )


_REFUSED: dict[str, str] = {
    Refusal.NO_STEPS: "without numbered steps",
    Refusal.BETRAYS: "that betray the answer they were shown",
}
