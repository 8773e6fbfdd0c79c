"""The numbers of a search. Their defaults are the authors' (their `trial5.json` and the calls of their engine), but for
`max_depth` and the token limits, which are ours."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from ..prompts import Prompting
from ..settings import Opt, check


class Expand(StrEnum):
    """How the actions of the children are found."""

    CHOICE = "choice"
    REASON = "reason"


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """What a search runs with, but for where its values come from (`values`). Two searches of one problem with equal
    configs ask for the same draws. Raises UsageError for a number outside its range."""

    GROUP: ClassVar[str] = "Search"

    prompting: Annotated[
        Prompting, Opt('native: the policy writes "Step k: ..." by itself; instruct: it is told how.')
    ] = Prompting.NATIVE
    max_nodes: Annotated[int, Opt("Begin no expansion at N nodes or more.", least=1, metavar="N")] = 60
    children: Annotated[int, Opt("Draws per expansion; equal ones are one child.", least=1, metavar="N")] = 3
    expand: Annotated[
        Expand, Opt("choice: the policy says Reason or Finish for each child; reason: every child is a Reason.")
    ] = Expand.CHOICE
    ucb_c: Annotated[float, Opt("Weight of exploration.", least=0, metavar="C")] = 2.0
    finish_threshold: Annotated[
        float | None,
        Opt("A node whose own value reaches V gets one Finish.", metavar="V", shown="0.9; with --prm never"),
    ] = None
    reflects: Annotated[
        int,
        Opt("At most N Reflects on a path, each after a wrong Finish (--prm: a value below .5).", least=0, metavar="N"),
    ] = 1
    max_depth: Annotated[int, Opt("A node this deep may only finish.", least=1, metavar="N")] = 20
    temperature: Annotated[
        float, Opt("Sampling temperature; 0 is greedy.", names=("--temperature", "-T"), least=0, metavar="T")
    ] = 1.0
    top_p: Annotated[float, Opt("Nucleus sampling.", above=0, most=1, metavar="P")] = 0.95
    max_step_tokens: Annotated[int, Opt("Most tokens of one Reason or Reflect.", least=1, metavar="N")] = 512
    max_tokens: Annotated[int, Opt("Most tokens of one Finish or rollout.", least=1, metavar="N")] = 1024
    seed: Annotated[int, Opt("Where every random draw derives from.", metavar="S")] = 0

    def __post_init__(self) -> None:
        check(self)


def as_record(config: Any) -> dict[str, Any]:
    """A config as the tree record and the resume check hold it: plain JSON values."""
    return {
        name: str(value) if isinstance(value, StrEnum) else value for name, value in dataclasses.asdict(config).items()
    }
