"""What an engine is: it turns a prompt into n completions. Nothing here knows trees, records or a model.

Engines are opened by `medsss_cli.engines.open_engine(spec)` as an async context manager.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import EngineError
from ..requests import Completion, Prompt, Sampling


@dataclass(slots=True)
class Usage:
    """What an engine has done since it was opened."""

    requests: int = 0
    completions: int = 0
    prompt_tokens: int = 0
    tokens: int = 0

    def add(self, prompt_tokens: int, done: Sequence[Completion]) -> None:
        """A request was served."""
        self.requests += 1
        self.completions += len(done)
        self.prompt_tokens += prompt_tokens
        self.tokens += sum(completion.tokens for completion in done)


class Engine(Protocol):
    """Many `complete` calls may be awaited at once; an engine serves them together.

    `concurrency` is how many requests it takes to keep it busy; drivers take their default from it. Raises EngineError
    when a request cannot be served (a prompt longer than the context, say).
    """

    name: str
    concurrency: int
    usage: Usage

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]: ...


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How to open an engine. `policy` is a model folder, a hub name or `builtin:clinic`; `adapter` a LoRA folder on it.

    The second part is for vllm (`vllm_args` are "KEY=VALUE" for its engine arguments), the third for http: the servers,
    the name of the model there (None: found out), seconds to wait for a completion, and how often to try again.
    """

    kind: str = "auto"
    policy: str = "builtin:clinic"
    adapter: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    max_context: int | None = None
    trust_remote_code: bool = False

    gpu_memory_utilization: float | None = None
    tensor_parallel_size: int | None = None
    vllm_args: tuple[str, ...] = ()

    base_urls: tuple[str, ...] = ()
    served_model: str | None = None
    timeout: float = 600.0
    retries: int = 8

    def writer(self) -> dict[str, str]:
        """Who writes, for the settings that a run is compared by; without an adapter nothing is said of one."""
        return {"policy": self.policy} | ({"adapter": self.adapter} if self.adapter else {})


def check_request(sampling: Sampling, n: int) -> None:
    """Raises EngineError for a request that no engine can serve."""
    if n < 0 or sampling.max_tokens < 1 or sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
        raise EngineError(
            "a request needs n >= 0, max_tokens >= 1, temperature >= 0 and top_p in (0, 1], "
            f"got n={n}, {sampling.max_tokens}, {sampling.temperature}, {sampling.top_p}"
        )
    if "" in sampling.stop or "" in sampling.allowed_tokens:
        raise EngineError("a stop string or an allowed word is empty")


def notes_of(engine: Engine) -> list[str]:
    """What an engine has to tell at the end of a run, a line each (`notes()`, where it has that): retries, servers that
    were put aside."""
    notes: list[str] = getattr(engine, "notes", list)()
    return notes
