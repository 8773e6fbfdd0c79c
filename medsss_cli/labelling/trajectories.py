"""What is learnt from, as bare steps: the paths of a tree from the root to its leaves that are judged Finishes, and
written answers in whatever form they came.

As in the authors' code (`MCTS.expand_node`, `obtain_correct_leaves`) a wrong Finish that a Reflect goes on from is a
step on the way. A Finish that states no answer counts as wrong. Paths that end in a Reason or a Reflect, and Finishes
that were not judged, are no trajectories.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import BadRecord
from ..records import Action, Tree, Verdict
from ..steps import ROOT_TEXT, answer_steps, join_steps, mark, split_steps, starts_at
from ..thoughts import in_steps

_PARAGRAPHS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


class Trajectory(NamedTuple):
    """A path: node indices from the root (0) to a judged Finish. `min_value` is the smallest backed-up value on it, the
    root left out, in [0, 1]."""

    nodes: tuple[int, ...]
    correct: bool
    min_value: float


def trajectories(tree: Tree) -> list[Trajectory]:
    """The trajectories of `tree`, in the order in which their Finishes were made."""
    parents = {node.parent for node in tree.nodes}
    found = []
    for index, node in enumerate(tree.nodes):
        if index in parents or node.action is not Action.FINISH or node.verdict in (None, Verdict.NOT_JUDGED):
            continue
        path = path_to(tree, index)
        found.append(Trajectory(path, node.verdict is Verdict.CORRECT, min(tree.nodes[i].value for i in path[1:])))
    return found


def path_to(tree: Tree, index: int) -> tuple[int, ...]:
    """The indices from the root to `index`, both included."""
    path = []
    while index >= 0:
        path.append(index)
        index = tree.nodes[index].parent
    return tuple(path[::-1])


def path_text(tree: Tree, path: Sequence[int]) -> str:
    """The steps of a path as one answer. Raises BadRecord for a step that holds the mark of the next."""
    try:
        return join_steps([tree.nodes[index].text for index in path])
    except ValueError as error:
        raise BadRecord(str(error)) from None


def written_steps(text: str) -> list[str]:
    """The bare steps of a written answer, step 0 first; [] where nothing is said.

    An answer in our form ("Step 0: ...", "Step 1: ...") is taken as it is; step 0 is the usual sentence where it has
    none. Otherwise marks in Markdown or Chinese count too, and what stands before the first mark, or before a
    `</think>`, is no part of the solution; without any marks each paragraph is a step.
    """
    text = text.strip()
    if not text.startswith((mark(0), mark(1))):
        text = in_steps(text)
    if not text or text.startswith((mark(0), mark(1))):
        return answer_steps(text)
    if starts_at(text) == 0:
        return [ROOT_TEXT, *split_steps(text)[1:]]
    return [ROOT_TEXT, *(part.strip() for part in _PARAGRAPHS.split(text))]


def in_form(text: str) -> str | None:
    """The answer as `join_steps` writes it; None where nothing is said, or no steps could be read back."""
    steps = written_steps(text)
    try:
        return join_steps(steps) if any(steps[1:]) else None
    except ValueError:
        return None


def check_tree(tree: Tree) -> None:
    """Raises BadRecord, with the id, for a table of nodes that is no tree: the root stands first, parents stand before
    their children, depths count up by one, values lie in [0, 1]."""
    nodes = tree.nodes
    if not nodes:
        raise BadRecord(f"{tree.id}: the tree has no nodes")
    for index, node in enumerate(nodes):
        if index == 0:
            if node.parent != -1 or node.depth != 0 or node.action is not Action.ROOT:
                raise BadRecord(f"{tree.id}: node 0 must be the root (parent -1, depth 0, action root)")
        elif not 0 <= node.parent < index:
            raise BadRecord(f"{tree.id}: node {index} has the parent {node.parent}, which does not stand before it")
        elif node.depth != nodes[node.parent].depth + 1 or node.action is Action.ROOT:
            raise BadRecord(f"{tree.id}: node {index} is no step of depth {nodes[node.parent].depth + 1}")
        if not 0.0 <= node.value <= 1.0:
            raise BadRecord(f"{tree.id}: node {index} has the value {node.value}, outside [0, 1]")
