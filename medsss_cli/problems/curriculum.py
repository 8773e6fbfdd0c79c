"""Choose the problems that are worth a search: the policy fails some of them, and of those it fails the most.

Per dataset, a problem that is always right is left out, and the K with the lowest pass rate stay (paper, section 4.1).
Ties go by a hash of the id, so that the choice depends on no order. Memory: K problems per dataset. A band of pass
rates leaves out the hopeless ones, whose trees would hold no correct trajectory."""

from __future__ import annotations

import contextlib
import hashlib
import heapq
from collections import Counter, defaultdict
from typing import NamedTuple

from ..errors import UsageError
from ..records import Problem, Samples, Verdict, problem_fields


class Band(NamedTuple):
    """The pass rates from `low` up to `high`; `high` itself counts where it is 1."""

    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> Band:
        """LOW:HIGH. Raises UsageError for what is no band."""
        low, _, high = text.partition(":")
        with contextlib.suppress(ValueError):
            band = cls(float(low), float(high))
            if 0 <= band.low < band.high <= 1:
                return band
        raise UsageError(f"--pass-rate {text}: no band of pass rates", hint="LOW:HIGH, 0 <= LOW < HIGH <= 1")

    def holds(self, rate: float) -> bool:
        """Whether a pass rate lies in the band."""
        return self.low <= rate and (rate < self.high or rate == self.high == 1.0)


ALL = Band(0.0, 1.0)


class Curriculum:
    """`keep` is K. `counts` counts problems: `offered`, `solved` (always right), `unjudged` (no answer could be
    judged), `outside` (of the band)."""

    def __init__(self, keep: int, band: Band = ALL) -> None:
        self.counts: Counter[str] = Counter()
        self._keep, self._band = keep, band
        # Per dataset a heap whose smallest entry is the first to go: (-pass rate, -hash, id, problem).
        self._heaps: defaultdict[str, list[tuple[float, int, str, Problem]]] = defaultdict(list)

    def offer(self, samples: Samples) -> None:
        """Look at one problem's answers. Its pass rate in [0, 1] is the record's, and goes to `meta.pass_rate`."""
        self.counts["offered"] += 1
        if samples.pass_rate >= 1.0:
            self.counts["solved"] += 1
        elif all(response.verdict is Verdict.NOT_JUDGED for response in samples.responses):
            self.counts["unjudged"] += 1
        elif not self._band.holds(samples.pass_rate):
            self.counts["outside"] += 1
        else:
            problem = Problem(**problem_fields(samples) | {"meta": {**samples.meta, "pass_rate": samples.pass_rate}})
            heap = self._heaps[samples.dataset]
            heapq.heappush(heap, (-samples.pass_rate, -_rank(samples.id), samples.id, problem))
            if len(heap) > self._keep:
                heapq.heappop(heap)

    def chosen(self) -> list[Problem]:
        """The problems that stay, the lowest pass rate first, of equals by the hash; all datasets together."""
        entries = [entry for heap in self._heaps.values() for entry in heap]
        return [entry[3] for entry in sorted(entries, key=lambda entry: (-entry[0], -entry[1], entry[2]))]


def _rank(id: str) -> int:
    written = id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(written, digest_size=8, person=b"curric").digest())
