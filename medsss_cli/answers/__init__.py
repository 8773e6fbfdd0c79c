"""What a written answer says, and whether it is right. Rules only: no model, no eval of text, nothing that an input
can make slow.

The readers of readers.py, in order, find the places where an answer stands; choice.py, number.py, date.py and text.py
read what stands there, as the problem's task asks; `judge` compares it with the gold answer. published.py is the rule
of the authors' evaluation. Correct, wrong and no answer are three different things; a text that can be read in two
ways is no answer; an unreadable *gold* answer is an error in the data.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from ..errors import BadRecord
from ..records import Problem, Task, Verdict
from .choice import gold_letters, read_choice
from .date import gold_date, read_date
from .number import MULTIVALENT, Number, agrees, as_value, canonical, read_gold, read_number
from .published import published_answer, published_right
from .readers import READERS, UNSURE, Place, after_thought, states_answer
from .text import holds, normalise, read_text

__all__ = ["Extract", "Judgement", "answer_key", "check_gold", "judge", "states_answer"]


class Extract(StrEnum):
    """Which readers read."""

    FLEXIBLE = "flexible"  # all
    STRICT = "strict"  # those of an announced answer (`ANNOUNCED`)
    PUBLISHED = "published"  # as the authors' released evaluation does (published.py)


ANNOUNCED = ("boxed", "tag", "json", "statement")


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a written answer.

    `answer` is what it states, normalised so that equal answers are equal strings: sorted letters ("B", "BD"), a number
    ("84", "12.5"), a range ("5 to 6"), a day ("2024-03-15"), lower-cased words; None where nothing could be read. `how`
    is the name of the reader that read it, "published", or "none".
    """

    answer: str | None
    verdict: Verdict
    how: str


_NOTHING = Judgement(answer=None, verdict=Verdict.NO_ANSWER, how="none")

Reading = tuple[str, bool] | str | None
"""What stands at a place and whether it is right; UNSURE where that is several things; None where it is nothing."""


def judge(problem: Problem, text: str, extract: Extract = Extract.FLEXIBLE) -> Judgement:
    """The verdict on `text`, an answer to `problem`. Of the places that state an answer the last one that can be read
    counts; without one, all weak places that can be read must agree. What stands before a `</think>` is no answer.

    Raises BadRecord, with the id, where the gold answer cannot be read.
    """
    read = _READ[problem.task](problem)
    if extract is Extract.PUBLISHED:
        return _published(problem, text)
    text = after_thought(text)
    names = [name for name in READERS if extract is Extract.FLEXIBLE or name in ANNOUNCED]
    if problem.task is Task.TEXT and "first_line" in names:
        names.remove("first_line")  # it is a thought
    found = [(place, name) for name in names for place in READERS[name](text)]
    for place, name in sorted((each for each in found if each[0].stated), key=lambda each: -each[0].at):
        answer = UNSURE if place.withdrawn else read(place)
        if answer is not None:
            return _judgement(answer, name)
    weak = [(UNSURE if place.withdrawn else read(place), name) for place, name in found if not place.stated]
    weak = [(answer, name) for answer, name in weak if answer is not None]
    agree = len({answer for answer, _ in weak}) == 1 or problem.task is Task.TEXT
    if not weak or not agree or any(answer == UNSURE for answer, _ in weak):
        return _NOTHING
    return _judgement(weak[-1][0], weak[0][1])


def _judgement(answer: Reading, how: str) -> Judgement:
    if not isinstance(answer, tuple):
        return _NOTHING
    return Judgement(answer[0], Verdict.CORRECT if answer[1] else Verdict.WRONG, how)


def _choices(problem: Problem) -> Callable[[Place], Reading]:
    gold = gold_letters(problem.answer, problem.options)
    if gold is None:
        known = "the letters A to J" if problem.options is None else f"the options {', '.join(problem.options)}"
        raise BadRecord(f"{problem.id}: the gold answer {problem.answer!r} is not one of {known}")

    def read(place: Place) -> Reading:
        letters = read_choice(place, problem.options, several=len(gold) > 1)
        return letters if letters in {None, UNSURE} else (letters, letters == gold)

    return read


def _numbers(problem: Problem) -> Callable[[Place], Reading]:
    day = gold_date(problem.answer)
    gold = read_gold(problem.answer)
    if day is not None:
        return partial(_day, day)
    if gold is None:
        raise BadRecord(
            f"{problem.id}: the gold answer {problem.answer!r} is not a number (84, 12.5 mg/dL, 84 ± 2, 80 to 90) or a "
            "date (2024-03-15)"
        )
    univalent = not MULTIVALENT.search(problem.question[-2_000:])
    wanted = as_value(gold, gold, problem.question)

    def read(place: Place) -> Reading:
        number = read_number(place)
        if not isinstance(number, Number):
            return number
        if number.high is not None and wanted.high is None:
            return UNSURE  # a range says no number
        number = as_value(number, gold, problem.question)
        return canonical(number, wanted.unit), agrees(number, wanted, univalent=univalent)

    return read


def _day(gold: datetime.date, place: Place) -> Reading:
    stated = read_date(place)
    return (stated.isoformat(), stated == gold) if isinstance(stated, datetime.date) else stated


def _texts(problem: Problem) -> Callable[[Place], Reading]:
    gold = normalise(problem.answer)
    if not gold:
        raise BadRecord(f"{problem.id}: the gold answer {problem.answer!r} holds no word")

    def read(place: Place) -> Reading:
        sentence = read_text(place)
        return sentence if sentence in {None, UNSURE} else (normalise(sentence), holds(sentence, gold))

    return read


_READ: dict[Task, Callable[[Problem], Callable[[Place], Reading]]] = {
    Task.CHOICE: _choices,
    Task.NUMBER: _numbers,
    Task.TEXT: _texts,
}
"""For a problem, how a place is read and judged. Raises BadRecord where the gold answer cannot be read."""

LONGEST_GOLD = 100_000
"""Characters of a gold answer. It is looked at for every answer to the problem, and a longer one is a mistake."""


def check_gold(problem: Problem) -> None:
    """Raises BadRecord, with the id and what would be readable, where the gold answer of `problem` cannot be read."""
    if len(problem.answer) > LONGEST_GOLD:
        raise BadRecord(
            f"{problem.id}: the gold answer has {len(problem.answer)} characters; up to {LONGEST_GOLD} are read"
        )
    _READ[problem.task](problem)


def answer_key(problem: Problem, answer: str | None) -> str | None:
    """One spelling for answers that are one vote: 84 and 84.0, "DB" and "BD", "High" and "high". None stays None.

    `answer` is what a record carries, from us or from another tool. What cannot be read in the problem's task is
    kept as normalised text, so that it still counts as a vote of its own.
    """
    if answer is None:
        return None
    key: str | None = None
    if problem.task is Task.CHOICE:
        key = gold_letters(answer, problem.options)
    elif problem.task is Task.NUMBER:
        day, number = gold_date(answer), read_gold(answer)
        key = day.isoformat() if day else canonical(number) if number else None
    return key or normalise(answer)


def _published(problem: Problem, text: str) -> Judgement:
    answer = published_answer(text)
    if not answer:
        return _NOTHING
    if problem.task is Task.CHOICE:
        gold = gold_letters(problem.answer, problem.options) or ""
        return _judgement((answer[0].upper(), published_right(answer[:1], gold)), "published")
    return _judgement((normalise(answer), published_right(answer, problem.answer.strip())), "published")
