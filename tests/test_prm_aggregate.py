"""Step scores to the score of an answer, against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsss_cli.prm.aggregate import StepAggregation, aggregate_steps


@pytest.mark.parametrize(
    ("how", "expected"),
    [("min", 0.2), ("last", 0.4), ("prod", 0.064), ("mean", 1.4 / 3), ("gmean", 0.4)],
)
def test_by_hand(how: str, expected: float) -> None:
    """Scores .8 .2 .4: product .064, whose cube root is .4; the mean is 1.4 / 3."""
    assert aggregate_steps([0.8, 0.2, 0.4], StepAggregation(how)) == pytest.approx(expected)


@pytest.mark.parametrize("how", list(StepAggregation))
def test_no_steps_is_zero_and_one_step_is_itself(how: StepAggregation) -> None:
    assert aggregate_steps([], how) == 0.0
    assert aggregate_steps([0.3], how) == pytest.approx(0.3)
    assert aggregate_steps([0.0, 1.0, 0.0], how) == pytest.approx(1 / 3 if how is StepAggregation.MEAN else 0.0)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, math.inf])
def test_what_is_no_score_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        aggregate_steps([0.5, bad], StepAggregation.MIN)


def test_gmean_of_many_small_scores_does_not_underflow() -> None:
    assert aggregate_steps([1e-3] * 400, StepAggregation.GMEAN) == pytest.approx(1e-3)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_bounds_and_order(scores: list[float]) -> None:
    """All lie in [0, 1]; prod <= min <= gmean <= mean, up to rounding."""
    by = {how: aggregate_steps(scores, how) for how in StepAggregation}
    assert all(0.0 <= value <= 1.0 for value in by.values())
    slack = 1e-9
    assert by[StepAggregation.PROD] <= by[StepAggregation.MIN] + slack
    assert by[StepAggregation.MIN] <= by[StepAggregation.GMEAN] + slack
    assert by[StepAggregation.GMEAN] <= by[StepAggregation.MEAN] + slack
