"""`medsss label` as a program, through real pipes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from helpers import clean_env, program, read_jsonl, run_medsss, to_lines, write_jsonl
from trees import ROOT, node, nodes, record

from medsss_cli.records import Preference, Prm, Sft, parse

PROMPT = "Which drug?\nA. Furosemide\nB. Metoprolol"


def test_sft() -> None:
    """The largest smallest value first; equal words once. Who is taught "B. But wait, ... A" is taught the wrong B too:
    it can be left out."""
    double = nodes()
    double.append(dict(double[3], value=0.95))  # the same words again, worth more than node 1
    stdin = to_lines([record(nodes=double)])
    rows = run_medsss(["label", "--to", "sft"], stdin).ok().records
    assert [row["min_value"] for row in rows] == [0.9, 0.0]
    first = parse(Sft, rows[0])
    assert (first.id, rows[0]["prompt"]) == ("q1", [{"role": "user", "content": PROMPT}])
    assert first.completion[0].content == (
        f"Step 0: {ROOT}\n\nStep 1: The drug slows the heart.\n\nStep 2: So it is a beta blocker. The answer is B."
    )
    assert "But wait" in rows[1]["completion"][0]["content"]
    assert run_medsss(["label", "--to", "sft", "--no-reflect"], stdin).ok().records == rows[:1]


def test_preference() -> None:
    finished = [*nodes(), node(8, 3, "finish", "It is a pill. The answer is A.", 0.0, "wrong")]
    ran = run_medsss(["label", "--to", "preference"], stdin=to_lines([record(nodes=finished)])).ok()
    assert [(row["kind"], row["margin"]) for row in ran.records] == [("step", 1.0), *[("trajectory", 0.9)] * 2]
    assert parse(Preference, ran.records[0]).prompt[0].content == PROMPT
    assert ran.records[0]["chosen"][0]["content"].startswith(f"Step 0: {ROOT}\n\nStep 1: ")
    assert ran.records[0]["rejected"][0]["role"] == "assistant"


def test_prm() -> None:
    """Values and labels of all kinds stand by hand in test_labels.py. Of at most two trajectories one is right."""
    table = nodes()
    table[1] |= {"rollouts": 4, "rollout_value": 0.5}
    table[2] |= {"rollouts": 4, "rollout_value": 0.0}

    def made(*args: str) -> list[Prm]:
        found = run_medsss(["label", "--to", "prm", *args], to_lines([record(nodes=table)])).ok()
        return [parse(Prm, row) for row in found.records]

    rows = made()
    assert [row.values for row in rows] == [[0.5, 0.9, 1.0], [0.5, 0.9, 0.0], [0.5, 0.1, 0.0, 0.6, 1.0]]
    # Of the last: .1 falls from .5 and 0 follows: .1 - .5 < 0. Then 0 falls from .1, but .6 follows: 0. Then 1 and 1.
    assert [row.labels for row in rows] == [[None, 1, 1], [None, 1, 0], [None, 0, 0, 1, 1]]
    assert (rows[0].prompt, rows[0].completions[0]) == (PROMPT, ROOT)
    assert rows[0].meta["label"] == {"labels": "dual", "values": "backed-up"}
    pooled = made("--labels", "hard", "--values", "pooled")
    assert [row.labels for row in pooled] == [[None, 1, 1], [None, 1, 0], [None, 0, 0, 1, 1]]
    assert pooled[0].meta["label"] == {"labels": "hard", "values": "pooled"}
    two = made("--labels", "soft", "--max-per-problem", "2")
    assert [row.labels for row in two] == [[None, 0.9, 1.0], [None, 0.9, 0.0]]


def test_only_problems_with_both_verdicts_unless_all() -> None:
    right = [node(-1, 0, "root", ROOT, 1.0), node(0, 1, "finish", "The answer is B.", 1.0, "correct")]
    bare = [node(-1, 0, "root", ROOT, 0.0)]
    stdin = to_lines([record("a", nodes=right), record("b"), record("c", nodes=bare)])
    ran = run_medsss(["label", "--to", "prm"], stdin).ok()
    assert {row["id"] for row in ran.records} == {"b"}
    assert "1 with correct trajectories alone" in ran.stderr
    assert "1 without a judged trajectory" in ran.stderr
    assert {row["id"] for row in run_medsss(["label", "--to", "prm", "--all"], stdin).records} == {"a", "b"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--to", "sft", "--margin", "0.5"], "--margin belongs to --to preference"),
        (["--to", "sft", "--all"], "--all belongs to --to prm"),
        (["--to", "prm", "--take", "shortest"], "--take belongs to --to sft, not to --to prm"),
        (["--to", "sft", "--labels", "judge"], "--labels belongs to --to prm"),
        (["--to", "prm", "--temperature", "1"], "--temperature belongs to --labels judge"),
        (["--to", "prm", "--base-url", "http://x"], "--base-url belongs to --labels judge"),
        (["--to", "gold"], "--to"),
        ([], "--to"),
        (["--to", "prm", "no-such-file.jsonl"], "no-such-file.jsonl"),
    ],
)
def test_wrong_usage(args: list[str], message: str) -> None:
    ran = run_medsss(["label", *args])
    assert (ran.rc, ran.stdout) == (2, "")
    assert message in ran.stderr


def test_settings_in_the_environment_may_be_meant_for_other_commands() -> None:
    """MEDSSS_POLICY is set for a whole pipe; `label` without a judge does not look at it."""
    ran = run_medsss(["label", "--to", "prm"], to_lines([record()]), env={"MEDSSS_POLICY": "out/P0"}).ok()
    assert [row["labels"] for row in ran.records][:1] == [[None, 1.0, 1.0]]


def test_broken_lines_are_named_counted_and_passed_over(tmp_path: Path) -> None:
    """A table that is no tree is a bad line, a step that cannot be joined a failed record; neither is silence."""
    file = tmp_path / "trees.jsonl"
    no_tree, unjoined = record("c"), record("d")
    no_tree["nodes"][3]["parent"] = 7
    unjoined["nodes"][1]["text"] = "It slows.\nStep 2: and more"
    file.write_text("{broken\n" + to_lines([record("a"), {"id": "b", "question": "?"}, no_tree, unjoined]))
    ran = run_medsss(["label", "--to", "sft", file])
    assert ran.rc == 1
    assert {row["id"] for row in ran.records} == {"a"}
    assert f"{file}:1: not JSON" in ran.stderr
    assert f"{file}:3: no tree and no samples: found the keys id, question" in ran.stderr
    assert f"{file}:4: c: node 3 has the parent 7" in ran.stderr
    assert "d: label: step 1 holds the mark" in ran.stderr
    assert "1 failed, 3 bad lines" in ran.stderr
    assert run_medsss(["label", "--to", "sft", "--strict", file]).stdout == ""


def test_a_question_in_two_files_is_two_trees_to_learn_from(tmp_path: Path) -> None:
    """Two iterations searched q1, with other trees: the second one's records have an id of their own. What stands twice
    in one file is a mistake."""
    first = write_jsonl(tmp_path / "1.jsonl", [record("q1"), record("q2")])
    second = write_jsonl(tmp_path / "2.jsonl", [record("q1"), record("q3"), record("q3")])
    out = tmp_path / "out.jsonl"
    for _ in range(2):  # the second time there is nothing to do
        ran = run_medsss(["label", "--to", "prm", first, second, "-o", out])
        assert ran.rc == 1
        assert "the id 'q3' came before" in ran.stderr
        assert [row["id"] for row in read_jsonl(out)][::3] == ["q1", "q2", "q1@2", "q3"]


def test_no_torch_is_imported() -> None:
    code = (
        "import sys; from medsss_cli.app import run; run(['label', '--to', 'prm', '-q']);"
        "print([m for m in ('torch', 'transformers', 'numpy', 'rich') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([program()[0], "-c", code], input="", capture_output=True, text=True, env=clean_env())
    assert done.stderr.strip() == "[]"
