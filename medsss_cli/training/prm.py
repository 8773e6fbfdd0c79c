"""Train a process reward model: prm records -> a token classifier that scores each step of an answer.

The model is the policy with a head of two outputs (wrong, right) in place of its vocabulary. Sequences are laid out as
in scoring (`prm.layout.encode`), and the loss is on the same softmax, at the last token of each step of label y in
[0, 1]:

    loss = - sum over labelled steps of [y log p_right + (1 - y) log p_wrong] / number of labelled steps in the update

whatever the accumulation and the number of processes. (The loss that transformers brings divides by micro-batch and
sums; TRL has no PRM trainer since 1.14.) A batch says it as weights of the two log-probabilities, [rows, tokens, 2]: a
step that several trajectories pass is one token with the sum of their weights.

With `packing` "tree" the trajectories of one prompt are a trie, and a trie is one packed sequence (`prm.packing`): each
shared token is computed once. Loss and gradients are those of one sequence a trajectory ("path"). What differs from the
authors' code: docs/algorithms.md, departures 22 and 23.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..prm.attention import open_tree, pack_inputs, padded_inputs
from ..prm.layout import encode
from ..prm.packing import Part, pack, split
from ..problems import to_prm
from ..prompts import question_text
from .config import Packing, PrmTrainingConfig
from .rows import Counts, OnBad, Row, Say, Source, processes, usable
from .run import DEFAULT_MAX_LENGTH, Recipe, TrainingSummary, lora_config, run_training

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase, Trainer


def train_prm(
    config: PrmTrainingConfig, rows: Source, *, say: Say = lambda _: None, on_bad: OnBad = lambda *_: None
) -> TrainingSummary:
    """Train on prm records and write a folder that AutoModelForTokenClassification loads. A record without any label
    is left out and counted; one that is no prm record goes to `on_bad(where, what)`. Raises UsageError where
    nothing is left."""
    from transformers import TrainingArguments

    return run_training(
        config,
        Recipe(
            method="prm",
            columns={"input_ids": "[int32]", "readouts": "[int32]", "labels": "[float32]", "group": "int64"},
            read=lambda tokenizer, base, counts: prm_rows(rows, tokenizer, counts, on_bad),
            arguments=lambda **given: TrainingArguments(
                **given | {"per_device_train_batch_size": 1}, label_names=["labels"]
            ),
            build=lambda *given: build_trainer(config, say, *given),
        ),
        say,
    )


def prm_rows(
    rows: Source, tokenizer: PreTrainedTokenizerBase, counts: Counts, on_bad: OnBad = lambda *_: None
) -> Iterable[Row]:
    """Prm records as ids, read-outs and labels; unlabelled steps have no read-out. `group` is one number for all
    records with the same prompt. Notes for the card: `unlabelled` records, `labelled_steps`, records whose
    `prompt_is_not_the_question`."""
    counts.notes = {"unlabelled": 0, "labelled_steps": 0, "prompt_is_not_the_question": 0}
    for record in usable(rows, to_prm, counts, on_bad):
        pairs = [(step, float(label)) for step, label in enumerate(record.labels) if label is not None]
        if not pairs:
            counts.notes["unlabelled"] += 1
            continue
        counts.notes["labelled_steps"] += len(pairs)
        counts.notes["prompt_is_not_the_question"] += record.prompt != question_text(record)
        encoded = encode(tokenizer, record.prompt, record.completions)
        columns = {
            "input_ids": encoded.ids,
            "readouts": [encoded.readouts[step] for step, _ in pairs],
            "labels": [label for _, label in pairs],
            "group": same_prompt(record.prompt),
        }
        yield Row(record.id, len(encoded.ids), columns)


def same_prompt(prompt: str) -> int:
    """A number for a prompt. Two prompts of one number would be packed together, which costs nothing and is right."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big", signed=True)


def step_loss(logits: Tensor, weights: Tensor) -> Tensor:
    """- sum of weights x log softmax(logits), both [rows, tokens, 2] of (wrong, right).

    By hand: logits (0, ln 3) give p_right = 3/4, so one step of y = 1, weights (0, 1), loses ln(4/3).
    """
    import torch

    at = weights.sum(-1) > 0
    wide = torch.promote_types(logits.dtype, torch.float32)
    return -(weights[at].to(wide) * torch.log_softmax(logits[at].to(wide), dim=-1)).sum()


def weigh(places: Sequence[tuple[Any, Sequence[float]]], tokens: int, steps: int) -> Any:
    """The weights of a row of `tokens`, [tokens, 2]. `places` are (read-outs, labels) of each trajectory in it; `steps`
    are the labelled steps of the whole update."""
    weights = np.zeros((tokens, 2))
    for readouts, labels in places:
        y = np.asarray(labels, dtype=np.float64) / steps
        np.add.at(weights, readouts, np.stack([1.0 / steps - y, y], axis=1))
    return weights


def collate(rows: Sequence[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """Rows as padded tensors: `input_ids` and `attention_mask` [rows, longest], `labels` [rows, longest, 2] the weights
    of their losses. Padding is id 0, masked. No rows: one token that counts for nothing."""
    import torch

    rows = rows or [{"input_ids": [0], "readouts": [], "labels": []}]
    given = padded_inputs([row["input_ids"] for row in rows])
    longest = given["input_ids"].shape[1]
    weights = [weigh([(row["readouts"], row["labels"])], longest, steps) for row in rows]
    return given | {"labels": torch.from_numpy(np.stack(weights))}


def collate_packs(rows: Sequence[Mapping[str, Any]], steps: int, device: str) -> dict[str, Any]:
    """Rows as one pack: the model's inputs, and `labels` [1, N, 2]."""
    import torch

    packed = pack([row["input_ids"] for row in rows] or [[0]])
    places = [
        (path[np.asarray(row["readouts"], dtype=np.int64)], row["labels"])
        for path, row in zip(packed.paths, rows, strict=False)
    ]
    labels = torch.from_numpy(weigh(places, len(packed), steps))[None]
    return pack_inputs(packed, device) | {"labels": labels}


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
        order = list(range(len(parts)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        updates = list(_updates(parts, order, each))
        fullest = max(range(each), key=lambda at: sum(parts[part].tokens for part in updates[at]))
        updates[0], updates[fullest] = updates[fullest], updates[0]
        found += [_deal(parts, update, slots) for update in updates]
    return found[:wanted]


def _updates(parts: Sequence[Part], order: Sequence[int], updates: int) -> Iterator[list[int]]:
    left = sum(len(part.members) for part in parts)
    at = 0
    for update in range(updates):
        more = updates - update - 1  # updates that come after this one; each wants a part
        share = left / (more + 1)
        taken: list[int] = []
        rows = 0
        while at < len(order) - more:
            size = len(parts[order[at]].members)
            if taken and more and abs(rows + size - share) > abs(rows - share):
                break
            taken.append(order[at])
            rows += size
            at += 1
        left -= rows
        yield taken


def _deal(parts: Sequence[Part], update: Sequence[int], slots: int) -> list[list[int]]:
    """The rows of each slot."""
    tokens = [0] * slots
    dealt: list[list[int]] = [[] for _ in range(slots)]
    for part in sorted(update, key=lambda part: -parts[part].tokens):
        emptiest = tokens.index(min(tokens))
        tokens[emptiest] += parts[part].tokens
        dealt[emptiest] += parts[part].members
    return dealt


class Slots:
    """The rows of a data set as the trainer takes them: item i is the rows of slot i of a plan, and how many labelled
    steps its whole update has."""

    def __init__(self, dataset: Any, updates: Sequence[Sequence[Sequence[int]]]) -> None:
        labelled = [len(labels) for labels in dataset["labels"]]
        self.dataset = dataset
        self.slots = [
            (rows, sum(labelled[row] for slot in update for row in slot)) for update in updates for rows in update
        ]

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, index: int) -> tuple[list[dict[str, Any]], int]:
        rows, steps = self.slots[index]
        return [self.dataset[row] for row in rows], steps


def tries(dataset: Any, max_tokens: int, max_paths: int) -> list[Part]:
    """The rows of a data set as tries of at most so many packed tokens and paths, one or more for each group."""
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(dataset["group"]):
        groups.setdefault(group, []).append(row)
    found: list[Part] = []
    for rows in groups.values():
        ids = [dataset[row]["input_ids"] for row in rows]
        found += [
            Part([rows[member] for member in part.members], part.tokens) for part in split(ids, max_tokens, max_paths)
        ]
    return found


def padded(dataset: Any, batch: int) -> list[Part]:
    """The rows as batches of about equal length."""
    lengths = dataset["length"][:]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = [order[at : at + batch] for at in range(0, len(order), batch)]
    return [Part(rows, lengths[rows[-1]] * len(rows)) for rows in batches]


# --- the trainer -----------------------------------------------------------------------------------------------------


def build_trainer(
    config: PrmTrainingConfig,
    say: Say,
    arguments: Any,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Any,
) -> Trainer:
    """The Trainer with our loss and our order of rows. A model that takes no packs is trained path by path, and `say`
    tells so."""
    from peft import get_peft_model
    from transformers import Trainer

    packs = config.packing is Packing.TREE
    if packs and (why := open_tree(model)):
        packs = False
        say(f"{type(model).__name__} takes no packs, so it is trained path by path ({why})")
    head = "classifier" if hasattr(model, "classifier") else "score"
    adapter = lora_config(config, "TOKEN_CLS", exclude_modules=[head], modules_to_save=[head])
    if adapter is not None:
        model = get_peft_model(model, adapter)
        if arguments.gradient_checkpointing:
            model.enable_input_require_grads()

    slots = config.accumulation * processes()
    per_update = config.batch_size * slots
    if packs:
        parts = tries(dataset, config.max_length or DEFAULT_MAX_LENGTH, per_update)
        say(f"packed: {len(dataset)} rows in {len(parts)} tries, {sum(part.tokens for part in parts)} tokens")
    else:
        parts = padded(dataset, config.batch_size)
    device = "cpu" if arguments.use_cpu else "cuda"

    def batch(items: Sequence[tuple[list[dict[str, Any]], int]]) -> dict[str, Any]:
        rows, steps = items[0]
        return collate_packs(rows, steps, device) if packs else collate(rows, steps)

    return Trainer(
        model=model,
        args=arguments,
        train_dataset=Slots(dataset, plan(parts, slots, per_update, config.epochs, config.seed)),
        data_collator=batch,
        # The weights are divided already: what the Trainer counts in `labels` is not looked at.
        compute_loss_func=lambda outputs, labels, num_items_in_batch=None: step_loss(outputs["logits"], labels),
    )
