"""`medsss train-policy`: sft or preference records, or problems for grpo, in; a model folder out. Starting takes some
15 s (imports), then it runs one epoch; a full training needs about 16 bytes a parameter, LoRA about 2."""

from __future__ import annotations

from medsss_cli.training.config import PolicyConfig

from . import _options as o
from ._training import Quiet, train


@o.options
def run(*, config: PolicyConfig, strict: o.Strict = False, quiet: Quiet = False) -> None:
    """Train the policy on sft records (`label --to sft`), preference records (`label --to preference`), or with
    --method grpo on problems, by the reward of right answers.

    Writes a folder that transformers, vLLM and every medsss command take as a model, and one JSON line with the losses.
    Run again, it goes on from its last checkpoint. Runs under torchrun and `accelerate launch -m medsss_cli.app`.
    """
    strange = [name for name, methods in config.ONLY.items() if config.method not in methods]
    o.refuse_given(strange, f"is not for --method {config.method}")
    from medsss_cli.training.policy import POLICY_TRAININGS

    train(POLICY_TRAININGS[config.method], config, strict, quiet)
