"""The numbers of one search. Their defaults are the paper's (section 3.2 and its appendix of settings), or those of the
authors' code where the paper is silent."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..errors import UsageError
from ..prm.aggregate import StepAggregation
from ..prompts import Prompting


class Expand(StrEnum):
    """How the actions of the children are found."""

    CHOICE = "choice"  # the policy is asked Reason or Finish, once per child
    REASON = "reason"  # every child is a Reason


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """What a search runs with. Two searches of one problem with equal configs ask for the same draws.

    Raises UsageError for a number outside its range.
    """

    max_nodes: int = 60  # no expansion begins once the tree has this many nodes, the root among them; >= 1
    children: int = 3  # draws per expansion; equal ones become one child; >= 1
    ucb_c: float = 2.0  # c of the upper confidence bound; >= 0
    unvisited: float = 5.0  # the bound of a child that was never visited
    rollout_budget: int = 20  # rollouts of a node: max(rollout_budget // (depth + 1), min_rollouts); >= 0
    min_rollouts: int = 5  # >= 0; both 0: no rollouts, a node takes its parent's value
    finish_threshold: float = 0.9  # a node whose rollout value reaches this gets one Finish; above 1: never
    wrong_below: float = 0.5  # a wrong Finish whose value is below this gets a Reflect; 0: never
    reflects: int = 1  # Reflects on a path from the root; >= 0
    enough_correct: int = (
        4  # correct Finish leaves that end the search; with fewer, open leaves are made to finish; >= 1
    )
    enough_finishes: int = 16  # with a reward model, in place of `enough_correct`: Finishes with an answer; >= 1
    max_depth: int = 20  # a node this deep may only finish; >= 1
    temperature: float = 1.0  # of every draw; >= 0
    top_p: float = 0.95  # of every draw, in (0, 1]
    max_step_tokens: int = 512  # of one Reason or Reflect; >= 1
    max_tokens: int = 1024  # of one Finish or rollout; >= 1
    prompting: Prompting = Prompting.NATIVE
    expand: Expand = Expand.CHOICE
    seed: int = 0
    step_aggregation: StepAggregation | None = None  # from a reward model's step scores to a node's value; None: none

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:
                raise UsageError(f"--{_option(name)} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p must lie in (0, 1], got {self.top_p}")

    def rollouts(self, depth: int) -> int:
        """How many rollouts a node of this depth gets (paper, section 3.2, evaluation)."""
        return max(self.rollout_budget // (depth + 1), self.min_rollouts)

    def as_record(self) -> dict[str, Any]:
        """The config as the tree record and the resume check hold it: plain JSON values. What is a reward model's
        stands in it only where there is one, what is another's only where there is none."""
        unused = _ROLLOUTS_ALONE if self.step_aggregation is not None else _GUIDED_ALONE
        return {
            key: str(value) if isinstance(value, StrEnum) else value
            for key, value in dataclasses.asdict(self).items()
            if key not in unused
        }


_ROLLOUTS_ALONE = ("rollout_budget", "min_rollouts", "enough_correct")
_GUIDED_ALONE = ("enough_finishes", "step_aggregation")

_LEAST: dict[str, float] = {
    "max_nodes": 1,
    "children": 1,
    "ucb_c": 0,
    "rollout_budget": 0,
    "min_rollouts": 0,
    "reflects": 0,
    "enough_correct": 1,
    "enough_finishes": 1,
    "max_depth": 1,
    "temperature": 0,
    "max_step_tokens": 1,
    "max_tokens": 1,
}


def _option(name: str) -> str:
    return "rollouts" if name == "rollout_budget" else name.replace("_", "-")
