"""How `train-policy` and `train-prm` run: rows in, a line with the losses out."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import typer

from medsss_cli import console
from medsss_cli.settings import Opt
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import check_inputs, read_objects
from medsss_cli.stream.outputs import LineWriter
from medsss_cli.training.config import TrainingConfig

Quiet = Annotated[bool, Opt("No progress and no notes; errors stay.", names=("--quiet", "-q"))]


def train(training: Any, config: TrainingConfig, strict: bool, quiet: bool) -> NoReturn:
    """Run a `Training` and write its summary as one line, from process 0. Ends the program, with
    1 if a line of the input could not be used. Raises UsageError for an input that is not there."""
    from medsss_cli.training.run import is_main_process

    check_inputs(config.inputs or ("-",))
    with Faults(strict=strict) as faults:
        rows = read_objects(config.inputs, on_bad=faults.bad)
        summary = training(config, rows, (lambda _: None) if quiet else console.note, faults.bad).run()
        if is_main_process():
            with LineWriter() as out:
                out.write([summary | {"bad": faults.bad_lines}])
    raise typer.Exit(faults.exit_code)
