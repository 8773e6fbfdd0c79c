"""`medsss train-policy`: sft or preference records in, a model folder out. Starting takes some 15 s (imports), then it
runs one epoch; a full training needs about 16 bytes a parameter, LoRA about 2."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import _options as o
from . import _training as t

if TYPE_CHECKING:
    from medsss_cli.training.policy import PolicyTraining


def run(
    ctx: typer.Context,
    inputs: o.Inputs = None,
    output: t.Out = ...,  # type: ignore[assignment]  # typer's mark of a required option
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
    policy: o.PolicyOpt = "builtin:clinic",
    lora: Annotated[
        bool, typer.Option("--lora/--full", help="Train a LoRA adapter, or all weights as the paper does.")
    ] = False,
    merge: t.Merge = True,
    lora_rank: t.LoraRank = 32,
    lora_alpha: t.LoraAlpha = 64,
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
    batch_size: t.TrainBatch = 8,
    accumulation: t.Accumulation = 4,
    max_length: t.MaxLength = None,
    warmup: t.Warmup = 0.03,
    scheduler: t.Scheduler = "cosine",
    weight_decay: t.WeightDecay = 0.0,
    beta: Annotated[float, typer.Option("--beta", min=0.0, metavar="B", help="dpo: how close to stay.")] = 0.1,
    loss_type: Annotated[str, typer.Option("--loss-type", metavar="NAME", help="dpo: a loss of TRL's.")] = "sigmoid",
    sft_weight: Annotated[
        float, typer.Option("--sft-weight", min=0.0, metavar="W", help="dpo: add W times the sft loss of the chosen.")
    ] = 0.0,
    precompute_ref: Annotated[
        bool, typer.Option("--precompute-ref", help="dpo: run the reference first, so that it need not stay in memory.")
    ] = False,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: t.TrainDtype = "auto",
    gradient_checkpointing: t.Checkpointing = None,
    save_steps: t.SaveSteps = 500,
    log_steps: t.LogSteps = 10,
    report_to: t.ReportTo = "none",
    trust_remote_code: o.TrustRemoteCode = False,
    limit: o.Limit = None,
    strict: o.Strict = False,
    restart: t.RestartTraining = False,
    quiet: o.Quiet = False,
) -> None:
    """Train the policy on sft records (`label --to sft`) or preference records (`label --to preference`).

    Writes a folder that transformers, vLLM and every medsss command take as a model, and one JSON line with the losses.
    Run again, it goes on from its last checkpoint. Runs under torchrun and `accelerate launch -m medsss_cli.app`.
    """
    from medsss_cli.training.policy import Method, PolicyTraining, train_policy

    options = PolicyTraining(
        policy=policy,
        out=output,
        method=Method(method),
        lora=lora,
        merge=merge,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        learning_rate=learning_rate,
        epochs=epochs,
        batch_size=batch_size,
        accumulation=accumulation,
        max_length=max_length,
        warmup=warmup,
        scheduler=scheduler,
        weight_decay=weight_decay,
        beta=beta,
        loss_type=loss_type,
        sft_weight=sft_weight,
        precompute_ref=precompute_ref,
        seed=seed,
        device=device,
        dtype=dtype,
        gradient_checkpointing=gradient_checkpointing,
        save_steps=save_steps,
        log_steps=log_steps,
        report_to=report_to,
        trust_remote_code=trust_remote_code,
        restart=restart,
    )
    if preset is not None:
        options = _with_preset(ctx, options, preset)
    with t.TrainingInput(inputs, limit=limit, strict=strict, quiet=quiet) as given:
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
