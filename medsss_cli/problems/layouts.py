"""The layouts of public files that are read as they are, with a line for each in the table at the end;
docs/layouts.md shows a row of each. All other layouts are read by a `FieldMap` (`load --map`).

To add a layout: a `FieldMap`, or a function that takes a `Row` and returns a `Problem`; a line in `LAYOUTS` with the
keys that a row of it must have; and an example row in docs/layouts.md. A test reads every example and holds each
layout against the examples of all others. What is not used of a row goes to `meta`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..answers import check_gold
from ..answers.date import gold_date
from ..answers.number import read_gold
from ..errors import BadRecord
from ..records import Preference, Prm, Problem, Samples, Scored, Sft, Task, Tree, parse
from ..steps import ROOT_TEXT
from .authors_trees import read_tree
from .options import gold_letter, shown
from .rows import FieldMap, Row, task_of, with_lines

if TYPE_CHECKING:
    from ..stream.jsonl import Where


def _authors(row: Row) -> Problem:
    """The options are the last lines of the question: {"id": 7, "conversations": [{"from": "human", "value":
    "Which?\\nA. x\\nB. y"}], "eval": {"answer": "B"}}."""
    turns = row.obj["conversations"]
    turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    question = next((turn.get("value") for turn in turns if turn.get("from") in ("human", "user")), None)
    if not isinstance(question, str):
        raise BadRecord("`conversations` holds no turn {from: human, value: text}")
    judged = row.obj.get("eval")
    judged = judged if isinstance(judged, dict) else {}
    gold = judged.get("answer", row.obj.get("answer_idx"))
    if not isinstance(gold, str):
        raise BadRecord("no gold answer (a text) in `eval.answer` or `answer_idx`")
    rest = {key: value for key, value in judged.items() if key != "answer"}
    return Row({**row.obj, **rest}, row.where).problem(
        *with_lines(question, gold, "eval.answer"),
        used=("conversations", "eval", "answer_idx"),
        dataset=row.dataset("dataset", "original_dataset"),
    )


_YES_NO_MAYBE = {"A": "yes", "B": "no", "C": "maybe"}


def _pubmedqa(row: Row) -> Problem:
    """From the hub, or its own file (QUESTION, CONTEXTS): the abstract comes before the question."""
    question = row.text("QUESTION" if "QUESTION" in row.obj else "question")
    context = row.obj.get("CONTEXTS", row.obj.get("context"))
    context = context.get("contexts") if isinstance(context, dict) else context
    context = [context] if isinstance(context, str) else context
    abstract = "\n".join(map(str, context)) if isinstance(context, list) else ""
    return row.problem(
        f"Abstract: {abstract}\nQuestion: {question}" if abstract else question,
        gold_letter(row.obj["final_decision"], _YES_NO_MAYBE, "final_decision"),
        dict(_YES_NO_MAYBE),
        used=("QUESTION", "CONTEXTS", "context", "final_decision", "pubid"),
        id=row.id("pubid" if "pubid" in row.obj else "id"),
    )


_SCORES = {"4", "15", "16", "17", "18", "20", "21", "25", "27", "28", "29", "32", "33", "36", "43", "45", "48", "51"}
"""The calculators whose answers MedCalc-Bench rounds before it compares them (its evaluation/evaluate.py)."""


_LIMITS = ("Ground Truth Answer", "Lower Limit", "Upper Limit")


def _medcalc(row: Row) -> Problem:
    """A number within its limits ("80.0" from 76 to 84), a score, a date, or "('34 weeks', '3 days')"."""
    given = str(row.obj["Ground Truth Answer"]).strip()
    task, answer = Task.NUMBER, given
    number, *limits = (read_gold(str(row.obj.get(name))) for name in _LIMITS)
    if number is not None:
        slack = max((abs(limit.value - number.value) for limit in limits if limit is not None), default=0.0)
        if str(row.obj.get("Calculator ID")) in _SCORES:
            slack = 0.5
        answer = f"{given} ± {slack:.6f}".rstrip("0").rstrip(".") if slack else given
    elif gold_date(given) is None:
        task, answer = Task.TEXT, " ".join(re.findall(r"\w+", given))
    return row.problem(
        f"Patient note:\n{row.text('Patient Note')}\n\n{row.text('Question')}",
        answer,
        None,
        task=task,
        used=("Row Number", "Patient Note", "Question", "Ground Truth Answer"),
        id=row.id("Row Number"),
        ground_truth=given,
    )


def _processbench(row: Row) -> Prm:
    """Steps, and `label`: the number of the first that is wrong, or -1. A step before the first error is labelled 1,
    the error 0, what follows it null."""
    steps, label = row.obj["steps"], row.obj["label"]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise BadRecord("`steps` must be a list of texts that is not empty")
    if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < len(steps):
        raise BadRecord(f"`label` must be the number of a step (0 to {len(steps) - 1}) or -1, got {label!r}")
    right = [1.0 if label < 0 or number < label else 0.0 for number in range(len(steps))]
    labels = [mark if label < 0 or number <= label else None for number, mark in enumerate(right)]
    question = row.text("problem")
    return Prm(
        id=row.id(),
        question=question,
        answer="",
        dataset=Row({}, row.where).dataset(),
        task=Task.TEXT,
        meta={key: value for key, value in row.obj.items() if key not in {"id", "problem", "steps"}},
        prompt=question,
        completions=[ROOT_TEXT, *steps],
        labels=[None, *labels],
        values=[1.0, *right],
    )


def trees(row: Row) -> Tree:
    """Trajectories of [text, value, rollout value] under `pos` and `neg` (authors_trees.py)."""
    question, gold = row.text("question"), row.obj["answer"]
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        raise BadRecord(f"`answer` must be a text or a number, got {shown(gold)}")
    try:
        question, answer, options = with_lines(question, str(gold), "answer")
    except BadRecord:  # whatever the options were, the lists say what was right
        answer, options = str(gold).strip(), None
    problem = row.problem(
        question,
        answer,
        options,
        task=Task.CHOICE if re.fullmatch("[A-J]", answer) else task_of(answer, options),
        used=("original_dataset", "pos", "neg"),
        dataset=row.dataset("original_dataset"),
    )
    check_gold(problem)
    return read_tree(problem, row.obj["pos"], row.obj["neg"])


OWN_RECORDS: dict[str, type[Problem]] = {
    "nodes": Tree,
    "responses": Samples,
    "candidates": Scored,
    "completion": Sft,
    "chosen": Preference,
    "completions": Prm,
}
"""The field that tells one of our records from a bare problem, and the record whose fields are then not the user's."""


def _medsss(row: Row) -> Problem:
    """Any record that medsss writes, and rows that have our field names. Without `task` a row is read as `--map`
    reads it: a choice where the answer is one of the options, else a number where it is one, else a text."""
    ours = next((kind for field, kind in OWN_RECORDS.items() if field in row.obj), None)
    drop = set(ours.__struct_fields__) - set(Problem.__struct_fields__) if ours else set()
    data = {key: value for key, value in row.obj.items() if key not in drop}
    row = Row(data, row.where)
    if "task" not in data:
        return FieldMap({name: name for name in ("question", "answer", "options") if name in data}).read(row)
    if isinstance(data["answer"], int | float) and not isinstance(data["answer"], bool):
        data["answer"] = str(data["answer"])
    return parse(Problem, data | {"id": row.id(), "dataset": row.dataset()})


class Layout(NamedTuple):
    """`needs` are the keys that a row must have, by which it is recognised; "a|b" is met by either."""

    needs: tuple[str, ...]
    read: Callable[[Row], Problem]

    def fits(self, keys: Collection[str]) -> bool:
        """Whether a row of these keys has all that it needs."""
        return all(any(key in keys for key in need.split("|")) for need in self.needs)


def _mapped(question: str, answer: str, options: str = "", base: int | None = None) -> Layout:
    """A layout that is read as `load --map` reads it."""
    fields = {"question": question, "answer": answer} | ({"options": options} if options else {})
    return Layout(tuple(fields.values()), FieldMap(fields, base).read)


LAYOUTS = {
    "authors": Layout(("conversations", "eval|answer_idx"), _authors),
    "trees": Layout(("question", "answer", "pos", "neg"), trees),
    "medqa": _mapped("question", "answer_idx", "options"),
    "pubmedqa": Layout(("question|QUESTION", "final_decision"), _pubmedqa),
    "mmlu": _mapped("question", "answer", "choices", base=0),
    "huatuo": _mapped("Open-ended Verifiable Question", "Ground-True Answer"),
    "medcalc": Layout(("Patient Note", "Question", "Ground Truth Answer"), _medcalc),
    "processbench": Layout(("problem", "steps", "label"), _processbench),
    "medsss": Layout(("question", "answer"), _medsss),
}
"""In the order in which they are tried; a row with `task` is one of ours whatever else it has."""


def detect(obj: Mapping[str, Any]) -> str | None:
    """The name of the layout that the keys of a row say, None for an unknown one."""
    if {"task", "question", "answer"} <= obj.keys():
        return "medsss"
    return next((name for name, layout in LAYOUTS.items() if layout.fits(obj.keys())), None)


def read_row(obj: dict[str, Any], where: Where) -> Problem:
    """The record that a row of any layout stands for: a problem, a tree or prm record. Raises BadRecord with its id."""
    name = detect(obj)
    if name is None:
        keys = ", ".join(map(str, obj)) or "(none)"
        raise BadRecord(
            f"unknown layout: found the keys {keys}; medsss load --map reads any; known: {', '.join(LAYOUTS)}"
        )
    return named(LAYOUTS[name].read, Row(obj, where))


P = TypeVar("P", bound=Problem)


def named(read: Callable[[Row], P], row: Row) -> P:
    """What `read` makes of a row; a BadRecord gets the row's id before it."""
    try:
        return read(row)
    except BadRecord as error:
        id = row.id()
        raise BadRecord(str(error) if str(error).startswith(f"{id}:") else f"{id}: {error}") from None
