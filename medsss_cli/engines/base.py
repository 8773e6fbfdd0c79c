"""What an engine is: it turns a prompt into n completions. And `EngineConfig`, which says how to open one.

Nothing here knows trees, records or a model. Engines are opened by `medsss_cli.engines.open_engine(config)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, TypeVar, cast

from ..errors import EngineError, UsageError
from ..models import Device, Dtype
from ..requests import Engine, Sampling
from ..settings import Opt, check

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The model that writes, and what runs it."""

    GROUP: ClassVar[str] = "Policy"

    policy: Annotated[
        str,
        Opt("A model folder, a hub name OWNER/NAME (@REVISION pins it), or builtin:clinic.", metavar="MODEL", group=""),
    ] = "builtin:clinic"
    adapter: Annotated[str | None, Opt("A LoRA adapter on top of --policy.", metavar="DIR")] = None
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

    def writer(self) -> dict[str, str]:
        """Who writes, for the settings that a run is compared by; without an adapter nothing is said of one."""
        return {"policy": self.policy} | ({"adapter": self.adapter} if self.adapter else {})

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


def check_request(sampling: Sampling, n: int) -> None:
    """Raises EngineError for a request that no engine can serve."""
    if n < 0 or sampling.max_tokens < 1 or sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
        raise EngineError(
            "a request needs n >= 0, max_tokens >= 1, temperature >= 0 and top_p in (0, 1], "
            f"got n={n}, {sampling.max_tokens}, {sampling.temperature}, {sampling.top_p}"
        )
    if "" in sampling.stop or "" in sampling.allowed_tokens:
        raise EngineError("a stop string or an allowed word is empty")


def room(ids: Sequence[int], sampling: Sampling, context: int | None) -> int:
    """How many tokens a completion of the prompt `ids` may have. Raises EngineError where the context leaves none."""
    if not ids:
        raise EngineError("the prompt has no tokens")
    if context is not None and len(ids) >= context:
        raise EngineError(
            f"the prompt has {len(ids)} tokens and the context holds {context}: no room for an answer",
            hint="--max-context N raises the limit, where the model can take it",
        )
    wanted = 1 if sampling.allowed_tokens else sampling.max_tokens
    return wanted if context is None else min(wanted, context - len(ids))


def notes_of(engine: Engine) -> list[str]:
    """What an engine has to tell at the end of a run, a line each (`notes()`, where it has that): retries, servers that
    were put aside."""
    notes: list[str] = getattr(engine, "notes", list)()
    return notes


class Worker:
    """A thread that does one thing after another, for which the end of the program does not wait: an import of torch or
    a step of a large model can take longer than a user wants to after Ctrl-C. `app.main` knows it by its name."""

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="medsss-engine", daemon=True)
        self._busy = False
        self._thread.start()

    def _work(self) -> None:
        while (work := self._todo.get()) is not None:
            self._busy = True
            work()
            self._busy = False

    async def do(self, work: Callable[[], T]) -> T:
        """The result of `work()`, or what it raises."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def do() -> None:
            try:
                result = work()
            except BaseException as error:
                settle(future, None, error)
            else:
                settle(future, result)

        self._todo.put(do)
        return await future

    def close(self) -> None:
        """The thread ends after what it is at. One that is at nothing is waited for: Python must not end around it."""
        self._todo.put(None)
        if not self._busy:
            self._thread.join(1.0)


def settle(future: asyncio.Future[T], result: T | None, error: BaseException | None = None) -> None:
    """Give `future` its result or error, from whichever thread, unless it has one."""

    def tell() -> None:
        if not future.done():
            future.set_exception(error) if error is not None else future.set_result(cast(T, result))

    with contextlib.suppress(RuntimeError):  # a loop that was closed waits for nothing
        future.get_loop().call_soon_threadsafe(tell)
