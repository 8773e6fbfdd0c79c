"""The layouts of public files that are read as they are: one function for each, with a real row in its docstring, and
one line in the table at the end. All other layouts are read by a `FieldMap` (`load --map`).

To add a layout: write a function that takes a `Row` and returns a `Problem`, with an example row as the last paragraph
of its docstring; put it into `LAYOUTS` with the keys that a row of it must have. A test reads every example and holds
each layout against the examples of all others. What a function does not use of a row goes to `meta`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from ..answers import check_gold
from ..answers.date import gold_date
from ..errors import BadRecord
from ..records import Preference, Prm, Problem, Samples, Scored, Sft, Task, Tree, parse
from ..steps import ROOT_TEXT
from .authors_trees import read_tree
from .options import gold_letter, options_of, shown
from .rows import FieldMap, Row, dataset_name, is_number, with_lines
from .sources import stem

if TYPE_CHECKING:
    from ..stream.jsonl import Where


# Choice


def authors(row: Row) -> Problem:
    """The evaluation files of the MedS3 authors: the options are the last lines of the question.

    {"id": 7, "conversations": [{"from": "human", "value": "Which drug first?\\nA. Heparin\\nB. Aspirin"}],
    "eval": {"answer": "B"}}
    """
    turns = row.obj["conversations"]
    spoken = (
        (turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") in ("human", "user"))
        if isinstance(turns, list)
        else iter(())
    )
    question = next(spoken, None)
    if not isinstance(question, str):
        raise BadRecord("`conversations` holds no turn {from: human, value: text}")
    judged = row.obj.get("eval")
    judged = judged if isinstance(judged, dict) else {}
    gold = judged.get("answer", row.obj.get("answer_idx"))
    if not isinstance(gold, str):
        raise BadRecord("no gold answer (a text) in `eval.answer` or `answer_idx`")
    question, answer, options = with_lines(question, gold, "eval.answer")
    return row.problem(
        question,
        answer,
        options,
        used=("conversations", "eval", "answer_idx"),
        dataset=row.obj.get("dataset") or row.obj.get("original_dataset"),
        extra={key: value for key, value in judged.items() if key != "answer"},
    )


def medqa(row: Row) -> Problem:
    """MedQA, and the evaluation files of HuatuoGPT-o1.

    {"question": "Which drug first?", "options": {"A": "Heparin", "B": "Aspirin"}, "answer_idx": "B",
    "answer": "Aspirin", "meta_info": "step1"}
    """
    options = options_of(row.obj["options"])
    return row.problem(
        row.text("question"),
        gold_letter(row.obj["answer_idx"], options, "answer_idx"),
        options,
        used=("question", "options", "answer_idx", "answer"),
        extra={"answer_text": row.obj["answer"]} if "answer" in row.obj else {},
    )


_YES_NO_MAYBE = {"A": "yes", "B": "no", "C": "maybe"}


def pubmedqa(row: Row) -> Problem:
    """PubMedQA, from the hub or its own file (QUESTION, CONTEXTS): the abstract comes before the question.

    {"pubid": 123, "question": "Does rest help after a sprain?",
    "context": {"contexts": ["Forty patients rested, forty did not."]}, "long_answer": "Rest made no difference.",
    "final_decision": "no"}
    """
    question = row.text("QUESTION" if "QUESTION" in row.obj else "question")
    context = row.obj.get("CONTEXTS", row.obj.get("context"))
    context = context.get("contexts") if isinstance(context, dict) else context
    context = [context] if isinstance(context, str) else context
    abstract = "\n".join(map(str, context)) if isinstance(context, list) else ""
    return row.problem(
        f"Abstract: {abstract}\nQuestion: {question}" if abstract else question,
        gold_letter(row.obj["final_decision"], _YES_NO_MAYBE, "final_decision"),
        dict(_YES_NO_MAYBE),
        used=("QUESTION", "CONTEXTS", "question", "context", "final_decision", "pubid"),
        id=row.id("pubid" if "pubid" in row.obj else "id"),
    )


def mmlu(row: Row) -> Problem:
    """MMLU as on the hub: `answer` is a position from 0, or a letter.

    {"question": "Which drug first?", "subject": "clinical_knowledge", "choices": ["Heparin", "Aspirin",
    "Both of them", "Neither of them"], "answer": 1}
    """
    options = options_of(row.obj["choices"], "choices")
    gold = gold_letter(row.obj["answer"], options, "answer", base=0)
    return row.problem(row.text("question"), gold, options, used=("question", "choices", "answer"))


# Text and numbers


def huatuo(row: Row) -> Problem:
    """The verifiable problems of HuatuoGPT-o1.

    {"Open-ended Verifiable Question": "Which drug is given first?", "Ground-True Answer": "Aspirin"}
    """
    question, answer = "Open-ended Verifiable Question", "Ground-True Answer"
    return row.problem(row.text(question), row.text(answer), used=(question, answer))


_SCORES = {"4", "15", "16", "17", "18", "20", "21", "25", "27", "28", "29", "32", "33", "36", "43", "45", "48", "51"}
"""The calculators whose answers MedCalc-Bench rounds before it compares them (its evaluation/evaluate.py)."""


def medcalc(row: Row) -> Problem:
    """MedCalc-Bench: a number within its limits, a score, a date, or weeks and days.

    {"Row Number": 6, "Calculator ID": 5, "Calculator Name": "Mean Arterial Pressure", "Output Type": "decimal",
    "Patient Note": "A man of 41 has a blood pressure of 120/60.",
    "Question": "What is his mean arterial pressure in mmHg?", "Ground Truth Answer": "80.0", "Lower Limit": "76.0",
    "Upper Limit": "84.0"}
    """
    given = str(row.obj["Ground Truth Answer"]).strip()
    task, answer = Task.NUMBER, given
    number = _float(given)
    if number is not None:
        limits = [_float(str(row.obj.get(name))) for name in ("Lower Limit", "Upper Limit")]
        slack = max((abs(limit - number) for limit in limits if limit is not None), default=0.0)
        if str(row.obj.get("Calculator ID")) in _SCORES:
            slack = 0.5
        answer = f"{given} ± {slack:.6f}".rstrip("0").rstrip(".") if slack else given
    elif gold_date(given) is None:
        # ('34 weeks', '3 days')
        task, answer = Task.TEXT, " ".join(re.findall(r"\w+", given))
    return row.problem(
        f"Patient note:\n{row.text('Patient Note')}\n\n{row.text('Question')}",
        answer,
        task=task,
        used=("Row Number", "Patient Note", "Question", "Ground Truth Answer"),
        id=row.id("Row Number"),
        extra={"ground_truth": given},
    )


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# Steps and trees


def processbench(row: Row) -> Prm:
    """ProcessBench: steps, and the number of the first that is wrong, or -1. Gives prm records.

    A step before the first error is labelled 1, the error 0, what follows it null.

    {"id": "gsm8k-0", "generator": "some-model", "problem": "30 mL/kg for 64 kg?", "steps": ["30 x 64 = 1820.",
    "So 1820 mL."], "final_answer_correct": false, "label": 0}
    """
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
        dataset=stem(row.where.source),
        task=Task.TEXT,
        meta={key: value for key, value in row.obj.items() if key not in {"id", "problem", "steps"}},
        prompt=question,
        completions=[ROOT_TEXT, *steps],
        labels=[None, *labels],
        values=[1.0, *right],
    )


def trees(row: Row) -> Tree:
    """The authors' tree files: trajectories of [text, value, rollout value]. Gives tree records (authors_trees.py).

    {"id": "q7", "question": "Which drug?\\nA. Furosemide\\nB. Metoprolol", "answer": "B", "original_dataset": null,
    "pos": [[["Let's break down this problem step by step.", 0.5, null], ["The drug slows the heart.", 0.9, 0.8],
    ["So it is a beta blocker. The answer is B.", 1.0, 1.0]]], "neg": []}
    """
    question, gold = row.text("question"), row.obj["answer"]
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        raise BadRecord(f"`answer` must be a text or a number, got {shown(gold)}")
    try:
        question, answer, options = with_lines(question, str(gold), "answer")
    except BadRecord:  # whatever the options were, the lists say what was right
        answer, options = str(gold).strip(), None
    lettered = options or re.fullmatch("[A-J]", answer)
    problem = row.problem(
        question,
        answer,
        options,
        task=Task.CHOICE if lettered else Task.NUMBER if is_number(answer) else Task.TEXT,
        used=("question", "answer", "original_dataset", "pos", "neg"),
        dataset=row.obj.get("original_dataset"),
    )
    check_gold(problem)
    return read_tree(problem, row.obj["pos"], row.obj["neg"])


# Our own, and what has our field names

# The field that tells one of our records from a bare problem, and the record whose fields are then ours, not the
# user's.
OWN_RECORDS: dict[str, type[Problem]] = {
    "nodes": Tree,
    "responses": Samples,
    "candidates": Scored,
    "completion": Sft,
    "chosen": Preference,
    "completions": Prm,
}


def medsss(row: Row) -> Problem:
    """Any record that medsss writes, and rows that have our field names (MIRAGE's).

    Without `task` a row is read as `--map` reads it: a choice where the answer is one of the options, else a number
    where it is one, else a text.

    {"id": "q1", "question": "Which drug first?", "options": {"A": "Heparin", "B": "Aspirin"}, "answer": "B",
    "task": "choice"}
    """
    ours = next((kind for field, kind in OWN_RECORDS.items() if field in row.obj), None)
    drop = set(ours.__struct_fields__) - set(Problem.__struct_fields__) if ours else set()
    data = {key: value for key, value in row.obj.items() if key not in drop}
    if "task" not in data:
        names = [name for name in ("question", "answer", "options") if name in data]
        return FieldMap({name: (name,) for name in names}).read(data, row.where)
    data["id"] = row.id()
    if isinstance(data["answer"], int | float) and not isinstance(data["answer"], bool):
        data["answer"] = str(data["answer"])
    data["dataset"] = data.get("dataset") or dataset_name(row.where)
    return parse(Problem, data)


# The table


@dataclass(frozen=True)
class Layout:
    """`needs` are the keys that a row must have, by which it is recognised; "a|b" is met by either."""

    name: str
    needs: tuple[str, ...]
    read: Callable[[Row], Problem]

    def fits(self, keys: Collection[str]) -> bool:
        """Whether a row of these keys has all that it needs."""
        return all(any(key in keys for key in need.split("|")) for need in self.needs)

    @property
    def title(self) -> str:
        """The first line of the reader's docstring."""
        return (self.read.__doc__ or "").partition("\n")[0]

    @property
    def example(self) -> dict[str, Any]:
        """The row in the reader's docstring."""
        found: dict[str, Any] = orjson.loads((self.read.__doc__ or "").rpartition("\n\n")[2])
        return found


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("authors", ("conversations", "eval|answer_idx"), authors),
        Layout("trees", ("question", "answer", "pos", "neg"), trees),
        Layout("medqa", ("question", "options", "answer_idx"), medqa),
        Layout("pubmedqa", ("question|QUESTION", "final_decision"), pubmedqa),
        Layout("mmlu", ("question", "choices", "answer"), mmlu),
        Layout("huatuo", ("Open-ended Verifiable Question", "Ground-True Answer"), huatuo),
        Layout("medcalc", ("Patient Note", "Question", "Ground Truth Answer"), medcalc),
        Layout("processbench", ("problem", "steps", "label"), processbench),
        Layout("medsss", ("question", "answer"), medsss),
    )
}
"""In the order in which they are tried; a row with `task` is one of ours whatever else it has."""


def detect(obj: Mapping[str, Any]) -> Layout | None:
    """The layout that the keys of a row say, None for an unknown one."""
    return _detect(tuple(obj))


@functools.lru_cache(maxsize=256)  # the rows of a file have the same keys
def _detect(keys: tuple[str, ...]) -> Layout | None:
    if {"task", "question", "answer"} <= set(keys):
        return LAYOUTS["medsss"]
    return next((layout for layout in LAYOUTS.values() if layout.fits(keys)), None)


def read_row(obj: dict[str, Any], where: Where) -> Problem:
    """The record that a row of any layout stands for: a problem, a tree or prm record. Raises BadRecord with its id."""
    layout = detect(obj)
    if layout is None:
        keys = ", ".join(map(str, obj)) or "(none)"
        raise BadRecord(
            f"unknown layout: found the keys {keys}; medsss load --map reads any; known: {', '.join(LAYOUTS)}"
        )
    return named(layout.read, Row(obj, where))


P = TypeVar("P", bound=Problem)


def named(read: Callable[[Row], P], row: Row) -> P:
    """What `read` makes of a row; a BadRecord gets the row's id before it."""
    try:
        return read(row)
    except BadRecord as error:
        id = row.id()
        raise BadRecord(str(error) if str(error).startswith(f"{id}:") else f"{id}: {error}") from None
