"""Which value of a step its label is made from. What the rollouts know can be read off a tree in several ways; the
search's own values, which the paper takes, are one of them. docs/labels.md tells which says most of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from ..records import Action, Tree, Verdict


class StepValues(StrEnum):
    """Where a step's value comes from."""

    BACKED_UP = "backed-up"
    """The search's own, as in the paper: the whole subtree counts, what a Reflect put right included."""
    ROLLOUT = "rollout"
    """The share of the node's rollouts that was correct, as in Math-Shepherd (arXiv 2312.08935, equation 4); a Finish
    has its verdict."""
    POOLED = "pooled"
    """The share that is right of all rollouts and Finishes of the node and what lies below it, but for what a Reflect
    began."""
    LEAST_POOLED = "least-pooled"
    """The least pooled value from step 1, or from the last Reflect, to the node: what follows a wrong step is worth no
    more than that step."""


def values_on(tree: Tree, paths: Sequence[Sequence[int]], how: StepValues = StepValues.BACKED_UP) -> list[list[float]]:
    """[path][step]: the values of the nodes of each path from the root, each in [0, 1].

    A step without rollouts of its own, which a Finish wrote on its way to the answer, has by ROLLOUT the value of the
    step after it: what came of it is one rollout. The root has none and takes the mean over its children's.
    """
    match how:
        case StepValues.BACKED_UP:
            return [[tree.nodes[index].value for index in path] for path in paths]
        case StepValues.ROLLOUT:
            return [_of_rollouts(tree, path) for path in paths]
        case StepValues.POOLED | StepValues.LEAST_POOLED:
            shares = [right / tries if tries else 0.0 for right, tries in pooled_counts(tree)]
            pooled = [[shares[index] for index in path] for path in paths]
            if how is StepValues.POOLED:
                return pooled
            return [_least(tree, path, own) for path, own in zip(paths, pooled, strict=True)]


def _of_rollouts(tree: Tree, path: Sequence[int]) -> list[float]:
    nodes = tree.nodes
    values: list[float] = []
    after = 0.0
    for index in reversed(path[1:]):
        node = nodes[index]
        if node.action is Action.FINISH:
            after = float(node.verdict is Verdict.CORRECT)
        elif node.rollout_value is not None:
            after = node.rollout_value
        values.append(after)
    below = [node.rollout_value for node in nodes if node.parent == 0 and node.rollout_value is not None]
    values.append(sum(below) / len(below) if below else after)
    return values[::-1]


def _least(tree: Tree, path: Sequence[int], shares: Sequence[float]) -> list[float]:
    """The root's share as it is; of the others the least since step 1 or the last Reflect."""
    found = [shares[0]]
    least = 1.0
    for index, share in zip(path[1:], shares[1:], strict=True):
        begins = tree.nodes[tree.nodes[index].parent].action is Action.FINISH
        least = share if begins else min(least, share)
        found.append(least)
    return found


def pooled_counts(tree: Tree) -> list[tuple[int, int]]:
    """Of each node: how many are right, of how many rollouts and Finishes of it and of what lies below it, what a
    Reflect began left out."""
    nodes = tree.nodes
    right, tries = [0] * len(nodes), [0] * len(nodes)
    for index in reversed(range(len(nodes))):
        node = nodes[index]
        if node.action is Action.FINISH:
            right[index] += node.verdict is Verdict.CORRECT
            tries[index] += 1
        elif node.rollouts:
            right[index] += round(node.rollouts * (node.rollout_value or 0.0))
            tries[index] += node.rollouts
        if index > 0 and nodes[node.parent].action is not Action.FINISH:  # else a Reflect wrote this node
            right[node.parent] += right[index]
            tries[node.parent] += tries[index]
    return list(zip(right, tries, strict=True))
