"""Multiple choice: which letters an answer names. One letter, or a set of letters in any order ("ACD", "B and D").

Letter or text of an option count the same; where both stand ("B. Metoprolol") the letter decides. A letter within a
word is none, "a" before a noun is an article, and "not A" is not A. Chinese writing has no spaces: a Chinese character
beside a letter makes no word with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .statements import first_sentence, last_line, plain, statements

_DEFAULT_LETTERS = "ABCDEFGHIJ"

# What may stand between "the answer is" and the letter.
_LEAD = re.compile(
    r"(?:[\s(\[{:>#'-]|选项|选择|应该|选|项|是|为"
    r"|(?:the|options?|choices?|letters?|answers?|most\slikely|likely|probably|definitely|clearly|therefore|thus"
    r"|indeed|both|either|simply|actually|certainly|correct|all\sof)\b){0,20}",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"(?:not|neither|never|unlikely|anything\sbut)\b|不[是为选]?|并非", re.IGNORECASE)
_ANYTHING_BUT = re.compile(r"anything\sbut\b", re.IGNORECASE)
_NEGATED = re.compile(
    r"\b(?:not|no|neither|nor|never|without|except|rather\sthan|instead\sof|unlike)\b|不[是为选]|并非", re.IGNORECASE
)
_BUT = re.compile(r"\b(?:but|rather)\b(?:\sis\b)?|而[是为选]", re.IGNORECASE)
_BETWEEN = re.compile(
    r"[)\].}]{0,3}\s?(?:,\s?(?:and|or)\b|,|;|/|&|\+|、|；|和|与|及|或者|或是|或|and\b|or\b|as\swell\sas\b)[\s(\[]{0,3}",
    re.IGNORECASE,
)
_WORD = r"[^\W\u3400-\u9fff]"  # a letter, digit or underscore that is no Chinese character
_SET = re.compile(rf"[A-Z]{{2,26}}(?!{_WORD}|[-'’]\w)")
_SPACED = re.compile(r"[A-Z](?:\s[A-Z]){1,25}(?=\s?(?:$|[.,;)\]}。，；]))")
_GOLD_SEPARATORS = re.compile(r"[\s,;/&+、，；和]{1,4}|\band\b")

# After a letter: an upper case one may be followed by a word ("A because"), a hyphenated word is one word
# ("C-reactive").
_AFTER_UPPER = re.compile(rf"(?!{_WORD}|[-'’]\w)")
_AFTER_LOWER = re.compile(r"(?=\s?(?:$|[.,:;)\]}!?/&+'。，；、])|\s(?:and|or|because|since|is|as)\b)")
_AFTER_LATER = re.compile(
    r"(?=\s?(?:$|[.,:;)\]}!?/&+。，；、]|[\u3400-\u9fff])|\s(?:and|or|because|since|are|as|only|together|[-–—])(?:\s|$)"
    r"|\sis\s(?:also|too|correct|right|true)\b)"
)
# "The answer is B, C is wrong", "The answer: A is wrong, so B": said of a letter that is not chosen.
_DISMISSED = re.compile(
    r"[)\].]?\s?(?:(?:is|are|was|were|seems|can\sbe|could\sbe)\s(?:(?:also|clearly|therefore)\s)?(?:not|wrong|incorrect|false"
    r"|unlikely|excluded|eliminated|less|ruled\sout|out)\b|(?:isn['’]t|cannot|can['’]t)\b"
    r"|(?:项|选项)?(?:是)?(?:错|不正确|不对|不是))",
    re.IGNORECASE,
)
_PRONOUN = re.compile(r"I(?:['’]|\s(?:think|believe|am|would|will|have|do|can|cannot|guess|say)\b)")
_AFTER_TEXT = re.compile(r"(?=[和与及或])|(?!\w|[-.,/]\w)")  # "糖尿病和肺炎": no space says where a word ends

_IS_CORRECT = re.compile(
    r"(?:\b(?P<option>option|choice|answer)\s)?\(?\b(?P<letter>[A-Z])\b\)?\s(?:is|would\sbe|seems)\s(?:therefore\s|thus\s)?"
    r"(?:the\s)?(?:most\s(?:likely|appropriate)\s|only\s)?(?:correct|right|best|answer)\b"
    r"|(?<![A-Za-z])(?P<chinese>[A-Z])(?:选项|项)?(?:是)?(?:正确|最佳|对的)"
)
_TRAILING = re.compile(
    r"(?:\b(?i:so|therefore|thus|hence|option|choice|pick|choose|chose|select|with|it\sis|it['’]s|that\sis)\b,?"
    r"|\b(?:diagnosis|treatment|cause|drug|agent|organism|finding|test|step|management|statement)\sis(?:\sthus|\stherefore)?"
    r"|->|→|=>|=|:)\s?\(?(?P<letter>[A-Z])\)?[.!]?$"
)
_APPOSITION = re.compile(r"(?:,\s|\s?[(\[])(?P<letter>[A-Z])[)\]]?$")
_BRACKETED = re.compile(r"\s?[(\[](?P<letter>[A-Z])[)\]][.!]?$")


def gold_letters(answer: str, options: Mapping[str, str] | None) -> str | None:
    """The gold answer as sorted letters ("DB", "B, D" -> "BD"); None where it is no set of letters of `options`."""
    joined = _GOLD_SEPARATORS.sub("", answer.strip().strip("().")).upper()
    allowed = options if options is not None else _DEFAULT_LETTERS
    if not joined or len(set(joined)) != len(joined) or any(letter not in allowed for letter in joined):
        return None
    return "".join(sorted(joined))


def read_choice(text: str, options: Mapping[str, str] | None, *, strict: bool = False) -> tuple[str, str] | None:
    """The letters that `text` chooses, sorted, and how they were read; None where it chooses nothing.

    The last readable statement wins. Under `strict` that is all, and the statement must begin with the letter or the
    option's text. Else, where there is no statement, the last line may be a letter, "B. text", an option's text alone,
    or end with "so B." or "... Metoprolol (B)."; failing that, the last "B is correct" counts.
    """
    table = {letter: " ".join(plain(option).rstrip(". ").split()) for letter, option in (options or {}).items()}
    if not table:
        table = dict.fromkeys(_DEFAULT_LETTERS, "")
    for statement in statements(text):
        letters = _read(statement.text, table)
        if letters is None and not strict:
            letters = _contained(statement.text, table) or _apposed(statement.text, table)
        if letters:
            return letters, statement.how
    if strict:
        return None
    line = last_line(text)
    letters = _alone(line, table)
    if letters:
        return letters, "letter"
    for letter, option in table.items():
        if option and line.rstrip(". ").casefold() == option.casefold():
            return letter, "option-text"
    tail = _TRAILING.search(line[-80:])
    if tail and tail["letter"] in table:
        return tail["letter"], "trailing-letter"
    tail = _BRACKETED.search(line[-80:])
    if tail and tail["letter"] in table and _ends_with(line[: tail.start() - len(line[-80:])], table[tail["letter"]]):
        return tail["letter"], "trailing-letter"
    last = None
    for last in _IS_CORRECT.finditer(text):  # noqa: B007 - only the last one is wanted
        pass
    if last is None:
        return None
    letter = last["letter"] or last["chinese"]
    if letter in table and (last["option"] or last["chinese"] or letter not in "AI" or "(" in last.group()):
        return letter, "is-correct"
    return None


def _apposed(statement: str, table: Mapping[str, str]) -> str | None:
    """The letter set off at the end of the statement's first sentence: "the beta blocker (B)", "a beta blocker, B"."""
    sentence = first_sentence(statement).rstrip(". ")
    found = _APPOSITION.search(sentence[-80:])
    return found["letter"] if found and found["letter"] in table and not _NEGATED.search(sentence) else None


def _ends_with(line: str, option: str) -> bool:
    return bool(option) and line.casefold().endswith(option.casefold())


def _read(statement: str, table: Mapping[str, str]) -> str | None:
    """The letters at the head of a statement: "B", "(B) Metoprolol", "B and D", "not A but B"."""
    exact = _option_at(statement, 0, table)
    position = 0 if exact else _end(_LEAD.match(statement))
    if not exact and _NEGATION.match(statement, position):
        turn = None if _ANYTHING_BUT.match(statement, position) else _BUT.search(statement, position)
        return _read(statement[turn.end() :], table) if turn else None
    found: list[str] = []
    while len(found) <= len(table):
        item = _item(statement, position, table, first=not found)
        if item is None:
            break
        letters, position = item
        found.extend(letters)
        between = _BETWEEN.match(statement, position)
        if not between:
            break
        position = between.end()
    return "".join(sorted(set(found))) or None


def _item(text: str, position: int, table: Mapping[str, str], *, first: bool) -> tuple[str, int] | None:
    """The letter or letters named at `position` and where they end; None where no option is named."""
    option = _option_at(text, position, table)
    if option is not None:
        return option, position + len(table[option])
    spaced = _SPACED.match(text, position)
    if spaced:
        letters = spaced.group().replace(" ", "")
        if len(set(letters)) == len(letters) and all(c in table for c in letters):
            return letters, spaced.end()
    letter = text[position : position + 1]
    after = position + 1
    if letter in table and letter and _DISMISSED.match(text, after):
        return None
    if letter in table and letter and _AFTER_UPPER.match(text, after) and not _PRONOUN.match(text, position):
        if first or _AFTER_LATER.match(text, after) or _own_text(text, after, letter, table) > after:
            return letter, _own_text(text, after, letter, table)
        return None
    upper = letter.upper()
    if letter.islower() and upper in table and _AFTER_LOWER.match(text, after):
        return upper, _own_text(text, after, upper, table)
    joined = _SET.match(text, position)
    if joined and len(set(joined.group())) == len(joined.group()) and all(c in table for c in joined.group()):
        return joined.group(), joined.end()
    return None


def _option_at(text: str, position: int, table: Mapping[str, str]) -> str | None:
    """The option whose text stands at `position` in whole words, the longest one. A text that is itself
    a letter of the table ("A" among blood groups) is left to the letters."""
    best: str | None = None
    for letter, option in table.items():
        size = len(option)
        if (
            size > 0
            and option not in table
            and (best is None or size > len(table[best]))
            and text[position : position + size].casefold() == option.casefold()
            and _AFTER_TEXT.match(text, position + size)
        ):
            best = letter
    return best


def _own_text(text: str, position: int, letter: str, table: Mapping[str, str]) -> int:
    """Where the option's own text ends after its letter ("A. Aspirin and ..."), or `position` if it does not follow."""
    start = position
    while start < len(text) and text[start] in ").]: -–—":
        start += 1
    return start + len(table[letter]) if _option_at(text, start, table) == letter else position


def _contained(statement: str, table: Mapping[str, str]) -> str | None:
    """The one option whose text stands in the first sentence of the statement in whole words, with no negation
    before it."""
    sentence = first_sentence(statement)
    found: list[tuple[int, int, str]] = []
    lowered = sentence.casefold()
    for letter, option in table.items():
        if len(option) < 2:
            continue
        start = lowered.find(option.casefold())
        if (
            start >= 0
            and (start == 0 or not lowered[start - 1].isalnum())
            and _AFTER_TEXT.match(lowered, start + len(option))
        ):
            found.append((start, start + len(option), letter))
    # "no change" also holds "no": an option within a longer one that was found does not count.
    whole = [
        a
        for a in found
        if not any(b is not a and b[0] <= a[0] and a[1] <= b[1] and b[2] != a[2] and b[:2] != a[:2] for b in found)
    ]
    if len(whole) != 1 or _NEGATED.search(sentence[: whole[0][0]]):
        return None
    return whole[0][2]


def _alone(line: str, table: Mapping[str, str]) -> str | None:
    """The letters of a line that holds nothing else: "B", "(B).", "B. Metoprolol", "A, C and D", "Option B"."""
    position = _end(_LEAD.match(line))
    rest = line[position:]
    # Without a cue before it, a letter needs a mark after it, or the end: "A patient of 40" names no option.
    if not re.match(
        r"(?:[A-Za-z]|[A-Z]{2,26})\s?(?:$|[.)\]:,;/&+、。，；和与及]|and\b|or\b|[-–—]\s)|[A-Z](?:\s[A-Z]){1,25}$", rest
    ):
        return None
    if rest[0].islower() and len(rest.rstrip(".) ")) > 1:
        return None
    if re.match(r"[A-Z]\.\s?\S", rest) and _option_at(rest, 0, table):
        return _option_at(rest, 0, table)  # "E. coli", an option of its own
    return _read(rest, table)


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0
