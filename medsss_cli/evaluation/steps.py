"""How well a process reward model judges steps: first-error accuracy and F1, AUROC, Brier score, calibration.

A *trajectory* is an answer whose steps have scores and gold labels: 1 (right), 0 (wrong) or none; soft labels count as
right from .5 on. Scores are the `step_scores` that `bon` writes. Gold are the `labels` of a prm record, the `label` of
ProcessBench (arXiv 2412.06559), which says nothing of the steps after the first wrong one, and for the candidates of a
clinic's problem its checker, which calls them wrong.

A first error is predicted at the first labelled step whose score is below the threshold. A wrong trajectory is hit if
that is its first wrong step, a right one if there is no such step; F1 is the harmonic mean of the two shares. AUROC is
the chance that a right step scores above a wrong one, ties half (Mann and Whitney 1947); the Brier score the mean
squared distance of score and label (1950); calibration error is over BINS bins of equal width (Guo et al. 2017, arXiv
1706.04599, equation 5).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..clinic.checker import gold_labels
from ..errors import BadRecord
from ..problems import to_prm, to_samples
from ..steps import answer_steps
from ..stream.jsonl import Where
from .intervals import LEVEL, combined, mean_interval
from .items import FAILED, Score, is_failure
from .measures import DRAWS

BINS = 15
GRID = tuple(round(0.05 * i, 2) for i in range(1, 20))


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


def read_steps(obj: dict[str, Any], where: Where) -> StepItem:
    """The StepItem of an object. Raises BadRecord."""
    if is_failure(obj):
        return StepItem(obj["id"], FAILED)
    candidates = obj.get("candidates")
    if not isinstance(candidates, list):
        record = to_prm(obj, where)
        item = StepItem(record.id, _dataset(obj, record.id, where))
        scores = obj.get("step_scores", obj.get("scores"))
        if scores is None:
            raise BadRecord(f"{item.id}: no step scores (`step_scores` or `scores`); `medsss bon --prm R` writes them")
        _add(item, scores, record.labels)
        return item
    problem = to_samples(obj, where)
    item = StepItem(problem.id, problem.dataset)
    if "clinic" not in problem.meta:
        raise BadRecord(f"{item.id}: no gold for the steps: candidates of the clinic have it, and records with labels")
    for candidate, response in zip(candidates, problem.responses, strict=True):
        scores = candidate.get("step_scores") if isinstance(candidate, dict) else None
        _add(item, scores, gold_labels(problem, answer_steps(response.text)))
    return item


def _dataset(obj: dict[str, Any], name: str, where: Where) -> str:
    """ProcessBench names its data sets in ids: "gsm8k-12"."""
    if isinstance(obj.get("dataset"), str):
        return str(obj["dataset"])
    numbered = re.fullmatch(r"(.+)-\d{1,12}", name)
    return numbered[1] if numbered else PurePath(where.source).name.split(".")[0] or "stdin"


def _add(item: StepItem, scores: object, gold: Sequence[float | None]) -> None:
    if scores is None or scores == []:
        item.unscored += 1
        return
    try:
        found = msgspec.convert(scores, list[Score])
    except msgspec.ValidationError:
        raise BadRecord(f"{item.id}: `step_scores` must be a list of numbers in [0, 1]") from None
    labels = [None if label is None else label >= 0.5 for label in gold]
    if len(labels) == len(found) + 1 and labels[0] is None:
        labels = labels[1:]  # step 0 has neither label nor score
    if len(labels) != len(found):
        raise BadRecord(f"{item.id}: {len(found)} step scores but gold for {len(labels)} steps")
    item.trajectories.append(Trajectory(found, labels))


# Counting


@dataclass(slots=True)
class _Answers:
    """The trajectories of some problems, in the order [trajectory]: the score of the first wrong step (nan where there
    is none), the least score of a right step before it, the number of its problem."""

    first_P: NDArray[np.float64]
    least_P: NDArray[np.float64]
    problem_P: NDArray[np.int64]

    def hits(self, threshold: float) -> NDArray[np.bool_]:
        """Whether the first step that scores below the threshold is the first wrong one, or there is neither."""
        found: NDArray[np.bool_] = (np.isnan(self.first_P) | (self.first_P < threshold)) & (self.least_P >= threshold)
        return found


def step_report(items: Sequence[StepItem], threshold: float) -> dict[str, Any]:
    """What a report says of the step scores."""
    every = _decided(items)
    datasets: dict[str, list[StepItem]] = {}
    for item in items:
        if item.trajectories and item.dataset != FAILED:
            datasets.setdefault(item.dataset, []).append(item)
    shown = {name: first_error(_decided(part), threshold) for name, part in sorted(datasets.items())}
    shown = {name: row for name, row in shown.items() if row["wrong"] or row["right"]}
    f1s = [row["f1"]["value"] for row in shown.values() if row["f1"] is not None]
    trajectories = sum(len(item.trajectories) for item in items)
    return {
        "kind": "step-report",
        "n": len(items),
        "failed": sum(item.dataset == FAILED for item in items),
        "trajectories": trajectories,
        "unscored": sum(item.unscored for item in items),
        "undecided": trajectories - len(every.first_P),
        "threshold": threshold,
        "first_error": first_error(every, threshold),
        "datasets": shown,
        "macro_f1": round(sum(f1s) / len(f1s), 6) if f1s else None,
        "by_threshold": [_at_threshold(every, each) for each in sorted({*GRID, threshold})],
        **_of_steps(items),
        "settings": {"draws": DRAWS, "level": LEVEL, "bins": BINS},
    }


def _decided(items: Sequence[StepItem]) -> _Answers:
    """Without those whose labels end before anything is wrong: nobody says whether the rest is right."""
    rows = []
    for number, item in enumerate(items):
        for scores, labels in item.trajectories:
            first = next((i for i, label in enumerate(labels) if label is False), None)
            before = [score for score, label in zip(scores[:first], labels[:first], strict=True) if label is not None]
            if first is not None or (before and labels[-1] is not None):
                rows.append((np.nan if first is None else scores[first], min(before, default=1.0), number))
    table = np.asarray(rows, dtype=np.float64).reshape(len(rows), 3)
    return _Answers(table[:, 0], table[:, 1], table[:, 2].astype(np.int64))


def first_error(answers: _Answers, threshold: float) -> dict[str, Any]:
    """Shares of wrong and of right trajectories that were hit, and their harmonic mean (ProcessBench, arXiv 2412.06559,
    section 3), each with its interval over problems; None where there is no such trajectory.

    By hand: 1 of 3 wrong ones and 2 of 3 right ones give F1 = 2 (1/3) (2/3) / 1 = 4/9.
    """
    hits, wrong = answers.hits(threshold), ~np.isnan(answers.first_P)
    result: dict[str, Any] = {"wrong": None, "right": None, "f1": None}
    parts = []
    for kind, chosen in (("wrong", wrong), ("right", ~wrong)):
        if chosen.any():
            sizes = np.bincount(answers.problem_P[chosen])
            values = np.bincount(answers.problem_P[chosen], hits[chosen])
            parts.append(mean_interval(values[sizes > 0], sizes[sizes > 0]))
            result[kind] = {"n": int(chosen.sum()), **parts[-1].record()}
    if len(parts) == 2:
        result["f1"] = combined(parts, harmonic_mean).record()
    return result


def _at_threshold(answers: _Answers, threshold: float) -> dict[str, float | None]:
    """The values of `first_error` alone."""
    found = first_error(answers, threshold)
    return {"threshold": threshold} | {kind: row and row["value"] for kind, row in found.items()}


def harmonic_mean(values: Sequence[float]) -> float:
    """2ab / (a + b); 0 where both are 0. By hand: .5 and 1 give 2/3."""
    a, b = values
    return 2 * a * b / (a + b) if a + b else 0.0


def _of_steps(items: Sequence[StepItem]) -> dict[str, Any]:
    """What is said of labelled steps, whatever trajectory they are from."""
    from scipy.stats import rankdata

    pairs = [
        (score, label)
        for item in items
        for scores, labels in item.trajectories
        for score, label in zip(scores, labels, strict=True)
        if label is not None
    ]
    p, y = np.asarray(pairs, dtype=np.float64).reshape(len(pairs), 2).T
    rights = int(y.sum())
    wrongs = len(y) - rights
    place = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    steps, scores, good = (np.bincount(place, values, BINS) for values in (np.ones_like(p), p, y))
    auroc = None
    if rights and wrongs:
        auroc = round((float(rankdata(p)[y == 1].sum()) - rights * (rights + 1) / 2) / (rights * wrongs), 6)
    return {
        "steps": len(y),
        "right_steps": rights,
        "auroc": auroc,
        "brier": round(float(((p - y) ** 2).mean()), 6) if len(y) else None,
        "ece": round(float(np.abs(scores - good).sum()) / len(y), 6) if len(y) else None,
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
