"""Two runs on the same problems, paired by id: by how much they differ, and how surely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .intervals import LEVEL, difference_interval
from .items import FAILED, Item

SHOWN = 20
"""Unmatched ids that a report names; all of them are counted."""

_LARGEST = 500_000  # the sum of all differences, in units: what the test works on is twice as long


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
    sizes, counts = np.unique(np.abs(units), return_counts=True)
    total, observed = int(np.abs(units).sum()), abs(int(units.sum()))
    if not observed:
        return 1.0
    length = next_fast_len(2 * total + 1, real=True)
    angles = 2 * np.pi * np.arange(length // 2 + 1) / length
    waves = np.ones_like(angles)  # the characteristic function of the sum: a product of cosines
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        waves *= np.cos(size * angles) ** count
    tail = float(irfft(waves, length)[observed : total + 1].sum())
    return min(1.0, max(2 * tail, 1e-12))


def comparison_report(a: Sequence[Item], b: Sequence[Item]) -> dict[str, Any]:
    """What the two differ by: B minus A over the problems that both have, each list with ids of its own.

    A failed problem is wrong. Data sets are those of A, or of B for what failed in A. Raises ValueError where no id is
    in both.
    """
    of_b = {item.id: item for item in b}
    pairs = [(item, of_b[item.id]) for item in a if item.id in of_b]
    if not pairs:
        raise ValueError("no id is in both")
    paired = {one.id for one, _ in pairs}
    alone = {f"only_{side}": [i.id for i in run if i.id not in paired] for side, run in (("a", a), ("b", b))}
    changed = [one.id for one, two in pairs if one.mark and two.mark and one.mark != two.mark]
    datasets: dict[str, list[tuple[Item, Item]]] = {}
    for one, two in pairs:
        datasets.setdefault(two.dataset if one.dataset == FAILED else one.dataset, []).append((one, two))
    return {
        "kind": "comparison",
        "pairs": _row(pairs),
        "datasets": {dataset: _row(part) for dataset, part in datasets.items()},
        "failed": {side: sum(i.kind == "failed" for i in run) for side, run in (("a", a), ("b", b))},
        "unmatched": {side: _named(ids) for side, ids in alone.items()},
        "different_problems": _named(changed),
        "settings": {"level": LEVEL},
    }


def _named(ids: Sequence[str]) -> dict[str, Any]:
    return {"n": len(ids), "ids": list(ids[:SHOWN])}


def _row(pairs: Sequence[tuple[Item, Item]]) -> dict[str, Any]:
    """`only_a_right`, `only_b_right` and `mcnemar_p` are there where every problem has one verdict: then the one test
    is McNemar's."""
    a, b = (np.asarray([pair[side].value for pair in pairs]) for side in (0, 1))
    whole = bool(np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all())
    p = float(f"{sign_flip_p(b - a):.6g}")
    return {
        "n": len(pairs),
        "a": round(float(a.mean()), 6),
        "b": round(float(b.mean()), 6),
        "difference": difference_interval(b - a).record() | {"p": p},
        "only_a_right": int((a > b).sum()) if whole else None,
        "only_b_right": int((b > a).sum()) if whole else None,
        "mcnemar_p": p if whole else None,
    }
