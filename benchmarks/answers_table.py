"""How often the judge says what a careful reader says: the tables of tests/data, counted by family.

    python benchmarks/answers_table.py [--show]

Most tables hold an answer a line with its verdict; a line of `answers_letters.jsonl` and `answers_weak.jsonl` is a
phrasing, written with every letter as the answer and with the options of five questions. Prints, for each table, the
answers that agree, the false rights (called right, are not) and the misses (are right, not called so); --show lists
them. `PYTHONPATH=/another/tree` counts another version of the reader.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from medsss_cli.answers import Extract, judge
from medsss_cli.errors import BadRecord
from medsss_cli.records import Problem, Task

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"

OPTIONS = {
    name: dict(zip("ABCDE", texts, strict=True))
    for name, texts in {
        "drugs": ("Aspirin", "Metoprolol", "Lisinopril", "Amlodipine", "Furosemide"),
        "traps": ("A beta blocker", "Bupropion and B12", "C-reactive protein", "Vitamin D", "E. coli infection"),
        "sentences": (
            "Order a chest X-ray now",
            "Start intravenous antibiotics",
            "Reassurance and follow-up in 2 weeks",
            "Immediate surgery",
            "Repeat the culture tomorrow",
        ),
        "doses": ("5 mg", "10 mg", "50 mg", "100 mg", "0.5 mg"),
        "chinese": ("阿司匹林", "美托洛尔", "高血压", "青霉素过敏", "胸部X线检查"),
    }.items()
}
ENGLISH, CHINESE = ("drugs", "traps", "sentences", "doses"), ("chinese",)


class Written(NamedTuple):
    """An answer to a problem, and the verdict of a careful reader; `answer` is what it states, where that is known."""

    family: str
    problem: Problem
    text: str
    expected: str


def rows(name: str) -> Iterator[dict[str, Any]]:
    """The lines of a table."""
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def written(name: str) -> Iterator[Written]:
    """The answers of a table that has one a line."""
    for row in rows(name):
        problem = Problem(
            id=row["id"],
            question=row.get("question", "Which?"),
            answer=row["answer"],
            options=row["options"],
            task=Task(row["task"]),
        )
        yield Written(row.get("family") or row["dataset"], problem, row["response"], row["expected"])


def filled(template: str, letter: str, options: dict[str, str]) -> str:
    """A phrasing with its places filled: <L> the letter, <l> in lower case, <T> its option; <M> and <U> those of the
    next letter, <N> the one after that; <A> to <E> all the options; <G> and <H> are <T> and <U> misspelt."""
    second, third = shifted(letter, 1), shifted(letter, 2)
    values = {"L": letter, "l": letter.lower(), "T": options[letter], "M": second, "U": options[second], "N": third}
    values |= {wrong: values[right][:-4] + values[right][-3:] for wrong, right in {"G": "T", "H": "U"}.items()}
    for key, value in (*values.items(), *options.items()):
        template = template.replace(f"<{key}>", value)
    return template


def shifted(letter: str, by: int) -> str:
    """The letter `by` places on, E before A."""
    return "ABCDE"[("ABCDE".index(letter) + by) % 5]


def sets_of_options(row: dict[str, Any]) -> tuple[str, ...]:
    """The sets of options that fit a phrasing: of its language, and words where it misspells them."""
    if row["family"].startswith("Chinese"):
        return CHINESE
    return ENGLISH[:-1] if "<G>" in row["template"] or "<H>" in row["template"] else ENGLISH


def phrasings(name: str) -> Iterator[Written]:
    """Every phrasing of a table with every letter and every set of options that fits it."""
    for row in rows(name):
        for options in sets_of_options(row):
            for letter in "ABCDE":
                gold = shifted(letter, 1) if row["reads"] == "M" else letter
                problem = Problem(id="q", question="Which?", answer=gold, options=OPTIONS[options], task=Task.CHOICE)
                text = filled(row["template"], letter, OPTIONS[options])
                yield Written(f"{options}: {row['family']}", problem, text, "correct" if row["reads"] else "no_answer")


PHRASINGS = ("answers_letters.jsonl", "answers_weak.jsonl")
TABLES: dict[str, Callable[[], Iterator[Written]]] = {
    f"answers{name}.jsonl": partial(written, f"answers{name}.jsonl")
    for name in ("", "_rest", "_second", "_third", "_realistic", "_cases")
}
TABLES |= {name: partial(phrasings, name) for name in PHRASINGS}


def counted(table: Iterator[Written], extract: Extract = Extract.FLEXIBLE) -> Iterator[tuple[str, Written, str]]:
    """For each answer "agree", "false right", "miss" or "wrong or none" (one was said, the other is meant)."""
    for row in table:
        try:
            said = str(judge(row.problem, row.text, extract).verdict)
        except BadRecord:  # a gold answer that an older reader refuses
            said = "refused"
        kinds = {said: "wrong or none", "correct": "false right"} | (
            {said: "miss"} if row.expected == "correct" else {}
        )
        yield ("agree" if said == row.expected else kinds[said]), row, said


def main() -> None:
    """Counts and prints."""
    for name, table in TABLES.items():
        count: Counter[str] = Counter()
        for kind, row, said in counted(table()):
            count.update((kind, "answers"))
            if "--show" in sys.argv and kind != "agree":
                print(f"{kind:13} {row.family}: gold {row.problem.answer!r}, {row.text!r}: {said}")
        print(f"{name}: {dict(count)}")


if __name__ == "__main__":
    main()
