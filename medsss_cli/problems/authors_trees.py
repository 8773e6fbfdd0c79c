"""The authors' tree files: correct trajectories under `pos`, wrong ones under `neg`, as one tree of ours. Reads alone.

A step is `[text, backed-up value, rollout value]`. A trajectory is a list of steps; two more forms are read:
`[[step, ...], value, rollout value]`, which the authors' search writes (the pair repeats the last step's), and
`[{"step": text, "value": value}, ...]`, which their PRM training reads. docs/layouts.md shows a whole row.

Trajectories that begin with the same steps (text and both values) share those nodes. What such a file does not say is 0
or None in the tree: visits, numbers of rollouts.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ..answers import judge, states_answer
from ..errors import BadRecord
from ..labelling.trajectories import check_tree
from ..records import Action, Node, Problem, Tree, Verdict, problem_fields
from ..steps import ROOT_TEXT, split_steps

_REFLECT = re.compile(r"but\s+wait\b", re.IGNORECASE)


class _Step(NamedTuple):
    text: str
    value: float
    rollout: float | None


def read_tree(problem: Problem, pos: Any, neg: Any) -> Tree:
    """The tree of a problem with its two lists.

    A node is a Finish where a trajectory ends, or where it states an answer; a Reflect where it begins "But wait"; else
    a Reason. The verdict on an end is the list's: correct under `pos`; under `neg` wrong, or no_answer where our rules
    read none. A Finish on the way is not_judged. `stats` counts `correct`, `wrong` and `disputed` (the list and our
    rules differ). A step that holds the marks of several ("Step 4: ... Step 5: ...") becomes several nodes, the first
    ones with the value of the step before, as `search` does it.

    Raises BadRecord for a trajectory of another form or without a step after step 0, two different steps 0, a value
    outside [0, 1].
    """
    root: _Step | None = None
    nodes: list[Node] = []
    children: dict[tuple[int, _Step], int] = {}
    disputed = 0
    for name, listed in (("pos", pos), ("neg", neg)):
        if not isinstance(listed, list):
            raise BadRecord(f"`{name}` must be a list of trajectories")
        for number, item in enumerate(listed):
            place = f"`{name}` {number}"
            first, *way, end = _read(item, place)
            if root is None:
                root = first
                nodes.append(_node(-1, 0, first, Action.ROOT))
            elif root != first:
                raise BadRecord(f"{place}: its step 0 (text, value) is not that of the trajectories before it")
            at = 0
            for step in way:
                if (at, step) not in children:
                    children[at, step] = len(nodes)
                    nodes.append(_on_the_way(problem, at, nodes[at].depth + 1, step))
                at = children[at, step]
            # An end is a leaf: two equal trajectories are two ends.
            judged = judge(problem, end.text)
            verdict = Verdict.CORRECT if name == "pos" else Verdict.WRONG
            disputed += (judged.verdict is Verdict.CORRECT) != (verdict is Verdict.CORRECT)
            if name == "neg" and judged.verdict is Verdict.NO_ANSWER:
                verdict = Verdict.NO_ANSWER
            nodes.append(_node(at, nodes[at].depth + 1, end, Action.FINISH, judged.answer, verdict))
    tree = Tree(
        **problem_fields(problem),
        nodes=nodes or [Node(parent=-1, depth=0, action=Action.ROOT, text=ROOT_TEXT)],
        stats={"nodes": len(nodes) or 1, "correct": len(pos), "wrong": len(neg), "disputed": disputed},
        config={"layout": "trees"},
    )
    check_tree(tree)
    return tree


def _node(
    parent: int, depth: int, step: _Step, action: Action, answer: str | None = None, verdict: Verdict | None = None
) -> Node:
    own: dict[str, Any] = {"text": step.text, "value": step.value, "rollout_value": step.rollout}
    return Node(parent=parent, depth=depth, action=action, answer=answer, verdict=verdict, **own)


def _on_the_way(problem: Problem, parent: int, depth: int, step: _Step) -> Node:
    """A step that others follow."""
    if _REFLECT.match(step.text):
        return _node(parent, depth, step, Action.REFLECT)
    if states_answer(step.text):
        return _node(parent, depth, step, Action.FINISH, judge(problem, step.text).answer, Verdict.NOT_JUDGED)
    return _node(parent, depth, step, Action.REASON)


def _read(item: Any, place: str) -> list[_Step]:
    """The steps of a trajectory, two or more, bare and one mark each."""
    match item:
        case [[[*_] | {}, *_] as steps, *_] | [*steps] if steps and not isinstance(steps[0], str):
            pass
        case _:
            raise BadRecord(f"{place}: a trajectory must be a list of steps, not empty and not a whole text")
    found: list[_Step] = []
    for number, step in enumerate(steps):
        text, value, rollout = _read_step(step, f"{place}, step {number}")
        # A mark within a step would make two of it when the steps are joined.
        *before, last = split_steps(text, first=len(found)) or [""]
        found += [_Step(each, found[-1].value if found else value, None) for each in before]
        found.append(_Step(last, value, rollout))
    if len(found) < 2:
        raise BadRecord(f"{place}: no step follows step 0")
    return found


def _read_step(step: Any, place: str) -> _Step:
    match step:
        case [str(text), value, *rest] if len(rest) < 2:
            rollout = rest[0] if rest else None
        case {"step": str(text), "value": value}:
            rollout = step.get("simulation_score")
        case _:
            raise BadRecord(f"{place}: expected [text, value, rollout value] or {{step, value}}")
    for number in (value,) if rollout is None else (value, rollout):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0.0 <= number <= 1.0:
            raise BadRecord(f"{place}: the value {number!r} is no number in [0, 1]")
    return _Step(text, float(value), None if rollout is None else float(rollout))
