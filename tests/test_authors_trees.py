"""The authors' tree files, as `load` and the commands that read trees take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import run_medsss, to_lines

from medsss_cli.errors import BadRecord
from medsss_cli.labelling.trajectories import trajectories
from medsss_cli.problems import to_problem, to_tree
from medsss_cli.records import Action, Tree, Verdict
from medsss_cli.stream.jsonl import Where

HERE = Where("authors.json", 3)
ROOT = ["Let's break down this problem step by step.", 0.5, None]
SLOWS = ["The drug slows the heart.", 0.9, 0.8]
RIGHT = ["So it is a beta blocker. The answer is B.", 1.0, 1.0]
WRONG = ["So it is a diuretic. The answer is A.", 0.0, 0.0]
WAIT = ["But wait, the pulse fell.", 0.6, 0.4]


def published(**changes: Any) -> dict[str, Any]:
    return {
        "id": "q7",
        "question": "Which drug?\nA. Furosemide\nB. Metoprolol",
        "pos": [[ROOT, SLOWS, RIGHT], [ROOT, WRONG, WAIT, RIGHT]],
        "neg": [[ROOT, SLOWS, WRONG]],
        "answer": "B",
        "original_dataset": "medqa",
        "source": "theirs",
    } | changes


def shape(tree: Tree) -> list[tuple[int, str, str | None]]:
    return [(n.parent, n.action.value, n.verdict and n.verdict.value) for n in tree.nodes]


def test_trajectories_become_branches_of_one_tree() -> None:
    """What two trajectories share stands once, with both values. A wrong answer that a reflection follows was in
    neither list of theirs, and is no trajectory here."""
    tree = to_tree(published(), HERE)
    assert shape(tree) == [
        (-1, "root", None),
        (0, "reason", None),
        (1, "finish", "correct"),
        (0, "finish", "not_judged"),
        (3, "reflect", None),
        (4, "finish", "correct"),
        (1, "finish", "wrong"),
    ]
    assert [n.value for n in tree.nodes] == [0.5, 0.9, 1.0, 0.0, 0.6, 1.0, 0.0]
    assert [n.rollout_value for n in tree.nodes] == [None, 0.8, 1.0, 0.0, 0.4, 1.0, 0.0]
    assert [n.answer for n in tree.nodes if n.action is Action.FINISH] == ["B", "A", "B", "A"]
    assert tree.stats == {"nodes": 7, "correct": 2, "wrong": 1, "disputed": 0}
    assert (tree.dataset, tree.meta) == ("medqa", {"source": "theirs"})
    assert to_problem(published(), HERE).options == {"A": "Furosemide", "B": "Metoprolol"}


def test_every_listed_trajectory_is_one() -> None:
    """Equal ones, and one that another goes on from, too; in each of the three forms (their published files, their
    search, their PRM training)."""
    for pos, neg in (
        ([[ROOT, RIGHT], [ROOT, RIGHT]], [[ROOT, WRONG]]),
        ([[ROOT, WRONG, WAIT, RIGHT]], [[ROOT, WRONG], [ROOT, WRONG, WAIT]]),
    ):
        tree = to_tree(published(pos=pos, neg=neg), HERE)
        assert sorted(each.correct for each in trajectories(tree)) == [False] * len(neg) + [True] * len(pos)
    steps = [ROOT, SLOWS, RIGHT]
    objects = [{"step": s, "value": v} | ({} if r is None else {"simulation_score": r}) for s, v, r in steps]
    found = [to_tree(published(pos=[each], neg=[]), HERE) for each in (steps, [steps, 1.0, 1.0], objects)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("question", "gold", "task", "options", "answer"),
    [
        ("Which?\nA. x\nB. y", "B", "choice", {"A": "x", "B": "y"}, "B"),
        ("Options are lost?", "C", "choice", None, "C"),
        ("Which?\nA. x\nB. y\nD. z", "D", "choice", None, "D"),
        ("How much?", "540 mL", "number", None, "540 mL"),
        ("Is it?\nA. x\nB. y", "maybe", "text", None, "maybe"),
    ],
)
def test_the_problem_is_read_out_of_the_question(
    question: str, gold: Any, task: str, options: dict[str, str] | None, answer: str
) -> None:
    tree = to_tree(published(question=question, answer=gold), HERE)
    assert (tree.task.value, tree.options, tree.answer) == (task, options, answer)
    assert tree.question == ("Which?" if options else question)


def test_verdicts_are_the_lists_and_a_step_that_holds_several_is_taken_apart() -> None:
    """Their rule for right and wrong is not ours. The list is what their models learned from, so it is kept; what we
    think of it is counted. Their search leaves an answer of several steps in one node: joined with its marks it would
    read as other steps."""
    vague = ["Nothing can be said of it.", 0.0, 0.0]
    tree = to_tree(published(pos=[[ROOT, WRONG]], neg=[[ROOT, RIGHT], [ROOT, SLOWS, vague]]), HERE)
    ends = [n for n in tree.nodes if n.action is Action.FINISH]
    assert [n.verdict for n in ends] == [Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER]
    assert ([n.answer for n in ends], tree.stats["disputed"]) == (["A", "B", None], 2)
    long = ["Beta blockers do.\n\nStep 3: Metoprolol is one.\n\nStep 4: The answer is B.", 1.0, 1.0]
    tree = to_tree(published(pos=[[ROOT, SLOWS, long]], neg=[]), HERE)
    assert [(n.depth, n.text, n.value) for n in tree.nodes[1:]] == [
        (1, SLOWS[0], 0.9),
        (2, "Beta blockers do.", 0.9),
        (3, "Metoprolol is one.", 0.9),
        (4, "The answer is B.", 1.0),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos": [[]]}, "`pos` 0: a trajectory must be a list of steps"),
        ({"pos": [[ROOT]]}, "no step follows step 0"),
        ({"neg": [[ROOT, ["x", 1.5, None]]]}, "`neg` 0, step 1: the value 1.5 is no number in [0, 1]"),
        ({"neg": [[["other", 0.5, None], RIGHT]]}, "its step 0 (text, value) is not that of"),
        ({"neg": [[ROOT, {"text": "x"}]]}, "expected [text, value, rollout value]"),
        ({"answer": ["B"]}, "`answer` must be a text or a number"),
        ({"answer": ""}, "gold answer"),
    ],
)
def test_bad_records_say_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRecord) as caught:
        to_tree(published(**changes), HERE)
    assert str(caught.value).startswith("q7: ")
    assert message in str(caught.value)


def test_every_command_that_reads_trees_reads_theirs(tmp_path: Path) -> None:
    """One JSON array in; labels by their rule, worked by hand: .9 then 1 is 1 1; 0, .6, 1: 0, .6 - (0 - .6) = 1.2,
    1 - (1.2 - 1) = .8, so 0 1 1; .9 then 0: 0 - (.9 - 0) = -.9, so 1 0."""
    file = tmp_path / "authors.json"
    file.write_text(json.dumps([published()], indent=2))
    rows = run_medsss(["label", file, "--to", "prm", "--labels", "published"]).ok().records
    assert {tuple(row["completions"]): row["labels"] for row in rows} == {
        (ROOT[0], SLOWS[0], RIGHT[0]): [None, 1.0, 1.0],
        (ROOT[0], WRONG[0], WAIT[0], RIGHT[0]): [None, 0.0, 1.0, 1.0],
        (ROOT[0], SLOWS[0], WRONG[0]): [None, 1.0, 0.0],
    }
    assert rows[0]["prompt"] == "Which drug?\nA. Furosemide\nB. Metoprolol"
    loaded = run_medsss(["load", file]).ok()
    assert run_medsss(["label", "--to", "prm", "--labels", "published"], loaded.stdout).ok().records == rows
    assert "beta blocker" in run_medsss(["view", file]).ok().stdout
    ran = run_medsss(["load"], to_lines([published(id="q8", neg=[[ROOT]]), published()]))
    assert (ran.rc, [row["id"] for row in ran.records]) == (1, ["q7"])
    assert "stdin:1: q8: `neg` 0: no step follows step 0" in ran.stderr
