"""From a record to what an evaluation looks at. Records of the common shape are read by one typed conversion; all
others, and all that is wrong, go through `adapters`, which says what is wrong."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from ..answers import Extract, answer_key
from ..errors import BadRecord
from ..problems import to_problem, to_samples, without_corrections
from ..records import Problem, Response, Verdict
from .measures import vote_columns

if TYPE_CHECKING:
    from ..stream.jsonl import Where

FAILED = "(failed)"
NO_FIELD = "(none)"


@dataclass(slots=True)
class Item:
    """What is looked at of a problem. `correct`, `columns` and `scores` run beside each other, one entry a candidate.

    `columns` are `metrics.vote_columns`, `scores` the step scores. `selected` is None where nothing was selected. No
    candidates: it failed. `mark` is 128 bits of a hash of id, question, answer and options; 0 for a failure. `group`
    is the value of the field to tell apart by, `forms` how the answers were read, where the record says it.
    """

    id: str
    dataset: str
    kind: str
    correct: list[bool] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    unparsed: int = 0
    truncated: int = 0
    tokens: int = 0
    scores: list[list[float]] | None = None
    selected: int | None = None
    strategy: str | None = None
    mark: int = 0
    group: str | None = None
    forms: Counter[str] | None = None

    @property
    def value(self) -> float:
        """1 or 0 for the selected candidate; of unselected ones the share that is right; 0 for a failure."""
        if not self.correct:
            return 0.0
        if self.selected is not None:
            return float(self.correct[self.selected])
        return sum(self.correct) / len(self.correct)


Score = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class Given(msgspec.Struct):
    """A response or candidate that has been judged."""

    text: str
    verdict: Verdict
    answer: str | None = None
    finish_reason: str = "stop"
    tokens: int = 0
    step_scores: list[Score] | None = None
    form: str | None = None


Keep = Callable[[Problem, Sequence["Given | Response"], Item], None]


def _whole_cost(obj: dict[str, Any]) -> int | None:
    """The tokens that a beam or a search generated for a problem, the steps that are in no candidate included."""
    meta = obj.get("meta")
    for name in ("beam", "search"):
        part = meta.get(name) if isinstance(meta, dict) else None
        cost = part.get("tokens") if isinstance(part, dict) else None
        if isinstance(cost, int):
            return cost
    return None


def item_reader(
    *, rejudge: Extract | None = None, by: str | None = None, keep: Keep | None = None
) -> Callable[[dict[str, Any], Where], Item]:
    """The function that makes an Item of an object; it raises BadRecord. `rejudge` is how the answers are read anew;
    None takes the verdicts that the records carry. `by` is a dotted path into the record; `keep`
    is told of every problem that did not fail, with its answers and the item."""

    def read(obj: dict[str, Any], where: Where) -> Item:
        if _is_failure(obj):
            return Item(obj["id"], FAILED, "failed", group=FAILED if by else None)
        obj = without_corrections(obj)
        problem, given = _given(obj, where, rejudge)
        no_answer, right = Verdict.NO_ANSWER, Verdict.CORRECT
        known: dict[str | None, str | None] = {}
        keys: list[str | None] = []
        correct: list[bool] = []
        tokens = truncated = 0
        forms: Counter[str] | None = None
        for response in given:
            verdict, answer = response.verdict, response.answer
            correct.append(verdict is right)
            tokens += response.tokens
            truncated += response.finish_reason == "length"
            form = getattr(response, "form", None)
            if form is not None:
                forms = Counter() if forms is None else forms
                forms[form] += 1
            if verdict is no_answer:
                keys.append(None)
                continue
            if answer is None and verdict is right:
                answer = problem.answer  # a verdict that came without the answer: right ones agree with the gold one
            if answer not in known:
                known[answer] = answer_key(problem, answer)
            keys.append(known[answer])
        scores, selected = _scores(obj, problem.id, given)
        item = Item(
            id=problem.id,
            dataset=problem.dataset,
            kind="scored" if selected is not None else "samples" if "responses" in obj else "responses",
            correct=correct,
            columns=vote_columns(keys, correct),
            unparsed=sum(response.verdict is no_answer for response in given),
            truncated=truncated,
            tokens=_whole_cost(obj) or tokens,
            scores=scores,
            selected=selected,
            strategy=str(obj.get("strategy", "unknown")) if selected is not None else None,
            mark=problem_mark(problem),
            group=None if by is None else field_of(obj, by),
            forms=forms,
        )
        if keep is not None:
            keep(problem, given, item)
        return item

    return read


def _is_failure(obj: dict[str, Any]) -> bool:
    return len(obj) == 3 and obj.keys() == {"id", "error", "stage"} and isinstance(obj["id"], str)


def _given(obj: dict[str, Any], where: Where, rejudge: Extract | None) -> tuple[Problem, Sequence[Given | Response]]:
    written = obj.get("candidates") if "responses" not in obj else obj["responses"]
    if rejudge is None and written:
        try:
            given = msgspec.convert(written, list[Given])
        except msgspec.ValidationError:
            pass  # texts alone, say, or something that is wrong: what it is, the adapters say
        else:
            if all(response.verdict is not Verdict.NOT_JUDGED for response in given):
                return to_problem(obj, where), given
    samples = to_samples(obj, where, rejudge=rejudge is not None, extract=rejudge or Extract.FLEXIBLE)
    return samples, samples.responses


def _scores(
    obj: dict[str, Any], id: str, given: Sequence[Given | Response]
) -> tuple[list[list[float]] | None, int | None]:
    """The step scores and the selection of a scored record; None and None for any other."""
    candidates = obj.get("candidates")
    if not isinstance(candidates, list) or "responses" in obj:
        return None, None
    selected = obj.get("selected")
    if not isinstance(selected, int) or isinstance(selected, bool) or not 0 <= selected < len(candidates):
        raise BadRecord(
            f"{id}: `selected` must be the number of a candidate (0 to {len(candidates) - 1}), got {selected!r}"
        )
    found = [
        each.step_scores if isinstance(each, Given) else raw.get("step_scores") if isinstance(raw, dict) else None
        for each, raw in zip(given, candidates, strict=True)
    ]
    if all(steps is None for steps in found):
        return None, selected
    try:
        return msgspec.convert(found, list[list[Score]]), selected
    except msgspec.ValidationError:
        raise BadRecord(f"{id}: `step_scores` must be lists of numbers in [0, 1]") from None


def problem_mark(problem: Problem) -> int:
    """128 bits of blake2b of what makes a problem this problem. The sum over problems, whatever their order, names a
    data set."""
    hasher = hashlib.blake2b(digest_size=16)
    parts = [problem.id, problem.question, problem.answer]
    if problem.options:
        parts += [text for option in problem.options.items() for text in option]
    hasher.update("\0".join(parts).encode("utf-8", "surrogatepass"))
    return int.from_bytes(hasher.digest())


def field_of(obj: dict[str, Any], path: str) -> str:
    """The value at a dotted path into a record, or into its `meta`, as a text; NO_FIELD where there is none."""
    for start in (obj, obj.get("meta")):
        value: Any = start
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            return value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return NO_FIELD
