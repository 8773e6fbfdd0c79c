"""A step beam that a process reward model guides: it grows a tree by the parts of the search.

W paths are open at a time. Each round draws `children` next steps for every open path (W times as many for the root,
which stands for all W), has all new nodes valued at once, keeps the best W open and closes the others; of equals the
one that was drawn first is better. A Finish is a candidate whatever its rank, and one among the best W keeps its place
for good. So the beam becomes narrower, and ends when no path is open, or at `max_depth` steps; then open paths must
finish."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Action, Problem, Tree
from .config import SearchConfig
from .drawing import Branch, Judge, RequestKind, Talk
from .mcts import Growth
from .tree import close
from .values import End, RewardModel


def beam(problem: Problem, config: SearchConfig, judge: Judge, values: RewardModel) -> Talk[Tree]:
    """The tree of one problem, as `mcts.search` gives it. `values.beam` is the number of open paths."""
    growth = Growth(problem, config, judge, values)
    tree, places, paths = growth.tree, values.beam or 1, [0]
    while paths and tree[paths[0]].depth < config.max_depth:
        ends = yield from _lengthen(growth, paths, places)
        if not ends:
            break
        kept = sorted(ends, key=lambda end: -(tree[end].rollout_value or 0.0))[:places]
        left_open = [end for end in kept if tree[end].action is not Action.FINISH]
        places -= len(kept) - len(left_open)
        for index in [*ends, *(path for path in paths if not tree[path].children)]:
            if index not in left_open:
                tree[index].closed = True
                close(tree, tree[index].parent)
        paths = left_open
    searched = len(tree)
    yield from growth.force_finishes(paths)
    return growth.record(End.MAX_DEPTH if paths else End.EXHAUSTED, searched)


def _lengthen(growth: Growth, paths: Sequence[int], width: int) -> Talk[list[int]]:
    """Draw the next steps of open paths; returns the new nodes, valued."""
    draws, tree, config = growth.draws, growth.tree, growth.config
    replies_BC = yield from draws.ask(
        [
            draws.request(RequestKind.REASON, path, tree.steps(path), config.children * (1 if path else width))
            for path in paths
        ]
    )
    sprouts: list[tuple[int, Branch]] = []
    for path, replies in zip(paths, replies_BC, strict=True):
        read = [draws.read(reply, tree[path].depth + 1, Action.REASON) for reply in replies]
        sprouts += [(path, branch) for branch in growth.unique([branch for branch in read if branch])]
    return (yield from growth.grow(sprouts)) if sprouts else []
