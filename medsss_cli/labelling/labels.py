"""Labels of the steps of one trajectory, from the values of its nodes: v_0 ... v_n, v_0 being the root's. The root is
never labelled (None); the others get a label in [0, 1]. Of the values .3 .8 .2 .1 0 come

    dual        equation 7: ceil(v_i - max(0, v_{i-1} - v_{i+1})) if v_i < v_{i-1}, else ceil(v_i)      null 1 0 0 0
    dual-soft   the same before rounding up, clipped: .8, .2 - (.8 - .1) < 0, .1 - (.2 - 0) < 0, 0      null .8 0 0 0
    soft        the values                                                                              null .8 .2 .1 0
    hard        positive or not                                                                         null 1 1 1 0
    monotone    above .5 and not below the step before                                                  null 1 0 0 0
    published   l_i = v_i - (l_{i-1} - v_i): .8, -.4, .6, -.6; positive or not                          null 1 0 1 0
    judge       a model says which steps are right, whatever their values (`judged.py`)

What differs from the paper's equation and from the authors' script: docs/algorithms.md, departure 17. Comparisons allow
`EPSILON`: ceil(0.30000000000000004 - 0.3) would be 1, and a value that came out of averaging as 1e-17 is 0.

What the rollouts know can be read off a tree as values in several ways; the search's own, which the paper takes, are
one of them. docs/labels.md tells which says most of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

from ..records import Action, Tree, Verdict

EPSILON = 1e-9


class StepLabels(StrEnum):
    """How step values become labels; see the top of this module."""

    DUAL = "dual"
    DUAL_SOFT = "dual-soft"
    SOFT = "soft"
    HARD = "hard"
    MONOTONE = "monotone"
    PUBLISHED = "published"
    JUDGE = "judge"


def step_labels(
    values: Sequence[float], how: StepLabels = StepLabels.DUAL, *, worthless: float = 0.0
) -> list[float | None]:
    """The label of every step, as long as `values` (in [0, 1], the root's first), the first None; all None for a judge.
    Where a label is 1 for what is positive, it is for what is above `worthless`, which is 0 in the paper.
    Raises ValueError where a value is outside [0, 1]."""
    if not all(0.0 <= value <= 1.0 for value in values):  # nor nan
        raise ValueError(f"values must lie in [0, 1]: {list(values)}")
    own: list[float] = [float(value) for value in values[1:]]
    match how:
        case StepLabels.JUDGE:
            return [None] * len(values)
        case StepLabels.DUAL | StepLabels.DUAL_SOFT:
            own = _dual(values)
        case StepLabels.PUBLISHED:
            for i in range(1, len(own)):  # the released script: signed and unclipped
                own[i] -= own[i - 1] - own[i]
        case StepLabels.MONOTONE:
            own = [float(v > 0.5 + EPSILON and v >= before - EPSILON) for before, v in pairwise(values)]
    if how in (StepLabels.SOFT, StepLabels.DUAL_SOFT, StepLabels.MONOTONE):
        own = [max(0.0, label) for label in own]
    else:  # equation 7 rounds up: a label of 0 or 1 is 1 where the value less its penalty is positive
        own = [float(label > worthless + EPSILON) for label in own]
    return [None, *own][: len(values)]


def _dual(values: Sequence[float]) -> list[float]:
    """Equation 7 with b = 1 before it rounds up, for steps 1 to n: v_i, less max(0, v_{i-1} - v_{i+1}) where
    v_i < v_{i-1}. At most 1, and below 0 where the penalty is large. The last step has no penalty."""
    labels = [float(value) for value in values[1:]]
    for i, (before, value, after) in enumerate(zip(values, values[1:], values[2:], strict=False)):
        if value < before - EPSILON and before > after:
            labels[i] = value - (before - after)
    return labels


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
            values = [node.value for node in tree.nodes]
        case StepValues.ROLLOUT:
            return [_of_rollouts(tree, path) for path in paths]
        case StepValues.POOLED:
            values = [right / tries if tries else 0.0 for right, tries in pooled_counts(tree)]
        case StepValues.CONTRASTED:
            values = _contrasted(tree)
            return [least_on(tree, path, values) for path in paths]
    return [[values[index] for index in path] for path in paths]


def _of_rollouts(tree: Tree, path: Sequence[int]) -> list[float]:
    values: list[float] = []
    after = 0.0
    for node in [tree.nodes[index] for index in reversed(path[1:])]:
        if node.action is Action.FINISH:
            after = float(node.verdict is Verdict.CORRECT)
        elif node.rollout_value is not None:
            after = node.rollout_value
        values.append(after)
    below = [node.rollout_value for node in tree.nodes if node.parent == 0 and node.rollout_value is not None]
    values.append(sum(below) / len(below) if below else after)
    return values[::-1]


def _contrasted(tree: Tree) -> list[float]:
    """Of each node: its smoothed share p, and p * p / (p + b) where b is the best sibling's. The root has none."""
    shares = smoothed(pooled_counts(tree))
    siblings: dict[int, list[int]] = {}
    for index, node in enumerate(tree.nodes[1:], start=1):
        if tree.nodes[node.parent].action is not Action.FINISH:  # else it is a Reflect, which mends its parent
            siblings.setdefault(node.parent, []).append(index)
    values = list(shares)
    for among in siblings.values():
        for index in among:
            share, best = shares[index], max((shares[each] for each in among if each != index), default=0.0)
            values[index] = share * share / (share + best) if share else 0.0
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
