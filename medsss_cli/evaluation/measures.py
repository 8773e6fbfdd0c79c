"""What k of a problem's n candidates are worth: pass@k, best-of-k, majority@k, votes by score. Pure arithmetic.

Each is the chance that the selected one of k candidates is right, over all subsets of k of the n in list order,
so the ties of `selection` mean the same. All are exact but votes by score of more than DRAWS subsets: an
estimate, whose standard error is at most .031 for one problem and .0016 for 400.

A candidate's answer is given as its *column*: correct answers are 0, 1, ..., wrong ones -1, -2, ..., none NO_VOTE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

NO_VOTE = 1 << 20
"""The column of a candidate without an answer."""

DRAWS = 256
"""The most subsets that a vote by score looks at: all of them where there are no more."""

_TIE = 1e-11  # what one place in the list is worth: more than the rounding of a sum, less than any score


def vote_columns(answers: Sequence[str | None], correct: Sequence[bool]) -> list[int]:
    """The column of each candidate's answer. Equal answers share one, on the side of the first of them."""
    known: dict[str | None, int] = {None: NO_VOTE}
    right, wrong = 0, -1
    columns = []
    for answer, good in zip(answers, correct, strict=True):
        if answer not in known:
            known[answer] = right if good else wrong
            right, wrong = (right + 1, wrong) if good else (right, wrong - 1)
        columns.append(known[answer])
    return columns


def k_values(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself: where a curve of n candidates is drawn."""
    return sorted({*(2**i for i in range(n.bit_length()) if 2**i <= n), n})


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k of n responses, c of them correct, is correct: 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374), equation 1. By hand: n = 4, c = 1, k = 2 is
    1 - C(3,2) / C(4,2) = 1 - 3/6 = .5. Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} responses with {c} correct")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def best_of_k(scores: Sequence[float], columns: Sequence[int], k: int) -> float:
    """The chance that the best-scored of k of n candidates is correct (selection `max`: ties to the first in the list,
    a candidate without an answer only where no other is there).

    The candidate of rank r (0 the best) is selected where it is drawn and no better one is, in C(n-1-r, k-1) of C(n, k)
    subsets. By hand: correct is only the second best of three, k = 2: C(1, 1) / C(3, 2) = 1/3. Raises ValueError unless
    1 <= k <= n.
    """
    n = len(columns)
    _check(n, k)
    ranked = sorted(range(n), key=lambda i: (columns[i] == NO_VOTE, -scores[i], i))
    good = sum(math.comb(n - 1 - rank, k - 1) for rank, i in enumerate(ranked) if 0 <= columns[i] < NO_VOTE)
    return good / math.comb(n, k)


def majority_at_k(columns: Sequence[int], k: int) -> float:
    """The chance that the answer with the most votes of k of n candidates is correct; of equals the one whose first
    vote comes first wins. Exact. By hand: answers A B B, B correct, k = 2: AB is a tie that A wins, AB again, BB: 1/3.
    Raises ValueError unless 1 <= k <= n."""
    _check(len(columns), k)
    return majority_wins(tuple(columns))[k] / math.comb(len(columns), k)


@lru_cache(maxsize=1 << 16)
def majority_wins(columns: tuple[int, ...]) -> tuple[int, ...]:
    """[k]: how many of the C(n, k) subsets of k candidates a correct answer wins, for every k from 0 to n.

    An answer wins with j votes, the first at place p, where each other answer has fewer than j votes, or j that
    all come after p. The number of such subsets of size s is the coefficient of x^s in a product of (1 + x)^c and
    parts of it. A polynomial is held as one integer, coefficient s in bits s * (n + 1) and up (Kronecker's
    substitution), so that Python multiplies it exactly: none can grow to 2^(n + 1).
    """
    n = len(columns)
    x = 1 << (n + 1)
    places: dict[int, list[int]] = {}
    for place, column in enumerate(columns):
        places.setdefault(column, []).append(place)
    silent = (1 + x) ** len(places.pop(NO_VOTE, ()))
    powers = [x**j for j in range(n + 1)]
    below: dict[int, list[int]] = {}  # answer -> [j]: the ways to give it fewer than j votes
    for answer, own in places.items():
        below[answer] = [0]
        for j in range(n + 1):
            below[answer].append(below[answer][-1] + math.comb(len(own), j) * powers[j])
    total = 0
    for answer in (each for each in places if each >= 0):
        for rank, place in enumerate(places[answer]):
            rest = len(places[answer]) - rank - 1
            after = {each: sum(p > place for p in own) for each, own in places.items() if each != answer}
            for j in range(1, rest + 2):
                ways = math.comb(rest, j - 1) * powers[j] * silent
                for other, later in after.items():
                    ways *= below[other][j] + math.comb(later, j) * powers[j]
                total += ways
    return tuple((total >> (k * (n + 1))) & (x - 1) for k in range(n + 1))


def votes_at_k(
    columns: Sequence[int], scores_AN: NDArray[np.float64], k: int, seed: Sequence[int]
) -> NDArray[np.float64]:
    """[sum, mean][way of scoring]: the chance that the winner of a vote among k of n candidates is correct, with the
    ties of `selection.select`. Over all subsets where there are at most DRAWS, else over DRAWS that `seed` fixes.

    By hand: answers A B B, B correct, scores .5 .3 .3, k = 2: A beats one B by sum twice, BB wins: 1/3; k = 3: B's sum
    .6 beats .5, by mean .3 does not: 1 and 0. Sums that differ by less than n * 1e-11 count as equal. Raises ValueError
    unless 1 <= k <= n.
    """
    n = len(columns)
    _check(n, k)
    rows = len(scores_AN)
    right = [0 <= column < NO_VOTE for column in columns]
    if all(right) or not any(right):
        return np.full((2, rows), float(right[0]))
    chosen_SN = _all_subsets(n, k)
    if chosen_SN is None:
        order = np.random.default_rng([*seed, n, k]).random((DRAWS, n)).argpartition(k - 1, axis=1)
        chosen_SN = np.zeros((DRAWS, n))
        np.put_along_axis(chosen_SN, order[:, :k], 1.0, axis=1)
    column_N = np.asarray(columns)
    best = np.full((2, 2, len(chosen_SN), rows), -np.inf)  # [wrong, right][sum, mean][subset][score]
    for answer in sorted({*columns} - {NO_VOTE}):
        own = np.flatnonzero(column_N == answer)
        votes_SN = chosen_SN[:, own]
        count = votes_SN.sum(axis=1)
        sums = votes_SN @ scores_AN[:, own].T
        weights = np.stack([sums, sums / np.maximum(count, 1)[:, None]])
        weights -= _TIE * own[votes_SN.argmax(axis=1)][:, None]
        weights[:, count == 0] = -np.inf
        np.maximum(best[int(answer >= 0)], weights, out=best[int(answer >= 0)])
    chances: NDArray[np.float64] = (best[1] > best[0]).mean(axis=1)
    return chances


@lru_cache(maxsize=256)
def _all_subsets(n: int, k: int) -> NDArray[np.float64] | None:
    """[subset][candidate] 1 where it is chosen; None where there are more than DRAWS."""
    if math.comb(n, k) > DRAWS:
        return None
    subsets = np.zeros((math.comb(n, k), n))
    np.put_along_axis(subsets, np.asarray(list(combinations(range(n), k))), 1.0, axis=1)
    return subsets


def _check(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"{k} of {n} candidates")
