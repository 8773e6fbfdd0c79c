"""`medsss train-prm`: prm records in, a process reward model out. Starting takes some 12 s (imports), then it runs two
epochs over the trajectories, shared beginnings once; LoRA needs about 2 bytes a parameter, a full training 16."""

from __future__ import annotations

from medsss_cli.training.config import PrmTrainingConfig

from . import _options as o
from .train_policy import train


@o.options
def run(*, config: PrmTrainingConfig, strict: o.Strict = False, quiet: o.Quiet = False) -> None:
    """Train a process reward model on prm records (`label --to prm`), from the policy that `--policy` names.

    Writes a folder that AutoModelForTokenClassification and `bon --prm` take, and one JSON line with the losses. Labels
    may be any number from 0 to 1. Run again, it goes on from its last checkpoint.
    """
    from medsss_cli.training.prm import PrmTraining

    train(PrmTraining, config, strict, quiet)
