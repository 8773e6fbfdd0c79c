"""What both ways of showing records need: which record an object is, and what is to be seen in it.

Nothing here knows a terminal or a browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from ..answers import answer_key
from ..labelling.labels import step_labels
from ..labelling.trajectories import trajectories
from ..problems import is_tree, to_problem, to_samples, to_tree
from ..problems.layouts import OWN_RECORDS
from ..records import Action, Candidate, Message, Problem, Response, Samples, Scored, Tree, Verdict, parse
from ..steps import split_steps, starts_at
from ..stream.jsonl import Where

OPEN, REFLECT = "open", "reflect"
"""What `states` says of a leaf that no answer ends, and of a Reflect that goes on; a Finish has its verdict there."""


class Path(NamedTuple):
    """A trajectory with what is said of its steps: `labels` (None for step 0) and the `values` that they come from run
    beside `nodes`, node indices from the root. `min_value` leaves the root out."""

    nodes: tuple[int, ...]
    correct: bool
    min_value: float
    labels: list[float | None]
    values: list[float]


class Step(NamedTuple):
    """A bare step with its number, and its score in [0, 1] if it has one."""

    number: int
    text: str
    score: float | None = None


class Vote(NamedTuple):
    """An answer that `n` candidates give; `total` and `best` are of their scores. `verdict` is the first's."""

    answer: str | None
    n: int
    total: float
    best: float
    verdict: Verdict


def read(obj: dict[str, Any], where: Where) -> Problem:
    """The record in an object: one of ours, the authors' tree layout, or a problem (with answers) of any known layout.

    Raises BadRecord.
    """
    if is_tree(obj):
        return to_tree(obj, where)
    for field, kind in OWN_RECORDS.items():
        # Responses without a pass rate are those of another tool.
        if field in obj and (kind is not Samples or "pass_rate" in obj):
            return parse(kind, obj)
    if "response" in obj or "output" in obj or "responses" in obj:
        return to_samples(obj, where)
    return to_problem(obj, where)


def states(tree: Tree) -> list[str]:
    """What each node is, at a glance: the verdict of a Finish, OPEN for another leaf, REFLECT, "" for the rest."""
    parents = {node.parent for node in tree.nodes}
    found: list[str] = []
    for index, node in enumerate(tree.nodes):
        if node.action is Action.FINISH:
            found.append(node.verdict or Verdict.NOT_JUDGED)
        else:
            found.append(OPEN if index not in parents else REFLECT if node.action is Action.REFLECT else "")
    return found


def paths(tree: Tree) -> list[Path]:
    """The trajectories of a tree with the labels of equation 7 (`dual`), in the order of their ends."""
    found = []
    for each in trajectories(tree):
        values = [tree.nodes[index].value for index in each.nodes]
        found.append(Path(*each, step_labels(values), values))
    return found


def best_and_worst(found: Sequence[Path]) -> list[Path]:
    """The correct trajectory with the largest smallest value, and the wrong one with the smallest; of equals the
    mean decides, then the order. Where all are right, or all wrong, the two ends of the one kind."""

    def rank(path: Path) -> tuple[bool, float, float]:
        return path.correct, path.min_value, fmean(path.values)

    ends = [max(found, key=rank), min(found, key=rank)] if found else []
    return ends[:1] if ends and ends[0] is ends[1] else ends


def steps_of(text: str, scores: Sequence[float] = ()) -> list[Step]:
    """The steps of a written answer; scores belong to the steps from 1 on."""
    first = starts_at(text)
    numbered = enumerate(split_steps(text, first=first), start=first)
    return [Step(k, step, scores[k - 1] if 1 <= k <= len(scores) else None) for k, step in numbered]


def written(turns: Sequence[Message]) -> list[Step]:
    """The steps of what the assistant writes in a row of training data."""
    return steps_of("\n\n".join(turn.content for turn in turns))


def answers_of(record: Samples | Scored) -> Sequence[Response | Candidate]:
    return record.responses if isinstance(record, Samples) else record.candidates


def votes(record: Samples | Scored) -> list[Vote]:
    """The distinct answers, the most frequent first, no answer last; of equals the one that came first."""
    groups: dict[str | None, list[Response | Candidate]] = {}
    for each in answers_of(record):
        groups.setdefault(answer_key(record, each.answer), []).append(each)
    found = []
    for group in groups.values():
        scores = [each.score for each in group if isinstance(each, Candidate)]
        found.append(Vote(group[0].answer, len(group), sum(scores), max(scores, default=0.0), group[0].verdict))
    return sorted(found, key=lambda vote: (vote.answer is None, -vote.n))


def contrast(record: Samples | Scored) -> list[int]:
    """Which answers to show whole: the selected one and the best of the other verdict; of a samples record the first
    right and the first wrong one. At most two, at least one where there is any."""
    answers = answers_of(record)
    right = [each.verdict is Verdict.CORRECT for each in answers]
    scores = [each.score if isinstance(each, Candidate) else 0.0 for each in answers]
    first = right.index(True) if True in right else 0
    if isinstance(record, Scored) and 0 <= record.selected < len(answers):
        first = record.selected
    others = [index for index in range(len(answers)) if right[index] != right[first]]
    return [first, *([max(others, key=lambda index: scores[index])] if others else [])][: len(answers)]
