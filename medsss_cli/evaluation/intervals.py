"""Means over problems with 95 % intervals, in closed form, and the test of paired differences: nothing is resampled, so
there is no seed and no number of resamples to choose. The intervals hold at 0 and 1, where a percentile bootstrap has
no width at all (the coverage of both: docs/internals/benchmarks.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
_LARGEST = 500_000  # the sum of all differences, in units: what the paired test works on is twice as long


class Interval(NamedTuple):
    """A mean over problems with its interval, all in [0, 1] (a difference of two: in [-1, 1])."""

    mean: float
    low: float
    high: float

    def record(self) -> dict[str, float]:
        """As it stands in a report."""
        return {"value": round(self.mean, 6), "low": round(self.low, 6), "high": round(self.high, 6)}


def mean_interval(values: ArrayLike, sizes: ArrayLike | None = None) -> Interval:
    """The mean of the problems' values, which lie in [0, 1]; with `sizes`, the sum of `values` over that of `sizes`
    (a problem that has 3 of its 4 trajectories right: value 3, size 4).

    Values of 0 and 1 alone have Wilson's interval (Wilson 1927, JASA 22, equation for p'):
    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). By hand: 30 of 30 right give low = 1 / (1 + z²/30) = .8865.

    Shares have the normal interval of their mean after one problem of value 0 and one of value 1 have been added, the
    idea of Agresti and Coull (1998, The American Statistician 52) in the form of Bonett and Price (2012): with
    m = (sum + 1) / (n + 2), m ± z sqrt(((sum of squares + 1) / (n + 2) - m²) / (n + 2)). With sizes the two added
    problems have the mean size, and the variance is that of a ratio (Cochran, Sampling Techniques, 6.5).

    Raises ValueError for no problem, or a value outside [0, size].
    """
    v = np.asarray(values, dtype=np.float64)
    t = np.ones_like(v) if sizes is None else np.asarray(sizes, dtype=np.float64)
    if not len(v) or not t.sum():
        raise ValueError("the mean of no values")
    if not bool(np.all((v >= -1e-9) & (v <= t + 1e-9))):  # false of nan as well
        raise ValueError(f"values must lie in [0, 1] of their sizes, got {v.min()} to {v.max()}")
    mean, n = float(v.sum() / t.sum()), len(v)
    if bool(np.all(t == 1)) and bool(np.all((v == 0) | (v == 1))):
        middle = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z * math.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n * n)) / (1 + _Z**2 / n)
    else:
        size = float(t.mean())
        whole = float(t.sum()) + 2 * size
        middle = (float(v.sum()) + size) / whole
        residues = float(((v - middle * t) ** 2).sum()) + size**2 * ((1 - middle) ** 2 + middle**2)
        half = _Z * math.sqrt(residues) / whole
    return Interval(mean, min(max(middle - half, 0.0), mean), max(min(middle + half, 1.0), mean))


def difference_interval(differences: ArrayLike) -> Interval:
    """The mean of paired differences, each in [-1, 1], with Bonett and Price's interval (2012, J. Educ. Behav. Stat.
    37): that of shares, with one pair of difference -1 and one of +1 added. By hand: 100 pairs that are all alike give
    0 ± z sqrt(2 / 102) / sqrt(102) = ± .0272. Raises ValueError for no pair."""
    d = np.asarray(differences, dtype=np.float64)
    if not len(d):
        raise ValueError("the mean of no values")
    # Sizes of 1 would give values of 0 and 1 Wilson's interval, which knows of no pairs.
    n = len(d) + 2
    middle = float(d.sum()) / n
    half = _Z * math.sqrt(((float(d @ d) + 2) / n - middle**2) / n)
    return Interval(float(d.mean()), max(middle - half, -1.0), min(middle + half, 1.0))


def sign_flip_p(differences: ArrayLike) -> float:
    """The two-sided exact p of paired differences: how likely a sum is that is no nearer to 0, if each difference
    might as well have had the other sign (Fisher 1935, The Design of Experiments, section 21). Of -1, 0 and 1
    alone it is McNemar's.

    By hand: differences 1, .5, .5: of eight choices of signs +++ and --- reach 2: p = .25. No difference gives 1.

    The distribution of the sum is worked out by a discrete Fourier transform over whole numbers of units, the
    largest common one; differences without one of at least 1/1000 are rounded to such units. It is good to 1e-12.
    """
    from scipy.fft import irfft, next_fast_len
    from scipy.stats import binomtest

    d = np.asarray(differences, dtype=np.float64)
    d = d[np.abs(d) > 1e-9]
    if not len(d):
        return 1.0
    if np.ptp(np.abs(d)) < 1e-9:
        return float(binomtest(int((d > 0).sum()), len(d)).pvalue)
    finest = max(1, min(1000, int(_LARGEST / np.abs(d).sum())))
    kinds = np.unique(np.abs(d).round(9))
    unit = next((u for u in range(1, finest) if np.abs(kinds * u - np.rint(kinds * u)).max() < 1e-6), finest)
    units = np.rint(d * unit).astype(np.int64)
    total, observed = int(np.abs(units).sum()), abs(int(units.sum()))
    if not observed:
        return 1.0
    length = next_fast_len(2 * total + 1, real=True)
    angles = 2 * np.pi * np.arange(length // 2 + 1) / length
    waves = np.ones_like(angles)  # the characteristic function of the sum: a product of cosines
    for size, count in zip(*(each.tolist() for each in np.unique(np.abs(units), return_counts=True)), strict=True):
        waves *= np.cos(size * angles) ** count
    tail = float(irfft(waves, length)[observed : total + 1].sum())
    return min(1.0, max(2 * tail, 1e-12))


def combined(parts: Sequence[Interval], of: Callable[[Sequence[float]], float]) -> Interval:
    """A function of independent means, one that rises with each of them: its value at the means, and its interval by
    square-and-add (Zou and Donner 2008, Statistics in Medicine 27; Newcombe's method): the squares of what each part
    alone moves it by, from its mean to its bound, are added.

    By hand: the mean of .5 in [.4, .6] and .9 in [.8, .95] is .7, low .7 - sqrt(.05² + .05²) = .6293. Raises ValueError
    for no part.
    """
    if not parts:
        raise ValueError("the mean of no data sets")
    means = [part.mean for part in parts]
    value = of(means)
    low, high = (
        math.sqrt(
            math.fsum((of([*means[:i], part[side], *means[i + 1 :]]) - value) ** 2 for i, part in enumerate(parts))
        )
        for side in (1, 2)
    )
    return Interval(value, max(value - low, 0.0), min(value + high, 1.0))
