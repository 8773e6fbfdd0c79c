"""What a written answer says, and whether it is right. Rules only: no model, no eval of text, nothing that an input
can make slow.

`judge` reads the last readable statement of the answer, in the way that the problem's task asks for: choice.py,
number.py, date.py, text.py say how; published.py is the rule of the authors' evaluation. Correct, wrong and no answer
are three different things; an unreadable *gold* answer is an error in the data.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import StrEnum

from ..errors import BadRecord
from ..records import Problem, Task, Verdict
from .choice import gold_letters, read_choice
from .date import gold_date, read_date
from .number import Number, agrees, canonical, read_gold, read_number
from .published import published_answer, published_right
from .statements import after_thought, states_answer
from .text import holds, normalise, read_text

__all__ = ["Extract", "Judgement", "answer_key", "check_gold", "judge", "states_answer"]


class Extract(StrEnum):
    """How willing the reading is."""

    FLEXIBLE = "flexible"  # a statement of the answer, else what the last line says
    STRICT = "strict"  # a statement of the answer and nothing else
    PUBLISHED = "published"  # as the authors' released evaluation does (published.py)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a written answer.

    `answer` is what it states, normalised so that equal answers are equal strings: sorted letters ("B", "BD"), a number
    ("84", "12.5"), a range ("5 to 6"), a day ("2024-03-15"), lower-cased words; None where nothing could be read. `how`
    names the form that was read: "answer-is", "boxed", "tag", "chinese", "letter", "option-text", "trailing-letter",
    "is-correct", "equals", "number", "last-line", "published", or "none".
    """

    answer: str | None
    verdict: Verdict
    how: str


_NOTHING = Judgement(answer=None, verdict=Verdict.NO_ANSWER, how="none")


def judge(problem: Problem, text: str, extract: Extract = Extract.FLEXIBLE) -> Judgement:
    """The verdict on `text`, an answer to `problem`. The last readable statement wins, and what stands before a
    `</think>` is none.

    Raises BadRecord, with the id, where the gold answer cannot be read.
    """
    if extract is Extract.PUBLISHED:
        return _published(problem, text)
    strict = extract is Extract.STRICT
    text = after_thought(text, strict=strict)
    match problem.task:
        case Task.CHOICE:
            gold = _gold_letters(problem)
            choice = read_choice(text, problem.options, strict=strict)
            return _judgement(choice[0], choice[0] == gold, choice[1]) if choice else _NOTHING
        case Task.NUMBER:
            wanted = _gold_number(problem)
            if isinstance(wanted, datetime.date):
                day = read_date(text, strict=strict)
                return _judgement(day[0].isoformat(), day[0] == wanted, day[1]) if day else _NOTHING
            number = read_number(text, strict=strict)
            if number is None or (number[0].high is not None and wanted.high is None):
                return _NOTHING  # a range says no number
            return _judgement(canonical(number[0]), agrees(number[0], wanted), number[1])
        case Task.TEXT:
            words = _gold_text(problem)
            phrase = read_text(text, strict=strict)
            return _judgement(phrase[0], holds(phrase[0], words), phrase[1]) if phrase else _NOTHING


LONGEST_GOLD = 100_000
"""Characters of a gold answer. It is looked at for every answer to the problem, and a longer one is a mistake."""


def check_gold(problem: Problem) -> None:
    """Raises BadRecord, with the id and what would be readable, where the gold answer of `problem` cannot be read."""
    if len(problem.answer) > LONGEST_GOLD:
        raise BadRecord(
            f"{problem.id}: the gold answer has {len(problem.answer)} characters; up to {LONGEST_GOLD} are read"
        )
    match problem.task:
        case Task.CHOICE:
            _gold_letters(problem)
        case Task.NUMBER:
            _gold_number(problem)
        case Task.TEXT:
            _gold_text(problem)


def answer_key(problem: Problem, answer: str | None) -> str | None:
    """One spelling for answers that are one vote: 84 and 84.0, "DB" and "BD", "High" and "high". None stays None.

    `answer` is what a record carries, from us or from another tool. What cannot be read in the problem's task is
    kept as normalised text, so that it still counts as a vote of its own.
    """
    if answer is None:
        return None
    match problem.task:
        case Task.CHOICE:
            return gold_letters(answer, problem.options) or normalise(answer)
        case Task.NUMBER:
            day = gold_date(answer)
            if day is not None:
                return day.isoformat()
            number = read_gold(answer)
            return canonical(number) if number else normalise(answer)
        case Task.TEXT:
            return normalise(answer)


def _judgement(answer: str, correct: bool, how: str) -> Judgement:
    return Judgement(answer, Verdict.CORRECT if correct else Verdict.WRONG, how)


def _published(problem: Problem, text: str) -> Judgement:
    check_gold(problem)
    choice = problem.task is Task.CHOICE
    answer = published_answer(text)
    if not answer:
        return _NOTHING
    gold = _gold_letters(problem) if choice else problem.answer.strip()
    stated = answer[0].upper() if choice else normalise(answer)
    return _judgement(stated, published_right(answer, gold, choice=choice), "published")


def _gold_letters(problem: Problem) -> str:
    letters = gold_letters(problem.answer, problem.options)
    if letters is None:
        known = "the letters A to J" if problem.options is None else f"the options {', '.join(problem.options)}"
        raise BadRecord(f"{problem.id}: the gold answer {problem.answer!r} is not one of {known}")
    return letters


def _gold_number(problem: Problem) -> Number | datetime.date:
    number = gold_date(problem.answer) or read_gold(problem.answer)
    if number is None:
        raise BadRecord(
            f"{problem.id}: the gold answer {problem.answer!r} is not a number (84, 12.5 mg/dL, 84 ± 2, 80 to 90) or a "
            "date (2024-03-15)"
        )
    return number


def _gold_text(problem: Problem) -> str:
    words = normalise(problem.answer)
    if not words:
        raise BadRecord(f"{problem.id}: the gold answer {problem.answer!r} holds no word")
    return words
