"""How well a process reward model judges steps: first-error accuracy and F1, AUROC, Brier score, calibration.

A *trajectory* is an answer whose steps have scores and gold labels. A step is labelled 1 (right), 0 (wrong) or not at
all. What is read of a record, and where:

- scored records of `bon`: the `step_scores` of each candidate; gold are the candidate's `labels`, else ProcessBench's
  `label` (of the record, or under `meta`), else what the clinic's checker says (`meta.clinic`);
- prm records (`completions`) and ProcessBench's (`steps`): `step_scores` or `scores`; gold are `labels`, or `label`.

`label` is ProcessBench's (arXiv 2412.06559): the index of the first wrong step, from 0, or -1. It says nothing of the
steps after the first wrong one, so these are unlabelled; the clinic's checker labels them 0. Labels between 0 and 1
(soft ones) count as right from .5 on.

A first error is predicted at the first labelled step whose score is below the threshold. A wrong trajectory is hit if
that is its first wrong step, a right one if there is no such step; F1 is the harmonic mean of the two shares. Intervals
draw problems, with all of their trajectories.

AUROC is the chance that a right step scores above a wrong one, ties half; scores are told apart on a grid of the logit
that resolves min(p, 1 - p) to 1 part in 10,000. Calibration is over BINS bins of equal width.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import BadRecord
from .items import FAILED
from .measures import LEVEL, Interval, as_record
from .provenance import Origin

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..stream.jsonl import Where

BINS = 15
GRID = tuple(round(0.05 * i, 2) for i in range(1, 20))
_HELD = 1 << 15
_CELLS = 1 << 20
_FARTHEST = 37.0  # the logit of the largest float below 1


class Trajectory(NamedTuple):
    """An answer: the score of every step in [0, 1], and beside it the gold label: True right, False wrong, None."""

    scores: list[float]
    labels: list[bool | None]


@dataclass(slots=True)
class StepItem:
    """The trajectories of a problem. `unscored` have no scores (longer than the model's context); a failure has
    neither."""

    id: str
    dataset: str
    trajectories: list[Trajectory] = field(default_factory=list)
    unscored: int = 0


# Reading


def step_reader() -> Callable[[dict[str, Any], Where], StepItem]:
    """The function that makes a StepItem of an object; it raises BadRecord."""

    def read(obj: dict[str, Any], where: Where) -> StepItem:
        if len(obj) == 3 and obj.keys() == {"id", "error", "stage"} and isinstance(obj["id"], str):
            return StepItem(obj["id"], FAILED)
        name = obj.get("id")
        if not isinstance(name, str) or not name:
            name = f"{_stem(where)}-{where.line if name is None else name}"
        dataset = obj.get("dataset")
        if not isinstance(dataset, str):
            numbered = re.fullmatch(r"(.+)-\d{1,12}", name)
            dataset = numbered[1] if numbered else _stem(where)
        item = StepItem(name, dataset)
        candidates = obj.get("candidates")
        if isinstance(candidates, list):
            gold = _gold_of(obj, where)
            for number, candidate in enumerate(candidates):
                if not isinstance(candidate, dict):
                    raise BadRecord(f"{name}: an entry of `candidates` must be an object")
                _add(item, candidate.get("step_scores"), gold(candidate), f"{name}: candidate {number}")
            return item
        steps = next((obj[key] for key in ("steps", "completions") if isinstance(obj.get(key), list)), None)
        if steps is None:
            raise BadRecord(
                f"no steps: found the keys {', '.join(obj)}, none of candidates, steps, completions",
            )
        scores = obj.get("step_scores", obj.get("scores"))
        if scores is None:
            raise BadRecord(f"{name}: no step scores (`step_scores` or `scores`); `medsss bon --prm R` writes them")
        labels = _labels_of(obj, len(steps), name)
        if labels is None:
            raise BadRecord(f"{name}: no gold (`labels`, or `label` as ProcessBench has it)")
        _add(item, scores, labels, name)
        return item

    return read


def _gold_of(obj: dict[str, Any], where: Where) -> Callable[[dict[str, Any]], list[bool | None]]:
    """The gold labels of a candidate, from wherever this record has them."""
    name = obj.get("id")
    meta = obj.get("meta") if isinstance(obj.get("meta"), dict) else {}
    assert isinstance(meta, dict)
    marked = next((source for source in (obj, meta) if "label" in source), None)
    problem = None

    def gold(candidate: dict[str, Any]) -> list[bool | None]:
        nonlocal problem
        if candidate.get("labels") is not None:
            return _read_labels(candidate["labels"], f"{name}")
        if marked is not None:
            scores = candidate.get("step_scores")
            count = len(scores) if isinstance(scores, list) else 0
            return _first_wrong(marked["label"], count, f"{name}") if count else []
        if "clinic" not in meta:
            raise BadRecord(
                f"{name}: no gold for the steps: neither `labels` in the candidates, nor `label`, nor meta.clinic"
            )
        from ..clinic.checker import gold_labels
        from ..prm.layout import answer_steps
        from ..problems import to_problem

        if problem is None:
            problem = to_problem(obj, where)
        text = candidate.get("text")
        if not isinstance(text, str):
            raise BadRecord(f"{name}: an entry of `candidates` must have a `text`")
        return [None if label is None else label == 1 for label in gold_labels(problem, answer_steps(text))]

    return gold


def _labels_of(obj: dict[str, Any], steps: int, name: str) -> list[bool | None] | None:
    if obj.get("labels") is not None:
        return _read_labels(obj["labels"], name)
    if obj.get("label") is not None:
        return _first_wrong(obj["label"], steps, name)
    return None


def _read_labels(labels: object, name: str) -> list[bool | None]:
    if not isinstance(labels, list) or not all(
        label is None or (isinstance(label, (int, float)) and 0 <= label <= 1) for label in labels
    ):
        raise BadRecord(f"{name}: `labels` must be a list of numbers in [0, 1], true, false or null")
    return [None if label is None else label >= 0.5 for label in labels]


def _first_wrong(label: object, steps: int, name: str) -> list[bool | None]:
    """By hand: label 1 of four steps is right, wrong, unlabelled, unlabelled; label -1 is all right."""
    if not isinstance(label, int) or isinstance(label, bool) or not -1 <= label < steps:
        raise BadRecord(
            f"{name}: `label` must be the index of the first wrong step (0 to {steps - 1}) or -1: {label!r}"
        )
    if label < 0:
        return [True] * steps
    return [True] * label + [False] + [None] * (steps - label - 1)


def _add(item: StepItem, scores: object, labels: list[bool | None], name: str) -> None:
    if scores is None or scores == []:
        item.unscored += 1
        return
    if not isinstance(scores, list) or not all(
        isinstance(score, (int, float)) and 0.0 <= score <= 1.0 for score in scores
    ):
        raise BadRecord(f"{name}: `step_scores` must be a list of numbers in [0, 1]")
    if len(labels) == len(scores) + 1 and labels[0] is None:
        labels = labels[1:]  # step 0 has neither label nor score
    if len(labels) != len(scores):
        raise BadRecord(f"{name}: {len(scores)} step scores but gold for {len(labels)} steps")
    item.trajectories.append(Trajectory([float(score) for score in scores], labels))


def _stem(where: Where) -> str:
    return PurePath(where.source).name.split(".")[0] or "stdin"


# Counting


class _Hits(NamedTuple):
    """Of one problem's trajectories: wrong ones that were hit and all, right ones that were hit and all."""

    wrong_hit: int = 0
    wrong: int = 0
    right_hit: int = 0
    right: int = 0


class StepTotals:
    """The counts of a run: memory for data sets and bins, none for problems or steps."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._grid = sorted({*GRID, threshold})
        self._datasets: dict[str, Counter[_Hits]] = {}
        self._problems = self._failed = self._trajectories = self._unscored = self._undecided = 0
        self._wrong_by = [0] * (len(self._grid) + 1)
        self._right_by = [0] * (len(self._grid) + 1)
        self._scores: list[float] = []
        self._golds: list[bool] = []
        self._steps = _StepCounts()

    @property
    def trajectories(self) -> int:
        """How many have scores and gold."""
        return self._trajectories

    def add(self, item: StepItem) -> None:
        """Count a problem."""
        self._problems += 1
        self._failed += item.dataset == FAILED
        self._unscored += item.unscored
        hits = [0, 0, 0, 0]
        for scores, labels in item.trajectories:
            self._trajectories += 1
            for score, label in zip(scores, labels, strict=True):
                if label is not None:
                    self._scores.append(score)
                    self._golds.append(label)
            first = next((i for i, label in enumerate(labels) if label is False), None)
            before = [score for score, label in zip(scores[:first], labels[:first], strict=True) if label is not None]
            least = min(before, default=1.0)
            if first is not None:
                # Hit at every threshold t with score < t <= least: below it no earlier step falls.
                start = bisect_right(self._grid, scores[first])
                end = bisect_right(self._grid, least)
                if start < end:
                    self._wrong_by[start] += 1
                    self._wrong_by[end] -= 1
                hits[0] += scores[first] < self._threshold <= least
                hits[1] += 1
            elif before and labels[-1] is not None:
                self._right_by[0] += 1
                self._right_by[bisect_right(self._grid, least)] -= 1
                hits[2] += least >= self._threshold
                hits[3] += 1
            else:
                self._undecided += 1  # nobody says whether the rest is right
        if hits[1] or hits[3]:
            self._datasets.setdefault(item.dataset, Counter())[_Hits(*hits)] += 1
        if len(self._scores) >= _HELD:
            self._flush()

    def _flush(self) -> None:
        if self._scores:
            self._steps.add(self._scores, self._golds)
            self._scores, self._golds = [], []

    def report(self, origin: Origin) -> dict[str, Any]:
        """The report, as it is written."""
        self._flush()
        every: Counter[_Hits] = Counter()
        for counts in self._datasets.values():
            every.update(counts)
        wrong, right = (sum(hits[i] * times for hits, times in every.items()) for i in (1, 3))
        by_threshold = []
        wrong_hit = right_hit = 0
        for index, threshold in enumerate(self._grid):
            wrong_hit += self._wrong_by[index]
            right_hit += self._right_by[index]
            on_wrong, on_right = _ratio(wrong_hit, wrong), _ratio(right_hit, right)
            by_threshold.append(
                {
                    "threshold": threshold,
                    "wrong": _rounded(on_wrong),
                    "right": _rounded(on_right),
                    "f1": _rounded(harmonic_mean(on_wrong, on_right)),
                }
            )
        datasets = {
            dataset: first_error(counts, origin.seed, origin.resamples)
            for dataset, counts in sorted(self._datasets.items())
        }
        scores = [row["f1"]["value"] for row in datasets.values() if row["f1"] is not None]
        return {
            "kind": "step-report",
            "name": origin.name,
            "n": self._problems,
            "failed": self._failed,
            "bad_lines": origin.bad_lines,
            "trajectories": self._trajectories,
            "unscored": self._unscored,
            "undecided": self._undecided,
            "threshold": self._threshold,
            "first_error": first_error(every, origin.seed, origin.resamples),
            "datasets": datasets,
            "macro_f1": round(sum(scores) / len(scores), 6) if scores else None,
            "by_threshold": by_threshold,
            **self._steps.report(),
            "made_from": origin.made_from(),
            **origin.settings(bins=BINS),
        }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def harmonic_mean(a: float | None, b: float | None) -> float | None:
    """2ab / (a + b); 0 where both are 0, None where one is missing. By hand: .5 and 1 give 2/3."""
    if a is None or b is None:
        return None
    return 2 * a * b / (a + b) if a + b else 0.0


def first_error(counts: Counter[_Hits], seed: int, resamples: int) -> dict[str, Any]:
    """Shares of wrong and of right trajectories that were hit, and their harmonic mean, each with its interval over a
    bootstrap of problems; None where there is no such trajectory."""
    import numpy as np

    kinds = sorted(counts)
    table = np.asarray(kinds, dtype=np.float64).reshape(len(kinds), 4)
    times = np.asarray([counts[kind] for kind in kinds], dtype=np.int64)
    sums = times @ table

    def shares(sums_R4: NDArray[np.float64]) -> NDArray[np.float64]:
        """[measure][resample]; nan where a resample has no such trajectory."""
        with np.errstate(invalid="ignore", divide="ignore"):
            wrong, right = sums_R4[:, 0] / sums_R4[:, 1], sums_R4[:, 2] / sums_R4[:, 3]
            both = np.where(wrong + right > 0, 2 * wrong * right / (wrong + right), wrong + right)
        return np.stack([wrong, right, both])

    result: dict[str, Any] = {}
    rng = np.random.default_rng(seed % 2**63)
    drawn = []
    total = int(times.sum())
    block = max(1, (1 << 20) // max(len(kinds), 1))
    for start in range(0, resamples if total else 0, block):
        size = min(block, resamples - start)
        drawn.append(shares(rng.multinomial(total, times / total, size=size) @ table))
    means = shares(sums[None])[:, 0]
    for row, (measure, count) in enumerate(zip(("wrong", "right", "f1"), (sums[1], sums[3], None), strict=True)):
        if not total or np.isnan(means[row]):
            result[measure] = None
            continue
        draws = np.concatenate([part[row] for part in drawn])
        low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        shown = dict(as_record(Interval(float(means[row]), float(low), float(high))))
        result[measure] = ({"n": int(count)} if count is not None else {}) | shown
    return result


class _StepCounts:
    """Steps by score, right and wrong ones apart."""

    def __init__(self) -> None:
        import numpy as np

        self._cells = np.zeros((2, _CELLS), dtype=np.int64)
        self._bins = np.zeros((3, BINS))  # steps, sum of scores, right steps
        self._squares = 0.0

    def add(self, scores: Sequence[float], golds: Sequence[bool]) -> None:
        import numpy as np

        p, y = np.asarray(scores, dtype=np.float64), np.asarray(golds, dtype=np.int64)
        with np.errstate(divide="ignore"):
            logit = np.log(p) - np.log1p(-p)
        cell = (np.clip(logit / _FARTHEST, -1, 1) + 1) / 2 * (_CELLS - 1)
        np.add.at(self._cells, (y, np.rint(cell).astype(np.int64)), 1)
        place = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        for row, values in enumerate((np.ones_like(p), p, y.astype(np.float64))):
            self._bins[row] += np.bincount(place, values, BINS)
        self._squares += float(((p - y) ** 2).sum())

    def report(self) -> dict[str, Any]:
        import numpy as np

        wrong, right = self._cells
        wrongs, rights = int(wrong.sum()), int(right.sum())
        count = wrongs + rights
        below = np.cumsum(wrong) - wrong
        above = float((right * (below + wrong / 2)).sum())
        steps, scores, good = self._bins
        filled = steps > 0
        gaps = np.abs(scores - good)[filled].sum()
        return {
            "steps": count,
            "right_steps": rights,
            "auroc": round(above / (wrongs * rights), 6) if wrongs and rights else None,
            "brier": round(self._squares / count, 6) if count else None,
            "ece": round(float(gaps) / count, 6) if count else None,
            "reliability": [
                {
                    "low": round(i / BINS, 6),
                    "high": round((i + 1) / BINS, 6),
                    "n": int(steps[i]),
                    "score": round(float(scores[i] / steps[i]), 6) if steps[i] else None,
                    "right": round(float(good[i] / steps[i]), 6) if steps[i] else None,
                }
                for i in range(BINS)
            ],
        }
