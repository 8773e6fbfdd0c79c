"""Written answers with the verdict that a careful reader gives, and what hostile text costs.

The tables stand in tests/data: answers_letters.jsonl has a phrasing a line, for every letter and five sets of options,
the others have an answer a line. benchmarks/answers_table.py reads and counts them.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from medsss_cli.answers import ANNOUNCED, Extract, answer_key, check_gold, judge, states_answer
from medsss_cli.errors import BadRecord
from medsss_cli.records import Problem, Task, Verdict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import answers_table
from answers_table import OPTIONS, PHRASINGS, TABLES, filled, rows, sets_of_options

DRUGS = {"A": "Aspirin", "B": "Metoprolol", "C": "No treatment", "D": "Vitamin D", "E": "E. coli vaccine"}
RIGHT, WRONG, NONE = Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER


def choice(answer: str = "B", options: dict[str, str] | None = DRUGS) -> Problem:
    return Problem(id="q", question="Which drug?", answer=answer, options=options, task=Task.CHOICE)


def number(answer: str) -> Problem:
    return Problem(id="q", question="How much?", answer=answer, task=Task.NUMBER)


def text(answer: str) -> Problem:
    return Problem(id="q", question="Which?", answer=answer, task=Task.TEXT)


# What a careful reader reads and the judge does not: rather no answer than a wrong reading.
MISSES = {"answers_second.jsonl": 5, "answers_third.jsonl": 7, "answers_realistic.jsonl": 5}


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_read_as_a_careful_reader_reads_them(name: str) -> None:
    """A verdict that a careful reader would not give makes every accuracy wrong by it. No answer is called right that
    is not; what is missed is counted."""
    other = [(kind, row, said) for kind, row, said in answers_table.counted(TABLES[name]()) if kind != "agree"]
    assert [(kind, row.text, said) for kind, row, said in other if kind != "miss"] == []
    assert len(other) == MISSES.get(name, 0), other


def read_as(template: str, letter: str, options: dict[str, str], *, known: bool, several: bool) -> str | None:
    """What is read of a phrasing, L for its own letter, M for the next and so on."""
    problem = choice("AB" if several else "A", options if known else None)
    answer = judge(problem, filled(template, letter, options)).answer
    turned = "ABCDE"["ABCDE".index(letter) :] + "ABCDE"[: "ABCDE".index(letter)]
    return None if answer is None else "".join(sorted("LMNOP"[turned.index(each)] for each in answer))


@pytest.mark.parametrize("several", [False, True], ids=["one answer", "several answers"])
def test_every_letter_is_read_alike(several: bool) -> None:
    """ "A" is an article and "I" a pronoun, and "Option A is correct." was read less often than "Option B is correct.":
    all phrasings, each letter, upper and lower case, every set of options and none."""
    for row in [row for name in PHRASINGS for row in rows(name)]:
        for template in {row["template"], row["template"].replace("<L>", "<l>")}:
            ways = [(OPTIONS[name], True) for name in sets_of_options(row)]
            if not any(f"<{place}>" in template for place in "TUGHABCDE"):
                ways.append((OPTIONS["drugs"], False))
            read = {
                read_as(template, letter, options, known=known, several=several)
                for options, known in ways
                for letter in "ABCDE"
            }
            assert len(read) == 1, (template, read)


def test_what_the_published_rule_makes_of_the_table() -> None:
    """The authors' rule, counted against the careful reader; docs/answers.md gives these numbers."""
    counts: Counter[tuple[str, str]] = Counter()
    for kind, row, _ in answers_table.counted(TABLES["answers.jsonl"](), Extract.PUBLISHED):
        counts.update([(row.problem.task.value, kind), (row.problem.task.value, "answers")])
    page = (Path(__file__).parents[1] / "docs" / "answers.md").read_text(encoding="utf-8")
    for task in ("choice", "number", "text"):
        row = (counts[task, "answers"], counts[task, "false right"], counts[task, "miss"])
        assert f"| {task} | {row[0]} | {row[1]} | {row[2]} |" in page, (task, row)


@pytest.mark.parametrize(
    ("problem", "written", "verdict", "answer"),
    [
        # The first character holds the gold letter.
        (choice(), "The answer is Bananas.", RIGHT, "B"),
        (choice(), "The answer is (B).", WRONG, "("),
        (choice(), "The answer is A. But wait, the answer is B.", WRONG, "A"),
        (choice(), "The answer is A.\nThe answer is B.", RIGHT, "B"),
        (choice(), "Final Answer:\n\nB", RIGHT, "B"),
        (choice(), "Final answer is B", WRONG, "I"),  # "Final answer" comes first, and leaves "is B"
        (choice(), "<think>A</think>Answer: B", RIGHT, "B"),
        (choice(), "It is slow.\nB", RIGHT, "B"),
        (choice(), "", NONE, None),
        # Several letters are looked for in one character.
        (choice("BD"), "The answer is BD.", WRONG, "B"),
        # The gold text is contained in the answer.
        (text("high"), "The answer is not high.", RIGHT, "not high"),
        (text("0.6"), "The answer is 10.65.", RIGHT, "10.65"),
        (number("84 mmHg"), "The answer is 84.", WRONG, "84"),
    ],
)
def test_the_published_rule(problem: Problem, written: str, verdict: Verdict, answer: str | None) -> None:
    """Numbers by this rule are compared with the paper's: it must be lenient, and wrong, just where theirs is."""
    judgement = judge(problem, written, Extract.PUBLISHED)
    assert (judgement.verdict, judgement.answer) == (verdict, answer)
    assert judgement.how == ("none" if answer is None else "published")


@pytest.mark.parametrize(
    ("written", "problem", "how", "answer"),
    [
        ("\\boxed{B}", choice(), "boxed", "B"),
        ("\\boxed{84}", number("84"), "boxed", "84"),
        ("<answer>B</answer>", choice(), "tag", "B"),
        ('{"answer": "B"}', choice(), "json", "B"),
        ("The answer is D and B.", choice("BD"), "statement", "BD"),
        ("The answer is the beta blocker Metoprolol, once daily.", choice(), "statement", "B"),
        ("故选B。", choice(), "statement", "B"),
        ("答案是high。", text("high"), "statement", "high"),
        # Equal answers are equal strings.
        ("The answer is 84.0 mmHg", number("84"), "statement", "84"),
        ("The answer is 1.5 L.", number("1500 mL"), "statement", "1500"),
        ("The answer is 5–6 mg.", number("5 to 6"), "statement", "5 to 6"),
        ("The answer is March 15, 2024.", number("03/15/2024"), "statement", "2024-03-15"),
        ("The answer is The  Aorta!", text("aorta"), "statement", "aorta"),
        ("B is correct, as the heart is slow", choice(), "correct", "B"),
        ("B. Metoprolol\n\nIt slows the heart within minutes.", choice(), "first_line", "B"),
        ("84 mmHg", number("84"), "first_line", "84"),
        ("The heart is fast.\nIt must be slowed, so B.", choice(), "conclusion", "B"),
        ("The heart is fast. The most likely choice is therefore **Metoprolol**.", choice(), "conclusion", "B"),
        ("The heart is fast.\nMetoprolol", choice(), "last_line", "B"),
        ("The heart is fast.\n2 x 42 = 84", number("84"), "last_line", "84"),
        ("It is due\non 2024-03-15", number("03/15/2024"), "last_line", "2024-03-15"),
        ("high", text("high"), "last_line", "high"),
        ("<think>The answer is B.", choice(), "none", None),  # the thought was cut off
    ],
)
def test_the_reader_is_named(written: str, problem: Problem, how: str, answer: str | None) -> None:
    """The record names the reader, and strict takes the statements alone; votes count equal strings."""
    judgement = judge(problem, written)
    assert (judgement.how, judgement.answer, judgement.verdict) == (how, answer, RIGHT if answer else NONE)
    assert judge(problem, written, Extract.STRICT).verdict is (RIGHT if how in ANNOUNCED else NONE)


def test_keys_make_one_vote_of_equal_answers() -> None:
    """Answers of other tools and older records count beside ours."""
    assert answer_key(number("84"), "84.0") == answer_key(number("84"), "84 mmHg") == "84"
    assert answer_key(number("2024-03-15"), "March 15, 2024") == "2024-03-15"
    assert answer_key(number("0"), "-0") == answer_key(number("0"), "0.0") == "0"
    assert answer_key(text("high"), "High.") == "high"
    assert [answer_key(choice(), each) for each in ("DB", "Z", None)] == ["BD", "z", None]


@pytest.mark.parametrize(
    "problem",
    [
        *map(choice, ("F", "", "BB", "Aspirin")),
        *map(number, ("many", "5-6", "84 or 90", "02/30/2024 or later", "")),
        *map(text, ("...", "")),
    ],
)
def test_an_unreadable_gold_answer_is_an_error_with_its_id(problem: Problem) -> None:
    """It would count as a failure of the policy."""
    for read in (check_gold, partial(judge, text="The answer is B.")):
        with pytest.raises(BadRecord, match=r"^q: the gold answer"):
            read(problem)


def test_a_step_that_states_the_answer() -> None:
    """The search makes a Finish of it."""
    for step in ["So it is 84. The answer is 84.", "Final answer: B", "\\boxed{3}", "The answer is no treatment."]:
        assert states_answer(step), step
    for step in ["It is 84.", "The answer is not A.", "The answer is", "Answers vary.", "The answer is found by sums."]:
        assert not states_answer(step), step


PIECES = (
    "The answer is ", "answer answer to of ", "\\boxed{", "1,", "1,234", "9", "(((((", "A is B is C is ", "\n", "*",
    "The answer is option option ", "-", "1e1", "word ", "B. ", "so ", "<answer>", "<answer ",
    "答案", "答案是", "故选", "应该应该", "Final answer: ", "March 1st, ", "µ", "e\u0301", "１",
    "1\u2009234", "(A)", "高", "`",
)  # fmt: skip
HOSTILE = [piece * (100_000 // len(piece)) for piece in PIECES] + [
    " " * 100_000 + "B", "answer" + " " * 100_000, "answer to " + "a" * 100_000, "The answer is " + ",123" * 25_000,
    "The answer is " + "9" * 100_000, "The answer is " + "A, " * 33_000, "answer is" + "\t\n" * 50_000,
    "<think>" * 15_000 + "</think>" * 15_000, "答案是" + "、" * 100_000, "Final answer:" + "\n" * 100_000,
    "The answer is " + "A " * 50_000, "The answer is 5 " + "mg/" * 33_000, "The answer is " + "5 to " * 20_000,
    "The answer is 5" + " /per" * 20_000, "The answer is " + "2024-" * 20_000, "The answer is " + "March " * 17_000,
    "a " * 50_000 + "high", "not " * 25_000 + "high", "Answer: " * 12_000 + "</think>",
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: ascii(hostile[:12]))
def test_no_text_is_slow(hostile: str) -> None:
    """A policy in a loop, or an attacker, must not hold up a run: each way of reading below a second."""
    problems = [choice(), number("84 mg"), number("2024-03-15"), text("high")]
    reads = [partial(judge, problem) for problem in problems] + [partial(judge, choice(), extract=Extract.PUBLISHED)]
    assert len(hostile) >= 9e4
    for read in (*reads, states_answer):
        start = time.process_time()
        read(hostile)
        assert time.process_time() - start < 1
