"""`examples/evolve.sh`, the script that people start from, runs whole: every command on what the one before wrote. It
is called through `examples/medqa-8b.sh`, as docs/gpu.md does, on a tiny model of the same architecture, and through
`examples/smollm2.sh` on one that never gets anything right."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from helpers import clean_env, read_jsonl, run_medsss
from tiny_models import make_tiny_model
from warm import put_medsss

ROOT = Path(__file__).parent.parent

SIZES = {
    "GPUS": "0",
    "POLICY": "builtin:clinic",
    "PROMPTING": "native",
    "ITERATIONS": "1",
    "LABELS": "dual",
    "N": "4",
    "DRAWS": "2",
    "CURRICULUM": "4",
    "JOBS": "2",
    "SAMPLE_EXTRA": "--max-tokens 120",
    "SEARCH_EXTRA": "--max-nodes 8 --rollouts 2 --min-rollouts 2 --max-tokens 120 --max-step-tokens 60",
    "SFT_EXTRA": "--lora --lr 1e-4 --batch-size 8 --accumulation 1",
    "DPO_EXTRA": "--full --lr 1e-5 --batch-size 8 --accumulation 1",
    "PRM_EXTRA": "--full --lr 1e-4 --epochs 1 --batch-size 8 --accumulation 1",
}


def loop(script: str, folder: Path, *, problems: int, **env: str) -> tuple[str, str]:
    """What the script said on stdout and stderr; `pool.jsonl`, `test.jsonl` and `out` are in the folder."""
    pool, test = folder / "pool.jsonl", folder / "test.jsonl"
    run_medsss(["clinic", "-n", problems, "--seed", "4", "-o", pool]).ok()
    run_medsss(["clinic", "-n", "4", "--seed", "4", "--split", "test", "-o", test]).ok()
    put_medsss(folder / "bin")
    given = clean_env(**SIZES | env, POOL=str(pool), TEST=str(test), OUT=str(folder / "out"))
    given["PATH"] = f"{folder / 'bin'}{os.pathsep}{given['PATH']}"
    ran = subprocess.run(
        ["bash", str(ROOT / "examples" / script)], env=given, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout, ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_loop_runs_from_problems_to_the_table(tmp_path: Path) -> None:
    table, _ = loop("medqa-8b.sh", tmp_path, problems=12)
    out, test = tmp_path / "out", tmp_path / "test.jsonl"
    rows = (
        "base  ",
        "base, greedy",
        "iteration1, greedy",
        "evolved, greedy",
        "base, PRM on dual",
        "evolved, PRM on dual",
    )
    for row in rows:
        assert row in table, table
    assert "best of 4, min-max" in table
    # The shards were merged whole: every question has its candidates and its selection.
    assert {row["id"] for row in read_jsonl(out / "evolved.bon-dual.jsonl")} == {row["id"] for row in read_jsonl(test)}
    assert len(read_jsonl(out / "iteration1" / "trees.jsonl")) == len(read_jsonl(out / "iteration1" / "seed.jsonl"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_policy_that_gets_nothing_right_is_taught_and_the_loop_ends_with_a_table(tmp_path: Path) -> None:
    """A real small model begins like this: no right answer, so no tree, no pair and no reward model can be made."""
    policy = make_tiny_model(tmp_path / "policy", context=4096)
    weak = {"POLICY": str(policy), "PROMPTING": "instruct", "TEACHER": "builtin:clinic", "TEACHER_DRAWS": "1"}
    small = {"EXTRA": "--engine hf", "N": "2", "SAMPLE_EXTRA": "--max-tokens 60", "JOBS": "1"}
    table, said = loop("smollm2.sh", tmp_path, problems=6, **weak, **small)
    for row in ("base, greedy", "stage1, greedy", "iteration1, greedy", "evolved, greedy"):
        assert row in table, table
    assert "questions got a right answer: little to learn from" in said
    assert "iteration 1: no correct trajectory: the policy stays as it is" in said
    assert "no preference pair: no DPO" in said
    taught = read_jsonl(tmp_path / "out" / "teacher.sft.jsonl")
    assert taught
    assert all("Step 1:" in row["completion"][0]["content"] for row in taught)
