"""Trainings of all kinds: one that is killed goes on with the same numbers, what is not ours stays in the folder, and
what an 8B needs of memory is decided before it is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import clean_env, read_jsonl, run_medsss, write_jsonl
from training import sft, train, turn, weights_of

from medsss_cli.errors import UsageError
from medsss_cli.steps import ROOT_TEXT

# Trains, and kills itself with -9 when the fifth update is told.
CHILD = """
import os, signal, sys
from pathlib import Path
from test_train_resume import run_of
from medsss_cli.training import run
run.SAY_EVERY = 0.0
def say(line):
    if line.startswith("step 5/"):
        os.kill(os.getpid(), signal.SIGKILL)
run_of(sys.argv[1], sys.argv[2], *map(Path, sys.argv[3:5]), say=say)
"""


def row(kind: str, i: int) -> dict[str, Any]:
    """Of different lengths, so that the order of the rows is that of groups of lengths; four to a question."""
    question, text = f"Case {i // 4}?", f"Step 1: {'It is high. ' * (i % 5)}\n\nStep 2: The answer is {'AB'[i % 2]}."
    if kind == "prm":
        return {"prompt": question, "completions": [ROOT_TEXT, text, "b"], "labels": [None, i % 3 / 2, i % 2]}
    pair = {"chosen": turn("assistant", text), "rejected": turn("assistant", text + " Or not.")}
    return {"prompt": turn("user", question)} | ({"completion": pair["chosen"]} if kind == "sft" else pair)


def run_of(kind: str, base: str | Path, out: Path, rows: Path, **more: Any) -> Any:
    """Eight updates in two epochs, of the clinic's policy for grpo: random weights are never right."""
    given: dict[str, Any] = {"batch_size": 4, "epochs": 2.0, "trainer": ("save_steps=2",)}
    if kind == "grpo":
        base, given = "builtin:clinic", given | {"batch_size": 8, "generations": 4, "max_tokens": 40}
    return train(kind, base, out, read_jsonl(rows), **given | more)


@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo", "prm"])
def test_a_killed_training_goes_on_where_it_was(kind: str, base: Path, tmp_path: Path) -> None:
    """Killed with -9 in the fifth update of eight, in its second epoch, with a torn checkpoint of step 6 beside the
    whole one of step 4: it ends with the same weights, bit by bit, as one that was not killed. (By transformers' own
    grouping by length the second epoch would go on in the order of the first.) A run that was refused in between has
    changed nothing."""
    given = run_medsss(["clinic", "-n", "8"]).records if kind == "grpo" else [row(kind, i) for i in range(16)]
    rows, fewer = write_jsonl(tmp_path / "rows.jsonl", given), write_jsonl(tmp_path / "fewer.jsonl", given[1:])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(base), str(killed), str(rows)],
        env=clean_env(PYTHONPATH=str(Path(__file__).parent)),
        capture_output=True,
    )
    assert done.returncode == -9, done.stderr.decode()
    assert not (killed / "medsss.json").exists()
    torn = killed / ".training" / "checkpoint-6"
    shutil.copytree(killed / ".training" / "checkpoint-4", torn)
    (torn / "trainer_state.json").write_text("{")

    for more, what in (({"lr": 1.0}, "lr: 0.003 -> 1.0"), ({"max_length": 400}, "max_length: .* -> 400")):
        with pytest.raises(UsageError, match=what):
            run_of(kind, base, killed, rows, **more)
    with pytest.raises(UsageError, match="data"):
        run_of(kind, base, killed, fewer)
    summary = run_of(kind, base, killed, rows)
    assert (summary.resumed_from, summary.steps) == (4, 8)
    assert run_of(kind, base, whole, rows).steps == 8
    expected = weights_of(whole)
    for key, value in weights_of(killed).items():
        assert value.equal(expected[key]), key
    assert not (killed / ".training").exists()


def test_what_is_not_ours_stays(base: Path, tmp_path: Path) -> None:
    """`--restart` once removed whatever lay in the folder: notes, plots, another model's weights. A folder without a
    card of ours, or the policy's own, is refused."""
    rows, out = [sft(i=i) for i in range(4)], tmp_path / "out"
    train("sft", base, out, rows, lora=True, merge=False)
    (out / "plots").mkdir()
    mine = [out / "thesis.txt", out / "plots" / "a.png"]
    for file in mine:
        file.write_text("mine")
    assert (out / "adapter_model.safetensors").exists()
    assert train("sft", base, out, rows, lora=True, merge=False).finished_before
    with pytest.raises(UsageError, match="another configuration"):
        train("sft", base, out, rows, seed=1)
    summary = train("sft", base, out, rows, seed=1, restart=True)
    assert (summary.resumed_from, summary.finished_before) == (0, False)
    assert not (out / "adapter_model.safetensors").exists()
    assert (out / "model.safetensors").exists()
    assert [file.read_text() for file in mine] == ["mine", "mine"]
    card = json.loads((out / "medsss.json").read_text())
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(card["files"])
    assert {file.name for file in out.iterdir()} == {*card["files"], "medsss.json", "thesis.txt", "plots"}

    (out / "medsss.json").unlink()
    with pytest.raises(UsageError, match="not written by medsss"):
        train("sft", base, out, rows, restart=True)
    with pytest.raises(UsageError, match="is the policy itself"):
        train("sft", base, base, rows)


def test_what_an_8b_needs_is_decided_before_it_is_loaded(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The trainer's arguments (which under DeepSpeed and FSDP decide how weights are loaded) come before the model;
    above a billion weights, on a GPU, gradients are checkpointed; LoRA's base is bfloat16 there, the weights of a full
    training float32. Weights are counted without making any."""
    import torch

    from medsss_cli.models import Dtype, count_parameters, load_config, load_model
    from medsss_cli.training import run
    from medsss_cli.training.config import PolicyConfig
    from medsss_cli.training.policy import SftTraining

    model = load_model(str(base), dtype=torch.float32, head="causal")
    assert count_parameters(load_config(str(base))) == sum(parameter.numel() for parameter in model.parameters())

    seen: list[str] = []

    def arguments(_: Any, **given: Any) -> Any:
        seen.append(f"arguments {given['gradient_checkpointing']}")
        raise ValueError("enough")

    monkeypatch.setattr(SftTraining, "arguments", arguments)
    monkeypatch.setattr(run, "load_model", lambda *_, **__: seen.append("model"))
    for size in (999_999_999, 8_000_000_000):
        monkeypatch.setattr(run, "count_parameters", lambda _, size=size: size)
        for on_gpu in (False, True):
            monkeypatch.setattr(run, "precision", lambda _, on_gpu=on_gpu: run.Precision(not on_gpu, on_gpu, None))
            with pytest.raises(UsageError, match="enough"):
                train("sft", base, tmp_path / "out", [sft()])
    assert seen == ["arguments False"] * 3 + ["arguments True"]

    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for lora, dtype, wanted in (
        (True, Dtype.AUTO, (False, True, torch.bfloat16)),
        (False, Dtype.AUTO, (False, True, torch.float32)),
        (False, Dtype.BFLOAT16, (False, False, torch.bfloat16)),
    ):
        assert run.precision(PolicyConfig(output="x", lora=lora, dtype=dtype)) == wanted


def test_a_refused_run_forgets_only_what_it_began(tmp_path: Path) -> None:
    """A run that is under way and has no checkpoint yet must outlive a second one that was refused."""
    from medsss_cli.training.folder import begin, opened

    out = tmp_path / "out"

    def run(seed: int, why: str = "") -> None:
        with opened(out, "none", restart=False):
            begin(out, {"seed": seed})
            if why:
                raise UsageError(why)

    with pytest.raises(UsageError, match="no memory"):
        run(0, "no memory")
    assert not out.exists()
    run(0)
    for seed, why in ((0, "no memory"), (1, "seed: 0 -> 1")):
        with pytest.raises(UsageError, match=why):
            run(seed, "no memory")
    assert (out / ".training" / "run.json").exists()
