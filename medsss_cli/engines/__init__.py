"""Engines turn prompts into completions: `hf` (transformers), `vllm` (in process), `http` (servers that speak OpenAI's
protocol) and `scripted` (for tests). `open_engine` opens one."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec

from .. import console
from ..errors import UsageError
from ..requests import Completion, FinishReason, Prompt, Sampling, derive_seed
from .base import Engine, EngineSpec, Usage, notes_of

__all__ = [
    "Completion",
    "Engine",
    "EngineSpec",
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


def open_engine(spec: EngineSpec) -> AbstractAsyncContextManager[Engine]:
    """The engine that `spec` describes, as an async context manager: `async with open_engine(spec) as engine`.

    "auto" is http where a server is named, vllm where it is installed and torch sees a GPU, else hf. Raises UsageError
    for an unknown kind at once, and for a policy that cannot be loaded on entering.
    """
    kind, _, rest = spec.kind.partition(":")
    if kind == "auto":
        kind = pick_kind(spec)
    if console.is_verbose():
        console.note(f"engine: {kind}")
    match kind:
        case "vllm":
            from .vllm import open_vllm

            return open_vllm(spec)
        case "http":
            from .http import open_http

            return open_http(spec)
        case "hf":
            from .hf import open_hf

            return open_hf(spec)
        case "scripted":
            from .scripted import open_scripted

            return open_scripted(rest)
        case _:
            raise UsageError(f"no engine {spec.kind!r}", hint=f"one of: {', '.join(KINDS)}")


def pick_kind(spec: EngineSpec) -> str:
    """What "auto" means for `spec` on this machine: "http", "vllm" or "hf"."""
    if spec.base_urls:
        return "http"
    if spec.device != "cpu" and find_spec("vllm") is not None:
        import torch

        if torch.cuda.is_available():
            return "vllm"
    return "hf"


def resolve_policy(policy: str) -> str:
    """The folder or hub name that `policy` means. See engines/loading.py."""
    from .loading import resolve_policy as resolve

    return resolve(policy)
