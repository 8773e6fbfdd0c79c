"""Train the policy: sft or preference records -> a model folder, over TRL. Problems with rewards: `grpo`.

Rows are laid out here, token for token as the engines lay out what they ask (`engines.rendering`), and TRL is given
ids: TRL renders prompt and completion as one chat by the template, which some templates change, and closes every turn.

A turn is closed where the answer is complete. Preference pairs of `kind: "step"` (rule a) are beginnings of answers:
they stay open unless their last step states the answer, and end with the tokens that running text has: where the
tokenizer merges the step's last character with the blank line (Llama 3: "." + "\\n\\n"), with the merged one.

The loss falls on the completion alone. sft: mean negative log-likelihood per token, over all tokens of an update. dpo:

    - log sigmoid(beta * [(log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected))])

with beta .1; `sft_weight` w adds w times the sft loss of the chosen one. The reference is the policy before training
and takes no memory of its own: under LoRA it is the model without its adapter, in a full training its log-probabilities
are computed before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from ..answers import states_answer
from ..engines.loading import generation_config_of
from ..engines.rendering import encode_text, end_tokens, render
from ..errors import BadRecord, UsageError
from ..models import adapter_base
from ..records import Message, Preference, Sft, parse
from ..requests import Prompt
from ..steps import SEPARATOR, split_steps
from ..stream.jsonl import Where
from . import grpo
from .config import Method, PolicyConfig
from .rows import Counts, OnBad, Row, Say, Source, in_order, usable
from .run import Recipe, TrainingSummary, lora_config, run_training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

COLUMNS = {
    Method.SFT: {"input_ids": "[int32]", "labels": "[int32]"},
    Method.DPO: {"prompt_ids": "[int32]", "chosen_ids": "[int32]", "rejected_ids": "[int32]"},
}
SHOWN = {"rewards/margins": "margin", "rewards/accuracies": "accuracy", "logps/chosen": "logp-chosen"}


def train_policy(
    config: PolicyConfig, rows: Source, *, say: Say = lambda _: None, on_bad: OnBad = lambda *_: None
) -> TrainingSummary:
    """Train on sft or preference records (or bare rows of TRL's conversational layouts), or for grpo on problems,
    and write a model folder. A row that cannot be used goes to `on_bad(where, what)`. Raises UsageError where
    nothing is left to train on."""
    if config.method is Method.GRPO:
        return run_training(config, grpo.recipe(config, rows, on_bad), say)
    rows_of = sft_rows if config.method is Method.SFT else preference_rows
    recipe = Recipe(
        method=str(config.method),
        columns=COLUMNS[config.method],
        read=lambda tokenizer, base, counts: rows_of(rows, tokenizer, turn_end(tokenizer, base), counts, on_bad),
        arguments=lambda **given: trainer_arguments(config, given),
        build=lambda *given: build_trainer(config, *given),
        shown=SHOWN,
    )
    return run_training(config, recipe, say)


# --- rows to ids -----------------------------------------------------------------------------------------------------


def turn_end(tokenizer: PreTrainedTokenizerBase, base: str) -> list[int]:
    """The ids that close an assistant turn: what the chat template writes after its text, up to the first token at
    which the engines stop; the tokenizer's EOS where it writes none."""
    stops = end_tokens(tokenizer, generation_config_of(adapter_base(base)))
    if not stops:
        raise UsageError(f"neither the tokenizer nor the generation settings of {base} name an end of text")
    mark = "\ue000end\ue000"
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
    rendered = str(tokenizer.apply_chat_template(chat, tokenize=False))
    tail: list[int] = tokenizer.encode(rendered.rpartition(mark)[2], add_special_tokens=False)
    for at, token in enumerate(tail):
        if token in stops:
            return tail[: at + 1]
    return [tokenizer.eos_token_id if tokenizer.eos_token_id in stops else min(stops)]


def turn_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: tuple[Message, ...], text: str, end: list[int] | None
) -> tuple[list[int], list[int]]:
    """The ids of a prompt and of the assistant's text after it. `end` closes the turn; None leaves it open, see
    above."""
    asked = render(tokenizer, Prompt(prompt))

    def after(written: str) -> list[int]:
        whole = render(tokenizer, Prompt(prompt, written))
        # Where the text merges with the template's end, it is tokenised apart: an engine starts from `asked` too.
        return whole[len(asked) :] if whole[: len(asked)] == asked else encode_text(tokenizer, written)

    ids = after(text)
    if end is not None:
        return asked, ids + end
    running = after(text + SEPARATOR + "Step")
    same = 0
    while same < len(ids) and same < len(running) and ids[same] == running[same]:
        same += 1
    if same < len(ids):
        # The last token of the step is another one in running text. Take as many as it needs to spell the step.
        same += 1
        while same < len(running) and len(str(tokenizer.decode(running[:same]))) < len(text):
            same += 1
        ids = running[:same]
    return asked, ids


def sft_rows(
    rows: Source, tokenizer: PreTrainedTokenizerBase, end: list[int], counts: Counts, on_bad: OnBad = lambda *_: None
) -> Iterable[Row]:
    """sft records as `input_ids` and `labels`, -100 on the prompt."""
    for record, [text] in usable(rows, reader(Sft, "completion"), counts, on_bad):
        asked, ids = turn_ids(tokenizer, tuple(record.prompt), text, end)
        yield Row(record.id, len(asked) + len(ids), {"input_ids": asked + ids, "labels": [-100] * len(asked) + ids})


def preference_rows(
    rows: Source, tokenizer: PreTrainedTokenizerBase, end: list[int], counts: Counts, on_bad: OnBad = lambda *_: None
) -> Iterable[Row]:
    """preference records as `prompt_ids`, `chosen_ids`, `rejected_ids`."""
    for record, texts in usable(rows, reader(Preference, "chosen", "rejected"), counts, on_bad):
        ends = [end if is_complete(record.kind, text) else None for text in texts]
        asked, good = turn_ids(tokenizer, tuple(record.prompt), texts[0], ends[0])
        _, poor = turn_ids(tokenizer, tuple(record.prompt), texts[1], ends[1])
        columns = {"prompt_ids": asked, "chosen_ids": good, "rejected_ids": poor}
        yield Row(record.id, len(asked) + max(len(good), len(poor)), columns)


R = TypeVar("R", Sft, Preference)


def reader(kind: type[R], *fields: str) -> Callable[[dict[str, Any], Where], tuple[R, list[str]]]:
    """Reads a record, or a bare row of TRL's, with the texts of these fields, each of which is one assistant turn."""
    name = kind.__name__.lower()
    missing = {"question": "", "answer": "", "min_value": 0.0, "margin": 1.0, "kind": "trajectory"}
    defaults = {field: value for field, value in missing.items() if field in kind.__struct_fields__}

    def read(data: dict[str, Any], where: Where) -> tuple[R, list[str]]:
        if fields[0] not in data:
            raise BadRecord(
                f"not a {name} record: found the keys {', '.join(data) or '(none)'}",
                hint=f"make them with `medsss label --to {name}`",
            )
        record = parse(kind, {"id": str(where), **defaults, **data})
        texts = []
        for field in fields:
            turns: list[Message] = getattr(record, field)
            if len(turns) != 1 or turns[0].role != "assistant":
                found = [turn.role for turn in turns]
                raise BadRecord(f"record {record.id}: `{field}` must be one assistant turn, got {found}")
            if not turns[0].content.strip():
                raise BadRecord(f"record {record.id}: `{field}` is empty")
            texts.append(turns[0].content)
        if len(set(texts)) < len(texts):
            raise BadRecord(f"record {record.id}: chosen and rejected are the same text")
        return record, texts

    return read


def is_complete(kind: str, text: str) -> bool:
    """Whether an answer ends here, so that its turn is to be closed. Of rule (a), only one whose last step states
    it."""
    if kind != "step":
        return True
    steps = split_steps(text)
    return bool(steps) and states_answer(steps[-1])


# --- the trainers ----------------------------------------------------------------------------------------------------


def trainer_arguments(config: PolicyConfig, given: dict[str, Any]) -> Any:
    """TRL's configuration. Nothing is cut: rows that are too long were left out."""
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.sft_config import SFTConfig

    if config.method is Method.SFT:
        return SFTConfig(**given, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
    losses = given.pop("loss_type", "sigmoid")
    losses = [losses] if isinstance(losses, str) else list(losses)
    weights = [1.0] * len(losses)
    if config.sft_weight > 0:
        losses, weights = [*losses, "sft"], [*weights, config.sft_weight]
    return DPOConfig(
        **given,
        max_length=None,
        beta=config.closeness,
        loss_type=losses,
        loss_weights=weights,
        precompute_ref_log_probs=not config.lora,
    )


def build_trainer(
    config: PolicyConfig, arguments: Any, model: Any, tokenizer: PreTrainedTokenizerBase, dataset: Any
) -> Trainer:
    """TRL's trainer of the method, on ids that are ready, in our order: it neither renders nor cuts."""
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_trainer import SFTTrainer

    class Ready(DPOTrainer):  # type: ignore[misc,unused-ignore]
        """TRL has no other way to be given ids."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    trainer: Trainer = (SFTTrainer if config.method is Method.SFT else Ready)(
        model=model,
        args=arguments,
        train_dataset=in_order(dataset, config),
        processing_class=tokenizer,
        peft_config=lora_config(config, "CAUSAL_LM"),
    )
    return trainer
