"""`medsss eval` as a program, through real pipes."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from helpers import on_a_terminal, run_medsss, to_lines, write_jsonl
from trees import asked, response, samples


def scored(id: str, answers: str, scores: list[list[float]], selected: int, **more: Any) -> dict[str, Any]:
    candidates = [
        response(None if letter == "-" else letter, step_scores=steps, score=min(steps))
        for letter, steps in zip(answers, scores, strict=True)
    ]
    return asked(id, candidates=candidates, selected=selected, strategy="min-max", **more)


def report_of(args: list[object], *records: dict[str, Any]) -> dict[str, Any]:
    [report] = run_medsss(["eval", *args], to_lines(records)).ok().records
    return dict(report)


def at(points: list[dict[str, Any]], k: int) -> float:
    [value] = [point["value"] for point in points if point["k"] == k]
    return float(value)


def test_samples() -> None:
    """One run, whose table and report are looked at: accuracies, shares, curves, failures, how answers were read."""
    rows = [samples("a", "BBAA"), samples("b", "A--A"), samples("c", "BBBB", dataset="[red]x")]
    for answer, form in zip(rows[0]["responses"], ("boxed", "letter", "letter", None), strict=True):
        answer["form"] = form
    failure = {"id": "d", "error": "too long", "stage": "sample"}
    ran = run_medsss(["eval", "--name", "base"], to_lines([*rows, failure])).ok()
    [report] = ran.records
    assert (report["kind"], report["name"], report["settings"]["draws"]) == ("report", "base", 256)
    assert (report["n"], report["responses"], report["responses_per_problem"]) == (4, 12, {"4": 3})
    # A failed problem is wrong: .5, 0, 1, 0; it is of no data set: clinic .25, the other 1.
    assert (report["failed"], report["micro"]["value"], report["macro"]["value"]) == (1, 0.375, 0.625)
    assert report["datasets"]["[red]x"] == {
        "n": 1,
        "value": 1.0,
        "low": 0.206549,
        "high": 1.0,
        "unparsed": 0.0,
    }  # Wilson
    assert report["datasets"]["clinic"]["unparsed"] == 0.25
    assert report["unparsed"] == pytest.approx(2 / 12, abs=1e-6)
    assert report["readable"]["value"] == 0.5  # of 10 readable answers 6 are right; by problem 1/2, 0 and 1
    assert [at(report["pass_at_k"], k) for k in (1, 2)] == pytest.approx([0.5, (5 / 6 + 0 + 1) / 3], abs=1e-6)
    # BBAA at k = 2: BB, and the four BA, of which B came first, are right: 5/6.
    assert [at(report["majority_at_k"], k) for k in (2, 4)] == pytest.approx([(5 / 6 + 0 + 1) / 3, 2 / 3], abs=1e-6)
    assert (report["best_of_k"], report["likeliest_at_k"], report["tokens_per_response"]) == ({}, [], 10)
    assert report["forms"] == {"letter": 2, "boxed": 1}
    for said in (
        "base", "clinic", "[red]x", "all problems (micro)", "mean of 2 data sets (macro)", "pass@k", "majority@k",
        "1 failed; such problems count as wrong", "answers read as: letter 66.7 %",
    ):  # fmt: skip
        assert said in ran.stderr
    assert "\x1b" not in ran.stderr


def test_points_of_a_curve_and_silence() -> None:
    ran = run_medsss(["eval", "-q", "--k", "4,1"], to_lines([samples("a", "BA"), samples("b", "BBBB")])).ok()
    assert [(point["k"], point["n"]) for point in ran.records[0]["pass_at_k"]] == [(1, 2), (4, 1)]  # a has no four
    assert (ran.records[0]["forms"], ran.stderr) == (None, "")


def test_scored() -> None:
    report = report_of(
        [],
        scored("a", "AB", [[0.9, 0.2], [0.6, 0.5]], selected=1),  # by min the right one, by last and mean too
        scored("b", "BA", [[0.5, 0.5], [0.9, 0.1]], selected=1),  # as if another rule had selected
    )
    assert (report["accuracy_of"], report["micro"]["value"]) == ("the selected candidate", 0.5)
    assert [at(report["best_of_k"]["min-max"], k) for k in (1, 2)] == [0.5, 1.0]
    # a: .55 = .55 by mean, the first is wrong; b: tie, the first is right
    assert at(report["best_of_k"]["mean-max"], 2) == 0.5
    steps, answers = ("min", "last", "prod", "mean", "gmean"), ("max", "vote-sum", "vote-mean")
    assert set(report["best_of_k"]) == {f"{step}-{answer}" for step in steps for answer in answers}
    assert report["made_from"]["strategies"] == {"min-max": 2}


def test_answers_are_judged_where_nobody_has_and_read_anew_where_that_is_asked_for() -> None:
    """A number to be compared with the paper's must come out of the paper's rule: the first character decides."""
    rows = [
        asked("a", response="The answer is B."),
        asked("b", output="The answer is A."),
        asked("c", output="Hm"),
    ]
    report = report_of([], *rows)
    assert (report["micro"]["value"], report["unparsed"]) == (pytest.approx(1 / 3, abs=1e-6),) * 2
    assert report["pass_at_k"] == []  # no curve of one response
    row = asked("a", responses=[{"text": "The answer is (B).", "answer": "C", "verdict": "wrong"}], pass_rate=0)
    for extract, value in (("strict", 1.0), ("published", 0.0)):
        report = report_of(["--extract", extract], row)
        assert (report["micro"]["value"], report["settings"]["extract"]) == (value, extract)


def test_broken_lines_are_named_and_the_rest_is_counted() -> None:
    bad_gold = samples("c", "BA", answer="Z")
    bad_selection = scored("d", "AB", [[0.5], [0.5]], selected=2)
    bad_score = scored("e", "AB", [[0.5], [1.5]], selected=0)
    lines = "{broken\n" + to_lines([samples("a", "BA"), asked("b"), bad_gold, bad_selection, bad_score])
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
        "5 lines could not be used; not counted",
    ):
        assert message in ran.stderr
    assert run_medsss(["eval", "--strict"], lines).stdout == ""
    nothing = run_medsss(["eval"], "{broken\n")
    assert (nothing.rc, nothing.stdout) == (2, "")
    assert "there is nothing to evaluate" in nothing.stderr


def test_the_report_names_its_data_and_the_run_that_wrote_it(tmp_path: Path) -> None:
    """Two runs over one benchmark have one hash of problems, whatever the order and the answers; others have not."""
    file = write_jsonl(tmp_path / "s.jsonl", [samples("a", "BA"), samples("b", "BB")])
    run = {"command": "sample", "version": "0", "config": {"policy": "P0"}, "seconds": 2.5}
    state = {"shard": "all", "several_lines": False, "whole_bytes": None}
    (tmp_path / ".s.jsonl.medsss").write_text(json.dumps(run | state))
    [report] = run_medsss(["eval", file]).ok().records
    made = report["made_from"]
    assert made["sha256"] == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    assert made["runs"] == [{"input": str(file), **run}]
    assert (report["seconds"], set(report["versions"])) == (2.5, {"medsss", "python", "numpy"})
    other = report_of([], samples("b", "AA"), samples("a", "AA"))["made_from"]
    assert (other["problems_hash"], other["sha256"]) == (made["problems_hash"], {"-": None})
    changed = report_of([], samples("a", "BA"), samples("b", "BB", question="Which one?"))
    assert changed["made_from"]["problems_hash"] != made["problems_hash"]


def test_accuracies_by_a_field() -> None:
    k1, k2 = ({"clinic": {"kind": kind}} for kind in ("k1", "k2"))
    rows = [samples("a", "B", meta=k1), samples("b", "A", meta=k1), samples("c", "B", meta=k2), samples("d", "-")]
    ran = run_medsss(["eval", "--by", "meta.clinic.kind"], to_lines(rows)).ok()
    groups = ran.records[0]["by"]["groups"]
    assert {name: (row["n"], row["value"]) for name, row in groups.items()} == {
        "(none)": (1, 0.0), "k1": (2, 0.5), "k2": (1, 1.0)
    }  # fmt: skip
    assert groups["(none)"]["unparsed"] == 1.0
    assert "meta.clinic.kind" in ran.stderr


def test_compare(tmp_path: Path) -> None:
    """The table that decides whether one policy is better than another."""
    a = write_jsonl(tmp_path / "a.jsonl", [samples(f"q{i}", "A") for i in range(12)] + [samples("x", "B")])
    b = write_jsonl(tmp_path / "b.jsonl", [samples(f"q{i}", "B" if i < 8 else "A") for i in range(12)])
    ran = run_medsss(["eval", "--compare", a, b]).ok()
    [report] = ran.records
    pairs = report["pairs"]
    assert report["kind"] == "comparison"
    assert (pairs["n"], pairs["a"], pairs["difference"]["value"]) == (12, 0.0, 0.666667)
    assert (pairs["only_a_right"], pairs["only_b_right"], pairs["difference"]["p"]) == (0, 8, 2 / 2**8)  # McNemar's
    assert report["unmatched"]["only_a"] == {"n": 1, "ids": ["x"]}
    assert report["made_from"]["runs"]["b"]["sha256"] == hashlib.sha256(b.read_bytes()).hexdigest()
    for word in ("+66.7", "0:8  0.008", "only in A, left out: 1 (x)", "all pairs"):
        assert word in ran.stderr
    other = write_jsonl(tmp_path / "other.jsonl", [samples("y", "B")])
    none = run_medsss(["eval", "--compare", a, other])
    assert (none.rc, none.stdout) == (2, "")
    assert "no id is in both" in none.stderr
    # One of the two may come from a pipe.
    assert run_medsss(["eval", "--compare", a, "-"], b).ok().records[0]["pairs"] == pairs


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no-such.jsonl"], "no-such.jsonl"),
        (["--k", "0"], "--k 0"),
        (["--k", "4,a"], "--k 4,a"),
        (["--extract", "nosuch"], "--extract"),
        (["--compare", "a", "b", "c"], "an input has no place beside --compare"),
        (["--compare", "a", "b", "--steps"], "--steps has no place beside --compare"),
        (["--compare", "-", "-"], "only one of the two"),
        (["--compare", "no-such", "b"], "no-such"),
        (["--steps", "--k", "4"], "--k has no place beside --steps"),
        (["--threshold", "0.4"], "--threshold wants --steps"),
        (["--plot", "curve.txt"], "not the name of a figure"),
    ],
)
def test_wrong_usage(args: list[str], message: str) -> None:
    ran = run_medsss(["eval", *args], to_lines([samples("a", "B")]))
    assert (ran.rc, ran.stdout) == (2, "")
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


# Figures and terminals


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [scored(f"q{i}", "AB", [[0.9, 0.2], [0.6, 0.1 * (i % 9)]], selected=1) for i in range(20)]
    a = write_jsonl(tmp_path / "a.jsonl", rows)
    labelled = write_jsonl(
        tmp_path / "s.jsonl", [{"id": "p", "problem": "?", "steps": ["a", "b"], "label": 1, "step_scores": [0.9, 0.1]}]
    )
    sizes = {}
    one = write_jsonl(tmp_path / "one.jsonl", [samples("a", "B")])
    for name, args in {
        "curves": [a],
        "groups": [a, "--by", "id"],
        "one": [one],
        "steps": ["--steps", labelled],
    }.items():
        path = tmp_path / f"{name}.png"
        ran = run_medsss(["eval", *args, "--plot", path]).ok()
        assert f"drew {path}" in ran.stderr
        sizes[name] = png_size(path)
    assert sizes["curves"][0] > sizes["steps"][0] > 300
    assert sizes["groups"][1] > sizes["curves"][1] > sizes["one"][1]  # --by is a row a group, one answer no curve
    before = (tmp_path / "curves.png").read_bytes()
    assert run_medsss(["eval", a, "--plot", tmp_path / "curves.png"]).rc == 2
    assert (tmp_path / "curves.png").read_bytes() == before


@pytest.mark.parametrize("more", [["--compare"], ["--by", "question"]])
def test_a_terminal_gets_the_tables_alone_at_80_columns(tmp_path: Path, more: list[str]) -> None:
    """Nobody reads 9 kB of JSON; they are in the file that -o names, or in a pipe."""
    name = "a-data-set-whose-name-is-much-longer-than-a-column-of-a-table-may-be"
    file = write_jsonl(tmp_path / "s.jsonl", [samples(f"q{i}", "BABA-ABB", dataset=name) for i in range(9)])
    args = [file, *more] if more != ["--compare"] else ["--compare", file, file]
    ran = on_a_terminal("eval", *args).ok()
    lines = ran.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith(("A: ", "B: "))) <= 80  # those are paths
    assert "95 % interval" in lines[0]
    assert not any(line.startswith("{") for line in lines)


# Reward models


@pytest.mark.model
def test_steps_end_to_end(tmp_path: Path) -> None:
    """clinic | bon | eval --steps: a reward model of random weights on right solutions, through the real pipe."""
    from tiny_models import make_tiny_tokenizer
    from transformers import AutoConfig, AutoModelForTokenClassification

    prm = tmp_path / "R"
    tokenizer = make_tiny_tokenizer(prm)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_labels=2, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    AutoModelForTokenClassification.from_config(config).save_pretrained(prm)
    solved = run_medsss(["clinic", "-n", "4", "--solutions", "--kind", "mean_arterial_pressure"]).ok().records
    for record in solved[:2]:
        text = record["responses"][0]["text"]
        record["responses"].append({"text": text.replace("MAP = DBP + PP / 3", "MAP = DBP + PP / 2")})
    args = ["bon", "--prm", prm, "--prm-format", "medsss", "--prm-device", "cpu"]
    chosen = run_medsss(args, to_lines(solved)).ok().stdout
    ran = run_medsss(["eval", "--steps"], chosen).ok()
    [report] = ran.records
    assert (report["n"], report["trajectories"], report["unscored"]) == (4, 6, 0)
    assert (report["first_error"]["wrong"]["n"], report["first_error"]["right"]["n"]) == (2, 4)
    assert 0 <= report["auroc"] <= 1
    assert "first error, threshold 0.5" in ran.stderr


def test_steps_without_gold_are_told(tmp_path: Path) -> None:
    ran = run_medsss(["eval", "--steps"], to_lines([scored("a", "AB", [[0.9], [0.6]], selected=1), samples("b", "B")]))
    assert (ran.rc, ran.stdout) == (2, "")
    assert "stdin:1: a: no gold for the steps" in ran.stderr
    assert "stdin:2: b: no steps with labels here" in ran.stderr
    assert "medsss eval --steps" in ran.stderr
