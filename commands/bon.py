"""`medsss bon`: best of N. Problems in: draws N answers each, scores their steps, selects one. Samples in: only scores.
Records with steps (prm, ProcessBench) in: scores these. Costs N answers and, for each, one pass of the reward model
over question and answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import _options as o

if TYPE_CHECKING:
    from medsss_cli.engines.base import EngineSpec
    from medsss_cli.jsonl import Where
    from medsss_cli.records import Prm, Problem, Samples
    from medsss_cli.streams import StreamOptions


@o.grouped(spec=o.engine_spec, options=o.stream_options)
def run(
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
    step_aggregation: Annotated[
        Literal["min", "last", "prod", "mean", "gmean"],
        typer.Option("--step-aggregation", help="From the scores of the steps to that of the answer."),
    ] = "min",
    answer_aggregation: Annotated[
        Literal["max", "vote-sum", "vote-mean", "majority"],
        typer.Option("--answer-aggregation", help="From the scores of the answers to the selected one."),
    ] = "max",
    prm_format: Annotated[
        Literal["auto", "medsss", "qwen", "math-shepherd", "rlhflow", "skywork", "med-prm", "trl"],
        typer.Option("--prm-format", help="How the reward model reads an answer; auto: as its files tell."),
    ] = "auto",
    prm_device: Annotated[
        str | None,
        typer.Option("--prm-device", metavar="D", help="cpu, cuda, cuda:1; default: as --device.", show_default=False),
    ] = None,
    prm_dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option("--prm-dtype", help="The numbers that the reward model computes with."),
    ] = "auto",
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", min=1, metavar="N", help="Tokens in one pass of the reward model.")
    ] = 16384,
    prompting: o.PromptingOpt = "native",
    temperature: o.Temperature = 1.0,
    top_p: o.TopP = 1.0,
    max_tokens: o.MaxTokens = 512,
    extract: o.ExtractOpt = "flexible",
    seed: o.Seed = 0,
    concurrency: o.Concurrency = None,
    spec: EngineSpec,
    options: StreamOptions,
) -> None:
    """Score candidates step by step with a process reward model and select the best of N.

    Reads problems, and draws N answers to each from --policy; or samples and scored records, whose answers it scores.
    Writes one scored record a problem with every step's score, so that `eval` can compare other ways to select. Of prm
    records and ProcessBench's rows it scores the steps, and writes them back with `step_scores`, for `eval --steps`.
    """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor
    from contextlib import AsyncExitStack

    from medsss_cli.answers import Extract, answer_key
    from medsss_cli.console import Progress, note, warn
    from medsss_cli.engines import notes_of, open_engine
    from medsss_cli.engines.base import Engine, Sampling
    from medsss_cli.prm.aggregate import StepAggregation, aggregate_steps
    from medsss_cli.prm.scorer import Scorer, find_convention
    from medsss_cli.prompts import Prompting
    from medsss_cli.records import Candidate, Samples, Scored, problem_fields
    from medsss_cli.sampling import draw
    from medsss_cli.selection import AnswerAggregation, select
    from medsss_cli.streams import Stream, run_concurrently

    count = n or 16
    by_step, by_answer = StepAggregation(step_aggregation), AnswerAggregation(answer_aggregation)
    way = Extract(extract)
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    config = {
        "prm": prm,
        "prm_format": prm_format,
        "prm_dtype": prm_dtype,
        "step_aggregation": step_aggregation,
        "answer_aggregation": answer_aggregation,
        "n": n,
        "policy": spec.policy,
        **({"adapter": spec.adapter} if spec.adapter else {}),
        **({} if extract == "flexible" else {"extract": extract}),
        "prompting": prompting,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "seed": seed,
    }

    async def work(stream: Stream[Problem | Steps], progress: Progress) -> int:
        scorer = Scorer.open(
            prm,
            format=prm_format,
            device=prm_device or spec.device,
            dtype=prm_dtype,
            batch_tokens=batch_tokens,
            trust_remote_code=spec.trust_remote_code,
        )
        opened: list[Engine] = []
        opening = asyncio.Lock()
        async with AsyncExitStack() as stack:
            # One thread: the scorer is used by one at a time, and the event loop goes on feeding the engine meanwhile.
            thread = stack.enter_context(ThreadPoolExecutor(1, "prm"))

            async def the_engine() -> Engine:
                async with opening:
                    if not opened:
                        opened.append(await stack.enter_async_context(open_engine(spec)))
                    return opened[0]

            async def score(problem: Problem | Steps) -> list[Scored | dict[str, Any]]:
                loop = asyncio.get_running_loop()
                if isinstance(problem, Steps):
                    found = await loop.run_in_executor(thread, scorer.score_steps, problem.record)
                    return [problem.row | {"id": problem.id, "step_scores": found}]
                if isinstance(problem, Samples):
                    responses = problem.responses[:n]
                else:
                    engine = await the_engine()
                    responses = (await draw(problem, engine, sampling, count, Prompting(prompting), way)).responses
                texts = [response.text for response in responses]
                steps_N = await loop.run_in_executor(thread, scorer.score, problem, texts)
                candidates = [
                    Candidate(
                        text=response.text,
                        answer=response.answer,
                        verdict=response.verdict,
                        form=response.form,
                        finish_reason=response.finish_reason,
                        tokens=response.tokens,
                        step_scores=steps,
                        score=aggregate_steps(steps, by_step),
                    )
                    for response, steps in zip(responses, steps_N, strict=True)
                ]
                selected = select(
                    [answer_key(problem, candidate.answer) for candidate in candidates],
                    [candidate.score for candidate in candidates],
                    by_answer,
                )
                return [
                    Scored(
                        **problem_fields(problem),
                        candidates=candidates,
                        selected=selected,
                        strategy=f"{by_step}-{by_answer}",
                    )
                ]

            await run_concurrently(
                stream,
                score,
                stage="bon",
                concurrency=concurrency or 32,
                on_done=lambda _, records: progress.advance(),
            )
            notes = [line for engine in opened for line in notes_of(engine)]
        if scorer.way is None:
            notes.append(f"the reward model takes no packs, so shared beginnings are computed again: {scorer.unpacked}")
        notes.append(f"scored {scorer.scored} candidates, {scorer.tokens} tokens of {scorer.path_tokens}")
        for line in () if options.quiet else notes:
            note(line)
        return scorer.too_long

    find_convention(prm, prm_format)
    with (
        Stream(options, command="bon", parse=what_to_score, config=config) as stream,
        Progress("bon", total=stream.expected(), quiet=options.quiet) as progress,
    ):
        too_long = asyncio.run(work(stream, progress))
    if too_long:
        warn(f"{too_long} candidates are longer than the reward model's context; they have no step scores and score 0")
    raise typer.Exit(stream.exit_code())


@dataclass(frozen=True)
class Steps:
    """A record whose own steps are scored: `row` is how it came, and is written back with its scores."""

    id: str
    record: Prm
    row: dict[str, Any]


def what_to_score(obj: dict[str, Any], where: Where) -> Problem | Samples | Steps:
    """A record with answers as samples, one with steps as these, any other as the problem that it holds."""
    from medsss_cli.adapters import to_prm, to_problem, to_samples

    if any(key in obj for key in ("responses", "candidates", "response", "output")):
        return to_samples(obj, where)
    if {"prompt", "completions", "labels"} <= obj.keys() or {"problem", "steps", "label"} <= obj.keys():
        record = to_prm(obj, where)
        return Steps(record.id, record, obj)
    return to_problem(obj, where)
