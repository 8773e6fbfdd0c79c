"""Runs a search or a beam against an engine and, where it is guided, a reward model. What they do is in `mcts` and
`beam`; many problems at once are the affair of `stream`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from ..answers import judge
from ..records import Problem, Tree
from ..requests import Completion, Engine
from .beam import beam
from .config import SearchConfig
from .drawing import Judge, Request, Valuation
from .mcts import search
from .values import RewardModel, Rollouts

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

    The requests of a batch are awaited together, and no problem waits for another. Raises EngineError when a request
    cannot be served (the others of its batch are then cancelled), BadRecord when the gold answer cannot be read.
    """
    values = values or Rollouts()
    if isinstance(values, RewardModel) and values.beam:
        talk = beam(problem, config, judge, values)
    else:
        talk = search(problem, config, judge, values)
    sent: Any = None
    while True:
        try:
            batch = talk.send(sent)
        except StopIteration as done:
            tree: Tree = done.value
            return tree
        if isinstance(batch, Valuation):
            assert score is not None, "a search by a reward model needs the model"
            sent = await score(problem, batch.paths)
        else:
            sent = await _complete(engine, batch)


async def _complete(engine: Engine, batch: list[Request]) -> list[list[Completion]]:
    """The completions of a batch, in its order."""
    tasks = [asyncio.ensure_future(engine.complete(each.prompt, each.sampling, each.n)) for each in batch]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
