"""What the layouts share: ids and data set names from file names, options in their many spellings, gold letters."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ..answers.choice import gold_letters
from ..errors import BadRecord

if TYPE_CHECKING:
    from ..stream.jsonl import Where

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_OPTION = re.compile(r"\s{0,8}[(\[（]?([A-Z])[.):\]、．：）]\s{0,8}(?=\S)")
_LETTER_ALONE = re.compile(r"\s{0,8}([A-Z])\s{1,8}(?=\S)")
_ANSWER_PROMPT = re.compile(r"\s*(?:the\s)?answer\s?(?:is)?\s?:?\s*$", re.IGNORECASE)
_MARK = re.compile(r"\s{0,8}[(\[（]?([A-Z])(?:[.):\]、．：）]|\s)\s{0,8}")
_SUFFIXES = {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz", ".zst"}


def record_id(obj: dict[str, Any], where: Where, field: str = "id") -> str:
    """The record's own id where it is a text; "STEM-NUMBER" for a number, "STEM-LINE" for none. Raises BadRecord."""
    name = obj.get(field)
    if isinstance(name, str) and name:
        return name
    if isinstance(name, int) and not isinstance(name, bool):
        return f"{stem(where)}-{name}"
    if name is None or name == "":
        return f"{stem(where)}-{where.line}"
    raise BadRecord(f"`{field}` must be a text or a whole number, got {type(name).__name__}")


def dataset_name(where: Where) -> str:
    """What a record without a data set belongs to: its file's name, "unknown" for a pipe."""
    name = stem(where)
    return "unknown" if name == "stdin" else name


def stem(where: Where) -> str:
    """The file's name without folder and endings; the last part of a hub name; "stdin" for a pipe."""
    source = where.source
    if source.startswith("hf:"):
        return PurePath(source.split(":")[1]).name or "hf"
    path = PurePath(source)
    while path.suffix in _SUFFIXES:
        path = path.with_suffix("")
    return "stdin" if path.name in {"-", "<stdin>", "stdin", ""} else path.name


def text_of(obj: dict[str, Any], field: str, name: str) -> str:
    """A field that must be a text with something in it. Raises BadRecord, with the id."""
    value = obj.get(field)
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(f"{name}: `{field}` must be a text that is not empty, got {_shown(value)}")
    return value


def options_of(value: object, name: str, field: str = "options") -> dict[str, str]:
    """Options in any spelling that public files have, as {"A": text}: an object, a list of texts, a list of
    {key, value}, a text with one option a line ("A. x", "A x"). Marks that repeat the letter ("A. x" in a list) are
    taken off. Raises BadRecord where there are none."""
    found: dict[str, str] = {}
    if isinstance(value, dict):
        for key, text in value.items():
            if text is not None and str(text).strip():
                found[str(key).strip().upper()] = str(text).strip()
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value[: len(LETTERS)]):
            if isinstance(item, dict) and {"key", "value"} <= item.keys():
                found[str(item["key"]).strip().upper()] = str(item["value"]).strip()
            elif isinstance(item, (str, int, float)):
                text = str(item).strip()
                mark = _OPTION.match(text)
                found[LETTERS[index]] = text[mark.end() :] if mark and mark[1] == LETTERS[index] else text
        if len(value) > len(LETTERS):
            raise BadRecord(f"{name}: {len(value)} options, more than letters")
    elif isinstance(value, str):
        found = _lines(value)
    if not found:
        raise BadRecord(f"{name}: no options in `{field}`, got {_shown(value)}")
    strange = [key for key in found if len(key) != 1 or key not in LETTERS]
    if strange:
        raise BadRecord(f"{name}: options must be named by the letters A to Z, found {', '.join(strange[:5])}")
    return found


def letter_of(value: object, options: dict[str, str], name: str, field: str, *, base: int = 0) -> str:
    """The gold letters that `value` means: letters, a position that counts from `base`, or the text of an option.
    Raises BadRecord where no option answers to it."""
    if isinstance(value, bool) or value is None:
        raise BadRecord(f"{name}: no gold answer in `{field}`, got {_shown(value)}")
    if isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal() and len(value.strip()) < 4):
        position = int(value) - base
        letters = list(options)
        if 0 <= position < len(letters):
            return letters[position]
        raise BadRecord(f"{name}: the gold answer {value!r} in `{field}` is no position among {len(options)} options")
    if isinstance(value, list):
        value = "".join(str(item) for item in value)
    if isinstance(value, str):
        letters_found = gold_letters(value, options)
        if letters_found:
            return letters_found
        wanted = value.strip().casefold()
        for letter, text in options.items():
            if text.casefold() == wanted:
                return letter
        mark = _MARK.match(value)
        if mark and mark[1] in options and value[mark.end() :].strip().casefold() == options[mark[1]].casefold():
            return mark[1]
    raise BadRecord(f"{name}: the gold answer {value!r} in `{field}` is not one of the options {', '.join(options)}")


def split_options(question: str) -> tuple[str, dict[str, str] | None]:
    """The stem of a question and the options of its last lines ("A. ...", "(B) ...", in order from A, two or more).

    A line between two options continues the one before it. Lines after the last option that hold no letter or digit
    (a stray quote), or only "Answer:", are dropped. Without options, the question as it is and None.
    """
    lines = question.rstrip().split("\n")
    while lines and (not any(c.isalnum() for c in lines[-1]) or _ANSWER_PROMPT.fullmatch(lines[-1])):
        lines.pop()
    marks = [_OPTION.match(line) for line in lines]
    starts = [index for index, mark in enumerate(marks) if mark and mark[1] == "A"]
    if not starts:
        return question, None
    options: dict[str, str] = {}
    letter = "A"
    for line, mark in zip(lines[starts[-1] :], marks[starts[-1] :], strict=True):
        expected = chr(ord("A") + len(options))
        if mark and mark[1] == expected:
            letter = expected
            options[letter] = line[mark.end() :].strip()
        elif line.strip():
            options[letter] += f" {line.strip()}"
    if len(options) < 2:
        return question, None
    return "\n".join(lines[: starts[-1]]).rstrip(), options


def _lines(text: str) -> dict[str, str]:
    """One option a line; the mark after the letter may be a space. A line without the next letter goes on the one
    before."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        mark = _OPTION.match(line) or _LETTER_ALONE.match(line)
        if mark and len(found) < len(LETTERS) and mark[1] == LETTERS[len(found)]:
            found[mark[1]] = line[mark.end() :].strip()
        elif found and line.strip():
            last = LETTERS[len(found) - 1]
            found[last] = f"{found[last]} {line.strip()}"
    return found


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
