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
    CONTRASTED = "contrasted"
    """The pooled share p beside b, the best one among the node's siblings: p * p / (p + b). A hard problem lowers all
    siblings' shares, a wrong step its own alone. Then the least of these from step 1, or from the last Reflect, to the
    node: what follows a wrong step is worth no more than that step. Its shares are smoothed, so that few is 0."""

    @property
    def worthless(self) -> float:
        """The value up to which a step counts as one of which nothing came."""
        return 0.1 if self is StepValues.CONTRASTED else 0.0


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
        case StepValues.POOLED:
            shares = [right / tries if tries else 0.0 for right, tries in pooled_counts(tree)]
            return [[shares[index] for index in path] for path in paths]
        case StepValues.CONTRASTED:
            contrasted = _contrasted(tree)
            return [least_on(tree, path, contrasted) for path in paths]


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


def _contrasted(tree: Tree) -> list[float]:
    """Of each node: its smoothed share p, and p * p / (p + b) where b is the best sibling's. The root has none."""
    shares = smoothed(pooled_counts(tree))
    siblings: list[list[int]] = [[] for _ in tree.nodes]
    for index, node in enumerate(tree.nodes[1:], start=1):
        if tree.nodes[node.parent].action is not Action.FINISH:  # else it is a Reflect, which mends its parent
            siblings[node.parent].append(index)
    values = list(shares)
    for among in siblings:
        best, second, *_ = sorted([0.0, 0.0, *(shares[index] for index in among)], reverse=True)
        for index in among:
            share = shares[index]
            other = second if share == best else best
            values[index] = share * share / (share + other) if share else 0.0
    return values


def smoothed(counts: Sequence[tuple[int, int]]) -> list[float]:
    """(right + 1/4) / (tries + 1/2): none right of forty is surer to be wrong than none of two. One try alone, as a
    Finish is, counts as it came out."""
    return [(right + 0.25) / (tries + 0.5) if tries > 1 else float(right) for right, tries in counts]


def least_on(tree: Tree, path: Sequence[int], values: Sequence[float]) -> list[float]:
    """The root's value as it is; of the others on the path the least since step 1 or the last Reflect."""
    found = [values[path[0]]]
    least = 1.0
    for index in path[1:]:
        begins = tree.nodes[tree.nodes[index].parent].action is Action.FINISH
        least = values[index] if begins else min(least, values[index])
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
