"""A row of a file, and the ways to make a problem of it: with the names that a layout knows (`Row`), or with those that
the user gives (`FieldMap`, `load --map`). Which layouts there are says layouts.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..answers.date import gold_date
from ..answers.number import read_gold
from ..errors import BadRecord, UsageError
from ..records import Problem, Task, parse
from .options import gold_letter, options_of, shown, split_options
from .sources import stem

if TYPE_CHECKING:
    from ..stream.jsonl import Where


@dataclass(frozen=True)
class Row:
    """A row of a file: `obj`, and the place that it stands at."""

    obj: Mapping[str, Any]
    where: Where

    def id(self, field: str = "id") -> str:
        """The row's own id where it is a text; "FILE-NUMBER" for a number, "FILE-LINE" for none."""
        name = self.obj.get(field)
        if isinstance(name, str) and name and not (field != "id" and name.isdecimal()):
            return name
        if isinstance(name, bool) or not isinstance(name, int | str | None):
            raise BadRecord(f"`{field}` must be a text or a whole number, got {type(name).__name__}")
        return f"{stem(self.where.source)}-{self.where.line if name in (None, '') else name}"

    def dataset(self, *fields: str) -> str:
        """The first of these fields that is a text, or `dataset`; else the file's name, "unknown" for a pipe."""
        own = [self.obj.get(field) for field in (*fields, "dataset")]
        name = stem(self.where.source)
        return next((each for each in own if isinstance(each, str) and each), "unknown" if name == "stdin" else name)

    def text(self, field: str) -> str:
        """A field that must be a text with something in it."""
        value = look_up(self.obj, field)
        if not isinstance(value, str) or not value.strip():
            raise BadRecord(f"`{field}` must be a text that is not empty, got {shown(value)}")
        return value

    def problem(
        self, question: str, answer: str, options: dict[str, str] | None, *, used: Iterable[str], **more: Any
    ) -> Problem:
        """The problem; what is not among the keys `used` goes to `meta`. It is a choice where there are options, else
        a text; `more` says other fields."""
        rest = {key: value for key, value in self.obj.items() if key not in used}
        if not isinstance(rest.get("meta"), dict):
            rest.pop("meta", None)
        task = Task.CHOICE if options else Task.TEXT
        own = {"id": self.id(), "dataset": self.dataset(), "task": task}
        said = {"question": question, "answer": answer, "options": options}
        return parse(Problem, rest | own | said | more)


@dataclass(frozen=True)
class FieldMap:
    """Which field of a row is which of ours: `load --map question=FIELD --map options=FIELD --map answer=FIELD`.

    A FIELD is a key, a way into nested ones (`data.Question`, `options.0`), or for the options several, by commas.
    `base` is where an answer that is a position counts from.
    """

    fields: Mapping[str, str]
    base: int | None = None

    @classmethod
    def parse(cls, given: Sequence[str]) -> FieldMap:
        """Of texts such as "question=stem" and "answer=label:0". Raises UsageError."""
        fields: dict[str, str] = {}
        for text in given:
            name, _, field = text.partition("=")
            if name not in ("question", "options", "answer", "id", "dataset") or not field or name in fields:
                raise UsageError(
                    f"--map {text}: expected NAME=FIELD, each once",
                    hint="NAME is question, options, answer, id or dataset",
                )
            fields[name] = field
        missing = [name for name in ("question", "answer") if name not in fields]
        if missing:
            raise UsageError(f"--map names no {' and no '.join(missing)}", hint=f"--map {missing[0]}=FIELD")
        if fields["answer"].endswith((":0", ":1")):
            return cls(fields | {"answer": fields["answer"][:-2]}, int(fields["answer"][-1]))
        return cls(fields)

    def read(self, row: Row) -> Problem:
        """The problem of a row. An answer is a letter, the text of an option, a position, a number, or a phrase.

        Raises BadRecord, for a field that is not there with those that are.
        """
        named = {name: look_up(row.obj, self.fields[name]) for name in ("id", "dataset") if name in self.fields}
        row = Row({**row.obj, **named}, row.where)
        question, field = row.text(self.fields["question"]), self.fields["answer"]
        answer = look_up(row.obj, field)
        names = self.fields["options"].split(",") if "options" in self.fields else []
        listed = [look_up(row.obj, name) for name in names]
        options: dict[str, str] | None = None
        if any(listed):
            options = options_of(listed[0] if len(listed) == 1 else listed, self.fields["options"])
            answer = gold_letter(answer, options, field, base=self.base)
        elif isinstance(answer, str | int | float) and not isinstance(answer, bool):
            question, answer, options = with_lines(question, answer, field, self.base)
        else:
            raise BadRecord(f"`{field}` must be a text or a number, got {shown(answer)}")
        used = {*self.fields.values(), *names} - {"id", "dataset"}
        return row.problem(question, answer, options, task=task_of(answer, options), used=used)


def look_up(obj: Mapping[str, Any], field: str) -> Any:
    """A field by its key, or by keys with dots between them. Raises BadRecord with the keys that are there."""
    if field in obj:
        return obj[field]
    found: Any = obj
    for part in field.split("."):
        if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        elif isinstance(found, dict) and part in found:
            found = found[part]
        else:
            there = ", ".join(map(str, found)) if isinstance(found, dict) else shown(found)
            raise BadRecord(f"there is no field `{field}`: no {part} in {there or '(nothing)'}")
    return found


_LETTERS_ALONE = re.compile(r"\(?[A-Z](?:[\s,;/&、，和]{0,3}[A-Z]){0,25}[).]?")
_NUMBER = re.compile(r"[-+]?\d[\d,]{0,30}(?:\.\d{1,30})?(?P<unit>\s?[^\s\d-]\S{0,20})?")


def with_lines(
    question: str, gold: str | int | float, field: str, base: int | None = None
) -> tuple[str, str, dict[str, str] | None]:
    """A question, its answer, and the options in its last lines where the answer is one of them; else the question as
    it is, and no options. Raises BadRecord where the answer is a letter or a position, and the options cannot be read.
    """
    text = str(gold).strip()
    letters = _LETTERS_ALONE.fullmatch(text)
    letter = letters is not None and len(text.strip("().")) == 1
    must = base is not None or text.isdecimal() or letter
    try:
        stem, options = split_options(question)
        if options:
            return stem, gold_letter(gold, options, field, base=base), options
    except BadRecord:
        if must or letters:
            raise
    else:
        if letter or base is not None:
            last = question.strip().rpartition("\n")[2]
            raise BadRecord(
                f"the gold answer is {text!r}, but there are no options: neither a field of them, nor lines 'A. ...' "
                f"at the end of the question, which ends with {shown(last[-50:])}"
            )
    return question, text, None


def task_of(gold: str, options: Mapping[str, str] | None) -> Task:
    """A choice where there are options; a number where the answer is one, alone or with a unit that we know, or a
    date; else a text: "5-HT" and "17 hydroxyprogesterone" are names."""
    if options:
        return Task.CHOICE
    whole = _NUMBER.fullmatch(gold)
    number = read_gold(gold) if whole else None
    named = whole is None or number is None or (whole["unit"] is not None and number.unit is None)
    return Task.TEXT if named and gold_date(gold) is None else Task.NUMBER
