"""`medsss train-policy`: sft or preference records in, a model folder out. Starting takes some 15 s (imports), then it
runs one epoch; a full training needs about 16 bytes a parameter, LoRA about 2."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import _options as o
from . import _training as t

if TYPE_CHECKING:
    from medsss_cli.training.policy import PolicyTraining


@o.grouped(settings=t.settings, given=t.training_input)
def run(
    ctx: typer.Context,
    *,
    method: Annotated[
        Literal["sft", "dpo"], typer.Option("--method", help="sft reads sft records, dpo preference records.")
    ] = "sft",
    preset: Annotated[
        Literal["medcritical"] | None,
        typer.Option(
            "--preset",
            help="dpo: the settings of a paper where no option says otherwise. medcritical (arXiv 2509.23368): --lora "
            "--lora-rank 8 --lora-alpha 16 --beta 0.3 --lr 1e-5.",
            show_default=False,
        ),
    ] = None,
    lora: Annotated[
        bool, typer.Option("--lora/--full", help="Train a LoRA adapter, or all weights as the paper does.")
    ] = False,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--lr",
            min=0.0,
            metavar="R",
            help="Default: sft 1e-6, dpo 5e-7; with --lora ten times that.",
            show_default=False,
        ),
    ] = None,
    epochs: t.Epochs = 1.0,
    weight_decay: t.WeightDecay = 0.0,
    beta: Annotated[float, typer.Option("--beta", min=0.0, metavar="B", help="dpo: how close to stay.")] = 0.1,
    loss_type: Annotated[str, typer.Option("--loss-type", metavar="NAME", help="dpo: a loss of TRL's.")] = "sigmoid",
    sft_weight: Annotated[
        float, typer.Option("--sft-weight", min=0.0, metavar="W", help="dpo: add W times the sft loss of the chosen.")
    ] = 0.0,
    precompute_ref: Annotated[
        bool, typer.Option("--precompute-ref", help="dpo: run the reference first, so that it need not stay in memory.")
    ] = False,
    settings: dict[str, Any],
    given: t.TrainingInput,
) -> None:
    """Train the policy on sft records (`label --to sft`) or preference records (`label --to preference`).

    Writes a folder that transformers, vLLM and every medsss command take as a model, and one JSON line with the losses.
    Run again, it goes on from its last checkpoint. Runs under torchrun and `accelerate launch -m medsss_cli.app`.
    """
    from medsss_cli.training.policy import Method, PolicyTraining, train_policy

    options = PolicyTraining(
        **settings,
        method=Method(method),
        lora=lora,
        learning_rate=learning_rate,
        epochs=epochs,
        weight_decay=weight_decay,
        beta=beta,
        loss_type=loss_type,
        sft_weight=sft_weight,
        precompute_ref=precompute_ref,
    )
    if preset is not None:
        options = _with_preset(ctx, options, preset)
    summary = train_policy(options, given.rows, say=given.say, on_bad=given.bad)
    t.finish(summary, given)


def _with_preset(ctx: typer.Context, options: PolicyTraining, preset: str) -> PolicyTraining:
    """The options with those of a preset where the user has not said any. Raises UsageError for another method's."""
    from medsss_cli.errors import UsageError
    from medsss_cli.training.policy import PRESETS

    method, settings = PRESETS[preset]
    if options.method is not method:
        raise UsageError(f"--preset {preset} is for --method {method}, not for --method {options.method}")

    def unsaid(name: str) -> bool:
        source = ctx.get_parameter_source(name)
        return source is None or source.name == "DEFAULT"

    return replace(options, **{name: value for name, value in settings.items() if unsaid(name)})
