"""Layouts that are read as they are. The example rows are ours, in the field names of the public files."""

from __future__ import annotations

from typing import Any

import pytest

from medsss_cli.adapters import split_options, to_problem, to_samples
from medsss_cli.errors import BadRecord
from medsss_cli.jsonl import Where
from medsss_cli.records import Problem, Response, Samples, Scored, Task, Verdict, dump, parse, problem_fields

HERE = Where("/data/MedQA.json", 3)

AUTHORS = {
    "id": 7,
    "conversations": [
        {"from": "human", "value": 'A man has chest pain.\nWhich drug?\nA. Heparin\nB. Aspirin\nC. Both of them\n"'},
        {"from": "gpt", "value": "The answer is B."},
    ],
    "eval": {"answer": "B", "type": "step1"},
}
MEDQA = {
    "question": "Which drug?",
    "answer": "Aspirin",
    "options": {"A": "Heparin", "B": "Aspirin"},
    "answer_idx": "B",
    "meta_info": "step1",
}


def test_the_authors_evaluation_layout() -> None:
    problem = to_problem(AUTHORS, HERE)
    assert problem == Problem(
        id="MedQA-7",
        question="A man has chest pain.\nWhich drug?",
        answer="B",
        options={"A": "Heparin", "B": "Aspirin", "C": "Both of them"},
        dataset="MedQA",
        task=Task.CHOICE,
        meta={"type": "step1"},
    )


def test_the_authors_layout_with_a_free_answer_and_a_name() -> None:
    row = {
        "id": "dose_3",
        "conversations": [{"from": "human", "value": "Which dose?\nSentence: 10 mg/kg were given."}],
        "eval": {"answer": "10 mg/kg"},
        "answer_idx": "10 mg/kg",
        "dataset": "DrugDose",
    }
    problem = to_problem(row, HERE)
    assert (problem.id, problem.dataset, problem.task, problem.options) == ("dose_3", "DrugDose", Task.TEXT, None)
    assert problem.question.endswith("were given.")


def test_the_authors_layout_with_the_text_of_an_option_as_gold() -> None:
    row = AUTHORS | {"eval": {"answer": "aspirin"}}
    assert to_problem(row, HERE).answer == "B"


def test_medqa() -> None:
    problem = to_problem(MEDQA, HERE)
    assert (problem.id, problem.answer, problem.task, problem.dataset) == ("MedQA-3", "B", Task.CHOICE, "MedQA")
    assert problem.meta == {"answer_text": "Aspirin", "meta_info": "step1"}
    assert "answer_text" not in MEDQA.get("meta", {})


def test_our_own_problem() -> None:
    row = {"id": "q1", "question": "2 + 2?", "answer": 4, "task": "number", "source": "mine"}
    problem = to_problem(row, Where("stdin", 1))
    assert (problem.answer, problem.task, problem.meta, problem.dataset) == (
        "4",
        Task.NUMBER,
        {"source": "mine"},
        "unknown",
    )


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"question": "?", "answer": "B", "options": {"A": "x", "B": "y"}}, Task.CHOICE),
        ({"question": "?", "answer": "aorta"}, Task.TEXT),
    ],
)
def test_a_task_that_is_not_named(row: dict[str, Any], task: Task) -> None:
    assert to_problem(row, HERE).task is task


@pytest.mark.parametrize(
    ("source", "id", "expected"),
    [
        ("x/pool.jsonl.gz", None, "pool-9"),
        ("x/pool.json", 4, "pool-4"),
        ("stdin", None, "stdin-9"),
        ("pool.v2.jsonl", 0, "pool.v2-0"),
        ("pool.jsonl", "abc", "abc"),
    ],
)
def test_ids(source: str, id: object, expected: str) -> None:
    row = {"question": "?", "answer": "aorta"} | ({} if id is None else {"id": id})
    assert to_problem(row, Where(source, 9)).id == expected


def test_what_our_other_records_hold_is_left_out() -> None:
    problem = Problem(
        id="q", question="Which?", answer="A", options={"A": "x", "B": "y"}, task=Task.CHOICE, meta={"a": 1}
    )
    samples = Samples(**problem_fields(problem), responses=[Response(text="A")], pass_rate=0.5)
    assert to_problem(dump(samples), HERE) == problem
    # A user's own field of the same name is no field of ours where the record is a bare problem.
    assert to_problem({"id": "q", "question": "?", "answer": "x", "config": 3}, HERE).meta == {"config": 3}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "?", "output": "x"}, "unknown layout: found the keys instruction, output; known: medsss"),
        ({}, "unknown layout"),
        (
            {"question": "?", "answer": "C", "task": "choice", "options": {"A": "x"}, "id": "q"},
            "q: the gold answer 'C'",
        ),
        ({"question": 3, "answer": "x"}, "question"),
        ({"question": "?", "answer": "x", "id": [1]}, "`id` must be"),
        ({"question": "?", "answer": "many", "task": "number", "id": "q"}, "not a number"),
        (AUTHORS | {"conversations": []}, "no turn"),
        (AUTHORS | {"conversations": 3}, "no turn"),
        (AUTHORS | {"eval": {}}, "no gold answer"),
        (AUTHORS | {"eval": {"answer": "D"}}, "not one of the options A, B, C"),
        (AUTHORS | {"conversations": [{"from": "human", "value": "Which?"}]}, "ends with no options"),
        (MEDQA | {"answer_idx": "E"}, "not one of the options A, B"),
        (MEDQA | {"answer_idx": None}, "answer"),
    ],
)
def test_what_cannot_be_read_says_why(row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRecord, match=message):
        to_problem(row, HERE)


def test_options_out_of_the_question() -> None:
    assert split_options("Q?\nA. x\nB. y") == ("Q?", {"A": "x", "B": "y"})
    assert split_options("Q?\n(A) x\n(B) y\n\nAnswer:") == ("Q?", {"A": "x", "B": "y"})
    assert split_options("A. is no option\nQ?\nA) x\nB) y") == ("A. is no option\nQ?", {"A": "x", "B": "y"})
    assert split_options("Q?\nA. x\ngoes on\nB. y") == ("Q?", {"A": "x goes on", "B": "y"})
    assert split_options("Q?\nA. only one") == ("Q?\nA. only one", None)
    assert split_options("Q?") == ("Q?", None)
    assert split_options("") == ("", None)


def test_responses_of_other_tools_are_judged() -> None:
    for row in [MEDQA | {"response": "The answer is B."}, MEDQA | {"output": ["The answer is B.", "Aspirin"]}]:
        samples = to_samples(row, HERE)
        assert samples.pass_rate == 1.0
        assert {response.answer for response in samples.responses} == {"B"}


def test_verdicts_that_are_there_stay_unless_rejudged() -> None:
    row = MEDQA | {"responses": [{"text": "The answer is B.", "answer": "A", "verdict": "wrong"}]}
    assert to_samples(row, HERE).responses[0].verdict is Verdict.WRONG
    judged = to_samples(row, HERE, rejudge=True)
    assert (judged.responses[0].verdict, judged.responses[0].answer, judged.pass_rate) == (Verdict.CORRECT, "B", 1.0)


def test_candidates_are_responses() -> None:
    problem = to_problem(MEDQA, HERE)
    scored = {"candidates": [{"text": "B", "step_scores": [0.5], "score": 0.5}], "selected": 0, "strategy": "min-max"}
    row = dump(parse(Scored, dump(problem) | scored))
    samples = to_samples(row, HERE)
    assert [response.verdict for response in samples.responses] == [Verdict.CORRECT]
    assert samples.meta == problem.meta


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"responses": []},
        {"responses": [3]},
        {"responses": [{"text": "x", "verdict": "great"}]},
        {"responses": [{"text": "B", "tokens": "many"}]},
        {"response": 3},
    ],
)
def test_records_without_usable_responses(more: dict[str, Any]) -> None:
    with pytest.raises(BadRecord):
        to_samples(MEDQA | more, HERE)
