"""Curves of many problems: pass@k, majority@k and best-of-k for every step and answer aggregation. Problems with
equally many candidates are gathered and worked on together; what is held is about a thousand problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from ..prm.aggregate import StepAggregation
from .items import Item
from .measures import NO_VOTE, Tally, best_of_many, k_values, pass_at_k, votes_of_many

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAJORITY, PASS = "majority@k", "pass@k"
ORDER = [
    PASS,
    MAJORITY,
    *(f"{step}-{way}" for step in StepAggregation for way in ("max", "vote-sum", "vote-mean")),
]
"""The names of all curves, as they stand in reports."""

HELD = 1024
"""Problems that are gathered before they are worked on."""


class Curves:
    """The tallies of every curve at every k. `points` are the k to draw at, None for 1, 2, 4, ... and n."""

    def __init__(self, points: list[int] | None, seed: int) -> None:
        self._points = points
        self._seed = seed
        self._held: dict[tuple[int, bool], list[Item]] = {}
        self._count = 0
        self._tallies: dict[str, dict[int, Tally]] = {}

    def add(self, item: Item) -> None:
        """Take a problem in. One candidate makes no curve, unless the points are chosen."""
        n = len(item.correct)
        if n < 1 or (n == 1 and self._points is None):
            return
        self._held.setdefault((n, item.scores is not None), []).append(item)
        self._count += 1
        if self._count >= HELD:
            self._work()

    def tallies(self) -> dict[str, dict[int, Tally]]:
        """Curve -> k -> tally, in the order of ORDER and of k."""
        self._work()
        return {name: dict(sorted(self._tallies[name].items())) for name in ORDER if name in self._tallies}

    def _work(self) -> None:
        for (n, _), items in self._held.items():
            ks = [k for k in self._points or k_values(n) if k <= n]
            for name, k, values in curve_values(items, ks, self._seed):
                self._tallies.setdefault(name, {}).setdefault(k, Tally()).add_many(values)
        self._held.clear()
        self._count = 0


def curve_values(items: Sequence[Item], ks: Sequence[int], seed: int) -> Iterator[tuple[str, int, NDArray[np.float64]]]:
    """Curve, k and the value of every item there. The items have equally many candidates; all or none have scores."""
    import numpy as np

    n = len(items[0].correct)
    correct_PN = np.asarray([item.correct for item in items], dtype=np.bool_)
    columns_PN = np.asarray([item.columns for item in items], dtype=np.int64)
    rights = correct_PN.sum(axis=1)
    by_step = answer_scores(items)
    scores_APN = np.asarray(list(by_step.values())).reshape(len(by_step), len(items), n)
    for k in ks:
        chances = np.asarray([pass_at_k(n, c, k) for c in range(n + 1)])
        yield PASS, k, chances[rights]
        votes = votes_of_many(columns_PN, scores_APN, k, seed)
        yield MAJORITY, k, votes.majority_P
        for row, step in enumerate(by_step):
            yield f"{step}-vote-sum", k, votes.by_sum_AP[row]
            yield f"{step}-vote-mean", k, votes.by_mean_AP[row]
    answered = columns_PN != NO_VOTE
    for step, scores_PN in by_step.items():
        for k, best in zip(ks, best_of_many(scores_PN, correct_PN, answered, ks), strict=True):
            yield f"{step}-max", k, best


def answer_scores(items: Sequence[Item]) -> dict[str, NDArray[np.float64]]:
    """Step aggregation -> [problem][candidate], `aggregate_steps` of all; nothing where there are no step scores.

    Sums, products and logarithms are rounded to 40 bits, so that the order of the steps decides no tie.
    """
    import numpy as np

    if items[0].scores is None:
        return {}
    lists = [steps for item in items for steps in item.scores or ()]
    flat = np.fromiter(chain.from_iterable(lists), dtype=np.float64)
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    filled = np.flatnonzero(lengths)  # an answer without a scored step gets 0
    ends = np.cumsum(lengths)[filled]
    counts = lengths[filled]
    starts = ends - counts

    def spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = np.zeros(len(lists))
        whole[filled] = values
        return whole.reshape(len(items), -1)

    def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
        mantissas, exponents = np.frexp(values)
        return np.minimum(np.ldexp(np.rint(mantissas * 2.0**40) / 2.0**40, exponents), 1.0)

    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.add.reduceat(values, starts)
        return result

    if not len(filled):
        return {str(how): spread(np.zeros(0)) for how in StepAggregation}
    with np.errstate(divide="ignore"):
        logs = sums(np.log(flat))
    found = {
        StepAggregation.MIN: np.minimum.reduceat(flat, starts),
        StepAggregation.LAST: flat[ends - 1],
        StepAggregation.PROD: rounded(np.multiply.reduceat(flat, starts)),
        StepAggregation.MEAN: rounded(sums(flat) / counts),
        StepAggregation.GMEAN: rounded(np.exp(logs / counts)),
    }
    return {str(how): spread(found[how]) for how in StepAggregation}
