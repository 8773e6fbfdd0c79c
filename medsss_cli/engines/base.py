"""`EngineConfig`, which says how to open an engine, and what the engines that have a model share."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, TypeVar, cast

from ..errors import EngineError, UsageError
from ..models import Device, Dtype
from ..requests import Completion, Prompt, Sampling
from ..settings import Opt, check
from .rendering import first_tokens, render

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

    def arguments(self, known: Collection[str], *, of: str, ours: Mapping[str, str] | None = None) -> dict[str, Any]:
        """`engine_args` as keywords of `of`, which takes the `known` ones: dashes count as underscores, a value is JSON
        where it parses and text where it does not. `ours` are keys that have an option of their own. Raises UsageError
        for any other key, with the nearest known one."""
        found: dict[str, Any] = {}
        for pair in self.engine_args:
            key, equals, value = pair.partition("=")
            name = key.strip().lstrip("-").replace("-", "_")
            if not equals or not name:
                raise UsageError(f"-E {pair} is not KEY=VALUE", hint="for example: -E trust_remote_code=true")
            if ours and name in ours:
                raise UsageError(f"-E {name}: {ours[name]}")
            if name not in known:
                near = get_close_matches(name, known, n=1)
                raise UsageError(
                    f"{of} takes no -E {name}",
                    hint=f"did you mean {near[0]}?" if near else f"docs/engines.md says what {of} can be told",
                )
            found[name] = _value(value)
        return found


def _value(text: str) -> Any:
    """JSON where it parses, with Python's True and False, else text."""
    if text in ("True", "False"):
        return text == "True"
    try:
        return json.loads(text)
    except ValueError:
        return text


# What the engines that have a model share

_rendered = functools.lru_cache(512)(render)  # a tree asks three times with the same prompt; nobody changes the lists
_first_tokens = functools.lru_cache(512)(first_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A request: the token ids of its prompt, the most tokens of a completion, the first token of each allowed word."""

    prompt: Prompt
    ids: list[int]
    sampling: Sampling
    n: int
    limit: int
    words: list[int]


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
        self._running: set[asyncio.Task[list[Completion]]] = set()

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        """n completions of `prompt`; `max_tokens` is cut to the room that there is. Raises EngineError for a request
        that cannot be served, as one whose prompt leaves no room in the context."""
        if self.closed:
            raise EngineError("the engine is closed")
        ids = _rendered(self.tokenizer, prompt)
        limit = _room(ids, sampling, self.context)
        words = _first_tokens(self.tokenizer, prompt, sampling.allowed_tokens) if sampling.allowed_tokens else []
        wanted = 1 if sampling.temperature == 0 else n  # greedy ones are all the same
        running = asyncio.ensure_future(self._write(Asked(prompt, ids, sampling, wanted, limit, words)))
        self._running.add(running)
        try:
            return await running * (n // wanted)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise EngineError("the engine was closed while the request was running") from None
        finally:
            self._running.discard(running)

    @abstractmethod
    async def _write(self, asked: Asked) -> list[Completion]:
        """`asked.n` completions. When it is cancelled, nothing goes on for them."""

    def notes(self) -> list[str]:
        """Lines for the summary of a run."""
        return []

    def close(self) -> None:
        """Take no more requests; those who wait get an EngineError."""
        self.closed = True
        for running in self._running:
            running.cancel()


def _room(ids: Sequence[int], sampling: Sampling, context: int | None) -> int:
    """How many tokens a completion of the prompt `ids` may have. Raises EngineError where the context leaves none."""
    if context is not None and len(ids) >= context:
        raise EngineError(
            f"the prompt has {len(ids)} tokens and the context holds {context}: no room for an answer",
            hint="--max-context N raises the limit, where the model can take it",
        )
    wanted = 1 if sampling.allowed_tokens else sampling.max_tokens
    return wanted if context is None else min(wanted, context - len(ids))


class Worker:
    """A thread that does one thing after another, for which the end of the program does not wait: an import of torch or
    a step of a large model can take longer than a user wants to after Ctrl-C. `app.main` knows it by its name."""

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="medsss-engine", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (work := self._todo.get()) is not None:
            work()

    def do(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """The result of `work()`, or what it raises."""
        future: Future[T] = Future()

        def do() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)

        self._todo.put(do)
        return asyncio.wrap_future(future)

    def close(self) -> None:
        """The thread ends after what it is at. One that is at nothing is gone then: Python must not end around it."""
        self._todo.put(None)
        self._thread.join(0.2)


def settle(future: Future[T], result: T | None, error: BaseException | None = None) -> None:
    """Give `future` its result or error, unless it has one or was cancelled."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error) if error is not None else future.set_result(cast(T, result))
