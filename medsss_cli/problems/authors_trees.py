"""The authors' tree files: records of trajectories, correct ones under `pos` and wrong ones under `neg`, to trees and
back. No files here, no command line.

    {"id": "q7", "question": "Which drug?\\nA. Furosemide\\nB. Metoprolol", "answer": "B", "original_dataset": null,
     "pos": [[["Let's break down this problem step by step.", 0.5, null],
              ["The drug slows the heart.", 0.9, 0.8], ["So it is a beta blocker. The answer is B.", 1.0, 1.0]]],
     "neg": []}

A step is `[text, backed-up value, rollout value]`. Two more forms of a trajectory are read, and written back as they
were: `[[step, ...], value, rollout value]`, which the authors' search writes (the pair repeats the last step's), and
`[{"step": text, "value": value}, ...]`, which their PRM training reads.

Trajectories that begin with the same steps (text and both values) share those nodes. What such a record does not say
is 0 or None in the tree: visits, numbers of rollouts. What a tree does not say of its record (fields of other names, a
question whose layout is not ours) is kept under `meta.published`, so that the way back gives the same record.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..answers import judge, states_answer
from ..answers.choice import gold_letters
from ..answers.number import read_gold
from ..errors import BadRecord
from ..labelling.trajectories import check_tree, path_to
from ..records import Action, Node, Problem, Task, Tree, Verdict, problem_fields
from ..steps import ROOT_TEXT, split_steps
from . import split_options, to_problem

if TYPE_CHECKING:
    from ..stream.jsonl import Where

META = "published"
_LISTS = ("pos", "neg")

_REFLECT = re.compile(r"but\s+wait\b", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?\d[\d,]{0,30}(?:\.\d{1,30})?(?P<unit>\s?[^\s\d-]\S{0,20})?")


class Form(StrEnum):
    """How a trajectory is written."""

    STEPS = "steps"
    """`[[text, value, rollout value], ...]`"""
    LEAF = "leaf"
    """`[[[text, value, rollout value], ...], value, rollout value]`"""
    OBJECTS = "objects"
    """`[{"step": text, "value": value}, ...]`; with `simulation_score` where there is a rollout value."""


class _Step(NamedTuple):
    text: str
    value: float
    rollout: float | None


@dataclass(slots=True)
class _Row:
    parent: int
    step: _Step
    end: str = ""


def is_published(obj: dict[str, Any]) -> bool:
    """Whether an object has the lists of this layout."""
    return all(name in obj for name in _LISTS) and "nodes" not in obj


def from_published(obj: dict[str, Any], where: Where) -> Tree:
    """The tree of a record of the authors.

    A node is a Finish where a trajectory ends, or where it states an answer; a Reflect where it begins "But wait"; else
    a Reason. The verdict on an end is the list's: correct under `pos`; under `neg` wrong, or no_answer where our rules
    read none. A Finish that no listed trajectory ends in is not_judged. `stats` counts `correct`, `wrong` and
    `disputed` (the list and our rules differ). A step that holds the marks of several ("Step 4: ... Step 5: ...")
    becomes several nodes, the first ones with the value of the step before, as `search` does it.

    Raises BadRecord for another layout, a trajectory of another form or without a step after step 0, two different
    steps 0, a value outside [0, 1], a gold answer that cannot be read.
    """
    if not is_published(obj) or "question" not in obj or "answer" not in obj:
        hint = " (a tree record already?)" if "nodes" in obj else ""
        raise BadRecord(
            f"not the authors' tree layout{hint}: found the keys {', '.join(obj) or '(none)'}; "
            "wanted: question, answer, pos, neg"
        )
    problem = _problem(obj, where)
    forms: list[Form] = []
    rows: list[_Row] = []
    ends: dict[str, list[int]] = {name: [] for name in _LISTS}
    children: dict[tuple[int, _Step], int] = {}
    for name in _LISTS:
        if not isinstance(obj[name], list):
            raise BadRecord(f"{problem.id}: `{name}` must be a list of trajectories")
        for number, item in enumerate(obj[name]):
            place = f"{problem.id}: `{name}` {number}"
            form, steps = _read(item, place)
            forms.append(form)
            if not rows:
                rows.append(_Row(-1, steps[0]))
            elif rows[0].step != steps[0]:
                raise BadRecord(f"{place}: its step 0 (text, value) is not that of the trajectories before it")
            at = 0
            for step in steps[1:-1]:
                key = (at, step)
                if key not in children:
                    children[key] = len(rows)
                    rows.append(_Row(at, step))
                at = children[key]
            # Two equal trajectories are two ends: the second gets a node of its own.
            key = (at, steps[-1])
            end = children.get(key)
            if end is None or rows[end].end:
                end = len(rows)
                children.setdefault(key, end)
                rows.append(_Row(at, steps[-1]))
            rows[end].end = name
            ends[name].append(end)
    nodes, disputed = _nodes(problem, rows)
    tree = Tree(
        **problem_fields(problem),
        nodes=nodes,
        stats={"nodes": len(nodes), "correct": len(ends["pos"]), "wrong": len(ends["neg"]), "disputed": disputed},
        config={"layout": META},
    )
    check_tree(tree)
    noted: dict[str, Any] = {}
    if forms and forms[0] is not Form.STEPS:
        noted["form"] = forms[0].value
    if any(b < a for name in _LISTS for a, b in pairwise(ends[name])):
        noted["order"] = ends
    return _with_the_rest(tree, obj, noted)


def to_published(tree: Tree, form: Form | None = None) -> dict[str, Any]:
    """The record of a tree in the authors' layout; trajectories in the order of their ends.

    `form` is how trajectories are written; None is as they were read, or STEPS. Left out of the record, for the layout
    has no place for it: branches that end in no judged Finish, visits, numbers of rollouts, stats and config, `meta`.
    Raises BadRecord where the nodes are no tree.
    """
    from ..prompts import question_text

    check_tree(tree)
    noted = tree.meta.get(META)
    noted = noted if isinstance(noted, dict) else {}
    if form is None:
        form = Form(noted["form"]) if noted.get("form") in set(Form) else Form.STEPS
    ends: dict[str, list[int]] = {name: [] for name in _LISTS}
    inner = {node.parent for node in tree.nodes}
    for index, node in enumerate(tree.nodes):
        if index not in inner and node.action is Action.FINISH and node.verdict not in (None, Verdict.NOT_JUDGED):
            ends["pos" if node.verdict is Verdict.CORRECT else "neg"].append(index)
    order = noted.get("order")
    if isinstance(order, dict) and all(_same_members(order.get(name), ends[name]) for name in _LISTS):
        ends = order
    plain: dict[str, Any] = {
        "id": tree.id,
        "question": question_text(tree),
        **{name: [_write(tree, end, form) for end in ends[name]] for name in _LISTS},
        "answer": tree.answer,
        "original_dataset": tree.dataset,
    }
    kept = noted.get("keep")
    if isinstance(kept, dict):
        plain |= {key: value for key, value in kept.items() if key not in ("id", *_LISTS)}
    absent = noted.get("absent")
    for key in absent if isinstance(absent, list) else []:
        plain.pop(key, None)
    return plain


def _problem(obj: dict[str, Any], where: Where) -> Problem:
    """The problem of a record, its options taken out of the question's last lines where they stand there."""
    question, gold = obj["question"], obj["answer"]
    if isinstance(gold, (int, float)) and not isinstance(gold, bool):
        gold = str(gold)
    if not isinstance(question, str) or not isinstance(gold, str):
        raise BadRecord("`question` and `answer` must be texts")
    stem, options = split_options(question)
    letters = gold_letters(gold, options) if options else None
    if options and letters is None:
        wanted = gold.strip().casefold()
        letters = next((letter for letter, text in options.items() if text.casefold() == wanted), None)
    if letters is None:
        stem, options = question, None
    if letters is not None or re.fullmatch(r"\s*[A-J]\s*", gold):
        task, gold = Task.CHOICE, letters or gold.strip()
    else:
        task = Task.NUMBER if _is_number(gold) else Task.TEXT
    return to_problem(
        {
            "id": obj.get("id"),
            "question": stem,
            "answer": gold,
            "options": options,
            "dataset": obj.get("original_dataset"),
            "task": task.value,
        },
        where,
    )


def _is_number(gold: str) -> bool:
    """Whether the gold answer is a number, alone or with a unit that we know: "5-HT" and "17 hydroxyprogesterone" are
    names."""
    whole = _NUMBER.fullmatch(gold.strip())
    number = read_gold(gold) if whole else None
    return whole is not None and number is not None and (whole["unit"] is None or number.unit is not None)


def _read(item: Any, place: str) -> tuple[Form, list[_Step]]:
    """The steps of a trajectory, two or more, bare and one mark each."""
    if not isinstance(item, list) or not item:
        raise BadRecord(f"{place}: a trajectory must be a list of steps that is not empty")
    form, steps = Form.STEPS, item
    if isinstance(item[0], dict):
        form = Form.OBJECTS
    elif isinstance(item[0], list) and item[0] and isinstance(item[0][0], (list, dict)):
        form, steps = Form.LEAF, item[0]
    elif isinstance(item[0], str):
        raise BadRecord(f"{place}: a whole text, not steps with their values: there is no tree in it")
    found: list[_Step] = []
    for number, step in enumerate(steps):
        read = _read_step(step, f"{place}, step {number}")
        # A mark within a step would make two of it when the steps are joined.
        texts = split_steps(read.text, first=len(found)) or [""]
        for text in texts[:-1]:
            found.append(_Step(text, found[-1].value if found else read.value, None))
        found.append(read._replace(text=texts[-1]))
    if len(found) < 2:
        raise BadRecord(f"{place}: no step follows step 0")
    return form, found


def _read_step(step: Any, place: str) -> _Step:
    match step:
        case [str(text), value]:
            rollout = None
        case [str(text), value, rollout]:
            pass
        case {"step": str(text), "value": value}:
            rollout = step.get("simulation_score")
        case _:
            raise BadRecord(f"{place}: expected [text, value, rollout value] or {{step, value}}")
    for number in (value,) if rollout is None else (value, rollout):
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0.0 <= number <= 1.0:
            raise BadRecord(f"{place}: the value {number!r} is no number in [0, 1]")
    return _Step(text, float(value), None if rollout is None else float(rollout))


def _nodes(problem: Problem, rows: list[_Row]) -> tuple[list[Node], int]:
    """The nodes of the rows, and how many ends our rules judge otherwise than the lists do."""
    if not rows:
        return [Node(parent=-1, depth=0, action=Action.ROOT, text=ROOT_TEXT)], 0
    nodes: list[Node] = []
    disputed = 0
    for row in rows:
        text, value, rollout = row.step
        action, answer, verdict = Action.REASON, None, None
        if not nodes:
            action = Action.ROOT
        elif row.end:
            judged = judge(problem, text)
            action, answer = Action.FINISH, judged.answer
            if row.end == "pos":
                verdict = Verdict.CORRECT
            else:
                verdict = Verdict.NO_ANSWER if judged.verdict is Verdict.NO_ANSWER else Verdict.WRONG
            disputed += (judged.verdict is Verdict.CORRECT) != (verdict is Verdict.CORRECT)
        elif _REFLECT.match(text):
            action = Action.REFLECT
        elif states_answer(text):
            action, answer, verdict = Action.FINISH, judge(problem, text).answer, Verdict.NOT_JUDGED
        nodes.append(
            Node(
                parent=row.parent,
                depth=nodes[row.parent].depth + 1 if nodes else 0,
                action=action,
                text=text,
                rollout_value=rollout,
                value=value,
                answer=answer,
                verdict=verdict,
            )
        )
    return nodes, disputed


def _with_the_rest(tree: Tree, obj: dict[str, Any], noted: dict[str, Any]) -> Tree:
    """The tree with all that it could not say of `obj` under `meta.published`."""
    plain = to_published(tree)
    others = {key: value for key, value in obj.items() if key not in ("id", *_LISTS)}
    keep = {key: value for key, value in others.items() if key not in plain or plain[key] != value}
    absent = [key for key in plain if key not in obj and key != "id"]
    noted |= {"keep": keep} if keep else {}
    noted |= {"absent": absent} if absent else {}
    return msgspec.structs.replace(tree, meta={**tree.meta, META: noted}) if noted else tree


def _write(tree: Tree, end: int, form: Form) -> list[Any]:
    nodes = [tree.nodes[index] for index in path_to(tree, end)]
    steps = [[node.text, node.value, node.rollout_value] for node in nodes]
    match form:
        case Form.STEPS:
            return steps
        case Form.LEAF:
            return [steps, *steps[-1][1:]]
        case Form.OBJECTS:
            return [
                {"step": text, "value": value} | ({} if rollout is None else {"simulation_score": rollout})
                for text, value, rollout in steps
            ]


def _same_members(order: Any, ends: list[int]) -> bool:
    return isinstance(order, list) and all(type(index) is int for index in order) and sorted(order) == ends
