"""What a run of answers amounts to: means with bootstrap intervals, pass@k, majority@k and best-of-k; and by how much
two runs differ. Pure; numpy is imported by the functions that draw.

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
        self._coarsen()

    def add_many(self, values: NDArray[np.float64]) -> None:
        """Count every one of `values`, of shape [problem]: what `add` does to each, at the cost of a few array calls.
        Raises ValueError as `add` does."""
        import numpy as np

        if not len(values):
            return
        if not (values.min() >= -1e-9 and values.max() <= 1 + 1e-9):  # false of nan as well
            raise ValueError(f"values must lie in [0, 1], got {values.min()} to {values.max()}")
        self.count += len(values)
        self._accumulate(float(values.sum()))
        if not self._rounded:
            found, times = np.unique(values, return_counts=True)
            for value, number in zip(found.tolist(), times.tolist(), strict=True):
                self._times[value] += number
            self._coarsen()
            return
        on_grid = np.bincount(np.rint(values * _GRID).astype(np.int64), minlength=_GRID + 1)
        for index, number in enumerate(on_grid.tolist()):
            if number:
                self._times[index / _GRID] += number

    def _coarsen(self) -> None:
        """From the values themselves to the grid, once there are too many of them."""
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
    import numpy as np

    row = np.asarray(scores, dtype=np.float64)[None]
    chances: list[float] = best_of_many(row, np.asarray([correct]), np.asarray([answered]), ks)[:, 0].tolist()
    return chances


def best_of_many(
    scores_PN: NDArray[np.float64], correct_PN: NDArray[np.bool_], answered_PN: NDArray[np.bool_], ks: Sequence[int]
) -> NDArray[np.float64]:
    """[k][problem]: `best_of_ks` of many problems with n candidates each, their scores in [0, 1]."""
    import numpy as np

    n = scores_PN.shape[1]
    for k in ks:
        if not 1 <= k <= n:
            raise ValueError(f"best-of-{k} of {n} candidates")
    ranked = np.where(answered_PN, -scores_PN, 2.0 - scores_PN).argsort(axis=1, kind="stable")
    right = np.take_along_axis(correct_PN, ranked, axis=1).astype(np.float64)
    chances: NDArray[np.float64] = np.asarray([_selected(n, k) for k in ks]).reshape(len(ks), n) @ right.T
    return np.minimum(chances, 1.0)


@lru_cache(maxsize=1024)
def _selected(n: int, k: int) -> list[float]:
    """The chance of each rank, the best first, to be the best of k of n."""
    return [math.comb(n - 1 - rank, k - 1) / math.comb(n, k) for rank in range(n)]


class Votes(NamedTuple):
    """The chance that the winner of a vote among k candidates is correct, by the way of weighing."""

    majority: float
    by_sum: list[float]
    by_mean: list[float]


class VotesOfMany(NamedTuple):
    """As `Votes`, of many problems: `majority_P` is [problem], the others [step aggregation][problem]."""

    majority_P: NDArray[np.float64]
    by_sum_AP: NDArray[np.float64]
    by_mean_AP: NDArray[np.float64]


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

    columns = np.asarray([vote_columns(answers, correct)], dtype=np.int64)
    scores_APN = np.asarray(scores_AN, dtype=np.float64).reshape(len(scores_AN), 1, len(answers))
    votes = votes_of_many(columns, scores_APN, k, seed)
    return Votes(float(votes.majority_P[0]), votes.by_sum_AP[:, 0].tolist(), votes.by_mean_AP[:, 0].tolist())


NO_VOTE = 1 << 20
"""The column of a candidate without an answer."""


def vote_columns(answers: Sequence[str | None], correct: Sequence[bool]) -> list[int]:
    """The column of each candidate's answer: correct answers are 0, 1, ..., wrong ones -1, -2, ..., none is NO_VOTE.

    Equal answers share a column, on the side of the first of them.
    """
    known: dict[str | None, int] = {None: NO_VOTE}
    right, wrong = 0, -1
    columns = []
    for answer, good in zip(answers, correct, strict=True):
        column = known.get(answer)
        if column is None:
            if good:
                column, right = right, right + 1
            else:
                column, wrong = wrong, wrong - 1
            known[answer] = column
        columns.append(column)
    return columns


_CHUNK = 1 << 16  # numbers in the largest array of a chunk: half a megabyte stays in a core's own cache
_TIE = 1e-11  # what one place in the list is worth: more than the rounding of a sum, less than any score


def votes_of_many(columns_PN: NDArray[np.int64], scores_APN: NDArray[np.float64], k: int, seed: int) -> VotesOfMany:
    """`votes_at_k` of many problems with n candidates each, `columns_PN` as `vote_columns` gives them.

    A vote is decided by whether the best correct answer weighs more than the best wrong one. To each weight a tiny
    bonus for the place of the answer's first vote is added, so that of equal weights the first answer's is larger: no
    tie is left. Weights that differ by less than n * 1e-11 may count as equal. Raises ValueError unless 1 <= k <= n.
    """
    import numpy as np

    problems, n = columns_PN.shape
    if not 1 <= k <= n:
        raise ValueError(f"a vote of {k} among {n} candidates")
    rows = len(scores_APN)
    result = VotesOfMany(np.zeros(problems), np.zeros((rows, problems)), np.zeros((rows, problems)))
    voting = columns_PN != NO_VOTE
    rights = np.where(voting, columns_PN, -1).max(axis=1) + 1
    wrongs = -np.where(voting, columns_PN, 0).min(axis=1).clip(max=0)
    sure = (rights > 0) & (wrongs == 0) & voting.all(axis=1)
    for whole in result:
        whole[..., sure] = 1.0
    subsets = _subsets(n, k, seed)
    open_ = np.flatnonzero((rights > 0) & ~sure)
    shapes, group_of = np.unique(np.stack([rights[open_], wrongs[open_]]), axis=1, return_inverse=True)
    for group, (right, wrong) in enumerate(shapes.T.tolist()):
        members = open_[group_of.ravel() == group]
        size = max(1, _CHUNK // (len(subsets) * (1 + rows) * (right + wrong)))
        for start in range(0, len(members), size):
            chunk = members[start : start + size]
            shares = _vote_shares(columns_PN[chunk], scores_APN[:, chunk], right, wrong, subsets)
            result.majority_P[chunk] = shares[0]
            result.by_sum_AP[:, chunk] = shares[1 : 1 + rows]
            result.by_mean_AP[:, chunk] = shares[1 + rows :]
    return result


def _vote_shares(
    columns_PN: NDArray[np.int64],
    scores_APN: NDArray[np.float64],
    right: int,
    wrong: int,
    subsets: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[way][problem]: the share of the subsets that a correct answer wins; the ways are majority, the sums, the means.
    All problems have `right` correct and `wrong` wrong answers."""
    import numpy as np

    names = np.asarray([*range(right), *range(-1, -wrong - 1, -1)])
    rows = len(scores_APN)
    member = (columns_PN == names[:, None, None]).astype(np.float64)  # [answer][problem][candidate]
    weights = np.concatenate([member[None], member * scores_APN[:, None]])  # [way][answer][problem][candidate]
    sums = weights @ subsets.T  # [way][answer][problem][draw]
    bonus = _bonus(member, subsets) * _TIE

    def won(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """[way][problem] from [way][answer][problem][draw]."""
        best, other = weights[:, 0], weights[:, right] if wrong else np.float64(-_TIE * (subsets.shape[1] + 1))
        for answer in range(1, right):
            best = np.maximum(best, weights[:, answer])
        for answer in range(right + 1, right + wrong):
            other = np.maximum(other, weights[:, answer])
        share: NDArray[np.float64] = np.count_nonzero(best > other, axis=-1) / len(subsets)
        return share

    shares = np.empty((1 + 2 * rows, columns_PN.shape[0]))
    if rows:
        means = sums[1:] / np.maximum(sums[0], 1.0)
        means += bonus
        shares[1 + rows :] = won(means)
    sums += bonus
    shares[: 1 + rows] = won(sums)
    return shares


def _bonus(member: NDArray[np.float64], subsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """[answer][problem][draw]: minus the place in the list of the answer's first drawn vote; -(n + 1) where it has
    none, so that it loses to any answer that was voted for, whatever that weighs."""
    import numpy as np

    n = member.shape[-1]
    if n <= 500:
        # Powers of four: no sum of the later ones reaches the power of the first, whose exponent can be read off.
        mixed = member @ (subsets * 0.25 ** np.arange(n)).T
        exponents = np.frexp(mixed)[1]  # 1 - 2 * place
        return np.where(mixed > 0, (exponents - 1) / 2, -(n + 1.0))
    places = np.full((*member.shape[:-1], len(subsets)), -(n + 1.0))
    for place in reversed(range(n)):
        places[(member[..., place, None] * subsets[:, place]) > 0] = -place
    return places


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


def mcnemar(only_a: int, only_b: int) -> float:
    """The two-sided exact p of McNemar's test: how likely a split of the discordant pairs is that is no less uneven, if
    either side is as likely (binomial with p = 1/2; McNemar 1947 in its exact form).

    `only_a` pairs are right in A alone, `only_b` in B alone. By hand: 1 and 5 give 2 * (1 + 6) / 64 = .21875. No
    discordant pair gives 1. Raises ValueError for a negative number.
    """
    if only_a < 0 or only_b < 0:
        raise ValueError(f"numbers of pairs cannot be negative: {only_a}, {only_b}")
    n, least = only_a + only_b, min(only_a, only_b)
    if n <= 1000:
        tail = sum(math.comb(n, i) for i in range(least + 1))
        return min(1.0, 2 * tail / (1 << n))
    # From the largest term down, until the terms add nothing more.
    log = math.lgamma(n + 1) - math.lgamma(least + 1) - math.lgamma(n - least + 1) - n * math.log(2)
    ratio = total = 1.0
    for i in range(least, 0, -1):
        ratio *= i / (n - i + 1)
        total += ratio
        if ratio < total * 1e-17:
            break
    return min(1.0, 2 * math.exp(log + math.log(total)))


class Difference(NamedTuple):
    """The mean difference of pairs, in [-1, 1], with its paired percentile interval, and the bootstrap's two-sided p:
    twice the share of bootstrap means on the other side of zero, 1 / resamples at the least."""

    mean: float
    low: float
    high: float
    p: float


def paired_difference(
    differences: NDArray[np.float64], seed: int, *, level: float = LEVEL, resamples: int = RESAMPLES
) -> Difference:
    """What pairs differ by, `differences` [pair] in [-1, 1]; the bootstrap draws pairs. Memory does not grow with the
    resamples. Raises ValueError for no pair."""
    import numpy as np

    tally = Tally()
    tally.add_many((np.asarray(differences, dtype=np.float64) + 1) / 2)
    mean, low, high = (2 * value - 1 for value in tally.interval(seed, level=level, resamples=resamples))
    mean = float(np.mean(differences))
    if low == high:
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 1 / resamples)
    means = 2 * tally.resampled_means(seed, resamples) - 1
    beyond = min(float((means <= 1e-12).mean()), float((means >= -1e-12).mean()))
    return Difference(mean, low, high, min(1.0, max(2 * beyond, 1 / resamples)))


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
