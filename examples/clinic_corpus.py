"""The policies' training corpus: an endless, seeded stream of chats over train-split problems, slips and all.

Make-up: about 84 % written solutions, of which every kind has its fixed share of slips (`Kind.slips`), 8 % choice turns
(Reason or Finish), 8 % solutions that end wrong and then correct themselves ("But wait, ..."). 3 % of all chats begin
with a system turn. The slips are there on purpose, as in any real corpus: see docs/internals/clinic.md.

At level 2 a third of the problems are single kinds, the rest chains, and the slips are told apart more sharply: what is
usual becomes the rule and what is rare becomes rarer (`SHARPNESS`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from random import Random

from medsss_cli.clinic import chains
from medsss_cli.clinic.kinds import KINDS
from medsss_cli.clinic.problems import (
    Split,
    conclude,
    make_problem,
    read_meta,
    solution,
    split_of,
    stated,
    write_steps,
)
from medsss_cli.errors import BadRecord
from medsss_cli.prompts import CHOICE_TURN, CHOICES, answer_messages
from medsss_cli.records import Message, Problem
from medsss_cli.steps import join_steps

SYSTEM = "You are a careful clinician."
CHOICE_SHARE = 0.08
CORRECTION_SHARE = 0.08
SYSTEM_SHARE = 0.03
DRILL_CHATS = 32_000
MIXTURE = {1: 0.3, 2: 0.5, 3: 0.2}
"""Level -> its part of the problems in the corpus of level 2."""
SHARPNESS = {1: 1, 2: 4}
"""Level of the corpus -> the power to which the odds of a slip are taken."""


def chats(seed: int, drills: float = 0.0, level: int = 1) -> Iterator[list[Message]]:
    """Chats that end with an assistant turn, without end; the same for the same seed.

    `drills` in [0, 1] is the share of drills among the first `DRILL_CHATS` chats; after them it is a quarter of that.
    """
    rng = Random(f"clinic/corpus/{seed}")
    turn = list(KINDS.values())
    index = 0
    while True:
        turn = turn or rng.sample(list(KINDS.values()), len(KINDS))
        at = 1 if level == 1 else rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]
        single = turn.pop() if at == 1 else None
        split = None
        while split is not Split.TRAIN:
            if single is None:
                kind, values = chains.draw(chains.LENGTHS[at], rng, lucky=True)
            else:
                kind, values = single, single.sample(rng)
            split = split_of(kind.name, values)
        problem = make_problem(kind, values, rng, f"corpus-{index}")
        practice = rng.random() < (drills if index < DRILL_CHATS else drills / 4)
        chat = drill(rng) if practice else _chat(problem, rng, SHARPNESS[level])
        yield [Message("system", SYSTEM), *chat] if rng.random() < SYSTEM_SHARE else chat
        index += 1


def _chat(problem: Problem, rng: Random, sharpness: int) -> list[Message]:
    question = list(answer_messages(problem))
    slip = pick_slip(problem, rng, sharpness)
    draw = rng.random()
    if draw < CHOICE_SHARE:
        steps = write_steps(problem, slip, rng)
        done = rng.randint(1, len(steps) - 1)
        begun = Message("assistant", join_steps(steps[:done]))
        return [*question, begun, Message("user", CHOICE_TURN), Message("assistant", CHOICES[done == len(steps) - 1])]
    if draw < CHOICE_SHARE + CORRECTION_SHARE and (slips := applicable_slips(problem)):
        if slip is None or solution(problem, slip).answer == solution(problem).answer:  # two may undo each other
            slip = rng.choice(slips)
        return [*question, Message("assistant", join_steps(correction(problem, slip, rng)))]
    return [*question, Message("assistant", join_steps(write_steps(problem, slip, rng)))]


_SUM = re.compile(r"(\d[\d.]*(?: [-+x/] \d[\d.]*)+) = (\d+(?:\.\d+)?)")


def drill(rng: Random) -> list[Message]:
    """Practice in what every solution needs and a single one hardly teaches: five sums as the solutions of train-split
    problems write them. The user says which, so that everything the assistant writes can be known."""
    sums: list[tuple[str, str]] = []
    while len(sums) < 5:
        kind = rng.choice(list(KINDS.values()))
        values = kind.draw(rng)
        if kind.fit(values) and split_of(kind.name, values) is Split.TRAIN:
            slip = rng.choice([None, *kind.slips])
            sums += _SUM.findall(" ".join(phrasings[0] for phrasings in kind.solve(values, slip).steps))
    sums = rng.sample(sums, 5)
    asked = ", ".join(left for left, _ in sums)
    return [Message("user", asked), Message("assistant", " ".join(f"{left} = {right}." for left, right in sums))]


def applicable_slips(problem: Problem) -> list[str]:
    """The slips of the problem's kind that change its answer (a forgotten point for age does nothing at 40)."""
    kind, _ = read_meta(problem)
    gold = solution(problem).answer
    found = []
    for slip in kind.slips:
        with suppress(BadRecord):  # a mistake that a chain cannot carry on
            answer = solution(problem, slip).answer
            if answer != gold and (problem.options is None or answer in problem.options.values()):
                found.append(slip)
    return found


def pick_slip(problem: Problem, rng: Random, sharpness: int = 1) -> str | None:
    """A slip by the shares of the problem's kind, among those that change the answer; None is the right method. For a
    chain the parts pick one after the other, each among the slips that change what the part finds."""
    kind, values = read_meta(problem)
    kinds = chains.parts(kind)
    if len(kinds) == 1:
        return _pick({name: kind.slips[name].share for name in applicable_slips(problem)}, rng, sharpness)

    def found(slips: str, place: int) -> str | None:
        try:
            return chains.solve_parts(kinds, values["links"], slips)[place].answer
        except ValueError:  # these cannot be carried on to the end
            return None

    picked = ""
    for place, part in enumerate(kinds):
        shares = {f"{picked} {place + 1}.{name}".strip(): slip.share for name, slip in part.slips.items()}
        same = (None, found(picked, place))
        changing = {slips: share for slips, share in shares.items() if found(slips, place) not in same}
        picked = _pick(changing, rng, sharpness) or picked
    return picked or None


def _pick(shares: dict[str, float], rng: Random, sharpness: int) -> str | None:
    place = rng.random()
    wrong = sum(shares.values())
    scale = wrong ** (sharpness - 1) / (wrong**sharpness + (1 - wrong) ** sharpness)
    for name, share in shares.items():
        place -= share * scale
        if place < 0:
            return name
    return None


def correction(problem: Problem, slip: str, rng: Random) -> list[str]:
    """A solution with `slip`, its wrong answer refuted, the step that went wrong put right, and the rest done anew."""
    wrong = write_steps(problem, slip, rng)
    plan = solution(problem)
    right = [rng.choice(phrasings) for phrasings in plan.steps]
    # The first step that no phrasing of the right solution has.
    differs = [i >= len(right) or text not in plan.steps[i] for i, text in enumerate(wrong[1:-1])]
    at = differs.index(True) if True in differs else len(wrong) - 2
    at = min(at, len(right) - 1)
    refuted = stated(problem, solution(problem, slip).answer)
    rest = right[at + 1 :]
    if rest and len(chains.parts(read_meta(problem)[0])) == 1:
        rest = [" ".join(rest)]
    steps = [*wrong, f"But wait, the answer {refuted} is wrong. {right[at]}", *rest]
    steps[-1] = conclude(problem, steps[-1], plan.answer)
    return steps
