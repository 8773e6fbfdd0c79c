"""`EngineConfig`, which says how to open an engine, and what the engines that have a model share."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, TypeVar

from ..errors import EngineError, UsageError
from ..models import Device, Dtype
from ..requests import Completion, Engine, FinishReason, Prompt, Sampling, derive_seed
from ..settings import Opt, check
from .rendering import THOUGHT_END, Speller, first_stop, first_tokens, render

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The model that writes, and what runs it."""

    GROUP: ClassVar[str] = "Policy"

    policy: Annotated[
        str,
        Opt(
            "A model or LoRA folder, a hub name OWNER/NAME (@REVISION pins it), or builtin:clinic.",
            metavar="MODEL",
            group="",
        ),
    ] = "builtin:clinic"
    adapter: Annotated[str | None, Opt("A LoRA adapter to put on --policy, whatever base it names.", metavar="DIR")] = (
        None
    )
    engine: Annotated[
        str,
        Opt(
            "auto, hf, vllm, http, or scripted:FILE.jsonl. auto: http with --base-url, vllm on a GPU, else hf.",
            metavar="NAME",
        ),
    ] = "auto"
    base_url: Annotated[
        tuple[str, ...],
        Opt(
            "http: an OpenAI-compatible server (http://host:8000/v1); may be repeated. Default and key: "
            "OPENAI_BASE_URL, OPENAI_API_KEY.",
            metavar="URL",
        ),
    ] = ()
    device: Annotated[Device, Opt("Where the model runs.")] = Device.AUTO
    dtype: Annotated[Dtype, Opt("The numbers it computes with.")] = Dtype.AUTO
    max_context: Annotated[int | None, Opt("Longest prompt with its completion, in tokens.", least=1, metavar="N")] = (
        None
    )
    thought_tokens: Annotated[
        int | None,
        Opt(
            "For a model that thinks first: at most N tokens up to </think>, the other limits being for what follows.",
            least=1,
            metavar="N",
        ),
    ] = None
    batch_size: Annotated[
        int | None, Opt("Completions at once; default by device and model.", least=1, metavar="N")
    ] = None
    concurrency: Annotated[int | None, Opt("Records in flight; default by engine.", least=1, metavar="N")] = None
    engine_args: Annotated[
        tuple[str, ...],
        Opt(
            "What else the engine's library can be told; may be repeated. vllm: any engine argument "
            "(tensor_parallel_size=2); hf: a keyword of from_pretrained (trust_remote_code=true); http: model, "
            "timeout, max_retries.",
            names=("-E", "--engine-arg"),
            metavar="KEY=VALUE",
        ),
    ] = ()

    def __post_init__(self) -> None:
        check(self)

    def writer(self) -> dict[str, str | int]:
        """Who writes, for the settings that a run is compared by; nothing is said of what is not given."""
        given = {"adapter": self.adapter, "thought_tokens": self.thought_tokens}
        return {"policy": self.policy} | {name: value for name, value in given.items() if value}

    @property
    def trust_remote_code(self) -> bool:
        """Whether `-E trust_remote_code=true` was given: code that comes with a model may run."""
        return any(pair.partition("=")[0::2] == ("trust_remote_code", "true") for pair in self.engine_args)

    def arguments(self, known: Collection[str], ours: Mapping[str, str] | None = None) -> dict[str, Any]:
        """`engine_args` as keywords of a library that takes the `known` ones: dashes count as underscores, a value is
        JSON where it parses and text where it does not. Raises UsageError for any other key, with the nearest known one
        or the option of ours (`ours`) that is in its place."""
        ours, found = ours or {}, {}
        for pair in self.engine_args:
            key, equals, value = pair.partition("=")
            name = key.strip().lstrip("-").replace("-", "_")
            if not equals or not name:
                raise UsageError(f"-E {pair} is not KEY=VALUE", hint="for example: -E trust_remote_code=true")
            if name not in known or name in ours:
                near = [ours[name]] if name in ours else get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else "docs/engines.md says what each engine can be told"
                raise UsageError(f"this engine takes no -E {name}", hint=hint)
            found[name] = value
            with contextlib.suppress(ValueError):
                found[name] = json.loads({"True": "true", "False": "false"}.get(value, value))
        return found


# What the engines that have a model share

_rendered = functools.lru_cache(512)(render)  # a tree asks three times with the same prompt; nobody changes the lists
_first_tokens = functools.lru_cache(512)(first_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A request: the token ids of its prompt, the most tokens of a completion, the first token of each allowed word.
    Nobody wants it any more when its `future` is done."""

    prompt: Prompt
    ids: list[int]
    sampling: Sampling
    n: int
    limit: int
    words: list[int]
    future: Future[list[Completion]] = field(default_factory=Future)

    def settle(self, completions: list[Completion]) -> None:
        with contextlib.suppress(InvalidStateError):
            self.future.set_result(completions)

    def fail(self, message: str) -> None:
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(EngineError(message))


class ModelEngine(ABC):
    """An engine with a tokenizer. `context` is the longest prompt with its completion, None where nobody says;
    `warnings` are for the user at the start, `notes()` at the end of a run."""

    name: str
    concurrency: int
    context: int | None
    tokenizer: Any

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.closed = False

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        """n completions of `prompt`; `max_tokens` is cut to the room that there is. Raises EngineError for a request
        that cannot be served, as one whose prompt leaves no room in the context."""
        if self.closed:
            raise EngineError("the engine is closed")
        ids = _rendered(self.tokenizer, prompt)
        limit = 1 if sampling.allowed_tokens else sampling.max_tokens
        if self.context is not None:
            limit = min(limit, self.context - len(ids))
        if limit < 1:
            raise EngineError(
                f"the prompt has {len(ids)} tokens and the context holds {self.context}: no room for an answer",
                hint="--max-context N raises the limit, where the model can take it",
            )
        words = _first_tokens(self.tokenizer, prompt, sampling.allowed_tokens) if sampling.allowed_tokens else []
        wanted = 1 if sampling.temperature == 0 else n  # greedy ones are all the same
        return await self._write(Asked(prompt, ids, sampling, wanted, limit, words)) * (n // wanted)

    @abstractmethod
    async def _write(self, asked: Asked) -> list[Completion]:
        """`asked.n` completions. When it is cancelled, nothing goes on for them."""

    def notes(self) -> list[str]:
        """Lines for the summary of a run."""
        return []

    def close(self) -> None:
        """Take no more requests."""
        self.closed = True


# Engines in this process


class LocalEngine(ModelEngine):
    """An engine whose model computes in this process: `running` makes it in a thread, in which it then serves."""

    ends: set[int]  # the tokens that end a turn
    spell: Speller

    def __init__(self) -> None:
        super().__init__()
        self._inbox: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._open: set[Asked] = set()

    async def _write(self, asked: Asked) -> list[Completion]:
        self._open.add(asked)
        if self.closed:  # while the prompt was made ready: `end` did not see this request
            asked.fail("the engine is closed")
        self._inbox.put(asked)
        try:
            return await asyncio.wrap_future(asked.future)
        finally:
            self._open.discard(asked)

    @abstractmethod
    def serve(self) -> None:
        """Answer requests until the engine is closed."""

    def arrived(self, *, wait: bool, company: float = 0.0) -> list[Asked]:
        """The requests that come in within the next `company` seconds; with `wait`, after the first one."""
        found = [self._inbox.get()] if wait else []
        time.sleep(company)
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._inbox.get_nowait())
        return [asked for asked in found if asked]

    def read(self, asked: Asked, ids: list[int]) -> tuple[str, FinishReason | None, str | None]:
        """What generated tokens say, why they end there (None: they do not) and the stop string that they end with."""
        if asked.words:
            return asked.sampling.allowed_tokens[asked.words.index(ids[0])], FinishReason.STOP, None
        ended = ids[-1] in self.ends
        text = self.spell(ids[:-1] if ended else ids)
        if found := first_stop(text, asked.sampling.stop):
            return found[0], FinishReason.STOP, found[1]
        if ended:
            return text, FinishReason.EOS, None
        return text, FinishReason.LENGTH if len(ids) == asked.limit else None, None

    def end(self, why: str) -> None:
        """Take no more requests; those who wait get an EngineError that says `why`."""
        self.closed = True
        for asked in list(self._open):
            asked.fail(why)

    def close(self) -> None:
        self.end("the engine is closed")
        self._inbox.put(None)


E = TypeVar("E", bound=LocalEngine)


@contextlib.asynccontextmanager
async def running(make: Callable[[], E], *, patience: float) -> AsyncIterator[E]:
    """The engine that `make` gives, until the block ends; then its thread has `patience` seconds to come to an end.
    Raises what `make` raises."""
    ready: Future[E] = Future()

    def live() -> None:
        engine = make()
        with contextlib.suppress(InvalidStateError):  # it was given up while it was made
            ready.set_result(engine)
            try:
                engine.serve()
            except Exception as error:  # whatever a library can raise: those who wait must hear of it
                engine.end(f"the engine failed: {type(error).__name__}: {error}")

    over = in_thread(live)
    started: set[asyncio.Future[Any]] = {asyncio.wrap_future(ready), over}
    try:
        await asyncio.wait(started, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await over
        yield ready.result()
    finally:
        if not ready.cancel():
            ready.result().close()
            await asyncio.wait([over], timeout=patience)


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """The result of `work()`, done in a thread for which the end of the program does not wait (`app.main` knows it by
    its name): an import of torch or a step of a large model can take longer than a user wants to after Ctrl-C."""
    future: Future[T] = Future()

    def do() -> None:
        with contextlib.suppress(InvalidStateError):
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

    threading.Thread(target=do, name="medsss-engine", daemon=True).start()
    return asyncio.wrap_future(future)


# Models that think before they answer


class ThinkFirst:
    """An engine whose answers come after a thought of at most `budget` tokens, which is part of no step and no answer.
    A thought that is not at its end by then is ended for the model. What continues a text, and a choice among words,
    comes without a thought. `tokens` and `logprob` of a completion count the thought, its `text` leaves it out."""

    def __init__(self, engine: Engine, budget: int) -> None:
        self.engine, self.budget = engine, budget
        self.name, self.concurrency = engine.name, engine.concurrency

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        if prompt.prefix or sampling.allowed_tokens:
            return await self.engine.complete(prompt, sampling, n)
        seed = derive_seed(sampling.seed, "thought")
        thinking = replace(sampling, max_tokens=self.budget, stop=(THOUGHT_END,), seed=seed)
        thoughts = await self.engine.complete(prompt, thinking, n)
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
        logprobs = [each.logprob for each in (thought, answer) if each.logprob is not None]
        return replace(
            answer,
            tokens=thought.tokens + answer.tokens,
            prompt_tokens=thought.prompt_tokens,
            logprob=sum(logprobs) if len(logprobs) == 2 else None,
        )
