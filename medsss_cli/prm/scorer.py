"""Score the steps of written answers with a process reward model. What the scores select is for `selection` to say.

A Scorer holds the model and is used from one thread at a time. Sequences are laid out by `conventions.lay_out`, for our
own convention the function that training uses, and run under a budget of tokens: as packs in which every shared token
is computed once, or, with a model that takes no packs, sorted by length in padded batches. A text that occurs twice is
run once.

Every head is brought into one form, two logits of which the second means right: label words are two rows of the
language model's head, a value v is the pair (0, v), whose softmax is its sigmoid. Heads other than a token classifier's
meet the last layer at the read-outs alone, so no position costs a vocabulary. No code of a model's folder is run for
any of the conventions; --trust-remote-code is for bodies that transformers does not know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadRecord, EngineError, UsageError
from ..models import (
    CARD,
    RIGHT,
    adapter_base,
    context_length,
    first_line,
    is_adapter,
    load_model,
    load_tokenizer,
    quiet_loading,
    read_json,
)
from ..records import Prm, Problem
from ..steps import ROOT_TEXT
from .attention import Way, open_tree, pack_inputs
from .conventions import (
    HEADS,
    MED_PRM_TAG,
    QWEN_TAG,
    Asked,
    Convention,
    Encoded,
    Head,
    answer_steps,
    asked,
    check_tokens,
    label_tokens,
    lay_out,
)
from .packing import Packed, pack, split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_TOKENS = 16384
MASK_TOKENS = 4096  # the most in a pack whose mask is a square


@dataclass
class Scorer:
    """An open PRM. `batch_tokens` bounds the tokens of one forward (packed, or rows x longest row) and is halved when
    memory runs out; `context` is the longest sequence that the model takes.

    `head` maps rows [n, width] of the last layer to logits [n, 2]; None where the model itself gives two a token.
    `way` is how it takes packs, None for padded batches; then `unpacked` says why. `too_long` counts the texts that
    were longer than the context, `scored` the others, `tokens` what went through the model (padding not counted),
    `path_tokens` what would have without packs.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    convention: Convention = Convention.MEDSSS
    batch_tokens: int = BATCH_TOKENS
    context: int | None = None
    way: Way | None = None
    unpacked: str = ""
    scored: int = 0
    too_long: int = 0
    tokens: int = 0
    path_tokens: int = 0
    head: Any = None

    @classmethod
    def open(
        cls,
        path: str,
        *,
        format: str = "auto",
        device: str = "auto",
        dtype: str = "auto",
        batch_tokens: int = BATCH_TOKENS,
        trust_remote_code: bool = False,
    ) -> Scorer:
        """Load a PRM folder or hub name. `format` "auto" takes the convention from the folder; `dtype` "auto" is
        bfloat16 on a GPU, float32 on the CPU.

        Raises UsageError where there is no PRM, or its convention is not known.
        """
        import torch

        if batch_tokens < 1:
            raise UsageError("--batch-tokens must be at least 1")
        convention = find_convention(path, format)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError(f"no GPU is visible for the PRM (device {device})")
        numbers = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        chosen = numbers.get(dtype, torch.float32 if device == "cpu" else torch.bfloat16)
        with quiet_loading():
            path = local_folder(path)
            chat = convention not in {Convention.MATH_SHEPHERD, Convention.SKYWORK, Convention.TRL}
            source = path if (Path(path) / "tokenizer_config.json").is_file() else adapter_base(path)
            tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code, chat=chat)
            check_tokens(convention, tokenizer)
            model, head = open_model(path, convention, tokenizer, chosen, trust_remote_code)
        model = model.to(device).eval()
        fit = open_tree(model)
        return cls(
            model,
            tokenizer,
            convention,
            batch_tokens,
            context_length(model.config),
            fit.way,
            fit.why,
            head=head if head is None else head.to(device).eval(),
        )

    def score(self, problem: Problem, texts: Sequence[str]) -> list[list[float]]:
        """P(right) in [0, 1] of every step of each text: [text][step], step 0 left out.

        A text without marks is one step. A blank text has no steps and gets []; so does one that is longer than the
        model's context with its question, and it is counted in `too_long`: half an answer must not be scored as a
        whole one. Raises EngineError where one sequence alone is too much for the device's memory.
        """
        return self.score_all([(problem, texts)])[0]

    def score_all(self, items: Sequence[tuple[Problem, Sequence[str]]]) -> list[list[list[float]]]:
        """The same for the texts of several problems, [problem][text][step], which share batches."""
        wanted = []
        for problem, texts in items:
            given = asked(self.convention, problem)
            wanted.append([(given, tuple(answer_steps(text))) for text in texts])
        return self._score(wanted)

    def score_paths(self, problem: Problem, paths: Sequence[Sequence[str]]) -> list[list[float]]:
        """The same for answers, whole or not, that are given as bare steps, step 0 first: [path][step]. Paths of one
        problem are one pack."""
        given = asked(self.convention, problem)
        return self._score([[(given, tuple(path)) for path in paths]])[0]

    def score_steps(self, record: Prm) -> list[float]:
        """P(right) of the steps that a record holds, step 0 left out. Its first step is step 0 where it has no label;
        where it has one, every step is scored. Too long: [], as in `score`.

        Raises BadRecord where a record has no steps.
        """
        steps = record.completions
        if record.labels[:1] != [None]:
            steps = [ROOT_TEXT, *steps]
        if len(steps) < 2:
            raise BadRecord(f"record {record.id} has no steps to score")
        return self._score([[(asked(self.convention, record), tuple(steps))]])[0][0]

    def _score(self, wanted: Sequence[Sequence[tuple[Asked, tuple[str, ...]]]]) -> list[list[list[float]]]:
        """Scores of answers as question and steps, [group][answer][step]; equal ones are run once."""
        places: dict[tuple[Asked, tuple[str, ...]], int] = {}
        rows: list[Encoded] = []
        for answer in (answer for group in wanted for answer in group):
            if answer not in places:
                places[answer] = len(rows)
                given, steps = answer
                rows.append(lay_out(self.convention, self.tokenizer, given, steps) if steps else Encoded([], []))
        unfit = {place for place, row in enumerate(rows) if self.context is not None and len(row.ids) > self.context}
        todo = [place for place, row in enumerate(rows) if row.readouts and place not in unfit]
        scores: list[list[float]] = [[] for _ in rows]
        for place, values in zip(todo, self._run([rows[place] for place in todo]), strict=True):
            scores[place] = values
        found = []
        for group in wanted:
            mine = [places[answer] for answer in group]
            self.too_long += sum(place in unfit for place in mine)
            self.scored += sum(place not in unfit for place in mine)
            found.append([list(scores[place]) for place in mine])
        return found

    def _run(self, rows: Sequence[Encoded]) -> list[list[float]]:
        """Scores at the read-outs of rows, [row][read-out], in batches under the budget."""
        import torch

        scores: list[list[float]] = [[] for _ in rows]
        pending = deque(self._batches(rows, range(len(rows))))
        while pending:
            batch = pending.popleft()
            chosen = [rows[index] for index in batch]
            try:
                found = self._packed(chosen) if self.way is not None else self._padded(chosen)
            except torch.OutOfMemoryError as error:
                what = first_line(error)
                found = None
            # Outside the handler: there the error still holds the tensors that the failed pass has made.
            if found is None:
                longest = max(len(row.ids) for row in chosen)
                if len(batch) == 1:
                    raise EngineError(
                        f"memory ran out with one sequence of {longest} tokens: {what}",
                        hint="give --prm-dtype bfloat16, or another --prm-device",
                    )
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                used = (
                    longest * len(batch) if self.way is None else split([row.ids for row in chosen], 1 << 62)[0].tokens
                )
                self.batch_tokens = max(1, min(self.batch_tokens, used) // 2)
                left = [*batch, *(index for other in pending for index in other)]
                pending = deque(self._batches(rows, left))
                continue
            for index, values in zip(batch, found, strict=True):
                scores[index] = values
        return scores

    def _batches(self, rows: Sequence[Encoded], chosen: Sequence[int]) -> list[list[int]]:
        """The chosen rows, by number, in batches that fit the budget; a row over the budget goes alone."""
        if self.way is None:
            return padded_batches(chosen, [len(rows[index].ids) for index in chosen], self.batch_tokens)
        budget = min(self.batch_tokens, MASK_TOKENS) if self.way is Way.MASK else self.batch_tokens
        parts = split([rows[index].ids for index in chosen], budget)
        return [[chosen[member] for member in part.members] for part in parts]

    def _packed(self, rows: Sequence[Encoded]) -> list[list[float]]:
        """Scores at the read-outs of rows of token ids, run as one pack: [row][read-out]."""
        import torch

        assert self.way is not None
        parameter = next(self.model.parameters())
        packed = pack([row.ids for row in rows])
        given = pack_inputs(packed, self.way, device=parameter.device.type, dtype=parameter.dtype)
        moved = {name: value.to(parameter.device) for name, value in given.items()}
        # A token that several rows are read at is read once.
        at, back = _readouts(packed, rows)
        with torch.inference_mode():
            right = self._right(moved, (0, torch.from_numpy(at).to(parameter.device))).numpy()
        self.tokens += len(packed)
        self.path_tokens += sum(len(row.ids) for row in rows)
        return [right[places].tolist() for places in back]

    def _padded(self, rows: Sequence[Encoded]) -> list[list[float]]:
        """The same, one row of a padded batch for each."""
        import torch

        device = next(self.model.parameters()).device
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            mask[index, : len(row.ids)] = 1
        counts = [len(row.readouts) for row in rows]
        which = torch.arange(len(rows)).repeat_interleave(torch.tensor(counts))
        at = torch.tensor([place for row in rows for place in row.readouts])
        given = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        with torch.inference_mode():
            right = self._right(given, (which.to(device), at.to(device)))
        self.tokens += int(mask.sum())
        self.path_tokens += int(mask.sum())
        return [part.tolist() for part in right.split(counts)]

    def _right(self, given: dict[str, Any], at: tuple[Any, Any]) -> Any:
        """P(right), [read-outs] on the CPU, of one forward of the model at (rows, tokens)."""
        last = self.model(**given, use_cache=False)[0][at]
        logits = last if self.head is None else self.head(last.to(next(self.head.parameters()).dtype))
        return logits.float().softmax(-1)[:, RIGHT].cpu()


def _readouts(packed: Packed, rows: Sequence[Encoded]) -> tuple[Any, list[Any]]:
    """The packed indices of all read-outs, each once, and for each row the places of its own among them."""
    import numpy as np

    own = [path[row.readouts] for path, row in zip(packed.paths, rows, strict=True)]
    at = np.unique(np.concatenate(own))
    return at, [np.searchsorted(at, places) for places in own]


def padded_batches(items: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """The items, longest first, in batches whose rows x longest row fits the budget; an item over the budget goes
    alone."""
    order = sorted(range(len(items)), key=lambda index: -lengths[index])
    found: list[list[int]] = []
    longest = 0
    for index in order:
        if not found or (len(found[-1]) + 1) * longest > budget:
            found.append([])
            longest = lengths[index]
        found[-1].append(items[index])
    return found


def local_folder(path: str, *, weights: bool = True) -> str:
    """The folder of a PRM: the path itself, or where the hub's files are kept here, fetched if need be (safetensors
    alone). Without `weights`, only what says what it is."""
    if Path(path).is_dir():
        return path
    if path.startswith((".", "/")) or path.count("/") != 1:
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


def find_convention(path: str, format: str) -> Convention:
    """The convention that a PRM was trained in: as given, or as its files tell.

    A folder of ours says it in medsss.json. Others are told by the adapter's task, the architecture, the names of
    special tokens and the weights of a value head. Raises UsageError for a policy, a missing folder, an unknown name,
    and for files that could be of several conventions.
    """
    folder = Path(path)
    if not folder.is_dir() and (path.startswith((".", "/")) or path.count("/") != 1):
        raise UsageError(f"there is no PRM folder {path}", hint="train one with `medsss train-prm -o FOLDER`")
    card = read_json(folder / CARD) or {}
    if card and card.get("kind") != "prm":
        raise UsageError(f"{path} is a {card.get('kind', 'model')}, not a PRM", hint="name a folder of `train-prm`")
    if format != "auto":
        try:
            return Convention(format)
        except ValueError:
            known = ", ".join(Convention)
            raise UsageError(f"--prm-format {format} is unknown", hint=f"auto, {known}") from None
    folder = Path(local_folder(path, weights=False))
    card = card or read_json(folder / CARD) or {}
    if card:
        return Convention(card["convention"])
    found, what = _recognised(folder)
    if found is None:
        raise UsageError(
            f"{path} holds {what}, which is no PRM that can be recognised",
            hint=f"say what it is with --prm-format: {', '.join(Convention)}",
        )
    return found


def _recognised(folder: Path) -> tuple[Convention | None, str]:
    """The convention that files without a card tell, None where they do not, and what they hold, in words."""
    adapter = read_json(folder / "adapter_config.json")
    if adapter is not None:
        # The layout of the published medsss PRM: a token classifier's adapter on a whole policy.
        task = adapter.get("task_type")
        return (Convention.MEDSSS if task == "TOKEN_CLS" else None), f"an adapter ({task})"
    kinds = [str(kind) for kind in (read_json(folder / "config.json") or {}).get("architectures") or []]
    what = ", ".join(kinds) or "no model"
    if any(name.startswith("v_head.") for name in weight_names(folder)):
        return Convention.SKYWORK, what
    special = _added_tokens(folder)
    if any(kind.endswith("ForProcessRewardModel") for kind in kinds):
        return Convention.QWEN, what
    if any(kind.endswith("ForTokenClassification") for kind in kinds):
        if QWEN_TAG in special:
            return Convention.QWEN, what
        try:
            readme = (folder / "README.md").read_text(encoding="utf-8")
        except (OSError, ValueError):
            readme = ""
        by_trl = any(tag in readme for tag in ("stepwise-reward-trainer", "PRMTrainer", "\n- prm\n"))
        return (Convention.TRL if by_trl else None), what
    if MED_PRM_TAG in special and any(kind.endswith("ForCausalLM") for kind in kinds):
        return Convention.MED_PRM, what
    return None, what


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


def open_model(
    path: str, convention: Convention, tokenizer: Any, dtype: Any, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """The model of a PRM folder, and its head where that is not within it: see `Scorer.head`.

    Raises UsageError where the folder lacks the head that the convention reads.
    """
    folder = Path(path)
    match HEADS[convention]:
        case Head.TOKENS:
            kinds = (read_json(folder / "config.json") or {}).get("architectures") or []
            if not is_adapter(path) and any(str(kind).endswith("ForProcessRewardModel") for kind in kinds):
                weights = _head_weights(folder, "score.", ("score.0.weight", "score.0.bias", "score.2.weight"))
                return _body(path, dtype), _two_layers(weights, path, dtype)
            return load_prm(path, dtype, trust_remote_code), None
        case Head.VALUE:
            weights = _head_weights(folder, "v_head.", ("v_head.summary.weight",))
            weight = weights["v_head.summary.weight"]
            bias = weights.get("v_head.summary.bias", weight.new_zeros(1))
            if len(weight) != 1:
                raise UsageError(f"the value head of {path} gives {len(weight)} numbers a token; one was expected")
            return _body(path, dtype), _linear([weight[0] * 0, weight[0]], [bias[0] * 0, bias[0]])
        case Head.WORDS:
            return _words(path, label_tokens(convention, tokenizer), dtype, trust_remote_code)


def _body(path: str, dtype: Any) -> Any:
    """A model without any head. The folder's own code is never used: its weights are those of a known architecture."""
    from transformers import AutoModel

    try:
        model, info = AutoModel.from_pretrained(path, dtype=dtype, output_loading_info=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"no PRM can be loaded from {path}: {first_line(error)}") from None
    if info["missing_keys"]:
        raise UsageError(f"{path} is no PRM: it has no weights for {', '.join(sorted(info['missing_keys'])[:3])}")
    return model


def _head_weights(folder: Path, prefix: str, needed: Sequence[str]) -> dict[str, Any]:
    """The weights whose names begin with `prefix`, in float32. Raises UsageError where a needed one is missing."""
    from safetensors import safe_open

    names = weight_names(folder)
    missing = [name for name in needed if name not in names]
    if missing:
        raise UsageError(
            f"{folder} is no PRM of this convention: its safetensors have no {missing[0]}",
            hint="a folder of pytorch_model.bin alone must be converted; --prm-format names the convention",
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
        raise UsageError(f"{path} has {len(last)} labels a token; a PRM of this convention has two")
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


def _words(path: str, labels: tuple[int, int], dtype: Any, trust_remote_code: bool) -> tuple[Any, Any]:
    """The body of a language model and the rows of its head for two words.

    What the model itself says of a few tokens is compared with this, so that one that does more to its logits (soft
    caps, scales) is refused and not scored wrong.
    """
    import torch

    model: Any = load_model(path, dtype=dtype, head="causal", trust_remote_code=trust_remote_code)
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


def load_prm(path: str, dtype: Any, trust_remote_code: bool = False) -> Any:
    """A token classifier with two labels, its adapter merged if it comes as one.

    Raises UsageError where the head is missing: transformers would fill it with random numbers and only warn.
    """
    from transformers import AutoModelForTokenClassification

    known = {"trust_remote_code": trust_remote_code}
    try:
        if is_adapter(path):
            from peft import PeftConfig, PeftModel

            saved = getattr(PeftConfig.from_pretrained(path), "modules_to_save", None) or []
            if not {"score", "classifier"} & set(saved):
                raise UsageError(f"the adapter in {path} holds no score head, so it is no PRM")
            base = load_model(adapter_base(path), dtype=dtype, head="steps", trust_remote_code=trust_remote_code)
            return PeftModel.from_pretrained(base, path).merge_and_unload()
        model, info = AutoModelForTokenClassification.from_pretrained(
            path, dtype=dtype, output_loading_info=True, **known
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"no PRM can be loaded from {path}: {first_line(error)}") from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise UsageError(f"{path} is no PRM: it has no weights for {', '.join(missing[:3])}")
    if model.config.num_labels != 2:
        raise UsageError(f"{path} has {model.config.num_labels} labels a token; a PRM of this convention has two")
    return model
