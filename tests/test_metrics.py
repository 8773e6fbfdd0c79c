"""Measures and intervals: against numbers worked by hand, brute force over subsets, and published implementations."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from medsss_cli.evaluation.compare import sign_flip_p
from medsss_cli.evaluation.intervals import Interval, combined, difference_interval, mean_interval
from medsss_cli.evaluation.measures import (
    DRAWS,
    NO_VOTE,
    best_of_k,
    k_values,
    majority_at_k,
    pass_at_k,
    vote_columns,
    votes_at_k,
)

Z = 1.959963984540054


def columns_of(answers: Sequence[str | None], *right: str) -> list[int]:
    return vote_columns(answers, [answer in right for answer in answers])


# One of k


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(4, 1, 2) == 0.5
    assert (pass_at_k(4, 0, 4), pass_at_k(4, 1, 4)) == (0.0, 1.0)
    assert pass_at_k(5000, 1, 2500) == pytest.approx(0.5)  # factorials of this size are no trouble
    for n, c, k in [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)]:
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(n, c, k)


def test_best_of_k_by_hand() -> None:
    # Correct is only the second best of three: of AB, AC, BC only BC selects it.
    assert best_of_k([0.9, 0.5, 0.1], columns_of("ABC", "B"), 2) == pytest.approx(1 / 3)
    # Log-probabilities are below 0, and choose alike.
    assert best_of_k([-9.0, -50.0, -100.0], columns_of("ABC", "B"), 2) == pytest.approx(1 / 3)
    # Without an answer, the best score is worth nothing; of equals the first is selected.
    assert best_of_k([0.9, 0.5], columns_of([None, "B"], "B"), 2) == 1.0
    assert best_of_k([0.5, 0.5], columns_of("AB", "B"), 2) == 0.0


def test_majority_by_hand() -> None:
    # A B B, B correct, k = 2: AB is a tie that A wins, AB again, BB is right.
    assert majority_at_k(columns_of("ABB", "B"), 2) == pytest.approx(1 / 3)
    assert majority_at_k(columns_of("ABB", "B"), 3) == 1.0
    assert majority_at_k(columns_of([None, None, "B"], "B"), 2) == pytest.approx(2 / 3)
    assert majority_at_k(columns_of([None, None]), 1) == 0.0


def test_votes_that_are_drawn_are_near_what_they_estimate() -> None:
    """Draws of each problem are its own: the mean of many problems is not off by what one draw of subsets is off."""
    rng = random.Random(5)
    columns = columns_of([rng.choice("AABC") for _ in range(16)], "A")
    ones = np.ones((1, 16))  # votes that all weigh the same: the majority, which is exact
    exact = majority_at_k(columns, 8)
    votes = [votes_at_k(columns, ones, 8, [0, problem]).by_sum[0] for problem in range(400)]
    error = math.sqrt(exact * (1 - exact) / DRAWS / 400)
    assert abs(fmean(votes) - exact) < 4 * error < 0.01
    assert votes_at_k(columns, ones, 8, [0, 7]).by_sum == votes[7]  # fixed by the seed


@pytest.mark.parametrize("n", [64, 300])
def test_ties_of_very_many_candidates_go_to_the_first(n: int) -> None:
    ones = np.ones((1, n))
    for answers, right, expected in [
        (["B", "A"] * (n // 2), "A", 0.0),
        (["B", "A"] * (n // 2), "B", 1.0),
        ([None] * (n - 2) + ["A", "B"], "A", 1.0),
        ([None] * (n - 2) + ["A", "B"], "B", 0.0),
    ]:
        assert votes_at_k(columns_of(answers, right), ones, n, [0]).by_sum == expected
        if n < 100:
            assert majority_at_k(columns_of(answers, right), n) == expected


def test_where_curves_are_drawn() -> None:
    assert [k_values(n) for n in (1, 2, 3, 8, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]
    assert columns_of(["x", None, "A", "x", "C"], "A", "C") == [-1, NO_VOTE, 0, -1, 1]


# Intervals


def test_wilson_by_hand_and_by_scipy() -> None:
    assert mean_interval([1] * 30) == (1.0, pytest.approx(1 / (1 + Z**2 / 30)), 1.0)
    assert mean_interval([0] * 30) == (0.0, 0.0, pytest.approx(1 - 1 / (1 + Z**2 / 30)))
    for good, n in [(0, 1), (1, 1), (3, 7), (29, 30), (500, 6811)]:
        theirs = binomtest(good, n).proportion_ci(method="wilson")
        assert mean_interval([1] * good + [0] * (n - good))[1:] == pytest.approx((theirs.low, theirs.high))


def test_shares_by_hand() -> None:
    # .25 and .75, with 0 and 1 added: mean .5, squares (.0625 + .5625 + 1) / 4 = .40625, variance .15625.
    half = Z * math.sqrt(0.15625 / 4)
    assert mean_interval([0.25, 0.75]) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    # Shares are ratios of size 1; problems of two sizes weigh by size.
    assert mean_interval([1, 3], [4, 4]) == pytest.approx(mean_interval([0.25, 0.75]))
    assert mean_interval([1, 4], [2, 8]).mean == 0.5
    for wrong in ([], [1.5], [float("nan")], [-0.5]):
        with pytest.raises(ValueError, match="values"):
            mean_interval(wrong)


@given(st.lists(st.sampled_from([i / 16 for i in range(17)]), min_size=1, max_size=60))
def test_an_interval_holds_its_mean_and_has_a_width(values: list[float]) -> None:
    mean, low, high = mean_interval(values)
    assert 0 <= low <= mean <= high <= 1
    assert high - low > 0.05  # however alike, 60 problems do not tell for sure
    mirrored = mean_interval([1 - value for value in values])
    assert mirrored == pytest.approx((1 - mean, 1 - high, 1 - low))
    assert mean_interval(values[::-1]) == pytest.approx((mean, low, high))
    more = mean_interval(values * 4)
    assert more.high - more.low < high - low


def test_what_is_made_of_several_means() -> None:
    parts = [Interval(0.5, 0.4, 0.6), Interval(0.9, 0.8, 0.95)]
    found = combined(parts, fmean)
    assert found == pytest.approx((0.7, 0.7 - math.sqrt(0.005), 0.7 + math.sqrt(0.003125)))
    assert combined(parts[:1], fmean) == pytest.approx(parts[0])
    with pytest.raises(ValueError, match="no data sets"):
        combined([], fmean)


# Pairs


def test_differences_by_hand() -> None:
    half = Z * math.sqrt(2 / 102 / 102)
    assert difference_interval([0] * 100) == pytest.approx((0, -half, half))
    low = difference_interval([1] * 12).low  # 12 of 14, squares 14 / 14
    assert low == pytest.approx(12 / 14 - Z * math.sqrt((1 - (12 / 14) ** 2) / 14))
    with pytest.raises(ValueError, match="no values"):
        difference_interval([])


def test_the_paired_test_by_hand() -> None:
    assert sign_flip_p([1, 0.5, 0.5]) == pytest.approx(0.25)
    assert sign_flip_p([1, -1, -1, -1, -1, -1, 0]) == pytest.approx(2 * 7 / 64)
    assert sign_flip_p([0, 0]) == sign_flip_p([0.5, -0.25, -0.25]) == 1.0
    # One pair can say nothing: the bootstrap of version 0.1 gave .0005.
    assert sign_flip_p([1.0]) == sign_flip_p([0.3]) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-12, 12), min_size=1, max_size=10), st.sampled_from([1, 12, 16, 7]))
def test_the_paired_test_is_the_count_of_all_signs(units: list[int], unit: int) -> None:
    expected = fmean(
        abs(sum(s * u for s, u in zip(signs, units, strict=True))) >= abs(sum(units))
        for signs in np.stack(np.meshgrid(*[[1, -1]] * len(units)), -1).reshape(-1, len(units)).tolist()
    )
    assert sign_flip_p([u / 12 / unit for u in units]) == pytest.approx(expected, abs=1e-9)


def test_of_right_and_wrong_the_paired_test_is_mcnemar_s() -> None:
    for a, b in [(0, 1), (0, 9), (3, 8), (40, 61), (480, 530), (700, 1900)]:
        assert sign_flip_p([-1] * a + [1] * b + [0] * 7) == pytest.approx(binomtest(a, a + b).pvalue, rel=1e-9)
