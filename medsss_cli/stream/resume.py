"""Going on after a stop: which records stand in OUT, and what is known of the run in `.OUT.medsss` beside it.

These hold at every moment, `kill -9` included:

1. All lines of one input are one write to OUT, so they stand together, as one group.
2. A line without its line feed is torn; the next run cuts it off.
3. Before the first group of more than one line goes out, the state says `several_lines`. Only then can a group be there
   in part, and only the last one; the next run drops the last group and does it again. Where an input gives one line, a
   whole line is a whole result and nothing is done twice.
4. A run that ends by itself leaves the size of OUT in the state; an OUT of just that size is whole, and left alone.
5. Nothing is changed before the first result is written: a run that is refused, or whose model cannot be opened, leaves
   OUT and state as they were, and what it made itself is removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import orjson

from .. import __version__, console
from ..cost import Meter
from ..errors import MedsssError, UsageError
from ..records import Problem
from .outputs import LockedFile, Record, encode, state_path
from .shard import digest

_INSTEAD = "--restart overwrites it, or choose another -o"


@dataclass
class State:
    """What stands in `.OUT.medsss`. `config` holds the settings that change results, `shard` is the part of the input
    that OUT is for ("2/8", "all"), `own_fields` are fields that its records have and a problem has not.

    `whole_bytes` is the size of OUT when a run ended by itself, None while one is under way. What went into OUT, runs
    that were killed left out: `seconds` of wall time, `cpu_seconds`, `gpus` for that long, `tokens` generated. `inputs`
    are the files that were read."""

    command: str
    config: dict[str, Any]
    version: str = __version__
    shard: str | None = None
    own_fields: list[str] | None = None
    several_lines: bool = False
    whole_bytes: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpus: int = 0
    tokens: int = 0
    inputs: list[str] = field(default_factory=list)


def read_state(out: str) -> State | None:
    """What is known of OUT; None where nothing is. Raises UsageError for a state that cannot be read."""
    try:
        return msgspec.json.decode(Path(state_path(out)).read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"cannot use {state_path(out)}: {error}", hint="--restart starts over") from None


def write_state(out: str, state: State) -> None:
    """Replace the state of OUT in one step."""
    path = state_path(out)
    try:
        Path(path + ".tmp").write_bytes(msgspec.json.format(msgspec.json.encode(state)) + b"\n")
        os.replace(path + ".tmp", path)
    except OSError as error:
        raise MedsssError(f"cannot write {path}: {error.strerror}") from None


class GrowingOutput(LockedFile):
    """OUT, to which a run appends the results of one input after the other. `done` holds the digests of the ids whose
    results stand in it.

    Raises UsageError where OUT cannot be gone on with: another configuration or shard, a file that is none of ours.
    """

    def __init__(self, path: str, state: State, *, restart: bool) -> None:
        super().__init__(path, "-o")
        self.state = state
        self.done: set[int] = set()
        self._meter = Meter()
        try:
            if not os.access(os.path.dirname(path) or ".", os.W_OK | os.X_OK):
                raise UsageError(f"cannot write {state_path(path)}: no permission", hint="choose another -o")
            if self.size and not restart:
                self._look()
        except BaseException:
            self.close(whole=False)
            raise

    def write(self, objs: Sequence[Record]) -> None:
        """All results of one input, at once. Raises BadRecord, with nothing written, if JSON cannot say one."""
        lines = [encode(record) for record in objs]
        if not lines:
            return
        state = self.state
        if state.own_fields is None or (len(lines) > 1 and not state.several_lines):
            state.own_fields = state.own_fields or _own_fields(lines[0])
            state.several_lines |= len(lines) > 1
            if self.begun:
                write_state(self.name, state)
        self.write_bytes(b"".join(lines))

    def begin(self) -> None:
        super().begin()
        write_state(self.name, self.state)

    def close(self, *, whole: bool = True) -> None:
        """`whole` says that the run came to its end by itself."""
        try:
            if whole or self.begun:
                if not self.begun:
                    super().begin()
                spent = self._meter.spent()
                self.state.seconds += spent["seconds"]
                self.state.cpu_seconds += spent["cpu_seconds"]
                self.state.gpus = max(self.state.gpus, int(spent["gpus"]))
                self.state.whole_bytes = self.size if whole else None
                # Where a full disk ended the run, its state is not to hide that.
                with contextlib.suppress(*() if whole else (MedsssError,)):
                    write_state(self.name, self.state)
        finally:
            super().close(whole=whole)

    def _look(self) -> None:
        """Learn what is done, and where OUT ends: at a torn last line.

        Raises UsageError for a broken line with whole ones after it, for cutting there would lose records, and where
        the first line is no record of the command, for then something else has written OUT since."""
        former, now = read_state(self.name), self.state
        if former is None:
            said = f"{self.name} is not empty, and no run of medsss is known to have written it"
            raise UsageError(said, hint=_INSTEAD)
        _compare(self.name, former, now)
        self.state = replace(former, version=now.version, shard=now.shard, inputs=now.inputs, whole_bytes=None)
        ours = set(former.own_fields or ())
        last: str | None = None
        end = broken = 0
        with open(os.dup(self.fd), "rb") as file:
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    id = _identified.decode(line).id
                except msgspec.MsgspecError:
                    broken = broken or number
                    continue
                if broken or (number == 1 and ours and not ours & set(_own_fields(line))):
                    said = f"{self.name}:{broken or 1}: not a record of `{former.command}`"
                    raise UsageError(said, hint=f"repair it, {_INSTEAD}")
                if last is not None and last != id:
                    self.keep = end
                    self.done.add(digest(last))
                last = id
                end += len(line)
        if last is not None and not (former.several_lines and former.whole_bytes != self.size):
            self.keep = end
            self.done.add(digest(last))


def _compare(path: str, former: State, now: State) -> None:
    """Raise UsageError where OUT was begun otherwise."""
    hint = f"the same settings go on with it, {_INSTEAD}"
    before = {"command": former.command} | former.config
    if changes := differences(before, {"command": now.command} | now.config):
        raise UsageError("\n  ".join([f"{path} was begun with other settings:", *changes]), hint=hint)
    # Each part of another number of parts holds ids of several of these: merged by `cat` they would stand twice. To go
    # on with the whole input in one file is no such change.
    if former.shard not in (None, now.shard) and now.shard != "all":
        was = "without a shard" if former.shard == "all" else f"as shard {former.shard}"
        said = f"{path} was begun {was}, this is shard {now.shard}: records of other parts stand in it"
        raise UsageError(said, hint=hint)
    if former.version != __version__:
        console.warn(f"{path} was begun with medsss {former.version}, this is {__version__}")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """ "lr: 0.1 -> 0.2" for each setting that differs."""

    def shown(config: Mapping[str, Any], key: str) -> str:
        return orjson.dumps(config[key]).decode() if key in config else "not set"

    keys = list(old) + [key for key in new if key not in old]
    return [f"{key}: {shown(old, key)} -> {shown(new, key)}" for key in keys if shown(old, key) != shown(new, key)]


class _Identified(msgspec.Struct):
    """All that is looked at in a line of OUT."""

    id: str


_identified = msgspec.json.Decoder(_Identified)


def _own_fields(line: bytes) -> list[str]:
    """What a record says beyond the problem that it carries."""
    return [name for name in orjson.loads(line) if name not in Problem.__struct_fields__]
