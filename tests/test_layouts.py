"""Layouts that are read as they are, and --map. The rows of docs/layouts.md are ours, in the field names of the public
files."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import layout_rows

from medsss_cli.answers import Extract, judge
from medsss_cli.errors import BadRecord, UsageError
from medsss_cli.problems import to_prm, to_problem, to_record, to_samples
from medsss_cli.problems.layouts import LAYOUTS, detect
from medsss_cli.problems.rows import FieldMap
from medsss_cli.records import Problem, Response, Samples, Scored, Task, Verdict, dump, parse, problem_fields
from medsss_cli.stream.jsonl import Where

HERE = Where("/data/MedQA.json", 3)
ROWS = layout_rows()
MEDQA = ROWS["medqa"]
AUTHORS = {
    "id": 7,
    "conversations": [
        {"from": "human", "value": 'A man has chest pain.\nWhich drug?\nA. Heparin\nB. Aspirin\nC. Both of them\n"'},
        {"from": "gpt", "value": "The answer is B."},
    ],
    "eval": {"answer": "B", "type": "step1"},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_reads_its_example_and_no_other(name: str) -> None:
    """The row in docs/layouts.md is the one that a user compares with. No other layout may take it: only `medsss`,
    which is tried last, has keys that many rows have."""
    assert detect(ROWS[name]) == name
    assert {each for each, layout in LAYOUTS.items() if layout.fits(ROWS[name])} - {"medsss"} == {name} - {"medsss"}
    record = to_record(ROWS[name], HERE)
    if name in {"authors", "medqa", "mmlu", "medsss"}:
        assert (record.task, record.answer, (record.options or {})["B"]) == (Task.CHOICE, "B", "Aspirin")
        assert "Aspirin" not in record.question


def test_the_authors_evaluation_layout() -> None:
    """A letter; the text of an option; a phrase, in a record with a name of its own."""
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
    assert to_problem(AUTHORS | {"eval": {"answer": "aspirin"}}, HERE).answer == "B"
    dose = {"from": "human", "value": "Which dose?\nSentence: 10 mg/kg were given."}
    row = {"id": "dose_3", "conversations": [dose], "answer_idx": "10 mg/kg", "dataset": "DrugDose"}
    problem = to_problem(row, HERE)
    assert (problem.id, problem.dataset, problem.task, problem.options) == ("dose_3", "DrugDose", Task.TEXT, None)
    assert (problem.question, problem.answer) == (dose["value"], "10 mg/kg")


@pytest.mark.parametrize(
    ("source", "id", "expected"),
    [
        ("x/pool.jsonl.gz", None, "pool-9"),
        ("x/pool.json", 4, "pool-4"),
        ("stdin", None, "stdin-9"),
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
        ({}, "unknown layout"),
        ({"question": "?", "answer": "x", "id": [1]}, "`id` must be"),
        (AUTHORS | {"conversations": 3}, "no turn"),
        (AUTHORS | {"eval": {"answer": "D"}}, "not one of the options A, B, C"),
        (AUTHORS | {"conversations": [{"from": "human", "value": "Which?"}]}, "no options: .* ends with 'Which"),
        (MEDQA | {"answer_idx": True}, "no gold answer"),
        ({"id": "q", "question": "?", "answer": "B"}, "q: the gold answer is 'B', but there are no options"),
        ({"id": "q", "question": "?\nA. x\nB. y", "answer": "C"}, "q: .*'C' in `answer` is not one of.* A, B"),
        ({"id": "q", "question": "?\nA. x\nB. y\nD. z", "answer": "B"}, "q: line 4 of the question"),
        (ROWS["mmlu"] | {"answer": 4}, "no position among the options A, B, C, D"),
        (ROWS["pubmedqa"] | {"final_decision": None}, "no gold answer in `final_decision`"),
        (ROWS["processbench"], "no gold answer"),
        # It is compared with every answer to the problem: a broken export would hold up a whole run for it.
        ({"id": "q", "question": "?", "answer": "4" + "0" * 10**6}, "^q: .* has 1000001 characters; up to 100000"),
    ],
)
def test_what_cannot_be_read_says_why(row: dict[str, Any], message: str) -> None:
    """More of it, through `load`: test_load.py."""
    with pytest.raises(BadRecord, match=message):
        to_problem(row, HERE)


def test_responses_are_judged_where_they_were_not() -> None:
    """Those of other tools; what has a verdict keeps it unless it is rejudged. Candidates are responses."""
    for row in [MEDQA | {"response": "The answer is B."}, MEDQA | {"output": ["The answer is B.", "Aspirin"]}]:
        samples = to_samples(row, HERE)
        assert samples.pass_rate == 1.0
        assert {response.answer for response in samples.responses} == {"B"}
    row = MEDQA | {"responses": [{"text": "The answer is B.", "answer": "A", "verdict": "wrong"}]}
    assert to_samples(row, HERE).responses[0].verdict is Verdict.WRONG
    judged = to_samples(row, HERE, rejudge=Extract.FLEXIBLE)
    assert (judged.responses[0].verdict, judged.responses[0].answer, judged.pass_rate) == (Verdict.CORRECT, "B", 1.0)
    assert [to_samples(MEDQA | {"response": "B"}, HERE, rejudge=how).pass_rate for how in Extract] == [1.0, 0.0, 1.0]
    scored = {"candidates": [{"text": "B", "step_scores": [0.5], "score": 0.5}], "selected": 0, "strategy": "min-max"}
    samples = to_samples(dump(parse(Scored, dump(to_problem(MEDQA, HERE)) | scored)), HERE)
    assert [response.verdict for response in samples.responses] == [Verdict.CORRECT]
    assert samples.meta == to_problem(MEDQA, HERE).meta


UNUSABLE: list[dict[str, Any]] = [
    {}, {"responses": []}, {"responses": [3]}, {"responses": [{"text": "x", "verdict": "great"}]}, {"response": 3},
]  # fmt: skip


@pytest.mark.parametrize("more", UNUSABLE)
def test_records_without_usable_responses(more: dict[str, Any]) -> None:
    with pytest.raises(BadRecord):
        to_samples(MEDQA | more, HERE)


def test_pubmedqa_with_and_without_its_abstract() -> None:
    row = ROWS["pubmedqa"]
    problem = to_problem(row, HERE)
    assert problem.question == (
        "Abstract: Forty patients rested, forty did not.\nQuestion: Does rest help after a sprain?"
    )
    assert (problem.id, problem.answer) == ("MedQA-123", "B")
    assert to_problem(row | {"context": None}, HERE).question == "Does rest help after a sprain?"
    keyed = {"id": "123", "QUESTION": "Does it?", "CONTEXTS": ["One.", "Two."], "final_decision": "maybe"}
    problem = to_problem(keyed, HERE)
    assert (problem.answer, problem.question) == ("C", "Abstract: One.\nTwo.\nQuestion: Does it?")


@pytest.mark.parametrize(
    ("calculator", "truth", "low", "high", "answer", "right", "wrong"),
    [
        ("2", "83.93895", "79.742", "88.1359", "83.93895 ± 4.19695", "88.1", "88.2"),
        ("7", "39.99991", "37.99991", "41.99991", "39.99991 ± 2", "38.0", "37.9"),
        ("63", "-4.0", "-4.2", "-3.8", "-4.0 ± 0.2", "-3.85", "-3.7"),
        (4, "3", "3", "3", "3 ± 0.5", "3.4", "4"),
        (13, "08/31/2023", "08/31/2023", "08/31/2023", "08/31/2023", "August 31, 2023", "08/30/2023"),
        ("69", "('34 weeks', '3 days')", "x", "x", "34 weeks 3 days", "34 weeks, 3 days", "33 weeks, 3 days"),
    ],
)
def test_medcalc_is_as_exact_as_the_benchmark(
    calculator: int | str, truth: str, low: str, high: str, answer: str, right: str, wrong: str
) -> None:
    """Its evaluation/evaluate.py: a decimal lies within the limits, a score (calculator 4) is rounded, dates and weeks
    are equal. A table has texts, the hub's copy a number for the calculator."""
    row = {"Calculator ID": calculator, "Ground Truth Answer": truth, "Lower Limit": low, "Upper Limit": high}
    problem = to_problem(ROWS["medcalc"] | row, HERE)
    assert (problem.id, problem.task is Task.TEXT, problem.answer) == ("MedQA-6", calculator == "69", answer)
    assert problem.meta["ground_truth"] == truth
    assert judge(problem, f"The answer is {right}.").verdict is Verdict.CORRECT
    assert judge(problem, f"The answer is {wrong}.").verdict is Verdict.WRONG


def test_processbench_gives_labelled_steps() -> None:
    """The benchmark of reward models: what follows the first error is not judged, and must not count as wrong."""
    row = ROWS["processbench"] | {"steps": ["a", "b", "c"], "label": 1}
    record = to_prm(row, HERE)
    assert record.completions[1:] == ["a", "b", "c"]
    assert (record.labels, record.values) == ([None, 1.0, 0.0, None], [1.0, 1.0, 0.0, 0.0])
    assert to_prm(row | {"label": -1}, HERE).labels == [None, 1.0, 1.0, 1.0]
    assert to_prm(dump(record), HERE) == record
    with pytest.raises(BadRecord, match="must be the number of a step"):
        to_prm(row | {"label": 3}, HERE)


# --map


def mapped(row: dict[str, Any], *given: str) -> Problem:
    return to_record(row, HERE, FieldMap.parse(given))


NESTED = {"id": "n", "data": {"stem": "Which?", "list": ["Heparin", "Aspirin"], "right": 2}, "source": "mine"}


def test_a_map_reads_any_layout() -> None:
    """Nested fields, options as a list or in several fields, an answer as a letter, a text, a position or a number."""
    problem = mapped(NESTED, "question=data.stem", "options=data.list", "answer=data.right:1")
    assert (problem.id, problem.question, problem.answer, problem.meta["source"]) == ("n", "Which?", "B", "mine")
    assert problem.options == {"A": "Heparin", "B": "Aspirin"}
    flat = {"q": "Which?", "o1": "Heparin", "o2": "Aspirin", "o3": None, "a": "aspirin", "n": 9, "set": "s"}
    problem = mapped(flat, "question=q", "options=o1,o2,o3", "answer=a", "id=n", "dataset=set")
    assert (problem.id, problem.dataset, problem.answer, len(problem.options or {})) == ("MedQA-9", "s", "B", 2)
    problem = mapped({"a.b": "Which?\nA. x\nB. y", "c": "B"}, "question=a.b", "answer=c")
    assert (problem.question, problem.options, problem.answer) == ("Which?", {"A": "x", "B": "y"}, "B")


@pytest.mark.parametrize(
    ("options", "given", "answer", "first"),
    [
        ('["x", "y"]', 1.0, "B", "x"),  # a table: JSON in a cell, a column with gaps
        (["x", None, "y"], 2, "C", "x"),  # the others keep their letters
        (["A. x", "B. y"], "A", "A", "x"),
        (["A. fumigatus", "E. coli"], "A", "A", "A. fumigatus"),
        ({"A": "x", "B": "y"}, "Y", "B", "x"),
        ("A x\nB y\nC z\nD v", "ABD", "ABD", "x"),  # CMExam: several letters, options in lines or as pairs
        ("A. x\nB. y\nC. z\nD. v", "D,A、B", "ABD", "x"),
        ([{"key": letter, "value": letter.lower()} for letter in "ABCD"], "ABD", "ABD", "a"),
    ],
)
def test_options_and_answers_in_many_forms(options: object, given: object, answer: str, first: str) -> None:
    problem = mapped({"q": "?", "o": options, "a": given}, "question=q", "options=o", "answer=a:0")
    assert (problem.answer, (problem.options or {})["A"]) == (answer, first)


def test_the_task_is_the_answers() -> None:
    for gold, task in ((84, "number"), ("540 mL", "number"), ("2024-03-15", "number"), ("5-HT", "text")):
        assert mapped({"q": "?", "o": None, "a": gold}, "question=q", "options=o", "answer=a").task == task


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["question=stem", "answer=data.right"], "n: there is no field `stem`: no stem in id, data, source"),
        (["question=data.steam", "answer=id"], "there is no field `data.steam`: no steam in stem, list, right"),
        (["question=data.stem", "options=data.list", "answer=data.right"], "the number 2: does it count .* from 0"),
        (["question=data.stem", "options=data.list", "answer=data.right:0"], "is 2, no position among .* A, B"),
        (["question=data.stem", "answer=data.right:1"], "the gold answer is '2', but there are no options"),
        (["question=q"], "--map names no answer"),
        (["quest=q"], "--map quest=q: expected NAME=FIELD, each once"),
        (["question=q", "question=q", "answer=a"], "--map question=q: expected NAME=FIELD, each once"),
    ],
)
def test_a_map_that_does_not_fit_says_what_is_there(given: list[str], message: str) -> None:
    with pytest.raises((BadRecord, UsageError), match=message):
        mapped(NESTED, *given)
