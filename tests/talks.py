"""A search or a beam without an engine: `serve` answers what it asks for, `noisy` writes nonsense. No tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from medsss_cli.records import Tree
from medsss_cli.requests import Completion, FinishReason
from medsss_cli.search.drawing import Request, Talk, Valuation

Write: TypeAlias = Callable[[Request], Sequence[str | Completion]]


def reply(text: str, reason: str = "stop") -> Completion:
    """What an engine gives: a word is a token."""
    return Completion(text, FinishReason(reason), tokens=len(text.split()))


def serve(
    talk: Talk[Tree], write: Write, rate: Callable[[str], float] | None = None, log: list[Any] | None = None
) -> Tree:
    """The tree of `talk`, its requests written by `write`, each step scored by `rate` whatever stands before it. `log`
    gets the batches and valuations."""
    sent: Any = None
    while True:
        try:
            batch = talk.send(sent)
        except StopIteration as done:
            tree: Tree = done.value
            return tree
        assert batch, "a batch is never empty"
        if log is not None:
            log.append(batch)
        if isinstance(batch, Valuation):
            assert rate is not None
            sent = [[rate(step) for step in path[1:]] for path in batch.paths]
        else:
            sent = [[reply(each) if isinstance(each, str) else each for each in write(request)] for request in batch]


def noisy(request: Request) -> list[Completion]:
    """Steps, answers, several steps at once, nothing, cut ones: decided by the seed of the request alone."""
    parts = [
        "So. ", "Step 2: ", "\nStep 3: ", "\n\nStep 2: more", "\n\nStep 4: x", "The answer is A. ", "The answer is B.",
        "the answer is\n", "But wait, ", "", " ", "\n\n", "Step", "x\u2028y ", "Finish", "\\boxed{B}", "C",
    ]  # fmt: skip
    sampling, rng = request.sampling, random.Random(request.sampling.seed)

    def one() -> Completion:
        if sampling.allowed_tokens:
            return reply(rng.choice([*sampling.allowed_tokens, "Reason"]))
        text = "".join(rng.choice(parts) for _ in range(rng.randrange(5)))
        return reply(
            text.split(sampling.stop[0])[0] if sampling.stop else text, rng.choice(["stop", "stop", "eos", "length"])
        )

    return [one() for _ in range(request.n)]
