"""Score the steps of written answers with a process reward model. What the scores select is for `selection` to say.

A Scorer holds the model and is used from one thread at a time. Sequences are laid out by `conventions.encode`, the
function that training uses, sorted by length and run in batches under a budget of tokens; a text that occurs twice is
run once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
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
from ..prompts import question_text
from ..records import Problem
from .conventions import Convention, Encoded, answer_steps, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_TOKENS = 16384


@dataclass
class Scorer:
    """An open PRM. `batch_tokens` bounds rows x longest row of one forward; `context` is the longest sequence it takes.

    `too_long` counts the texts that were longer, `scored` the others, `tokens` what went through the model (padding not
    counted).
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    convention: Convention = Convention.MEDSSS
    batch_tokens: int = BATCH_TOKENS
    context: int | None = None
    scored: int = 0
    too_long: int = 0
    tokens: int = 0

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
            model = load_prm(path, chosen, trust_remote_code).to(device).eval()
        tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
        return cls(model, tokenizer, convention, batch_tokens, context_length(model.config))

    def score(self, problem: Problem, texts: Sequence[str]) -> list[list[float]]:
        """P(right) in [0, 1] of every step of each text: [text][step], step 0 left out.

        A text without marks is one step. A blank text has no steps and gets []; so does one that is longer than the
        model's context with its question, and it is counted in `too_long`: half an answer must not be scored as a
        whole one.
        """
        question = question_text(problem)
        encoded: dict[str, Encoded] = {}
        for text in dict.fromkeys(texts):
            steps = answer_steps(text)
            laid = encode(self.tokenizer, question, steps) if steps else Encoded([], [])
            encoded[text] = Encoded(laid.ids, laid.readouts[1:])
        too_long = {text for text, laid in encoded.items() if self.context is not None and len(laid.ids) > self.context}
        scores: dict[str, list[float]] = {text: [] for text in encoded}
        todo = [text for text, laid in encoded.items() if laid.readouts and text not in too_long]
        for batch in batches(todo, [len(encoded[text].ids) for text in todo], self.batch_tokens):
            found = self._forward([encoded[text] for text in batch])
            for text, values in zip(batch, found, strict=True):
                scores[text] = values
        self.too_long += sum(text in too_long for text in texts)
        self.scored += sum(text not in too_long for text in texts)
        return [list(scores[text]) for text in texts]

    def _forward(self, rows: Sequence[Encoded]) -> list[list[float]]:
        """Scores at the read-outs of rows of token ids: [row][read-out]."""
        import torch

        device = next(self.model.parameters()).device
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            mask[index, : len(row.ids)] = 1
        self.tokens += int(mask.sum())
        with torch.inference_mode():
            logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
            right = logits.float().softmax(-1)[..., RIGHT].cpu()
        return [right[index, row.readouts].tolist() for index, row in enumerate(rows)]


def batches(items: Sequence[str], lengths: Sequence[int], budget: int) -> Iterator[list[str]]:
    """The items, longest first, in batches whose rows x longest row fits the budget; an item over the budget goes
    alone."""
    order = sorted(range(len(items)), key=lambda index: -lengths[index])
    batch: list[str] = []
    longest = 0
    for index in order:
        if batch and (len(batch) + 1) * longest > budget:
            yield batch
            batch = []
        if not batch:
            longest = lengths[index]
        batch.append(items[index])
    if batch:
        yield batch


def find_convention(path: str, format: str) -> Convention:
    """The convention that a PRM was trained in: as given, or as the folder tells.

    A folder of ours says it in medsss.json. Another one that classifies tokens with two labels is taken for `medsss`.
    Raises UsageError for a policy, a missing folder and an unknown name.
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
    if card:
        return Convention(card["convention"])
    if folder.is_dir() and not is_adapter(path):
        config = read_json(folder / "config.json") or {}
        kinds = config.get("architectures") or []
        if not any(str(kind).endswith("ForTokenClassification") for kind in kinds):
            raise UsageError(
                f"{path} holds {', '.join(map(str, kinds)) or 'no model'}, which is no PRM that can be recognised",
                hint="say what it is with --prm-format",
            )
    return Convention.MEDSSS


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
