"""Train a process reward model: prm records -> a token classifier that scores each step of an answer.

The model is the policy with a head of two outputs (wrong, right) in place of its vocabulary. The loss is the
cross-entropy between softmax(logits) at the last token of a step and the step's label y, as a two-point distribution
(1 - y, y):

    loss = - sum over labelled steps of [y log p_right + (1 - y) log p_wrong] / number of labelled steps in the update

y may lie anywhere in [0, 1]. Scoring reads the same softmax, and lays sequences out by the same function
(`prm.conventions.encode`).

Departures from the paper and the authors' code: 1. their loss trains one of the two logits, their scoring reads both;
here both are one quantity. 2. the loss is divided by the labelled steps of the whole update, whatever the
accumulation and the number of processes; the loss that transformers brings divides by micro-batch and sums (it is
wrong under accumulation). 3. a sequence that is too long is left out and named, never cut. 4. The paper does not tell
its schedule: ours is cosine with a warm-up of .03.

This stands on transformers' Trainer: TRL has no PRM trainer since 1.14, and before it rounded labels to integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BadRecord
from ..jsonl import Where
from ..prm.conventions import Convention, encode
from ..prompts import question_text
from ..records import Prm, parse
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
    import torch
    from transformers import PreTrainedTokenizerBase, Trainer

IGNORED = -100.0  # the label of a position that is no read-out; the Trainer counts what differs from it
LEARNING_RATE = 5e-5  # the paper's, for LoRA


@dataclass(frozen=True, kw_only=True)
class PrmTraining(TrainingOptions):
    """The paper's settings: LoRA of rank 32, alpha 64, two epochs, weight decay .01."""

    epochs: float = 2.0
    weight_decay: float = 0.01
    lora: bool = True
    convention: Convention = Convention.MEDSSS


Source = Iterable[tuple[Where, dict[str, Any]]]


def train_prm(options: PrmTraining, rows: Source, *, say: Say = lambda _: None, on_bad: Any = None) -> TrainingSummary:
    """Train on prm records and write a folder that AutoModelForTokenClassification loads.

    A record without any label is left out and counted in the card; one that is no prm record goes to `on_bad(where,
    what)` and is counted as bad. Raises UsageError where nothing is left to train on.
    """

    def read(tokenizer: PreTrainedTokenizerBase, base: str, counts: Counts) -> Iterable[Row]:
        return prm_rows(rows, tokenizer, counts, on_bad)

    return run_training(
        options,
        Recipe(
            kind="prm",
            method="prm",
            head="steps",
            # A full training takes a tenth: 5e-5 on all weights is rough.
            learning_rate=LEARNING_RATE if options.lora else LEARNING_RATE / LORA_FACTOR,
            columns={"input_ids": "int32", "readouts": "int32", "labels": "float32"},
            read=read,
            build=lambda *given: build_trainer(options, *given),
            card={"convention": str(options.convention)},
        ),
        say,
    )


def prm_rows(rows: Source, tokenizer: PreTrainedTokenizerBase, counts: Counts, on_bad: Any = None) -> Iterable[Row]:
    """Prm records as ids, read-outs and labels; unlabelled steps are part of the ids and have no read-out.

    Notes, for the card: `label_kinds` (how many records of each kind of label, where records tell it under
    `meta.labels`), `unlabelled` records, `labelled_steps`, `mean_label`.
    """
    kinds: dict[str, int] = {}
    unlabelled = labelled = other_prompt = 0
    total = 0.0
    for where, data in rows:
        try:
            record = parse_prm(data, where)
        except BadRecord as error:
            counts.bad += 1
            if on_bad is not None:
                on_bad(where, str(error))
            continue
        pairs = [(step, label) for step, label in enumerate(record.labels) if label is not None]
        if not pairs:
            unlabelled += 1
            continue
        kind = record.meta.get("labels")
        if isinstance(kind, str):
            kinds[kind] = kinds.get(kind, 0) + 1
        other_prompt += record.prompt != question_text(record)
        labelled += len(pairs)
        total += sum(label for _, label in pairs)
        encoded = encode(tokenizer, record.prompt, record.completions)
        counts.notes |= {
            "label_kinds": kinds,
            "unlabelled": unlabelled,
            "labelled_steps": labelled,
            "mean_label": round(total / labelled, 5),
            "prompt_is_not_the_question": other_prompt,
        }
        yield Row(
            id=record.id,
            length=len(encoded.ids),
            columns={
                "input_ids": encoded.ids,
                "readouts": [encoded.readouts[step] for step, _ in pairs],
                "labels": [float(label) for _, label in pairs],
            },
        )


def parse_prm(data: dict[str, Any], where: Where) -> Prm:
    """A prm record, or a bare row of TRL's stepwise layout (prompt, completions, labels), which gets a name from its
    place. Raises BadRecord where labels do not run beside steps or leave [0, 1]."""
    labels = data.get("labels")
    if isinstance(labels, list):
        # TRL's own data sets have true and false.
        data = data | {"labels": [float(label) if isinstance(label, bool) else label for label in labels]}
    defaults: dict[str, Any] = {"id": f"{where}", "question": data.get("prompt"), "answer": "", "values": []}
    record = parse(Prm, {**defaults, **data})
    if len(record.labels) != len(record.completions):
        raise BadRecord(f"record {record.id} has {len(record.completions)} steps and {len(record.labels)} labels")
    for label in record.labels:
        if label is not None and not 0.0 <= label <= 1.0:
            raise BadRecord(f"record {record.id} has the label {label}, outside [0, 1]")
    return record


def step_loss(
    logits: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor | float | None = None
) -> torch.Tensor:
    """The soft two-class cross-entropy. `logits` [batch, tokens, 2], `labels` [batch, tokens] in [0, 1] at read-outs
    and `IGNORED` elsewhere; the sum over read-outs divided by `num_items` (None: by their number here).

    By hand: logits (0, ln 3) give p_right = 3/4; with y = 1 the loss is ln(4/3) = .2877, with y = 0 it is ln 4 =
    1.3863, with y = .5 the mean of the two.
    """
    import torch

    at = labels != IGNORED
    log_p = torch.log_softmax(logits[at].float(), dim=-1)
    y = labels[at].float()
    total = -(y * log_p[:, 1] + (1.0 - y) * log_p[:, 0]).sum()
    return total / (at.sum() if num_items is None else num_items)


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows as padded tensors: `input_ids`, `attention_mask` and `labels`, all [rows, longest]. Padding is id 0,
    masked."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    for index, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[index, :length] = torch.as_tensor(row["input_ids"])
        mask[index, :length] = 1
        labels[index, torch.as_tensor(row["readouts"], dtype=torch.long)] = torch.as_tensor(
            row["labels"], dtype=torch.float
        )
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def build_trainer(
    options: PrmTraining,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Any,
    stored: Stored,
    arguments: dict[str, Any],
    callbacks: list[Any],
) -> Trainer:
    """The Trainer with our loss, our order of rows and, if asked for, LoRA around the model."""
    from transformers import Trainer, TrainingArguments

    if options.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model,
            LoraConfig(
                task_type="TOKEN_CLS",
                r=options.lora_rank,
                lora_alpha=options.lora_alpha,
                lora_dropout=0.0,
                target_modules="all-linear",
                exclude_modules=["score"],
                modules_to_save=["score"],
            ),
        )
        if arguments["gradient_checkpointing"]:
            model.enable_input_require_grads()

    sampler = GroupedSampler(stored.lengths, rows_per_update(options), options.seed)

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return step_loss(outputs["logits"], labels, num_items_in_batch)

    trainer: Trainer = grouped(Trainer, sampler)(
        model=model,
        args=TrainingArguments(**arguments, remove_unused_columns=False, label_names=["labels"]),
        train_dataset=dataset,
        data_collator=collate,
        compute_loss_func=loss,
        callbacks=callbacks,
    )
    return trainer
