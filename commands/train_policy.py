"""`medsss train-policy`: sft or preference records in, a model folder out. Starting takes some 15 s (imports), then it
runs one epoch; a full training needs about 16 bytes a parameter, LoRA about 2."""

from __future__ import annotations

from medsss_cli.training.config import PolicyConfig

from . import _options as o
from ._training import TrainingInput


@o.options
def run(*, given: TrainingInput, config: PolicyConfig) -> None:
    """Train the policy on sft records (`label --to sft`) or preference records (`label --to preference`).

    Writes a folder that transformers, vLLM and every medsss command take as a model, and one JSON line with the losses.
    Run again, it goes on from its last checkpoint. Runs under torchrun and `accelerate launch -m medsss_cli.app`.
    """
    from medsss_cli.training.policy import train_policy

    given.train(train_policy, config)
