"""A policy as the engines load it: on its device, in its numbers, with adapters merged in; quietly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..models import Device, Dtype, is_adapter, load_causal, load_tokenizer, merge_adapter, resolve_policy
from .base import EngineConfig

LOADING = (
    *("attn_implementation", "cache_dir", "device_map", "experts_implementation", "gguf_file", "key_mapping"),
    *("local_files_only", "max_memory", "offload_folder", "subfolder", "token", "trust_remote_code", "variant"),
)
"""What `-E` can tell from_pretrained."""


def quiet_transformers() -> None:
    """Keep transformers' and the hub's progress bars, warnings and telemetry away. Call it before a load."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_policy(config: EngineConfig) -> tuple[Any, Any]:
    """The policy of `config` in evaluation mode on its device, and its tokenizer. Adapters are merged in: the one that
    the policy's folder is, and `config.adapter`. Raises UsageError where they cannot be loaded."""
    keywords = config.arguments(LOADING, {"dtype": "--dtype", "device": "--device"})
    folder = resolve_policy(config.policy)
    check_adapter(config.adapter)
    quiet_transformers()
    import torch

    cuda = torch.cuda.is_available()
    if config.device == Device.CUDA and not cuda:
        raise UsageError("--device cuda, and torch sees no GPU", hint="leave --device out, or take --device cpu")
    device = "cuda" if cuda and config.device != Device.CPU else "cpu"
    dtype = config.dtype
    if dtype == Dtype.AUTO:
        dtype = Dtype.FLOAT32 if device == "cpu" else Dtype.BFLOAT16
    model = load_causal(folder, getattr(torch, dtype), use_safetensors=True, **keywords)
    if config.adapter is not None:
        model = merge_adapter(model, config.adapter)
    tokenizer = load_tokenizer(folder, trust_remote_code=config.trust_remote_code)
    model = model if "device_map" in keywords else model.to(device)
    return model.eval().requires_grad_(False), tokenizer


def check_adapter(adapter: str | None) -> None:
    """Raises UsageError where an adapter is named that is no folder with a PEFT adapter."""
    if adapter is not None and not is_adapter(str(Path(adapter).expanduser())):
        raise UsageError(
            f"{adapter} is no adapter: there is no {Path(adapter) / 'adapter_config.json'}",
            hint="name the folder that `train-policy` wrote without --full or --merge",
        )


def generation_config_of(base: str) -> Any:
    """The generation settings in a model folder; None where there are none."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(base)
    except (OSError, ValueError):
        return None


def plain_config(**settings: Any) -> Any:
    """A GenerationConfig of these settings alone."""
    from transformers import GenerationConfig

    make: Any = GenerationConfig
    return make(**settings)
