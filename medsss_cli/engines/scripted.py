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
from typing import Any

from ..errors import EngineError, UsageError
from ..requests import Completion, FinishReason, Prompt, Sampling, Usage

Source = Callable[[Prompt, Sampling, int], Sequence[str | Completion]] | Iterable[str | Completion]

_TOKEN = re.compile(r"\s*\S+|\s+")


class ScriptedEngine:
    """See the module. `requests` records every request in the order of asking: (prompt, sampling, n)."""

    name = "scripted"
    concurrency = 8

    def __init__(self, source: Source) -> None:
        self._ask: Callable[[Prompt, Sampling, int], Sequence[str | Completion]] | None = None
        self._script: Iterator[str | Completion] = iter(())
        if callable(source):
            self._ask = source
        else:
            self._script = iter(source)
        self.usage = Usage()
        self.requests: list[tuple[Prompt, Sampling, int]] = []

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        """The next n completions of the script. Raises EngineError when it has fewer, or a word that is not allowed."""
        self.requests.append((prompt, sampling, n))
        given = self._take(n) if self._ask is None else self._ask(prompt, sampling, n)
        if len(given) != n:
            raise EngineError(f"the script gave {len(given)} completions where {n} were asked for")
        length = sum(len(_TOKEN.findall(message.content)) for message in prompt.messages)
        length += len(_TOKEN.findall(prompt.prefix))
        done = [item if isinstance(item, Completion) else _complete(item, sampling, length) for item in given]
        self.usage.add(length, done)
        return done

    def _take(self, n: int) -> list[str | Completion]:
        found = []
        for _ in range(n):
            try:
                found.append(next(self._script))
            except StopIteration:
                raise EngineError(f"the script ended after {self.usage.completions + len(found)} completions") from None
        return found


def _complete(text: str, sampling: Sampling, prompt_tokens: int) -> Completion:
    """`text` as a model's answer under `sampling`."""
    if sampling.allowed_tokens:
        word = text.strip()
        if word not in sampling.allowed_tokens:
            raise EngineError(f"the script says {text!r} where only {', '.join(sampling.allowed_tokens)} are allowed")
        return Completion(word, FinishReason.STOP, 1, prompt_tokens)
    hits = [(text.find(string), -len(string), string) for string in sampling.stop if string in text]
    pieces = _TOKEN.findall(text)
    cut = "".join(pieces[: sampling.max_tokens])
    if hits and min(hits)[0] - min(hits)[1] <= len(cut):
        start, _, string = min(hits)
        return Completion(text[:start], FinishReason.STOP, len(_TOKEN.findall(text[:start])), prompt_tokens, string)
    if len(pieces) > sampling.max_tokens:
        return Completion(cut, FinishReason.LENGTH, sampling.max_tokens, prompt_tokens)
    return Completion(text, FinishReason.EOS, len(pieces) + 1, prompt_tokens)


class _Replies:
    """A script file in memory: lines with `match` answer prompts that hold the text, the others go out in order."""

    def __init__(self, path: str, lines: Sequence[dict[str, Any]]) -> None:
        self._path = path
        self._lines = lines
        self._used = [0] * len(lines)  # texts taken of each line

    def __call__(self, prompt: Prompt, sampling: Sampling, n: int) -> list[str | Completion]:
        said = "\n".join([message.content for message in prompt.messages] + [prompt.prefix])
        return [self._one(said) for _ in range(n)]

    def _one(self, said: str) -> str:
        for number, line in enumerate(self._lines):
            if "match" in line and line["match"] in said:
                # Over and over: a prompt that comes back gets the texts from the first again.
                text: str = line["texts"][self._used[number] % len(line["texts"])]
                self._used[number] += 1
                return text
        for number, line in enumerate(self._lines):
            if "text" in line and not self._used[number]:
                self._used[number] = 1
                return str(line["text"])
        raise EngineError(f"{self._path} has no text left for a prompt that ends {said[-60:]!r}")


@contextlib.asynccontextmanager
async def open_scripted(path: str) -> AsyncIterator[ScriptedEngine]:
    """The engine of `--engine scripted:FILE`. Lines: {"text": "..."} are handed out in order, each once;
    {"match": "...", "texts": ["...", ...]} answer every prompt that holds the match, in a circle, and come first."""
    import orjson

    if not path:
        raise UsageError("--engine scripted needs a file", hint="--engine scripted:replies.jsonl")
    lines = []
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                try:
                    line = orjson.loads(raw)
                except orjson.JSONDecodeError as error:
                    raise UsageError(f"{path}:{number}: not JSON: {error}") from None
                texts = line.get("texts") if isinstance(line, dict) else None
                known = isinstance(line, dict) and (
                    isinstance(line.get("text"), str)
                    or (isinstance(line.get("match"), str) and isinstance(texts, list) and len(texts) > 0)
                )
                if not known:
                    raise UsageError(f'{path}:{number}: a line is {{"text": ...}} or {{"match": ..., "texts": [...]}}')
                lines.append(line)
    except OSError as error:
        raise UsageError(f"cannot read the script {path}: {error.strerror}") from None
    yield ScriptedEngine(_Replies(path, lines))
