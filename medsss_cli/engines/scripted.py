"""An engine without a model: a list, a generator or a function supplies the completions. For tests, ours and yours.

    ScriptedEngine(["Reason", " the sum is 4. The answer is B."])     handed out in order
    ScriptedEngine(lambda prompt, sampling, n: ["yes"] * n)           computed for each request

It keeps the promises of an engine as far as text goes: stop strings cut, `max_tokens` cuts (a token is a word here),
and allowed words are enforced. It runs out loudly: a script that is too short raises EngineError.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any

from ..errors import BadRecord, EngineError, UsageError
from ..requests import Completion, FinishReason, Prompt, Sampling
from ..stream.jsonl import Where, read_records
from .rendering import first_stop

Source = Callable[[Prompt, Sampling, int], Sequence[str | Completion]] | Iterable[str | Completion]

_TOKEN = re.compile(r"\s*\S+|\s+")


class ScriptedEngine:
    """See the module. `requests` records every request in the order of asking: (prompt, sampling, n)."""

    name = "scripted"
    concurrency = 8

    def __init__(self, source: Source) -> None:
        self._source = source if callable(source) else iter(source)
        self.requests: list[tuple[Prompt, Sampling, int]] = []

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        """The next n completions of the script. Raises EngineError when it has fewer, or a word that is not allowed."""
        self.requests.append((prompt, sampling, n))
        source = self._source
        given = source(prompt, sampling, n) if callable(source) else list(islice(source, n))
        if len(given) != n:
            raise EngineError(f"the script gave {len(given)} completions where {n} were asked for")
        said = [message.content for message in prompt.messages] + [prompt.prefix]
        length = sum(len(_TOKEN.findall(text)) for text in said)
        return [item if isinstance(item, Completion) else _complete(item, sampling, length) for item in given]


def _complete(text: str, sampling: Sampling, prompt_tokens: int) -> Completion:
    """`text` as a model's answer under `sampling`."""
    if sampling.allowed_tokens:
        word = text.strip()
        if word not in sampling.allowed_tokens:
            raise EngineError(f"the script says {text!r} where only {', '.join(sampling.allowed_tokens)} are allowed")
        return Completion(word, FinishReason.STOP, 1, prompt_tokens)
    pieces = _TOKEN.findall(text)
    cut = "".join(pieces[: sampling.max_tokens])
    if (found := first_stop(text, sampling.stop)) and len("".join(found)) <= len(cut):
        return Completion(found[0], FinishReason.STOP, len(_TOKEN.findall(found[0])), prompt_tokens, found[1])
    if len(pieces) > sampling.max_tokens:
        return Completion(cut, FinishReason.LENGTH, sampling.max_tokens, prompt_tokens)
    return Completion(text, FinishReason.EOS, len(pieces) + 1, prompt_tokens)


def _replies(path: str) -> Source:
    """What the script of a file says; see `open_scripted`."""
    matching: list[tuple[str, Iterator[str]]] = []
    once: list[str] = []

    def line(obj: dict[str, Any], where: Where) -> None:
        match obj:
            case {"match": str(part), "texts": [_, *_] as texts}:
                matching.append((part, cycle(texts)))
            case {"text": str(text)}:
                once.append(text)
            case _:
                raise BadRecord('a line is {"text": ...} or {"match": ..., "texts": [...]}')

    def bad(where: Where, what: str) -> None:
        raise UsageError(f"{where}: {what}")

    for _ in read_records([path], line, on_bad=bad):
        pass
    rest = iter(once)

    def replies(prompt: Prompt, sampling: Sampling, n: int) -> list[str]:
        said = "\n".join([message.content for message in prompt.messages] + [prompt.prefix])
        found = list(islice(next((texts for part, texts in matching if part in said), rest), n))
        if len(found) < n:
            raise EngineError(f"{path} has no text left for a prompt that ends {said[-60:]!r}")
        return found

    return replies


@contextlib.asynccontextmanager
async def open_scripted(path: str) -> AsyncIterator[ScriptedEngine]:
    """The engine of `--engine scripted:FILE`. Lines: {"text": "..."} are handed out in order, each once;
    {"match": "...", "texts": ["...", ...]} answer every prompt that holds the match, in a circle, and come first."""
    if not path:
        raise UsageError("--engine scripted needs a file", hint="--engine scripted:replies.jsonl")
    yield ScriptedEngine(_replies(path))
