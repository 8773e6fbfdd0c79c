"""The policy's training corpus: an endless, seeded stream of chats over train-split problems, slips and all.

Make-up: about 84 % written solutions, of which every kind has its fixed share of slips (`Kind.slips`), 8 % choice turns
(Reason or Finish), 8 % solutions that end wrong and then correct themselves ("But wait, ..."). 3 % of all chats begin
with a system turn. The slips are there on purpose, as in any real corpus: see docs/clinic.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from ..prompts import CHOICE_TURN, CHOICES, answer_messages
from ..records import Message, Problem
from ..steps import join_steps
from .kinds import KINDS
from .problems import Split, answer_sentence, applicable_slips, make_problem, solution, split_of, write_steps

SYSTEM = "You are a careful clinician."
CHOICE_SHARE = 0.08
CORRECTION_SHARE = 0.08
SYSTEM_SHARE = 0.03


def chats(seed: int) -> Iterator[list[Message]]:
    """Chats that end with an assistant turn, without end; the same for the same seed."""
    rng = Random(f"clinic/corpus/{seed}")
    kinds = list(KINDS.values())
    turn = list(kinds)
    index = 0
    while True:
        if not turn:
            turn = rng.sample(kinds, len(kinds))
        kind = turn.pop()
        values = kind.draw(rng)
        while values is None or split_of(kind.name, values) is not Split.TRAIN:
            values = kind.draw(rng)
        chat = _chat(make_problem(kind, values, rng, f"corpus-{index}"), rng)
        yield [Message("system", SYSTEM), *chat] if rng.random() < SYSTEM_SHARE else chat
        index += 1


def _chat(problem: Problem, rng: Random) -> list[Message]:
    question = list(answer_messages(problem))
    slip = pick_slip(problem, rng)
    draw = rng.random()
    if draw < CHOICE_SHARE:
        steps = write_steps(problem, slip, rng)
        done = rng.randint(1, len(steps) - 1)
        reason, finish = CHOICES
        word = finish if done == len(steps) - 1 else reason
        return [*question, Message("assistant", join_steps(steps[:done])), Message("user", CHOICE_TURN), Message("assistant", word)]
    if draw < CHOICE_SHARE + CORRECTION_SHARE:
        slips = applicable_slips(problem)
        if slips:
            return [*question, Message("assistant", join_steps(correction(problem, slip or rng.choice(slips), rng)))]
    return [*question, Message("assistant", join_steps(write_steps(problem, slip, rng)))]


def pick_slip(problem: Problem, rng: Random) -> str | None:
    """A slip by the shares of the problem's kind, among those that change the answer; None is the right method."""
    slips = KINDS[problem.meta["clinic"]["kind"]].slips
    place = rng.random()
    for name in applicable_slips(problem):
        place -= slips[name].share
        if place < 0:
            return name
    return None


def correction(problem: Problem, slip: str, rng: Random) -> list[str]:
    """A solution with `slip`, its wrong answer refuted, the step that went wrong put right, and the rest done anew."""
    wrong = write_steps(problem, slip, rng)
    plan = solution(problem)
    right = [rng.choice(phrasings) for phrasings in plan.steps]
    # The first step that no phrasing of the right solution has.
    at = next((i for i, text in enumerate(wrong[1:-1]) if i >= len(plan.steps) or text not in plan.steps[i]), len(wrong) - 2)
    at = min(at, len(right) - 1)
    sentence = answer_sentence(problem, solution(problem, slip).answer)
    refuted = sentence.removeprefix("The answer is ").removesuffix(".")
    steps = [*wrong, f"But wait, the answer {refuted} is wrong. {right[at]}"]
    rest = right[at + 1 :]
    if rest:
        steps.append(" ".join(rest))
    steps[-1] += " " + answer_sentence(problem, plan.answer)
    return steps
