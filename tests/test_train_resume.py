"""Trainings of all kinds: one that is killed goes on with the same numbers, what is not ours stays in the folder, and
what an 8B needs of memory is decided before it is loaded."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import clean_env, read_jsonl, run_medsss, write_jsonl
from tiny_models import make_tiny_model

from medsss_cli.errors import UsageError
from medsss_cli.steps import ROOT_TEXT
from medsss_cli.stream.jsonl import Where

# Trains, and kills itself with -9 when the fifth update is told.
CHILD = """
import json, os, signal, sys
from pathlib import Path
from test_train_resume import train
from medsss_cli.training import run
plain = run.progress_callback
run.progress_callback = lambda say, recipe: plain(say, recipe, 0.0)
def say(line):
    if line.startswith("step 5/"):
        os.kill(os.getpid(), signal.SIGKILL)
train(*map(Path, sys.argv[2:4]), sys.argv[1], Path(sys.argv[4]), say=say)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"), spread=0.1)


def row(kind: str, i: int) -> dict[str, Any]:
    """Of different lengths, so that the order of the rows is that of groups of lengths; four to a question."""
    question, text = f"Case {i // 4}?", f"Step 1: {'It is high. ' * (i % 5)}\n\nStep 2: The answer is {'AB'[i % 2]}."

    def turn(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    match kind:
        case "sft":
            return {"prompt": turn("user", question), "completion": turn("assistant", text)}
        case "dpo":
            poor = text + " Or not."
            return {
                "prompt": turn("user", question),
                "chosen": turn("assistant", text),
                "rejected": turn("assistant", poor),
            }
    return {"prompt": question, "completions": [ROOT_TEXT, text, "b"], "labels": [None, i % 3 / 2, i % 2]}


def train(base: Path, out: Path, kind: str, rows: Path, **more: Any) -> Any:
    from medsss_cli.models import Device
    from medsss_cli.training.config import Method, PolicyConfig, PrmTrainingConfig
    from medsss_cli.training.policy import train_policy
    from medsss_cli.training.prm import train_prm

    say = more.pop("say", lambda _: None)
    common: dict[str, Any] = {"batch_size": 4, "accumulation": 1, "lr": 3e-3, "epochs": 2.0, "device": Device.CPU}
    common |= {"policy": str(base), "output": str(out), "trainer_args": ("logging_steps=1", "save_steps=2")} | more
    given = ((Where("rows", i), each) for i, each in enumerate(read_jsonl(rows)))
    if kind == "grpo":
        common |= {"policy": "builtin:clinic", "batch_size": 8, "generations": 4, "max_tokens": 40}
    if kind == "prm":
        return train_prm(PrmTrainingConfig(lora=False, **common), given, say=say)
    return train_policy(PolicyConfig(method=Method(kind), **common), given, say=say)


def rows_of(kind: str) -> list[dict[str, Any]]:
    if kind == "grpo":
        return run_medsss(["clinic", "-n", "8"]).ok().records
    return [row(kind, i) for i in range(16)]


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo", "prm"])
def test_a_killed_training_goes_on_where_it_was(kind: str, base: Path, tmp_path: Path) -> None:
    """Killed with -9 in the fifth update of eight, in its second epoch, with a torn checkpoint of step 6 beside the
    whole one of step 4: it ends with the same weights, bit by bit, as one that was not killed. (By transformers' own
    grouping by length the second epoch would go on in the order of the first.)"""
    given = rows_of(kind)
    rows = write_jsonl(tmp_path / "rows.jsonl", given)
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
            train(base, killed, kind, rows, **more)
    fewer = write_jsonl(tmp_path / "fewer.jsonl", given[1:])
    with pytest.raises(UsageError, match="data"):
        train(base, killed, kind, fewer)
    summary = train(base, killed, kind, rows)
    assert (summary.resumed_from, summary.steps) == (4, 8)
    assert train(base, whole, kind, rows).steps == 8
    expected = weights_of(whole)
    for key, value in weights_of(killed).items():
        assert value.equal(expected[key]), key
    assert not (killed / ".training").exists()


def test_what_is_not_ours_stays(base: Path, tmp_path: Path) -> None:
    """`--restart` once removed whatever lay in the folder: notes, plots, another model's weights."""
    rows = write_jsonl(tmp_path / "rows.jsonl", [row("sft", i) for i in range(4)])
    out = tmp_path / "out"
    train(base, out, "sft", rows, lora=True, merge=False)
    (out / "thesis.txt").write_text("mine")
    (out / "plots").mkdir()
    (out / "plots" / "a.png").write_text("mine")
    assert (out / "adapter_model.safetensors").exists()
    again = train(base, out, "sft", rows, lora=True, merge=False)
    assert again.finished_before
    with pytest.raises(UsageError, match="another configuration"):
        train(base, out, "sft", rows, seed=1)
    summary = train(base, out, "sft", rows, seed=1, restart=True)
    assert (summary.resumed_from, summary.finished_before) == (0, False)
    assert not (out / "adapter_model.safetensors").exists()
    assert (out / "model.safetensors").exists()
    assert (out / "thesis.txt").read_text() == (out / "plots" / "a.png").read_text() == "mine"
    card = json.loads((out / "medsss.json").read_text())
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(card["files"])
    assert {file.name for file in out.iterdir()} == {*card["files"], "medsss.json", "thesis.txt", "plots"}

    # A folder of a version that listed no files: its weights go, all else is left.
    del card["files"]
    (out / "medsss.json").write_text(json.dumps(card))
    (out / "model-00001-of-00002.safetensors").write_text("old")
    train(base, out, "sft", rows, restart=True)
    assert not (out / "model-00001-of-00002.safetensors").exists()
    assert (out / "thesis.txt").read_text() == "mine"


def test_what_an_8b_needs_is_decided_before_it_is_loaded(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The trainer's arguments (which under DeepSpeed and FSDP decide how weights are loaded) come before the model;
    above a billion weights, on a GPU, gradients are checkpointed; LoRA's base is bfloat16 there, the weights of a full
    training float32. Weights are counted without making any."""
    import torch

    from medsss_cli.models import count_parameters, load_config, load_model
    from medsss_cli.training import run
    from medsss_cli.training.config import PolicyConfig, WeightType

    about = load_config(str(base))
    model = load_model(str(base), dtype=torch.float32, head="causal")
    assert count_parameters(about) == sum(parameter.numel() for parameter in model.parameters())

    seen: list[str] = []
    given: dict[str, Any] = {}

    def arguments(make: Any, free: dict[str, Any], ours: dict[str, Any]) -> Any:
        seen.append("arguments")
        given.update(free)
        raise UsageError("enough")

    monkeypatch.setattr(run, "trainer_arguments", arguments)
    monkeypatch.setattr(run, "load_model", lambda *_, **__: seen.append("model"))
    monkeypatch.setattr(run, "count_parameters", lambda _: 8_000_000_000)
    rows = write_jsonl(tmp_path / "rows.jsonl", [row("sft", 0)])
    for on_gpu in (False, True):
        monkeypatch.setattr(run, "precision", lambda _, on_gpu=on_gpu: run.Precision(not on_gpu, on_gpu, None))
        with pytest.raises(UsageError, match="enough"):
            train(base, tmp_path / "out", "sft", rows)
        assert given["gradient_checkpointing"] is on_gpu
    assert seen == ["arguments", "arguments"]

    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for lora, dtype, wanted in (
        (True, WeightType.AUTO, (False, True, torch.bfloat16)),
        (False, WeightType.AUTO, (False, True, torch.float32)),
        (False, WeightType.BFLOAT16, (False, False, torch.bfloat16)),
    ):
        config = PolicyConfig(output="x", lora=lora, dtype=dtype)
        assert run.precision(config) == wanted


@pytest.mark.parametrize("lora", [False, True])
def test_dpo_keeps_no_second_model(lora: bool, base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from medsss_cli.training import policy

    trainers: list[Any] = []
    plain = policy.build_trainer
    monkeypatch.setattr(policy, "build_trainer", lambda *a: trainers.append(plain(*a)) or trainers[0])
    rows = write_jsonl(tmp_path / "rows.jsonl", [row("dpo", i) for i in range(4)])
    summary = train(base, tmp_path / "out", "dpo", rows, lora=lora, epochs=1.0)
    assert trainers[0].ref_model is None
    assert summary.loss_first == pytest.approx(math.log(2), rel=1e-4)


def test_a_refused_run_forgets_only_what_it_began(tmp_path: Path) -> None:
    """A run that is under way and has no checkpoint yet must outlive a second one that was refused."""
    from medsss_cli.training.folder import begin, close_folder, open_folder

    out = tmp_path / "out"
    assert open_folder(out, "none", restart=False)
    close_folder(out)
    assert not out.exists()
    assert open_folder(out, "none", restart=False)
    begin(out, {"seed": 0})
    assert not open_folder(out, "none", restart=False)
    with pytest.raises(UsageError, match="seed: 0 -> 1"):
        begin(out, {"seed": 1})
    begin(out, {"seed": 0})
    assert open_folder(out, "none", restart=True)
