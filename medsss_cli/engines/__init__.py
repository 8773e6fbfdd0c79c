"""Engines turn prompts into completions: `hf` (transformers), `vllm` (in process), `http` (servers that speak OpenAI's
protocol) and `scripted` (for tests). `open_engine` opens one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.util import find_spec

from .. import console
from ..errors import UsageError
from ..models import Device, resolve_policy
from ..requests import Engine, Prompt, Sampling
from .base import EngineConfig, ModelEngine, ThinkFirst
from .hf import open_hf
from .http import open_http
from .scripted import ScriptedEngine, open_scripted
from .vllm import open_vllm

__all__ = ["Engine", "EngineConfig", "Prompt", "Sampling", "open_engine", "resolve_policy"]


@contextlib.asynccontextmanager
async def open_engine(config: EngineConfig) -> AsyncIterator[Engine]:
    """The engine that `config` describes: `async with open_engine(config) as engine`.

    Says which one "auto" took and why, that a model is being loaded, what the engine warns of, and at the end what it
    has to tell. Raises UsageError for an unknown kind and for a policy that cannot be loaded.
    """
    kind, _, rest = config.engine.partition(":")
    if kind == "auto":
        kind, why = _pick_kind(config)
        if not console.is_quiet():
            console.note(f"engine {kind}: {why}")
    if config.base_url and kind != "http":
        raise UsageError(f"--base-url is for --engine http, not for {kind}")
    opened: contextlib.AbstractAsyncContextManager[ModelEngine | ScriptedEngine]
    match kind:
        case "hf":
            opened = open_hf(config)
        case "vllm":
            opened = open_vllm(config)
        case "http":
            opened = open_http(config)
        case "scripted":
            config.arguments(())
            opened = open_scripted(rest)
        case _:
            raise UsageError(f"no engine {config.engine!r}", hint="one of: auto, hf, vllm, http, scripted:FILE")
    async with contextlib.AsyncExitStack() as stack:
        with console.doing(f"loading {config.policy}"):
            engine: ModelEngine | ScriptedEngine = await stack.enter_async_context(opened)
        engine.concurrency = config.concurrency or engine.concurrency
        if isinstance(engine, ModelEngine):
            for warning in engine.warnings:
                console.warn(warning)
        yield ThinkFirst(engine, config.thought_tokens) if config.thought_tokens else engine
        if isinstance(engine, ModelEngine) and not console.is_quiet():
            for line in engine.notes():
                console.note(line)


def _pick_kind(config: EngineConfig) -> tuple[str, str]:
    """What "auto" means for `config` on this machine, and why."""
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
