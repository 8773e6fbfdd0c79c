"""Train the policy on its own search: sft records or preference records -> a model folder, over TRL.

Rows are laid out here, token for token as the engines lay out what they ask (`engines.rendering`), and TRL is given
ids: what the policy is trained on is what it will see. TRL's own way renders prompt and completion as one chat by the
template, which for some models differs from prompt + generated text (templates that strip or add thinking), and which
closes every assistant turn.

That last point matters for preference pairs of rule (a), `kind: "step"`: chosen and rejected are the beginning of an
answer, cut after a step. An end of turn after them would be trained as "now stop", in the chosen ones and against it in
the rejected ones. So a turn is closed only where the answer is complete: for sft rows and pairs of rule (b) always, for
pairs of rule (a) only if the last step states the answer. An open turn ends with the tokens of its last step; where the
tokenizer merges the step's last character with the blank line that follows in running text ("." + "\\n\\n" is one
token for Llama 3), that merged token ends it.

The loss falls on the completion alone. sft: mean negative log-likelihood per token, over all tokens of an update. dpo:

    - log sigmoid(beta * [(log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected))])

with beta .1 and the policy before training as the reference; `sft_weight` w adds w times the sft loss of the chosen
one, since dpo alone may lower the likelihood of both.

Departures from the paper: none in the numbers (sft 1e-6, dpo 5e-7, one epoch, cosine, warm-up .03, all weights). Under
LoRA the default learning rates are ten times as high, since those of the paper would hardly move an adapter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..answers import states_answer
from ..engines.rendering import encode_text, render
from ..errors import BadRecord, UsageError
from ..models import adapter_base
from ..records import Message, Preference, Sft, parse
from ..requests import Prompt
from ..steps import SEPARATOR, split_steps
from ..stream.jsonl import Where
from .common import (
    LORA_FACTOR,
    Counts,
    GroupedSampler,
    Recipe,
    Row,
    Say,
    Stored,
    TrainingOptions,
    TrainingSummary,
    grouped,
    rows_per_update,
    run_training,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

Source = Iterable[tuple[Where, dict[str, Any]]]


class Method(StrEnum):
    """What the rows are and how they are used."""

    SFT = "sft"
    DPO = "dpo"


PRESETS: dict[str, tuple[Method, dict[str, Any]]] = {
    # MedCritical, stage 2 (arXiv 2509.23368). Alpha is not the authors': 16 keeps the scale of our default, 2.
    "medcritical": (
        Method.DPO,
        {"lora": True, "lora_rank": 8, "lora_alpha": 16, "beta": 0.3, "learning_rate": 1e-5},
    ),
}
"""The method that a preset is for, and its values of `PolicyTraining`."""

LEARNING_RATES = {Method.SFT: 1e-6, Method.DPO: 5e-7}
COLUMNS = {
    Method.SFT: {"input_ids": "int32", "labels": "int32"},
    Method.DPO: {"prompt_ids": "int32", "chosen_ids": "int32", "rejected_ids": "int32"},
}


# TRL's, less exo_pair (it needs label smoothing) and sft (that is what sft_weight adds).
LOSS_TYPES = (
    "sigmoid",
    "hinge",
    "ipo",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
)


@dataclass(frozen=True, kw_only=True)
class PolicyTraining(TrainingOptions):
    """`beta`, `loss_type` (one of TRL's names), `sft_weight` and `precompute_ref` are for dpo alone. `precompute_ref`
    runs the reference once over all pairs before training, so that only one model is in memory."""

    method: Method
    beta: float = 0.1
    loss_type: str = "sigmoid"
    sft_weight: float = 0.0
    precompute_ref: bool = False


def train_policy(
    options: PolicyTraining, rows: Source, *, say: Say = lambda _: None, on_bad: Any = None
) -> TrainingSummary:
    """Train on sft or preference records (or bare rows of TRL's conversational layouts) and write a model folder.

    A row that cannot be used goes to `on_bad(where, what)` and is counted. Raises UsageError where nothing is left to
    train on, or the rows are of the other kind.
    """
    if options.loss_type not in LOSS_TYPES:
        raise UsageError(f"unknown loss type {options.loss_type}", hint=f"one of {', '.join(LOSS_TYPES)}")
    rate = LEARNING_RATES[options.method] * (LORA_FACTOR if options.lora else 1)
    reader = sft_rows if options.method is Method.SFT else preference_rows

    def read(tokenizer: PreTrainedTokenizerBase, base: str, counts: Counts) -> Iterable[Row]:
        return reader(rows, tokenizer, turn_end(tokenizer, stop_ids(base, tokenizer)), counts, on_bad)

    return run_training(
        options,
        Recipe(
            kind="policy",
            method=str(options.method),
            head="causal",
            learning_rate=rate,
            columns=COLUMNS[options.method],
            read=read,
            build=lambda *given: build_trainer(options, *given),
        ),
        say,
    )


# --- rows to ids -----------------------------------------------------------------------------------------------------


def stop_ids(base: str, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids at which generation of this model ends: its tokenizer's EOS and those of its generation settings."""
    from transformers import GenerationConfig

    ids = {tokenizer.eos_token_id}
    with contextlib.suppress(OSError, ValueError):  # without generation settings it ends where its tokenizer says
        ids |= listed(GenerationConfig.from_pretrained(adapter_base(base)).eos_token_id)
    ids.discard(None)
    if not ids:
        raise UsageError(f"neither the tokenizer nor the generation settings of {base} name an end of text")
    return ids


def listed(value: Any) -> set[Any]:
    return set(value) if isinstance(value, (list, tuple)) else {value}


def turn_end(tokenizer: PreTrainedTokenizerBase, stops: set[int]) -> list[int]:
    """The ids that close an assistant turn: what the chat template writes after its text, up to the first stop id.

    A template that writes no stop id there is closed by the tokenizer's EOS: a policy must learn to stop.
    """
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
    rows: Source, tokenizer: PreTrainedTokenizerBase, end: list[int], counts: Counts, on_bad: Any = None
) -> Iterable[Row]:
    """sft records as `input_ids` and `labels`, -100 on the prompt."""
    for where, data in rows:
        try:
            if "completion" not in data:
                raise wrong_kind(data, "sft")
            record = parse(Sft, bare(data, where) | {"min_value": data.get("min_value", 0.0)})
            text = only_turn(record.id, "completion", record.completion)
        except BadRecord as error:
            bad(counts, on_bad, where, error)
            continue
        asked, ids = turn_ids(tokenizer, tuple(record.prompt), text, end)
        yield Row(record.id, len(asked) + len(ids), {"input_ids": asked + ids, "labels": [-100] * len(asked) + ids})


def preference_rows(
    rows: Source, tokenizer: PreTrainedTokenizerBase, end: list[int], counts: Counts, on_bad: Any = None
) -> Iterable[Row]:
    """preference records as `prompt_ids`, `chosen_ids`, `rejected_ids`. Notes: how many of each kind, and open
    turns."""
    kinds: dict[str, int] = {}
    open_turns = 0
    for where, data in rows:
        try:
            if "chosen" not in data:
                raise wrong_kind(data, "preference")
            defaults = {"margin": 1.0, "kind": "trajectory"}
            record = parse(Preference, defaults | bare(data, where))
            chosen = only_turn(record.id, "chosen", record.chosen)
            rejected = only_turn(record.id, "rejected", record.rejected)
            if chosen == rejected:
                raise BadRecord(f"record {record.id}: chosen and rejected are the same text")
        except BadRecord as error:
            bad(counts, on_bad, where, error)
            continue
        ends = [end if is_complete(record.kind, text) else None for text in (chosen, rejected)]
        asked, good = turn_ids(tokenizer, tuple(record.prompt), chosen, ends[0])
        _, poor = turn_ids(tokenizer, tuple(record.prompt), rejected, ends[1])
        kinds[record.kind] = kinds.get(record.kind, 0) + 1
        open_turns += ends.count(None)
        counts.notes |= {"kinds": kinds, "open_turns": open_turns}
        yield Row(
            record.id,
            len(asked) + max(len(good), len(poor)),
            {"prompt_ids": asked, "chosen_ids": good, "rejected_ids": poor},
        )


def is_complete(kind: str, text: str) -> bool:
    """Whether an answer ends here, so that its turn is to be closed. Of rule (a), only one whose last step states
    it."""
    if kind != "step":
        return True
    steps = split_steps(text)
    return bool(steps) and states_answer(steps[-1])


def bare(data: dict[str, Any], where: Where) -> dict[str, Any]:
    """A row with the fields of a problem filled in where it has none, as TRL's own data sets have none."""
    return {"id": str(where), "question": "", "answer": "", **data}


def only_turn(id: str, field: str, messages: list[Message]) -> str:
    """The text of the one assistant turn that is trained on. Raises BadRecord for anything else, or an empty text."""
    if len(messages) != 1 or messages[0].role != "assistant":
        raise BadRecord(f"record {id}: `{field}` must be one assistant turn, got {[m.role for m in messages]}")
    if not messages[0].content.strip():
        raise BadRecord(f"record {id}: `{field}` is empty")
    return messages[0].content


def wrong_kind(data: dict[str, Any], wanted: str) -> BadRecord:
    return BadRecord(
        f"not a {wanted} record: found the keys {', '.join(data) or '(none)'}",
        hint=f"make them with `medsss label --to {wanted}`",
    )


def bad(counts: Counts, on_bad: Any, where: Where, error: BadRecord) -> None:
    counts.bad += 1
    if on_bad is not None:
        on_bad(where, str(error))


# --- the trainers ----------------------------------------------------------------------------------------------------


def build_trainer(
    options: PolicyTraining,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Any,
    stored: Stored,
    arguments: dict[str, Any],
    callbacks: list[Any],
) -> Trainer:
    """TRL's trainer of the method, on ids that are ready: it neither renders nor cuts, and takes rows in our order."""
    adapter = None
    if options.lora:
        from peft import LoraConfig

        adapter = LoraConfig(
            task_type="CAUSAL_LM",
            r=options.lora_rank,
            lora_alpha=options.lora_alpha,
            lora_dropout=0.0,
            target_modules="all-linear",
        )
    sampler = GroupedSampler(stored.lengths, rows_per_update(options), options.seed)
    match options.method:
        case Method.SFT:
            return sft_trainer(model, tokenizer, dataset, arguments, callbacks, adapter, sampler)
        case Method.DPO:
            return dpo_trainer(options, model, tokenizer, dataset, arguments, callbacks, adapter, sampler)


def sft_trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Any,
    arguments: dict[str, Any],
    callbacks: list[Any],
    adapter: Any,
    sampler: GroupedSampler,
) -> Trainer:
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    trainer: Trainer = grouped(SFTTrainer, sampler)(
        model=model,
        args=SFTConfig(**arguments, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=callbacks,
        peft_config=adapter,
    )
    return trainer


def dpo_trainer(
    options: PolicyTraining,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Any,
    arguments: dict[str, Any],
    callbacks: list[Any],
    adapter: Any,
    sampler: GroupedSampler,
) -> Trainer:
    import copy

    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    class Ready(DPOTrainer):  # type: ignore[misc,unused-ignore]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    losses, weights = [options.loss_type], None
    if options.sft_weight > 0:
        losses, weights = [options.loss_type, "sft"], [1.0, options.sft_weight]
    try:
        config = DPOConfig(
            **arguments,
            max_length=None,
            beta=options.beta,
            loss_type=losses,
            loss_weights=weights,
            precompute_ref_log_probs=options.precompute_ref,
        )
        # Under LoRA the adapter is switched off for the reference; precomputed, it is the model before its first step.
        needs_copy = adapter is None and not options.precompute_ref
        trainer: Trainer = grouped(Ready, sampler)(
            model=model,
            ref_model=copy.deepcopy(model) if needs_copy else None,
            args=config,
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
            peft_config=adapter,
        )
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"TRL refuses these options: {error}") from None
    return trainer
