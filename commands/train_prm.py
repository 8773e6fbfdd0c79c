"""`medsss train-prm`: prm records in, a process reward model out. Starting takes some 12 s (imports), then it runs two
epochs over the trajectories, shared beginnings once; LoRA needs about 2 bytes a parameter, a full training 16."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from . import _options as o
from . import _training as t


@o.grouped(settings=t.settings, given=t.training_input)
def run(
    *,
    convention: Annotated[
        Literal["medsss"],
        typer.Option("--format", help="How question and steps are laid out, and where scores are read."),
    ] = "medsss",
    packing: Annotated[
        Literal["tree", "path"],
        typer.Option(
            "--packing",
            help="tree: what trajectories of one prompt share is computed once; path: a sequence for each. Same loss.",
        ),
    ] = "tree",
    lora: Annotated[
        bool,
        typer.Option("--lora/--full", help="Train a LoRA adapter and the head as the paper does, or all weights."),
    ] = True,
    learning_rate: Annotated[
        float | None,
        typer.Option("--lr", min=0.0, metavar="R", help="Default: 5e-5; with --full 5e-6.", show_default=False),
    ] = None,
    epochs: t.Epochs = 2.0,
    weight_decay: t.WeightDecay = 0.01,
    settings: dict[str, Any],
    given: t.TrainingInput,
) -> None:
    """Train a process reward model on prm records (`label --to prm`), from the policy that `--policy` names.

    Writes a folder that AutoModelForTokenClassification and `bon --prm` take, and one JSON line with the losses. Labels
    may be any number from 0 to 1. Run again, it goes on from its last checkpoint.
    """
    from medsss_cli.prm.conventions import Convention
    from medsss_cli.training.prm import Packing, PrmTraining, train_prm

    options = PrmTraining(
        **settings,
        convention=Convention(convention),
        packing=Packing(packing),
        lora=lora,
        learning_rate=learning_rate,
        epochs=epochs,
        weight_decay=weight_decay,
    )
    summary = train_prm(options, given.rows, say=given.say, on_bad=given.bad)
    t.finish(summary, given)
