"""The records that travel between commands: one JSON object a line. This module says what each field means.

Every record carries its problem (`Problem` is the base of all), so any command can start from any line. `parse`
validates one on the way in, with fields that we do not know under `meta`; `dump` is the dictionary that is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from .errors import BadRecord


class Task(StrEnum):
    """How an answer to the problem is compared with the gold answer."""

    CHOICE = "choice"
    NUMBER = "number"
    TEXT = "text"


class Verdict(StrEnum):
    """What a rule says of a written answer. All four differ: no_answer counts as a failure, not_judged as unknown."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    NOT_JUDGED = "not_judged"


class Action(StrEnum):
    """How a node of the tree came to be (paper, section 3; the root is step 0)."""

    ROOT = "root"
    REASON = "reason"
    FINISH = "finish"
    REFLECT = "reflect"


class Message(msgspec.Struct, frozen=True):
    """A turn of a chat, in the form that chat templates and TRL read."""

    role: str
    content: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A question with its gold answer.

    `answer` is a letter of `options` for choice (several letters joined, "ACD", where more than one is right), a number
    with an optional unit for number, a phrase for text.
    """

    id: str
    question: str
    answer: str
    options: dict[str, str] | None = None
    dataset: str = "unknown"
    task: Task = Task.TEXT
    meta: dict[str, Any] = {}


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """One whole answer of a policy. The last three fields are written only where they are set."""

    text: str
    answer: str | None = None  # what was extracted
    verdict: Verdict = Verdict.NOT_JUDGED
    form: str | None = None  # how the answer was stated (`answers.Judgement.how`), None where nobody knows
    finish_reason: str = "stop"
    tokens: int = 0  # that were generated
    logprob: float | None = None  # their natural log-probabilities, summed, under the policy at temperature 1
    policy: str | UnsetType = UNSET  # its author, where a run has several
    revealed: bool | UnsetType = UNSET  # the author was shown the gold answer
    corrects: int | UnsetType = UNSET  # the index, in the same list, of the wrong response that this one puts right


class Samples(Problem, frozen=True, kw_only=True):
    """A problem with responses. `pass_rate` is correct / all in [0, 1], unparsed answers counting as failures and
    corrections left out on both sides."""

    responses: list[Response]
    pass_rate: float


def pass_rate(responses: Sequence[Response]) -> float:
    """The share of the responses that is correct, corrections left out."""
    own = [response.verdict is Verdict.CORRECT for response in responses if response.corrects is UNSET]
    return sum(own) / len(own) if own else 0.0


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a tree, which is a flat list of nodes. Values lie in [0, 1]; `answer` and `verdict` are a Finish's."""

    parent: int  # an index into the list, -1 for the root
    depth: int  # the number of the step, 0 for the root
    action: Action
    text: str  # the bare step, without "Step k: "
    rollouts: int = 0  # how many were drawn
    rollout_value: float | None = None  # the share of them that was correct, or a guiding reward model's value
    value: float = 0.0  # backed up
    visits: int = 0
    answer: str | None = None
    verdict: Verdict | None = None
    closed: bool = False


class Tree(Problem, frozen=True, kw_only=True):
    """A whole search. `stats` counts work (nodes, rollouts, requests, tokens); `config` is what the search ran with."""

    nodes: list[Node]
    stats: dict[str, Any] = {}
    config: dict[str, Any] = {}


class Sft(Problem, frozen=True, kw_only=True):
    """TRL prompt-completion. `min_value` is the smallest backed-up value along the trajectory, the root left out, and 1
    for a verified response."""

    prompt: list[Message]
    completion: list[Message]
    min_value: float


class Preference(Problem, frozen=True, kw_only=True):
    """TRL preference. `margin` is the difference of values in (0, 1]; `kind` is "step" (rule a), "trajectory" (b), or
    "correction": a verified correction against the response that it puts right, margin 1."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    margin: float
    kind: str


class Prm(Problem, frozen=True, kw_only=True):
    """TRL stepwise supervision: a trajectory with a label in [0, 1] for each step, null where it has none (step 0, and
    what a judge could not be read on).

    `completions` are bare steps, step 0 first; `labels` and `values` (backed-up values) run beside them; an answer that
    was judged has no values.
    """

    prompt: str
    completions: list[str]
    labels: list[float | None]
    values: list[float]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A response with its PRM scores in [0, 1], one per step (step 0 left out); `score` is their aggregate."""

    text: str
    answer: str | None = None
    verdict: Verdict = Verdict.NOT_JUDGED
    form: str | None = None
    finish_reason: str = "stop"
    tokens: int = 0
    logprob: float | None = None
    step_scores: list[float]
    score: float


class Scored(Problem, frozen=True, kw_only=True):
    """N candidates of a problem. `selected` indexes them; `strategy` is "<step>-<answer aggregation>": "min-max"."""

    candidates: list[Candidate]
    selected: int
    strategy: str


class ErrorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record that failed, on the errors stream."""

    id: str
    error: str
    stage: str


R = TypeVar("R", bound=Problem)


def parse(kind: type[R], data: dict[str, Any]) -> R:
    """`data` as a record of `kind`, its unknown fields moved under `meta` (a field that is there already is kept).

    Raises BadRecord, which names the field at fault.
    """
    known, meta = kind.__struct_fields__, data.get("meta") or {}
    if not isinstance(meta, dict):
        raise BadRecord(f"a {kind.__name__.lower()} record needs an object as `meta`, got {type(meta).__name__}")
    if unknown := {key: value for key, value in data.items() if key not in known}:
        data = {key: value for key, value in data.items() if key in known} | {"meta": unknown | meta}
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise BadRecord(f"not a {kind.__name__.lower()} record: {error}") from None


def dump(record: msgspec.Struct) -> dict[str, Any]:
    """The plain dictionary of a record, ready for orjson."""
    plain: dict[str, Any] = msgspec.to_builtins(record)
    return plain


def problem_fields(record: Problem) -> dict[str, Any]:
    """The fields of the problem in any record, to build the next from: `Tree(**problem_fields(p), nodes=...)`."""
    return {name: getattr(record, name) for name in Problem.__struct_fields__}
