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

from ..errors import BadRecord
from ..records import Problem, Task, Verdict
from .choice import gold_letters, read_choice
from .date import gold_date, read_date
from .number import Number, canonical, compared, read_gold, read_number
from .published import published_answer, published_right
from .readers import READERS, UNSURE, Place, normalised, states_answer
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
    text = normalised(text)
    names = [name for name in READERS if extract is Extract.FLEXIBLE or name in ANNOUNCED]
    if problem.task is Task.TEXT and "first_line" in names:
        names.remove("first_line")  # it is a thought
    places = [(place, name) for name in names for place in READERS[name](text)]
    readings = [(place, name, UNSURE if place.withdrawn else read(place)) for place, name in places]
    readings = [reading for reading in readings if reading[2] is not None]
    stated = [reading for reading in readings if reading[0].stated]
    if stated:
        readings = [max(stated, key=lambda reading: reading[0].at)]
    answers = {answer for _, _, answer in readings}
    if not answers or UNSURE in answers or (len(answers) > 1 and problem.task is not Task.TEXT):
        return _NOTHING
    return _judgement(readings[-1][2], readings[0][1])


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
    day, gold = gold_date(problem.answer), read_gold(problem.answer)
    if day is None and gold is None:
        raise BadRecord(
            f"{problem.id}: the gold answer {problem.answer!r} is not a number (84, 12.5 mg/dL, 84 ± 2, 80 to 90) or a "
            "date (2024-03-15)"
        )

    def read(place: Place) -> Reading:
        if day is not None or gold is None:
            stated = read_date(place)
            return (stated.isoformat(), stated == day) if isinstance(stated, datetime.date) else stated
        number = read_number(place)
        return compared(number, gold, problem.question) if isinstance(number, Number) else number

    return read


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
