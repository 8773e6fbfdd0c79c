"""What a policy is asked, what it answers and what an engine is: the words that the search and the engines share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from .records import Message


class FinishReason(StrEnum):
    """Why a completion ended: at the end of the turn, before a stop string, or cut at `max_tokens`."""

    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat to continue: `messages`, rendered by the model's template with the generation prompt, then `prefix`, what
    the assistant has already written in the open turn."""

    messages: tuple[Message, ...]
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw. `temperature` 0 is greedy. A completion ends before the first of the `stop` strings.

    `allowed_tokens` restricts the draw to the first tokens of these words and ends after one token; the completion's
    text is the whole word that was chosen. Two words with one first token raise EngineError. `seed` fixes the draw of
    each of the n completions, whatever else the engine is doing.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int = 0
    allowed_tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """What was written after the prompt, less the `stop` string that ended it. `tokens` were generated after
    `prompt_tokens`. `logprob` is the sum of their natural log-probabilities (end of turn included) under the policy at
    temperature 1, to four decimals, of which the last ones depend on the batch (so two completions are equal without
    it); None where a server does not tell."""

    text: str
    finish_reason: FinishReason
    tokens: int
    prompt_tokens: int = 0
    stop: str | None = None
    logprob: float | None = field(default=None, compare=False)


class Engine(Protocol):
    """Many `complete` calls may be awaited at once; an engine serves them together.

    `concurrency` is how many records a driver should have in flight. Raises EngineError when a request cannot be served
    (a prompt longer than the context, say).
    """

    name: str
    concurrency: int

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]: ...


def derive_seed(seed: int, *parts: object) -> int:
    """A 63-bit seed from the run's seed and what the draw is for (id, node, purpose), equal on every machine."""
    text = "\x1f".join([str(seed), *(str(part) for part in parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
