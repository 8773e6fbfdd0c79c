"""Training on answers: `label --to sft` by rejection, and pairs of corrections, pure and through real pipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import run_medsss, to_lines, write_jsonl
from trees import ROOT
from trees import record as tree_record

from medsss_cli.labelling.preferences import correction_pairs
from medsss_cli.labelling.trajectories import in_form, written_steps
from medsss_cli.records import Preference, Samples, Sft, parse

RIGHT = f"Step 0: {ROOT}\n\nStep 1: It slows the heart.\n\nStep 2: So it is metoprolol. The answer is B."
SHORT = f"Step 0: {ROOT}\n\nStep 1: The answer is B."
WRONG = f"Step 0: {ROOT}\n\nStep 1: It makes the kidney work.\n\nStep 2: The answer is A."
REFLECTED = f"{WRONG}\n\nStep 3: But wait, the pulse fell.\n\nStep 4: The answer is B."


def response(text: str, verdict: str = "correct", **more: Any) -> dict[str, Any]:
    return {"text": text, "answer": "B" if verdict == "correct" else "A", "verdict": verdict, **more}


def samples(*responses: dict[str, Any], id: str = "q1", **changes: Any) -> dict[str, Any]:
    own = tree_record(id)
    fields = {name: own[name] for name in own if name not in ("nodes", "stats", "config")}
    return fields | {"responses": list(responses), "pass_rate": 0.5} | changes


def texts(records: list[dict[str, Any]]) -> list[str]:
    return [record["completion"][0]["content"] for record in records]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (RIGHT, [ROOT, "It slows the heart.", "So it is metoprolol. The answer is B."]),
        ("Step 1: a\n\nStep 2: b", [ROOT, "a", "b"]),
        ("Error: step 1 took the sum.\n\nStep 1: a\n\nStep 2: b", [ROOT, "a", "b"]),
        ("<think>Let me see.\n\nStep 1: x</think>\n**Step 1:** a\n\n**Step 2:** b", [ROOT, "a", "b"]),
        ("It slows the heart.\n\n \nThe answer is B.", [ROOT, "It slows the heart.", "The answer is B."]),
        ("It slows\nthe heart. The answer is B.", [ROOT, "It slows\nthe heart. The answer is B."]),
        (" \n", []),
        ("<think>only thought</think>", []),
    ],
)
def test_an_answer_in_any_form_becomes_steps(text: str, steps: list[str]) -> None:
    """A student that is to learn the form must not be shown "Sure, here is ..." or an answer without marks. What is in
    our form is not touched; step 0 alone says nothing."""
    assert written_steps(text) == steps
    assert in_form(RIGHT) == RIGHT
    assert in_form(f"Step 0: {ROOT}") is None


def test_an_answer_that_our_form_makes_unreadable_is_stated() -> None:
    """A real small model answered "A. yes"; trained on "Step 1: A. yes" it wrote that to every question, unreadable."""
    bare = samples(response("B. metoprolol", answer="B"))
    assert texts(run_medsss(["label", "--to", "sft"], to_lines([bare])).ok().records) == [
        f"Step 0: {ROOT}\n\nStep 1: B. metoprolol. The answer is B."
    ]
    question = {"question": "下列哪一种药物减慢心率？", "id": "q2"}
    assert texts(run_medsss(["label", "--to", "sft"], to_lines([bare | question])).ok().records) == [
        f"Step 0: {ROOT}\n\nStep 1: B. metoprolol。答案是B。"
    ]


def test_only_verified_answers_each_text_once() -> None:
    record = samples(
        response(RIGHT), response(WRONG, "wrong"), response(SHORT), response(RIGHT), response("The answer is B.")
    )
    ran = run_medsss(["label", "--to", "sft"], to_lines([record])).ok()
    assert texts(ran.records) == [RIGHT, SHORT]  # the last one is SHORT in our form
    first = parse(Sft, ran.records[0])
    assert first.min_value == 1.0
    assert first.prompt[0].content == "Which drug?\nA. Furosemide\nB. Metoprolol"
    assert "responses" not in ran.records[0]["meta"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--take", "shortest"], [SHORT]),
        (["--take", "longest"], [REFLECTED]),
        (["--take", "shortest", "--max-per-problem", "2"], [SHORT, RIGHT]),
        (["--max-per-problem", "1"], [RIGHT]),
        (["--take", "longest", "--no-reflect"], [RIGHT]),
    ],
)
def test_which_answers_are_taken(args: list[str], expected: list[str]) -> None:
    stdin = to_lines([samples(response(RIGHT), response(REFLECTED), response(SHORT))])
    assert texts(run_medsss(["label", "--to", "sft", *args], stdin).ok().records) == expected


def test_trees_and_answers_in_one_stream_and_what_gives_nothing_is_counted() -> None:
    """An answer is judged where nobody has judged it."""
    bare = samples(id="b") | {"responses": [SHORT, WRONG]}
    wrong = samples(response(WRONG, "wrong"), id="w")
    stdin = to_lines([tree_record("t"), samples(response(SHORT), id="s"), bare, wrong])
    ran = run_medsss(["label", "--to", "sft", "--take", "shortest"], stdin).ok()
    assert [record["id"] for record in ran.records] == ["t", "s", "b"]
    assert "But wait" not in texts(ran.records)[0]
    assert texts(ran.records)[2] == SHORT
    assert "1 records gave no sft record: 1 without a verified answer" in ran.stderr


@pytest.mark.parametrize(
    ("args", "cause"),
    [
        (["--to", "sft"], "2 without a verified answer"),
        (["--to", "preference"], "2 without a correct correction of a wrong answer"),
        (["--to", "prm"], "2 that are samples, which have no values (--labels judge"),
    ],
)
def test_an_empty_training_file_is_never_left_without_a_word(args: list[str], cause: str, tmp_path: Path) -> None:
    """Even under --quiet: the training after it would otherwise fail far from the cause."""
    stdin = to_lines([samples(response(WRONG, "wrong"), id=id) for id in "ab"])
    ran = run_medsss(["label", *args, "-q", "-o", tmp_path / "out.jsonl"], stdin).ok()
    assert f"warning: label: no {args[1]} record at all from 2 records: {cause}" in ran.stderr
    assert (tmp_path / "out.jsonl").read_text() == ""


CORRECTED = samples(
    response(WRONG, "wrong"),
    response(RIGHT),
    response("The answer is A.", "wrong"),
    response(RIGHT, corrects=0),
    response(WRONG, "wrong", corrects=2),
    response(RIGHT, corrects=0),
    response(f"Error: no reason is given.\n\n{SHORT}\n\nStep 2: It slows the heart. The answer is B.", corrects=2),
)


def test_a_correction_is_paired_with_the_answer_that_it_puts_right() -> None:
    """A failed correction (4), the right original (1) and a correction that says the same again (5) give no pair."""
    ran = run_medsss(["label", "--to", "preference"], to_lines([CORRECTED])).ok()
    pairs = [parse(Preference, record) for record in ran.records]
    assert [(pair.kind, pair.margin) for pair in pairs] == [("correction", 1.0)] * 2
    assert pairs[0].chosen[0].content == RIGHT
    assert pairs[0].rejected[0].content == WRONG
    # Both in one form, or the pair would tell the form apart and not the mistake.
    assert pairs[1].chosen[0].content == f"{SHORT}\n\nStep 2: It slows the heart. The answer is B."
    assert pairs[1].rejected[0].content == f"Step 0: {ROOT}\n\nStep 1: The answer is A."
    one = ["label", "--to", "preference", "--max-per-problem", "1"]
    assert run_medsss(one, to_lines([CORRECTED])).ok().records == ran.records[:1]


def test_pairs_name_their_responses_and_never_reject_a_correct_one() -> None:
    found = correction_pairs(parse(Samples, CORRECTED))
    assert [pair.nodes for pair in found] == [(3, 0), (6, 2)]
    assert correction_pairs(parse(Samples, samples(response(RIGHT), response(SHORT, corrects=0)))) == []


def test_trees_and_corrections_in_one_file_are_paired_each_in_its_way(tmp_path: Path) -> None:
    """A correction of a response that is not there is a bad line."""
    nothing = samples(response(RIGHT, corrects=7), id="n")
    file = write_jsonl(tmp_path / "mixed.jsonl", [tree_record("t"), CORRECTED, nothing])
    ran = run_medsss(["label", "--to", "preference", file])
    assert [f"{record['id']} {record['kind']}" for record in ran.records] == [
        "t trajectory", "q1 correction", "q1 correction",
    ]  # fmt: skip
    assert (ran.rc, "corrects number 7, of 1" in ran.stderr) == (1, True)
