"""Model folders and hub names: which folder a name means, and what is in it: whole models, LoRA adapters on their base,
tokenizers. No weight is made up that was not there. Nothing here imports torch before it is called."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Device(StrEnum):
    """Where a model runs. CUDA_VISIBLE_DEVICES chooses among several GPUs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Dtype(StrEnum):
    """The numbers that a model computes with; auto: bfloat16 on a GPU, float32 on the CPU."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


CARD = "medsss.json"
"""What a folder of ours was made of: kind, base, data, options, versions."""

STEP_LABELS = {0: "wrong", 1: "right"}
"""The two labels of a token in a PRM; RIGHT is the one whose probability is the score."""

RIGHT = 1

BUILTIN = {"builtin:clinic": "policy", "builtin:clinic2": "policy2"}
_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx")


def resolve_policy(policy: str, *, weights: bool = True) -> str:
    """The folder or hub name that `policy` means: "builtin:clinic" is a folder of the package, what is no folder here a
    hub name. OWNER/NAME@REVISION is downloaded into the hub's cache (without `weights` where they are not wanted)
    and gives that folder. Raises UsageError for anything else."""
    if policy in BUILTIN:
        return str(Path(__file__).resolve().parent / "clinic" / BUILTIN[policy])
    path = Path(policy).expanduser()
    if path.is_dir():
        if (path / "config.json").is_file() or is_adapter(str(path)):
            return str(path)
        raise UsageError(
            f"{policy} is not a model folder: it holds neither config.json nor adapter_config.json",
            hint="name the folder that train-policy wrote (a checkpoint may lie one level deeper)",
        )
    named = _HUB_NAME.fullmatch(policy)
    if not named or path.exists() or policy.startswith("."):
        raise UsageError(
            f"no policy folder {policy}",
            hint=f"a policy is a folder with config.json, a hub name OWNER/NAME, or {' or '.join(BUILTIN)}",
        )
    if named[2] is None:
        return policy
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(named[1], revision=named[2], ignore_patterns=list(_WEIGHTS[weights:])))
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors
        raise UsageError(f"cannot load {policy}: {first_line(error)}") from None


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Load without transformers' progress bar and remarks: what matters is checked and raised."""
    from transformers.utils import logging

    before, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(40)  # ERROR
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, None where the file is missing or torn."""
    with contextlib.suppress(OSError, ValueError):
        if isinstance(value := json.loads(path.read_text(encoding="utf-8")), dict):
            return value
    return None


def load_tokenizer(path: str, *, chat: bool = True, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name, an adapter's own or that of its base; with `chat`, one that has a
    chat template."""
    from transformers import AutoTokenizer

    own = any((Path(path) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    source = path if own else adapter_base(path)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"no tokenizer can be loaded from {source}: {first_line(error)}") from None
    if chat and not tokenizer.chat_template:
        hint = "put a chat_template.jinja into the folder"
        raise UsageError(f"the tokenizer of {source} has no chat template", hint=hint)
    return tokenizer


def first_line(error: Exception) -> str:
    """The first line of its message, or its type where it has none."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def is_adapter(path: str) -> bool:
    return (Path(path) / "adapter_config.json").is_file()


def load_config(path: str) -> Any:
    """The configuration of a model, or of the model under an adapter folder. Raises UsageError where there is none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(adapter_base(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"no model can be loaded from {path}: {first_line(error)}") from None


def count_parameters(config: Any) -> int:
    """How many weights a causal model of this configuration has; none is made."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return sum(parameter.numel() for parameter in model.parameters())


def load_causal(path: str, dtype: Any, **keywords: Any) -> Any:
    """The causal language model of a folder or hub name, an adapter merged into its base.

    Raises UsageError where nothing can be loaded, and where the weights do not cover the model (a reward model, say,
    has no output layer: transformers would fill it with random numbers).
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    base = adapter_base(path)
    damaged = "they are cut short, or made for another config.json: copy or download the folder again"
    keywords |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # mismatches are told below
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, **keywords)
    except (OSError, ValueError, KeyError) as error:
        hint = "a model is a folder with config.json and *.safetensors, a hub name OWNER/NAME, or builtin:clinic"
        if "trust_remote_code" in str(error):
            hint = "its code is not part of transformers: -E trust_remote_code=true runs it, if you trust its author"
        raise UsageError(f"cannot load the model {base}: {first_line(error)}", hint=hint) from None
    except (SafetensorError, RuntimeError) as error:
        raise UsageError(f"cannot load the weights of {base}: {first_line(error)}", hint=damaged) from None
    model, info = loaded
    for name, there, wanted in sorted(info["mismatched_keys"]):
        what = f"{name} has the shape {tuple(there)}, and config.json asks for {tuple(wanted)}"
        raise UsageError(f"cannot load the weights of {base}: {what}", hint=damaged)
    if missing := sorted(info["missing_keys"]):
        what = f"it lacks {', '.join(missing[:3])}{f' and {len(missing) - 3} more' * (len(missing) > 3)}"
        hint = "is it a reward model? --policy wants the model that writes answers"
        raise UsageError(f"{base} is no whole causal language model: {what}", hint=hint)
    return model if base == path else merge_adapter(model, path)


def merge_adapter(model: Any, adapter: str) -> Any:
    """`model` with the PEFT adapter of a folder merged into its weights. Raises UsageError where it does not fit."""
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(Path(adapter).expanduser())).merge_and_unload()
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UsageError(f"the adapter {adapter} does not fit the policy: {first_line(error)}") from None


def load_model(path: str, *, dtype: Any, head: str) -> PreTrainedModel:
    """A model with the head "causal" or "steps" (token classification with two labels, no dropout on it), with the
    weights of the language model in `path`. Raises UsageError where nothing can be loaded."""
    from transformers import AutoModelForTokenClassification

    if head == "causal":
        return load_causal(path, dtype)  # type: ignore[no-any-return]
    merged = load_causal(path, dtype) if is_adapter(path) else None
    config = load_config(path) if merged is None else merged.config
    config.num_labels = 2
    config.id2label = dict(STEP_LABELS)
    config.label2id = {name: index for index, name in STEP_LABELS.items()}
    config.classifier_dropout = 0.0  # the default of .1 would train a head that scoring never sees
    try:
        if merged is None:
            return AutoModelForTokenClassification.from_pretrained(path, config=config, dtype=dtype)  # type: ignore[no-any-return]
        model = AutoModelForTokenClassification.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
        body = getattr(merged, merged.base_model_prefix)
        getattr(model, model.base_model_prefix).load_state_dict(body.state_dict())
        return model  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise UsageError(f"no model can be loaded from {path}: {first_line(error)}") from None


def context_length(config: Any) -> int | None:
    """How many positions a model has, None where its configuration does not say."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(length) if isinstance(length, int) and length > 0 else None


def adapter_base(path: str) -> str:
    """The folder or hub name of the whole model under an adapter's folder; a whole model's own path otherwise."""
    if not is_adapter(path) or any(Path(path).glob("model*.safetensors")):
        return path
    base = (read_json(Path(path) / "adapter_config.json") or {}).get("base_model_name_or_path")
    if not base:
        raise UsageError(f"{path}/adapter_config.json does not say which base model it belongs to")
    return resolve_policy(str(base))
