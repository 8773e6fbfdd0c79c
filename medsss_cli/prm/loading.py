"""A reward model's folder: which format it is of, and its weights as two logits a token, wrong and right.

Whatever a model ends with is brought into that form: label words are two rows of a language model's head, a value v is
the pair (0, v), whose softmax is its sigmoid. Such heads stand outside of the model and meet its last layer at the
read-outs alone, so no position costs a vocabulary. No code of a model's folder is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..models import CARD, adapter_base, first_line, is_adapter, load_model, read_json, resolve_policy
from .config import Format, PrmConfig
from .others import MED_PRM_TAG, QWEN_TAG, label_tokens


def find_format(config: PrmConfig) -> Format:
    """The format of a reward model: as given, as medsss.json says, or as its files tell (the adapter's task, the
    architecture, names of special tokens, a value head). Imports nothing heavy. Raises UsageError for a policy, a
    missing folder, and files that could be of several formats."""
    path = config.prm or ""
    folder = Path(local_folder(path, weights=False))
    card = read_json(folder / CARD) or {}
    if card and card.get("kind") != "prm":
        raise UsageError(f"{path} is a {card.get('kind', 'model')}, not a PRM", hint="name a folder of `train-prm`")
    if config.prm_format is not Format.AUTO:
        return config.prm_format
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


def local_folder(path: str, *, weights: bool = True) -> str:
    """The folder of a reward model: the path itself, or where the hub's files are kept here, fetched if need be.
    Without `weights`, only what says what it is."""
    if Path(path).is_dir():
        return path
    why = ""
    if path.count("/") == 1 and not path.startswith((".", "/")):
        try:
            return resolve_policy(path if "@" in path else f"{path}@main", weights=weights)
        except UsageError as error:
            why = f", and none from the hub: {error}"
    raise UsageError(f"there is no PRM folder {path}{why}", hint="train one with `medsss train-prm -o FOLDER`")


def _recognised(folder: Path) -> tuple[Format | None, str]:
    """The format that files without a card tell, None where they do not, and what they hold, in words."""
    if is_adapter(str(folder)):
        # The layout of the published medsss PRM: a token classifier's adapter on a whole policy.
        task = (read_json(folder / "adapter_config.json") or {}).get("task_type")
        return (Format.MEDSSS if task == "TOKEN_CLS" else None), f"an adapter ({task})"
    kinds = _architectures(folder)
    what = ", ".join(kinds) or "no model"
    added = (read_json(folder / "tokenizer.json") or {}).get("added_tokens") or []
    decoder = (read_json(folder / "tokenizer_config.json") or {}).get("added_tokens_decoder") or {}
    special = {token["content"] for token in [*added, *decoder.values()]}

    def ends(kind: str) -> bool:
        return any(each.endswith(kind) for each in kinds)

    if any(name.startswith("v_head.") for name in _weight_files(folder)):
        return Format.SKYWORK, what
    if ends("ForProcessRewardModel") or (ends("ForTokenClassification") and QWEN_TAG in special):
        return Format.QWEN, what
    if ends("ForTokenClassification"):
        readme = folder / "README.md"
        text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
        by_trl = any(tag in text for tag in ("stepwise-reward-trainer", "PRMTrainer", "\n- prm\n"))
        return (Format.TRL if by_trl else None), what
    return (Format.MED_PRM if MED_PRM_TAG in special and ends("ForCausalLM") else None), what


def _architectures(folder: Path) -> list[str]:
    return [str(kind) for kind in (read_json(folder / "config.json") or {}).get("architectures") or []]


def _weight_files(folder: Path) -> dict[str, str]:
    """The names of a folder's weights (safetensors) and the file of each."""
    if (index := read_json(folder / "model.safetensors.index.json")) is not None:
        return dict(index["weight_map"])
    file = folder / "model.safetensors"
    if not file.is_file():
        return {}
    from safetensors import safe_open

    with safe_open(str(file), framework="np") as weights:
        return dict.fromkeys(weights.keys(), file.name)


def load(path: str, format: Format, tokenizer: Any, dtype: Any) -> tuple[Any, Any]:
    """The model in a local folder, and its head [n, width] -> [n, 2] where the model itself gives no two logits a
    token, else None. Raises UsageError where the folder lacks what the format reads."""
    import torch
    from transformers import AutoModel, AutoModelForTokenClassification

    folder = Path(path)
    match format:
        case Format.SKYWORK:
            value = _stored(folder, "v_head.summary")
            if value.out_features != 1:
                raise UsageError(f"the value head of {path} gives {value.out_features} numbers a token, not one")
            rows = (torch.cat([row * 0, row]) for row in (value.weight, value.bias))
            return _pretrained(AutoModel, path, dtype), _linear(*rows)
        case Format.MATH_SHEPHERD | Format.RLHFLOW | Format.MED_PRM:
            return _words(path, label_tokens(format, tokenizer), dtype)
    if is_adapter(path):
        return _adapted(path, dtype), None
    if any(kind.endswith("ForProcessRewardModel") for kind in _architectures(folder)):
        head = torch.nn.Sequential(_stored(folder, "score.0"), torch.nn.ReLU(), _stored(folder, "score.2"))
        model, head, labels = _pretrained(AutoModel, path, dtype), head.to(dtype), head[2].out_features
    else:
        model, head = _pretrained(AutoModelForTokenClassification, path, dtype), None
        labels = model.config.num_labels
    if labels != 2:
        raise UsageError(f"{path} has {labels} labels a token; a PRM of this format has two")
    return model, head


def _pretrained(kind: Any, path: str, dtype: Any) -> Any:
    """A model of this class. Raises UsageError where weights are missing: transformers would make them up and only
    warn."""
    try:
        model, info = kind.from_pretrained(path, dtype=dtype, output_loading_info=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"no PRM can be loaded from {path}: {first_line(error)}") from None
    if names := info["missing_keys"]:
        raise UsageError(f"{path} is no PRM: it has no weights for {', '.join(sorted(names)[:3])}")
    return model


def _adapted(path: str, dtype: Any) -> Any:
    """The published layout: a token classifier's adapter, merged into the policy that it names."""
    from peft import PeftConfig, PeftModel

    try:
        saved = getattr(PeftConfig.from_pretrained(path), "modules_to_save", None) or []
        if not {"score", "classifier"} & set(saved):
            raise UsageError(f"the adapter in {path} holds no score head, so it is no PRM")
        base = load_model(adapter_base(path), dtype=dtype, head="steps")
        return PeftModel.from_pretrained(base, path).merge_and_unload()
    except (OSError, ValueError) as error:
        raise UsageError(f"no PRM can be loaded from {path}: {first_line(error)}") from None


def _stored(folder: Path, name: str) -> Any:
    """A linear layer among a folder's weights, in float32; its bias may be missing. Raises UsageError for others."""
    import torch
    from safetensors import safe_open

    files = _weight_files(folder)
    if f"{name}.weight" not in files:
        raise UsageError(
            f"{folder} is no PRM of this format: its safetensors have no {name}.weight",
            hint="a folder of pytorch_model.bin alone must be converted; --prm-format names the format",
        )
    found = {}
    for part in ("weight", "bias"):
        if file := files.get(f"{name}.{part}"):
            with safe_open(str(folder / file), framework="pt") as weights:
                found[part] = weights.get_tensor(f"{name}.{part}").float()
    return _linear(found["weight"], found.get("bias", torch.zeros(len(found["weight"]))))


def _linear(weight: Any, bias: Any) -> Any:
    import torch

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def _words(path: str, labels: tuple[int, int], dtype: Any) -> tuple[Any, Any]:
    """The body of a language model and the rows of its head for two words. What the model itself says of a few
    tokens is compared, so that one that does more to its logits (soft caps, scales) is refused and not scored
    wrong."""
    import torch

    model: Any = load_model(path, dtype=dtype, head="causal")
    model.eval()
    output, rows = model.get_output_embeddings(), list(labels)
    bias = getattr(output, "bias", None)
    with torch.inference_mode():
        head = _linear(output.weight[rows].float(), torch.zeros(2) if bias is None else bias[rows].float())
        ids = torch.tensor([[*labels, *labels]])
        theirs = model(input_ids=ids, use_cache=False).logits[0][:, rows].float()
        ours = head(model.base_model(input_ids=ids, use_cache=False)[0][0].float())
    near = 1e-3 if dtype == torch.float32 else 0.05
    if not bool(((ours - theirs).abs() <= near * (1 + theirs.abs().max())).all()):
        raise UsageError(
            f"the language model in {path} does more to its logits than its head says; its scores cannot be read",
            hint="tell us which model it is",
        )
    return model.base_model, head
