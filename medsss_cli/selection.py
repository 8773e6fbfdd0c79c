"""Which of N candidates is selected, from their answers and scores. Pure: no records, no PRM.

An *answer* here is a normalised string (`answers.answer_key`), None where the candidate states none; such a candidate
is never selected while any has an answer. Ties go to the candidate, or the answer, that comes first in the list; within
the winning answer the highest score is selected, the first of equals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum


class AnswerAggregation(StrEnum):
    """How the scores of N candidates select one. `max` is best-of-N, `vote-sum` the paper's P-VS, `likelihood` takes
    the largest product of the score and the probability that the policy gave the text."""

    MAX = "max"
    VOTE_SUM = "vote-sum"
    VOTE_MEAN = "vote-mean"
    MAJORITY = "majority"
    LIKELIHOOD = "likelihood"


def believed(score: float, logprob: float) -> float:
    """The logarithm of a score in [0, 1] times a text's probability: what `likelihood` goes by."""
    return math.log(score) + logprob if score > 0 else -math.inf


def select(
    answers: Sequence[str | None], scores: Sequence[float], how: AnswerAggregation, logprobs: Sequence[float] = ()
) -> int:
    """The index of the selected candidate. `answers`, `scores` and, for `likelihood`, `logprobs` run beside each other;
    without `logprobs` all texts are equally likely. Ties as said above.

    Worked by hand: answers B A A, scores .9 .6 .5. max: 0; vote-sum: A has 1.1 against .9, so 1; vote-mean: A has
    .55, so 0; majority: A has two votes, so 1; likelihood, of texts with the probabilities .2 .4 .4: .18 .24 .2, so 1.
    Sums are exact (fsum), so the order of the votes does not decide between equal sums.

    Raises ValueError where the lists are empty, differ in length, or a score is nan.
    """
    if len(answers) != len(scores):
        raise ValueError(f"{len(answers)} answers but {len(scores)} scores")
    if not answers:
        raise ValueError("there is no candidate to select from")
    if any(math.isnan(score) for score in scores):
        raise ValueError("a score is not a number")
    if how is AnswerAggregation.LIKELIHOOD:
        scores = [believed(*pair) for pair in zip(scores, logprobs or [0.0] * len(scores), strict=True)]
    groups: dict[str | None, list[int]] = {}
    for index, answer in enumerate(answers):
        groups.setdefault(answer, []).append(index)
    if len(groups) > 1:
        groups.pop(None, None)
    match how:
        case AnswerAggregation.MAX | AnswerAggregation.LIKELIHOOD:
            return min((index for group in groups.values() for index in group), key=lambda i: (-scores[i], i))
        case AnswerAggregation.VOTE_SUM:
            weights = [math.fsum(scores[i] for i in group) for group in groups.values()]
        case AnswerAggregation.VOTE_MEAN:
            weights = [math.fsum(scores[i] for i in group) / len(group) for group in groups.values()]
        case AnswerAggregation.MAJORITY:
            weights = [float(len(group)) for group in groups.values()]
    # dicts keep insertion order: max() takes the first of equals, the answer whose first vote came first.
    winner = list(groups.values())[max(range(len(weights)), key=weights.__getitem__)]
    return max(winner, key=lambda i: (scores[i], -i))
