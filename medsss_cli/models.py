"""Model folders and hub names, opened for training and for scoring: whole models, and LoRA adapters on their base.

The engines open policies in a way of their own (`engines.loading`). Nothing here imports torch before it is called.
"""

from __future__ import annotations

import contextlib
import json
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
    """The numbers that a model computes with; auto is bfloat16 on a GPU and float32 on the CPU."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


CARD = "medsss.json"
"""What a folder of ours was made of: kind, base, data, options, versions."""

STEP_LABELS = {0: "wrong", 1: "right"}
"""The two labels of a token in a PRM; RIGHT is the one whose probability is the score."""

RIGHT = 1


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Load without transformers' progress bar and remarks: what matters is checked and raised."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    shown = logging.is_progress_bar_enabled()
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
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def load_tokenizer(path: str, *, chat: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name; with `chat`, one that has a chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no tokenizer can be loaded from {path}: {first_line(error)}", hint="name a model folder"
        ) from None
    if chat and not tokenizer.chat_template:
        raise UsageError(
            f"the tokenizer of {path} has no chat template", hint="put a chat_template.jinja into the folder"
        )
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


def load_model(path: str, *, dtype: Any, head: str) -> PreTrainedModel:
    """A model with the head "causal" or "steps" (token classification with two labels, no dropout on it).

    A folder that holds a LoRA adapter of a language model is loaded onto its base and merged. Raises UsageError where
    nothing can be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    try:
        if is_adapter(path):
            from peft import AutoPeftModelForCausalLM

            merged = AutoPeftModelForCausalLM.from_pretrained(path, dtype=dtype).merge_and_unload()
            if head == "causal":
                return merged  # type: ignore[no-any-return]
            config, body = merged.config, getattr(merged, merged.base_model_prefix)
        elif head == "causal":
            return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        else:
            config, body = load_config(path), None
        config.num_labels = 2
        config.id2label = dict(STEP_LABELS)
        config.label2id = {name: index for index, name in STEP_LABELS.items()}
        config.classifier_dropout = 0.0  # the default of .1 would train a head that scoring never sees
        if body is None:
            return AutoModelForTokenClassification.from_pretrained(path, config=config, dtype=dtype)  # type: ignore[no-any-return]
        model = AutoModelForTokenClassification.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
        getattr(model, model.base_model_prefix).load_state_dict(body.state_dict())
        return model  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise UsageError(f"no model can be loaded from {path}: {first_line(error)}") from None


def context_length(config: Any) -> int | None:
    """How many positions a model has, None where its configuration does not say."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    length = getattr(text, "max_position_embeddings", None)
    return int(length) if isinstance(length, int) and length > 0 else None


def adapter_base(path: str) -> str:
    """The model under an adapter folder; a model's own path otherwise."""
    config = read_json(Path(path) / "adapter_config.json") if is_adapter(path) else None
    return str(config["base_model_name_or_path"]) if config else path
