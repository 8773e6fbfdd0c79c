"""Which leaf to expand next: from the root down, by the upper confidence bound."""

from __future__ import annotations

import math

from .tree import GrowingTree


def ucb(value: float, visits: int, parent_visits: int, *, c: float) -> float:
    """The upper confidence bound of a child: v + c sqrt(ln N_parent / N_child) (paper, section 3.2, selection), `value`
    in [0, 1]. The search visits every child when it makes it, so `visits` is at least 1."""
    return value + c * math.sqrt(math.log(max(parent_visits, 1)) / visits)


def select(tree: GrowingTree, *, c: float) -> int | None:
    """The leaf that is reached from the root by the open child of the greatest bound, each time; ties go to the child
    that was made first. None if the root is closed: nothing is left to select."""
    index = 0
    if tree[index].closed:
        return None
    while tree[index].children:
        # An open node has an open child: `backup` closes a node as soon as all its children are closed.
        index = max(
            (child for child in tree[index].children if not tree[child].closed),
            key=lambda child: ucb(tree[child].value, tree[child].visits, tree[tree[child].parent].visits, c=c),
        )
    return index
