"""Seeded, unlimited clinic problems in three disjoint splits, and written solutions to them, right or with a slip.

The splits are disjoint by construction: a hash of (kind, values) assigns every combination of parameters to one split,
so no seed, number of problems or change of wording brings a training problem into the test. It prints and judges
nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from random import Random

from ..errors import BadRecord, UsageError
from ..records import Problem, Task
from ..steps import ROOT_TEXT
from . import chains
from .kinds import KINDS, Kind, Solution, Values

LETTERS = "ABCD"
REPEATS = 200
"""Draws of values that came before, until one of them comes again."""


class Split(StrEnum):
    """What a problem is for. Each combination of values belongs to exactly one."""

    TRAIN = "train"  # the policies were made from these
    SEED = "seed"  # for the search; also where the policies' checkpoints were chosen
    TEST = "test"  # to measure on


_SHARES = ((60, Split.TRAIN), (80, Split.SEED), (100, Split.TEST))


def value_key(kind: str, values: Values) -> str:
    """One line of text that is equal exactly where kind and values are."""
    return json.dumps([kind, values], sort_keys=True, separators=(",", ":"))


def split_of(kind: str, values: Values) -> Split:
    """The split of a combination of values: 60 % train, 20 % seed, 20 % test, by SHA-256."""
    place = int.from_bytes(hashlib.sha256(value_key(kind, values).encode()).digest()[:4], "big") % 100
    return next(split for below, split in _SHARES if place < below)


def problems(
    n: int, *, seed: int = 0, split: Split = Split.SEED, level: int = 1, kinds: Sequence[str] = ()
) -> Iterator[Problem]:
    """`n` problems of a split. The first of them do not depend on `n`.

    At level 1 the kinds, or those named, come in random order and equally often; at levels 2 and 3 they are chains
    (`chains.py`). No combination of values comes twice unless a kind has run out of new ones. Raises UsageError for an
    unknown kind.
    """
    for name in kinds:
        if name not in KINDS:
            raise UsageError(f"no clinic kind {name!r}", hint=f"kinds: {', '.join(KINDS)}")
    return _problems(n, seed, split, level, [kind for kind in KINDS.values() if not kinds or kind.name in kinds])


def _problems(n: int, seed: int, split: Split, level: int, chosen: list[Kind]) -> Iterator[Problem]:
    name = "clinic" if level == 1 else f"clinic{level}"
    rng = Random(f"{name}/{split.value}/{seed}")
    seen: set[str] = set()
    turn: list[Kind] = []
    for index in range(n):
        if level > 1:
            draw = partial(chains.draw, [rng.choice(chains.LENGTHS[level])], rng)
        else:
            turn = turn or rng.sample(chosen, len(chosen))
            draw = partial(_single, turn.pop(), rng)
        kind, values = _fresh(draw, split, seen)
        yield make_problem(kind, values, rng, f"{name}-{split.value}-{seed}-{index}")


def _single(kind: Kind, rng: Random) -> tuple[Kind, Values]:
    return kind, kind.sample(rng)


def _fresh(draw: Callable[[], tuple[Kind, Values]], split: Split, seen: set[str]) -> tuple[Kind, Values]:
    repeats = 0
    while repeats < REPEATS:
        kind, values = draw()
        if split_of(kind.name, values) is split:
            key = value_key(kind.name, values)
            if key not in seen:
                break
            repeats += 1
    seen.add(key)
    return kind, values


def make_problem(kind: Kind, values: Values, rng: Random, id: str) -> Problem:
    """The problem record for these values, its wording by `rng`.

    Kinds with `choices` give four options, always in the order that the kind states; the others a free number. To look
    an option's letter up in a shuffled list takes a model of this size a training of its own.
    """
    question = rng.choice(kind.ask(values))
    answer = kind.solve(values, None).answer
    options = None if kind.choices is None else dict(zip(LETTERS, kind.choices(values), strict=True))
    meta = {"kind": kind.name, "domain": kind.domain.value, "values": values}
    length = len(chains.parts(kind))
    return Problem(
        id=id,
        question=question,
        answer=answer if options is None else _letter(options, answer),
        options=options,
        dataset=f"clinic/{kind.domain.value}",
        task=Task.NUMBER if options is None else Task.CHOICE,
        meta={"clinic": meta if length == 1 else {**meta, "parts": length}},
    )


def _letter(options: dict[str, str], text: str) -> str:
    return next(letter for letter, option in options.items() if option == text)


def read_meta(problem: Problem) -> tuple[Kind, Values]:
    """Kind and values of a clinic problem. Raises BadRecord for a problem that is not of the clinic."""
    clinic = problem.meta.get("clinic")
    kind = chains.kind_of(str(clinic.get("kind"))) if isinstance(clinic, dict) else None
    values = clinic.get("values") if isinstance(clinic, dict) else None
    if kind is None or not isinstance(values, dict):
        raise BadRecord(f"{problem.id}: not a clinic problem (no meta.clinic with kind and values)")
    return kind, values


def solution(problem: Problem, slip: str | None = None) -> Solution:
    """The solution of a clinic problem, right or with a slip. Raises BadRecord as `read_meta` does, and for
    values that do not fit."""
    kind, values = read_meta(problem)
    try:
        return kind.solve(values, slip)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, StopIteration) as error:
        raise BadRecord(f"{problem.id}: the values under meta.clinic do not fit {kind.name}: {error!r}") from None


def stated(problem: Problem, answer: str) -> str:
    """How a solution states an answer, a number or the text of an option: "12" or "B"."""
    return answer if problem.options is None else _letter(problem.options, answer)


def conclude(problem: Problem, step: str, answer: str) -> str:
    """The last step with its answer: "140 - 104 = 36 (C). The answer is C.", the letter only where there are options.

    The letter stands right behind the option's text, where a small model can look it up in one hop.
    """
    if problem.options is not None:
        step = f"{step.removesuffix('.')} ({stated(problem, answer)})."
    return f"{step} The answer is {stated(problem, answer)}."


def write_steps(problem: Problem, slip: str | None = None, rng: Random | None = None) -> list[str]:
    """Bare steps of a written solution, step 0 first, the answer in the last. `rng` picks
    phrasings; None takes the first."""
    plan = solution(problem, slip)
    steps = [phrasings[0] if rng is None else rng.choice(phrasings) for phrasings in plan.steps]
    steps[-1] = conclude(problem, steps[-1], plan.answer)
    return [ROOT_TEXT, *steps]
