"""Two runs on the same problems, paired by id: by how much they differ, and how surely."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .. import __version__
from .items import FAILED, Item
from .measures import LEVEL, mcnemar, paired_difference
from .provenance import versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHOWN = 20
"""Unmatched ids that a report names; all of them are counted."""


class Answers:
    """The problems of one run: id, value and data set of each, in about 60 bytes a problem."""

    def __init__(self) -> None:
        self._ids = bytearray()
        self._ends = array("Q")
        self._digests = array("Q")
        self._values = array("d")
        self._marks = array("Q")
        self._dataset_of = array("L")
        self._datasets: dict[str, int] = {}
        self.failed = 0

    def add(self, item: Item) -> None:
        """Take a problem in; the ids have been seen to differ."""
        from ..stream.shard import digest

        self._ids += item.id.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._ids))
        self._digests.append(digest(item.id))
        self._values.append(item.value)
        self._marks.append(item.mark % 2**64)
        self._dataset_of.append(self._datasets.setdefault(item.dataset, len(self._datasets)))
        self.failed += item.dataset == FAILED

    def __len__(self) -> int:
        return len(self._values)

    def arrays(self) -> tuple[NDArray[np.uint64], NDArray[np.float64], NDArray[np.uint64]]:
        """Digests of the ids, values, marks of the problems; in the order of the run."""
        import numpy as np

        digests, marks = (np.frombuffer(part, dtype=np.uint64) for part in (self._digests, self._marks))
        return digests, np.frombuffer(self._values), marks

    def ids(self, places: Iterable[int]) -> list[str]:
        """The ids at these places."""
        return [
            self._ids[self._ends[i - 1] if i else 0 : self._ends[i]].decode("utf-8", "surrogatepass") for i in places
        ]

    def dataset(self, place: int) -> str:
        """The data set of the problem there."""
        return list(self._datasets)[self._dataset_of[place]]

    def datasets(self) -> tuple[list[str], NDArray[np.int64]]:
        """Their names, and the index of each problem's."""
        import numpy as np

        return list(self._datasets), np.asarray(self._dataset_of, dtype=np.int64)


def compare(a: Answers, b: Answers, *, seed: int, resamples: int) -> dict[str, Any]:
    """What the two differ by: B minus A over the problems that both have.

    A failed problem is wrong. McNemar's test wants one verdict a problem: it is None where a problem has a share of
    right answers (several responses, none selected). Data sets are those of A, or of B for what failed in A. Raises
    ValueError where no id is in both.
    """
    import numpy as np

    ids_a, values_a, marks_a = a.arrays()
    ids_b, values_b, marks_b = b.arrays()
    _, in_a, in_b = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)
    if not len(in_a):
        raise ValueError("no id is in both")
    order = np.argsort(in_a)
    in_a, in_b = in_a[order], in_b[order]
    only_a, only_b = (np.setdiff1d(np.arange(len(run)), paired) for run, paired in ((a, in_a), (b, in_b)))
    known = (marks_a[in_a] != 0) & (marks_b[in_b] != 0)
    changed = np.flatnonzero(known & (marks_a[in_a] != marks_b[in_b]))

    def row(pairs: NDArray[np.int64]) -> dict[str, Any]:
        left, right = values_a[in_a[pairs]], values_b[in_b[pairs]]
        difference = paired_difference(right - left, seed, resamples=resamples)
        whole = bool(np.isin(left, (0.0, 1.0)).all() and np.isin(right, (0.0, 1.0)).all())
        a_alone, b_alone = int((left > right).sum()), int((right > left).sum())
        return {
            "n": len(pairs),
            "a": round(float(left.mean()), 6),
            "b": round(float(right.mean()), 6),
            "difference": {
                "value": round(difference.mean, 6),
                "low": round(difference.low, 6),
                "high": round(difference.high, 6),
                "p": round(difference.p, 6),
            },
            "only_a_right": a_alone if whole else None,
            "only_b_right": b_alone if whole else None,
            "mcnemar_p": mcnemar(a_alone, b_alone) if whole else None,
        }

    names_a, of_a = a.datasets()
    names_b, of_b = b.datasets()
    names = list(dict.fromkeys([*names_a, *names_b]))
    place_a, place_b = (np.asarray([names.index(name) for name in own]) for own in (names_a, names_b))
    dataset = place_a[of_a[in_a]]
    failed = names.index(FAILED) if FAILED in names else -1
    dataset = np.where(dataset == failed, place_b[of_b[in_b]], dataset)
    return {
        "kind": "comparison",
        "pairs": row(np.arange(len(in_a))),
        "datasets": {
            name: row(np.flatnonzero(dataset == index)) for index, name in enumerate(names) if (dataset == index).any()
        },
        "failed": {"a": a.failed, "b": b.failed},
        "unmatched": {
            "only_a": {"n": len(only_a), "ids": a.ids(only_a[:SHOWN].tolist())},
            "only_b": {"n": len(only_b), "ids": b.ids(only_b[:SHOWN].tolist())},
        },
        "different_problems": {"n": len(changed), "ids": a.ids(in_a[changed[:SHOWN]].tolist())},
        "settings": {"seed": seed, "resamples": resamples, "level": LEVEL},
        "version": __version__,
        "versions": versions(),
    }
