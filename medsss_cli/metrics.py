"""What a run of answers amounts to: means with bootstrap intervals, pass@k, majority@k and best-of-k. Pure; numpy is
imported by the functions that draw.

Each curve is, for one problem with n candidates, the expectation over all subsets of k of them, drawn without
replacement; the list order is kept within a subset, so the ties of `selection` mean the same. pass@k and best-of-k by
`max` are computed exactly; the votes too where there are at most `SUBSETS` subsets, else over `SUBSETS` drawn ones, the
same for every problem of equal n, fixed by the seed.

All means are over problems, a problem weighing the same whatever its number of candidates. Nothing but tallies is kept
of a problem, so a million of them need no more memory than a hundred.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUBSETS = 200
LEVEL = 0.95
RESAMPLES = 2000

_GRID = 48  # divisible by 2, 3, 4, 6, 8, 12, 16: the shares of few candidates fall on the grid
_EXACT_VALUES = 64


class Interval(NamedTuple):
    """A mean over problems with the percentile interval of its bootstrap."""

    mean: float
    low: float
    high: float


class Tally:
    """The values of many problems, each in [0, 1], in constant memory: their count, exact sum, and how often each
    occurs.

    Up to 64 different values are kept as they are; beyond, they are counted on a grid of 1/48, which moves the mean not
    at all and the width of an interval by a thousandth of itself (a spread of .3 becomes one of .3001).
    """

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.count = 0
        self._sum = 0.0
        self._residue = 0.0
        self._times: Counter[float] = Counter()
        self._rounded = False
        for value in values:
            self.add(value)

    def add(self, value: float, times: int = 1) -> None:
        """Count `value`. Raises ValueError where it is outside [0, 1] or nan."""
        if not -1e-9 <= value <= 1 + 1e-9:
            raise ValueError(f"a value must lie in [0, 1], got {value}")
        self.count += times
        self._accumulate(value * times)
        self._times[round(value * _GRID) / _GRID if self._rounded else value] += times
        if len(self._times) > _EXACT_VALUES:
            self._rounded = True
            coarse: Counter[float] = Counter()
            for each, number in self._times.items():
                coarse[round(each * _GRID) / _GRID] += number
            self._times = coarse

    def _accumulate(self, value: float) -> None:
        # Neumaier's compensated sum: a million shares of 1/3 add up without drift.
        total = self._sum + value
        if abs(self._sum) >= abs(value):
            self._residue += (self._sum - total) + value
        else:
            self._residue += (value - total) + self._sum
        self._sum = total

    @property
    def mean(self) -> float:
        """The mean. Raises ValueError without a value."""
        if not self.count:
            raise ValueError("the mean of no values")
        return min(1.0, max(0.0, (self._sum + self._residue) / self.count))

    def resampled_means(self, seed: int, resamples: int) -> NDArray[np.float64]:
        """[resamples] means of bootstrap samples: `count` values drawn with replacement.

        How often each different value comes up in such a sample is multinomial, and that is what is drawn: the same
        distribution as drawing value by value, at a cost that does not grow with the number of problems.
        """
        import numpy as np

        values = sorted(self._times)
        points = np.asarray(values)
        shares = np.asarray([self._times[value] for value in values], dtype=np.float64) / self.count
        shares /= shares.sum()
        times = np.random.default_rng(seed % 2**63).multinomial(self.count, shares, size=resamples)
        means: NDArray[np.float64] = times @ points / self.count
        if self._rounded:
            means = np.clip(means + (self.mean - float(shares @ points)), 0.0, 1.0)
        return means

    def interval(self, seed: int, *, level: float = LEVEL, resamples: int = RESAMPLES) -> Interval:
        """The mean with its percentile interval. One problem, or equal values, give an interval of width 0."""
        mean = self.mean
        if len(self._times) == 1:
            return Interval(mean, mean, mean)
        return Interval(mean, *_percentiles(self.resampled_means(seed, resamples), level))


def accuracy(values: Sequence[float]) -> float:
    """The mean of `values` in [0, 1]: 1 right, 0 not, or the share of a problem's responses that is right.

    Raises ValueError for none.
    """
    return Tally(values).mean


def bootstrap_interval(
    values: Sequence[float], seed: int, level: float = LEVEL, resamples: int = RESAMPLES
) -> Interval:
    """The mean of `values` in [0, 1] with the percentile interval of its bootstrap over them, fixed by the seed.

    Raises ValueError for no values.
    """
    return Tally(values).interval(seed, level=level, resamples=resamples)


def macro_interval(
    tallies: Sequence[Tally], seed: int, *, level: float = LEVEL, resamples: int = RESAMPLES
) -> Interval:
    """The unweighted mean of the means of several data sets; its bootstrap draws within each of them.

    Raises ValueError for no data set, or for one without values.
    """
    if not tallies:
        raise ValueError("the mean of no data sets")
    mean = math.fsum(tally.mean for tally in tallies) / len(tallies)
    draws = sum(tally.resampled_means(seed + i, resamples) for i, tally in enumerate(tallies)) / len(tallies)
    return Interval(mean, *_percentiles(draws, level))


def _percentiles(means: Any, level: float) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k of n responses, c of them correct, is correct: 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374), equation 1. By hand: n = 4, c = 1, k = 2 is
    1 - C(3,2) / C(4,2) = 1 - 3/6 = .5. Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} responses with {c} correct")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def best_of_k(scores: Sequence[float], correct: Sequence[bool], answered: Sequence[bool], k: int) -> float:
    """The chance that the best-scored of k of n candidates is correct (selection `max`: ties to the first in the list,
    a candidate without an answer only where no other is there).

    Exact: the candidate of rank r (0 the best) is selected where it is drawn and no better one is, in C(n-1-r, k-1) of
    C(n, k) subsets. By hand: correct is only the second best of three, k = 2: C(1, 1) / C(3, 2) = 1/3. Raises
    ValueError unless 1 <= k <= n.
    """
    return best_of_ks(scores, correct, answered, [k])[0]


def best_of_ks(
    scores: Sequence[float], correct: Sequence[bool], answered: Sequence[bool], ks: Sequence[int]
) -> list[float]:
    """`best_of_k` for every one of `ks`, at the cost of one sort."""
    n = len(scores)
    for k in ks:
        if not 1 <= k <= n:
            raise ValueError(f"best-of-{k} of {n} candidates")
    ranked = sorted(range(n), key=lambda i: (not answered[i], -scores[i], i))
    ranks = [rank for rank, i in enumerate(ranked) if correct[i]]
    return [min(1.0, math.fsum(_selected(n, k)[rank] for rank in ranks)) for k in ks]


@lru_cache(maxsize=1024)
def _selected(n: int, k: int) -> list[float]:
    """The chance of each rank, the best first, to be the best of k of n."""
    return [math.comb(n - 1 - rank, k - 1) / math.comb(n, k) for rank in range(n)]


class Votes(NamedTuple):
    """The chance that the winner of a vote among k candidates is correct, by the way of weighing."""

    majority: float
    by_sum: list[float]
    by_mean: list[float]


def votes_at_k(
    answers: Sequence[str | None],
    correct: Sequence[bool],
    scores_AN: Sequence[Sequence[float]],
    k: int,
    seed: int,
) -> Votes:
    """Majority, vote-sum and vote-mean among k of n candidates, with the ties of `selection.select`.

    `answers` are normalised, None where there is none; equal answers have one verdict, that of the first of them.
    `scores_AN` holds a row of n scores for every step aggregation (none: both lists are empty). By hand: answers A B B,
    B correct, k = 2: AB is a tie that A wins, AB again, BB: 1/3. Raises ValueError unless 1 <= k <= n.
    """
    import numpy as np

    n = len(answers)
    if not 1 <= k <= n:
        raise ValueError(f"a vote of {k} among {n} candidates")
    columns: dict[str, int] = {}
    right: list[bool] = []
    for answer, good in zip(answers, correct, strict=True):
        if answer is not None and answer not in columns:
            columns[answer] = len(columns)
            right.append(good)
    rows = len(scores_AN)
    if not any(right):
        return Votes(0.0, [0.0] * rows, [0.0] * rows)
    if all(right) and None not in answers:
        return Votes(1.0, [1.0] * rows, [1.0] * rows)
    member = np.zeros((n, len(columns)))
    for index, answer in enumerate(answers):
        if answer is not None:
            member[index, columns[answer]] = 1.0
    subsets = _subsets(n, k, seed)  # [subset][candidate]
    counts = subsets @ member  # [subset][answer]
    present = counts > 0
    # Where each answer's first vote stands in the list: the first of tied answers wins.
    first = np.where(present, (subsets[:, :, None] * member[None]).argmax(axis=1), n)
    weights = np.empty((1 + 2 * rows, *counts.shape))  # [way][subset][answer]: majority, the sums, the means
    weights[0] = counts
    if rows:
        member_scores = np.asarray(scores_AN, dtype=np.float64)[:, :, None] * member[None]
        np.matmul(subsets[None], member_scores, out=weights[1 : 1 + rows])
        np.divide(weights[1 : 1 + rows], np.maximum(counts, 1.0), out=weights[1 + rows :])
    weights[:, ~present] = -1.0
    tied = weights >= weights.max(axis=-1, keepdims=True) - 1e-12
    winners = np.where(tied, first, n + 1).argmin(axis=-1)  # [way][subset]
    right_shares = (np.asarray(right)[winners] & present.any(axis=-1)).mean(axis=-1).tolist()
    return Votes(right_shares[0], right_shares[1 : 1 + rows], right_shares[1 + rows :])


def majority_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int, seed: int = 0) -> float:
    """The chance that the majority among k of n answers is correct; see `votes_at_k`."""
    return votes_at_k(answers, correct, [], k, seed).majority


@lru_cache(maxsize=256)
def _subsets(n: int, k: int, seed: int) -> NDArray[np.float64]:
    """[subset][candidate] 1 where it is drawn: all subsets where there are at most SUBSETS, else SUBSETS random
    ones."""
    import numpy as np

    if math.comb(n, k) <= SUBSETS:
        chosen = np.asarray(list(combinations(range(n), k)))
    else:
        draw = np.random.default_rng([seed % 2**63, n, k])
        chosen = draw.random((SUBSETS, n)).argsort(axis=1)[:, :k]
    subsets = np.zeros((len(chosen), n))
    np.put_along_axis(subsets, chosen, 1.0, axis=1)
    return subsets


def k_values(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself: where a curve of n candidates is drawn."""
    return sorted({*(2**i for i in range(n.bit_length()) if 2**i <= n), n})


def as_record(interval: Interval, digits: int = 6) -> Mapping[str, float]:
    """The interval as it stands in a report."""
    return {
        "value": round(interval.mean, digits),
        "low": round(interval.low, digits),
        "high": round(interval.high, digits),
    }
