"""Draw whole answers from policies and judge them: what `sample` and `bon` share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from msgspec import UNSET

from .answers import Extract, judge
from .engines.base import Engine
from .prompts import Prompting, Template, answer_messages
from .records import Problem, Response, Samples, Verdict, pass_rate, problem_fields
from .requests import Prompt, Sampling, derive_seed
from .thoughts import in_steps, refusal


@dataclass(frozen=True, slots=True)
class Author:
    """A policy that answers. `name` stands in its responses; None where a run has one, of whom everybody knows."""

    engine: Engine
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """How answers are asked for and read: `n` of them, under native or instruct, in the form of a template or as plain
    steps. With `reveal` the policy is shown the gold answer."""

    sampling: Sampling
    n: int
    prompting: Prompting = Prompting.NATIVE
    extract: Extract = Extract.FLEXIBLE
    template: Template | None = None
    reveal: bool = False


async def draw(
    problem: Problem,
    engine: Engine,
    sampling: Sampling,
    n: int,
    prompting: Prompting,
    extract: Extract = Extract.FLEXIBLE,
) -> Samples:
    """`n` answers of one policy to a problem, judged by rule, with their pass rate.

    The draw's seed derives from `sampling.seed`, the run's, and the id of the problem; so `bon` and `sample` with one
    seed draw the same answers. Raises EngineError, and BadRecord where the gold answer cannot be read.
    """
    return with_responses(problem, await answers(problem, [Author(engine)], Asking(sampling, n, prompting, extract)))


async def answers(problem: Problem, authors: Sequence[Author], asking: Asking) -> list[Response]:
    """`asking.n` answers of each author, in the order of the authors, judged by rule. Raises what `draw` raises."""
    sampling = replace(asking.sampling, seed=derive_seed(asking.sampling.seed, problem.id, "answer"))
    prompt = Prompt(answer_messages(problem, asking.prompting, asking.template, reveal=asking.reveal))
    drawn = await asyncio.gather(*(author.engine.complete(prompt, sampling, asking.n) for author in authors))
    formed = asking.template is not None or asking.reveal
    return [
        judged(
            problem,
            completion.text,
            asking.extract,
            author=author.name,
            finish_reason=str(completion.finish_reason),
            tokens=completion.tokens,
            logprob=completion.logprob,
            formed=formed,
            revealed=asking.reveal,
        )
        for author, completions in zip(authors, drawn, strict=True)
        for completion in completions
    ]


def judged(
    problem: Problem,
    text: str,
    extract: Extract,
    *,
    author: str | None,
    finish_reason: str,
    tokens: int,
    logprob: float | None = None,
    formed: bool = False,
    revealed: bool = False,
) -> Response:
    """What was written, with its verdict.

    A `formed` answer was asked for in steps of a form: it is kept as `in_steps` reads it. Where it must not be learnt
    from (`refusal`), it counts as no answer, and its `form` says why. Raises BadRecord where the gold answer cannot
    be read.
    """
    if formed:
        text = in_steps(text)
    judgement = judge(problem, text, extract)
    refused = refusal(text, revealed=revealed) if formed else None
    return Response(
        text=text,
        answer=None if refused else judgement.answer,
        verdict=Verdict.NO_ANSWER if refused else judgement.verdict,
        form=refused or judgement.how,
        finish_reason=finish_reason,
        tokens=tokens,
        logprob=logprob,
        policy=UNSET if author is None else author,
        revealed=True if revealed else UNSET,
    )


def with_responses(problem: Problem, responses: list[Response]) -> Samples:
    """The problem with its responses and their pass rate."""
    return Samples(**problem_fields(problem), responses=responses, pass_rate=pass_rate(responses))
