"""`medsss sample` through real pipes, on a tiny random model and on scripts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import run_medsss, to_lines, write_jsonl
from tiny_models import make_tiny_model

from medsss_cli.problems.curriculum import Curriculum
from medsss_cli.records import Problem, Response, Samples, Verdict


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("policy")))


def problem(number: int, dataset: str = "d") -> dict[str, Any]:
    return {
        "id": f"p{number}",
        "question": f"What is {number} + 1?",
        "options": {"A": str(number), "B": str(number + 1)},
        "answer": "B",
        "dataset": dataset,
        "task": "choice",
    }


def script(path: Path, lines: list[dict[str, Any]]) -> str:
    return f"scripted:{write_jsonl(path, lines)}"


def answers(*letters: str) -> list[str]:
    return [f"Step 1: so. The answer is {letter}." if letter else "I cannot say." for letter in letters]


def texts(records: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What was drawn for each problem; the last digit of a log-probability depends on what else was in the batch."""
    return {record["id"]: [each["text"] for each in record["responses"]] for record in records}


def test_responses_are_judged_and_the_rate_is_over_all(tmp_path: Path) -> None:
    engine = script(tmp_path / "s.jsonl", [{"match": "5 + 1", "texts": answers("B", "A", "", "B")}])
    ran = run_medsss(["sample", "-n", 4, "--engine", engine], to_lines([problem(5)])).ok()
    [record] = ran.records
    assert [response["verdict"] for response in record["responses"]] == ["correct", "wrong", "no_answer", "correct"]
    assert record["pass_rate"] == 0.5
    assert record["question"] == "What is 5 + 1?"
    assert "1 problems, 4 responses, accuracy 50.0%, unparsed 25.0%" in ran.stderr


def test_a_policy_too_weak_to_learn_from_is_told_with_counts_and_what_to_do(tmp_path: Path) -> None:
    engine = script(tmp_path / "s.jsonl", [{"match": "?", "texts": answers("A", "")}])
    ran = run_medsss(["sample", "-n", 2, "--engine", engine], to_lines([problem(1), problem(2)])).ok()
    assert "warning: 0 of 2 questions got a right answer: little to learn from; try --prompting instruct" in ran.stderr
    assert "warning: 2 of 4 responses have no answer that can be read, 0 are cut off at --max-tokens" in ran.stderr


def test_seeded_on_a_model_whatever_the_order_and_the_batch(policy: str) -> None:
    problems = [problem(number) for number in range(12)]
    args = ["sample", "--policy", policy, "-n", 3, "--max-tokens", 12]
    one = run_medsss(args, to_lines(problems)).ok()
    two = run_medsss([*args, "--batch-size", 2, "--concurrency", 3], to_lines(problems[::-1])).ok()
    drawn = [texts(ran.records) for ran in (one, two)]
    assert drawn[0].keys() == drawn[1].keys()
    # The last bits of a logit depend on the batch: the docs promise all but one completion in 1,000.
    assert sum(a != b for id in drawn[0] for a, b in zip(drawn[0][id], drawn[1][id], strict=True)) <= 1
    other = run_medsss([*args, "--seed", 1, "--quiet"], to_lines(problems)).ok()
    assert texts(other.records) != texts(one.records)
    assert other.stderr == ""


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["--policy", "gone"], "no policy folder gone"),
        (["--greedy", "-n", 4], "--greedy gives one answer"),
        (["--greedy", "-T", 0.7], "--greedy takes the likeliest"),  # it was passed over without a word
        (["--engine", "scripted:gone.jsonl"], "gone.jsonl"),
        (["--template", "thought"], "--prompting native gives none"),
        (["--reveal-answer", "--prompting", "instruct"], "--reveal-answer goes with --template"),
        (["--correct", "--keep"], "neither with --template nor with --keep"),
        (["--pass-rate", "0:1"], "--pass-rate goes with --curriculum or --correct"),
        (["--correct", "--pass-rate", "0.5:0.2"], "no band of pass rates"),
        (["--curriculum", "3", "-n", "4"], "-n is for drawing"),
        (["--curriculum", "3", "--policy", "x"], "--policy is for drawing"),
        (["--curriculum", "3"], "the input holds no answers to choose by"),
    ],
)
def test_wrong_usage_says_what_and_ends_with_2(args: list[str], what: str, tmp_path: Path) -> None:
    ran = run_medsss(["sample", *args], to_lines([problem(1)]), cwd=tmp_path)
    assert (ran.rc, what in ran.stderr) == (2, True), ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_curriculum_is_chosen_from_answers(tmp_path: Path) -> None:
    rates = {1: "BB", 2: "BA", 3: "AA", 4: "A", 5: "BBBA"}
    engine = script(
        tmp_path / "s.jsonl", [{"match": f" {number} + 1", "texts": answers(*said)} for number, said in rates.items()]
    )
    pool = to_lines([problem(number, "d" if number < 4 else "e") for number in rates])
    drawn = run_medsss(["sample", "-n", 4, "--engine", engine], pool).ok().stdout
    ran = run_medsss(["sample", "--curriculum", 1], drawn).ok()
    assert {r["id"]: r["meta"]["pass_rate"] for r in ran.records} == {"p3": 0.0, "p4": 0.0}
    assert all("responses" not in record for record in ran.records)
    assert "2 of 5 problems kept; 1 always right" in ran.stderr
    # A band leaves out the hopeless ones, of which no tree would have a correct trajectory.
    band = run_medsss(["sample", "--curriculum", 3, "--pass-rate", "0.2:1"], drawn).ok()
    assert {r["id"]: r["meta"]["pass_rate"] for r in band.records} == {"p2": 0.5, "p5": 0.75}
    assert "2 of 5 problems kept; 1 always right, 2 outside --pass-rate" in band.stderr
    ran = run_medsss(["sample", "--curriculum", 2], to_lines([problem(1)]) + drawn * 2)
    assert (ran.rc, [record["id"] for record in ran.records].count("p3")) == (1, 1)
    assert "stdin:7: the id 'p1' came before" in ran.stderr
    assert "medsss sample problems.jsonl -n 8 | medsss sample --curriculum K" in ran.stderr


def samples(id: str, right: int, dataset: str = "d", of: int = 4, verdict: Verdict = Verdict.WRONG) -> Samples:
    said = [Response(text="", verdict=Verdict.CORRECT)] * right + [Response(text="", verdict=verdict)] * (of - right)
    return Samples(id=id, question="?", answer="A", dataset=dataset, responses=said, pass_rate=right / of)


def test_a_curriculum_does_not_depend_on_the_order_and_holds_k_per_dataset() -> None:
    offers = [samples(f"{dataset}{i}", i % 5, dataset) for dataset in "xy" for i in range(100)]
    forward, backward = Curriculum(7), Curriculum(7)
    for offer in offers:
        forward.offer(offer)
        assert all(len(heap) <= 7 for heap in forward._heaps.values())
    for offer in reversed(offers):
        backward.offer(offer)
    assert forward.chosen() == backward.chosen()
    assert Counter(problem.dataset for problem in forward.chosen()) == {"x": 7, "y": 7}
    assert all(type(problem) is Problem for problem in forward.chosen())
    assert {problem.meta["pass_rate"] for problem in forward.chosen()} == {0.0}
    assert forward.counts["solved"] == 40


def test_one_policy_after_another_answers_and_signs(tmp_path: Path) -> None:
    engine = script(tmp_path / "s.jsonl", [{"match": "5 + 1", "texts": answers("B", "A", "")}])
    args = ["sample", "-n", 3, "--engine", engine, "--keep", "--policy"]
    first = run_medsss([*args, "one"], to_lines([problem(5)])).ok()
    [record] = run_medsss([*args, "two"], first.stdout).ok().records
    assert [each["policy"] for each in record["responses"]] == ["one"] * 3 + ["two"] * 3
    assert record["pass_rate"] == pytest.approx(1 / 3)
    [alone] = run_medsss(["sample", "-n", 3, "--engine", engine], to_lines([problem(5)])).ok().records
    assert "policy" not in alone["responses"][0]


def test_a_teachers_thought_is_read_and_what_betrays_the_answer_is_refused(tmp_path: Path) -> None:
    """A student that learns "as the given answer says" says it of answers that nobody gave it."""
    thought = (
        "<think>Step 1: the user wants B</think>Sure!\n\n**Step 1: Plan:** add.\n**Step 2:** 5 + 1 = 6.\n### Step 3\n"
        "Check: 6 - 1 = 5.\nStep 4: It is B. The answer is B."
    )
    said = [thought, thought.replace("add", "reach the given answer"), "B. The answer is B.", "no idea"]
    engine = script(tmp_path / "s.jsonl", [{"match": "the right answer is B. 6", "texts": said}])
    args = ["sample", "-n", 4, "--engine", engine, "--prompting", "instruct"]
    args += ["--template", "thought", "--reveal-answer"]
    ran = run_medsss(args, to_lines([problem(5)])).ok()
    good, *bad = ran.records[0]["responses"]
    assert good["text"] == (
        "Step 0: Let's break down this problem step by step.\n\nStep 1: Plan: add.\n\nStep 2: 5 + 1 = 6.\n\n"
        "Step 3: Check: 6 - 1 = 5.\n\nStep 4: It is B. The answer is B."
    )
    assert (good["verdict"], good["revealed"]) == ("correct", True)
    assert [each["form"] for each in bad] == ["refused-betrays", "refused-no-steps", "refused-no-steps"]
    assert {each["verdict"] for each in bad} == {"no_answer"}
    assert {each["answer"] for each in bad} == {None}
    assert "3 responses refused, which count as no answer: 2 without numbered steps, 1 that betray" in ran.stderr


def test_cmexam_from_the_prompt_to_the_verdict(tmp_path: Path) -> None:
    """CMExam's questions, their options in lines, asked in Chinese, answered in the forms that Chinese models use."""
    cases = [
        ("B", "Step 1: 分析题干。\n\nStep 2: 首选胰岛素。答案是B。", "correct"),
        ("B", "步骤1：分析题干。\n步骤2：故选B。", "correct"),
        ("AC", "Step 1: 多选。\n\nStep 2: 答案是AC。", "correct"),
        ("AC", "Step 1: 多选。\n\nStep 2: 答案是C、A。", "correct"),
        ("AC", "Step 1: 多选。\n\nStep 2: 答案是葡萄糖酸钙和胰岛素。", "wrong"),  # A and B
        ("AB", "Step 1: 多选。\n\nStep 2: 答案是葡萄糖酸钙和胰岛素。", "correct"),
        ("AC", "Step 1: 排除D。\n\nStep 2: 选AC", "correct"),
        ("B", "Step 1: 不能选A。\n\nStep 2: 正确答案为（Ｂ）。", "correct"),
        ("B", "Step 1: 不选B。", "no_answer"),
        ("AC", "Step 1: 多选。\n\nStep 2: 答案是A。", "wrong"),
    ]
    row = {"question": "高钾血症的治疗药物是", "options": "A 葡萄糖酸钙\nB 胰岛素\nC 碳酸氢钠\nD 氯化钾\nE 螺内酯"}
    rows = [row | {"id": f"c{number}", "answer": gold} for number, (gold, _, _) in enumerate(cases)]
    said = {"match": "最后一步以“答案是X。”结束", "texts": [text for _, text, _ in cases]}
    engine = script(tmp_path / "s.jsonl", [said])
    args = ["sample", "-n", 1, "--engine", engine, "--prompting", "instruct", "--ordered", "--concurrency", 1]
    records = run_medsss(args, to_lines(rows)).ok().records
    found = [(record["answer"], record["responses"][0]["verdict"]) for record in records]
    assert found == [(gold, verdict) for gold, _, verdict in cases]
