"""From the name of a policy to a folder, a model and its tokenizer: quietly, and with no weight that was not there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..models import Device, Dtype, first_line, is_adapter, read_json
from .base import EngineConfig

BUILTIN = {"builtin:clinic": "policy", "builtin:clinic2": "policy2"}
_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx")

LOADING = (
    *("attn_implementation", "cache_dir", "device_map", "experts_implementation", "gguf_file", "key_mapping"),
    *("local_files_only", "max_memory", "offload_folder", "subfolder", "token", "trust_remote_code", "variant"),
)
"""What `-E` can tell from_pretrained."""


def resolve_policy(policy: str, *, weights: bool = True) -> str:
    """The folder or hub name that `policy` means: "builtin:clinic" is a folder shipped with the package.

    A name with one slash that is no folder here is taken for a hub name. OWNER/NAME@REVISION is downloaded (into the
    hub's cache) and gives that folder, where it is not wanted without `weights`. Raises UsageError for anything else
    that is not a model folder, and says what to do.
    """
    if policy in BUILTIN:
        return str(Path(__file__).resolve().parent.parent / "clinic" / BUILTIN[policy])
    path = Path(policy).expanduser()
    if path.is_dir():
        if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
            return str(path)
        raise UsageError(
            f"{policy} is not a model folder: it holds neither config.json nor adapter_config.json",
            hint="name the folder that train-policy wrote (a checkpoint may lie one level deeper)",
        )
    named = _HUB_NAME.fullmatch(policy)
    if named and not path.exists() and not policy.startswith("."):
        return policy if named[2] is None else _pinned(named[1], named[2], weights=weights)
    raise UsageError(
        f"no policy folder {policy}",
        hint=f"a policy is a folder with config.json, a hub name OWNER/NAME, or {' or '.join(BUILTIN)}",
    )


def _pinned(name: str, revision: str, *, weights: bool) -> str:
    """The folder of one revision of a hub repository."""
    from huggingface_hub import snapshot_download

    leave = _WEIGHTS[1:] if weights else _WEIGHTS
    try:
        return str(snapshot_download(name, revision=revision, ignore_patterns=list(leave)))
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors
        raise UsageError(f"cannot load {name}@{revision}: {first_line(error)}") from None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A causal LM in evaluation mode on its device, its tokenizer, and what a user should know about the loading."""

    model: Any
    tokenizer: Any
    warnings: tuple[str, ...]


def quiet_transformers() -> None:
    """Keep transformers' and the hub's progress bars, warnings and telemetry away. Call it before a load."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _pick_device(device: Device) -> Any:
    """The device; "auto" is a GPU where there is one. Raises UsageError for a GPU that is missing."""
    import torch

    there = torch.cuda.is_available()
    if device == Device.CUDA and not there:
        raise UsageError("--device cuda, and torch sees no GPU", hint="leave --device out, or take --device cpu")
    return torch.device("cuda" if there and device != Device.CPU else "cpu")


def load_policy(config: EngineConfig) -> Loaded:
    """Load the model that `config.policy` names. A folder with a PEFT adapter gives its base with the adapter merged
    in; so does `config.adapter`, a folder with one to put on top of the policy.

    Raises UsageError where nothing can be loaded, and where the weights do not cover the model (a reward model, say,
    has no output layer: transformers would fill it with random numbers).
    """
    policy, adapter = config.policy, config.adapter
    keywords = config.arguments(LOADING, of="--engine hf", ours={"dtype": "--dtype says it", "device": "--device"})
    folder = resolve_policy(policy)
    base = base_of(folder)
    if adapter is not None:
        check_adapter(adapter)
    quiet_transformers()
    import torch

    device = _pick_device(config.device)
    dtype = config.dtype
    if dtype == Dtype.AUTO:
        dtype = Dtype.FLOAT32 if device.type == "cpu" else Dtype.BFLOAT16
    model = _from_pretrained(policy, base, getattr(torch, dtype), keywords)
    for each in (folder if base != folder else None, adapter):
        if each is not None:
            model = _merge(model, each)
    tokenizer = tokenizer_of(folder, base, trust_remote_code=bool(keywords.get("trust_remote_code")))
    model = (model if "device_map" in keywords else model.to(device)).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Loaded(model, tokenizer, tuple(remarks_on(tokenizer, policy)))


def check_adapter(adapter: str) -> None:
    """Raises UsageError where `adapter` is no folder with a PEFT adapter."""
    if not is_adapter(str(Path(adapter).expanduser())):
        raise UsageError(
            f"{adapter} is no adapter: there is no {Path(adapter) / 'adapter_config.json'}",
            hint="name the folder that `train-policy` wrote without --full or --merge",
        )


def _merge(model: Any, adapter: str) -> Any:
    """`model` with the PEFT adapter of a folder merged into its weights."""
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(Path(adapter).expanduser())).merge_and_unload()
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UsageError(f"the adapter {adapter} does not fit the policy: {first_line(error)}") from None


def base_of(folder: str) -> str:
    """The folder of whole weights behind a policy's folder: that of its base where it holds an adapter alone, or
    itself."""
    if not is_adapter(folder) or any(Path(folder).glob("model*.safetensors")):
        return folder
    base = (read_json(Path(folder) / "adapter_config.json") or {}).get("base_model_name_or_path")
    if not base:
        raise UsageError(f"{folder}/adapter_config.json does not say which base model it belongs to")
    return resolve_policy(str(base))


def _from_pretrained(policy: str, base: str, dtype: Any, keywords: dict[str, Any]) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    damaged = "they are cut short, or made for another config.json: copy or download the folder again"
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by their shapes
            **keywords,
        )
    except (OSError, ValueError, KeyError) as error:
        hint = "a policy is a folder with config.json and *.safetensors, a hub name OWNER/NAME, or builtin:clinic"
        if "trust_remote_code" in str(error):
            hint = "its code is not part of transformers: -E trust_remote_code=true runs it, if you trust its author"
        raise UsageError(f"cannot load the policy {policy}: {first_line(error)}", hint=hint) from None
    except (SafetensorError, RuntimeError) as error:
        raise UsageError(f"cannot load the weights of {policy}: {first_line(error)}", hint=damaged) from None
    model, info = loaded
    for name, there, wanted in sorted(info["mismatched_keys"]):
        what = f"{name} has the shape {tuple(there)}, and config.json asks for {tuple(wanted)}"
        raise UsageError(f"cannot load the weights of {policy}: {what}", hint=damaged)
    if missing := sorted(info["missing_keys"]):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UsageError(
            f"{policy} is no whole causal language model: it lacks {', '.join(missing[:3])}{more}",
            hint="is it a reward model? --policy wants the model that writes answers",
        )
    return model


def tokenizer_of(folder: str, base: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer beside the weights; an adapter folder may leave it to its base."""
    from transformers import AutoTokenizer

    own = any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    source = folder if own else base
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"cannot load the tokenizer of {source}: {first_line(error)}") from None


def remarks_on(tokenizer: Any, policy: str) -> list[str]:
    """What the user of a policy should know of its tokenizer."""
    if getattr(tokenizer, "chat_template", None):
        return []
    return [f"{policy} has no chat template: prompts are written as plain 'User:' and 'Assistant:' turns"]


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
