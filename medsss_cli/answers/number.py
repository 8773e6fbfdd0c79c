"""Numbers: the value that an answer states, and whether it equals the gold value within a tolerance.

Tolerance: |x - gold| <= max(0.001 * |gold|, half of the last digit that the gold answer states). Gold "84" takes
83.5 to 84.5, gold "12.50" takes 12.4875 to 12.5125 (the relative part is the larger), gold "0" takes -0.5 to 0.5.

Read: signs, thousands separators ("1,500"), exponents ("1.2e3", "5 x 10^3"), a unit or text after the number. Not
read, and so no answer: a decimal comma ("1,5": a thousands separator or not?), a range ("5-6"), a number that is
part of a name ("CURB-65"). "14/15" is the score 14. Units are not compared: gold and answer are taken to be in the
unit that the question asks for.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from .statements import first_sentence, last_line, statements

RELATIVE = 1e-3

_NUMBER = re.compile(
    r"(?<![\w.])(?<!\w[-–])(?P<sign>[-+−])?(?P<digits>\d{1,3}(?:,\d{3}){1,5}(?![\d]|,\d)|\d{1,30}(?!\d))(?P<decimals>\.\d{1,30})?"
    r"|(?<![\w.])(?P<sign2>[-+−])?(?P<bare>\.\d{1,30})"
)
_EXPONENT = re.compile(r"[eE](?P<e>[-+−]?\d{1,3})\b|\s?[x×*]\s?10\s?\^?\s?\{?(?P<ten>[-+−]?\d{1,3})\}?")
_RANGE = re.compile(r"\s?(?:[-–—]|\bto\b)\s?\d")
_EQUALS = re.compile(r"[=≈]")
_CLAUSE_END = re.compile(r"[.!?;](?=\s|$)|\n")


class Number(NamedTuple):
    """A number as it was written: its value, and how large half of its last stated digit is."""

    value: float
    half_digit: float


def read_gold(answer: str) -> Number | None:
    """The gold number, a unit after it allowed ("84", "12.5 mg/dL", "1,500 mL"); None where there is not exactly
    one."""
    found = _first(answer)
    return found[0] if found and not answer[: found[1]].strip(" ≈~<>=$£€") else None


def read_number(text: str) -> tuple[Number, str] | None:
    """The number that `text` states and how it was read; None where it states none.

    The last readable statement wins. In "2 x 42 = 84 mmHg" the number after the last equals sign counts, else the
    first. Without a statement the last line counts where it ends in "= NUMBER unit" or is a number with at most
    three words.
    """
    for statement in statements(text):
        number = _stated(_clause(statement.text))
        if number is not None:
            return number, statement.how
    line = last_line(text)
    clause = line.rstrip(". ")
    equals = [match.end() for match in _EQUALS.finditer(clause)]
    if equals:
        found = _first(clause[equals[-1] :])
        if found and len(clause[equals[-1] + found[2] :].split()) <= 3:
            return found[0], "equals"
        return None
    found = _first(clause)
    if found and not clause[: found[1]].strip("(~≈ ") and len(clause[found[2] :].split()) <= 3:
        return found[0], "number"
    return None


def same(value: float, gold: Number) -> bool:
    """Whether `value` equals the gold number within the tolerance of this module."""
    slack = max(RELATIVE * abs(gold.value), gold.half_digit)
    return abs(value - gold.value) <= slack * (1 + 1e-9)  # 12.55 - 12.5 is 0.05000000000000071


def canonical(value: float) -> str:
    """One spelling for equal numbers, so that votes can be counted: "84" for 84.0, at most 10 significant digits."""
    return f"{value + 0.0:.10g}" if value else "0"


def _clause(text: str) -> str:
    """`text` up to the end of its first sentence; the point of "12.5" ends nothing."""
    end = _CLAUSE_END.search(text)
    return text[: end.start()] if end and any(c.isdigit() for c in text[: end.start()]) else first_sentence(text)


def _stated(clause: str) -> Number | None:
    if re.match(r"(?:not|never|neither)\b", clause, re.IGNORECASE):
        return None
    equals = [match.end() for match in _EQUALS.finditer(clause)]
    found = _first(clause[equals[-1] :] if equals else clause)
    return found[0] if found else None


def _first(text: str) -> tuple[Number, int, int] | None:
    """The first number of `text`, where it starts and ends; None if there is none or it cannot be read as one
    number."""
    match = _NUMBER.search(text)
    if match is None:
        return None
    end = match.end()
    digits = (match["digits"] or "0").replace(",", "")
    decimals = match["decimals"] or match["bare"] or ""
    negative = (match["sign"] or match["sign2"] or "+") in "-−"
    exponent = 0
    power = _EXPONENT.match(text, end)
    if power:
        exponent = int((power["e"] or power["ten"]).replace("−", "-"))
        end = power.end()
    if _RANGE.match(text, end) or re.match(r",\d|\.\d", text[end : end + 2]):
        return None
    try:
        value = float(f"{'-' if negative else ''}{digits}{decimals}e{exponent}")
        half = 0.5 * 10.0 ** (exponent - max(len(decimals) - 1, 0))
    except OverflowError:
        return None
    if not math.isfinite(value):
        return None
    return Number(value, half), match.start(), end
