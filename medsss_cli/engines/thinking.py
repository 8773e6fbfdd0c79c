"""Models that think before they answer: the thought has a budget of its own and is part of no step and no answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ..requests import Completion, Engine, FinishReason, Prompt, Sampling, derive_seed
from .rendering import THOUGHT_END, first_stop


class ThinkFirst:
    """An engine whose answers come after a thought of at most `budget` tokens. A thought that is not at its end by then
    is ended for the model. What continues a text, and a choice among words, comes without a thought. `tokens` and
    `logprob` of a completion count the thought, its `text` leaves it out."""

    def __init__(self, engine: Engine, budget: int) -> None:
        self.engine, self.budget = engine, budget
        self.name, self.concurrency = engine.name, engine.concurrency

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        if prompt.prefix or sampling.allowed_tokens:
            return await self.engine.complete(prompt, sampling, n)
        asked = replace(
            sampling, max_tokens=self.budget, stop=(THOUGHT_END,), seed=derive_seed(sampling.seed, "thought")
        )
        thoughts = await self.engine.complete(prompt, asked, n)
        return await asyncio.gather(
            *(self._after(thought, prompt, sampling, number) for number, thought in enumerate(thoughts))
        )

    async def _after(self, thought: Completion, prompt: Prompt, sampling: Sampling, number: int) -> Completion:
        """What the model writes after the thought; where it did not think, what it wrote."""
        if thought.finish_reason is FinishReason.EOS:
            cut = first_stop(thought.text, sampling.stop)
            return replace(thought, text=cut[0], stop=cut[1], finish_reason=FinishReason.STOP) if cut else thought
        prompt = replace(prompt, prefix=f"{thought.text.rstrip()}\n{THOUGHT_END}\n\n")
        [answer] = await self.engine.complete(prompt, replace(sampling, seed=derive_seed(sampling.seed, number)), 1)
        logprob = None
        if thought.logprob is not None and answer.logprob is not None:
            logprob = thought.logprob + answer.logprob
        return replace(
            answer,
            tokens=thought.tokens + answer.tokens,
            prompt_tokens=thought.prompt_tokens,
            logprob=logprob,
        )
