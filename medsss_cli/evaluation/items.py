"""From a record to what an evaluation looks at."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..answers import Extract, answer_key
from ..errors import BadRecord
from ..prm.aggregate import StepAggregation, aggregate_steps
from ..problems import to_samples, without_corrections
from ..records import Problem, Samples, Verdict
from ..stream.jsonl import Where
from .measures import vote_columns

FAILED = "(failed)"
NO_FIELD = "(none)"

Score = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


@dataclass(slots=True)
class Item:
    """What is looked at of a problem. `correct`, `columns` (`measures.vote_columns`), `readable` and `logprobs` have
    one entry a candidate; no candidates: it failed.

    `scores_AN` is the score of each candidate by every StepAggregation, None without step scores; `logprobs` is None
    where a candidate has none. `mark` is 128 bits of a hash of id, question, answer and options; 0 for a failure.
    `group` is the value of the field to tell apart by, `forms` how the answers were read.
    """

    id: str
    dataset: str
    correct: list[bool] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    readable: list[bool] = field(default_factory=list)
    tokens: int = 0
    scores_AN: NDArray[np.float64] | None = None
    logprobs: list[float] | None = None
    selected: int | None = None
    strategy: str | None = None
    mark: int = 0
    group: str | None = None
    forms: Counter[str] = field(default_factory=Counter)

    @property
    def value(self) -> float:
        """1 or 0 for the selected candidate; of unselected ones the share that is right; 0 for a failure."""
        if self.selected is not None:
            return float(self.correct[self.selected])
        return sum(self.correct) / len(self.correct) if self.correct else 0.0

    @property
    def readable_value(self) -> float | None:
        """As `value`, of the candidates whose answer could be read; None where there is none."""
        if self.selected is not None:
            return float(self.correct[self.selected]) if self.readable[self.selected] else None
        return sum(self.correct) / sum(self.readable) if any(self.readable) else None


def read_item(obj: dict[str, Any], where: Where, *, rejudge: Extract | None = None, by: str | None = None) -> Item:
    """The Item of an object. `rejudge` is how the answers are read anew, None takes the verdicts that the record
    carries; `by` is a dotted path into the record. Raises BadRecord."""
    if is_failure(obj):
        return Item(obj["id"], FAILED, group=FAILED)
    obj = without_corrections(obj)
    problem = to_samples(obj, where, rejudge=rejudge)
    given = problem.responses
    correct = [response.verdict is Verdict.CORRECT for response in given]
    logprobs = [response.logprob for response in given if response.logprob is not None]
    item = Item(
        id=problem.id,
        dataset=problem.dataset,
        correct=correct,
        columns=vote_columns(_keys(problem), correct),
        readable=[response.verdict is not Verdict.NO_ANSWER for response in given],
        tokens=_whole_cost(problem) or sum(response.tokens for response in given),
        logprobs=logprobs if len(logprobs) == len(given) else None,
        mark=problem_mark(problem),
        group=None if by is None else field_of(obj, by),
        forms=Counter(response.form for response in given if response.form is not None),
    )
    candidates = obj.get("candidates")
    if isinstance(candidates, list) and "responses" not in obj:
        item.selected, item.strategy = obj.get("selected"), str(obj.get("strategy", "unknown"))
        if type(item.selected) is not int or not 0 <= item.selected < len(candidates):
            most = len(candidates) - 1
            raise BadRecord(f"{item.id}: `selected` must be the number of a candidate (0 to {most}): {item.selected!r}")
        steps = [each.get("step_scores") if isinstance(each, dict) else None for each in candidates]
        if any(each is not None for each in steps):
            try:
                item.scores_AN = candidate_scores(msgspec.convert(steps, list[list[Score]]))
            except msgspec.ValidationError:
                raise BadRecord(f"{item.id}: `step_scores` must be lists of numbers in [0, 1]") from None
    return item


def is_failure(obj: dict[str, Any]) -> bool:
    """Whether this is an error record."""
    return len(obj) == 3 and obj.keys() == {"id", "error", "stage"} and isinstance(obj["id"], str)


def _keys(problem: Samples) -> list[str | None]:
    """What each answer votes for; None where there is none."""
    known: dict[str | None, str | None] = {}
    keys: list[str | None] = []
    for response in problem.responses:
        answer = response.answer
        if answer is None and response.verdict is Verdict.CORRECT:
            answer = problem.answer  # a verdict that came without the answer: right ones agree with the gold one
        if answer not in known:
            known[answer] = answer_key(problem, answer)
        keys.append(None if response.verdict is Verdict.NO_ANSWER else known[answer])
    return keys


def candidate_scores(steps: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """[step aggregation][candidate]: `aggregate_steps` of all, to 12 digits, so that the order of the steps decides no
    tie."""
    return np.asarray([[round(aggregate_steps(each, how), 12) for each in steps] for how in StepAggregation])


def _whole_cost(problem: Problem) -> int | None:
    """The tokens that a search (or a beam of version 0.1) generated for a problem, those of steps that are in no
    candidate included."""
    for name in ("beam", "search"):
        part = problem.meta.get(name)
        if isinstance(part, dict) and isinstance(part.get("tokens"), int):
            return int(part["tokens"])
    return None


def problem_mark(problem: Problem) -> int:
    """128 bits of blake2b of what makes a problem this problem. Their sum, in any order, names a data set."""
    parts = [problem.id, problem.question, problem.answer]
    parts += [text for option in (problem.options or {}).items() for text in option]
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest())


def field_of(obj: dict[str, Any], path: str) -> str:
    """The value at a dotted path into a record, or into its `meta`, as a text; NO_FIELD where there is none."""
    for value in (obj, obj.get("meta")):
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            return value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return NO_FIELD
