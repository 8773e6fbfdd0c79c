"""A tree while it grows: a flat table of nodes that the search changes in place, the records that it becomes, and the
arithmetic of the search: which leaf is next, and what a new value means for the nodes above. The rules are in `mcts`.

The root is node 0; a parent always stands before its children.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..records import Action, Node, Verdict
from ..steps import ROOT_TEXT


@dataclass(slots=True)
class GrowingNode:
    """A step, with the fields of `records.Node` and the indices of its children."""

    parent: int
    depth: int
    action: Action
    text: str
    children: list[int] = field(default_factory=list)
    rollouts: int = 0
    rollout_value: float | None = None
    value: float = 0.0
    visits: int = 0
    answer: str | None = None
    verdict: Verdict | None = None
    closed: bool = False


class GrowingTree:
    """Begins with the root alone: step 0, value 0, no visits."""

    def __init__(self) -> None:
        self.nodes = [GrowingNode(parent=-1, depth=0, action=Action.ROOT, text=ROOT_TEXT)]

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, index: int) -> GrowingNode:
        return self.nodes[index]

    def add(self, parent: int, action: Action, text: str) -> int:
        """A new last child of `parent`; returns its index."""
        index = len(self.nodes)
        self.nodes.append(GrowingNode(parent=parent, depth=self[parent].depth + 1, action=action, text=text))
        self[parent].children.append(index)
        return index

    def upward(self, index: int) -> Iterator[int]:
        """`index`, its parent, ..., the root."""
        while index >= 0:
            yield index
            index = self[index].parent

    def steps(self, index: int) -> list[str]:
        """The bare steps from the root to `index`, both included."""
        return [self[i].text for i in self.upward(index)][::-1]

    def reflections(self, index: int) -> int:
        """How many steps on the path to `index` go on from a Finish: each was written by a Reflect."""
        return sum(self[each].action is Action.FINISH for each in self.upward(self[index].parent))

    def leaves(self) -> list[int]:
        """The nodes without children, from the first branch to the last."""
        found, left = [], [0]
        while left:
            index = left.pop()
            left += reversed(self[index].children)
            if not self[index].children:
                found.append(index)
        return found

    def judged(self, verdict: Verdict) -> int:
        """How many Finishes were judged so; nothing else is judged."""
        return sum(node.verdict is verdict for node in self.nodes)

    def records(self) -> list[Node]:
        """The nodes as they are written."""
        return [Node(**{name: getattr(node, name) for name in Node.__struct_fields__}) for node in self.nodes]


# The arithmetic


def ucb(value: float, visits: int, parent_visits: int, *, c: float) -> float:
    """The upper confidence bound of a child: v + c sqrt(ln N_parent / N_child) (paper, section 3.2, selection), `value`
    in [0, 1]. The search visits every child when it makes it, so `visits` is at least 1."""
    return value + c * math.sqrt(math.log(max(parent_visits, 1)) / visits)


def select(tree: GrowingTree, *, c: float) -> int:
    """The leaf that is reached from the open root by the open child of the greatest bound, each time; ties go to the
    child that was made first."""
    index = 0
    while tree[index].children:
        # An open node has an open child: `back_up` closes a node as soon as all its children are closed.
        index = max(
            (child for child in tree[index].children if not tree[child].closed),
            key=lambda child: ucb(tree[child].value, tree[child].visits, tree[tree[child].parent].visits, c=c),
        )
    return index


def back_up(tree: GrowingTree, index: int, value: float) -> None:
    """Give the leaf `index` its value in [0, 1] and carry it up to the root (paper, section 3.2, back-propagation).

    On the whole path N += 1. The leaf takes v = `value`; every node above it, from below to above,

        v <- (v + sum(N_c v_c) / sum(N_c)) / 2,   c over its children.

    Children that have not been visited weigh nothing, so backing up siblings one by one gives the same whether the
    later ones stand in the tree already or not. A node is closed when all its children are.
    """
    tree[index].visits += 1
    tree[index].value = value
    for above in tree.upward(tree[index].parent):
        node = tree[above]
        node.visits += 1
        visits = sum(tree[child].visits for child in node.children)
        mean = sum(tree[child].visits * tree[child].value for child in node.children) / visits
        node.value = (node.value + mean) / 2
    close(tree, tree[index].parent)


def close(tree: GrowingTree, index: int) -> None:
    """Close `index` and the nodes above it as far as all their children are closed. A leaf is left as it is."""
    for above in tree.upward(index):
        children = tree[above].children
        if not children or not all(tree[child].closed for child in children):
            return
        tree[above].closed = True
