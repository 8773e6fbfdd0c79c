"""Train a process reward model: prm records -> a token classifier that scores each step of an answer.

The model is the policy with a head of two outputs (wrong, right) in place of its vocabulary. Sequences are laid out as
in scoring (`prm.layout.encode`), and the loss is on the same softmax, at the last token of each step of label y in
[0, 1]:

    loss = - sum over labelled steps of [y log p_right + (1 - y) log p_wrong] / number of labelled steps in the update

whatever the accumulation and the number of processes. (The loss that transformers brings divides by micro-batch and
sums; TRL has no PRM trainer since 1.14.)

With `packing` "tree" the trajectories of one prompt are a trie, and a trie is one packed sequence (`prm.packing`): each
shared token is computed once. Loss and gradients are those of one sequence a trajectory ("path"). What differs from the
authors' code: docs/algorithms.md, departures 22 and 23.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..prm.attention import batch, open_tree
from ..prm.layout import encode
from ..prm.packing import Part, split
from ..problems import to_prm
from ..prompts import question_text
from .config import Packing, PrmTrainingConfig
from .folder import Row, processes, usable
from .run import DEFAULT_MAX_LENGTH, Training, lora_config

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer


class PrmTraining(Training):
    """On prm records; what it writes, AutoModelForTokenClassification loads. A record without any label is left out and
    counted."""

    kind: ClassVar = {"kind": "prm", "method": "prm", "convention": "medsss"}
    config: PrmTrainingConfig

    def rows(self) -> Iterable[Row]:
        """Ids, read-outs and labels; unlabelled steps have no read-out. `group` is one number for all records with the
        same prompt (two prompts of one number would be packed together, which costs nothing and is right)."""
        notes = {"unlabelled": 0, "labelled_steps": 0, "prompt_is_not_the_question": 0}
        self.counts.notes = notes
        for record in usable(self.source, to_prm, self.counts, self.on_bad):
            labels = {step: float(label) for step, label in enumerate(record.labels) if label is not None}
            if not labels:
                notes["unlabelled"] += 1
                continue
            notes["labelled_steps"] += len(labels)
            notes["prompt_is_not_the_question"] += record.prompt != question_text(record)
            encoded = encode(self.tokenizer, record.prompt, record.completions)
            group = hashlib.blake2b(record.prompt.encode(), digest_size=8).digest()
            columns = {
                "input_ids": encoded.ids,
                "readouts": [encoded.readouts[step] for step in labels],
                "labels": [*labels.values()],
                "group": int.from_bytes(group, "big", signed=True),
            }
            yield Row(record.id, len(encoded.ids), columns)

    def arguments(self, **given: Any) -> Any:
        from transformers import TrainingArguments

        return TrainingArguments(**given | {"per_device_train_batch_size": 1}, label_names=["labels"])

    def trainer(self, model: Any, arguments: Any, dataset: Any) -> Trainer:
        """The Trainer with our loss and our order of rows: an item of its data set is the rows of one slot of a `plan`.
        A model that takes no packs is trained path by path, and `say` tells so."""
        from peft import get_peft_model
        from transformers import Trainer

        config, packed = self.config, self.config.packing is Packing.TREE
        if packed and (why := open_tree(model)):
            packed = False
            self.say(f"{type(model).__name__} takes no packs, so it is trained path by path ({why})")
        head = "classifier" if hasattr(model, "classifier") else "score"
        adapter = lora_config(config, "TOKEN_CLS", exclude_modules=[head], modules_to_save=[head])
        if adapter is not None:
            model = get_peft_model(model, adapter)
            if arguments.gradient_checkpointing:
                model.enable_input_require_grads()

        slots = config.accumulation * processes()
        per_update = config.batch_size * slots
        if packed:
            parts = tries(dataset, config.max_length or DEFAULT_MAX_LENGTH, per_update)
            self.say(f"packed: {len(dataset)} rows in {len(parts)} tries, {sum(part.tokens for part in parts)} tokens")
        else:
            parts = padded(dataset, config.batch_size)
        updates = plan(parts, slots, per_update, config.epochs, config.seed)
        device = "cpu" if arguments.use_cpu else "cuda"
        return Trainer(
            model=model,
            args=arguments,
            train_dataset=[rows for update in updates for rows in update],
            data_collator=lambda slots: collate([dataset[row] for row in slots[0]], packed, device),
            compute_loss_func=lambda outputs, labels, num_items_in_batch: (
                step_loss(outputs["logits"], labels) / (num_items_in_batch / 2)  # labels hold two numbers a step
            ),
        )


def step_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """- sum of y log p_right + (1 - y) log p_wrong over labelled steps. `logits` [rows, tokens, 2] of (wrong, right);
    `labels` [steps, 2] of (where among all tokens, y).

    By hand: logits (0, ln 3) give p_right = 3/4, so one step of y = 1 loses ln(4/3).
    """
    import torch

    read = logits.flatten(0, 1)[labels[:, 0].long()]
    log_p = torch.log_softmax(read.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    y = labels[:, 1].to(log_p.dtype)
    return -(y * log_p[:, 1] + (1 - y) * log_p[:, 0]).sum()


def collate(rows: Sequence[Mapping[str, Any]], packed: bool, device: str = "cpu") -> dict[str, Any]:
    """Rows as the model's inputs (`prm.attention.batch`), with `labels` as `step_loss` takes them. No rows: one token
    that counts for nothing."""
    import torch

    made = batch([row["input_ids"] for row in rows] or [[0]], packed=packed, device=device)
    labels = [
        (float(where[readout]), y)
        for where, row in zip(made.places, rows, strict=False)
        for readout, y in zip(row["readouts"], row["labels"], strict=True)
    ]
    return made.inputs | {"labels": torch.tensor(labels, dtype=torch.float64).reshape(-1, 2)}


# --- which rows make an update ---------------------------------------------------------------------------------------


def plan(parts: Sequence[Part], slots: int, per_update: int, epochs: float, seed: int) -> list[list[list[int]]]:
    """The updates of a training: for each of them `slots` lists of rows, one for each accumulation step and process,
    in this order. `parts` are tries, or parts of them.

    An epoch has as many updates as come nearest to `per_update` rows each, and every part is in exactly one: the
    parts are shuffled by (seed, epoch), and an update is closed where one more part would lead further from an
    even share of the rows that are left. Within an update they are dealt to the slots so that the fullest has as
    few tokens as can be; a slot may stay empty. The update of most tokens comes first: what does not fit into
    memory fails early.
    """
    rows = sum(len(part.members) for part in parts)
    each = min(len(parts), max(1, round(rows / per_update)))
    wanted = max(1, round(epochs * each))
    found: list[list[list[int]]] = []
    for epoch in range(-(-wanted // each)):
        order = list(parts)
        random.Random(f"{seed}/{epoch}").shuffle(order)
        updates = list(_updates(order, each))
        fullest = max(range(each), key=lambda at: sum(part.tokens for part in updates[at]))
        updates[0], updates[fullest] = updates[fullest], updates[0]
        found += [_deal(update, slots) for update in updates]
    return found[:wanted]


def _updates(order: Sequence[Part], updates: int) -> Iterator[Sequence[Part]]:
    sizes = [len(part.members) for part in order]
    begin = 0
    for more in reversed(range(updates)):  # updates that come after this one; each wants a part
        share, end = sum(sizes[begin:]) / (more + 1), begin + 1
        while end < len(order) - more:
            rows = sum(sizes[begin:end])
            if more and abs(rows + sizes[end] - share) > abs(rows - share):
                break
            end += 1
        yield order[begin:end]
        begin = end


def _deal(update: Sequence[Part], slots: int) -> list[list[int]]:
    """The rows of each slot."""
    tokens = [0] * slots
    dealt: list[list[int]] = [[] for _ in range(slots)]
    for part in sorted(update, key=lambda part: -part.tokens):
        emptiest = tokens.index(min(tokens))
        tokens[emptiest] += part.tokens
        dealt[emptiest] += part.members
    return dealt


def tries(dataset: Any, max_tokens: int, max_paths: int) -> list[Part]:
    """The rows of a data set as tries of at most so many packed tokens and paths, one or more for each group."""
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(dataset["group"]):
        groups.setdefault(group, []).append(row)
    found: list[Part] = []
    for rows in groups.values():
        parts = split([dataset[row]["input_ids"] for row in rows], max_tokens, max_paths)
        found += [Part([rows[member] for member in part.members], part.tokens) for part in parts]
    return found


def padded(dataset: Any, batch: int) -> list[Part]:
    """The rows as batches of about equal length."""
    lengths = dataset["length"][:]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = [order[at : at + batch] for at in range(0, len(order), batch)]
    return [Part(rows, lengths[rows[-1]] * len(rows)) for rows in batches]
