"""More than one machine, as far as one can show it: the array job of examples/slurm, four tasks, one of them killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import clean_env, read_jsonl, run_medsss
from warm import put_medsss

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "examples" / "slurm").glob("*.sbatch"))
SMALL = "--max-nodes 6 --children 2 --rollouts 2 --min-rollouts 1 --max-tokens 80 --max-step-tokens 40 --batch-size 16"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_scripts_are_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert "#SBATCH --job-name=medsss-" in script.read_text()


@pytest.mark.timeout(600)
def test_an_array_job_does_every_question_once_although_a_task_is_killed(tmp_path: Path) -> None:
    """Who merges four shards with `cat` must have every question once, and the trees of a run without shards."""
    problems, out = tmp_path / "p.jsonl", tmp_path / "trees"
    run_medsss(["clinic", "-n", "12", "-o", problems]).ok()
    put_medsss(tmp_path / "warm")
    real = tmp_path / "real"
    real.mkdir()
    (real / "medsss").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m medsss_cli.app "$@"\n')
    (real / "medsss").chmod(0o755)

    def task(number: int, bin: Path = tmp_path / "warm") -> subprocess.Popen[Any]:
        env = clean_env(
            PROBLEMS=str(problems),
            POLICY="builtin:clinic",
            OUT=str(out),
            ENGINE="hf",
            SEED="7",
            EXTRA=SMALL,
            SLURM_ARRAY_TASK_ID=str(number),
            SLURM_ARRAY_TASK_MIN="0",
            SLURM_ARRAY_TASK_COUNT="4",
        )
        env["PATH"] = f"{bin}{os.pathsep}{env['PATH']}"
        script = ROOT / "examples" / "slurm" / "search-array.sbatch"
        return subprocess.Popen(["bash", script], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    shard = out / "shard-0.jsonl"
    first = task(0, real)  # the process that is killed is the script's own: it execs
    others = [task(1), task(2)]
    while not (shard.exists() and shard.stat().st_size) and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    for ran in [*others, task(3), task(0)]:
        _, told = ran.communicate()
        assert ran.returncode == 0, told.decode()[-2000:]

    merged = {row["id"]: row for path in sorted(out.glob("*.jsonl")) for row in read_jsonl(path)}
    lines = sum(len(read_jsonl(path)) for path in out.glob("*.jsonl"))
    assert lines == len(merged) == 12
    whole = tmp_path / "whole.jsonl"
    run_medsss(["search", problems, "--engine", "hf", "--seed", "7", *SMALL.split(), "-o", whole]).ok()
    assert {row["id"]: row["nodes"] for row in read_jsonl(whole)} == {id: row["nodes"] for id, row in merged.items()}
