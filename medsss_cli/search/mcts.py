"""The tree search of MedS3 (arXiv 2501.12051, section 3.2) as a pure generator: it knows no engine, no clock and no
randomness; it yields batches of requests and is sent their completions. `driver.grow` runs it against an engine.

One round: select the open leaf of the greatest upper confidence bound, expand it (`drawing`), evaluate the new nodes
(`values`), back their values up (`tree`). What an expansion gives, by the leaf:

- a Finish that is wrong: one Reflect, which is told so, begins "But wait," and keeps one step;
- the root: `children` Reasons;
- an own value of at least `finish_threshold`, or depth `max_depth`: one Finish;
- any other: the policy is asked `children` times for Reason or Finish, and each choice is carried out.

The search ends with enough Finishes, at `max_nodes` nodes, or when every node is closed. In the last two cases every
leaf that is no Finish gets one. Departures from the paper and the authors' code: docs/algorithms.md, 1 to 12."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from ..records import Action, Problem, Tree, Verdict, problem_fields
from ..steps import SEPARATOR
from .config import Expand, SearchConfig, as_record
from .drawing import Branch, Draws, Judge, RequestKind, Talk
from .tree import GrowingTree, back_up, close, select
from .values import End, Values

WRONG_BELOW = 0.5
"""A Finish of a value below this is wrong (paper, section 3.2)."""


def search(problem: Problem, config: SearchConfig, judge: Judge, values: Values) -> Talk[Tree]:
    """Grow the tree of one problem (see `Talk`; no batch is empty). Sent equal completions and scores, it gives an
    equal tree, whatever else runs beside it. Raises what `judge` raises."""
    growth = Growth(problem, config, judge, values)
    while (end := growth.ended()) is None:
        yield from growth.expand(select(growth.tree, c=config.ucb_c))
    searched = len(growth.tree)
    if end in (End.MAX_NODES, End.EXHAUSTED):
        tree = growth.tree
        yield from growth.force_finishes([leaf for leaf in tree.leaves() if tree[leaf].action is not Action.FINISH])
    return growth.record(end, searched)


class Growth:
    """A tree that grows, and what grows it."""

    def __init__(self, problem: Problem, config: SearchConfig, judge: Judge, values: Values) -> None:
        self.problem, self.config, self.judge, self.values = problem, config, judge, values
        self.sure = values.sure if config.finish_threshold is None else config.finish_threshold
        self.tree = GrowingTree()
        self.draws = Draws(problem, config, judge)
        self.duplicates = 0

    def ended(self) -> End | None:
        if (end := self.values.enough(self.tree)) is not None:
            return end
        if self.tree[0].closed:
            return End.EXHAUSTED
        return End.MAX_NODES if len(self.tree) >= self.config.max_nodes else None

    def expand(self, leaf: int) -> Talk[None]:
        """Draw what follows `leaf`, add it, evaluate it, back it up. See the head of the module for the cases."""
        node, config, steps = self.tree[leaf], self.config, self.tree.steps(leaf)
        sure = node.rollout_value is not None and node.rollout_value >= self.sure
        if node.action is Action.FINISH:
            actions = [Action.REFLECT]
        elif leaf > 0 and (sure or node.depth >= config.max_depth):
            actions = [Action.FINISH]
        elif leaf == 0 or config.expand is Expand.REASON:
            actions = [Action.REASON] * config.children
        else:
            actions = yield from self.draws.choices(leaf, steps)
        branches = yield from self.draws.branches(leaf, steps, actions)
        if unique := self.unique(branches):
            yield from self.grow([(leaf, branch) for branch in unique])
        else:
            node.closed = True
            close(self.tree, node.parent)

    def unique(self, branches: Sequence[Branch]) -> list[Branch]:
        """Equal siblings are one child."""
        unique = list(dict.fromkeys(branches))
        self.duplicates += len(branches) - len(unique)
        return unique

    def grow(self, sprouts: Sequence[tuple[int, Branch]], *, forced: bool = False) -> Talk[list[int]]:
        """Add each branch below its leaf, evaluate them and back their ends up, in this order; returns the ends. Steps
        that have no value of their own begin with the one that the leaf has when their end is backed up."""
        tree, ends = self.tree, []
        for leaf, branch in sprouts:
            above = leaf
            for step in branch.steps[:-1]:
                above = tree.add(above, Action.REASON, step)
            ends.append(tree.add(above, branch.action, branch.steps[-1]))
            if branch.action is Action.FINISH:
                judgement = self.judge(self.problem, SEPARATOR.join(branch.steps))
                tree[ends[-1]].answer, tree[ends[-1]].verdict = judgement.answer, judgement.verdict
        new = [(end, len(branch.steps)) for end, (_, branch) in zip(ends, sprouts, strict=True)]
        yield from self.values.evaluate(self.draws, tree, new)
        for (end, steps), (leaf, _) in zip(new, sprouts, strict=True):
            for index in islice(tree.upward(end), steps):
                own = tree[index].rollout_value
                tree[index].value = tree[leaf].value if own is None else own
            tree[end].closed = tree[end].action is Action.FINISH and (forced or not self.may_reflect(end))
            back_up(tree, end, tree[end].value)
        return ends

    def may_reflect(self, end: int) -> bool:
        """Whether a Reflect may follow the Finish `end`."""
        node, config = self.tree[end], self.config
        return (
            self.values.doubts(node)
            and node.value < WRONG_BELOW
            and node.depth < config.max_depth
            and self.tree.reflections(end) < config.reflects
        )

    def force_finishes(self, leaves: list[int]) -> Talk[None]:
        """One Finish below each of the leaves, those of the greatest value first, asked for in one batch. Nothing is
        expanded after it."""
        tree = self.tree
        leaves = sorted(leaves, key=lambda leaf: -tree[leaf].value)
        forced, asked = RequestKind.FORCED_FINISH, self.draws.request
        replies = yield from self.draws.ask([asked(forced, leaf, tree.steps(leaf), 1) for leaf in leaves])
        drawn = [
            (leaf, self.draws.read(reply, tree[leaf].depth + 1, Action.FINISH))
            for leaf, [reply] in zip(leaves, replies, strict=True)
        ]
        if sprouts := [(leaf, branch) for leaf, branch in drawn if branch]:
            yield from self.grow(sprouts, forced=True)

    def record(self, end: End, searched: int) -> Tree:
        """The tree as it is written; `searched` nodes were there before leaves were made to finish. Of its stats,
        `nodes` counts the root and the `forced_nodes` too, `requests` prompts by kind."""
        tree, draws = self.tree, self.draws
        stats = {
            "end": str(end),
            "nodes": len(tree),
            "forced_nodes": len(tree) - searched,
            "requests": {str(kind): draws.requests[kind] for kind in RequestKind},
            "tokens": draws.tokens,
            **{str(verdict): tree.judged(verdict) for verdict in (Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER)},
            "duplicates": self.duplicates,
            "dropped": {"empty": draws.empty, "cut": draws.cut},
            **self.values.stats(tree),
        }
        config = as_record(self.config) | as_record(self.values)
        return Tree(**problem_fields(self.problem), nodes=tree.records(), stats=stats, config=config)
