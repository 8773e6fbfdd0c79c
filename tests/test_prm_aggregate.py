"""Step scores to the score of an answer, against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsss_cli.prm.aggregate import StepAggregation, aggregate_steps


def test_by_hand() -> None:
    """Scores .8 .2 .4: product .064, whose cube root is .4; the mean is 1.4 / 3. No steps are 0, one step is itself,
    400 small scores do not underflow, and what is no score is refused."""
    by_hand = {"min": 0.2, "last": 0.4, "prod": 0.064, "mean": 1.4 / 3, "gmean": 0.4}
    for how in StepAggregation:
        assert aggregate_steps([0.8, 0.2, 0.4], how) == pytest.approx(by_hand[how])
        assert aggregate_steps([], how) == 0.0
        assert aggregate_steps([0.3], how) == pytest.approx(0.3)
    assert aggregate_steps([0.0, 1.0], StepAggregation.GMEAN) == 0.0
    assert aggregate_steps([1e-3] * 400, StepAggregation.GMEAN) == pytest.approx(1e-3)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"in \[0, 1\]"):
            aggregate_steps([0.5, bad], StepAggregation.MIN)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_bounds_and_order(scores: list[float]) -> None:
    """All lie in [0, 1]; prod <= min <= gmean <= mean, up to rounding."""
    low, least, geometric, mean = (
        aggregate_steps(scores, StepAggregation(how)) for how in ("prod", "min", "gmean", "mean")
    )
    assert 0.0 <= low <= least + 1e-9 <= geometric + 2e-9 <= mean + 3e-9 <= 1 + 3e-9
