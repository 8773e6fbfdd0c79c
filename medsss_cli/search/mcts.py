"""The tree search of MedS3 (arXiv 2501.12051, section 3.2) as a pure generator: problem, numbers and completions in,
tree out. It knows no engine, no clock and no randomness of its own; it yields batches of requests and is sent their
completions. `driver.grow` runs it against an engine.

One round: select the open leaf of the greatest upper confidence bound (`selection`), expand it, evaluate the new
nodes, back their values up (`backup`). Requests that do not depend on one another are yielded together: first the
choices of an expansion, then all its Reasons and Finishes, then the rollouts of all its new nodes. A round is thus
three batches at most.

With `config.step_aggregation` a process reward model takes the place of rollouts: after the draws of an expansion
comes a `Valuation`, all its new paths in one, which is answered by the scores of their steps. A node's value is the
aggregate of the scores on its path. See 12 for what else differs.

What an expansion gives, by the leaf:

- a Finish that is wrong: one Reflect, which is told so, begins "But wait," and keeps one step;
- the root: `children` Reasons;
- a rollout value of at least `finish_threshold`, or depth `max_depth`: one Finish;
- any other: the policy is asked `children` times for Reason or Finish, and each choice is carried out.

The search ends with `enough_correct` correct Finish nodes, at `max_nodes` nodes, or when every node is closed. If the
correct ones are fewer then, every leaf that is no Finish gets one.

Departures from the paper, and from the authors' published code where that is what settles a question:

1. Budgets belong to one tree. The published code raises the node limit within a configuration that all trees share
   each time a Finish writes several steps, so a tree's budget depends on the trees before it. Here `max_nodes` is
   what it is, and all nodes count.
2. The children of an expansion are drawn and evaluated together, not one after the other, and backed up in order. The
   values come out the same, because unvisited siblings weigh nothing.
3. Equal siblings are one child: an expansion that draws the same text twice keeps the first. The published code keeps
   both and rolls both out, but counts equal correct leaves once when it decides whether it has enough.
4. A Finish that wrote several steps becomes a chain of Reason nodes and one Finish, as in the published code. Here the
   nodes within the chain begin with no visit, there with one.
5. A Finish ends with the first of its steps that states the answer. What a policy writes after it is left out of the
   tree; if the answer is wrong, second thoughts are the business of Reflect.
6. At most one Reflect on a path (`reflects`). The published code has a limit of one too, but its count starts anew at
   each Reason (`MCTS.expand_node` makes that node without it), so that chains occur.
7. A Finish without a readable answer is judged no_answer, has value 0 and is closed: there is no wrong answer to
   reflect on. The published code calls it a Reason and rolls it out.
8. Steps that cannot be used make no node: an empty one, and a Reason or Reflect that was cut at `max_step_tokens`
   before it came to an end (`stats.dropped`). A leaf that got no child at all is closed; it may still be made to
   finish at the end.
9. Rollouts are judged by what they wrote themselves, not by the steps before them: a step may name an option, and
   that must not count for a rollout that gives no answer.
10. The root is not rolled out (as in the published code). It begins with value 0, and its final value is therefore a
    little low in a small tree.
11. `max_depth` is new: a policy that never comes to an answer would otherwise dig one path through the whole budget.
12. Search by a reward model is new. It reads no gold answer: equal draws and scores give an equal tree whatever the
    gold answer is, but for the verdicts, which are noted for those who label or count. So a Finish has the model's
    value like any other node; one with an answer and a value below `wrong_below` gets the Reflect, whose turn says
    that the answer is wrong; and what is enough is counted in Finishes that state an answer (`enough_finishes`). The
    steps within a Finish have the model's value too. A step's score is no estimate of how often an answer that goes
    on from it is right, so the command leaves the rule of `finish_threshold` out unless it is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ..answers import Judgement, states_answer
from ..prm.aggregate import aggregate_steps
from ..prompts import BUT_WAIT, CHOICES, choice_prompt, finish_prompt, reason_prompt, reflect_prompt
from ..records import Action, Problem, Tree, Verdict, problem_fields
from ..requests import Completion, FinishReason, Prompt, Sampling, derive_seed
from ..steps import SEPARATOR, STEP_WORD, split_steps
from .backup import back_up, close
from .config import Expand, SearchConfig
from .selection import select
from .tree import GrowingTree

Judge: TypeAlias = Callable[[Problem, str], Judgement]


class RequestKind(StrEnum):
    """What a request is for. The kind is the purpose that its seed derives from."""

    CHOICE = "choice"
    REASON = "reason"
    FINISH = "finish"
    REFLECT = "reflect"
    ROLLOUT = "rollout"
    FORCED_FINISH = "forced_finish"


@dataclass(frozen=True, slots=True)
class Request:
    """`n` completions of `prompt`, wanted for node `node`: the one to expand, or the one to roll out."""

    kind: RequestKind
    node: int
    prompt: Prompt
    sampling: Sampling
    n: int


@dataclass(frozen=True, slots=True)
class Valuation:
    """Paths whose steps a reward model is to score: bare steps, step 0 first, which gets no score."""

    paths: tuple[tuple[str, ...], ...]


_T = TypeVar("_T")
Talk: TypeAlias = Generator[list[Request] | Valuation, Any, _T]
"""Yields batches of requests, for which it is sent their completions, [request][draw], and valuations, for which it is
sent scores in [0, 1], [path][step], [] for a path that cannot be scored. Returns a T."""


class End(StrEnum):
    """Why a search ended."""

    ENOUGH_CORRECT = "enough_correct"
    ENOUGH_FINISHES = "enough_finishes"  # by a reward model: of Finishes with an answer
    MAX_NODES = "max_nodes"
    EXHAUSTED = "exhausted"  # every node is closed


@dataclass(frozen=True, slots=True)
class _Branch:
    """What one draw adds below a node: bare steps, all but the last being Reasons, the last being `action`."""

    steps: tuple[str, ...]
    action: Action


class WrittenStep(NamedTuple):
    """The first step of a completion: bare, "" where there is none, and whether it was cut before its end."""

    text: str
    cut: bool


def first_step(reply: Completion, k: int) -> WrittenStep:
    """The step number `k` that a completion begins with, which a policy may write with its mark or without."""
    steps = split_steps(reply.text, first=k)
    return WrittenStep(steps[0] if steps else "", reply.finish_reason is FinishReason.LENGTH and len(steps) <= 1)


def search(problem: Problem, config: SearchConfig, judge: Judge) -> Talk[Tree]:
    """Grow the tree of one problem.

    Yields batches of requests, never empty, and is sent for each the list of its n completions, in the same order; with
    `config.step_aggregation` also valuations (see `Talk`).
    Returns the finished tree. Every request has its own seed, derived from (config.seed, problem.id, node, kind):
    sent equal completions, the search gives an equal tree, whatever else runs beside it. Raises what `judge` raises.
    """
    return (yield from _Search(problem, config, judge).run())


class _Search:
    """The state of one search: the tree, and what has been counted."""

    def __init__(self, problem: Problem, config: SearchConfig, judge: Judge) -> None:
        self.problem, self.config, self.judge = problem, config, judge
        self.tree = GrowingTree()
        self.requests: Counter[RequestKind] = Counter()
        self.tokens = self.rollouts = self.valued = self.duplicates = self.empty = self.cut = 0

    def run(self) -> Talk[Tree]:
        while (end := self.ended()) is None:
            leaf = select(self.tree, c=self.config.ucb_c, unvisited=self.config.unvisited)
            assert leaf is not None, "the root is open"
            yield from self.expand(leaf)
        searched = len(self.tree)
        if end not in (End.ENOUGH_CORRECT, End.ENOUGH_FINISHES):
            yield from self.force_finishes()
        return Tree(
            **problem_fields(self.problem),
            nodes=self.tree.records(),
            stats=self.stats(end, forced_nodes=len(self.tree) - searched),
            config=self.config.as_record(),
        )

    def ended(self) -> End | None:
        if self.config.step_aggregation is not None:
            if self.tree.answers() >= self.config.enough_finishes:
                return End.ENOUGH_FINISHES
        elif self.tree.finishes(Verdict.CORRECT) >= self.config.enough_correct:
            return End.ENOUGH_CORRECT
        if self.tree[0].closed:
            return End.EXHAUSTED
        return End.MAX_NODES if len(self.tree) >= self.config.max_nodes else None

    def expand(self, leaf: int) -> Talk[None]:
        """Draw what follows `leaf`, add it, evaluate it, back it up. See the head of the module for the cases."""
        node, config = self.tree[leaf], self.config
        sure = node.rollout_value is not None and node.rollout_value >= config.finish_threshold
        if node.action is Action.FINISH:
            branches = yield from self.reflect(leaf)
        elif leaf > 0 and (sure or node.depth >= config.max_depth):
            branches = yield from self.draw(leaf, [Action.FINISH])
        elif leaf == 0 or config.expand is Expand.REASON:
            branches = yield from self.draw(leaf, [Action.REASON] * config.children)
        else:
            actions = yield from self.choose(leaf)
            branches = yield from self.draw(leaf, actions)
        unique = list(dict.fromkeys(branches))
        self.duplicates += len(branches) - len(unique)
        if unique:
            yield from self.grow([(leaf, branch) for branch in unique])
        else:
            node.closed = True
            close(self.tree, node.parent)

    def choose(self, leaf: int) -> Talk[list[Action]]:
        """Ask for Reason or Finish, once per child."""
        reason, finish = CHOICES
        prompt = choice_prompt(self.problem, self.tree.steps(leaf), self.config.prompting)
        request = self.request(
            RequestKind.CHOICE, leaf, prompt, self.config.children, max_tokens=1, allowed_tokens=(reason, finish)
        )
        [replies] = yield from self.ask([request])
        return [Action.FINISH if reply.text.strip() == finish else Action.REASON for reply in replies]

    def draw(self, leaf: int, actions: Sequence[Action]) -> Talk[list[_Branch]]:
        """Carry out `actions`, Reasons and Finishes, all asked for in one batch. What came of them stands in their
        order; what cannot be used is left out."""
        steps, config, requests = self.tree.steps(leaf), self.config, []
        reasons, finishes = actions.count(Action.REASON), actions.count(Action.FINISH)
        if reasons:
            prompt = reason_prompt(self.problem, steps, config.prompting)
            requests.append(self.step_request(RequestKind.REASON, leaf, prompt, reasons))
        if finishes:
            prompt = finish_prompt(self.problem, steps, config.prompting)
            requests.append(self.request(RequestKind.FINISH, leaf, prompt, finishes, max_tokens=config.max_tokens))
        replies = yield from self.ask(requests)
        drawn = iter([reply for completions in replies for reply in completions])
        read = {
            Action.REASON: [self.read_step(next(drawn), len(steps), Action.REASON) for _ in range(reasons)],
            Action.FINISH: [self.read_finish(next(drawn), len(steps)) for _ in range(finishes)],
        }
        branches = [read[action].pop(0) for action in actions]
        return [branch for branch in branches if branch]

    def reflect(self, leaf: int) -> Talk[list[_Branch]]:
        steps = self.tree.steps(leaf)
        prompt = reflect_prompt(self.problem, steps, self.config.prompting)
        [[reply]] = yield from self.ask([self.step_request(RequestKind.REFLECT, leaf, prompt, 1)])
        branch = self.read_step(reply, len(steps), Action.REFLECT)
        return [branch] if branch else []

    def read_step(self, reply: Completion, k: int, action: Action) -> _Branch | None:
        """The one step, number `k`, that a Reason or Reflect wrote; None if it cannot be used.

        A policy that writes the mark of step `k`, or "But wait,", once more is read as if it had not.
        """
        step, cut = first_step(reply, k)
        if action is Action.REFLECT:
            step = step.removeprefix(BUT_WAIT).strip()
        if not step:
            self.empty += 1
            return None
        if action is Action.REFLECT:
            step = f"{BUT_WAIT} {step}"
        if states_answer(step):
            return _Branch((step,), Action.FINISH)
        if cut:
            self.cut += 1
            return None
        return _Branch((step,), action)

    def read_finish(self, reply: Completion, k: int) -> _Branch | None:
        """The steps, from number `k` on, that a Finish wrote, up to the first that states the answer. A Finish that was
        cut is kept: it is an answer that did not come. None if one of the steps is empty."""
        steps = split_steps(reply.text, first=k)
        last = next((i for i, step in enumerate(steps) if states_answer(step)), len(steps) - 1)
        steps = steps[: last + 1]
        if not steps or not all(steps):
            self.empty += 1
            return None
        return _Branch(tuple(steps), Action.FINISH)

    def grow(self, sprouts: Sequence[tuple[int, _Branch]], *, forced: bool = False) -> Talk[None]:
        """Add each branch below its leaf, evaluate their ends and back them up, in this order. The steps before an end
        begin with the value that the leaf has when the end is backed up."""
        tree = self.tree
        ends = []
        for leaf, branch in sprouts:
            above = leaf
            for step in branch.steps[:-1]:
                above = tree.add(above, Action.REASON, step)
            ends.append(tree.add(above, branch.action, branch.steps[-1]))
        if self.config.step_aggregation is None:
            yield from self.roll_out([end for end in ends if tree[end].action is not Action.FINISH])
        else:
            yield from self.score([(end, len(branch.steps)) for end, (_, branch) in zip(ends, sprouts, strict=True)])
        for end, (leaf, branch) in zip(ends, sprouts, strict=True):
            if branch.action is Action.FINISH:
                self.judge_finish(end, branch, forced=forced)
            for index in islice(tree.upward(end), len(branch.steps)):
                own = tree[index].rollout_value
                tree[index].value = tree[leaf].value if own is None else own
            back_up(tree, end, tree[end].value)

    def roll_out(self, ends: Sequence[int]) -> Talk[None]:
        """Draw the rollouts of new nodes, and set their rollout values: the share that is correct (paper, section
        3.2)."""
        requests = [request for request in map(self.rollout_request, ends) if request.n > 0]
        replies = (yield from self.ask(requests)) if requests else []
        for request, rollouts in zip(requests, replies, strict=True):
            node = self.tree[request.node]
            correct = sum(self.judge(self.problem, reply.text).verdict is Verdict.CORRECT for reply in rollouts)
            node.rollouts, node.rollout_value = len(rollouts), correct / len(rollouts)
            self.rollouts += len(rollouts)

    def score(self, ends: Sequence[tuple[int, int]]) -> Talk[None]:
        """Ask for the scores on the paths to new nodes, all in one, and set in place of rollout values what they make
        of the last steps on each, as many as `ends` says beside the node."""
        tree, how = self.tree, self.config.step_aggregation
        assert how is not None
        scores_PS: list[list[float]] = yield Valuation(tuple(tuple(tree.steps(end)) for end, _ in ends))
        for (end, new), scores in zip(ends, scores_PS, strict=True):
            for index in islice(tree.upward(end), new):
                node = tree[index]
                node.rollout_value = aggregate_steps(scores[: node.depth], how)
                self.valued += 1

    def judge_finish(self, end: int, branch: _Branch, *, forced: bool) -> None:
        """Set answer, verdict and, without a reward model, value of a Finish, and whether a Reflect may follow it."""
        node, config = self.tree[end], self.config
        judgement = self.judge(self.problem, SEPARATOR.join(branch.steps))
        node.answer, node.verdict = judgement.answer, judgement.verdict
        if config.step_aggregation is None:
            node.rollout_value = float(judgement.verdict is Verdict.CORRECT)
            doubtful = judgement.verdict is Verdict.WRONG
        else:
            doubtful = judgement.answer is not None
        assert node.rollout_value is not None
        node.closed = (
            forced
            or not doubtful
            or node.rollout_value >= config.wrong_below
            or node.depth >= config.max_depth
            or self.tree.reflections(end) >= config.reflects
        )

    def force_finishes(self) -> Talk[None]:
        """One Finish below every leaf that is none, asked for in one batch. Nothing is expanded after it."""
        leaves = [leaf for leaf in self.tree.leaves() if self.tree[leaf].action is not Action.FINISH]
        leaves.sort(key=lambda leaf: -self.tree[leaf].value)
        if not leaves:
            return
        steps = {leaf: self.tree.steps(leaf) for leaf in leaves}
        requests = [
            self.request(
                RequestKind.FORCED_FINISH,
                leaf,
                finish_prompt(self.problem, steps[leaf], self.config.prompting),
                1,
                max_tokens=self.config.max_tokens,
            )
            for leaf in leaves
        ]
        replies = yield from self.ask(requests)
        read = [self.read_finish(reply, len(steps[leaf])) for leaf, [reply] in zip(leaves, replies, strict=True)]
        sprouts = [(leaf, branch) for leaf, branch in zip(leaves, read, strict=True) if branch]
        if sprouts:
            yield from self.grow(sprouts, forced=True)

    def ask(self, requests: list[Request]) -> Talk[list[list[Completion]]]:
        """Yield `requests`, and count them with what came back."""
        self.requests.update(request.kind for request in requests)
        replies: list[list[Completion]] = yield requests
        self.tokens += sum(reply.tokens for completions in replies for reply in completions)
        return replies

    def request(
        self,
        kind: RequestKind,
        node: int,
        prompt: Prompt,
        n: int,
        *,
        max_tokens: int,
        stop: tuple[str, ...] = (),
        allowed_tokens: tuple[str, ...] = (),
    ) -> Request:
        sampling = Sampling(
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            max_tokens=max_tokens,
            stop=stop,
            seed=derive_seed(self.config.seed, self.problem.id, node, kind),
            allowed_tokens=allowed_tokens,
        )
        return Request(kind, node, prompt, sampling, n)

    def step_request(self, kind: RequestKind, node: int, prompt: Prompt, n: int) -> Request:
        """A request for one step: it stops where the next one would begin, whatever number the policy gives that."""
        stop = (SEPARATOR + STEP_WORD,)
        return self.request(kind, node, prompt, n, max_tokens=self.config.max_step_tokens, stop=stop)

    def rollout_request(self, node: int) -> Request:
        prompt = finish_prompt(self.problem, self.tree.steps(node), self.config.prompting)
        n = self.config.rollouts(self.tree[node].depth)
        return self.request(RequestKind.ROLLOUT, node, prompt, n, max_tokens=self.config.max_tokens)

    def stats(self, end: End, *, forced_nodes: int) -> dict[str, Any]:
        """What the search did. `nodes` counts the root and the `forced_nodes` too, `requests` prompts by kind; `valued`
        nodes, where a reward model gave the values."""
        by_model = {} if self.config.step_aggregation is None else {"guided": True, "valued": self.valued}
        return {
            "end": str(end),
            "nodes": len(self.tree),
            "forced_nodes": forced_nodes,
            "requests": {str(kind): self.requests[kind] for kind in RequestKind},
            "rollouts": self.rollouts,
            "tokens": self.tokens,
            "correct": self.tree.finishes(Verdict.CORRECT),
            "wrong": self.tree.finishes(Verdict.WRONG),
            "no_answer": self.tree.finishes(Verdict.NO_ANSWER),
            "duplicates": self.duplicates,
            "dropped": {"empty": self.empty, "cut": self.cut},
            **by_model,
        }
