"""Options in the spellings that public files have: lists, objects, lines of a question; and which one is the gold one.

What can be read in two ways is refused, with the line: a wrong guess is a wrong gold answer that nobody sees.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from string import ascii_uppercase as LETTERS
from typing import Any, NamedTuple

import orjson

from ..answers.choice import gold_letters
from ..errors import BadRecord

__all__ = ["LETTERS", "gold_letter", "options_of", "shown", "split_options"]

_BULLET = re.compile(r"(?:[-–—•·]|\*(?=\s))\s*")
_EMPHASIS = re.compile(r"(\*\*|__|\*|_)(.+?)\1(.*)")
_LETTER = "[A-Za-zＡ-Ｚａ-ｚ]"
_MARK = re.compile(
    rf"(?:option\s|选项)?\s*(?:(?P<open>[(\[（【])(?P<inside>{_LETTER})(?P<end>[)\]）】])[.:：、．]?"
    rf"|(?P<letter>{_LETTER})(?P<close>[.):：、．）\]]{{1,2}}|\s[-–—](?=\s)|(?P<space>\s(?=\S))))\s*(?P<text>.*)",
    re.IGNORECASE,
)
_PLACE_FOR_ANSWER = re.compile(r"\W*(?:the\s)?(?:correct\s)?answer\s?(?:is)?\W*", re.IGNORECASE)
_GIVEN_ANSWER = re.compile(r"\W*(?:the\s)?(?:correct\s)?answer(?:\sis\s|\s?:)\W*[A-Z]\W*", re.IGNORECASE)


class _Mark(NamedTuple):
    """A line that may begin an option: its letter as A to Z, how it is written, and the rest of the line."""

    letter: str
    style: str
    text: str


_List = tuple[list[int], int | None]
"""The lines at which the options of a list begin, and the line that breaks it, if one does."""


def split_options(question: str, *, spaced: bool = False) -> tuple[str, dict[str, str] | None]:
    """The stem of a question and the last options in it, one a line, in order from A, two or more.

    An option is marked "A.", "A)", "(A)", "A:", "A、", "A -" or the like, upper or lower case, full-width or not, after
    a bullet or not, in bold or not, but all alike; with `spaced` also "A text". A line between two options goes on the
    one before it, and so does an indented line after the last. Any other text after the options is the end of the
    stem; "Answer:" and stray quotes are left out. Empty last options are none. Without options: the question as it is
    and None. Raises BadRecord, with the line, where they could be read in two ways: a letter missing or twice, two
    styles, an empty option among others, the gold answer after them.
    """
    lines = question.splitlines()
    marks = {number: mark for number, line in enumerate(lines) if (mark := _mark(line, spaced))}
    lists = [_list(lines, marks, start) for start, mark in marks.items() if mark.letter == "A"]
    lists = [each for each in lists if len(each[0]) > 1 or _looks_broken(each, marks)]
    if not lists:
        return question, None
    run, broken = max(lists, key=lambda each: each[1] or each[0][-1])
    if broken is not None:
        raise _refused(broken, f"{lines[broken].strip()!r} is not the next option in the style of A")
    before = next((n for n in range(run[0] - 1, -1, -1) if lines[n].strip()), None)
    if any(before in starts for starts, _ in lists):
        raise _refused(run[0], "two lists of options, one in the other")
    options, tail = _texts(lines, marks, run)
    stem = "\n".join(lines[: run[0]]).rstrip()
    return "\n".join([stem, *tail] if stem else tail), options


def _mark(line: str, spaced: bool) -> _Mark | None:
    line = _BULLET.sub("", line.strip(), count=1) if _BULLET.match(line.strip()) else line.strip()
    bold = _EMPHASIS.match(line)
    found = _MARK.match(bold[2] + bold[3] if bold else line)
    if found is None or (found["space"] and not spaced):
        return None
    letter = unicodedata.normalize("NFKC", found["inside"] or found["letter"])
    style = unicodedata.normalize("NFKC", (found["open"] or "") + (found["end"] or found["close"].strip()))
    text = found["text"].strip()
    bold = _EMPHASIS.fullmatch(text)
    return _Mark(letter.upper(), style + ("a" if letter.islower() else "A"), bold[2] if bold and not bold[3] else text)


def _list(lines: Sequence[str], marks: Mapping[int, _Mark], start: int) -> _List:
    """The list of options that begins at `start`. Marks of another style that begin with an A are a list within it."""
    style, inner = marks[start].style, None
    starts, filled = [start], bool(marks[start].text)
    for number in range(start + 1, len(lines)):
        mark = marks.get(number)
        expected = (LETTERS + "?")[len(starts)]
        if not lines[number].strip():
            continue
        if mark and (mark.letter, mark.style) == (expected, style):
            starts.append(number)
            filled = bool(mark.text)
        elif not filled:
            filled = True  # "A." alone: this is its text, whatever it looks like
        elif mark and mark.letter == "A" and mark.style != style:
            inner = mark.style
        elif mark and mark.style != inner and (mark.style == style or mark.letter == expected):
            return starts, number
    return starts, None


def _looks_broken(each: _List, marks: Mapping[int, _Mark]) -> bool:
    """Whether an A alone looks like an option: a B of another style breaks its list, or a C that follows at once."""
    [start], broken = each
    letter = marks[broken].letter if broken is not None else "A"
    return letter == "B" or (letter != "A" and broken == start + 1)


def _texts(lines: Sequence[str], marks: Mapping[int, _Mark], run: list[int]) -> tuple[dict[str, str], list[str]]:
    """The options of a list by their letters, and the lines after it that are none of them."""
    parts = [[marks[start].text] if marks[start].text else [] for start in run]
    alone = not any(parts)  # marks on lines of their own
    loose = False  # whether some option goes on in a line that is not indented
    for part, (start, end) in zip(parts, pairwise(run), strict=False):
        more = [line for line in lines[start + 1 : end] if _says_something(line)]
        loose = loose or any(_indent(line) <= _indent(lines[start]) for line in more[0 if part else 1 :])
        part += [line.strip() for line in more]
    tail: list[str] = []
    for number in range(run[-1] + 1, len(lines)):
        line = lines[number]
        if not _says_something(line):
            continue
        if _GIVEN_ANSWER.fullmatch(line):
            raise _refused(number, "the answer stands after the options")
        if not tail and (_indent(line) > _indent(lines[run[-1]]) or (alone and not parts[-1])):
            parts[-1].append(line.strip())
        elif not tail and (not parts[-1] or (loose and lines[number - 1].strip())):
            raise _refused(number, f"is {line.strip()!r} the end of the last option, or what follows on it?")
        else:
            tail.append(line.strip())
    while parts and not parts[-1]:
        parts.pop()
    if [] in parts or len(parts) < 2:
        raise _refused(run[parts.index([]) if [] in parts else 0], "an option without a text")
    tail = [line for line in tail if not _PLACE_FOR_ANSWER.fullmatch(line)]
    return {letter: " ".join(part) for letter, part in zip(LETTERS, parts, strict=False)}, tail


def _says_something(line: str) -> bool:
    return any(char.isalnum() for char in line)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _refused(index: int, why: str) -> BadRecord:
    return BadRecord(f"line {index + 1} of the question: {why}")


def options_of(value: object, field: str = "options") -> dict[str, str]:
    """Options as {"A": text}: of an object, a list of texts or of {key, value}, JSON of these, or a text with one
    option a line.

    Empty ones are left out; the others keep their letters. Marks that all texts of a list carry ("A. x") are taken off.
    Raises BadRecord for fewer than two options, and for names that are no letters.
    """
    if isinstance(value, str):
        with contextlib.suppress(orjson.JSONDecodeError):  # a cell of a table
            if isinstance(inner := orjson.loads(value), dict | list):
                return options_of(inner, field)
    found: dict[str, Any] = {}
    match value:
        case str():
            stem, lines = split_options(value, spaced=True)
            found = lines if lines and not stem else {}
        case [{"key": _, "value": _}, *_]:
            found = {item["key"]: item["value"] for item in value if isinstance(item, dict) and len(item) > 1}
        case list() if len(value) <= len(LETTERS):
            found = dict(zip(LETTERS, map(_plain, value), strict=False))
            marks = {letter: _mark(text, False) for letter, text in found.items() if text}
            if all(mark and mark.letter == letter and mark.text for letter, mark in marks.items()):
                found |= {letter: mark.text for letter, mark in marks.items() if mark}
        case dict():
            found = value
    options = {str(key).strip().upper(): _plain(text) for key, text in found.items() if _plain(text)}
    if len(options) < 2:
        raise BadRecord(f"fewer than two options in `{field}`, or more than letters, got {shown(value)}")
    if strange := [key for key in options if len(key) != 1 or key not in LETTERS]:
        raise BadRecord(f"options must be named by the letters A to Z, found {', '.join(strange[:5])}")
    return options


def _plain(text: Any) -> str:
    return "" if text is None or text == "N/A" else str(text).strip()


def gold_letter(value: object, options: dict[str, str], field: str, *, base: int | None = None) -> str:
    """The letters of the gold option: `value` is letters ("B", "ABD", ["A", "B"]), the text of an option, both, or a
    position that counts from `base`. Raises BadRecord where it is none of these, and for a position without `base`: one
    off is a wrong answer in every row."""
    if isinstance(value, list):
        value = "".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of a table with gaps
    if value is None or value == "" or isinstance(value, bool) or not isinstance(value, int | str):
        raise BadRecord(f"no gold answer in `{field}`, got {shown(value)}")
    text = str(value).strip()
    if text.isdecimal() and base is not None:
        position = int(text) - base if len(text) < 4 else -1
        if 0 <= position < len(LETTERS) and LETTERS[position] in options:
            return LETTERS[position]
        raise BadRecord(f"`{field}` is {text}, no position among the options {', '.join(options)} (from {base})")
    if letters := gold_letters(text, options):
        return letters
    mark = _mark(text, spaced=True)
    for letter, option in options.items():
        said = [text if isinstance(value, str) else "", mark.text if mark and mark.letter == letter else ""]
        if option.casefold() in map(str.casefold, said):
            return letter
    if text.isdecimal():
        raise BadRecord(f"`{field}` is the number {text}: does it count the options from 0 or from 1?")
    raise BadRecord(f"the gold answer {shown(text)} in `{field}` is not one of the options {', '.join(options)}")


def shown(value: object) -> str:
    """A value as a message shows it: not at length."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
