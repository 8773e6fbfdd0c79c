"""Where a written answer states its answer: "The answer is X", "Final answer: X", "\\boxed{X}", "<answer>X</answer>",
"答案是X", "故选X". No reading of X, no judging.

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
    (?P<boxed> \\f?boxed\s?\{ )
    |
    (?P<tag> <answer(?:\s[^<>\n]{0,40})?> )
    |
    (?P<chinese>
        (?<![不非未]) (?:
            (?:答案|正确选项) [】\]]? \s? (?:
                (?:应该|应当)?(?:是|为|选) | 应[是为选] | (?=不[是为选]|并非|[:：]|[(（【\[]?[A-ZＡ-Ｚ])
            )
            |
            (?:故|因此|所以|因而|综上所述|综上|本题|此题|我|应该|应当|应) [，,]? (?:本题|此题|正确)?
            (?:应该|应当|应)? 选 (?!项)
            | (?<![\u3400-\u9fff]) 选 (?=择?[:：\s]{0,2}[(（【\[]?[A-ZＡ-Ｚ](?!项))
        ) (?:择|项)? [：:\s]{0,4}
    )
    |
    \b (?: answers? | ans(?=\s?[:.=：]) | (?:correct|best|right|final|my)\s(?:option|choice|selection) )
    (?: \s(?:choice|option)\b )?
    (?: \s(?:to|for|of|in|here)\b [^.:\n]{0,60}? )?
    ["*_)\s]{0,4}
    (?:
        \b(?:is|are|was|would\sbe|should\sbe|must\sbe|will\sbe|has\sto\sbe)\b [*_:\s]{0,6}
        | [:=：][*_\s]{0,6} | (?<=\bans)\.\s{0,3}
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{|[*_`$\"“”‘]|\\[,;! ]|</?(?:b|i|em|strong)>")
_SPACES = re.compile(r"\s+")
_GROUPED = re.compile(r"(?<=\d)(?:[\u00a0\u2009\u202f]|\{,\}|\\,)(?=\d{3}(?!\d))")
_SENTENCE_END = re.compile(r"(?<!\b\w)[.!?;](?=\s|$)|[。！？；]")  # "E. coli": a full stop after one letter ends none
_TAG_END = re.compile(r"</?answer", re.IGNORECASE)

# Full-width forms of Chinese text, as ASCII. Those that end a sentence stay: ASCII ones need a space after them.
_NARROW = {0xFF00 + code - 0x20: code for code in (*range(0x30, 0x3A), *range(0x41, 0x5B), *range(0x61, 0x7B))} | {
    ord(wide): narrow for wide, narrow in zip("（）：，．【】％－＝＋／", "():,.[]%-=+/", strict=True)
}

# What follows "the answer is" where nothing is stated yet.
_NOTHING = re.compile(
    r"(?:not|neither|never|unclear|unknown|uncertain|found|given|obtained|computed|calculated|determined|based|one\sof"
    r"|to\sbe|that|what|which|therefore\snot)\b|不[是为选]|并非",
    re.IGNORECASE,
)

_THOUGHT_BEGINS, _THOUGHT_ENDS = "<think>", "</think>"


class Statement(NamedTuple):
    """What stands after a cue, without markup. `how` names the cue: "answer-is", "boxed", "tag" or "chinese"."""

    how: str
    text: str


def statements(text: str) -> Iterator[Statement]:
    """The statements of an answer in `text`, the last first."""
    for cue in reversed(deque(_CUE.finditer(text), maxlen=_MAX_STATEMENTS)):
        rest = text[cue.end() : cue.end() + _MAX_LENGTH]
        if cue["boxed"]:
            yield Statement("boxed", plain(_braced(rest)).rstrip("}"))
        elif cue["tag"]:
            end = _TAG_END.search(rest)
            yield Statement("tag", plain(rest[: end.start()] if end else rest))
        else:
            line = plain(rest.partition("\n")[0])
            yield Statement("chinese" if cue["chinese"] else "answer-is", line)


def states_answer(text: str) -> bool:
    """Whether the step says its answer ("The answer is B"), readable or not. "The answer is not A" does not."""
    return any(
        any(c.isalnum() for c in statement.text) and not _NOTHING.match(statement.text.lstrip("( "))
        for statement in statements(text)
    )


def after_thought(text: str, *, strict: bool) -> str:
    """`text` without the model's thought: what stands after the last `</think>`. A thought that is cut off (no
    `</think>`) is read as it is, under `strict` left out."""
    _, end, rest = text.rpartition(_THOUGHT_ENDS)
    if end:
        return rest
    return text.partition(_THOUGHT_BEGINS)[0] if strict else text


def plain(text: str) -> str:
    """`text` without bold, quotes and LaTeX wrapping, full-width forms as ASCII, white space as single spaces. Thin
    spaces that group digits become commas."""
    text = _GROUPED.sub(",", text)
    return _SPACES.sub(" ", _MARKUP.sub("", text).translate(_NARROW)).strip()


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
