"""Runs a search or a beam against an engine and, where it is guided, a reward model. What they do is in `mcts` and
`beam`; many problems at once are the affair of `stream`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from ..answers import judge
from ..records import Problem, Tree
from ..requests import Completion, Engine
from .beam import beam
from .config import SearchConfig
from .drawing import Judge, Request, Talk, Valuation
from .mcts import search
from .values import RewardModel, Rollouts

_T = TypeVar("_T")
Score: TypeAlias = Callable[[Problem, Sequence[Sequence[str]]], Awaitable[list[list[float]]]]
"""Scores the steps of paths (bare steps, step 0 first): [path][step]."""


async def grow(
    problem: Problem,
    config: SearchConfig,
    engine: Engine,
    values: Rollouts | RewardModel | None = None,
    *,
    judge: Judge = judge,
    score: Score | None = None,
) -> Tree:
    """The tree of `problem`; `values` are by rollouts unless said otherwise, `score` is for a reward model's.

    Raises EngineError when a request cannot be served (the other requests of its batch are then cancelled), BadRecord
    when the gold answer cannot be read.
    """
    values = values or Rollouts()
    if isinstance(values, RewardModel) and values.beam:
        talk = beam(problem, config, judge, values)
    else:
        talk = search(problem, config, judge, values)
    return await converse(talk, problem, engine, score=score)


async def converse(talk: Talk[_T], problem: Problem, engine: Engine, *, score: Score | None = None) -> _T:
    """What `talk` returns in the end. The requests of a batch are awaited together, and no problem waits for another.
    Raises as `grow` does."""
    try:
        batch = next(talk)
        while True:
            if isinstance(batch, Valuation):
                assert score is not None, "a search by a reward model needs the model"
                batch = talk.send(await score(problem, batch.paths))
            else:
                batch = talk.send(await _complete(engine, batch))
    except StopIteration as done:
        found: _T = done.value
        return found


async def _complete(engine: Engine, batch: list[Request]) -> list[list[Completion]]:
    """The completions of a batch, in its order."""
    tasks = [asyncio.ensure_future(engine.complete(each.prompt, each.sampling, each.n)) for each in batch]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
