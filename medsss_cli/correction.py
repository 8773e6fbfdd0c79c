"""Put wrong answers right: what `sample --correct` does to one record.

native    The search's Reflect ("Step k: But wait,") continues the answer by one step. What it says takes the place of
          the step that it resembles most (`mended_step`, `replaced`), and from there the policy finishes the solution.
instruct  One request shows the wrong answer: the mistake is to be named in a line of its own, which is left out, and
          the whole solution to be written anew.

So a correction is a clean solution that parts from the wrong one at the mistake. The wrong answer followed by "But
wait, ..." would, as `chosen` of a DPO pair, teach nothing but to go on after an answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from msgspec import UNSET
from msgspec.structs import replace as copied

from .answers import states_answer
from .prompts import BUT_WAIT, Prompting, correction_messages, finish_prompt, reflect_prompt
from .records import Response, Samples, Verdict
from .requests import Completion, Engine, FinishReason, Prompt, derive_seed
from .sampling import SamplingConfig, judged
from .steps import ROOT_TEXT, SEPARATOR, STEP_WORD, answer_steps, join_steps, mark, split_steps

_SENTENCE_END = re.compile(r"[.!?](?=\s)|[。！？]")
_REFUTED = re.compile(r"\b(?:is|was|be|seems?)\s(?:not\s|in)?(?:wrong|correct|right|incorrect|a mistake)\b|错|不对")
_WORDS = re.compile(r"[\u3400-\u9fff]|[^\W_]+|[^\w\s]")


def to_correct(samples: Samples) -> list[int]:
    """The indices of the responses that are worked on: wrong ones, and those that say no answer though they were not
    cut off, that are no corrections themselves and have no correct one yet."""
    done = {response.corrects for response in samples.responses if response.verdict is Verdict.CORRECT}

    def is_wrong(response: Response) -> bool:
        unread = response.verdict is Verdict.NO_ANSWER and response.finish_reason != FinishReason.LENGTH
        return response.corrects is UNSET and (response.verdict is Verdict.WRONG or unread)

    return [k for k, response in enumerate(samples.responses) if is_wrong(response) and k not in done]


async def corrections(
    samples: Samples, engine: Engine, sampling: SamplingConfig, *, policy: str | None = None
) -> list[Response]:
    """What a policy makes of each response in `to_correct`, in that order, `sampling.n` tries (or one) of each; each
    says what it `corrects`, and `policy` signs it. Raises EngineError, and BadRecord where the gold answer cannot be
    read."""
    wrong = to_correct(samples)
    formed = sampling.prompting is Prompting.INSTRUCT
    tries = [(_instructed if formed else _rewritten)(samples, index, engine, sampling) for index in wrong]
    return [
        copied(judged(samples, each, sampling, policy=policy, formed=formed), corrects=index)
        for index, found in zip(wrong, await asyncio.gather(*tries), strict=True)
        for each in found
    ]


async def _rewritten(samples: Samples, index: int, engine: Engine, config: SamplingConfig) -> list[Completion]:
    """Native: a Reflect for each try, and from the step that it mends the rest of the solution. `tokens` are those of
    both requests."""
    steps = answer_steps(samples.responses[index].text) or [ROOT_TEXT]
    sampling = config.request(samples.id, "correct", index)
    reflect = reflect_prompt(samples, steps, Prompting.NATIVE)
    reflected = await engine.complete(reflect, replace(sampling, stop=(SEPARATOR + STEP_WORD,)), config.n or 1)

    async def finished(number: int, reflect: Completion) -> Completion:
        mended = mended_step(reflect.text)
        kept = [*steps[: replaced(steps, mended)], mended] if mended else steps[:1]
        if states_answer(mended) or reflect.finish_reason is FinishReason.LENGTH:
            return Completion(join_steps(kept), reflect.finish_reason, reflect.tokens)
        # A clean solution holds no second "But wait,": what some policies write after their answer out of habit.
        again = replace(sampling, seed=derive_seed(sampling.seed, "finish", number), stop=(BUT_WAIT,))
        [rest] = await engine.complete(finish_prompt(samples, kept, Prompting.NATIVE), again, 1)
        rest_steps = split_steps(mark(len(kept)) + rest.text, len(kept))
        if rest.stop is not None and len(rest_steps) > 1 and not rest_steps[-1]:
            rest_steps.pop()  # the mark of the step that would have begun so
        return Completion(join_steps([*kept, *rest_steps]), rest.finish_reason, reflect.tokens + rest.tokens)

    return list(await asyncio.gather(*(finished(number, each) for number, each in enumerate(reflected))))


async def _instructed(samples: Samples, index: int, engine: Engine, config: SamplingConfig) -> list[Completion]:
    """Instruct: the whole solution anew, in one request."""
    response = samples.responses[index]
    messages = correction_messages(samples, response.text, response.answer, reveal=config.reveal_answer)
    return await engine.complete(Prompt(messages), config.request(samples.id, "correct", index), config.n or 1)


def mended_step(reflect: str) -> str:
    """The step that a Reflect puts right, as one that was never wrong: what follows "But wait," less a first sentence
    that only calls the answer wrong, begun with a capital. " the answer 13 is wrong. MAP = DBP + PP / 3." gives "MAP =
    DBP + PP / 3.". "" where nothing is said."""
    said = " ".join(reflect.split()).removeprefix(BUT_WAIT).lstrip(", ")
    end = _SENTENCE_END.search(said)
    if _REFUTED.search(said[: end.end()] if end else said):
        said = said[end.end() :].lstrip() if end else ""
    return said[:1].upper() + said[1:]


def replaced(steps: Sequence[str], mended: str) -> int:
    """The index, 1 or more, of the step in `steps` that `mended` puts right: the one it has most of its words and signs
    in common with, in their order (difflib's ratio), the earliest of equals. 1 where there is no step but step 0."""
    words = _WORDS.findall(mended.casefold())
    matcher: SequenceMatcher[str] = SequenceMatcher(None, b=words, autojunk=False)

    def alike(index: int) -> float:
        matcher.set_seq1(_WORDS.findall(steps[index].casefold()))
        return matcher.ratio()

    return max(range(1, len(steps)), key=alike, default=1)
