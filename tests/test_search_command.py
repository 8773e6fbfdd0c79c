"""`medsss search` as a program: pipes, files, failures, resume. The engine is a script, so no model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import problem, read_jsonl, run_medsss, to_lines, write_jsonl

from medsss_cli.prompts import CHOICE_TURN
from medsss_cli.records import Tree, parse

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


def test_a_pipe(script: list[str]) -> None:
    ran = run_medsss(["search", *SMALL, *script, "--seed", "5"], stdin=to_lines(problem(i) for i in range(6))).ok()
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


def test_what_fails_fails_alone(tmp_path: Path) -> None:
    """A torn line, a gold answer that cannot be read, and a request that cannot be served: the script has enough for
    the first tree."""
    script = write_jsonl(tmp_path / "script.jsonl", [{"text": " It is. The answer is B."}] * 2)
    lines = to_lines([problem(0)]) + '{"id": "torn\n[1]\n' + to_lines([problem(1) | {"answer": "Z"}, problem(2)])
    options = ["--children", 2, "--engine", f"scripted:{script}", "--concurrency", 1, "--errors", tmp_path / "e"]
    ran = run_medsss(["search", *options], lines)
    assert (ran.rc, [tree["id"] for tree in ran.records]) == (1, ["p0"])
    assert "stdin:2:" in ran.stderr
    read, item, gold, request = read_jsonl(tmp_path / "e")
    assert [read["stage"], item["stage"], gold["stage"]] == ["read"] * 3
    assert "p1" in gold["error"]
    assert "'Z'" in gold["error"]
    assert (request["id"], request["stage"]) == ("p2", "search")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl"),
        (["--max-nodes", "0"], "--max-nodes"),
        (["--top-p", "0"], "--top-p must be above 0 and at most 1, got 0"),
        (["--temperature", "-1"], "--temperature must be at least 0, got -1"),
        (["--ucb-c", "nan"], "--ucb-c must be at least 0, got nan"),
        (["--expand", "sideways"], "--expand"),
        (["--engine", "steam"], "steam"),
        (["--step-aggregation", "last"], "--prm R"),
        (["--prm-dtype", "float32"], "--prm R"),
        (["--beam", 2], "--prm R"),
        (["--prm", "R", "--rollouts", 3], "--rollouts has no meaning"),
        (["--prm", "R", "--beam", 2, "--max-nodes", 9], "--max-nodes has no meaning in a beam"),
        (["--prm", "./missing"], "there is no PRM folder"),
        (["--prm", "POLICY"], "is a policy, not a PRM"),
        (["--prm", "FOREIGN"], "holds LlamaForCausalLM"),
    ],
)
def test_wrong_usage_is_told_at_once(tmp_path: Path, args: list[object], said: str) -> None:
    for name, card in (("POLICY", '{"kind": "policy"}'), ("FOREIGN", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        if card:
            (tmp_path / name / "medsss.json").write_text(card)
    args = [tmp_path / arg if arg in ("POLICY", "FOREIGN") else arg for arg in args]
    ran = run_medsss(["search", *args], to_lines([problem(0)]), timeout=30)
    assert (ran.rc, ran.stdout) == (2, "")
    assert said in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr
