"""The scripts of examples/ run whole, on a handful of questions of the clinic.

`evolve.sh`, which people start from, is called through `medqa-8b.sh`, as docs/gpu.md does, and through `smollm2.sh` on
a tiny model that never gets anything right. `make demo` and README's loop: test_docs.py; examples/slurm: test_scale.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from documented import Console
from helpers import read_jsonl, run_medsss, write_jsonl
from tiny_models import make_tiny_model

ROOT = Path(__file__).parent.parent
SIZES = {
    "POLICY": "builtin:clinic",
    "PROMPTING": "native",
    "ITERATIONS": "1",
    "LABELS": "dual",
    "N": "4",
    "DRAWS": "2",
    "CURRICULUM": "4",
    "JOBS": "2",
    "GPUS": "0",
    "SAMPLE_EXTRA": "--max-tokens 120",
    "SEARCH_EXTRA": "--max-nodes 8 --rollouts 2 --min-rollouts 2 --max-tokens 120 --max-step-tokens 60",
    "SFT_EXTRA": "--lora --lr 1e-4 --batch-size 8 --accumulation 1",
    "DPO_EXTRA": "--full --lr 1e-5 --batch-size 8 --accumulation 1",
    "PRM_EXTRA": "--full --lr 1e-4 --epochs 1 --batch-size 8 --accumulation 1",
}
FULL = "--full --lr 1e-4 --batch-size 8 --accumulation 1"


def run_script(console: Console, name: str, folder: Path, *, status: int = 0, problems: int = 8, **env: str) -> str:
    """What the script said; `pool.jsonl`, `test.jsonl` and `out` are in the folder."""
    for file, count, split in (("pool", problems, "seed"), ("test", 4, "test")):
        args = ["clinic", "-n", count, "--seed", "4", "--split", split, "-o", folder / f"{file}.jsonl"]
        run_medsss(args).ok()
    given = {"POOL": f"{folder}/pool.jsonl", "TEST": f"{folder}/test.jsonl", "OUT": f"{folder}/out"}
    ran = console.run(f"bash '{ROOT}/examples/{name}'", folder, SIZES | given | env, timeout=1200)
    assert ran.returncode == status, ran.stdout[-3000:]
    said: str = ran.stdout
    return said


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_loop_runs_from_problems_to_the_table(console: Console, tmp_path: Path) -> None:
    said = run_script(console, "medqa-8b.sh", tmp_path, problems=12)
    rows = ("base  ", "base, greedy", "iteration1, greedy", "evolved, greedy")
    for row in (*rows, "base, PRM on dual", "evolved, PRM on dual", "best of 4, min-max"):
        assert row in said, said
    # The shards were merged whole: every question has its candidates and its selection.
    out, test = tmp_path / "out", tmp_path / "test.jsonl"
    assert {row["id"] for row in read_jsonl(out / "evolved.bon-dual.jsonl")} == {row["id"] for row in read_jsonl(test)}
    assert len(read_jsonl(out / "iteration1" / "trees.jsonl")) == len(read_jsonl(out / "iteration1" / "seed.jsonl"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_policy_that_gets_nothing_right_is_taught_and_the_loop_ends_with_a_table(
    console: Console, tmp_path: Path
) -> None:
    """A real small model begins like this: no right answer, so no tree, no pair and no reward model can be made."""
    policy = make_tiny_model(tmp_path / "policy", context=4096)
    weak = {"POLICY": str(policy), "PROMPTING": "instruct", "TEACHER": "builtin:clinic", "TEACHER_DRAWS": "1"}
    small = {"EXTRA": "--engine hf", "N": "2", "SAMPLE_EXTRA": "--max-tokens 60", "JOBS": "1"}
    said = run_script(console, "smollm2.sh", tmp_path, problems=6, **weak, **small)
    for row in ("base, greedy", "stage1, greedy", "iteration1, greedy", "evolved, greedy"):
        assert row in said, said
    assert "questions got a right answer: little to learn from" in said
    assert "iteration 1: no correct trajectory: the policy stays as it is" in said
    assert "no preference pair: no DPO" in said
    taught = read_jsonl(tmp_path / "out" / "teacher.sft.jsonl")
    assert taught
    assert all("Step 1:" in row["completion"][0]["content"] for row in taught)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_medcritical_runs_from_problems_to_the_table(console: Console, tmp_path: Path) -> None:
    settings = {"STUDENT": "builtin:clinic", "TRIES": "2", "SFT_EXTRA": FULL}
    said = run_script(console, "medcritical.sh", tmp_path, **settings)
    for row in ("student", "stage1", "stage2.1"):
        assert row in said, said
    # What DPO learns from is a correction against the answer that it puts right, the originals first in every record.
    round1 = tmp_path / "out" / "round1"
    rows = {row["id"]: row["responses"] for row in read_jsonl(round1 / "corrected.jsonl")}
    assert all([each.get("corrects") is None for each in responses[:2]] == [True, True] for responses in rows.values())
    right = {
        (id, responses[each["corrects"]]["text"], each["text"])
        for id, responses in rows.items()
        for each in responses[2:]
        if each["verdict"] == "correct"
    }
    assert len(read_jsonl(round1 / "pairs.jsonl")) == len(right) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_reasonmed_runs_to_its_training_file(console: Console, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    twin.symlink_to(ROOT / "medsss_cli" / "clinic" / "policy")
    settings = {"AUTHORS": f"builtin:clinic {twin}", "STRONG": str(twin), "SFT_EXTRA": FULL}
    assert "the authors" in run_script(console, "reasonmed.sh", tmp_path, **settings)
    rows = read_jsonl(tmp_path / "out" / "all.jsonl")
    assert all({each["policy"] for each in row["responses"][:4]} == {"builtin:clinic", str(twin)} for row in rows)
    assert 0 < len(read_jsonl(tmp_path / "out" / "sft.jsonl")) <= 2 * len(rows)


def test_a_teacher_without_a_right_answer_ends_the_recipe_with_a_word(console: Console, tmp_path: Path) -> None:
    """An empty training file would be found out only when the trainer falls over it."""
    script = write_jsonl(tmp_path / "s.jsonl", [{"match": "", "texts": ["Ask your doctor."]}])
    extra = f"--engine scripted:{script}"
    policies = {"STUDENT": "one", "TEACHER": "two", "EXTRA": extra, "TEACHER_EXTRA": extra}
    said = run_script(console, "medcritical.sh", tmp_path, status=1, **policies)
    assert "the teacher has no right answer: there is nothing to train on" in said
    assert not (tmp_path / "out" / "stage1").exists()
