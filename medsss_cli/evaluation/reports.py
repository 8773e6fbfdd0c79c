"""The reports of `medsss eval` on answers: how good those of a run are, and by how much two runs differ that are paired
by id. That on step scores is `steps.py`."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from ..prm.aggregate import StepAggregation
from ..selection import AnswerAggregation, believed
from .intervals import LEVEL, combined, difference_interval, mean_interval, sign_flip_p
from .items import FAILED, Item
from .measures import DRAWS, best_of_k, k_values, majority_at_k, pass_at_k, votes_at_k

MOST_EXACT = 128
"""Candidates of a problem up to which majority@k is exact: 40 ms for so many, .05 ms for 16. Beyond, it is drawn."""

SEED = 0
"""What is drawn for a problem depends on this and the problem alone."""

SHOWN = 20
"""Unmatched ids that a report names; all of them are counted."""


def answers_report(items: Sequence[Item], points: Sequence[int] = (), by: str | None = None) -> dict[str, Any]:
    """What a report says of the answers. `points` are the k to draw curves at, none for 1, 2, 4, ... and n; `by` names
    the field that `Item.group` is from."""
    datasets = _parts(items, lambda item: item.dataset)
    groups = sorted(_parts(items, lambda item: str(item.group)).items()) if by else []
    named = [part for dataset, part in sorted(datasets.items()) if dataset != FAILED]
    macro = combined([mean_interval([i.value for i in part]) for part in named], fmean).record() if named else None
    strategies = Counter(item.strategy for item in items if item.strategy is not None)
    sizes = Counter(len(item.correct) for item in items if item.correct)
    responses, tokens = sum(len(item.correct) for item in items), sum(item.tokens for item in items)
    readable = [value for item in items if (value := item.readable_value) is not None]
    forms = sum((item.forms for item in items), Counter[str]())
    curves = _curves(items, points)
    return {
        "kind": "report",
        "n": len(items),
        "failed": sum(not item.correct for item in items),
        "responses": responses,
        "responses_per_problem": {str(n): count for n, count in sorted(sizes.items())},
        "accuracy_of": "the selected candidate" if strategies else "a response, averaged over each problem's",
        "datasets": {dataset: _row(part) for dataset, part in datasets.items()},
        "micro": _mean([item.value for item in items]),
        "macro": {"datasets": len(named), **macro} if macro else None,
        "readable": _mean(readable) if readable else None,
        "by": {"field": by, "groups": {group: _row(part) for group, part in groups}} if by else None,
        "unparsed": _unparsed(items),
        "forms": dict(forms.most_common()) or None,
        "tokens": tokens,
        "tokens_per_response": round(tokens / responses, 1) if responses else None,
        "pass_at_k": curves.pop("pass", []),
        "majority_at_k": curves.pop("majority", []),
        "likeliest_at_k": curves.pop("likeliest", []),
        "best_of_k": curves,
        "made_from": {
            "problems_hash": f"{sum(item.mark for item in items) % 2**128:032x}",
            "strategies": dict(strategies),
        },
        "settings": {"draws": DRAWS, "level": LEVEL},
    }


def _parts(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    parts: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        parts[key(item)].append(item)
    return parts


def _mean(values: Sequence[float]) -> dict[str, Any]:
    return {"n": len(values), **mean_interval(values).record()}


def _row(part: Sequence[Item]) -> dict[str, Any]:
    return _mean([item.value for item in part]) | {"unparsed": _unparsed(part)}


def _unparsed(items: Sequence[Item]) -> float | None:
    """The share of the responses whose answer could not be read."""
    responses = sum(len(item.readable) for item in items)
    return round(1 - sum(sum(item.readable) for item in items) / responses, 6) if responses else None


def _curves(items: Iterable[Item], points: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """Curve -> its points, in the order of k: the mean over the problems that have k candidates, with its interval."""
    values: dict[tuple[str, int], array[float]] = defaultdict(lambda: array("d"))
    for item in items:
        n = len(item.correct)
        for k in points or (k_values(n) if n > 1 else ()):  # one candidate makes no curve
            for curve, value in curve_points(item, k) if k <= n else ():
                values[curve, k].append(value)
    curves: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (curve, k), at in sorted(values.items(), key=lambda each: each[0][1]):
        curves[curve].append({"k": k, **_mean(at)})
    return curves


def curve_points(item: Item, k: int) -> Iterator[tuple[str, float]]:
    """A problem's part in every curve at k: pass, majority, likeliest, and each way of choosing by step scores."""
    n, columns, seed = len(item.correct), item.columns, (SEED, item.mark)
    yield "pass", pass_at_k(n, sum(item.correct), k)
    exact = n <= MOST_EXACT
    yield "majority", majority_at_k(columns, k) if exact else float(votes_at_k(columns, np.ones((1, n)), k, seed)[0, 0])
    if item.logprobs is not None:
        yield "likeliest", best_of_k(item.logprobs, columns, k)
    if item.scores_AN is None:
        return
    votes = votes_at_k(columns, item.scores_AN, k, seed)
    for row, step in enumerate(StepAggregation):
        scores = item.scores_AN[row].tolist()
        yield f"{step}-{AnswerAggregation.MAX}", best_of_k(scores, columns, k)
        yield f"{step}-{AnswerAggregation.VOTE_SUM}", float(votes[0, row])
        yield f"{step}-{AnswerAggregation.VOTE_MEAN}", float(votes[1, row])
        if item.logprobs is not None:
            yield (
                f"{step}-{AnswerAggregation.LIKELIHOOD}",
                best_of_k([*map(believed, scores, item.logprobs)], columns, k),
            )


def all_curves(report: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The curves of a report by the names that people read; reports of earlier versions have no likeliest@k."""
    plain = {name: report.get(f"{name}_at_k", []) for name in ("pass", "majority", "likeliest")}
    return {f"{name}@k": points for name, points in plain.items() if points} | dict(report["best_of_k"])


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
    datasets: dict[str, list[tuple[Item, Item]]] = {}
    for one, two in pairs:
        datasets.setdefault(two.dataset if one.dataset == FAILED else one.dataset, []).append((one, two))
    runs = {"a": a, "b": b}
    return {
        "kind": "comparison",
        "pairs": _difference(pairs),
        "datasets": {dataset: _difference(part) for dataset, part in datasets.items()},
        "failed": {side: sum(not item.correct for item in run) for side, run in runs.items()},
        "unmatched": {f"only_{side}": _named([i.id for i in run if i.id not in paired]) for side, run in runs.items()},
        "different_problems": _named([one.id for one, two in pairs if one.mark and two.mark and one.mark != two.mark]),
        "settings": {"level": LEVEL},
    }


def _named(ids: Sequence[str]) -> dict[str, Any]:
    return {"n": len(ids), "ids": list(ids[:SHOWN])}


def _difference(pairs: Sequence[tuple[Item, Item]]) -> dict[str, Any]:
    """`only_a_right` and `only_b_right` are there where every problem has one verdict: then the one test is
    McNemar's."""
    a, b = (np.asarray([pair[side].value for pair in pairs]) for side in (0, 1))
    whole = bool(np.isin([a, b], (0.0, 1.0)).all())
    return {
        "n": len(pairs),
        "a": round(float(a.mean()), 6),
        "b": round(float(b.mean()), 6),
        "difference": difference_interval(b - a).record() | {"p": float(f"{sign_flip_p(b - a):.6g}")},
        "only_a_right": int((a > b).sum()) if whole else None,
        "only_b_right": int((b > a).sum()) if whole else None,
    }
