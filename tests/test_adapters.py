"""Layouts that are read as they are. The example rows are ours, in the field names of the public files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medsss_cli.answers import Extract
from medsss_cli.errors import BadRecord, UsageError
from medsss_cli.problems import LAYOUTS, Layout, detect, split_options, to_prm, to_problem, to_samples
from medsss_cli.problems.benchmarks import BENCHMARKS, benchmark
from medsss_cli.records import Problem, Response, Samples, Scored, Task, Verdict, dump, parse, problem_fields
from medsss_cli.stream.jsonl import Where

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


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_every_layout_reads_its_documented_row(layout: Layout) -> None:
    """The rows in docs/layouts.md are the ones that are read: a user compares his file with them."""
    if layout.name == "ddxplus":
        return  # its codes need a file beside it: below
    read = to_prm if layout.name == "processbench" else to_problem
    named = read(layout.example, HERE, layout.name)
    page = (Path(__file__).parents[1] / "docs" / "layouts.md").read_text(encoding="utf-8")
    assert json.dumps(layout.example, ensure_ascii=False) in page
    if layout.detected:
        assert detect(layout.example) is layout
        assert read(layout.example, HERE) == named
    choices = {"authors", "medmcqa", "medmcqa-1", "mmlu", "openlifescience", "medqa", "mmlu-pro", "medsss"}
    if layout.name in choices:
        assert (named.task, named.answer, (named.options or {})["B"]) == (Task.CHOICE, "B", "Aspirin")
        assert "Aspirin" not in named.question


def read(name: str, **changes: Any) -> Problem:
    """The layout's documented row with changes, read as any command would."""
    row = {key: value for key, value in (LAYOUTS[name].example | changes).items() if value is not ...}
    return to_problem(row, HERE)


def test_medmcqa_counts_from_zero_unless_told() -> None:
    """The hub counts from 0, the original files from 1: one letter off is a wrong gold answer in every row."""
    row = LAYOUTS["medmcqa"].example
    assert to_problem(row, HERE).answer == "B"
    assert to_problem(row, HERE, "medmcqa-1").answer == "A"
    assert read("medmcqa", cop="3").answer == "D"  # a csv file has texts
    assert read("medmcqa", opd=None).options == {"A": "Heparin", "B": "Aspirin", "C": "Both of them"}
    assert read("medmcqa").meta["subject_name"] == "Medicine"
    with pytest.raises(UsageError, match="counts its options from 1") as caught:
        read("medmcqa", cop=4)
    assert caught.value.hint == "--layout medmcqa-1"


def test_pubmedqa_with_and_without_its_abstract() -> None:
    assert read("pubmedqa").question == (
        "Abstract: Forty patients rested, forty did not.\nQuestion: Does rest help after a sprain?"
    )
    assert (read("pubmedqa").id, read("pubmedqa").answer) == ("MedQA-123", "B")
    assert read("pubmedqa", context=...).question == "Does rest help after a sprain?"
    keyed = {"id": "123", "QUESTION": "Does it?", "CONTEXTS": ["One.", "Two."], "final_decision": "maybe"}
    assert (to_problem(keyed, HERE).answer, to_problem(keyed, HERE).question) == (
        "C",
        "Abstract: One.\nTwo.\nQuestion: Does it?",
    )


def test_lists_of_options() -> None:
    assert read("mmlu", answer="B").answer == "B"
    assert read("mmlu", answer="1").answer == "B"
    assert read("mmlu", choices=["A. x", "B. y"], answer=1).options == {"A": "x", "B": "y"}
    ten = read("mmlu-pro", options=[f"finding {n}" for n in range(8)] + ["N/A", "N/A"], answer="H")
    assert (len(ten.options or {}), ten.answer) == (8, "H")
    assert read("mmlu-pro", answer=None).answer == "B"


def test_cmexam_has_several_letters() -> None:
    problem = read("cmexam", Answer="D,A、B")
    assert (problem.answer, (problem.options or {})["D"]) == ("ABD", "替格瑞洛")
    listed = [{"key": "A", "value": "阿司匹林"}, {"key": "B", "value": "肝素"}]
    assert read("cmexam", Options=listed, Answer="A").options == {"A": "阿司匹林", "B": "肝素"}
    assert read("cmexam", Options="A. 阿司匹林\nB. 肝素", Answer="B").options == {"A": "阿司匹林", "B": "肝素"}


def test_pubhealth_labels_are_words_or_numbers() -> None:
    """The hub's numbers run false, mixture, true, unproven; the order of the options is another."""
    assert [read("pubhealth", label=label).answer for label in (0, "1", 2, "unproven", "True")] == list("BCADA")
    assert "No trial has shown it." in read("pubhealth").question


def test_bioasq_by_the_type_of_question() -> None:
    assert (read("bioasq").answer, read("bioasq").options) == ("B", {"A": "yes", "B": "no"})
    factoid = read("bioasq", type="factoid", exact_answer=[["aspirin", "ASA"]])
    assert (factoid.answer, factoid.task, factoid.meta["exact_answer"]) == ("aspirin", Task.TEXT, [["aspirin", "ASA"]])
    with pytest.raises(BadRecord, match="no single answer"):
        read("bioasq", type="list", exact_answer=[["a"], ["b"]])


def test_biomrc_entities_are_the_options() -> None:
    problem = read("biomrc")
    assert (problem.answer, (problem.options or {})["A"]) == ("A", "@entity1 :: ['aspirin']")
    many = read("biomrc", entities_list=[f"@entity{n}" for n in range(40)], answer="@entity31")
    assert (many.task, many.answer, many.options) == (Task.TEXT, "@entity31", None)


def test_ddxplus_speaks_its_codes(tmp_path: Path) -> None:
    """A question of bare codes could not be answered; without the file that explains them the run must not go on."""
    row = LAYOUTS["ddxplus"].example
    where = Where(str(tmp_path / "test.csv"), 2)
    with pytest.raises(UsageError, match="release_evidences") as caught:
        to_problem(row, where)
    assert "beside" in (caught.value.hint or "")
    evidences = {
        "E_201": {"question_en": "Do you have a cough?", "value_meaning": {}},
        "E_54": {"question_en": "How is the pain?", "value_meaning": {"V_161": {"en": "sharp"}}},
    }
    (tmp_path / "release_evidences.json").write_text(json.dumps(evidences))
    problem = to_problem(row, where)
    assert "- Do you have a cough? Yes.\n- How is the pain? sharp." in problem.question
    assert (problem.answer, problem.task) == ("Bronchitis", Task.TEXT)


def test_medsins_with_and_without_options() -> None:
    assert read("medsins").answer == "81 mg"
    problem = read("medsins", input="Which?\nA. Heparin\nB. Aspirin", output="B")
    assert (problem.task, problem.answer) == (Task.CHOICE, "B")


def test_processbench_gives_labelled_steps() -> None:
    """The benchmark of reward models: what follows the first error is not judged, and must not count as wrong."""
    row = LAYOUTS["processbench"].example | {"steps": ["a", "b", "c"], "label": 1}
    record = to_prm(row, HERE)
    assert record.completions[1:] == ["a", "b", "c"]
    assert (record.labels, record.values) == ([None, 1.0, 0.0, None], [1.0, 1.0, 0.0, 0.0])
    assert to_prm(row | {"label": -1}, HERE).labels == [None, 1.0, 1.0, 1.0]
    assert to_prm(dump(record), HERE) == record
    with pytest.raises(BadRecord, match="no gold answer"):
        to_problem(row, HERE)
    with pytest.raises(BadRecord, match="must be the number of a step"):
        to_prm(row | {"label": 3}, HERE)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "q", "question": "?", "answer": "B"}, "q: the gold answer is the letter 'B', but there are no options"),
        ({"id": "q", "question": "?", "answer": "E", "options": {"A": "x", "B": "y"}}, "q: .*'E' is not one of.* A, B"),
        (MEDQA | {"options": {}}, "`options` is empty"),
        (LAYOUTS["cmexam"].example | {"Options": ""}, "no options in `Options`"),
        (LAYOUTS["cmexam"].example | {"Answer": "F"}, "'F' in `Answer` is not one of the options A, B, C, D, E"),
        (LAYOUTS["mmlu"].example | {"answer": 4}, "no position among 4 options"),
        (LAYOUTS["mmlu"].example | {"answer": True}, "no gold answer"),
        (LAYOUTS["medmcqa"].example | {"cop": -1}, "no gold answers; take validation"),
        (LAYOUTS["medmcqa"].example | {"opb": None}, "not one of the options A, C, D"),
        (LAYOUTS["pubmedqa"].example | {"final_decision": None}, "no gold answer in `final_decision`"),
        (LAYOUTS["pubhealth"].example | {"label": -1}, "expected one of false"),
        (LAYOUTS["biomrc"].example | {"answer": "@entity9"}, "not one of the entities"),
        (LAYOUTS["biomrc"].example | {"entities_list": ["x"]}, "does not begin with @entity"),
        (LAYOUTS["openlifescience"].example | {"data": {"a": 1}}, "must be an object with Question"),
        (LAYOUTS["huatuo"].example | {"Ground-True Answer": " "}, "must be a text that is not empty"),
        (LAYOUTS["medsins"].example | {"output": []}, "`definition` and `output`"),
    ],
)
def test_what_a_layout_cannot_use_says_why(row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRecord, match=message):
        to_problem(row, HERE)


def test_a_letter_finds_its_options_in_the_question() -> None:
    problem = to_problem({"question": "Which?\nA. x\nB. y", "answer": "B"}, HERE)
    assert (problem.question, problem.options, problem.task) == ("Which?", {"A": "x", "B": "y"}, Task.CHOICE)
    assert to_problem({"question": "?", "answer": "Y", "options": {"A": "x", "B": "y"}}, HERE).answer == "B"
    assert to_problem({"question": "Blood group?", "answer": "B", "task": "text"}, HERE).task is Task.TEXT


def test_a_named_layout_must_fit() -> None:
    with pytest.raises(BadRecord, match="not in the layout mmlu: it needs choices; found the keys question"):
        to_problem(MEDQA, HERE, "mmlu")
    with pytest.raises(UsageError, match="no layout 'mml'"):
        to_problem(MEDQA, HERE, "mml")


def test_the_way_of_reading_is_a_choice() -> None:
    row = MEDQA | {"response": "B"}
    assert [to_samples(row, HERE, extract=how).pass_rate for how in Extract] == [1.0, 0.0, 1.0]


def test_the_benchmarks_of_the_paper() -> None:
    """Each entry names layouts that exist, and the page lists it."""
    names = [entry.name for entry in BENCHMARKS]
    assert names == [
        *("MedQA", "MedMCQA", "PubMedQA", "BioASQ", "MMLU-medical", "PubHealth"),
        *("BioMRC", "HealthFact", "DrugDose", "DDXPlus", "SEER", "CMExam"),
    ]
    page = (Path(__file__).parents[1] / "docs" / "layouts.md").read_text(encoding="utf-8")
    for entry in BENCHMARKS:
        assert set(entry.layouts) <= set(LAYOUTS)
        assert entry.prompt
        assert entry.rule
        assert f"| {entry.name} | {entry.size or '-'} | {entry.task.value} |" in page
    assert benchmark("cmexam") is BENCHMARKS[-1]
    assert benchmark("nothing") is None


def test_a_gold_answer_of_a_million_steps_is_refused_at_once() -> None:
    """It is compared with every answer to the problem: a broken export would hold up a whole run for it."""
    with pytest.raises(BadRecord, match=r"^q: the gold answer has 1000001 characters; up to 100000 are read$"):
        to_problem({"id": "q", "question": "2 + 2?", "answer": "4" + "0" * 10**6}, HERE)
