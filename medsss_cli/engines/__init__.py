"""Engines turn prompts into completions: `hf` (transformers), `vllm` (in process), `http` (servers that speak OpenAI's
protocol) and `scripted` (for tests). `open_engine` opens one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.util import find_spec

from .. import console
from ..errors import UsageError
from ..models import Device, Dtype
from ..requests import Completion, Engine, FinishReason, Prompt, Sampling, Usage, derive_seed
from .base import EngineConfig, notes_of

__all__ = [
    "Completion",
    "Device",
    "Dtype",
    "Engine",
    "EngineConfig",
    "FinishReason",
    "Prompt",
    "Sampling",
    "Usage",
    "derive_seed",
    "notes_of",
    "open_engine",
    "resolve_policy",
]

KINDS = ("auto", "hf", "vllm", "http", "scripted:FILE")


@contextlib.asynccontextmanager
async def open_engine(config: EngineConfig) -> AsyncIterator[Engine]:
    """The engine that `config` describes: `async with open_engine(config) as engine`.

    Says which one "auto" took and why, that a model is being loaded, and what the engine warns of. Raises UsageError
    for an unknown kind and for a policy that cannot be loaded.
    """
    kind, _, rest = config.engine.partition(":")
    if kind == "auto":
        kind, why = pick_kind(config)
        if not console.is_quiet():
            console.note(f"engine {kind}: {why}")
    if config.base_url and kind != "http":
        raise UsageError(f"--base-url is for --engine http, not for {kind}")
    opened = _open(kind, rest, config)
    async with contextlib.AsyncExitStack() as stack:
        with console.doing(f"loading {config.policy}"):
            engine = await stack.enter_async_context(opened)
        for warning in getattr(engine, "warnings", ()):
            console.warn(warning)
        yield engine


def _open(kind: str, rest: str, config: EngineConfig) -> contextlib.AbstractAsyncContextManager[Engine]:
    match kind:
        case "vllm":
            from .vllm import open_vllm

            return open_vllm(config)
        case "http":
            from .http import open_http

            return open_http(config)
        case "hf":
            from .hf import open_hf

            return open_hf(config)
        case "scripted":
            from .scripted import open_scripted

            config.arguments((), of="--engine scripted")
            return open_scripted(rest)
        case _:
            raise UsageError(f"no engine {config.engine!r}", hint=f"one of: {', '.join(KINDS)}")


def pick_kind(config: EngineConfig) -> tuple[str, str]:
    """What "auto" means for `config` on this machine, "http", "vllm" or "hf", and why."""
    if config.base_url:
        return "http", "--base-url names a server"
    if config.device == Device.CPU:
        return "hf", "--device cpu"
    if find_spec("vllm") is None:
        return "hf", "vLLM is not installed"
    import torch

    if not torch.cuda.is_available():
        return "hf", "torch sees no GPU (--engine vllm is faster on a CPU, too)"
    return "vllm", "it is installed, and torch sees a GPU"


def resolve_policy(policy: str) -> str:
    """The folder or hub name that `policy` means. See engines/loading.py."""
    from .loading import resolve_policy as resolve

    return resolve(policy)
