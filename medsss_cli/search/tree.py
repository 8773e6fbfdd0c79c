"""A tree while it grows: a flat table of nodes that the search changes in place, and the records that it becomes.

The root is node 0; a parent always stands before its children. Nothing here decides anything: see `selection` and
`backup` for the arithmetic and `mcts` for the rules.
"""

from __future__ import annotations

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
        above = list(self.upward(index))[1:]
        return sum(self[each].action is Action.FINISH for each in above)

    def leaves(self) -> list[int]:
        """The nodes without children, from the first branch to the last."""
        found, left = [], [0]
        while left:
            index = left.pop()
            left += reversed(self[index].children)
            if not self[index].children:
                found.append(index)
        return found

    def finishes(self, verdict: Verdict) -> int:
        """How many Finish nodes were judged so."""
        return sum(node.action is Action.FINISH and node.verdict is verdict for node in self.nodes)

    def answers(self) -> int:
        """How many Finish nodes state an answer, whatever it is."""
        return sum(node.action is Action.FINISH and node.answer is not None for node in self.nodes)

    def records(self) -> list[Node]:
        """The nodes as they are written."""
        return [Node(**{name: getattr(node, name) for name in Node.__struct_fields__}) for node in self.nodes]
