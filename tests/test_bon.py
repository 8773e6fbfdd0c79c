"""bon: candidates in, scored records out, through the program itself; a PRM of random weights scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import Ran, read_jsonl, run_medsss, to_lines, write_jsonl
from training import ANSWER, QUESTION, train

from medsss_cli.prm.aggregate import StepAggregation, aggregate_steps
from medsss_cli.steps import ROOT_TEXT, join_steps

TEXTS = [
    ANSWER,
    join_steps([ROOT_TEXT, "It is small.", "It is 12 mg.", "The answer is A."]),
    "No marks. The answer is C.",
    "",
]


@pytest.fixture(scope="module")
def prm(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one pass over two records leaves of random weights."""
    out = tmp_path_factory.mktemp("prm") / "R"
    rows = [{"prompt": "Q?", "completions": [ROOT_TEXT, "a", "b"], "labels": [None, 1.0, y]} for y in (0.0, 0.3)]
    train("prm", base, out, rows, epochs=1.0, lora=True)
    return out


def problem(name: str = "p1") -> dict[str, Any]:
    asked = {"question": QUESTION, "options": {"A": "12 mg", "B": "84 mg", "C": "1750 mg"}, "answer": "C"}
    return {"id": name, **asked, "dataset": "doses", "task": "choice", "meta": {"source": "test"}}


def samples(name: str = "p1") -> dict[str, Any]:
    return problem(name) | {"responses": [{"text": text, "tokens": 7} for text in TEXTS], "pass_rate": 0.5}


def bon(prm: Path, *args: object, stdin: str = "") -> Ran:
    return run_medsss(["bon", "--prm", prm, "--prm-device", "cpu", *args], stdin)


def test_samples_are_scored_and_one_is_selected(prm: Path) -> None:
    """Four candidates: step scores without step 0, their least as score, the best one selected; one that does not fit
    is told and not selected. Then the scored record goes in again and is selected from in another way, with the same
    scores.
    """
    long = "Step 1: " + "word " * 600 + "The answer is C."
    both = samples("p2") | {"responses": [{"text": long}, {"text": TEXTS[1]}]}
    ran = bon(prm, stdin=to_lines([samples(), both])).ok()
    record, unfit = ran.records
    candidates = record["candidates"]
    assert [candidate["text"] for candidate in candidates] == TEXTS
    assert [len(candidate["step_scores"]) for candidate in candidates] == [2, 3, 1, 0]
    assert [candidate["verdict"] for candidate in candidates] == ["correct", "wrong", "correct", "no_answer"]
    assert [candidate["answer"] for candidate in candidates] == ["C", "A", "C", None]
    assert candidates[3]["score"] == 0.0
    for candidate in candidates[:3]:
        assert all(0.0 < score < 1.0 for score in candidate["step_scores"])
        assert candidate["score"] == min(candidate["step_scores"])
        assert candidate["tokens"] == 7
    scores = [candidate["score"] for candidate in candidates]
    assert record["selected"] == scores.index(max(scores[:3]))
    assert record["strategy"] == "min-max"
    assert [candidate["step_scores"] != [] for candidate in unfit["candidates"]] == [False, True]
    assert (unfit["candidates"][0]["score"], unfit["selected"]) == (0.0, 1)
    assert "1 candidate is longer than the reward model's context" in ran.stderr
    assert {key: record[key] for key in problem()} == problem()

    ran = bon(prm, "--step-aggregation", "gmean", "--answer-aggregation", "majority", stdin=to_lines([record]))
    (again,) = ran.ok().records
    assert again["strategy"] == "gmean-majority"
    for new, old in zip(again["candidates"], candidates, strict=True):
        assert new["step_scores"] == pytest.approx(old["step_scores"], abs=1e-5)
        assert new["score"] == aggregate_steps(new["step_scores"], StepAggregation.GMEAN)
    assert again["candidates"][again["selected"]]["answer"] == "C"  # two votes against one


def test_a_problem_without_candidates_names_the_pipe_and_a_run_is_gone_on_with(prm: Path, tmp_path: Path) -> None:
    """Samples, a problem and a broken line: these two are told, with the pipe to write; a second run has nothing to do;
    another PRM is another run, and refused."""
    data = write_jsonl(tmp_path / "in.jsonl", [samples("p1"), samples("p2"), problem("p3")])
    data.write_text(data.read_text() + '{"id"\n')
    out = tmp_path / "out.jsonl"
    ran = bon(prm, data, "-o", out)
    assert (ran.rc, ran.stdout) == (1, "")
    assert "in.jsonl:3" in ran.stderr
    assert "medsss sample -n 32 ... | medsss bon --prm R | medsss eval" in ran.stderr
    assert "in.jsonl:4" in ran.stderr
    assert [record["id"] for record in read_jsonl(out)] == ["p1", "p2"]

    before = out.read_bytes()
    assert bon(prm, data, "-o", out).rc == 1  # the broken lines are still there
    assert out.read_bytes() == before
    other = tmp_path / "R2"
    shutil.copytree(prm, other)
    ran = bon(other, data, "-o", out)
    assert ran.rc == 2
    assert "prm" in ran.stderr
    assert out.read_bytes() == before


def test_selected_anew_from_the_scores_that_records_carry() -> None:
    """By hand: A .9, B (.6, .8), B (.7, .7). The least score: max takes A .9, a sum of votes B, .6 + .7 = 1.3; by the
    last score B has .8 + .7. What a candidate had stays with it. Without scores, or with some that are none, a record
    fails."""
    texts = ["The answer is A.", "The answer is B.", "So. The answer is B."]
    steps = [[0.9], [0.6, 0.8], [0.7, 0.7]]
    candidates: list[dict[str, Any]] = [
        {"text": text, "step_scores": scores, "score": 0.0, "logprob": -2.5, "tokens": 7, "note": "x"}
        for text, scores in zip(texts, steps, strict=True)
    ]
    scored = problem() | {"candidates": candidates, "selected": 0, "strategy": "min-max"}
    for args, selected, first in (
        ((), 0, 0.9),
        (("--answer-aggregation", "vote-sum"), 2, 0.9),
        (("--answer-aggregation", "vote-sum", "--step-aggregation", "last"), 1, 0.9),
        (("--answer-aggregation", "vote-mean"), 0, 0.9),
        (("--answer-aggregation", "likelihood"), 0, 0.9),  # all are equally likely
    ):
        (record,) = run_medsss(["bon", *args], to_lines([scored])).ok().records
        assert record["selected"] == selected, args
        assert record["candidates"][0]["score"] == first
        assert [each["step_scores"] for each in record["candidates"]] == steps
        assert {(each["logprob"], each["tokens"], each["note"]) for each in record["candidates"]} == {(-2.5, 7, "x")}
    likely = [each | {"logprob": logprob} for each, logprob in zip(candidates, (-3.0, -2.0, -2.5), strict=True)]
    # .9 e^-3 = .045, .6 e^-2 = .081, .7 e^-2.5 = .057.
    unknown = [likely[0] | {"logprob": None}]
    given = to_lines([scored | {"candidates": likely}, scored | {"id": "p2", "candidates": unknown}])
    ran = run_medsss(["bon", "--answer-aggregation", "likelihood"], given)
    assert ([record["selected"] for record in ran.records], ran.rc) == ([1], 1)
    assert "carries no `logprob`" in ran.stderr
    odd = scored | {"id": "p2", "candidates": [candidates[0] | {"step_scores": [1.5]}]}
    ran = run_medsss(["bon"], to_lines([samples(), odd, {"prompt": "Q?", "completions": ["a"], "labels": [1]}]))
    assert (ran.rc, ran.stdout) == (1, "")
    assert "p1: bon: it carries no step scores to select by; give --prm R" in ran.stderr
    assert "must lie in [0, 1], got 1.5" in ran.stderr
    assert ran.stderr.count("it carries no step scores") == 2


def test_what_is_no_prm_is_refused_at_once(prm: Path, base: Path, tmp_path: Path) -> None:
    """Asked to read a policy as ours, transformers would fill the missing head with random weights, and every score
    would look like one."""
    card = tmp_path / "card"
    shutil.copytree(base, card)
    (card / "medsss.json").write_text(json.dumps({"kind": "policy"}))
    for args, what in (
        ([tmp_path / "missing"], "there is no PRM folder"),
        ([base], "holds LlamaForCausalLM"),
        ([card], "is a policy, not a PRM"),
        ([base, "--prm-format", "medsss"], "has no weights for score"),
    ):
        ran = run_medsss(["bon", "--prm-device", "cpu", "--prm", *args], to_lines([samples()]))
        assert (ran.rc, ran.stdout) == (2, "")
        assert what in ran.stderr
        assert "Traceback" not in ran.stderr
    ran = run_medsss(["bon", "--prm", prm, "nowhere.jsonl"])
    assert ran.rc == 2
    assert "cannot read nowhere.jsonl" in ran.stderr


def test_steps_are_scored_and_evaluated_as_they_come(prm: Path, tmp_path: Path) -> None:
    """ProcessBench's rows, prm records and bare rows of TRL's layout go through `bon` and into `eval --steps` with
    nothing in between: every row comes back as it was, with one score for each step but step 0; what is too long has
    none and is counted. The scores are those of the same steps as an answer."""
    steps = ["25 times 70 is 1750.", "The answer is C."]
    rows: list[dict[str, Any]] = [
        {"id": "gsm8k-0", "generator": "g", "problem": "Q?", "steps": steps, "final_answer_correct": True, "label": -1},
        {"id": "gsm8k-1", "problem": "Q?", "steps": [steps[1], "word " * 600], "label": 0},
        problem("p1") | {"prompt": "Q?", "completions": [ROOT_TEXT, *steps], "labels": [None, 1.0, 0.0], "values": []},
        {"prompt": "Q?", "completions": steps, "labels": [True, False]},
    ]
    data = write_jsonl(tmp_path / "pb.jsonl", rows)
    ran = bon(prm, data).ok()
    for row, found in zip(rows, ran.records, strict=True):
        assert found == row | {"id": found["id"], "step_scores": found["step_scores"]}
    assert [record["id"] for record in ran.records[:3]] == ["gsm8k-0", "gsm8k-1", "p1"]
    scores = [record["step_scores"] for record in ran.records]
    assert [len(some) for some in scores] == [2, 0, 2, 2]
    assert "1 candidate is longer" in ran.stderr
    answer = problem("p1") | {"question": "Q?", "options": None, "task": "text"}
    answer |= {"responses": [{"text": join_steps([ROOT_TEXT, *steps])}], "pass_rate": 0.0}
    (scored,) = bon(prm, stdin=to_lines([answer])).ok().records
    for some in (scores[0], scores[2], scores[3]):
        assert some == pytest.approx(scored["candidates"][0]["step_scores"], abs=1e-5)

    report = run_medsss(["eval", "--steps", "-q"], ran.stdout).ok()
    assert "gsm8k" in report.stdout
