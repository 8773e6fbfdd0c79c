"""The output folder of a training, the rows in it, and the order in which they are taken:

    OUT/.training/run.json        what the run is: options, base, hash of the data; written before the first step
    OUT/.training/data/           the rows as token ids (Arrow, memory-mapped)
    OUT/.training/checkpoint-N/   the Trainer's checkpoints
    OUT/...                       the model, moved here when it is whole; OUT/medsss.json, the card, last

The same command given again goes on from the last whole checkpoint, or finds that all is done; another configuration is
refused with the difference. Only files that a card lists are ever removed. The order of rows is ours, all epochs one
after the other: transformers' own "group_by_length" draws from torch's global generator, so a run that resumes in its
second epoch would take the rows in the order of the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import BadRecord, UsageError
from ..models import CARD, read_json
from ..stream.jsonl import Where
from ..stream.resume import differences
from .config import TrainingConfig

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")
Say = Callable[[str], None]
OnBad = Callable[[Where, str], None]
Source = Iterable[tuple[Where, dict[str, Any]]]
WORK = ".training"
NAMED = 1000  # how many rows that were too long are named in medsss.json; all are counted


@contextlib.contextmanager
def opened(out: Path, policy: str, *, restart: bool) -> Iterator[None]:
    """The folder while a training runs. One that is not ours or is the policy's own is refused; with `restart`, what an
    earlier run left is removed. Where a run is refused before it has trained, what it began is forgotten."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; the output is a folder", hint="name another with -o")
    if out.exists() and Path(policy).exists() and out.samefile(policy):
        raise UsageError(f"the output {out} is the policy itself", hint="name another folder with -o")
    if out.exists() and any(out.iterdir()) and not ((out / CARD).exists() or (out / WORK).exists()):
        raise UsageError(
            f"{out} exists and was not written by medsss", hint="name another folder with -o, or remove this one"
        )
    if restart:
        _remove_model(out)
        shutil.rmtree(out / WORK, ignore_errors=True)
    (out / WORK).mkdir(parents=True, exist_ok=True)  # by which the folder is known as ours
    fresh = not (out / CARD).exists() and not (out / WORK / "run.json").exists()
    try:
        yield
    except UsageError:
        if fresh and last_checkpoint(out / WORK) is None:
            shutil.rmtree(out / WORK, ignore_errors=True)
            with contextlib.suppress(OSError):
                out.rmdir()
        raise


def begin(out: Path, run: Mapping[str, Any]) -> None:
    """Write down what the run is. Raises UsageError if the folder holds another one."""
    card = read_json(out / CARD)
    old = card.get("run", {}) if card is not None else read_json(out / WORK / "run.json")
    # Older versions wrote constants of the program too, in capitals.
    former = None if old is None else {key: value for key, value in old.items() if not key.isupper()}
    if former is not None and (changes := differences(former, run)):
        raise UsageError(
            f"{out} holds a training with another configuration ({', '.join(changes)})",
            hint="give --restart to train anew, or name another folder with -o",
        )
    write_json(out / WORK / "run.json", run)


def last_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint that is whole: the Trainer writes trainer_state.json last."""
    found = [folder for folder in work.glob("checkpoint-*") if read_json(folder / "trainer_state.json") is not None]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-"))


def publish(out: Path, staged: Path, card: Mapping[str, Any]) -> None:
    """Put the finished model in place of the one that the folder held, its card last, then forget the work folder.
    After a crash in between the same command repairs it."""
    _remove_model(out)
    files = sorted(file.name for file in staged.iterdir())
    write_json(staged / CARD, {**card, "files": files})  # so that `restart` knows them after a crash
    os.umask(mask := os.umask(0))
    for name in [*files, CARD]:
        if (staged / name).is_file():
            (staged / name).chmod(0o666 & ~mask)  # safetensors writes for the owner alone, and a model is shared
        (staged / name).replace(out / name)
    shutil.rmtree(out / WORK, ignore_errors=True)


def _remove_model(out: Path) -> None:
    """Remove the model that cards tell of, the card first: what is left of it is known to be incomplete."""
    for path in (out / CARD, out / WORK / "model" / CARD):
        card = read_json(path)
        path.unlink(missing_ok=True)
        for name in (card or {}).get("files", ()):
            (out / Path(name).name).unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object so that a reader finds all of it or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


# --- rows ------------------------------------------------------------------------------------------------------------


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
    write_json(folder / "counts.json", asdict(counts))


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
