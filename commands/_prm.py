"""What commands that read with a reward model share: the options of how it is read, and the model in its thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from medsss_cli.engines.base import EngineConfig
    from medsss_cli.prm.config import PrmConfig
    from medsss_cli.prm.scorer import Scorer
    from medsss_cli.records import Problem

StepAggregationName = Literal["min", "last", "prod", "mean", "gmean"]


@dataclass(frozen=True)
class PrmReading:
    """How a reward model is read; see the options."""

    format: str = "auto"
    device: str | None = None
    dtype: str = "auto"
    batch_tokens: int = 16384


def prm_reading(
    prm_format: Annotated[
        Literal["auto", "medsss", "qwen", "math-shepherd", "rlhflow", "skywork", "med-prm", "trl"],
        typer.Option("--prm-format", help="How the reward model reads an answer; auto: as its files tell."),
    ] = "auto",
    prm_device: Annotated[
        str | None,
        typer.Option("--prm-device", metavar="D", help="cpu, cuda, cuda:1; default: as --device.", show_default=False),
    ] = None,
    prm_dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option("--prm-dtype", help="The numbers that the reward model computes with."),
    ] = "auto",
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", min=1, metavar="N", help="Tokens in one pass of the reward model.")
    ] = 16384,
) -> PrmReading:
    return PrmReading(prm_format, prm_device, prm_dtype, batch_tokens)


READING = tuple(signature(prm_reading).parameters)


class PrmThread:
    """An open reward model and the one thread that uses it: the event loop goes on feeding the engine meanwhile."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    @classmethod
    def open(cls, prm: str, reading: PrmReading, spec: EngineConfig) -> PrmThread:
        """Raises UsageError where there is no reward model."""
        from medsss_cli.prm.scorer import open_prm

        return cls(open_prm(as_config(prm, reading, spec.device)))

    def __enter__(self) -> PrmThread:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def values(self, problem: Problem, paths: Sequence[Sequence[str]]) -> list[list[float]]:
        """The scores of the steps of paths: see `search.driver.Values`."""
        return await self.scorer.values(problem, paths)

    def notes(self) -> list[str]:
        return self.scorer.notes()

    def warn_too_long(self) -> None:
        from medsss_cli.console import warn

        for line in self.scorer.warnings():
            warn(line)


def as_config(prm: str | None, reading: PrmReading, device: str = "auto") -> PrmConfig:
    """The options as the library takes them."""
    from medsss_cli.prm.config import Dtype, Format, PrmConfig

    return PrmConfig(prm, Format(reading.format), reading.device or device, Dtype(reading.dtype), reading.batch_tokens)
