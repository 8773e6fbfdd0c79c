"""Engines turn prompts into completions: `hf` (transformers) and `scripted` (for tests). `open_engine` opens one."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from ..errors import UsageError
from .base import Completion, Engine, EngineSpec, FinishReason, Prompt, Sampling, Usage, derive_seed

__all__ = [
    "Completion",
    "Engine",
    "EngineSpec",
    "FinishReason",
    "Prompt",
    "Sampling",
    "Usage",
    "derive_seed",
    "open_engine",
    "resolve_policy",
]

KINDS = ("auto", "hf", "scripted:FILE")


def open_engine(spec: EngineSpec) -> AbstractAsyncContextManager[Engine]:
    """The engine that `spec` describes, as an async context manager: `async with open_engine(spec) as engine`.

    "auto" is hf. Raises UsageError for an unknown kind at once, and for a policy that cannot be loaded on entering.
    """
    kind, _, rest = spec.kind.partition(":")
    match kind:
        case "auto" | "hf":
            from .hf import open_hf

            return open_hf(spec)
        case "scripted":
            from .scripted import open_scripted

            return open_scripted(rest)
        case _:
            raise UsageError(f"no engine {spec.kind!r}", hint=f"one of: {', '.join(KINDS)}")


def resolve_policy(policy: str) -> str:
    """The folder or hub name that `policy` means. See engines/loading.py."""
    from .loading import resolve_policy as resolve

    return resolve(policy)
