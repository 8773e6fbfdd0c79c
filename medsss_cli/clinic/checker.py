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

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cache
from itertools import pairwise
from random import Random
from typing import NamedTuple

from ..errors import BadRecord
from ..records import Problem
from ..steps import ROOT_TEXT, split_steps, starts_at
from . import chains
from .kinds import KINDS
from .problems import make_problem, read_meta, solution

LONGEST_SENTENCE = 400
"""Characters; the longest that any kind writes has about 60. A longer sentence is unreadable."""


class StepVerdict(StrEnum):
    """What the checker says of a step or of a claim."""

    RIGHT = "right"
    WRONG = "wrong"
    UNREADABLE = "unreadable"


class StepCheck(NamedTuple):
    """Of one step: its number as written (0 is the opening sentence), and the verdict."""

    number: int
    verdict: StepVerdict


def check(problem: Problem, text: str) -> list[StepCheck]:
    """A verdict for each step of `text`, in order; blank text has none. Time grows linearly with the length.

    Raises BadRecord for a problem that is not of the clinic, or whose values do not fit its kind.
    """
    return check_steps(problem, split_steps(text), first=starts_at(text))


def check_steps(problem: Problem, steps: Sequence[str], first: int = 0) -> list[StepCheck]:
    """As `check`, for bare steps that are already split, the first of them numbered `first`."""
    facts = _facts(problem)
    return [StepCheck(number, _check_step(facts, number, step)) for number, step in enumerate(steps, first)]


def answer_is_right(problem: Problem, text: str) -> bool:
    """Whether the last "The answer is ..." of `text` is the gold answer; False where there is none."""
    readable = [sentence for sentence in _sentences(text) if len(sentence) <= LONGEST_SENTENCE]
    stated = [match[1] for sentence in readable if (match := _ANSWER.fullmatch(sentence))]
    return bool(stated) and _same_answer(stated[-1], problem.answer)


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
    claims: set[str]  # right claims in canonical form
    sums: set[str]  # left sides that the right solution works out
    heads: frozenset[str]  # opening words that the kind knows


def _facts(problem: Problem) -> _Facts:
    kind, values = read_meta(problem)
    plan = solution(problem)
    try:
        extra = kind.also(values)
    except (KeyError, TypeError, StopIteration) as error:
        raise BadRecord(f"{problem.id}: the values under meta.clinic do not fit {kind.name}: {error!r}") from None
    read = [_read(s) for text in (*sum(plan.steps, ()), *extra) for s in _sentences(text)]
    options = {f"option {letter} is {option}".lower() for letter, option in (problem.options or {}).items()}
    claims = options.union(*(each.claims for each in read))
    return _Facts(problem.answer, claims, set().union(*(each.sums for each in read)), _heads(kind.name))


@cache
def _heads(name: str) -> frozenset[str]:
    """Opening words of every sentence that the kind can write, right or with a slip, from 300 drawn problems; of a
    chain, those of its parts and the names of what they find."""
    if name not in KINDS:
        return frozenset(chains.NAMES.lower()).union(*(_heads(part) for part in name.split(chains.JOIN)))
    kind = KINDS[name]
    rng = Random(f"clinic/heads/{name}")
    heads = {"option"}
    for _ in range(300):
        problem = make_problem(kind, kind.sample(rng), rng, "heads")
        for slip in (None, *kind.slips):
            for text in sum(solution(problem, slip).steps, ()):
                heads.update(_head(claim) for sentence in _sentences(text) for claim in _read(sentence).claims)
    return frozenset(heads - {""})


# Steps and sentences

_REFUTED = re.compile(r"but wait, the answer (\S+) is wrong", re.IGNORECASE)
_ANSWER = re.compile(r"(?:so )?the answer is (\S+)(?: \S+)?", re.IGNORECASE)
_LETTERED = re.compile(r"(.*) \(([A-Z])\)")
_FILLER = re.compile(r"^(?:so|then|thus|hence|now|therefore|but wait)[, ]+", re.IGNORECASE)
_END = re.compile(r"[.;!]\s+|[.;!]$|\n+")


def _sentences(text: str) -> list[str]:
    return [" ".join(part.split()) for part in _END.split(text.strip()) if part and part.strip()]


def _same_answer(stated: str, gold: str) -> bool:
    stated = stated.rstrip(".,")
    left, right = parse_sum(stated), parse_sum(gold)
    return stated.upper() == gold.upper() or (left is not None and right is not None and left.value == right.value)


def _check_step(facts: _Facts, number: int, text: str) -> StepVerdict:
    if number == 0:
        return StepVerdict.RIGHT if text.strip() == ROOT_TEXT else StepVerdict.UNREADABLE
    found = {_check_sentence(facts, sentence) for sentence in _sentences(text)}
    if StepVerdict.WRONG in found:
        return StepVerdict.WRONG
    return StepVerdict.RIGHT if found == {StepVerdict.RIGHT} else StepVerdict.UNREADABLE


def _check_sentence(facts: _Facts, sentence: str) -> StepVerdict:
    if len(sentence) > LONGEST_SENTENCE:
        return StepVerdict.UNREADABLE
    if match := _REFUTED.fullmatch(sentence):
        return StepVerdict.WRONG if _same_answer(match[1], facts.answer) else StepVerdict.RIGHT
    if match := _ANSWER.fullmatch(sentence):
        return StepVerdict.RIGHT if _same_answer(match[1], facts.answer) else StepVerdict.WRONG
    if match := _LETTERED.fullmatch(sentence):
        verdict = _check_sentence(facts, match[1])
        return StepVerdict.WRONG if verdict is StepVerdict.RIGHT and match[2] != facts.answer else verdict
    read = _read(sentence)
    unknown = [claim for claim in read.claims if claim not in facts.claims]
    known_head = any(_head(claim) in facts.heads for claim in unknown)
    if read.false or known_head or not facts.sums.issuperset(read.sums):
        return StepVerdict.WRONG
    return StepVerdict.RIGHT if (read.claims or read.sums) and not unknown else StepVerdict.UNREADABLE


# Claims


@dataclass
class _Read:
    """A sentence in canonical form: worded claims, left sides of sums, and whether one of the sums fails or says
    nothing."""

    claims: list[str]
    sums: list[str]
    false: bool = False


def _read(sentence: str) -> _Read:
    """A chain of equations ("PP = 120 - 90 = 30"), or a list of worded claims ("Eyes 2, speech 4, motor 5")."""
    text = _FILLER.sub("", sentence).strip().lower()
    if ":" in text:
        return _Read([text], [])
    if "=" not in text or re.search(r"[<>]", text):
        return _Read([part.strip() for part in text.split(", ") if part.strip()], [])
    result = _Read([], [])
    for left, right in pairwise(side.strip() for side in text.split("=")):
        a, b = parse_sum(left), parse_sum(right)
        if a is None or b is None:
            # A name and what it stands for; words are compared with blanks taken out, sums in canonical form.
            result.claims.append(f"{left} = {''.join(right.split()) if b is None else b.form}")
            continue
        result.false = result.false or a.value != b.value or a.form == b.form
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


_UNIT = re.compile(r"(?<=\d) ?(?:drops/min|ml/h|mg/ml|mmol/l|mmhg|g/l|kg|mg|ml|points|h)$")
_SUM = re.compile(r"(?!.*\d{13})[\d.+*/() -]{1,160}")
_SUMS, _PRODUCTS = (ast.Add, ast.Sub), (ast.Mult, ast.Div)


def parse_sum(text: str) -> Sum | None:
    """`text` as a sum with + - x / and brackets, a unit at the end left out; None if it is something else, divides by
    zero, or is longer than any honest step (160 characters, 12 digits in a row)."""
    text = re.sub("[x×]", "*", _UNIT.sub("", text.strip().lower()))
    if not _SUM.fullmatch(text):
        return None
    try:
        return _work_out(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, MemoryError, RecursionError):
        return None


def _work_out(node: ast.expr) -> Sum:
    match node:
        case ast.Constant():
            value = Fraction(str(node.value))
            return Sum(value, str(value))
        case ast.BinOp(op=ast.Add() | ast.Sub()):
            value, signs, operands = Fraction(0), "+-", list(_operands(node, _SUMS))
            for each, undone in operands:
                value += -each.value if undone else each.value
        case ast.BinOp(op=ast.Mult() | ast.Div()):
            value, signs, operands = Fraction(1), "*/", list(_operands(node, _PRODUCTS))
            for each, undone in operands:
                value *= 1 / each.value if undone else each.value
        case _:
            raise ValueError
    return Sum(value, f"({''.join(sorted(signs[undone] + each.form for each, undone in operands))})")


def _operands(node: ast.expr, signs: tuple[type, type], undone: bool = False) -> Iterator[tuple[Sum, bool]]:
    """What is added or multiplied, and whether it is taken off or divided by."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, signs):
        yield from _operands(node.left, signs, undone)
        yield from _operands(node.right, signs, undone != isinstance(node.op, signs[1]))
    else:
        yield _work_out(node), undone
