"""What `train-policy` and `train-prm` share: their options, their input, and the line that they end with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import _options as o

if TYPE_CHECKING:
    from medsss_cli.stream.jsonl import Where
    from medsss_cli.training.common import TrainingSummary

_TRAINING = "Training"

Out = Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the model goes.", show_default=False)]
Merge = Annotated[
    bool, typer.Option("--merge/--no-merge", help="With --lora: write a whole model, or the adapter alone.")
]
LoraRank = Annotated[int, typer.Option("--lora-rank", min=1, metavar="R", help="Rank of the adapter.")]
LoraAlpha = Annotated[int, typer.Option("--lora-alpha", min=1, metavar="A", help="Its scale is A / R.")]
Epochs = Annotated[float, typer.Option("--epochs", min=0.0, metavar="E", help="Passes over the rows.")]
TrainBatch = Annotated[
    int,
    typer.Option("--batch-size", min=1, metavar="N", help="Rows at once, per process; packed tries come close to it."),
]
Accumulation = Annotated[int, typer.Option("--accumulation", min=1, metavar="N", help="Batches to an update.")]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        min=1,
        metavar="N",
        help="Longer rows, in tokens, are left out and named; longer tries are split. Default: at most 4096.",
        show_default=False,
    ),
]
Warmup = Annotated[
    float, typer.Option("--warmup", min=0.0, metavar="W", help="Below 1 a share of the steps, else their number.")
]
Scheduler = Annotated[str, typer.Option("--scheduler", metavar="NAME", help="cosine, linear, constant, ...")]
WeightDecay = Annotated[float, typer.Option("--weight-decay", min=0.0, metavar="D", help="AdamW's decay.")]
TrainDtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option("--dtype", help="Type of the weights; auto: float32, and bfloat16 arithmetic on a GPU."),
]
Checkpointing = Annotated[
    bool | None,
    typer.Option(
        "--gradient-checkpointing/--no-gradient-checkpointing",
        help="Less memory for a fifth more time; default: on a GPU above 1e9 parameters.",
        show_default=False,
    ),
]
SaveSteps = Annotated[
    int, typer.Option("--save-steps", min=0, metavar="N", help="A checkpoint every N updates; 0: none.")
]
LogSteps = Annotated[int, typer.Option("--log-steps", min=1, metavar="N", help="Log every N updates.")]
ReportTo = Annotated[Literal["none", "wandb", "tensorboard"], typer.Option("--report-to", help="Where logs go too.")]
RestartTraining = Annotated[
    bool, typer.Option("--restart", help="Train anew, even if FOLDER holds a training of other settings.")
]


def settings(
    output: Out = ...,  # type: ignore[assignment]  # typer's mark of a required option
    policy: o.PolicyOpt = "builtin:clinic",
    merge: Merge = True,
    lora_rank: LoraRank = 32,
    lora_alpha: LoraAlpha = 64,
    batch_size: TrainBatch = 8,
    accumulation: Accumulation = 4,
    max_length: MaxLength = None,
    warmup: Warmup = 0.03,
    scheduler: Scheduler = "cosine",
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: TrainDtype = "auto",
    gradient_checkpointing: Checkpointing = None,
    save_steps: SaveSteps = 500,
    log_steps: LogSteps = 10,
    report_to: ReportTo = "none",
    trust_remote_code: o.TrustRemoteCode = False,
    restart: RestartTraining = False,
) -> dict[str, Any]:
    """What both trainings can be told, as fields of `TrainingOptions`."""
    given = dict(locals())
    return {"out": given.pop("output"), **given}


def training_input(
    inputs: o.Inputs = None, limit: o.Limit = None, strict: o.Strict = False, quiet: o.Quiet = False
) -> TrainingInput:
    """The rows to train on. Raises UsageError for a file that is not there."""
    return TrainingInput(inputs, limit=limit, strict=strict, quiet=quiet)


class TrainingInput:
    """The rows of a training: read when the library asks for them, bad lines said and counted."""

    def __init__(self, inputs: Sequence[str] | None, *, limit: int | None, strict: bool, quiet: bool) -> None:
        from medsss_cli.stream.jsonl import check_inputs

        self.inputs = tuple(inputs or ())
        self.limit = limit
        self.strict = strict
        self.quiet = quiet
        self.bad_lines = 0
        # Before anything slow: a file that is not there must not be found out after torch is in.
        check_inputs(self.inputs or ("-",))

    @property
    def rows(self) -> Iterator[tuple[Where, dict[str, Any]]]:
        from medsss_cli.stream.jsonl import read_objects

        return islice(read_objects(self.inputs, on_bad=self.bad), self.limit)

    def bad(self, where: Where, what: str) -> None:
        """Say what is wrong with a line; raise BadRecord under --strict."""
        from medsss_cli import console
        from medsss_cli.errors import BadRecord

        if self.strict:
            raise BadRecord(f"{where}: {what}")
        self.bad_lines += 1
        console.say(f"{where}: {what}")

    def say(self, message: str) -> None:
        from medsss_cli import console

        if not self.quiet:
            console.note(message)


def finish(summary: TrainingSummary, given: TrainingInput) -> None:
    """Write the summary as one line, from process 0, and leave with 1 if a line of the input could not be used."""
    import dataclasses

    from medsss_cli.stream.jsonl import LineWriter
    from medsss_cli.training.common import is_main_process

    if is_main_process():
        with LineWriter() as out:
            out.write([dataclasses.asdict(summary) | {"bad": given.bad_lines}])
    raise typer.Exit(1 if given.bad_lines else 0)
