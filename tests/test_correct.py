"""`medsss sample --correct`: wrong answers put right, in the library with numbers by hand and through real pipes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers import read_jsonl, run_medsss, to_lines, write_jsonl
from msgspec import UNSET

from medsss_cli.correction import corrections, mended_step, replaced, to_correct
from medsss_cli.engines.scripted import ScriptedEngine
from medsss_cli.problems import without_corrections
from medsss_cli.problems.curriculum import Band
from medsss_cli.prompts import Prompting
from medsss_cli.records import Problem, Response, Samples, Task, Verdict, dump
from medsss_cli.requests import Completion, FinishReason, Prompt, Sampling
from medsss_cli.sampling import SamplingConfig, with_responses
from medsss_cli.steps import ROOT_TEXT, join_steps

PROBLEM = Problem(id="p", question="SBP 120, DBP 90: mean pressure?", answer="100", task=Task.NUMBER)
WRONG = join_steps([ROOT_TEXT, "MAP = DBP + PP / 2.", "PP = 120 - 90 = 30.", "90 + 15 = 105. The answer is 105."])
RIGHT = join_steps([ROOT_TEXT, "MAP = DBP + PP / 3.", "PP = 30, 30 / 3 = 10.", "90 + 10 = 100. The answer is 100."])


def response(text: str, verdict: Verdict, **more: Any) -> Response:
    return Response(text=text, verdict=verdict, answer=text.rpartition("is ")[2].rstrip(".") or None, **more)


def record(*responses: Response) -> Samples:
    return with_responses(PROBLEM, list(responses))


@pytest.mark.parametrize(
    ("reflect", "step"),
    [
        (" the answer 105 is wrong. MAP = DBP + PP / 3.", "MAP = DBP + PP / 3."),
        (" it is 4 mL/h up to 10 kg.", "It is 4 mL/h up to 10 kg."),
        (" that is not right. It is 4.5 mL/h. So 9 mL/h.", "It is 4.5 mL/h. So 9 mL/h."),
        (" the answer 105 is wrong.", ""),
        (" 答案错了。应该用三分之一。", "应该用三分之一。"),
        ("  \n ", ""),
    ],
)
def test_a_reflect_becomes_a_step_that_was_never_wrong(reflect: str, step: str) -> None:
    """A correction that still says "the answer 105 is wrong" teaches the student to write of answers nobody gave."""
    assert mended_step(reflect) == step


def test_the_step_that_is_replaced_is_the_one_most_like_it() -> None:
    steps = [ROOT_TEXT, "MAP = DBP + PP / 2.", "PP = 120 - 90 = 30.", "90 + 15 = 105. The answer is 105."]
    assert replaced(steps, "MAP = DBP + PP / 3.") == 1
    assert replaced(steps, "PP = 120 - 90 = 20.") == 2
    # Step 0 is never replaced, ties go to the earliest, and a bare answer has no step to choose from.
    assert replaced(["same words", "x", "x"], "same words") == 1
    assert replaced([ROOT_TEXT], "MAP = DBP + PP / 3.") == 1


def test_which_responses_are_put_right() -> None:
    """Not the right ones, not those cut off at the limit (there is no mistake to find), no corrections; none twice."""
    samples = record(
        response(RIGHT, Verdict.CORRECT),
        response(WRONG, Verdict.WRONG),
        response("I cannot say.", Verdict.NO_ANSWER),
        response("Step 1: a a a a", Verdict.NO_ANSWER, finish_reason="length"),
        response(WRONG, Verdict.WRONG),
        response(RIGHT, Verdict.CORRECT, corrects=4),
        response(WRONG, Verdict.WRONG, corrects=1),
    )
    assert to_correct(samples) == [1, 2]
    assert samples.pass_rate == 0.2  # of the five originals


@pytest.mark.parametrize(("band", "rates"), [("0:0.5", [0.0, 0.25]), ("0.5:1", [0.5, 1.0]), ("0.25:0.5", [0.25])])
def test_bands_of_pass_rates_share_no_record(band: str, rates: list[float]) -> None:
    assert [rate for rate in (0.0, 0.25, 0.5, 1.0) if Band.parse(band).holds(rate)] == rates


def put_right(engine: ScriptedEngine, samples: Samples, prompting: Prompting, n: int = 1, **more: Any) -> Samples:
    config = SamplingConfig(seed=1, n=n, prompting=prompting)
    made = asyncio.run(corrections(samples, engine, config, **more))
    return with_responses(samples, [*samples.responses, *made])


def test_native_parts_from_the_wrong_answer_at_its_mistake() -> None:
    """DPO learns from the difference: a `chosen` with all of `rejected` at its beginning would teach nothing but
    to go on after an answer."""

    def says(prompt: Prompt, sampling: Sampling, n: int) -> list[str | Completion]:
        if prompt.prefix.endswith("But wait,"):
            assert prompt.prefix.startswith(WRONG)
            return [
                Completion(" the answer 105 is wrong. MAP = DBP + PP / 3.", FinishReason.STOP, 7, stop="\n\nStep"),
                Completion(" the answer 105 is wrong. PP = 120 - 90 = 20.", FinishReason.EOS, 7),
            ]
        if prompt.prefix.endswith("MAP = DBP + PP / 3.\n\nStep 2:"):
            # The habit of going on after the answer is cut off.
            return [" PP = 30, 30 / 3 = 10.\n\nStep 3: 90 + 10 = 100. The answer is 100.\n\nStep 4: But wait, no."]
        return [" So 103. The answer is 103."]

    engine = ScriptedEngine(says)
    samples = put_right(engine, record(response(WRONG, Verdict.WRONG, tokens=9)), Prompting.NATIVE, n=2)
    original, first, second = samples.responses
    assert original == response(WRONG, Verdict.WRONG, tokens=9)
    assert (first.text, first.verdict, first.corrects) == (RIGHT, Verdict.CORRECT, 0)
    begin = join_steps([ROOT_TEXT, "MAP = DBP + PP / 2.", "PP = 120 - 90 = 20."])
    assert second.text == f"{begin}\n\nStep 3: So 103. The answer is 103."
    assert second.verdict is Verdict.WRONG
    assert first.tokens > 7 < second.tokens, "both requests of a try are paid for"
    assert samples.pass_rate == 0.0


def test_native_without_words_begins_anew_and_an_answer_in_the_reflect_ends_it() -> None:
    engine = ScriptedEngine([" the answer 105 is wrong.", " 90 + 10 = 100. The answer is 100."])
    [_, anew] = put_right(engine, record(response(WRONG, Verdict.WRONG)), Prompting.NATIVE).responses
    assert anew.text == f"Step 0: {ROOT_TEXT}\n\nStep 1: 90 + 10 = 100. The answer is 100."
    engine = ScriptedEngine([" 90 + 30 / 3 = 100. The answer is 100."])
    [_, at_once] = put_right(engine, record(response("105", Verdict.WRONG)), Prompting.NATIVE).responses
    assert at_once.text == f"Step 0: {ROOT_TEXT}\n\nStep 1: 90 + 30 / 3 = 100. The answer is 100."
    assert at_once.verdict is Verdict.CORRECT


def test_instruct_shows_the_answer_and_keeps_the_solution_alone() -> None:
    samples = record(
        response(WRONG, Verdict.WRONG),
        response("Step 1: x. The answer is 99.", Verdict.WRONG),
        response(RIGHT, Verdict.CORRECT),
    )
    written = (
        "Error: half in place of a third.\n\n**Step 1:** MAP = DBP + PP / 3.\n\n**Step 2:** 100. The answer is 100."
    )
    engine = ScriptedEngine([written, "Error: I see none. The answer is 100."])
    made = put_right(engine, samples, Prompting.INSTRUCT).responses[3:]
    assert [each.corrects for each in made] == [0, 1]
    assert made[0].text == f"Step 0: {ROOT_TEXT}\n\nStep 1: MAP = DBP + PP / 3.\n\nStep 2: 100. The answer is 100."
    assert made[0].verdict is Verdict.CORRECT
    # Right by chance, and nothing to learn from: no steps.
    assert (made[1].verdict, made[1].form) == (Verdict.NO_ANSWER, "refused-no-steps")
    question, answer, task = engine.requests[0][0].messages
    assert "SBP 120, DBP 90" in question.content
    assert (answer.role, answer.content) == ("assistant", WRONG)
    assert "it came to 105" in task.content
    assert RIGHT not in task.content
    assert made[0].revealed is UNSET


def samples_file(path: Path) -> Path:
    def line(number: int, *texts: str) -> dict[str, Any]:
        return {
            "id": f"p{number}",
            "question": f"Question {number}: SBP 120, DBP 90?",
            "answer": "100",
            "task": "number",
            "responses": [{"text": text, "policy": "A"} for text in texts],
        }

    return write_jsonl(path, [line(1, WRONG, RIGHT), line(2, RIGHT, RIGHT), line(3, WRONG, WRONG, WRONG, RIGHT)])


def test_through_pipes_records_without_wrong_answers_and_out_of_the_band_pass_unchanged(tmp_path: Path) -> None:
    engine = write_jsonl(
        tmp_path / "s.jsonl",
        [
            {"match": "DBP + PP / 3.\n\nStep 2:", "texts": [" 90 + 10 = 100. The answer is 100."]},
            {"match": "But wait,", "texts": [" the answer 105 is wrong. MAP = DBP + PP / 3."]},
        ],
    )
    args = ["sample", samples_file(tmp_path / "in.jsonl"), "--correct", "--engine", f"scripted:{engine}"]
    ran = run_medsss([*args, "--ordered"]).ok()
    assert [len(row["responses"]) for row in ran.records] == [3, 2, 7]
    assert [row["pass_rate"] for row in ran.records] == [0.5, 1.0, 0.25]
    assert [each.get("corrects") for each in ran.records[2]["responses"]] == [None] * 4 + [0, 1, 2]
    assert {each["policy"] for each in ran.records[2]["responses"]} == {"A", "builtin:clinic"}
    assert "4 corrections of 4 wrong answers, accuracy 100.0%" in ran.stderr
    # A second run on the result finds nothing left to do, and says so; a band leaves the others alone.
    again = run_medsss(["sample", "--correct", "--engine", f"scripted:{engine}"], ran.stdout).ok()
    assert again.records == ran.records
    assert "0 corrections of 0 wrong answers" in again.stderr
    band = run_medsss([*args, "--ordered", "--pass-rate", "0:0.5", "-o", tmp_path / "out.jsonl"])
    assert [len(row["responses"]) for row in read_jsonl(tmp_path / "out.jsonl")] == [2, 2, 7], band.stderr


def test_bad_input_is_told(tmp_path: Path) -> None:
    problem = {"id": "p", "question": "q", "answer": "1", "task": "number"}
    ran = run_medsss(["sample", "--correct"], to_lines([problem]))
    assert ran.rc == 1
    assert "no responses: found the keys id, question, answer, task" in ran.stderr
    engine = write_jsonl(tmp_path / "s.jsonl", [{"match": "Step", "texts": ["I do not know."]}])
    args = ["sample", samples_file(tmp_path / "in.jsonl"), "--correct", "--engine", f"scripted:{engine}"]
    assert "no correction is right: there is nothing here to train on" in run_medsss(args).ok().stderr


def test_corrections_are_neither_measured_nor_selected(tmp_path: Path) -> None:
    """A correction exists because the gold answer said that its original was wrong: to count it would flatter the
    policy, to let a reward model choose it would be to peek."""
    corrected = record(
        response(WRONG, Verdict.WRONG), response(RIGHT, Verdict.CORRECT), response(RIGHT, Verdict.CORRECT, corrects=0)
    )
    path = write_jsonl(tmp_path / "corrected.jsonl", [dump(corrected)])
    report = run_medsss(["eval", path, "-q"]).ok().records[0]
    assert (report["responses"], report["micro"]["value"]) == (2, 0.5)
    assert without_corrections(dump(corrected))["responses"] == dump(corrected)["responses"][:2]
