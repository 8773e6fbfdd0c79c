"""The output folder of a training:

    OUT/.training/run.json        what the run is: options, base, hash of the data; written before the first step
    OUT/.training/data/           the rows as token ids (Arrow, memory-mapped)
    OUT/.training/checkpoint-N/   the Trainer's checkpoints
    OUT/...                       the model, moved here when it is whole; OUT/medsss.json, the card, last

The same command given again goes on from the last whole checkpoint, or finds that all is done; another configuration is
refused with the difference. Only files that a card lists are ever removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..models import CARD, read_json
from ..stream.resume import differences

WORK = ".training"


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
