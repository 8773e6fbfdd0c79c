"""Train a process reward model: prm records -> a token classifier that scores each step of an answer.

The model is the policy with a head of two outputs (wrong, right) in place of its vocabulary. The loss is the
cross-entropy between softmax(logits) at the last token of a step and the step's label y, as a two-point distribution
(1 - y, y):

    loss = - sum over labelled steps of [y log p_right + (1 - y) log p_wrong] / number of labelled steps in the update

y may lie anywhere in [0, 1]. Scoring reads the same softmax, and lays sequences out by the same function
(`prm.conventions.encode`).

Trajectories of one problem share most of their tokens. With `packing` "tree" (the default) those with the same prompt
are a trie, and a trie is one packed sequence (`prm.packing`): each shared token is computed once, forward and
backward. A step that n trajectories pass stands n times in the sum above, each time with its own label, so loss and
gradients are those of one sequence for each trajectory ("path"). What differs is which rows make an update: see
`PackSampler`.

Departures from the paper and the authors' code: 1. their loss trains one of the two logits, their scoring reads both;
here both are one quantity. 2. the loss is divided by the labelled steps of the whole update, whatever the
accumulation and the number of processes; the loss that transformers brings divides by micro-batch and sums (it is
wrong under accumulation). 3. a sequence that is too long is left out and named, never cut. 4. The paper does not tell
its schedule: ours is cosine with a warm-up of .03.

This stands on transformers' Trainer: TRL has no PRM trainer since 1.14, and before it rounded labels to integers.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

from ..errors import BadRecord
from ..prm.attention import Way, open_tree, pack_inputs
from ..prm.conventions import Convention, encode
from ..prm.packing import Part, pack, split
from ..problems import to_prm
from ..prompts import question_text
from ..stream.jsonl import Where
from .common import (
    DEFAULT_MAX_LENGTH,
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


class Packing(StrEnum):
    """Whether trajectories with the same prompt share the computation of their beginnings."""

    TREE = "tree"
    PATH = "path"


@dataclass(frozen=True, kw_only=True)
class PrmTraining(TrainingOptions):
    """The paper's settings: LoRA of rank 32, alpha 64, two epochs, weight decay .01."""

    packing: Packing = Packing.TREE

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
            columns={"input_ids": "int32", "readouts": "int32", "labels": "float32", "group": "int64"},
            read=read,
            build=lambda *given: build_trainer(options, say, *given),
            card={"convention": str(options.convention)},
        ),
        say,
    )


def prm_rows(rows: Source, tokenizer: PreTrainedTokenizerBase, counts: Counts, on_bad: Any = None) -> Iterable[Row]:
    """Prm records as ids, read-outs and labels; unlabelled steps are part of the ids and have no read-out. `group` is
    one number that records with the same prompt share, wherever they stand.

    Notes, for the card: `label_kinds` (how many records of each kind of label, where records tell it under
    `meta.labels`), `unlabelled` records, `labelled_steps`, `mean_label`.
    """
    kinds: dict[str, int] = {}
    unlabelled = labelled = other_prompt = 0
    total = 0.0
    for where, data in rows:
        try:
            record = to_prm(data, where)
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
                "group": [same_prompt(record.prompt)],
            },
        )


def same_prompt(prompt: str) -> int:
    """A number for a prompt. Two prompts of one number would be packed together, which costs nothing and is right."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big", signed=True)


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
    wide = torch.promote_types(logits.dtype, torch.float32)
    log_p = torch.log_softmax(logits[at].to(wide), dim=-1)
    y = labels[at].to(wide)
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


def collate_packs(rows: Sequence[Mapping[str, Any]], way: Way, device: str, dtype: Any) -> dict[str, Any]:
    """Rows as one pack for a model that takes it in this `way`: its inputs, and for each labelled step of each row the
    place of its read-out in the pack (`readouts`) and its label (`labels`), both [labelled steps]. No rows: one
    token, no read-outs."""
    import numpy as np
    import torch

    packed = pack([row["input_ids"] for row in rows] or [[0]])
    at = [path[np.asarray(row["readouts"], dtype=np.int64)] for path, row in zip(packed.paths, rows, strict=False)]
    labels = [np.asarray(row["labels"], dtype=np.float32) for row in rows]
    return pack_inputs(packed, way, device=device, dtype=dtype) | {
        "readouts": torch.from_numpy(np.concatenate(at)) if at else torch.zeros(0, dtype=torch.long),
        "labels": torch.from_numpy(np.concatenate(labels)) if labels else torch.zeros(0),
    }


# --- which rows make an update ---------------------------------------------------------------------------------------


class PackSampler:
    """The order of packs: for each update `slots` lists of rows, one for each process and accumulation step.

    `parts` are tries, or parts of them, of `rows[i]` paths and `tokens[i]` packed tokens. An epoch has as many updates
    as come nearest to `per_update` rows each, and every part is in exactly one. The parts are shuffled and dealt out in
    that order: an update is closed where one more part would lead further from an even share of the rows that are left.
    Within an update the parts are dealt to the slots so that the fullest has as few tokens as can be; a slot may stay
    empty. The update of most tokens comes first: what does not fit into memory fails early. Which rows make which
    update depends on (seed, epoch) and `per_update` alone: not on the process, on how many share an update, or on a
    resumption.
    """

    def __init__(self, parts: Sequence[Part], slots: int, per_update: int, seed: int) -> None:
        self.parts = parts
        self.slots = slots
        self.seed = seed
        self.epoch = 0
        total = sum(len(part.members) for part in parts)
        self.updates = min(len(parts), max(1, round(total / per_update)))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.updates * self.slots

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Tuples of rows, in the order of (update, accumulation step, process)."""
        draw = random.Random(f"{self.seed}/{self.epoch}")
        order = list(range(len(self.parts)))
        draw.shuffle(order)
        updates = list(self._updates(order))
        # By the tokens of all slots: the order of updates must not depend on how many processes share one.
        fullest = max(range(len(updates)), key=lambda at: sum(self.parts[part].tokens for part in updates[at]))
        updates[0], updates[fullest] = updates[fullest], updates[0]
        for update in updates:
            for _, parts in self._deal(update):
                yield tuple(row for part in parts for row in self.parts[part].members)

    def _updates(self, order: Sequence[int]) -> Iterator[list[int]]:
        left = sum(len(part.members) for part in self.parts)
        at = 0
        for update in range(self.updates):
            more = self.updates - update - 1  # updates that come after this one; each wants a part
            share = left / (more + 1)
            taken: list[int] = []
            rows = 0
            while at < len(order) - more:
                size = len(self.parts[order[at]].members)
                if taken and more and abs(rows + size - share) > abs(rows - share):
                    break
                taken.append(order[at])
                rows += size
                at += 1
            left -= rows
            yield taken

    def _deal(self, parts: Sequence[int]) -> list[tuple[int, list[int]]]:
        """(tokens, parts) of each slot, empty ones first: the last step of a process is the one that must not be
        left out."""
        slots: list[tuple[int, list[int]]] = [(0, []) for _ in range(self.slots)]
        for part in sorted(parts, key=lambda part: -self.parts[part].tokens):
            emptiest = min(range(self.slots), key=lambda at: slots[at][0])
            tokens, held = slots[emptiest]
            slots[emptiest] = (tokens + self.parts[part].tokens, [*held, part])
        return sorted(slots, key=lambda slot: slot[0])


class PackRows:
    """A map from tuples of rows, as `PackSampler` gives them, to the rows."""

    def __init__(self, dataset: Any, length: int) -> None:
        self.dataset = dataset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, rows: tuple[int, ...]) -> list[dict[str, Any]]:
        return [self.dataset[row] for row in rows]


def tries(dataset: Any, max_tokens: int, max_paths: int) -> list[Part]:
    """The rows of a data set as tries of at most so many packed tokens and paths, one or more for each group."""
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(dataset["group"]):
        groups.setdefault(int(group[0]), []).append(row)
    found: list[Part] = []
    for rows in groups.values():
        ids = [dataset[row]["input_ids"] for row in rows]
        found += [
            Part([rows[member] for member in part.members], part.tokens) for part in split(ids, max_tokens, max_paths)
        ]
    return found


# --- the trainer -----------------------------------------------------------------------------------------------------


def build_trainer(
    options: PrmTraining,
    say: Say,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Any,
    stored: Stored,
    arguments: dict[str, Any],
    callbacks: list[Any],
) -> Trainer:
    """The Trainer with our loss, our order of rows and, if asked for, LoRA around the model. A model that takes no
    packs is trained path by path, and `say` tells so."""
    way = None
    if options.packing is Packing.TREE:
        fit = open_tree(model)
        way = fit.way
        if way is None:
            say(f"{type(model).__name__} takes no packs, so it is trained path by path ({fit.why})")
    model = with_adapter(options, model, checkpointing=arguments["gradient_checkpointing"])
    if way is None:
        return path_trainer(options, model, dataset, stored, arguments, callbacks)
    per_update = rows_per_update(options)
    parts = tries(dataset, options.max_length or DEFAULT_MAX_LENGTH, per_update)
    say(f"packed: {stored.rows} rows in {len(parts)} tries, {sum(part.tokens for part in parts)} tokens")
    return pack_trainer(options, way, model, dataset, parts, arguments, callbacks)


def with_adapter(options: PrmTraining, model: Any, *, checkpointing: bool) -> Any:
    """The model, with `lora` inside an adapter that trains the head too."""
    if not options.lora:
        return model
    from peft import LoraConfig, get_peft_model

    head = "classifier" if hasattr(model, "classifier") else "score"
    model = get_peft_model(
        model,
        LoraConfig(
            task_type="TOKEN_CLS",
            r=options.lora_rank,
            lora_alpha=options.lora_alpha,
            lora_dropout=0.0,
            target_modules="all-linear",
            exclude_modules=[head],
            modules_to_save=[head],
        ),
    )
    if checkpointing:
        model.enable_input_require_grads()
    return model


def path_trainer(
    options: PrmTraining, model: Any, dataset: Any, stored: Stored, arguments: dict[str, Any], callbacks: list[Any]
) -> Trainer:
    """One padded row for each trajectory."""
    from transformers import Trainer, TrainingArguments

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return step_loss(outputs["logits"], labels, num_items_in_batch)

    sampler = GroupedSampler(stored.lengths, rows_per_update(options), options.seed)
    trainer: Trainer = grouped(Trainer, sampler)(
        model=model,
        args=TrainingArguments(**arguments, remove_unused_columns=False, label_names=["labels"]),
        train_dataset=dataset,
        data_collator=collate,
        compute_loss_func=loss,
        callbacks=callbacks,
    )
    return trainer


def pack_trainer(
    options: PrmTraining,
    way: Way,
    model: Any,
    dataset: Any,
    parts: Sequence[Part],
    arguments: dict[str, Any],
    callbacks: list[Any],
) -> Trainer:
    """One pack for each slot of `PackSampler`; a slot without rows is passed over, or run over one token without a
    label where the processes have to meet."""
    import torch
    from transformers import Trainer, TrainingArguments

    class Packs(Trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            # Sharded models meet in every pass, others where gradients are summed.
            meets = self.accelerator.gradient_state.sync_gradients or self.is_fsdp_enabled
            if not len(inputs["labels"]) and not meets and not self.is_deepspeed_enabled:
                return torch.zeros((), device=self.args.device)
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
            return loss

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            # The loss reads the logits at these places alone; the Trainer counts `labels`, one for each.
            self.compute_loss_func = read_at(inputs.pop("readouts"))
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    slots = options.accumulation * int(os.environ.get("WORLD_SIZE", "1"))
    sampler = PackSampler(parts, slots, rows_per_update(options), options.seed)
    device = "cpu" if arguments["use_cpu"] else "cuda"
    dtype = next(model.parameters()).dtype
    trainer: Trainer = grouped(Packs, cast(GroupedSampler, sampler))(
        model=model,
        # A batch is one item, which is a slot.
        args=TrainingArguments(
            **arguments | {"per_device_train_batch_size": 1}, remove_unused_columns=False, label_names=["labels"]
        ),
        train_dataset=PackRows(dataset, len(sampler)),
        data_collator=lambda slot: collate_packs(slot[0], way, device, dtype),
        compute_loss_func=read_at(torch.zeros(0, dtype=torch.long)),
        callbacks=callbacks,
    )
    return trainer


def read_at(readouts: torch.Tensor) -> Any:
    """The loss of a pack whose logits [1, N, 2] are read at these places, in the order of the labels."""

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return step_loss(outputs["logits"][0, readouts], labels, num_items_in_batch)

    return loss
