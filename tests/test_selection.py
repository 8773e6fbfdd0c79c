"""The rules of selection, ties among them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    ],
)
def test_by_hand(answers: str, scores: list[float], chosen: list[int]) -> None:
    assert [select(list(answers), scores, how) for how in AnswerAggregation] == chosen


def test_likelihood_weighs_the_score_by_the_texts_probability() -> None:
    # .9 * .2 = .18, .6 * .4 = .24, .5 * .4 = .2; a score of 0 is never believed.
    logprobs = [math.log(p) for p in (0.2, 0.4, 0.4)]
    assert select(list("BAA"), [0.9, 0.6, 0.5], AnswerAggregation.LIKELIHOOD, logprobs) == 1
    assert select(list("BA"), [0.0, 0.1], AnswerAggregation.LIKELIHOOD, [0.0, -99.0]) == 1


def test_no_answer_wins_only_where_nobody_answers() -> None:
    for how in AnswerAggregation:
        assert select([None, None, "A", None], [0.9, 0.9, 0.1, 0.9], how) == 2
        assert select([None, None, None], [0.1, 0.9, 0.9], how) == 1


def test_nothing_to_select_from() -> None:
    for answers, scores, message in (
        ([], [], "no candidate"),
        (["A", "B"], [0.5], "2 answers but 1 scores"),
        (["A"], [math.nan], "not a number"),
    ):
        for how in AnswerAggregation:
            with pytest.raises(ValueError, match=message):
                select(answers, scores, how)


candidates = st.lists(
    st.tuples(st.sampled_from(["A", "B", "C", None]), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1
)


@given(candidates)
def test_the_choice_is_an_answer_whenever_there_is_one(pairs: Sequence[tuple[str | None, float]]) -> None:
    answers, scores = [a for a, _ in pairs], [s for _, s in pairs]
    for how in AnswerAggregation:
        index = select(answers, scores, how)
        assert answers[index] is not None or all(answer is None for answer in answers)
        # Within the winning answer the best candidate is selected.
        assert scores[index] == max(s for a, s in pairs if a == answers[index])
