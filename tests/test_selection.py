"""The rules of selection, ties among them."""

from __future__ import annotations

import math

import pytest

from medsss_cli.selection import AnswerAggregation, select


@pytest.mark.parametrize(
    ("answers", "scores", "chosen"),
    [
        # One per way, in the order max, vote-sum, vote-mean, majority, likelihood (of equally likely texts).
        ("BAA", [0.9, 0.6, 0.5], [0, 1, 0, 1, 0]),
        ("AB", [0.5, 0.5], [0, 0, 0, 0, 0]),  # all ties: the first
        ("BA", [0.5, 0.5], [0, 0, 0, 0, 0]),
        ("ABBA", [0.1, 0.2, 0.2, 0.3], [3, 3, 3, 3, 3]),  # equal sums, equal counts: A came first; its best candidate
        ("AABB", [0.3, 0.4, 0.9, 0.1], [2, 2, 2, 1, 2]),
        ("A", [0.0], [0, 0, 0, 0, 0]),
        ("--A-", [0.9, 0.9, 0.1, 0.9], [2, 2, 2, 2, 2]),  # no answer wins only where nobody answers
        ("---", [0.1, 0.9, 0.9], [1, 1, 1, 1, 1]),
    ],
)
def test_by_hand(answers: str, scores: list[float], chosen: list[int]) -> None:
    assert [select([None if a == "-" else a for a in answers], scores, how) for how in AnswerAggregation] == chosen


def test_likelihood_weighs_the_score_by_the_texts_probability() -> None:
    # .9 * .2 = .18, .6 * .4 = .24, .5 * .4 = .2; a score of 0 is never believed.
    logprobs = [math.log(p) for p in (0.2, 0.4, 0.4)]
    assert select(list("BAA"), [0.9, 0.6, 0.5], AnswerAggregation.LIKELIHOOD, logprobs) == 1
    assert select(list("BA"), [0.0, 0.1], AnswerAggregation.LIKELIHOOD, [0.0, -99.0]) == 1


def test_nothing_to_select_from() -> None:
    for answers, scores, message in (
        ([], [], "no candidate"),
        (["A", "B"], [0.5], "2 answers but 1 scores"),
        (["A"], [math.nan], "not a number"),
    ):
        for how in AnswerAggregation:
            with pytest.raises(ValueError, match=message):
                select(answers, scores, how)
