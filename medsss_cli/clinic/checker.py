"""Judges every step of any written answer to a clinic problem: right, wrong or unreadable. Pure; reads no model.

A step is cut into claims: sentences that state a rule ("AG = Na - Cl - HCO3"), a sum ("140 - 104 = 36"), a comparison
("RR 24 >= 22: 1"), a fact ("Naproxen is an NSAID") or the answer. A claim is right if the right solution of this very
problem holds it, in any of its phrasings, or if it is true of the problem otherwise (`Kind.also`, what an option says,
a wrong answer called wrong). It is wrong if its arithmetic is false, or if it speaks of something that the kind knows
(same opening words, or a sum of numbers) and says what the right solution does not: so a sum that comes out, but of the
wrong rule or the wrong numbers, is wrong. Anything else cannot be read.

A step is wrong with one wrong claim, else unreadable with one unreadable claim or with none at all, else right. What is
right is taken from the whole problem, not from the steps before: a step stands or falls alone.

    >>> [c.verdict.value for c in check(problem, "Step 1: AG = Na - Cl.\\n\\nStep 2: 140 - 104 = 36. The answer is C.")]
    ['wrong', 'wrong']
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cache
from itertools import pairwise
from random import Random

from ..errors import BadRecord
from ..records import Problem
from ..steps import ROOT_TEXT, split_steps, starts_at
from .kinds import KINDS
from .problems import make_problem, read_meta, solution, write_steps

LONGEST_SENTENCE = 400
"""Characters; the longest that any kind writes has about 60. A longer sentence is unreadable."""


class StepVerdict(StrEnum):
    """What the checker says of a step or of a claim."""

    RIGHT = "right"
    WRONG = "wrong"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class StepCheck:
    """One step: its number as written (0 is the opening sentence), bare text, the verdict and the reason."""

    number: int
    text: str
    verdict: StepVerdict
    why: str
    states_answer: bool = False


def gold_steps(problem: Problem) -> list[str]:
    """Bare steps of the right solution, step 0 first. Raises BadRecord for a problem that is not of the clinic."""
    return write_steps(problem)


def check(problem: Problem, text: str) -> list[StepCheck]:
    """A verdict for each step of `text`, in order; blank text has none. Time grows linearly with the length.

    Raises BadRecord for a problem that is not of the clinic, or whose values do not fit its kind.
    """
    return check_steps(problem, split_steps(text), first=starts_at(text))


def check_steps(problem: Problem, steps: Sequence[str], first: int = 0) -> list[StepCheck]:
    """As `check`, for bare steps that are already split, the first of them numbered `first`."""
    facts = _facts(problem)
    return [_check_step(facts, number, step) for number, step in enumerate(steps, start=first)]


def answer_is_right(problem: Problem, text: str) -> bool:
    """Whether the last "The answer is ..." of `text` is the gold answer; False where there is none."""
    return _same_answer(_stated_answer(text), problem.answer)


def gold_labels(problem: Problem, steps: Sequence[str]) -> list[int | None]:
    """Gold labels of a trajectory of bare steps, step 0 first: None for step 0, 1 up to the first step that is not
    right, 0 from there on. An unreadable step counts as not right: nobody could follow it."""
    labels: list[int | None] = []
    good = True
    for checked in check_steps(problem, steps):
        good = good and checked.verdict is StepVerdict.RIGHT
        labels.append(None if checked.number == 0 else int(good))
    return labels


# What is right of a problem


@dataclass(frozen=True)
class _Facts:
    answer: str
    claims: frozenset[str]  # right claims in canonical form
    sums: frozenset[str]  # left sides that the right solution works out
    heads: frozenset[str]  # opening words that the kind knows


def _facts(problem: Problem) -> _Facts:
    kind, values = read_meta(problem)
    plan = solution(problem)
    try:
        extra = kind.also(values)
    except (KeyError, TypeError, StopIteration) as error:
        raise BadRecord(f"{problem.id}: the values under meta.clinic do not fit {kind.name}: {error!r}") from None
    written = [phrasing for step in plan.steps for phrasing in step] + extra
    options = problem.options or {}
    claims: set[str] = {f"option {letter} is {option}".lower() for letter, option in options.items()}
    sums: set[str] = set()
    for text in written:
        for sentence in _sentences(text):
            read = _read(sentence)
            claims.update(read.claims)
            sums.update(read.sums)
    return _Facts(problem.answer, frozenset(claims), frozenset(sums), _heads(kind.name))


@cache
def _heads(name: str) -> frozenset[str]:
    """Opening words of every sentence that the kind can write, right or with a slip, from 300 drawn problems."""
    kind = KINDS[name]
    rng = Random(f"clinic/heads/{name}")
    heads = {"option"}
    for _ in range(300):
        values = kind.draw(rng)
        if values is None:
            continue
        problem = make_problem(kind, values, rng, "heads")
        for slip in (None, *kind.slips):
            for phrasings in solution(problem, slip).steps:
                for sentence in (s for text in phrasings for s in _sentences(text)):
                    heads.update(_head(claim) for claim in _read(sentence).claims)
    return frozenset(heads - {""})


# Steps and sentences

_REFUTED = re.compile(r"^but wait, the answer (\S+) is wrong$", re.IGNORECASE)
_ANSWER = re.compile(r"^(?:so )?the answer is (\S+)(?: \S+)?$", re.IGNORECASE)
_FILLER = re.compile(r"^(?:so|then|thus|hence|now|therefore|but wait)[, ]+", re.IGNORECASE)
_LETTERED = re.compile(r" \(([A-Z])\)$")
_END = re.compile(r"[.;!]\s+|[.;!]$|\n+")


def _sentences(text: str) -> list[str]:
    return [" ".join(part.split()) for part in _END.split(text.strip()) if part and part.strip()]


def _stated_answer(text: str) -> str | None:
    found = None
    for sentence in _sentences(text):
        match = _ANSWER.match(sentence) if len(sentence) <= LONGEST_SENTENCE else None
        if match:
            found = match.group(1)
    return found


def _same_answer(stated: str | None, gold: str) -> bool:
    if stated is None:
        return False
    stated = stated.rstrip(".,")
    if stated.upper() == gold.upper():
        return True
    left, right = _number(stated), _number(gold)
    return left is not None and left == right


def _check_step(facts: _Facts, number: int, text: str) -> StepCheck:
    if number == 0:
        right = text.strip() == ROOT_TEXT
        verdict = StepVerdict.RIGHT if right else StepVerdict.UNREADABLE
        return StepCheck(number, text, verdict, "the opening sentence" if right else "not the opening sentence")
    unread: str | None = None
    seen = states = False
    for sentence in _sentences(text):
        seen = True
        states = states or bool(len(sentence) <= LONGEST_SENTENCE and _ANSWER.match(sentence))
        verdict, why = _check_sentence(facts, sentence)
        if verdict is StepVerdict.WRONG:
            states = states or _stated_answer(text) is not None
            return StepCheck(number, text, verdict, why, states)
        if verdict is StepVerdict.UNREADABLE and unread is None:
            unread = why
    if not seen:
        return StepCheck(number, text, StepVerdict.UNREADABLE, "nothing is said")
    if unread is not None:
        return StepCheck(number, text, StepVerdict.UNREADABLE, unread, states)
    return StepCheck(number, text, StepVerdict.RIGHT, "every claim holds", states)


def _check_sentence(facts: _Facts, sentence: str) -> tuple[StepVerdict, str]:
    if len(sentence) > LONGEST_SENTENCE:
        return StepVerdict.UNREADABLE, "a sentence too long to read"
    if match := _REFUTED.match(sentence):
        fine = not _same_answer(match.group(1), facts.answer)
        return (StepVerdict.RIGHT, "") if fine else (StepVerdict.WRONG, "the right answer is called wrong")
    if match := _ANSWER.match(sentence):
        fine = _same_answer(match.group(1), facts.answer)
        return (StepVerdict.RIGHT, "") if fine else (StepVerdict.WRONG, f"the answer is not {match.group(1)}")
    if match := _LETTERED.search(sentence):
        verdict, why = _check_sentence(facts, sentence[: match.start()])
        if verdict is StepVerdict.RIGHT and not _same_answer(match.group(1), facts.answer):
            return StepVerdict.WRONG, f"that is not option {match.group(1)}"
        return verdict, why
    read = _read(sentence)
    if read.false is not None:
        return StepVerdict.WRONG, read.false
    for side in read.sums:
        if side not in facts.sums:
            return StepVerdict.WRONG, f"not part of the solution: {sentence}"
    unread = not read.claims and not read.sums
    for claim in read.claims:
        if claim in facts.claims:
            continue
        if _head(claim) in facts.heads:
            return StepVerdict.WRONG, f"does not hold here: {claim}"
        unread = True
    return (StepVerdict.UNREADABLE, f"cannot be read: {sentence}") if unread else (StepVerdict.RIGHT, "")


# Claims


@dataclass
class _Read:
    """A sentence in canonical form. `claims` are worded claims, `sums` left sides of sums, `false` a sum that fails."""

    claims: list[str]
    sums: list[str]
    false: str | None = None


def _read(sentence: str) -> _Read:
    """A chain of equations ("PP = 120 - 90 = 30"), or a list of worded claims ("Eyes 2, speech 4, motor 5")."""
    text = _FILLER.sub("", sentence).strip().lower()
    if "=" not in text or re.search(r"[<>]", text) or ":" in text:
        parts = [part.strip() for part in text.split(", ")] if ":" not in text else [text]
        return _Read([part for part in parts if part], [])
    sides = [side.strip() for side in text.split("=")]
    result = _Read([], [])
    for left, right in pairwise(sides):
        a, b = parse_sum(left), parse_sum(right)
        if a is None or b is None:
            # A name and what it stands for; words are compared with blanks taken out, sums in canonical form.
            result.claims.append(f"{left} = {''.join(right.split()) if b is None else b.form}")
            continue
        if a.value != b.value:
            result.false = result.false or f"false: {left} = {right}"
        if a.form == b.form:
            result.false = result.false or f"says nothing: {left} = {right}"
        result.sums.append(a.form)
    return result


def _head(claim: str) -> str:
    """The words that a claim opens with, up to a digit, a sign or a verb: what it speaks of."""
    return _HEAD_END.split(claim, maxsplit=1)[0].strip()


_HEAD_END = re.compile(r"[\d=<>:%(]| (?:is|are|avoid|blocks|raises|gives|go|goes|take)(?= |$)")


# Sums


@dataclass(frozen=True)
class Sum:
    """An arithmetic expression: its value, and a form that does not depend on the order of addends and factors."""

    value: Fraction
    form: str


_TOKEN = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?|[-+*/()x×])")
_UNITS = ("drops/min", "ml/h", "mg/ml", "mmol/l", "mmhg", "g/l", "kg", "mg", "ml", "points", "h")
_DEEPEST = 6
_MOST_TOKENS = 40


def _strip_unit(text: str) -> str:
    for unit in _UNITS:
        if text.endswith(unit) and text[: -len(unit)].rstrip()[-1:].isdigit():
            return text[: -len(unit)].rstrip()
    return text


def parse_sum(text: str) -> Sum | None:
    """`text` as a sum with + - x / and brackets, a unit at the end left out; None if it is something else, divides by
    zero, or is longer than any honest step (40 tokens, six brackets deep)."""
    text = _strip_unit(text.strip().lower())
    tokens: list[str] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or len(tokens) >= _MOST_TOKENS:
            return None
        tokens.append("*" if match.group(1) in "x×" else match.group(1))
        place = match.end()
    try:
        result, rest = _chain(tokens, 0, 0, _SIGNS)
    except (ValueError, ZeroDivisionError):
        return None
    return result if rest == len(tokens) else None


_SIGNS = (("+", "-"), ("*", "/"))


def _chain(tokens: list[str], place: int, depth: int, signs: Sequence[tuple[str, str]]) -> tuple[Sum, int]:
    """Operands with the first of `signs` between them, of the other signs each; and where they end."""
    if not signs:
        return _atom(tokens, place, depth)
    join, undo = signs[0]
    first, place = _chain(tokens, place, depth, signs[1:])
    value = first.value
    forms: dict[str, list[str]] = {join: [first.form], undo: []}
    while place < len(tokens) and tokens[place] in forms:
        sign = tokens[place]
        each, place = _chain(tokens, place + 1, depth, signs[1:])
        match sign:
            case "+":
                value += each.value
            case "-":
                value -= each.value
            case "*":
                value *= each.value
            case _:
                value /= each.value
        forms[sign].append(each.form)
    if len(forms[join]) == 1 and not forms[undo]:
        return first, place
    undone = "".join(undo + form for form in sorted(forms[undo]))
    return Sum(value, f"({join.join(sorted(forms[join]))}{undone})"), place


def _atom(tokens: list[str], place: int, depth: int) -> tuple[Sum, int]:
    if place >= len(tokens) or depth > _DEEPEST:
        raise ValueError
    if tokens[place] == "(":
        inner, place = _chain(tokens, place + 1, depth + 1, _SIGNS)
        if place >= len(tokens) or tokens[place] != ")":
            raise ValueError
        return inner, place + 1
    if not tokens[place][0].isdigit():
        raise ValueError
    value = Fraction(tokens[place])
    return Sum(value, str(value)), place + 1


def _number(text: str) -> Fraction | None:
    read = parse_sum(text)
    return read.value if read is not None and "(" not in read.form else None
