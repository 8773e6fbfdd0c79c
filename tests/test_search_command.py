"""`medsss search` as a program: pipes, files, failures, resume. The engine is a script, so no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Ran, problem, read_jsonl, to_lines, write_jsonl

from medsss_cli.prompts import CHOICE_TURN
from medsss_cli.records import Tree, parse

Medsss = Callable[..., Ran]
SMALL = ["--max-nodes", "12", "--rollouts", "4", "--min-rollouts", "2"]


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    """A policy that reasons, then finishes, right or wrong in turns."""
    lines = [
        {"match": CHOICE_TURN, "texts": ["Reason", "Finish"]},
        {"match": "But wait,", "texts": [" the reference range ends at 5.0.", " so be it. The answer is A."]},
        {
            "match": "",
            "texts": [
                " Potassium is normal from 3.5 to 5.0.",
                " 6.1 is above 5.0.\n\nStep 9: The answer is B.",
                " The answer is A.",
                " 6.1 is far above it. The answer is B.",
                " Haemolysis may raise it.",
            ],
        },
    ]
    return ["--engine", f"scripted:{write_jsonl(tmp_path / 'script.jsonl', lines)}"]


def test_a_pipe(medsss: Medsss, script: list[str]) -> None:
    ran = medsss(["search", *SMALL, *script, "--seed", "5"], stdin=to_lines(problem(i) for i in range(6))).ok()
    assert sorted(tree["id"] for tree in ran.records) == [f"p{i}" for i in range(6)]
    for found in ran.records:
        tree = parse(Tree, found)
        wanted = problem(int(found["id"][1:]))
        assert {key: found[key] for key in wanted} == wanted, "a tree carries its problem"
        assert (found["config"]["policy"], found["config"]["seed"]) == ("builtin:clinic", 5)
        assert (found["config"]["max_nodes"], found["config"]["rollout_budget"]) == (12, 4)
        assert tree.stats["nodes"] == len(tree.nodes) > 3
        assert "medsss" not in found
    assert "6 of 6 trees found the answer" in ran.stderr
    assert "\x1b" not in ran.stderr


def test_bad_lines_and_bad_gold_answers_fail_alone(medsss: Medsss, script: list[str], tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    lines = [
        json.dumps(problem(0)),
        '{"id": "torn',
        "[1]",
        json.dumps(problem(1) | {"answer": "Z"}),
        json.dumps(problem(2)),
    ]
    path.write_text("\n".join(lines) + "\n")
    ran = medsss(["search", *SMALL, *script, path, "--ordered", "--errors", tmp_path / "errors.jsonl"])
    assert ran.rc == 1
    assert [tree["id"] for tree in ran.records] == ["p0", "p2"]
    assert f"{path}:2:" in ran.stderr
    errors = read_jsonl(tmp_path / "errors.jsonl")
    assert len(errors) == 3
    assert any("p1" in error["error"] and "'Z'" in error["error"] for error in errors)


def test_a_request_that_fails_is_the_failure_of_its_record_alone(medsss: Medsss, tmp_path: Path) -> None:
    """The script has enough for one tree: the others are error records, and the run ends with 1."""
    lines = [{"text": " It is. The answer is B."}] * 2
    script = write_jsonl(tmp_path / "script.jsonl", lines)
    ran = medsss(
        ["search", "--children", 2, "--engine", f"scripted:{script}", "--concurrency", 1, "--errors", tmp_path / "e"],
        stdin=to_lines(problem(i) for i in range(3)),
    )
    assert ran.rc == 1
    assert [tree["id"] for tree in ran.records] == ["p0"]
    errors = read_jsonl(tmp_path / "e")
    assert [(error["id"], error["stage"]) for error in errors] == [("p1", "search"), ("p2", "search")]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl"),
        (["--max-nodes", "0"], "--max-nodes"),
        (["--top-p", "0"], "--top-p"),
        (["--expand", "sideways"], "--expand"),
        (["--engine", "steam"], "steam"),
    ],
)
def test_wrong_usage(medsss: Medsss, args: list[str], said: str) -> None:
    ran = medsss(["search", *args], stdin=to_lines([problem(0)]))
    assert ran.rc == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""
