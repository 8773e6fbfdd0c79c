"""All problems of a run: their tallies, and the report that is made of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..errors import UsageError
from .curves import MAJORITY, PASS, Curves
from .items import FAILED, Item
from .measures import SUBSETS, Tally, as_record, macro_interval
from .provenance import Origin

MOST_GROUPS = 10_000
"""Values of --by that are told apart: each costs memory, and nobody reads a longer table."""
_MOST_FORMS = 100


class _Part:
    """A data set, or the problems that share a value of --by."""

    __slots__ = ("responses", "tally", "tokens", "unparsed")

    def __init__(self) -> None:
        self.tally = Tally()
        self.unparsed = self.responses = self.tokens = 0

    def add(self, value: float, item: Item) -> None:
        self.tally.add(value)
        self.unparsed += item.unparsed
        self.responses += len(item.correct)
        self.tokens += item.tokens


class Totals:
    """The tallies of a run: memory for data sets, groups and points of curves, none for problems."""

    def __init__(self, points: list[int] | None, seed: int, by: str | None = None) -> None:
        self._by = by
        self._all = _Part()
        self._datasets: dict[str, _Part] = {}
        self._groups: dict[str, _Part] = {}
        self._curves = Curves(points, seed)
        self._kinds: Counter[str] = Counter()
        self._strategies: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._forms: Counter[str] = Counter()
        self._truncated = 0
        self._marks = 0

    @property
    def count(self) -> int:
        """How many problems there were, failed ones among them."""
        return self._all.tally.count

    def add(self, item: Item) -> None:
        """Count a problem. Raises UsageError where --by tells too many groups apart."""
        value = item.value
        self._kinds[item.kind] += 1
        self._all.add(value, item)
        part = self._datasets.get(item.dataset)
        if part is None:
            part = self._datasets[item.dataset] = _Part()
        part.add(value, item)
        if item.group is not None:
            group = self._groups.get(item.group)
            if group is None:
                if len(self._groups) >= MOST_GROUPS:
                    raise UsageError(
                        f"--by {self._by} has more than {MOST_GROUPS} values", hint="name a field that groups problems"
                    )
                group = self._groups[item.group] = _Part()
            group.add(value, item)
        self._marks = (self._marks + item.mark) % 2**128
        if not item.correct:
            return
        self._sizes[len(item.correct)] += 1
        self._truncated += item.truncated
        if item.strategy is not None:
            self._strategies[item.strategy] += 1
        if item.forms is not None:
            for form, count in item.forms.items():
                known = form in self._forms or len(self._forms) < _MOST_FORMS
                self._forms[form if known else "(other)"] += count
        self._curves.add(item)

    def report(self, origin: Origin) -> dict[str, Any]:
        """The report, as it is written."""

        def interval(tally: Tally) -> dict[str, Any]:
            return {"n": tally.count, **as_record(tally.interval(origin.seed, resamples=origin.resamples))}

        def row(part: _Part) -> dict[str, Any]:
            return interval(part.tally) | {"unparsed": _share(part.unparsed, part.responses)}

        named = [part.tally for name, part in sorted(self._datasets.items()) if name != FAILED]
        macro = macro_interval(named, origin.seed, resamples=origin.resamples) if named else None
        total = self._all
        curves = {
            curve: [{"k": k, **interval(tally)} for k, tally in points.items()]
            for curve, points in self._curves.tallies().items()
        }
        runs = origin.runs
        return {
            "kind": "report",
            "name": origin.name,
            "n": self.count,
            "failed": self._kinds["failed"],
            "bad_lines": origin.bad_lines,
            "responses": total.responses,
            "responses_per_problem": {str(n): count for n, count in sorted(self._sizes.items())},
            "accuracy_of": "the selected candidate" if self._strategies else "a response, averaged over each problem's",
            "datasets": {dataset: row(part) for dataset, part in self._datasets.items()},
            "micro": interval(total.tally),
            "macro": None if macro is None else {"datasets": len(named), **as_record(macro)},
            "by": None
            if self._by is None
            else {"field": self._by, "groups": {group: row(part) for group, part in sorted(self._groups.items())}},
            "unparsed": _share(total.unparsed, total.responses),
            "forms": dict(self._forms.most_common()) or None,
            "truncated": _share(self._truncated, total.responses),
            "tokens": total.tokens,
            "tokens_per_response": round(total.tokens / total.responses, 1) if total.responses else None,
            "seconds": sum(run["seconds"] for run in runs) if runs and all("seconds" in run for run in runs) else None,
            "pass_at_k": curves.pop(PASS, []),
            "majority_at_k": curves.pop(MAJORITY, []),
            "best_of_k": curves,
            "made_from": {
                **origin.made_from(),
                "problems_hash": f"{self._marks:032x}",
                "records": dict(self._kinds),
                "strategies": dict(self._strategies),
            },
            **origin.settings(subsets=SUBSETS),
        }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
