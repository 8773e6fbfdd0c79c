"""How the nodes of a tree get their own values: by rollouts, or by a process reward model. One of the two is passed
into a search, which has no branch on it (as mctx passes `recurrent_fn`).

Each holds its numbers as fields, which are the command's options, and no state: what it did can be counted in the tree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any, ClassVar, TypeAlias

from ..prm.aggregate import StepAggregation, aggregate_steps
from ..records import Action, Verdict
from ..settings import Opt, check
from .drawing import Draws, RequestKind, Talk, Valuation
from .tree import GrowingNode, GrowingTree


class End(StrEnum):
    """Why a search ended."""

    ENOUGH_CORRECT = "enough_correct"
    ENOUGH_FINISHES = "enough_finishes"  # by a reward model: of Finishes with an answer
    MAX_NODES = "max_nodes"
    MAX_DEPTH = "max_depth"  # of a beam: open paths were made to finish
    EXHAUSTED = "exhausted"  # every node is closed


@dataclass(frozen=True, slots=True)
class Rollouts:
    """A node's own value is the share of its rollouts that is right; a Finish has 1 or 0 by rule (paper, section 3.2).
    The gold answer is read."""

    GROUP: ClassVar[str] = "Search"

    rollout_budget: Annotated[
        int,
        Opt(
            "A node at depth d gets max(N // (d + 1), --min-rollouts) rollouts.",
            names=("--rollouts",),
            least=0,
            metavar="N",
        ),
    ] = 20
    min_rollouts: Annotated[int, Opt("Fewest rollouts of a node.", least=0, metavar="N")] = 5
    enough_correct: Annotated[
        int, Opt("Correct Finishes that end a tree; with fewer, open leaves must finish.", least=1, metavar="N")
    ] = 4

    def __post_init__(self) -> None:
        check(self)

    @property
    def sure(self) -> float:
        """The own value from which a node gets one Finish, where the config does not say it."""
        return 0.9

    def count(self, depth: int) -> int:
        """How many rollouts a node of this depth gets; with none it takes its parent's value (paper, section 3.2)."""
        return max(self.rollout_budget // (depth + 1), self.min_rollouts)

    def evaluate(self, draws: Draws, tree: GrowingTree, new: Sequence[tuple[int, int]]) -> Talk[None]:
        """Set `rollout_value` of new nodes: of each path's end, named first, and of the last steps on it, as many as
        stand beside it, where they are valued too. Finishes have been judged."""
        requests = []
        for end, _ in new:
            node = tree[end]
            if node.action is Action.FINISH:
                node.rollout_value = float(node.verdict is Verdict.CORRECT)
            elif n := self.count(node.depth):
                requests.append(draws.request(RequestKind.ROLLOUT, end, tree.steps(end), n))
        for request, replies in zip(requests, (yield from draws.ask(requests)), strict=True):
            node = tree[request.node]
            # By what each wrote itself: a step above may name an option, and must not count for it.
            right = sum(draws.judge(draws.problem, reply.text).verdict is Verdict.CORRECT for reply in replies)
            node.rollouts, node.rollout_value = len(replies), right / len(replies)

    def doubts(self, node: GrowingNode) -> bool:
        """Whether a Finish of small value may get a Reflect."""
        return node.verdict is Verdict.WRONG

    def enough(self, tree: GrowingTree) -> End | None:
        """The reason to end the search now that lies in the Finishes."""
        return End.ENOUGH_CORRECT if tree.judged(Verdict.CORRECT) >= self.enough_correct else None

    def stats(self, tree: GrowingTree) -> dict[str, Any]:
        return {"rollouts": sum(node.rollouts for node in tree.nodes)}


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A node's own value is the aggregate of the scores of the steps on its path; no gold answer is read. The scores
    are asked for by a `Valuation`, all new paths of an expansion in one."""

    GROUP: ClassVar[str] = "Reward model"

    step_aggregation: Annotated[
        StepAggregation, Opt("--prm: from the scores of the steps on a node's path to its value.")
    ] = StepAggregation.MIN
    enough_finishes: Annotated[
        int,
        Opt("--prm: Finishes with an answer that end a tree, in place of --enough-correct.", least=1, metavar="N"),
    ] = 16
    beam: Annotated[
        int | None,
        Opt("--prm: a step beam in place of the search by bounds, with W paths open at a time.", least=1, metavar="W"),
    ] = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def sure(self) -> float:
        """Never: a step's score is no estimate of how often an answer that goes on from it is right."""
        return math.inf

    def evaluate(self, draws: Draws, tree: GrowingTree, new: Sequence[tuple[int, int]]) -> Talk[None]:
        scores_PS: list[list[float]] = yield Valuation(tuple(tuple(tree.steps(end)) for end, _ in new))
        for (end, steps), scores in zip(new, scores_PS, strict=True):
            for index in islice(tree.upward(end), steps):
                node = tree[index]
                node.rollout_value = aggregate_steps(scores[: node.depth], self.step_aggregation)

    def doubts(self, node: GrowingNode) -> bool:
        return node.answer is not None

    def enough(self, tree: GrowingTree) -> End | None:
        answers = sum(node.answer is not None for node in tree.nodes)
        return End.ENOUGH_FINISHES if answers >= self.enough_finishes else None

    def stats(self, tree: GrowingTree) -> dict[str, Any]:
        valued = sum(node.rollout_value is not None for node in tree.nodes)
        return {"rollouts": 0, "guided": True, "valued": valued}


Values: TypeAlias = Rollouts | RewardModel
