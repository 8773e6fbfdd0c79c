"""`medsss train-policy`: sft or preference records, or problems for grpo, in; a model folder out. Starting takes some
15 s (imports), then it runs one epoch; a full training needs about 16 bytes a parameter, LoRA about 2."""

from __future__ import annotations

from typing import Any, NoReturn

import typer

from medsss_cli import console
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import check_inputs, read_objects
from medsss_cli.stream.outputs import LineWriter
from medsss_cli.training.config import PolicyConfig, TrainingConfig

from . import _options as o


@o.options
def run(*, config: PolicyConfig, strict: o.Strict = False, quiet: o.Quiet = False) -> None:
    """Train the policy on sft records (`label --to sft`), preference records (`label --to preference`), or with
    --method grpo on problems, by the reward of right answers.

    Writes a folder that transformers, vLLM and every medsss command take as a model, and one JSON line with the losses.
    Run again, it goes on from its last checkpoint. Runs under torchrun and `accelerate launch -m medsss_cli.app`.
    """
    strange = [name for name, methods in config.ONLY.items() if config.method not in methods]
    o.refuse_given(strange, f"is not for --method {config.method}")
    from medsss_cli.training.policy import POLICY_TRAININGS

    train(POLICY_TRAININGS[config.method], config, strict, quiet)


def train(training: Any, config: TrainingConfig, strict: bool, quiet: bool) -> NoReturn:
    """Run a `Training` of a policy or a reward model and write its summary as one line, from process 0. Ends the
    program, with 1 if a line of the input could not be used. Raises UsageError for an input that is not there."""
    from medsss_cli.training.run import is_main_process

    check_inputs(config.inputs or ("-",))
    with Faults(strict=strict) as faults:
        rows = read_objects(config.inputs, on_bad=faults.bad)
        summary = training(config, rows, (lambda _: None) if quiet else console.note, faults.bad).run()
        if is_main_process():
            with LineWriter() as out:
                out.write([summary | {"bad": faults.bad_lines}])
    raise typer.Exit(faults.exit_code)
