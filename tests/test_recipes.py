"""`examples/medcritical.sh` and `examples/reasonmed.sh` run whole, on a handful of questions of the clinic."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from helpers import clean_env, read_jsonl, run_medsss, write_jsonl
from warm import put_medsss

ROOT = Path(__file__).parent.parent
SMALL = {
    "SAMPLE_EXTRA": "--max-tokens 120",
    "SFT_EXTRA": "--full --lr 1e-4 --batch-size 8 --accumulation 1",
    "DPO_EXTRA": "--full --lr 1e-5 --batch-size 8 --accumulation 1",
}


def run_script(name: str, tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    put_medsss(tmp_path / "bin")
    env = clean_env(**SMALL, **settings, OUT=str(tmp_path / "out"))
    env["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{env['PATH']}"
    script = ["bash", str(ROOT / "examples" / name)]
    return subprocess.run(script, env=env, capture_output=True, text=True, check=False)


def clinic(tmp_path: Path) -> tuple[str, str]:
    """Questions to learn from, and one to measure on."""
    pool, test = tmp_path / "pool.jsonl", tmp_path / "test.jsonl"
    run_medsss(["clinic", "-n", "8", "--seed", "4", "-o", pool]).ok()
    run_medsss(["clinic", "-n", "2", "--seed", "4", "--split", "test", "-o", test]).ok()
    return str(pool), str(test)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_medcritical_runs_from_problems_to_the_table(tmp_path: Path) -> None:
    pool, test = clinic(tmp_path)
    settings = {"POOL": pool, "TEST": test, "STUDENT": "builtin:clinic", "DRAWS": "2", "TRIES": "2"}
    ran = run_script("medcritical.sh", tmp_path, **settings)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for row in ("student", "stage1", "stage2.1"):
        assert row in ran.stdout, ran.stdout
    out = tmp_path / "out"
    # What DPO learns from is a correction against the answer that it puts right, the originals first in every record.
    rows = {row["id"]: row["responses"] for row in read_jsonl(out / "round1" / "corrected.jsonl")}
    assert all([each.get("corrects") is None for each in responses[:2]] == [True, True] for responses in rows.values())
    right = sum(each["verdict"] == "correct" for responses in rows.values() for each in responses[2:])
    assert len(read_jsonl(out / "round1" / "pairs.jsonl")) == right > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_reasonmed_runs_to_its_training_file(tmp_path: Path) -> None:
    pool, test = clinic(tmp_path)
    twin = tmp_path / "twin"
    twin.symlink_to(ROOT / "medsss_cli" / "clinic" / "policy")
    settings = {"POOL": pool, "TEST": test, "AUTHORS": f"builtin:clinic {twin}", "STRONG": str(twin), "DRAWS": "2"}
    ran = run_script("reasonmed.sh", tmp_path, **settings)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "the authors" in ran.stdout
    rows = read_jsonl(tmp_path / "out" / "all.jsonl")
    assert all({each["policy"] for each in row["responses"][:4]} == {"builtin:clinic", str(twin)} for row in rows)
    assert 0 < len(read_jsonl(tmp_path / "out" / "sft.jsonl")) <= 2 * len(rows)


def test_a_teacher_without_a_right_answer_ends_the_recipe_with_a_word(tmp_path: Path) -> None:
    """An empty training file would be found out only when the trainer falls over it."""
    pool, test = clinic(tmp_path)
    script = write_jsonl(tmp_path / "s.jsonl", [{"match": "", "texts": ["Ask your doctor."]}])
    extra = f"--engine scripted:{script}"
    ran = run_script(
        "medcritical.sh", tmp_path, POOL=pool, TEST=test, STUDENT="one", TEACHER="two", EXTRA=extra, TEACHER_EXTRA=extra
    )
    assert ran.returncode == 1
    assert "the teacher has no right answer: there is nothing to train on" in ran.stderr
    assert not (tmp_path / "out" / "stage1").exists()
