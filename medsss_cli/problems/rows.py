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
        if name is None or name == "":
            return f"{stem(self.where.source)}-{self.where.line}"
        if isinstance(name, int | str) and not isinstance(name, bool):
            return f"{stem(self.where.source)}-{name}"
        raise BadRecord(f"`{field}` must be a text or a whole number, got {type(name).__name__}")

    def text(self, field: str) -> str:
        """A field that must be a text with something in it."""
        value = self.obj.get(field)
        if not isinstance(value, str) or not value.strip():
            raise BadRecord(f"`{field}` must be a text that is not empty, got {shown(value)}")
        return value

    def problem(
        self,
        question: str,
        answer: str,
        options: dict[str, str] | None = None,
        *,
        used: Iterable[str],
        id: str | None = None,
        dataset: object = None,
        task: Task | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Problem:
        """The problem; what is not among the keys `used` goes to `meta`, and `extra` too. Without `task` it is a choice
        where there are options, else a text. Without a data set of its own it is of the file's."""
        rest = {key: value for key, value in self.obj.items() if key not in {"id", "dataset", "meta", *used}}
        meta = self.obj.get("meta")
        name = next((each for each in (dataset, self.obj.get("dataset")) if isinstance(each, str) and each), None)
        return parse(
            Problem,
            {
                "id": self.id() if id is None else id,
                "question": question,
                "answer": answer,
                "options": options,
                "dataset": name or dataset_name(self.where),
                "task": task or (Task.CHOICE if options else Task.TEXT),
                "meta": rest | dict(extra or {}) | (meta if isinstance(meta, dict) else {}),
            },
        )


def dataset_name(where: Where) -> str:
    """What a record without a data set belongs to: its file's name, "unknown" for a pipe."""
    name = stem(where.source)
    return "unknown" if name == "stdin" else name


@dataclass(frozen=True)
class FieldMap:
    """Which field of a row is which of ours: `load --map question=FIELD --map options=FIELD --map answer=FIELD`.

    A FIELD is a key, a way into nested ones (`data.Question`, `options.0`), or for the options several, by commas.
    `base` is where an answer that is a position counts from.
    """

    fields: Mapping[str, tuple[str, ...]]
    base: int | None = None

    @classmethod
    def parse(cls, given: Sequence[str]) -> FieldMap:
        """Of texts such as "question=stem" and "answer=label:0". Raises UsageError."""
        fields: dict[str, tuple[str, ...]] = {}
        base = None
        for text in given:
            name, _, field = text.partition("=")
            if name not in ("question", "options", "answer", "id", "dataset") or not field or name in fields:
                raise UsageError(
                    f"--map {text}: expected NAME=FIELD, each once",
                    hint="NAME is question, options, answer, id or dataset",
                )
            if name == "answer" and field.endswith((":0", ":1")):
                field, base = field[:-2], int(field[-1])
            fields[name] = tuple(field.split(",")) if name == "options" else (field,)
        missing = [name for name in ("question", "answer") if name not in fields]
        if missing:
            raise UsageError(f"--map names no {' and no '.join(missing)}", hint=f"--map {missing[0]}=FIELD")
        return cls(fields, base)

    def read(self, obj: Mapping[str, Any], where: Where) -> Problem:
        """The problem of a row. An answer is a letter, the text of an option, a position, a number, or a phrase.

        Raises BadRecord, for a field that is not there with those that are.
        """
        found = {name: [_look_up(obj, field) for field in fields] for name, fields in self.fields.items()}
        row = Row({**obj, "id": found["id"][0]} if "id" in found else obj, where)
        question, answer = found["question"][0], found["answer"][0]
        if not isinstance(question, str) or not question.strip():
            raise BadRecord(f"`{self.fields['question'][0]}` must be a text that is not empty, got {shown(question)}")
        field = self.fields["answer"][0]
        listed = found.get("options", [])
        options: dict[str, str] | None = None
        if any(listed):
            options = options_of(listed[0] if len(listed) == 1 else listed, ",".join(self.fields["options"]))
            answer, task = gold_letter(answer, options, field, base=self.base), Task.CHOICE
        elif isinstance(answer, str | int | float) and not isinstance(answer, bool):
            question, answer, options = with_lines(question, answer, field, self.base)
            task = Task.CHOICE if options else Task.NUMBER if is_number(answer) else Task.TEXT
        else:
            raise BadRecord(f"`{field}` must be a text or a number, got {shown(answer)}")
        used = {field for fields in self.fields.values() for field in fields}
        dataset = found["dataset"][0] if "dataset" in found else None
        return row.problem(question, answer, options, task=task, used=used, dataset=dataset)


def _look_up(obj: Mapping[str, Any], field: str) -> Any:
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
    except BadRecord:
        if must or letters:
            raise
        return question, text, None
    if options:
        try:
            return stem, gold_letter(gold, options, field, base=base), options
        except BadRecord:
            if must:
                raise
    elif letter or base is not None:
        last = question.strip().rpartition("\n")[2]
        raise BadRecord(
            f"the gold answer is {text!r}, but there are no options: neither a field of them, nor lines 'A. ...' at "
            f"the end of the question, which ends with {shown(last[-50:])}"
        )
    return question, text, None


def is_number(gold: str) -> bool:
    """Whether an answer is a number, alone or with a unit that we know, or a date: "5-HT" and "17
    hydroxyprogesterone" are names."""
    whole = _NUMBER.fullmatch(gold)
    number = read_gold(gold) if whole else None
    return gold_date(gold) is not None or (
        whole is not None and number is not None and (whole["unit"] is None or number.unit is not None)
    )
