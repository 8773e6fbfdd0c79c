"""A reward model's folder: which format it is of, and its weights as two logits a token, wrong and right.

Whatever a model ends with is brought into that form: label words are two rows of a language model's head, a value v is
the pair (0, v), whose softmax is its sigmoid. Such heads stand outside of the model and meet its last layer at the
read-outs alone, so no position costs a vocabulary. No code of a model's folder is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..models import CARD, adapter_base, first_line, is_adapter, load_model, read_json
from .config import Format, PrmConfig
from .others import MED_PRM_TAG, QWEN_TAG, label_tokens


def find_format(config: PrmConfig) -> Format:
    """The format of a reward model: as given, or as its files tell. Imports nothing heavy.

    A folder of ours says it in medsss.json. Others are told by the adapter's task, the architecture, the names of
    special tokens and the weights of a value head. Raises UsageError for a policy, a missing folder, and for files that
    could be of several formats.
    """
    path = config.prm or ""
    card = read_json(Path(path) / CARD) or {}
    if card and card.get("kind") != "prm":
        raise UsageError(f"{path} is a {card.get('kind', 'model')}, not a PRM", hint="name a folder of `train-prm`")
    if config.prm_format is not Format.AUTO and (Path(path).is_dir() or _is_hub_name(path)):
        return config.prm_format
    folder = Path(local_folder(path, weights=False))
    card = card or read_json(folder / CARD) or {}
    if card:
        return Format(card["convention"])
    found, what = _recognised(folder)
    if found is None:
        known = ", ".join(format for format in Format if format is not Format.AUTO)
        raise UsageError(
            f"{path} holds {what}, which is no PRM that can be recognised",
            hint=f"say what it is with --prm-format: {known}",
        )
    return found


def _is_hub_name(path: str) -> bool:
    return not path.startswith((".", "/")) and path.count("/") == 1


def local_folder(path: str, *, weights: bool = True) -> str:
    """The folder of a reward model: the path itself, or where the hub's files are kept here, fetched if need be
    (safetensors alone). Without `weights`, only what says what it is."""
    if Path(path).is_dir():
        return path
    if not _is_hub_name(path):
        raise UsageError(f"there is no PRM folder {path}", hint="train one with `medsss train-prm -o FOLDER`")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    files = ["*.json", "*.jinja", "README.md", *(["*.safetensors", "*.model", "*.txt"] if weights else [])]
    try:
        return snapshot_download(path, allow_patterns=files)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(
            f"there is no PRM folder {path}, and none from the hub: {first_line(error)}",
            hint="name a folder, or a model of the hub that can be reached",
        ) from None


def _recognised(folder: Path) -> tuple[Format | None, str]:
    """The format that files without a card tell, None where they do not, and what they hold, in words."""
    adapter = read_json(folder / "adapter_config.json")
    if adapter is not None:
        # The layout of the published medsss PRM: a token classifier's adapter on a whole policy.
        task = adapter.get("task_type")
        return (Format.MEDSSS if task == "TOKEN_CLS" else None), f"an adapter ({task})"
    kinds = _architectures(folder)
    what = ", ".join(kinds) or "no model"
    if any(name.startswith("v_head.") for name in weight_names(folder)):
        return Format.SKYWORK, what
    special = _added_tokens(folder)
    if any(kind.endswith("ForProcessRewardModel") for kind in kinds):
        return Format.QWEN, what
    if any(kind.endswith("ForTokenClassification") for kind in kinds):
        if QWEN_TAG in special:
            return Format.QWEN, what
        try:
            readme = (folder / "README.md").read_text(encoding="utf-8")
        except (OSError, ValueError):
            readme = ""
        by_trl = any(tag in readme for tag in ("stepwise-reward-trainer", "PRMTrainer", "\n- prm\n"))
        return (Format.TRL if by_trl else None), what
    if MED_PRM_TAG in special and any(kind.endswith("ForCausalLM") for kind in kinds):
        return Format.MED_PRM, what
    return None, what


def _architectures(folder: Path) -> list[str]:
    return [str(kind) for kind in (read_json(folder / "config.json") or {}).get("architectures") or []]


def _added_tokens(folder: Path) -> set[str]:
    """The tokens that a tokenizer's files add to its vocabulary, by name."""
    added = (read_json(folder / "tokenizer.json") or {}).get("added_tokens") or []
    decoder = (read_json(folder / "tokenizer_config.json") or {}).get("added_tokens_decoder") or {}
    listed = [*added, *(decoder.values() if isinstance(decoder, dict) else ())]
    return {str(token["content"]) for token in listed if isinstance(token, dict) and "content" in token}


def weight_names(folder: Path) -> dict[str, str]:
    """The names of a folder's weights (safetensors) and the file of each."""
    index = (read_json(folder / "model.safetensors.index.json") or {}).get("weight_map")
    if isinstance(index, dict):
        return {str(name): str(file) for name, file in index.items()}
    file = folder / "model.safetensors"
    if not file.is_file():
        return {}
    from safetensors import safe_open

    with safe_open(str(file), framework="np") as weights:
        return dict.fromkeys(weights.keys(), file.name)


def load(path: str, format: Format, tokenizer: Any, dtype: Any) -> tuple[Any, Any]:
    """The model in a local folder, and its head [n, width] -> [n, 2] where the model itself gives no two logits a
    token, else None. Raises UsageError where the folder lacks what the format reads."""
    folder = Path(path)
    match format:
        case Format.SKYWORK:
            weights = _head_weights(folder, "v_head.", ("v_head.summary.weight",))
            weight = weights["v_head.summary.weight"]
            bias = weights.get("v_head.summary.bias", weight.new_zeros(1))
            if len(weight) != 1:
                raise UsageError(f"the value head of {path} gives {len(weight)} numbers a token; one was expected")
            return _body(path, dtype), _linear([weight[0] * 0, weight[0]], [bias[0] * 0, bias[0]])
        case Format.MATH_SHEPHERD | Format.RLHFLOW | Format.MED_PRM:
            return _words(path, label_tokens(format, tokenizer), dtype)
    if not is_adapter(path) and any(kind.endswith("ForProcessRewardModel") for kind in _architectures(folder)):
        weights = _head_weights(folder, "score.", ("score.0.weight", "score.0.bias", "score.2.weight"))
        return _body(path, dtype), _two_layers(weights, path, dtype)
    return load_classifier(path, dtype), None


def load_classifier(path: str, dtype: Any) -> Any:
    """A token classifier with two labels, its adapter merged if it comes as one.

    Raises UsageError where the head is missing: transformers would fill it with random numbers and only warn.
    """
    from transformers import AutoModelForTokenClassification

    try:
        if is_adapter(path):
            from peft import PeftConfig, PeftModel

            saved = getattr(PeftConfig.from_pretrained(path), "modules_to_save", None) or []
            if not {"score", "classifier"} & set(saved):
                raise UsageError(f"the adapter in {path} holds no score head, so it is no PRM")
            base = load_model(adapter_base(path), dtype=dtype, head="steps")
            return PeftModel.from_pretrained(base, path).merge_and_unload()
        model, info = AutoModelForTokenClassification.from_pretrained(path, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"no PRM can be loaded from {path}: {first_line(error)}") from None
    _refuse_missing(path, info["missing_keys"])
    if model.config.num_labels != 2:
        raise UsageError(f"{path} has {model.config.num_labels} labels a token; a PRM of this format has two")
    return model


def _body(path: str, dtype: Any) -> Any:
    """A model without any head."""
    from transformers import AutoModel

    try:
        model, info = AutoModel.from_pretrained(path, dtype=dtype, output_loading_info=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"no PRM can be loaded from {path}: {first_line(error)}") from None
    _refuse_missing(path, info["missing_keys"])
    return model


def _refuse_missing(path: str, names: Sequence[str]) -> None:
    if names:
        raise UsageError(f"{path} is no PRM: it has no weights for {', '.join(sorted(names)[:3])}")


def _head_weights(folder: Path, prefix: str, needed: Sequence[str]) -> dict[str, Any]:
    """The weights whose names begin with `prefix`, in float32. Raises UsageError where a needed one is missing."""
    from safetensors import safe_open

    names = weight_names(folder)
    missing = [name for name in needed if name not in names]
    if missing:
        raise UsageError(
            f"{folder} is no PRM of this format: its safetensors have no {missing[0]}",
            hint="a folder of pytorch_model.bin alone must be converted; --prm-format names the format",
        )
    found = {}
    for name, file in names.items():
        if name.startswith(prefix):
            with safe_open(str(folder / file), framework="pt") as weights:
                found[name] = weights.get_tensor(name).float()
    return found


def _two_layers(weights: dict[str, Any], path: str, dtype: Any) -> Any:
    """Qwen's head: two linear layers with a ReLU between them."""
    import torch

    first, last = weights["score.0.weight"], weights["score.2.weight"]
    if len(last) != 2:
        raise UsageError(f"{path} has {len(last)} labels a token; a PRM of this format has two")
    head = torch.nn.Sequential(
        torch.nn.Linear(first.shape[1], first.shape[0]),
        torch.nn.ReLU(),
        torch.nn.Linear(last.shape[1], 2, bias="score.2.bias" in weights),
    )
    head.load_state_dict({name.removeprefix("score."): weight for name, weight in weights.items()})
    return head.to(dtype)


def _linear(rows: Sequence[Any], biases: Sequence[Any] | None) -> Any:
    """A linear layer with these rows, in float32."""
    import torch

    head = torch.nn.Linear(len(rows[0]), len(rows), bias=biases is not None)
    with torch.no_grad():
        head.weight.copy_(torch.stack(list(rows)))
        if biases is not None:
            head.bias.copy_(torch.stack(list(biases)))
    return head


def _words(path: str, labels: tuple[int, int], dtype: Any) -> tuple[Any, Any]:
    """The body of a language model and the rows of its head for two words.

    What the model itself says of a few tokens is compared with this, so that one that does more to its logits (soft
    caps, scales) is refused and not scored wrong.
    """
    import torch

    model: Any = load_model(path, dtype=dtype, head="causal")
    model.eval()
    output = model.get_output_embeddings()
    bias = getattr(output, "bias", None)
    rows = [output.weight[label].detach().float() for label in labels]
    head = _linear(rows, None if bias is None else [bias[label].detach().float() for label in labels])
    with torch.inference_mode():
        ids = torch.tensor([[*labels, *labels]])
        theirs = model(input_ids=ids, use_cache=False).logits[0][:, list(labels)].float()
        ours = head(model.base_model(input_ids=ids, use_cache=False)[0][0].float())
    near = 1e-3 if dtype == torch.float32 else 0.05
    if not bool(((ours - theirs).abs() <= near * (1 + theirs.abs().max())).all()):
        raise UsageError(
            f"the language model in {path} does more to its logits than its head says; its scores cannot be read",
            hint="tell us which model it is",
        )
    return model.base_model, head
