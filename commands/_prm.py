"""What commands that read with a reward model share: the options of how it is read, and the model in its thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

if TYPE_CHECKING:
    from medsss_cli.engines.base import EngineConfig
    from medsss_cli.prm.scorer import Scorer
    from medsss_cli.records import Problem

_T = TypeVar("_T")

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
        self._thread = ThreadPoolExecutor(1, "prm")

    @classmethod
    def open(cls, prm: str, reading: PrmReading, spec: EngineConfig) -> PrmThread:
        """Raises UsageError where there is no reward model."""
        from medsss_cli.prm.scorer import Scorer

        return cls(
            Scorer.open(
                prm,
                format=reading.format,
                device=reading.device or spec.device,
                dtype=reading.dtype,
                batch_tokens=reading.batch_tokens,
                trust_remote_code=spec.trust_remote_code,
            )
        )

    def __enter__(self) -> PrmThread:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    async def run(self, work: Callable[[], _T]) -> _T:
        """What `work`, which uses the scorer, returns."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def values(self, problem: Problem, paths: Sequence[Sequence[str]]) -> list[list[float]]:
        """The scores of the steps of paths: see `search.driver.Values`."""
        return await self.run(lambda: self.scorer.score_paths(problem, paths))

    def notes(self) -> list[str]:
        """What it has to tell at the end of a run, a line each."""
        scorer, notes = self.scorer, []
        if scorer.way is None:
            notes.append(f"the reward model takes no packs, so shared beginnings are computed again: {scorer.unpacked}")
        return [*notes, f"scored {scorer.scored} candidates, {scorer.tokens} tokens of {scorer.path_tokens}"]

    def warn_too_long(self) -> None:
        """Say how many texts had no scores."""
        from medsss_cli.console import warn

        if self.scorer.too_long:
            warn(
                f"{self.scorer.too_long} candidates are longer than the reward model's context; they have no step "
                "scores and score 0"
            )
