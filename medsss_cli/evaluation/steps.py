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
are over problems, with all of their trajectories.

AUROC is the chance that a right step scores above a wrong one, ties half (Mann and Whitney 1947). The Brier score is
the mean squared distance of score and label (Brier 1950). Calibration error is over BINS bins of equal width (Guo et
al. 2017, arXiv 1706.04599, equation 5).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..clinic.checker import gold_labels
from ..errors import BadRecord
from ..prm.layout import answer_steps
from ..problems import to_problem
from ..stream.jsonl import Where
from .intervals import combined, mean_interval
from .items import FAILED, is_failure
from .provenance import Origin, cost_behind

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


# Reading


def read_steps(obj: dict[str, Any], where: Where) -> StepItem:
    """The StepItem of an object. Raises BadRecord."""
    if is_failure(obj):
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
        for number, candidate in enumerate(candidates):
            if not isinstance(candidate, dict):
                raise BadRecord(f"{name}: an entry of `candidates` must be an object")
            _add(item, candidate.get("step_scores"), _gold(obj, candidate, where, name), f"{name}: candidate {number}")
        return item
    steps = next((obj[key] for key in ("steps", "completions") if isinstance(obj.get(key), list)), None)
    if steps is None:
        raise BadRecord(f"no steps: found the keys {', '.join(obj)}, none of candidates, steps, completions")
    scores = obj.get("step_scores", obj.get("scores"))
    if scores is None:
        raise BadRecord(f"{name}: no step scores (`step_scores` or `scores`); `medsss bon --prm R` writes them")
    if obj.get("labels") is not None:
        labels = _read_labels(obj["labels"], name)
    elif obj.get("label") is not None:
        labels = _first_wrong(obj["label"], len(steps), name)
    else:
        raise BadRecord(f"{name}: no gold (`labels`, or `label` as ProcessBench has it)")
    _add(item, scores, labels, name)
    return item


def _gold(obj: dict[str, Any], candidate: dict[str, Any], where: Where, name: str) -> list[bool | None]:
    """The gold labels of a candidate, from wherever this record has them."""
    if candidate.get("labels") is not None:
        return _read_labels(candidate["labels"], name)
    meta = obj["meta"] if isinstance(obj.get("meta"), dict) else {}
    marked = next((source["label"] for source in (obj, meta) if "label" in source), None)
    if marked is not None:
        scores = candidate.get("step_scores")
        return _first_wrong(marked, len(scores), name) if isinstance(scores, list) and scores else []
    if "clinic" not in meta:
        raise BadRecord(
            f"{name}: no gold for the steps: neither `labels` in the candidates, nor `label`, nor meta.clinic"
        )
    text = candidate.get("text")
    if not isinstance(text, str):
        raise BadRecord(f"{name}: an entry of `candidates` must have a `text`")
    return [None if label is None else label == 1 for label in gold_labels(to_problem(obj, where), answer_steps(text))]


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


def step_report(items: Sequence[StepItem], origin: Origin, *, threshold: float) -> dict[str, Any]:
    """The report, as it is written."""
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
        "name": origin.name,
        "n": len(items),
        "failed": sum(item.dataset == FAILED for item in items),
        "bad_lines": origin.bad_lines,
        "trajectories": trajectories,
        "unscored": sum(item.unscored for item in items),
        "undecided": trajectories - len(every.first_P),
        "threshold": threshold,
        "cost": cost_behind(origin.inputs),
        "first_error": first_error(every, threshold),
        "datasets": shown,
        "macro_f1": round(sum(f1s) / len(f1s), 6) if f1s else None,
        "by_threshold": [_at_threshold(every, each) for each in sorted({*GRID, threshold})],
        **_of_steps(items),
        "made_from": origin.made_from(),
        **origin.settings(bins=BINS),
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
