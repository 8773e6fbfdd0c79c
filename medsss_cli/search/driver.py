"""Runs a search against an engine. The search itself is in `mcts`; many trees at once are the affair of `streams`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..answers import judge
from ..engines.base import Completion, Engine
from ..errors import EngineError
from ..records import Problem, Tree
from .config import SearchConfig
from .mcts import Judge, Request, search

Watch = Callable[[list[Request], list[list[Completion]]], None]
"""Is told of each batch and its completions, in passing (progress)."""


async def grow(
    problem: Problem, config: SearchConfig, engine: Engine, *, judge: Judge = judge, watch: Watch | None = None
) -> Tree:
    """The tree of `problem`. The requests of a batch are awaited together, and no tree waits for another.

    Raises EngineError when a request cannot be served (the other requests of its batch are then cancelled), BadRecord
    when the gold answer cannot be read.
    """
    growth = search(problem, config, judge)
    try:
        batch = next(growth)
        while True:
            completions = await _complete(engine, batch)
            if watch:
                watch(batch, completions)
            batch = growth.send(completions)
    except StopIteration as done:
        tree: Tree = done.value
        return tree


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
