"""`examples/evolve.sh`, the script that people start from, runs whole: every command on what the one before wrote. It
is called as docs/gpu.md does, through `examples/medqa-8b.sh`, on a tiny model of the same architecture."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from helpers import clean_env, read_jsonl, run_medsss
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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_loop_runs_from_problems_to_the_table(tmp_path: Path) -> None:
    pool, test, out = tmp_path / "pool.jsonl", tmp_path / "test.jsonl", tmp_path / "out"
    run_medsss(["clinic", "-n", "12", "--seed", "4", "-o", pool]).ok()
    run_medsss(["clinic", "-n", "4", "--seed", "4", "--split", "test", "-o", test]).ok()
    put_medsss(tmp_path / "bin")
    env = clean_env(**SIZES, POOL=str(pool), TEST=str(test), OUT=str(out))
    env["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{env['PATH']}"
    ran = subprocess.run(
        ["bash", str(ROOT / "examples" / "medqa-8b.sh")], env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    rows = (
        "base  ",
        "base, greedy",
        "iteration1, greedy",
        "evolved, greedy",
        "base, PRM on dual",
        "evolved, PRM on dual",
    )
    for row in rows:
        assert row in ran.stdout, ran.stdout
    assert "best of 4, min-max" in ran.stdout
    # The shards were merged whole: every question has its candidates and its selection.
    assert {row["id"] for row in read_jsonl(out / "evolved.bon-dual.jsonl")} == {row["id"] for row in read_jsonl(test)}
    assert len(read_jsonl(out / "iteration1" / "trees.jsonl")) == len(read_jsonl(out / "iteration1" / "seed.jsonl"))
