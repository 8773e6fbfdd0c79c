"""Runs a search or a beam against an engine and, where it is guided, a reward model. What they do is in `mcts` and
`beam`; many problems at once are the affair of `streams`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from ..answers import judge
from ..engines.base import Engine
from ..errors import EngineError, UsageError
from ..records import Problem, Tree
from ..requests import Completion
from .config import SearchConfig
from .mcts import Judge, Request, Talk, Valuation, search

_T = TypeVar("_T")
Values: TypeAlias = Callable[[Problem, Sequence[Sequence[str]]], Awaitable[list[list[float]]]]
"""Scores the steps of paths (bare steps, step 0 first): [path][step], as `Scorer.score_paths` does."""
Watch = Callable[[list[Request], list[list[Completion]]], None]
"""Is told of each batch and its completions, in passing (progress)."""


async def grow(
    problem: Problem,
    config: SearchConfig,
    engine: Engine,
    *,
    judge: Judge = judge,
    values: Values | None = None,
    watch: Watch | None = None,
) -> Tree:
    """The tree of `problem`; `values` is for a config with `step_aggregation`.

    Raises EngineError when a request cannot be served (the other requests of its batch are then cancelled), BadRecord
    when the gold answer cannot be read.
    """
    return await converse(search(problem, config, judge), problem, engine, values=values, watch=watch)


async def converse(
    talk: Talk[_T], problem: Problem, engine: Engine, *, values: Values | None = None, watch: Watch | None = None
) -> _T:
    """What `talk` returns in the end. The requests of a batch are awaited together, and no problem waits for another.

    Raises EngineError as `grow` does; UsageError for a talk that wants paths valued where there is nothing to do it.
    """
    try:
        batch = next(talk)
        while True:
            if isinstance(batch, Valuation):
                if values is None:
                    raise UsageError("a search by a reward model needs the model", hint="--prm R")
                batch = talk.send(await values(problem, batch.paths))
                continue
            completions = await _complete(engine, batch)
            if watch:
                watch(batch, completions)
            batch = talk.send(completions)
    except StopIteration as done:
        found: _T = done.value
        return found


async def _complete(engine: Engine, batch: list[Request]) -> list[list[Completion]]:
    """The completions of a batch, in its order."""
    tasks = [asyncio.ensure_future(engine.complete(each.prompt, each.sampling, each.n)) for each in batch]
    try:
        replies = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    for request, reply in zip(batch, replies, strict=True):
        if len(reply) != request.n:
            raise EngineError(f"the engine gave {len(reply)} completions where {request.n} were asked for")
    return replies
