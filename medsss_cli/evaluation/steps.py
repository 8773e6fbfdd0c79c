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
from itertools import groupby
from pathlib import PurePath
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..clinic.checker import gold_labels
from ..errors import BadRecord
from ..problems import to_prm, to_samples
from ..steps import answer_steps
from ..stream.jsonl import Where
from .intervals import LEVEL, combined, mean_interval
from .items import FAILED, Score, is_failure

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


class _Answer(NamedTuple):
    """Of a trajectory: the number of its problem, the score of its first wrong step (None where there is none), and the
    least score of a right step before it."""

    problem: int
    first: float | None
    least: float

    def hit(self, threshold: float) -> bool:
        """Whether the first step that scores below the threshold is the first wrong one, or there is neither."""
        return (self.first is None or self.first < threshold) and self.least >= threshold


def step_report(items: Sequence[StepItem], threshold: float) -> dict[str, Any]:
    """What a report says of the step scores."""
    every = _decided(items)
    datasets: dict[str, list[StepItem]] = {}
    for item in items:
        datasets.setdefault(item.dataset, []).append(item)
    rows = {name: first_error(_decided(part), threshold) for name, part in sorted(datasets.items())}
    at = {each: first_error(every, each) for each in sorted({*GRID, threshold})}
    return {
        "kind": "step-report",
        "n": len(items),
        "failed": sum(item.dataset == FAILED for item in items),
        "trajectories": sum(len(item.trajectories) for item in items),
        "unscored": sum(item.unscored for item in items),
        "threshold": threshold,
        "first_error": at[threshold],
        "datasets": {name: row for name, row in rows.items() if row["wrong"] or row["right"]},
        "by_threshold": [
            {"threshold": each} | {kind: row and row["value"] for kind, row in found.items()}
            for each, found in at.items()
        ],
        **_of_steps(items),
        "settings": {"level": LEVEL, "bins": BINS},
    }


def _decided(items: Sequence[StepItem]) -> list[_Answer]:
    """Without those whose labels end before anything is wrong: nobody says whether the rest is right."""
    answers = []
    for number, item in enumerate(items):
        for scores, labels in item.trajectories:
            first = labels.index(False) if False in labels else None
            before = [score for score, label in zip(scores[:first], labels[:first], strict=True) if label is not None]
            if first is not None or (before and labels[-1] is not None):
                answers.append(_Answer(number, None if first is None else scores[first], min(before, default=1.0)))
    return answers


def first_error(answers: Sequence[_Answer], threshold: float) -> dict[str, Any]:
    """Shares of wrong and of right trajectories that were hit, and their harmonic mean (ProcessBench, arXiv 2412.06559,
    section 3), each with its interval over problems; None where there is no such trajectory.

    By hand: 1 of 3 wrong ones and 2 of 3 right ones give F1 = 2 (1/3) (2/3) / 1 = 4/9.
    """
    result: dict[str, Any] = {"wrong": None, "right": None, "f1": None}
    parts = []
    for kind in ("wrong", "right"):
        chosen = [each for each in answers if (each.first is None) == (kind == "right")]
        hits = [[each.hit(threshold) for each in own] for _, own in groupby(chosen, lambda each: each.problem)]
        if hits:
            parts.append(mean_interval([sum(own) for own in hits], [len(own) for own in hits]))
            result[kind] = {"n": len(chosen), **parts[-1].record()}
    if len(parts) == 2:
        result["f1"] = combined(parts, harmonic_mean).record()
    return result


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
    table = np.asarray(pairs, dtype=np.float64).reshape(len(pairs), 2)
    p, y = table.T
    rights, n = int(y.sum()), len(y)
    wrongs = n - rights
    auroc = None
    if rights and wrongs:
        auroc = round((float(rankdata(p)[y == 1].sum()) - rights * (rights + 1) / 2) / (rights * wrongs), 6)
    place = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    bins = [table[place == i] for i in range(BINS)]
    means = [[round(float(mean), 6) for mean in own.mean(axis=0)] if len(own) else [None, None] for own in bins]
    return {
        "steps": n,
        "right_steps": rights,
        "auroc": auroc,
        "brier": round(float(((p - y) ** 2).mean()), 6) if n else None,
        "ece": round(sum(abs(float((own[:, 0] - own[:, 1]).sum())) for own in bins) / n, 6) if n else None,
        "reliability": [
            {"low": round(i / BINS, 6), "high": round((i + 1) / BINS, 6), "n": len(own), "score": score, "right": right}
            for i, (own, (score, right)) in enumerate(zip(bins, means, strict=True))
        ],
    }
