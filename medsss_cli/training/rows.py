"""The rows of a training: token ids on disk, and the order in which they are taken. What a row holds: `policy`, `prm`.

The order is ours, all epochs one after the other: transformers' own "group_by_length" draws from torch's global
generator, so a run that resumes in its second epoch would take the rows in the order of the first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import BadRecord, UsageError
from ..stream.jsonl import Where
from .config import TrainingConfig
from .folder import write_json

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")
Say = Callable[[str], None]
OnBad = Callable[[Where, str], None]
Source = Iterable[tuple[Where, dict[str, Any]]]
NAMED = 1000  # how many rows that were too long are named in medsss.json; all are counted


class Row(NamedTuple):
    """A row as token ids: `columns` for the trainer, `length` of its longest sequence, `id` for messages."""

    id: str
    length: int
    columns: dict[str, Any]


@dataclass
class Counts:
    """What was met while the rows were read. `too_long` names rows that were left out (the first `NAMED`)."""

    rows: int = 0
    tokens: int = 0
    bad: int = 0
    dropped: int = 0
    too_long: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    hash: str = ""


def usable(rows: Source, read: Callable[[dict[str, Any], Where], T], counts: Counts, on_bad: OnBad) -> Iterator[T]:
    """What `read` makes of the rows. A BadRecord of it goes to `on_bad` and is counted."""
    for where, data in rows:
        try:
            record = read(data, where)
        except BadRecord as error:
            counts.bad += 1
            on_bad(where, str(error))
            continue
        yield record


def store_rows(rows: Iterable[Row], counts: Counts, folder: Path, max_length: int, say: Say) -> None:
    """Write the rows that are no longer than `max_length` to `folder` as Arrow, one at a time, and count them.

    Raises UsageError where no row is left: an empty input must never end as an untrained model.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    shutil.rmtree(folder, ignore_errors=True)
    digest = hashlib.blake2b(digest_size=16)

    def kept() -> Iterator[dict[str, Any]]:
        for row in rows:
            if row.length > max_length:
                counts.dropped += 1
                counts.too_long += [row.id] * (counts.dropped <= NAMED)
                continue
            counts.rows += 1
            counts.tokens += row.length
            digest.update(repr([*row.columns.values()]).encode())
            yield row.columns | {"length": row.length}

    try:
        Dataset.from_generator(kept, cache_dir=str(folder), fingerprint="rows")
    except DatasetGenerationError as error:
        if counts.rows or not isinstance(error.__cause__, ValueError):  # of no row it can make no table
            raise error.__cause__ or error from None
    if counts.dropped:
        shown = ", ".join(counts.too_long[:5]) + (", ..." if counts.dropped > 5 else "")
        say(f"{counts.dropped} rows are longer than {max_length} tokens and are left out: {shown}")
    if not counts.rows:
        raise UsageError(
            "no rows: the input holds none that can be trained on "
            f"({counts.bad} unusable records, {counts.dropped} longer than {max_length} tokens)",
            hint="no model was written",
        )
    counts.hash = digest.hexdigest()
    write_json(folder / "counts.json", dataclasses.asdict(counts))


def load_rows(folder: Path) -> tuple[Dataset, Counts]:
    """The rows that `store_rows` wrote, mapped into memory."""
    from datasets import Dataset

    (file,) = folder.rglob("*.arrow")
    return Dataset.from_file(str(file)), Counts(**json.loads((folder / "counts.json").read_text()))


def in_order(dataset: Dataset, config: TrainingConfig, copies: int = 1) -> Dataset:
    """The rows in the order of training, for every epoch once. Where an update takes `copies` of each of its rows,
    the last one is filled with rows of a further epoch."""
    each = config.batch_size * config.accumulation * processes() // copies
    lengths = dataset["length"][:]
    wanted = max(1, round(config.epochs * len(lengths)))
    if copies > 1:
        wanted = -(-wanted // each) * each
    order: list[int] = []
    for epoch in range(-(-wanted // len(lengths))):
        order += grouped_order(lengths, each, random.Random(f"{config.seed}/{epoch}"))
    return dataset.select(order[:wanted])


def grouped_order(lengths: Sequence[int], batch: int, draw: random.Random) -> list[int]:
    """An order of rows in which a batch holds rows of about equal length: they are shuffled, cut into chunks of 50
    batches, sorted by length within each, and the batches are shuffled. The batch with the longest row comes
    first: what does not fit into memory fails at once. The last may be short."""
    order = list(range(len(lengths)))
    draw.shuffle(order)
    whole = len(order) - len(order) % batch
    batches = []
    for start in range(0, whole, 50 * batch):
        chunk = sorted(order[start : min(start + 50 * batch, whole)], key=lengths.__getitem__)
        batches += [chunk[at : at + batch] for at in range(0, len(chunk), batch)]
    draw.shuffle(batches)
    if batches:
        longest = max(range(len(batches)), key=lambda at: lengths[batches[at][-1]])
        batches[0], batches[longest] = batches[longest], batches[0]
    return [row for part in [*batches, order[whole:]] for row in part]


def processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
