"""What is asked of the policy for a node, and how its replies are read as branches of a tree. Pure: requests are
yielded, completions are sent.

- A Reason or Reflect gives its first step. One that states the answer is a Finish.
- A Finish gives all its steps up to the first that states the answer: Reasons and, at the end, a Finish.
- An empty step, and a Reason or Reflect that was cut before its end, give nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar

from ..answers import Judgement, states_answer
from ..prompts import BUT_WAIT, CHOICES, choice_prompt, finish_prompt, reason_prompt, reflect_prompt
from ..records import Action, Problem
from ..requests import Completion, FinishReason, Prompt, Sampling, derive_seed
from ..steps import SEPARATOR, STEP_WORD, split_steps
from .config import SearchConfig

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


@dataclass(frozen=True, slots=True)
class Branch:
    """What one draw adds below a node: bare steps, all but the last being Reasons, the last being `action`."""

    steps: tuple[str, ...]
    action: Action


class Draws:
    """Asks for one problem, reads, and counts: prompts by kind, tokens, steps that could not be used."""

    def __init__(self, problem: Problem, config: SearchConfig, judge: Judge) -> None:
        self.problem, self.config, self.judge = problem, config, judge
        self.requests: Counter[RequestKind] = Counter()
        self.tokens = self.empty = self.cut = 0

    def ask(self, requests: list[Request]) -> Talk[list[list[Completion]]]:
        """Yield `requests` together, and count them with what came back. None, nothing is yielded."""
        if not requests:
            return []
        self.requests.update(request.kind for request in requests)
        replies: list[list[Completion]] = yield requests
        self.tokens += sum(reply.tokens for completions in replies for reply in completions)
        return replies

    def request(self, kind: RequestKind, node: int, steps: Sequence[str], n: int) -> Request:
        """What is asked for `node`, at which `steps` end, with a seed of its own. A step stops where the next one would
        begin, whatever number the policy gives that."""
        config = self.config
        limits: dict[str, Any] = {"max_tokens": config.max_tokens}
        match kind:
            case RequestKind.CHOICE:
                ask, limits = choice_prompt, {"max_tokens": 1, "allowed_tokens": CHOICES}
            case RequestKind.REASON | RequestKind.REFLECT:
                ask = reason_prompt if kind is RequestKind.REASON else reflect_prompt
                limits = {"max_tokens": config.max_step_tokens, "stop": (SEPARATOR + STEP_WORD,)}
            case _:
                ask = finish_prompt
        seed = derive_seed(config.seed, self.problem.id, node, kind)
        sampling = Sampling(config.temperature, config.top_p, seed=seed, **limits)
        return Request(kind, node, ask(self.problem, steps, config.prompting), sampling, n)

    def choices(self, node: int, steps: Sequence[str]) -> Talk[list[Action]]:
        """Ask for Reason or Finish, once per child."""
        [replies] = yield from self.ask([self.request(RequestKind.CHOICE, node, steps, self.config.children)])
        return [Action.FINISH if reply.text.strip() == CHOICES[1] else Action.REASON for reply in replies]

    def branches(self, node: int, steps: Sequence[str], actions: Sequence[Action]) -> Talk[list[Branch]]:
        """Carry out `actions`, asked for in one batch. What came of them stands in their order; what cannot be used is
        left out."""
        kinds = [action for action in (Action.REASON, Action.FINISH, Action.REFLECT) if action in actions]
        replies = yield from self.ask(
            [self.request(RequestKind(action), node, steps, actions.count(action)) for action in kinds]
        )
        drawn = {action: iter(of_one) for action, of_one in zip(kinds, replies, strict=True)}
        branches = [self.read(next(drawn[action]), len(steps), action) for action in actions]
        return [branch for branch in branches if branch]

    def read(self, reply: Completion, k: int, action: Action) -> Branch | None:
        """What a draw from step number `k` on adds to a tree; None if it cannot be used.

        A policy that writes the mark of step `k`, or "But wait,", once more is read as if it had not.
        """
        steps = split_steps(reply.text, first=k)
        if action is Action.FINISH:
            last = next((i for i, step in enumerate(steps) if states_answer(step)), len(steps) - 1)
            steps = steps[: last + 1]
            if steps and all(steps):
                return Branch(tuple(steps), Action.FINISH)
            self.empty += 1
            return None
        step = steps[0] if steps else ""
        if action is Action.REFLECT:
            step = step.removeprefix(BUT_WAIT).strip()
        if not step:
            self.empty += 1
            return None
        if action is Action.REFLECT:
            step = f"{BUT_WAIT} {step}"
        if states_answer(step):
            return Branch((step,), Action.FINISH)
        if reply.finish_reason is FinishReason.LENGTH and len(steps) == 1:
            self.cut += 1
            return None
        return Branch((step,), action)
