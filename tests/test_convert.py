"""The authors' tree files to trees and back: pure, and as a program."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import Ran, clean_env, program, run_medsss, to_lines
from trees import node, record

from medsss_cli.errors import BadRecord
from medsss_cli.labelling.trajectories import path_to, trajectories
from medsss_cli.problems.authors_trees import Form, from_published, to_published
from medsss_cli.records import Action, Tree, Verdict, parse
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
        "neg": [[ROOT, SLOWS, WRONG], [ROOT, WRONG]],
        "answer": "B",
        "original_dataset": "medqa",
    } | changes


def shape(tree: Tree) -> list[tuple[int, str, str | None]]:
    return [(n.parent, n.action.value, n.verdict and n.verdict.value) for n in tree.nodes]


def test_trajectories_become_branches_of_one_tree() -> None:
    """Six distinct nodes and the root: what two trajectories share stands once, with both values."""
    tree = from_published(published(), HERE)
    assert shape(tree) == [
        (-1, "root", None),
        (0, "reason", None),
        (1, "finish", "correct"),
        (0, "finish", "wrong"),
        (3, "reflect", None),
        (4, "finish", "correct"),
        (1, "finish", "wrong"),
    ]
    assert [n.value for n in tree.nodes] == [0.5, 0.9, 1.0, 0.0, 0.6, 1.0, 0.0]
    assert [n.rollout_value for n in tree.nodes] == [None, 0.8, 1.0, 0.0, 0.4, 1.0, 0.0]
    assert [n.answer for n in tree.nodes if n.action is Action.FINISH] == ["B", "A", "B", "A"]
    assert tree.stats == {"nodes": 7, "correct": 2, "wrong": 2, "disputed": 0}


@pytest.mark.parametrize(
    ("question", "gold", "task", "options", "answer"),
    [
        ("Which?\nA. x\nB. y", "B", "choice", {"A": "x", "B": "y"}, "B"),
        ("Which?\n(A) aspirin\n(B) heparin\n", "Heparin", "choice", {"A": "aspirin", "B": "heparin"}, "B"),
        ("Options are lost?", "C", "choice", None, "C"),
        ("How much?", "540 mL", "number", None, "540 mL"),
        ("How much?", 84, "number", None, "84"),
        ("Which hormone?", "17 hydroxyprogesterone", "text", None, "17 hydroxyprogesterone"),
        ("Which drug?", "5-HT3 antagonist", "text", None, "5-HT3 antagonist"),
        ("Is it?\nA. x\nB. y", "maybe", "text", None, "maybe"),
    ],
)
def test_the_problem_is_read_out_of_the_question(
    question: str, gold: Any, task: str, options: dict[str, str] | None, answer: str
) -> None:
    """Options in the question's last lines become options; whatever they looked like, the way back gives the same
    question and the same answer."""
    before = published(question=question, answer=gold, pos=[], neg=[[ROOT, WRONG]])
    tree = from_published(before, HERE)
    assert (tree.task.value, tree.options, tree.answer) == (task, options, answer)
    assert to_published(tree) == before


def test_verdicts_are_the_lists() -> None:
    """Their rule for right and wrong is not ours. The list is what their models learned from, so it is kept; what we
    think of it is counted."""
    vague = ["Nothing can be said of it.", 0.0, 0.0]
    tree = from_published(published(pos=[[ROOT, WRONG]], neg=[[ROOT, RIGHT], [ROOT, SLOWS, vague]]), HERE)
    ends = [n for n in tree.nodes if n.action is Action.FINISH]
    assert [n.verdict for n in ends] == [Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER]
    assert [n.answer for n in ends] == ["A", "B", None]
    assert tree.stats["disputed"] == 2


def test_an_answer_on_the_way_is_no_trajectory_of_its_own() -> None:
    """The authors list leaves alone: a wrong answer that a reflection follows was in neither list, and must not turn up
    as a trajectory that they never had."""
    before = published(pos=[[ROOT, WRONG, WAIT, RIGHT]], neg=[])
    tree = from_published(before, HERE)
    assert [(n.action.value, n.verdict and n.verdict.value) for n in tree.nodes[1:]] == [
        ("finish", "not_judged"),
        ("reflect", None),
        ("finish", "correct"),
    ]
    assert len(trajectories(tree)) == 1
    assert to_published(tree) == before


def test_a_step_that_holds_several_is_taken_apart() -> None:
    """The authors' search leaves such answers in one node. Joined with its marks it would read as other steps."""
    long = ["Beta blockers do.\n\nStep 3: Metoprolol is one.\n\nStep 4: The answer is B.", 1.0, 1.0]
    tree = from_published(published(pos=[[ROOT, SLOWS, long]], neg=[]), HERE)
    assert [(n.depth, n.text, n.value) for n in tree.nodes[1:]] == [
        (1, SLOWS[0], 0.9),
        (2, "Beta blockers do.", 0.9),
        (3, "Metoprolol is one.", 0.9),
        (4, "The answer is B.", 1.0),
    ]


FORMS: dict[str, Any] = {
    "steps": lambda steps: steps,
    "leaf": lambda steps: [steps, *steps[-1][1:]],
    "objects": lambda steps: [
        {"step": s, "value": v} | ({} if r is None else {"simulation_score": r}) for s, v, r in steps
    ],
}


def random_tree(rng: random.Random) -> Tree:
    nodes = [node(-1, 0, "root", ROOT[0], 0.5)]
    for i in range(1, rng.randint(2, 25)):
        parent = rng.randrange(i)
        action = rng.choice(["reason", "reflect", "finish", "finish"])
        verdict = rng.choice(["correct", "wrong", "no_answer", "not_judged"]) if action == "finish" else None
        # What states no answer is no_answer, or the two would differ for a good reason.
        text = {"reflect": f"But wait, {i}.", "finish": f"{i}: the answer is A."}.get(action, f"Fact {i}.")
        text = f"Thought {i}." if verdict == "no_answer" else text
        made = node(parent, nodes[parent]["depth"] + 1, action, text, rng.choice([0.0, 0.5, 1.0]), verdict)
        nodes.append(made | {"rollout_value": rng.choice([None, 0.2]), "visits": rng.randint(0, 9)})
    return parse(Tree, record(nodes=nodes))


def paths(tree: Tree) -> list[Any]:
    found = []
    for each in trajectories(tree):
        on = [tree.nodes[i] for i in path_to(tree, each.nodes[-1])]
        found.append(([(n.text, n.value, n.rollout_value) for n in on], on[-1].verdict))
    return sorted(found, key=repr)


@pytest.mark.parametrize("seed", range(60))
def test_tree_published_tree_keeps_the_trajectories(seed: int) -> None:
    """Steps, both values and verdicts of every trajectory; the branches that end in none are lost, as the page says."""
    tree = random_tree(random.Random(seed))
    again = from_published(json.loads(json.dumps(to_published(tree))), HERE)
    assert paths(again) == paths(tree)
    assert (again.question, again.options, again.answer, again.task) == (
        tree.question,
        tree.options,
        tree.answer,
        tree.task,
    )
    kept = {i for each in trajectories(tree) for i in each.nodes}
    assert len(again.nodes) == max(len(kept), 1)


def test_a_form_can_be_asked_for() -> None:
    tree = from_published(published(neg=[], pos=[[ROOT, RIGHT]]), HERE)
    assert to_published(tree, Form.LEAF)["pos"] == [[[ROOT, RIGHT], 1.0, 1.0]]
    assert to_published(tree, Form.OBJECTS)["pos"][0][0] == {"step": ROOT[0], "value": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos": {}}, "`pos` must be a list"),
        ({"pos": [[]]}, "`pos` 0: a trajectory must be a list of steps"),
        ({"pos": [[ROOT]]}, "no step follows step 0"),
        ({"pos": [["Step 0: whole text", 1.0, 1.0]]}, "a whole text"),
        ({"neg": [[ROOT, ["x", 1.5, None]]]}, "`neg` 0, step 1: the value 1.5 is no number in [0, 1]"),
        ({"neg": [[ROOT, ["x", None, None]]]}, "the value None is no number"),
        ({"neg": [[ROOT, ["x", True, None]]]}, "the value True is no number"),
        ({"neg": [[["other", 0.5, None], RIGHT]]}, "its step 0 (text, value) is not that of"),
        ({"neg": [[ROOT, {"text": "x"}]]}, "expected [text, value, rollout value]"),
        ({"answer": ["B"]}, "`question` and `answer` must be texts"),
        ({"answer": ""}, "gold answer"),
        ({"nodes": []}, "a tree record already?"),
    ],
)
def test_bad_records_say_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRecord) as caught:
        from_published(published(**changes), HERE)
    assert message in str(caught.value)


def convert(*args: object, stdin: str = "") -> Ran:
    return run_medsss(["convert", *args], stdin)


def test_their_file_trains_our_reward_model(tmp_path: Path) -> None:
    """One JSON array in, prm records out, through a pipe. Labels by their rule, worked by hand: .9 then 1 is 1 1; 0,
    .6, 1: 0, .6 - (0 - .6) = 1.2, 1 - (1.2 - 1) = .8, so 0 1 1; .9 then 0: 0 - (.9 - 0) = -.9, so 1 0; 0 is 0."""
    file = tmp_path / "authors.json"
    file.write_text(json.dumps([published()], indent=2))
    first = subprocess.Popen(
        program("convert", file, "--to", "tree"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env()
    )
    second = subprocess.run(
        program("label", "--to", "prm", "--labels", "published"),
        stdin=first.stdout,
        capture_output=True,
        env=clean_env(),
    )
    assert first.stderr is not None
    assert b"convert: 1 read, 1 done" in first.stderr.read()
    assert first.wait() == 0
    assert second.returncode == 0, second.stderr
    rows = [json.loads(line) for line in second.stdout.splitlines()]
    by_end = {tuple(row["completions"]): row["labels"] for row in rows}
    assert by_end == {
        (ROOT[0], SLOWS[0], RIGHT[0]): [None, 1.0, 1.0],
        (ROOT[0], WRONG[0], WAIT[0], RIGHT[0]): [None, 0.0, 1.0, 1.0],
        (ROOT[0], SLOWS[0], WRONG[0]): [None, 1.0, 0.0],
    }
    assert rows[0]["prompt"] == "Which drug?\nA. Furosemide\nB. Metoprolol"


def test_bad_input_of_the_command() -> None:
    good, bad = published(), published(id="q8", neg=[[ROOT]])
    ran = convert("--to", "tree", stdin=to_lines([bad, good]))
    assert ran.rc == 1
    assert "stdin:1: q8: `neg` 0: no step follows step 0" in ran.stderr
    assert [row["id"] for row in ran.records] == ["q7"]
    assert "no `nodes`" in convert("--to", "published", stdin=to_lines([good])).stderr
    ran = convert("--to", "tree", "--form", "leaf")
    assert ran.rc == 2
    assert "--form belongs to --to published" in ran.stderr
