"""Labels of the steps of one trajectory, from the backed-up values of its nodes: v_0 ... v_n, v_0 being the root's. The
root is never labelled (None); the others get a label in [0, 1]. Of the values .3 .8 .2 .1 0 come

    dual        equation 7: ceil(v_i - max(0, v_{i-1} - v_{i+1})) if v_i < v_{i-1}, else ceil(v_i)      null 1 0 0 0
    dual-soft   the same before rounding up, clipped: .8, .2 - (.8 - .1) < 0, .1 - (.2 - 0) < 0, 0      null .8 0 0 0
    soft        the values                                                                              null .8 .2 .1 0
    hard        positive or not                                                                         null 1 1 1 0
    monotone    above .5 and not below the step before                                                  null 1 0 0 0
    published   l_i = v_i - (l_{i-1} - v_i): .8, -.4, .6, -.6; positive or not                          null 1 0 1 0

What differs from the paper's equation and from the authors' script: docs/algorithms.md, departure 17. Comparisons allow
`EPSILON`: ceil(0.30000000000000004 - 0.3) would be 1, and a value that came out of averaging as 1e-17 is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

EPSILON = 1e-9


class StepLabels(StrEnum):
    """How step values become labels; see the top of this module."""

    DUAL = "dual"
    DUAL_SOFT = "dual-soft"
    SOFT = "soft"
    HARD = "hard"
    MONOTONE = "monotone"
    PUBLISHED = "published"


def step_labels(
    values: Sequence[float], how: StepLabels = StepLabels.DUAL, *, worthless: float = 0.0
) -> list[float | None]:
    """The label of every step, as long as `values` (in [0, 1], the root's first), the first None. No values, no labels.
    Where a label is 1 for what is positive, it is for what is above `worthless`, which is 0 in the paper.
    Raises ValueError where a value is outside [0, 1]."""
    if not values:
        return []
    for value in values:
        if not 0.0 <= value <= 1.0:  # also true of nan
            raise ValueError(f"values must lie in [0, 1]: {list(values)}")
    least = worthless + EPSILON
    match how:
        # Equation 7 rounds up: a label of 0 or 1 is 1 where the value less its penalty is positive.
        case StepLabels.DUAL:
            return [None, *[1.0 if label > least else 0.0 for label in _dual(values)]]
        case StepLabels.DUAL_SOFT:
            return [None, *(label if label > 0.0 else 0.0 for label in _dual(values))]
        case StepLabels.SOFT:
            return [None, *(float(value) for value in values[1:])]
        case StepLabels.HARD:
            return [None, *(1.0 if value > least else 0.0 for value in values[1:])]
        case StepLabels.MONOTONE:
            steps = pairwise(values)
            return [None, *(float(v > 0.5 + EPSILON and v >= before - EPSILON) for before, v in steps)]
        case StepLabels.PUBLISHED:
            return [None, *(1.0 if label > least else 0.0 for label in _published(values))]


def _dual(values: Sequence[float]) -> list[float]:
    """Equation 7 with b = 1 before it rounds up, for steps 1 to n: v_i, less max(0, v_{i-1} - v_{i+1}) where
    v_i < v_{i-1}. At most 1, and below 0 where the penalty is large."""
    labels = [float(value) for value in values[1:]]
    before, value = values[0], labels[0] if labels else 0.0
    for i, after in enumerate(labels[1:]):
        if value < before - EPSILON and before > after:
            labels[i] = value - (before - after)
        before, value = value, after
    return labels


def _published(values: Sequence[float]) -> list[float]:
    """The released script: l_1 = v_1, then l_i = v_i - (l_{i-1} - v_i), signed and unclipped."""
    labels = [float(value) for value in values[1:]]
    for i in range(1, len(labels)):
        labels[i] -= labels[i - 1] - labels[i]
    return labels
