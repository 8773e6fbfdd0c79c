"""The formula of benchmarks/memory.py, which docs/gpu.md uses for an 8B: its counts of copies and its types of numbers,
against real trainings of a tiny Llama."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_tiny_model
from training import ANSWER, WRONG, pair, train

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import memory


def kept(folder: Path, rank: int | None, *, on_gpu: bool, checkpointing: bool = False) -> float:
    """Bytes a token that a model keeps for the way back, weights left out. A GPU's types of numbers: autocast in
    bfloat16, over float32 weights in a full training and bfloat16 ones under LoRA."""
    import torch
    from peft import LoraConfig, get_peft_model

    from medsss_cli.models import load_model

    dtype = torch.bfloat16 if on_gpu and rank is not None else torch.float32
    model: Any = load_model(str(folder), dtype=dtype, head="causal").train()
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable()
    if rank is not None:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules="all-linear"))
        model.enable_input_require_grads()
    own = {parameter.shape for parameter in model.parameters()}
    own |= {shape[::-1] for shape in own}  # autocast's copies of weights are no activations
    sizes: dict[int, int] = {}
    held = []

    def pack(tensor: Any) -> Any:
        if tensor.shape not in own:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            held.append(tensor)
        return tensor

    ids = torch.arange(3 * 50).reshape(3, 50) % 200
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=on_gpu),
    ):
        model(input_ids=ids)
    return sum(sizes.values()) / ids.numel()


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_what_a_layer_keeps(rank: int | None, on_gpu: bool, tmp_path: Path) -> None:
    """Two models that differ by two layers. (24 bytes a token are for norms and attention: a number a row or head.)"""
    shape = memory.Shape(0, 2, 32, 64, 16, 400)
    way = memory.Training("", rank, 3, 50, True, on_gpu)
    small, large = (make_tiny_model(tmp_path / str(layers), layers=layers) for layers in (2, 4))
    a_layer = (kept(large, rank, on_gpu=on_gpu) - kept(small, rank, on_gpu=on_gpu)) / 2
    assert a_layer == pytest.approx(way.layer(shape) + 24, abs=1)
    if on_gpu:
        few, more = (kept(folder, rank, on_gpu=True, checkpointing=True) for folder in (small, large))
        assert (more - few) / 2 == pytest.approx(32 * (4 if rank is None else 2), abs=1)


@pytest.mark.parametrize("rank", [None, 4])
def test_what_is_trained_is_there_once(
    rank: int | None, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a DPO training: one model, no second one as reference (a copy of an 8B would not fit beside it); as many
    trained numbers as the formula says, each with its gradient and two numbers of Adam in float32."""
    from medsss_cli.training.policy import DpoTraining

    trainers: list[Any] = []
    plain = DpoTraining.trainer
    monkeypatch.setattr(DpoTraining, "trainer", lambda *given: trainers.append(plain(*given)) or trainers[-1])
    more = {"lora": True, "lora_rank": rank, "merge": False} if rank else {}
    train("dpo", base, tmp_path / "out", [pair(ANSWER, WRONG)], **more)
    (trainer,) = trainers
    assert trainer.ref_model is None
    assert trainer.args.precompute_ref_log_probs == (rank is None)
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    numbers = sum(parameter.numel() for parameter in trained)
    shape = memory.shape_of(str(base))
    assert numbers == (shape.weights if rank is None else shape.lora(rank))
    assert {parameter.element_size() for parameter in trained} == {4}
    adam = [state for of in trainer.optimizer.state.values() for state in of.values() if state.numel() > 1]
    assert sum(state.numel() * state.element_size() for state in adam) == 8 * numbers
    terms = memory.Training("", rank, 1, 50, True, False).bytes(shape)
    assert terms["trained"] == numbers * (12 if rank is None else 16)
