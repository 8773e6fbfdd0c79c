"""`medsss bon`: best of N. Problems in: draws N answers each, or lets a beam write them, scores their steps, selects
one. Samples in: only scores. Records with steps (prm, ProcessBench) in: scores these. Costs N answers and, for each,
one pass of the reward model over question and answer; a beam of width W with C children W C draws of a step and a pass
over their paths for each step of depth."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import _options as o
from ._prm import PrmReading, PrmThread, StepAggregationName, prm_reading

if TYPE_CHECKING:
    from medsss_cli.answers import Extract
    from medsss_cli.engines.base import Engine, EngineConfig
    from medsss_cli.prm.aggregate import StepAggregation
    from medsss_cli.prompts import Prompting
    from medsss_cli.records import Prm, Problem, Response, Samples, Scored
    from medsss_cli.requests import Sampling
    from medsss_cli.search.beam import BeamConfig
    from medsss_cli.selection import AnswerAggregation
    from medsss_cli.stream.jsonl import Where
    from medsss_cli.stream.run import Stream, StreamOptions


@o.grouped(spec=o.engine_spec, options=o.stream_options, reading=prm_reading)
def run(
    ctx: typer.Context,
    *,
    prm: Annotated[
        str, typer.Option("--prm", metavar="MODEL", help="A folder of `train-prm`, or a hub name.", show_default=False)
    ] = ...,  # type: ignore[assignment]  # typer's mark of a required option
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=1,
            metavar="N",
            help="Candidates per problem (default 16); of samples records, the first N (default all).",
            show_default=False,
        ),
    ] = None,
    rescore: Annotated[
        bool,
        typer.Option("--rescore", help="Only score: a record without candidates is a bad line. Trees have them too."),
    ] = False,
    strategy: Annotated[
        Literal["best-of-n", "beam"],
        typer.Option("--strategy", help="Where the candidates of a problem come from: whole answers, or a step beam."),
    ] = "best-of-n",
    beam_width: Annotated[int, typer.Option("--beam-width", min=1, metavar="W", help="beam: paths at a time.")] = 4,
    children: Annotated[
        int, typer.Option("--children", min=1, metavar="C", help="beam: next steps drawn for each.")
    ] = 4,
    max_depth: Annotated[int, typer.Option("--max-depth", min=1, metavar="N", help="beam: most steps.")] = 20,
    step_aggregation: Annotated[
        StepAggregationName,
        typer.Option("--step-aggregation", help="From the scores of the steps to that of the answer."),
    ] = "min",
    answer_aggregation: Annotated[
        Literal["max", "vote-sum", "vote-mean", "majority"],
        typer.Option("--answer-aggregation", help="From the scores of the answers to the selected one."),
    ] = "max",
    prompting: o.PromptingOpt = "native",
    temperature: o.Temperature = 1.0,
    top_p: o.TopP = 1.0,
    max_tokens: o.MaxTokens = 512,
    extract: o.ExtractOpt = o.Extract.FLEXIBLE,
    seed: o.Seed = 0,
    concurrency: o.Concurrency = None,
    reading: PrmReading,
    spec: EngineConfig,
    options: StreamOptions,
) -> None:
    """Score candidates step by step with a process reward model and select the best of N.

    Reads problems, and draws N answers to each from --policy, or has a beam of steps written; or samples and scored
    records, whose answers it scores. Writes one scored record a problem with every step's score, so that `eval` can
    compare other ways to select. Of prm records and ProcessBench's rows it scores the steps, and writes them back with
    `step_scores`, for `eval --steps`.
    """
    import asyncio

    from medsss_cli.answers import Extract
    from medsss_cli.console import Progress, note
    from medsss_cli.errors import UsageError
    from medsss_cli.prm.aggregate import StepAggregation
    from medsss_cli.prm.scorer import find_convention
    from medsss_cli.prompts import Prompting
    from medsss_cli.requests import Sampling
    from medsss_cli.search.beam import BeamConfig
    from medsss_cli.selection import AnswerAggregation
    from medsss_cli.stream.run import Stream, run_concurrently

    beaming = strategy == "beam"
    if beaming:
        o.refuse(ctx, ["n"], "counts whole answers, and a beam draws steps", "--beam-width and --children")
        o.refuse(ctx, ["rescore"], "draws nothing, and --strategy beam does", "leave one of the two out")
        n, rescore = None, False
    else:
        o.refuse(ctx, ("beam_width", "children", "max_depth"), "is for a beam", "--strategy beam")
    if not 0 < top_p <= 1:
        raise UsageError(f"--top-p {top_p}: nothing is in a nucleus of no mass", hint="a number above 0, up to 1")
    find_convention(prm, reading.format)
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    by_step, way = StepAggregation(step_aggregation), Prompting(prompting)
    size = (beam_width, children, max_depth)
    beam = BeamConfig(*size, sampling, way, by_step) if beaming else None
    config = {
        "prm": prm,
        "prm_format": reading.format,
        "prm_dtype": reading.dtype,
        "step_aggregation": step_aggregation,
        "answer_aggregation": answer_aggregation,
        "n": n,
        **spec.writer(),
        **({} if extract == "flexible" else {"extract": extract}),
        **({"rescore": True} if rescore else {}),
        **({"beam": size} if beaming else {}),
        "prompting": prompting,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "seed": seed,
    }

    async def work(stream: Stream[Problem | Answers | Steps], progress: Progress) -> PrmThread:
        async with AsyncExitStack() as stack:
            thread = stack.enter_context(PrmThread.open(prm, reading, spec))
            bench = _Bench(
                thread=thread,
                engine=_LazyEngine(spec, stack),
                sampling=sampling,
                n=n,
                prompting=way,
                extract=Extract(extract),
                by_step=by_step,
                by_answer=AnswerAggregation(answer_aggregation),
                beam=beam,
            )
            await run_concurrently(
                stream,
                bench.scored,
                stage="bon",
                concurrency=concurrency or 32,
                on_done=lambda _, records: progress.advance(),
            )
            notes = [*bench.engine.notes(), *thread.notes()]
        for line in () if options.quiet else notes:
            note(line)
        return thread

    with (
        Stream(options, command="bon", parse=_parser(beaming, rescore), config=config) as stream,
        Progress("bon", total=stream.expected(), quiet=options.quiet) as progress,
    ):
        thread = asyncio.run(work(stream, progress))
    thread.warn_too_long()
    raise typer.Exit(stream.exit_code())


class _LazyEngine:
    """The policy's engine, opened when somebody asks for it first, for as long as `stack` lasts."""

    def __init__(self, spec: EngineConfig, stack: AsyncExitStack) -> None:
        import asyncio

        self._spec, self._stack = spec, stack
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()

    async def get(self) -> Engine:
        from medsss_cli.engines import open_engine

        async with self._opening:
            if self._engine is None:
                self._engine = await self._stack.enter_async_context(open_engine(self._spec))
            return self._engine

    def notes(self) -> list[str]:
        from medsss_cli.engines import notes_of

        if self._engine is None:
            return []
        return [*notes_of(self._engine), f"bon: {self._engine.usage.tokens} tokens generated"]


@dataclass
class _Bench:
    """Where candidates come from, how they are scored, and what is selected. `beam` None: best of N."""

    thread: PrmThread
    engine: _LazyEngine
    sampling: Sampling
    n: int | None
    prompting: Prompting
    extract: Extract
    by_step: StepAggregation
    by_answer: AnswerAggregation
    beam: BeamConfig | None

    async def scored(self, item: Problem | Answers | Steps) -> list[Scored | dict[str, Any]]:
        """What is written for one record of the input."""
        from medsss_cli.sampling import draw

        if isinstance(item, Steps):
            record = item.record
            found = await self.thread.run(lambda: self.thread.scorer.score_steps(record))
            return [item.row | {"id": item.id, "step_scores": found}]
        if isinstance(item, Answers):
            return [await self.rate(item.samples, item.responses[: self.n], item.kept)]
        engine = await self.engine.get()
        if self.beam is not None:
            return [await self.beamed(item, engine, self.beam)]
        count = self.n or 16
        drawn = await draw(item, engine, self.sampling, count, self.prompting, self.extract)
        return [await self.rate(item, drawn.responses)]

    async def rate(
        self, problem: Problem, responses: list[Response], kept: list[dict[str, Any]] | None = None
    ) -> Scored | dict[str, Any]:
        """Whole answers, scored; `kept` are fields of theirs that stay with them."""
        from medsss_cli.records import dump

        texts = [response.text for response in responses]
        steps_N = await self.thread.run(lambda: self.thread.scorer.score(problem, texts))
        scored = self.select(problem, responses, steps_N)
        if not any(kept or ()):
            return scored
        plain = dump(scored)
        plain["candidates"] = [
            extra | candidate for extra, candidate in zip((kept or [])[: self.n], plain["candidates"], strict=True)
        ]
        return plain

    async def beamed(self, problem: Problem, engine: Engine, config: BeamConfig) -> Scored:
        """The candidates of a beam; what it cost as a whole stands in `meta.beam`."""
        import msgspec

        from medsss_cli.answers import judge
        from medsss_cli.records import Response
        from medsss_cli.search.beam import beam
        from medsss_cli.search.driver import converse
        from medsss_cli.steps import join_steps

        found = await converse(beam(problem, config), problem, engine, values=self.thread.values)
        responses = []
        for path in found.paths:
            text = join_steps(path.steps)
            judgement = judge(problem, text, self.extract)
            responses.append(
                Response(
                    text=text,
                    answer=judgement.answer,
                    verdict=judgement.verdict,
                    form=judgement.how,
                    finish_reason=path.finish_reason,
                    tokens=path.tokens,
                )
            )
        cost = {
            "width": config.width,
            "children": config.children,
            "tokens": found.tokens,
            "rounds": found.rounds,
            "duplicates": found.duplicates,
            "dropped": found.dropped,
        }
        about = msgspec.structs.replace(problem, meta=problem.meta | {"beam": cost})
        return self.select(about, responses, [path.scores for path in found.paths])

    def select(self, problem: Problem, responses: list[Response], steps_N: list[list[float]]) -> Scored:
        """The scored record of answers with the scores of their steps."""
        from medsss_cli.answers import answer_key
        from medsss_cli.prm.aggregate import aggregate_steps
        from medsss_cli.records import Candidate, Scored, problem_fields
        from medsss_cli.selection import select

        candidates = [
            Candidate(
                text=response.text,
                answer=response.answer,
                verdict=response.verdict,
                form=response.form,
                finish_reason=response.finish_reason,
                tokens=response.tokens,
                step_scores=steps,
                score=aggregate_steps(steps, self.by_step),
            )
            for response, steps in zip(responses, steps_N, strict=True)
        ]
        selected = select(
            [answer_key(problem, candidate.answer) for candidate in candidates],
            [candidate.score for candidate in candidates],
            self.by_answer,
        )
        return Scored(
            **problem_fields(problem),
            candidates=candidates,
            selected=selected,
            strategy=f"{self.by_step}-{self.by_answer}",
        )


@dataclass(frozen=True)
class Steps:
    """A record whose own steps are scored: `row` is how it came, and is written back with its scores."""

    id: str
    record: Prm
    row: dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """A problem with written answers. `kept` are the fields of each that are no candidate's own (gold `labels` of its
    steps, say); they come back with it."""

    id: str
    samples: Samples
    kept: list[dict[str, Any]] = field(default_factory=list)

    @property
    def responses(self) -> list[Response]:
        """Where a dry run sees that the answers were there before."""
        return self.samples.responses


def _parser(beaming: bool, rescore: bool) -> Callable[[dict[str, Any], Where], Problem | Answers | Steps]:
    """How a record of the input is read."""
    from medsss_cli.problems import to_problem

    return to_problem if beaming else must_have_answers if rescore else what_to_score


def what_to_score(obj: dict[str, Any], where: Where) -> Problem | Answers | Steps:
    """A record with answers as these, one with steps as these, any other as the problem that it holds."""
    from medsss_cli.problems import to_prm, to_problem, to_samples, without_corrections
    from medsss_cli.records import Candidate

    obj = without_corrections(obj)
    if any(key in obj for key in ("responses", "candidates", "response", "output")):
        samples = to_samples(obj, where)
        written = obj.get("responses", obj.get("candidates"))
        own = Candidate.__struct_fields__
        kept = [
            {key: value for key, value in each.items() if key not in own} if isinstance(each, dict) else {}
            for each in (written if isinstance(written, list) else [])
        ]
        return Answers(samples.id, samples, kept)
    if {"prompt", "completions", "labels"} <= obj.keys() or {"problem", "steps", "label"} <= obj.keys():
        record = to_prm(obj, where)
        return Steps(record.id, record, obj)
    return to_problem(obj, where)


def must_have_answers(obj: dict[str, Any], where: Where) -> Answers | Steps:
    """The same, for what needs no policy. A tree's candidates are its trajectories, in the order of their ends.

    Raises BadRecord where there is nothing to score.
    """
    from medsss_cli.errors import BadRecord
    from medsss_cli.labelling.trajectories import trajectories
    from medsss_cli.problems import is_tree, to_tree
    from medsss_cli.records import Response, Samples, Verdict, pass_rate, problem_fields
    from medsss_cli.steps import join_steps

    if is_tree(obj):
        tree = to_tree(obj, where)
        ends = [(path.nodes, tree.nodes[path.nodes[-1]]) for path in trajectories(tree)]
        try:
            responses = [
                Response(
                    text=join_steps([tree.nodes[index].text for index in path]),
                    answer=end.answer,
                    verdict=end.verdict or Verdict.NOT_JUDGED,
                )
                for path, end in ends
            ]
        except ValueError as error:
            raise BadRecord(f"{tree.id}: {error}") from None
        if not responses:
            raise BadRecord(f"{tree.id}: no node of the tree is a judged Finish, so there is nothing to score again")
        # What a trajectory cost is not known, for trajectories share their steps; what all of them did is.
        fields = problem_fields(tree) | {"meta": tree.meta | {"search": {"tokens": tree.stats.get("tokens", 0)}}}
        return Answers(tree.id, Samples(**fields, responses=responses, pass_rate=pass_rate(responses)))
    found = what_to_score(obj, where)
    if not isinstance(found, Answers | Steps):
        raise BadRecord(f"{found.id}: no candidates to score again; without --rescore they would be drawn")
    return found
