"""`medsss eval` as a program, through real pipes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import clean_env, program, run_medsss, to_lines, write_jsonl

OPTIONS = {"A": "Furosemide", "B": "Metoprolol", "C": "Heparin"}


def problem(id: str, **more: Any) -> dict[str, Any]:
    shared = {"question": "Which?", "answer": "B", "options": OPTIONS, "dataset": "clinic", "task": "choice"}
    return {"id": id} | shared | more


def response(answer: str | None, **more: Any) -> dict[str, Any]:
    verdict = "no_answer" if answer is None else "correct" if answer == "B" else "wrong"
    said = f"The answer is {answer}." if answer else "Hm."
    return {"text": said, "answer": answer, "verdict": verdict, "tokens": 10} | more


def samples(id: str, answers: str, **more: Any) -> dict[str, Any]:
    """ "BA-" is a right, a wrong and no answer."""
    responses = [response(None if letter == "-" else letter) for letter in answers]
    return problem(id, responses=responses, pass_rate=answers.count("B") / len(answers), **more)


def scored(id: str, answers: str, scores: list[list[float]], selected: int, **more: Any) -> dict[str, Any]:
    candidates = [
        response(None if letter == "-" else letter, step_scores=steps, score=min(steps))
        for letter, steps in zip(answers, scores, strict=True)
    ]
    return problem(id, candidates=candidates, selected=selected, strategy="min-max", **more)


def report_of(args: list[object], *records: dict[str, Any]) -> dict[str, Any]:
    [report] = run_medsss(["eval", *args], to_lines(records)).ok().records
    return dict(report)


def at(points: list[dict[str, Any]], k: int) -> float:
    [value] = [point["value"] for point in points if point["k"] == k]
    return float(value)


def test_samples() -> None:
    report = report_of([], samples("a", "BBAA"), samples("b", "A--A"), samples("c", "BBBB", dataset="other"))
    assert report["kind"] == "report"
    assert (report["n"], report["responses"], report["responses_per_problem"]) == (3, 12, {"4": 3})
    assert report["micro"]["value"] == pytest.approx(0.5)  # .5, 0, 1
    assert report["macro"]["value"] == pytest.approx(0.625)  # clinic .25, other 1
    assert report["datasets"]["clinic"] | {"low": 0, "high": 0} == {
        "n": 2,
        "value": 0.25,
        "low": 0,
        "high": 0,
        "unparsed": 0.25,
    }
    assert report["unparsed"] == pytest.approx(2 / 12, abs=1e-6)
    assert at(report["pass_at_k"], 1) == pytest.approx(0.5)
    assert at(report["pass_at_k"], 2) == pytest.approx((5 / 6 + 0 + 1) / 3)
    # BBAA at k = 2: BB, and the four BA, of which B came first, are right: 5/6.
    assert at(report["majority_at_k"], 2) == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert at(report["majority_at_k"], 4) == pytest.approx(2 / 3)
    assert report["best_of_k"] == {}
    assert report["tokens_per_response"] == 10


def test_scored() -> None:
    report = report_of(
        [],
        scored("a", "AB", [[0.9, 0.2], [0.6, 0.5]], selected=1),  # by min the right one, by last and mean too
        scored("b", "BA", [[0.5, 0.5], [0.9, 0.1]], selected=1),  # as if another rule had selected
    )
    assert report["accuracy_of"] == "the selected candidate"
    assert report["micro"]["value"] == 0.5
    assert at(report["best_of_k"]["min-max"], 2) == 1.0
    assert (
        at(report["best_of_k"]["mean-max"], 2) == 0.5
    )  # a: .55 = .55 by mean, the first is wrong; b: tie, the first is right
    assert at(report["best_of_k"]["min-max"], 1) == 0.5
    steps, answers = ("min", "last", "prod", "mean", "gmean"), ("max", "vote-sum", "vote-mean")
    assert set(report["best_of_k"]) == {f"{step}-{answer}" for step in steps for answer in answers}
    assert report["made_from"]["strategies"] == {"min-max": 2}


def test_problems_with_a_response_are_judged() -> None:
    rows = [
        problem("a", response="The answer is B."),
        problem("b", output="The answer is A."),
        problem("c", output="Hm."),
    ]
    report = report_of([], *rows)
    assert report["micro"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert report["unparsed"] == pytest.approx(1 / 3, abs=1e-6)
    assert report["pass_at_k"] == []  # no curve of one response


def test_failures_stay_in_the_denominator() -> None:
    ran = run_medsss(["eval"], to_lines([samples("a", "B"), {"id": "b", "error": "too long", "stage": "sample"}])).ok()
    [report] = ran.records
    assert (report["n"], report["failed"], report["micro"]["value"]) == (2, 1, 0.5)
    assert report["macro"] == {"datasets": 1, "value": 1.0, "low": 1.0, "high": 1.0}
    assert "1 problems failed; they count as wrong" in ran.stderr


def test_verdicts_are_taken_unless_rejudged() -> None:
    row = problem("a", responses=[{"text": "The answer is B.", "answer": "A", "verdict": "wrong"}], pass_rate=0)
    assert report_of([], row)["micro"]["value"] == 0.0
    assert report_of(["--rejudge"], row)["micro"]["value"] == 1.0


def test_problems_with_fewer_candidates_are_left_out_of_the_points_that_they_lack() -> None:
    report = report_of([], samples("a", "BBBB"), samples("b", "AB"))
    assert [(point["k"], point["n"]) for point in report["pass_at_k"]] == [(1, 2), (2, 2), (4, 1)]


def test_options() -> None:
    report = report_of(["--k", "3,1", "--name", "base", "--seed", "7", "--resamples", "50"], samples("a", "BBAA"))
    assert [point["k"] for point in report["pass_at_k"]] == [1, 3]
    assert report["name"] == "base"
    assert (report["settings"]["seed"], report["settings"]["resamples"]) == (7, 50)


def test_the_same_seed_gives_the_same_report() -> None:
    rows = [samples(f"q{i}", "BA-ABBCA"[: 4 + i % 4] + "B" * (i % 3)) for i in range(40)]
    assert report_of([], *rows) == report_of([], *rows)


def test_the_table() -> None:
    ran = run_medsss(
        ["eval", "--name", "base"], to_lines([samples("a", "BA"), samples("b", "BB", dataset="[red]x")])
    ).ok()
    for word in (
        "base",
        "clinic",
        "[red]x",
        "all problems (micro)",
        "mean of 2 data sets (macro)",
        "pass@k",
        "majority@k",
    ):
        assert word in ran.stderr
    assert "\x1b" not in ran.stderr
    assert run_medsss(["eval", "-q"], to_lines([samples("a", "BA")])).ok().stderr == ""


def test_the_report_names_the_run_that_wrote_its_input(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "s.jsonl", [samples("a", "BA")])
    Path(f"{file}.run.json").write_text(json.dumps({"command": "sample", "version": "0", "config": {"policy": "P0"}}))
    [report] = run_medsss(["eval", file]).ok().records
    assert report["made_from"]["runs"] == [
        {"input": str(file), "command": "sample", "version": "0", "config": {"policy": "P0"}}
    ]


def test_the_report_to_a_file(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    for _ in range(2):  # a report is written anew each time
        assert run_medsss(["eval", "-o", out], to_lines([samples("a", "BA")])).ok().stdout == ""
    assert json.loads(out.read_text())["n"] == 1
    file = write_jsonl(tmp_path / "s.jsonl", [samples("a", "BA")])
    ran = run_medsss(["eval", file, "-o", file])
    assert ran.rc == 2
    assert "is also an input" in ran.stderr


@pytest.mark.parametrize("stdin", ["", "\n\n", "{broken\n"])
def test_nothing_to_evaluate(stdin: str) -> None:
    ran = run_medsss(["eval"], stdin)
    assert (ran.rc, ran.stdout) == (1, "")
    assert "there is nothing to evaluate" in ran.stderr


def test_broken_lines_are_named_and_the_rest_is_counted() -> None:
    bad_gold = samples("c", "BA", answer="Z")
    bad_selection = scored("d", "AB", [[0.5], [0.5]], selected=2)
    bad_score = scored("e", "AB", [[0.5], [1.5]], selected=0)
    lines = "{broken\n" + to_lines([samples("a", "BA"), problem("b"), bad_gold, bad_selection, bad_score])
    ran = run_medsss(["eval"], lines)
    assert ran.rc == 1
    [report] = ran.records
    assert (report["n"], report["bad_lines"]) == (1, 5)
    for message in (
        "stdin:1: not JSON",
        "stdin:3: no responses",
        "stdin:4: c: the gold answer 'Z' is not one of the options A, B, C",
        "stdin:5: d: `selected` must be",
        "stdin:6: e: `step_scores`",
        "5 lines could not be used",
    ):
        assert message in ran.stderr
    assert run_medsss(["eval", "--strict"], lines).stdout == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no-such.jsonl"], "no-such.jsonl"),
        (["--k", "0"], "--k 0"),
        (["--k", "a"], "--k a"),
        (["--resamples", "0"], ""),
    ],
)
def test_wrong_usage(args: list[str], message: str) -> None:
    ran = run_medsss(["eval", *args], to_lines([samples("a", "BA")]))
    assert (ran.rc, ran.stdout) == (2, "")
    assert message in ran.stderr


def test_a_closed_pipe_ends_quietly() -> None:
    process = subprocess.Popen(
        program("eval"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env()
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(to_lines([samples("a", "BA")]).encode(), timeout=60)
    assert "Traceback" not in stderr.decode()
    assert process.returncode == 0


def test_no_torch_is_imported() -> None:
    code = (
        "import sys; from medsss_cli.app import run; run(['eval', '-q', '-o', '/dev/null']);"
        "print([m for m in ('torch', 'transformers', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [program()[0], "-c", code],
        input=to_lines([samples("a", "BA")]),
        capture_output=True,
        text=True,
        env=clean_env(),
    )
    assert done.stdout.strip() == "[]", done.stderr
