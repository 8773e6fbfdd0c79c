"""What `train-policy` and `train-prm` share: their input, and the line that they end with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from medsss_cli import console
from medsss_cli.settings import Opt
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import LineWriter, check_inputs, read_objects

from ._options import Strict


@dataclass(frozen=True, slots=True)
class TrainingInput:
    """The rows to train on. Raises UsageError for a file that is not there."""

    inputs: Annotated[
        tuple[str, ...],
        Opt("Files of records, also .gz and .zst; `-` or nothing is stdin.", argument=True, metavar="INPUT..."),
    ] = ()
    strict: Strict = False
    quiet: Annotated[bool, Opt("No progress and no notes; errors stay.", names=("--quiet", "-q"))] = False

    def __post_init__(self) -> None:
        check_inputs(self.inputs or ("-",))

    def train(self, trainer: Callable[..., Any], config: Any) -> None:
        """Train by `train_policy` or `train_prm` and write the summary as one line, from process 0. Ends the program,
        with 1 if a line of the input could not be used."""
        from medsss_cli.training.run import is_main_process

        with Faults(strict=self.strict) as faults:
            rows = read_objects(self.inputs, on_bad=faults.bad)
            say = (lambda _: None) if self.quiet else console.note
            summary = trainer(dataclasses.replace(config, inputs=self.inputs), rows, say=say, on_bad=faults.bad)
            if is_main_process():
                with LineWriter() as out:
                    out.write([dataclasses.asdict(summary) | {"bad": faults.bad_lines}])
        raise typer.Exit(faults.exit_code)
