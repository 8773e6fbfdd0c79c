"""What only `sample` has among the options of an engine and of asking: several policies, templates, corrections."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import _options as o

if TYPE_CHECKING:
    from medsss_cli.engines.base import EngineConfig
    from medsss_cli.requests import Sampling
    from medsss_cli.sampling import Asking

_POLICIES = typer.Option(
    "--policy",
    metavar="MODEL",
    help="A model folder, a hub name, or builtin:clinic; may be repeated: each gives n answers and signs them. "
    "http: all servers serve all of them.",
    show_default="builtin:clinic",
)


def engine_specs(**given: Any) -> list[EngineConfig]:
    """What `_options.engine_spec` takes, with several policies: a spec for each, all else the same. Raises UsageError
    for what belongs to one model alone."""
    from medsss_cli.errors import UsageError

    policies = given.pop("policy") or ["builtin:clinic"]
    if len(set(policies)) < len(policies):
        raise UsageError(f"--policy {', '.join(policies)}: one of them twice", hint="-n is for more answers of one")
    for name in ("adapter",) if len(policies) > 1 else ():
        if given[name] is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} belongs to one policy, and here are {len(policies)}",
                hint="one run for each policy, the later ones with --keep on what the one before wrote",
            )
    return [o.engine_spec(policy=policy, **given) for policy in policies]


def _several(parameter: inspect.Parameter) -> inspect.Parameter:
    if parameter.name == "policy":
        return parameter.replace(annotation=Annotated[list[str] | None, _POLICIES], default=None)
    return parameter.replace(annotation=getattr(o, parameter.annotation))


engine_specs.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_several(parameter) for parameter in inspect.signature(o.engine_spec).parameters.values()]
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is done beside plain drawing, and where. `rates` is the band of `--pass-rate`, None for all records."""

    template: str | None
    reveal: bool
    keep: bool
    correct: bool
    others: int
    rates: tuple[float, float] | None

    @property
    def reads_samples(self) -> bool:
        """Whether records with answers are taken as these, not as problems."""
        return self.keep or self.correct

    def config(self) -> dict[str, Any]:
        """The settings that change results, where they are not the defaults."""
        return {
            **({"template": self.template} if self.template else {}),
            **({"reveal_answer": True} if self.reveal else {}),
            **({"keep": True} if self.keep else {}),
            **({"correct": True, "others": self.others, "pass_rate": self.rates} if self.correct else {}),
        }

    def check(self, prompting: str, *, curriculum: bool) -> None:
        """Raises UsageError for options at odds."""
        from medsss_cli.errors import UsageError

        instructions = {
            "--template": self.template is not None,
            "--reveal-answer": self.reveal,
            "--others": self.others > 0,
        }
        for name, given in instructions.items():
            if given and prompting != "instruct":
                raise UsageError(
                    f"{name} is an instruction, and --prompting native gives none",
                    hint="--prompting instruct; a native policy writes its own steps, so leave it out there",
                )
        if self.reveal and self.template is None and not self.correct:
            raise UsageError("--reveal-answer goes with --template or --correct")
        for name, given in (("--others", self.others > 0), ("--pass-rate", self.rates is not None)):
            if given and not self.correct:
                raise UsageError(f"{name} goes with --correct")
        if self.correct and (self.template is not None or self.keep):
            raise UsageError("--correct goes neither with --template nor with --keep", hint="they are two runs")
        if curriculum and (self.reads_samples or self.reveal):
            raise UsageError("--curriculum goes by a policy's own answers: no --correct, --keep or --reveal-answer")

    def asking(self, sampling: Sampling, n: int, prompting: str, extract: str) -> Asking:
        """How the library asks."""
        from medsss_cli.answers import Extract
        from medsss_cli.prompts import Prompting, Template
        from medsss_cli.sampling import Asking

        template = None if self.template is None else Template(self.template)
        return Asking(sampling, n, Prompting(prompting), Extract(extract), template, self.reveal)


def recipe(
    template: Annotated[
        Literal["thought"] | None,
        typer.Option("--template", help="instruct: ask for a long thought: plan, chain, check.", show_default=False),
    ] = None,
    reveal_answer: Annotated[
        bool,
        typer.Option(
            "--reveal-answer", help="instruct: show the gold answer to the policy; answers that betray it are refused."
        ),
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Samples records in the input keep their answers, and get these besides.")
    ] = False,
    correct: Annotated[
        bool,
        typer.Option("--correct", help="Read samples records, and have every wrong answer put right, -n tries each."),
    ] = False,
    others: Annotated[
        int,
        typer.Option("--others", min=0, metavar="K", help="--correct, instruct: show up to K other wrong answers."),
    ] = 0,
    rates: Annotated[
        str | None,
        typer.Option(
            "--pass-rate",
            metavar="LOW:HIGH",
            help="--correct: only records with LOW <= pass rate < HIGH (1 counts in LOW:1); others pass unchanged.",
            show_default=False,
        ),
    ] = None,
) -> Recipe:
    """The options of the recipes. Raises UsageError for a band that cannot be."""
    from medsss_cli.errors import UsageError

    band = None
    if rates is not None:
        low, _, high = rates.partition(":")
        try:
            band = (float(low), float(high))
        except ValueError:
            band = (1.0, 0.0)
        if not 0 <= band[0] < band[1] <= 1:
            raise UsageError(f"--pass-rate {rates}: no band of pass rates", hint="LOW:HIGH, 0 <= LOW < HIGH <= 1")
    return Recipe(template, reveal_answer, keep, correct, others, band)
