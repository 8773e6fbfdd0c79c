"""Where a written answer states its answer: "The answer is X", "Final answer: X", "\\boxed{X}". No reading of X, no
judging.

Real input, from a policy that was trained on the authors' format:

    Step 0: Let's break down this problem step by step.

    Step 1: Anion gap is Na - (Cl + HCO3), so 140 - (104 + 24) = 12. The answer is B.

Every quantifier below is bounded and at most `_MAX_STATEMENTS` statements are looked at, the last first, so that no
input is slow: a policy in a loop writes "The answer is The answer is ..." to the end of its budget.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

_MAX_STATEMENTS = 64
_MAX_LENGTH = 400

_CUE = re.compile(
    r"""
    (?P<boxed> \\boxed\s?\{ )
    |
    \b (?: answers? | (?:correct|best|right|final|my)\s(?:option|choice|selection) )
    (?: \s(?:choice|option)\b )?
    (?: \s(?:to|for|of|in|here)\b [^.:\n]{0,60}? )?
    ["*_)\s]{0,4}
    (?: \b(?:is|are|was|would\sbe|should\sbe|must\sbe|will\sbe|has\sto\sbe)\b [*_:\s]{0,6} | [:=：][*_\s]{0,6} )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{|[*_`$\"“”]|\\[,;! ]")
_SPACES = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"(?<!\b\w)[.!?;](?=\s|$)")  # "E. coli": a full stop after one letter ends no sentence

# What follows "the answer is" where nothing is stated yet.
_NOTHING = re.compile(
    r"(?:not|neither|never|unclear|unknown|uncertain|found|given|obtained|computed|calculated|determined|based|one\sof"
    r"|to\sbe|that|what|which|therefore\snot)\b",
    re.IGNORECASE,
)


class Statement(NamedTuple):
    """What stands after a cue, on one line and without markup. `how` names the cue: "answer-is" or "boxed"."""

    how: str
    text: str


def statements(text: str) -> Iterator[Statement]:
    """The statements of an answer in `text`, the last first."""
    for cue in reversed(deque(_CUE.finditer(text), maxlen=_MAX_STATEMENTS)):
        rest = text[cue.end() : cue.end() + _MAX_LENGTH]
        if cue["boxed"]:
            yield Statement("boxed", plain(_braced(rest)).rstrip("}"))
        else:
            yield Statement("answer-is", plain(rest.partition("\n")[0]))


def states_answer(text: str) -> bool:
    """Whether the step says its answer ("The answer is B"), readable or not. "The answer is not A" does not."""
    return any(
        any(c.isalnum() for c in statement.text) and not _NOTHING.match(statement.text.lstrip("( "))
        for statement in statements(text)
    )


def plain(text: str) -> str:
    """`text` without bold, quotes and LaTeX wrapping, white space as single spaces."""
    return _SPACES.sub(" ", _MARKUP.sub("", text)).strip()


def first_sentence(text: str) -> str:
    """`text` up to the first end of a sentence."""
    end = _SENTENCE_END.search(text)
    return text[: end.start()] if end else text


def last_line(text: str) -> str:
    """The last line that holds a letter or a digit, without markup, at most 400 characters of it; "" where there is
    none."""
    end = len(text)
    for _ in range(_MAX_STATEMENTS):
        start = text.rfind("\n", 0, end) + 1
        line = text[start:end]
        if any(c.isalnum() for c in line):
            return plain(line[-_MAX_LENGTH:])
        if start == 0:
            break
        end = start - 1
    return ""


def _braced(text: str) -> str:
    """`text` up to the brace that closes the one before it."""
    depth = 1
    for index, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[:index]
    return text
