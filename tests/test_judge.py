"""Steps labelled by a judge, and the documents that it reads: pure parts by hand, the command through real pipes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers import Ran, read_jsonl, run_medsss, to_lines, write_jsonl
from tiny_models import make_tiny_tokenizer
from training import rows_of
from trees import ROOT, node, nodes
from trees import record as tree_record

from medsss_cli.engines.scripted import ScriptedEngine
from medsss_cli.labelling.judged import (
    JUDGE_PROMPT,
    JudgeConfig,
    documents_of,
    judge_prompt,
    judged_labels,
    read_verdicts,
)
from medsss_cli.records import Prm, Problem, Task, dump, parse, problem_fields
from medsss_cli.requests import derive_seed

PROBLEM = Problem(
    id="q1", question="Which drug?", answer="B", options={"A": "Furosemide", "B": "Metoprolol"}, task=Task.CHOICE
)


@pytest.mark.parametrize(
    ("reply", "verdicts"),
    [
        ("Step 1: right\nStep 2: wrong\nStep 3: right", [True, False, True]),
        ("**Step 1:** right\n- **Step 2**: Wrong.\n### Step 3 - correct", [True, False, True]),
        ("Step 1 is right\nstep 2: incorrect, 70 x 25 is 1750\n3. right", [True, False, True]),
        ("Step 1: right. Step 2: right; Step 3: wrong", [True, True, False]),
        ("| 1 | right |\n| 2 | wrong | the dose |\n|3|right|", [True, False, True]),
        ("<think>Step 1: wrong\nStep 2: wrong</think>\nStep 1: right\nStep 2: right\nStep 3: right", [True] * 3),
        ("第1步：正确\n第2步：错误，剂量不对\n步骤3：正确", [True, False, True]),
        # Steps that are repeated are no verdicts, whatever word they begin with.
        ("Step 1: Right-sided heart failure.\nStep 2: Correct the sodium first.\nStep 3: wrong", [None, None, False]),
        ("Step 1: right\nStep 1: wrong\nStep 2: right", [None, True, None]),  # both
        ("Step 0: wrong\nStep 1: right", [True, None, None]),
        ("Step 1: right\nStep 4: wrong", [None, None, None]),  # of a solution that is not ours
        ("The solution is right.", [None, None, None]),
        ("Step 1: right or wrong", [None, None, None]),
        ("", [None, None, None]),
    ],
)
def test_a_reply_is_read_strictly_but_kindly(reply: str, verdicts: list[bool | None]) -> None:
    """A verdict that is made up of a restated step would be a wrong label; one that is missed costs only itself."""
    assert read_verdicts(reply, 3) == verdicts
    assert read_verdicts("*" * 200_000 + "\n" + "- " * 100_000 + f"\n{reply}", 3) == verdicts  # and in time


@pytest.mark.parametrize(
    ("verdicts", "labels"),
    [
        ([True, True, False, True], [None, 1, 1, 0, 0]),
        ([True, True], [None, 1, 1]),
        ([True, None, True, False, None], [None, 1, None, None, 0, 0]),
        ([None, True], [None, None, None]),
        ([], [None]),
    ],
)
def test_the_first_wrong_step_makes_all_later_ones_wrong(verdicts: list[bool | None], labels: list[Any]) -> None:
    assert judged_labels(verdicts) == labels


def row(steps: list[str], documents: list[str] | None = None, id: str = "q1") -> Prm:
    """A trajectory of PROBLEM that is to be judged."""
    problem = problem_fields(PROBLEM) | {"id": id, "meta": {"documents": documents}}
    return Prm(**problem, prompt="Which drug?", completions=[ROOT, *steps], labels=[], values=[])


def test_the_prompt_shows_question_gold_answer_documents_and_steps_but_not_step_0() -> None:
    text = judge_prompt(JUDGE_PROMPT, row(["It has {answer} in it.", "B."], ["One.", "Two."]))
    assert "Question:\nWhich drug?\n\nRight answer: B. Metoprolol\n\n" in text
    assert "\n[1] One.\n\n[2] Two.\n\nSolution:\nStep 1: It has {answer} in it.\n\nStep 2: B.\n\n" in text
    assert ROOT not in text
    without = judge_prompt(JUDGE_PROMPT, row(["B."]))
    assert "ocument" not in without
    assert "Right answer: B. Metoprolol\n\nSolution:\n" in without


def test_every_request_has_a_seed_of_its_own_and_the_same_in_each_run() -> None:
    """Or a judge at a temperature would give other labels under another --concurrency or --shard."""
    engine = ScriptedEngine(lambda prompt, sampling, n: ["Step 1: right"] * n)
    config = JudgeConfig(temperature=1.0, max_tokens=64)
    asked = [("a", 0), ("a", 1), ("b", 0)]
    for id, number in asked:
        labels = config.labels(engine, JUDGE_PROMPT, row(["The answer is B."], id=id), number)
        assert asyncio.run(labels) == [None, 1.0]
    drawn = [sampling for _, sampling, _ in engine.requests]
    assert [each.seed for each in drawn] == [derive_seed(0, id, "judge", number) for id, number in asked]
    assert {(each.temperature, each.max_tokens) for each in drawn} == {(1.0, 64)}


def test_documents_that_a_record_carries() -> None:
    mixed = ["plain", {"title": "T", "text": "x"}, {"text": "y"}, {"title": "no text"}, 3]
    for fields, found in (
        ({"documents": mixed}, ("plain", "T\nx", "y")),
        ({"related_docs": ["z"]}, ("z",)),
        ({"documents": "z"}, ()),
    ):
        assert documents_of(parse(Problem, {"id": "a", "question": "?", "answer": "", **fields})) == found


def judge(tmp_path: Path, records: list[dict[str, Any]], script: list[dict[str, Any]], *args: object) -> Ran:
    file = write_jsonl(tmp_path / "judge.jsonl", script)
    return run_medsss(
        ["label", "--to", "prm", "--labels", "judge", "--engine", f"scripted:{file}", "--ordered", *args],
        to_lines(records),
    )


def samples(problem: Problem, *texts: str) -> dict[str, Any]:
    return dump(problem) | {"responses": list(texts), "pass_rate": 0.0}


SAYS = "Step 1: right\nStep 2: right"


def test_every_trajectory_of_a_tree_is_judged(tmp_path: Path) -> None:
    """Three trajectories, and one of the words "I would say so", whose record is left out and counted. The judge takes
    "thins the blood" for wrong."""
    script = [
        {"match": "But wait", "texts": ["Step 1: wrong\nStep 2: right\nStep 3: right\nStep 4: right"]},
        {"match": "by mouth", "texts": ["I would say so."]},
        {"match": "beta blocker", "texts": [SAYS]},
        {"match": "diuretic", "texts": ["Step 1: right\nStep 2: who knows"]},
    ]
    unclear = node(8, 3, "finish", "The answer is A.", 0.0, "wrong")
    ran = judge(tmp_path, [tree_record(nodes=[*nodes(), unclear])], script).ok()
    rows = [parse(Prm, row) for row in ran.records]
    assert [row.labels for row in rows] == [[None, 1, 1], [None, 1, None], [None, 0, 0, 0, 0]]
    assert [row.values for row in rows] == [[0.5, 0.9, 1.0], [0.5, 0.9, 0.0], [0.5, 0.1, 0.0, 0.6, 1.0]]
    assert rows[0].completions[0] == ROOT
    assert rows[0].meta["label"] == {"labels": "judge", "judge": "builtin:clinic"}
    assert "4 trajectories, 3 steps right, 4 wrong, 4 not judged; 1 trajectories without any judgement" in ran.stderr
    fewer = judge(tmp_path, [tree_record(nodes=[*nodes(), unclear])], script, "--max-per-problem", "1", "-q").ok()
    assert (fewer.records, fewer.stderr) == (ran.records[:1], "")


def test_answers_are_judged_and_what_comes_out_trains_a_prm(tmp_path: Path) -> None:
    """A problem whose answers are all right is kept: a right answer by a wrong step is what a judge is for. Steps
    without a label must have no read-out in the training."""
    answers = ["Step 1: It slows the heart.\n\nStep 2: The answer is B.", "One.\n\nTwo. The answer is B.", " "]
    script = [
        {"match": "It slows", "texts": ["Step 1: wrong\nStep 2: right"]},
        {"match": "[1] My own.\n\nSolution:\nStep 1: One.", "texts": ["Step 1: right"]},
    ]
    record = samples(PROBLEM, *answers, answers[0]) | {"documents": ["My own."]}  # the judge is shown them
    ran = judge(tmp_path, [record], script).ok()
    assert ran.records[0]["meta"]["documents"] == ["My own."]
    assert [row["labels"] for row in ran.records] == [[None, 0, 0], [None, 1, None]]
    assert [row["completions"][1:] for row in ran.records] == [
        ["It slows the heart.", "The answer is B."],
        ["One.", "Two. The answer is B."],
    ]
    rows = rows_of("prm", make_tiny_tokenizer(tmp_path / "tokenizer"), ran.records)
    assert [row.columns["labels"] for row in rows] == [[0.0, 0.0], [1.0]]


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text('Say {"x": 1}. {question} / {steps}')
    script = [{"match": 'Say {"x": 1}. Which drug?\nA. Furosemide', "texts": [SAYS]}]
    ran = judge(tmp_path, [samples(PROBLEM, "One.\n\nTwo.")], script, "--judge-prompt", prompt).ok()
    assert ran.records[0]["labels"] == [None, 1, 1]
    prompt.write_text("Is {question} right?")
    refused = judge(tmp_path, [], script, "--judge-prompt", prompt)
    assert refused.rc == 2
    assert "has no place for the steps" in refused.stderr
    missing = judge(tmp_path, [], script, "--judge-prompt", tmp_path / "none.txt")
    assert missing.rc == 2
    assert "cannot read --judge-prompt" in missing.stderr


def test_a_judge_that_fails_costs_its_record_and_another_judge_is_another_run(tmp_path: Path) -> None:
    records = [samples(PROBLEM, "One."), samples(PROBLEM, "Two.") | {"id": "q2"}]
    out = tmp_path / "out.jsonl"
    part = judge(tmp_path, records, [{"match": "Step 1: Two.", "texts": ["Step 1: right"]}], "-o", out)
    assert part.rc == 1
    assert "q1: judge: " in part.stderr
    judge(tmp_path, records, [{"match": "Step 1: One.", "texts": ["Step 1: wrong"]}], "-o", out).ok()
    assert [(row["id"], row["labels"]) for row in read_jsonl(out)] == [("q2", [None, 1]), ("q1", [None, 0])]
    other = judge(tmp_path, records, [], "-o", out, "--temperature", "1")
    assert other.rc == 2
    assert "temperature" in other.stderr
    script = [{"match": "Judge", "texts": ["Let me see."]}]
    ran = judge(
        tmp_path, records[:1], script, "--restart", "-o", out
    ).ok()  # an empty file is never left without a word
    assert "judge: 1 trajectories, 0 steps right, 0 wrong, 1 not judged" in ran.stderr
    assert "warning: label: no prm record at all from 1 records: 1 with no judgement that can be read" in ran.stderr
