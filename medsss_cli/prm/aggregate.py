"""From the scores of the steps of one answer to one score of the answer. Pure: no torch, no records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum


class StepAggregation(StrEnum):
    """How step scores become the score of an answer. `min`, as in the paper: a chain is as good as its worst step."""

    MIN = "min"
    LAST = "last"
    PROD = "prod"
    MEAN = "mean"
    GMEAN = "gmean"


def aggregate_steps(scores: Sequence[float], how: StepAggregation) -> float:
    """The score of an answer in [0, 1] from its step scores in [0, 1], in the order of the steps.

    An answer without a scored step (an empty text) gets 0.0: it must never be selected for having made no mistake.
    `prod` falls with every step, so it favours short answers; `gmean`, its root of order n, does not. Raises ValueError
    where a score is outside [0, 1] or not a number.
    """
    for score in scores:
        if not 0.0 <= score <= 1.0:  # also true of nan
            raise ValueError(f"a step score must lie in [0, 1], got {score}")
    if not scores:
        return 0.0
    match how:
        case StepAggregation.MIN:
            return float(min(scores))
        case StepAggregation.LAST:
            return float(scores[-1])
        case StepAggregation.PROD:
            return math.prod(scores, start=1.0)
        case StepAggregation.MEAN:
            # fsum is exact, but its rounded quotient can leave [0, 1] by a unit in the last place.
            return min(1.0, math.fsum(scores) / len(scores))
        case StepAggregation.GMEAN:
            # By logarithms: the product of a few hundred small scores underflows to 0.
            if min(scores) == 0.0:
                return 0.0
            return min(1.0, math.exp(math.fsum(math.log(score) for score in scores) / len(scores)))
