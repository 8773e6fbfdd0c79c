"""Options that stand inside a question: read right, or refused with the line that is wrong. Never half of them.

The tables were written by hand before the reader, from the ways that files and people write options.
"""

from __future__ import annotations

from string import ascii_uppercase

import pytest

from medsss_cli.errors import BadRecord
from medsss_cli.problems.options import split_options

STEM = "A 45-year-old man grew A. fumigatus and\nE. coli. Which drug first?"
TEXTS = (
    "Aspirin", "E. coli", "12 mg", "A and B", "(none)", "阿司匹林", "Vitamin D.", "b-blocker: a drug", "I. only", "No",
)  # fmt: skip

# "A x" is no way to write an option: "A man ..." is a sentence.
STYLES = (
    "A. x", "A) x", "(A) x", "A: x", "A x|", "A、x", "A．x", "A：x", "A.x", "（A）x", "A）x", "[A] x", "A.) x",
    "A. **x**", "A - x", "- A. x", "-A. x", "* A) x", "• (A) x", "**A.** x", "**A**. x", "**A) x**", "- **A.** x",
    "- **A**: x", "*A.* x", "__A.__ x", "a. x", "a) x", "(a) x", "- a. x", "Ａ．x", "Ａ. x", "（Ａ）x", "ａ) x",
    "Option A: x", "  A.   x  ", "\tA. x", "A.\nx", "A. x\n",
)  # fmt: skip


def marked(style: str, letter: str, text: str) -> str:
    """A line in this style: its only letter A is the mark, its last x the text."""
    head, _, tail = style.rpartition("x")
    small, wide, small_wide = letter.lower(), chr(ord(letter) + 0xFEE0), chr(ord(letter) + 0xFF00)
    swap = {"A": letter, "a": small, "Ａ": wide, "ａ": small_wide}
    return "".join(swap.get(char, char) for char in head) + text + tail


@pytest.mark.parametrize("n", [2, 5, 10, 26])
@pytest.mark.parametrize("style", STYLES)
def test_every_style_at_every_size(style: str, n: int) -> None:
    """The last options of a list are the ones that a reader forgets; so all letters, all sizes."""
    letters = ascii_uppercase[:n]
    texts = dict(zip(letters, (TEXTS * 3)[:n], strict=True))
    if style.startswith("Option"):  # the word itself begins with the letter O
        lines = [f"Option {letter}: {text}" for letter, text in texts.items()]
    else:
        lines = [marked(style.removesuffix("|"), letter, text) for letter, text in texts.items()]
    question = STEM + "\n" + "\n".join(lines)
    if style.endswith("|"):
        assert split_options(question) == (question, None)
        return
    assert split_options(question) == (STEM, texts)
    assert split_options(question.replace("\n", "\r\n") + "\r\n")[1] == texts


ABC = {"A": "Heparin", "B": "Aspirin", "C": "None"}


@pytest.mark.parametrize(
    ("question", "stem", "options"),
    [
        # A sentence after the options belongs to the question.
        ("Which?\nA. Heparin\nB. Aspirin\nC. None\nAnswer with one letter.", "Which?\nAnswer with one letter.", ABC),
        ("Which?\nA. Heparin\nB. Aspirin\nC. None\n\nThink step by step.", "Which?\nThink step by step.", ABC),
        ("Which?\n\nA. Heparin\n\nB. Aspirin\n\nC. None\n\nRest first?", "Which?\nRest first?", ABC),
        # A stray quote, and the place for the answer, say nothing.
        ('Which?"\nA. Heparin\nB. Aspirin\nC. None\n"', 'Which?"', ABC),
        ("Which?\nA. Heparin\nB. Aspirin\nC. None\n\nAnswer:", "Which?", ABC),
        # The right option in bold is no other style, and tells nothing when the marks are off.
        ("Which?\nA. Heparin\n**B. Aspirin**\nC. None", "Which?", ABC),
        ("Which?\nA. Heparin\nB．Aspirin\nC．None", "Which?", ABC),
        ("A. Heparin\nB. Aspirin\nC. None\nWhich of these first?", "Which of these first?", ABC),
        # An empty last option is none.
        ("Which?\nA. Heparin\nB. Aspirin\nC. None\nD.", "Which?", ABC),
        ("Which?\nA. Heparin\nB. Aspirin\nC. None\nD. \nE.\n", "Which?", ABC),
        ("Which?\n**A.** Heparin\n**B.** Aspirin\n**C.** None\n**D.**", "Which?", ABC),
        # Only the last list is the options.
        ("Seen:\nA. one\nB. two\nWhich?\nA. Heparin\nB. Aspirin\nC. None", "Seen:\nA. one\nB. two\nWhich?", ABC),
        ("A. fumigatus grew.\nWhich?\nA. Heparin\nB. Aspirin\nC. None", "A. fumigatus grew.\nWhich?", ABC),
        ("E. coli grew.\nD. none\nA. Heparin\nB. Aspirin\nC. None", "E. coli grew.\nD. none", ABC),
        # An option over two lines: the second is indented, or another option follows it.
        ("Which?\nA. Heparin\n   and rest\nB. Aspirin", "Which?", {"A": "Heparin and rest", "B": "Aspirin"}),
        ("Which?\nA. Heparin\nand rest\nB. Aspirin", "Which?", {"A": "Heparin and rest", "B": "Aspirin"}),
        ("Which?\nA. Heparin\nB. Aspirin\n   and rest", "Which?", {"A": "Heparin", "B": "Aspirin and rest"}),
        # A list within an option is in another style.
        ("Which?\nA. both of\n(a) x\n(b) y\nB. none", "Which?", {"A": "both of (a) x (b) y", "B": "none"}),
        # Statements by Roman numbers are no options.
        ("I. one\nII. two\nWhich?\nA. I\nB. II", "I. one\nII. two\nWhich?", {"A": "I", "B": "II"}),
        ("下列哪项？\nA、肝素\nB、阿司匹林", "下列哪项？", {"A": "肝素", "B": "阿司匹林"}),
        ("下列哪项？\nA.肝素\nB.阿司匹林\n请选择。", "下列哪项？\n请选择。", {"A": "肝素", "B": "阿司匹林"}),
    ],
)
def test_read_right(question: str, stem: str, options: dict[str, str]) -> None:
    """What a person would take for the question, and for the options."""
    assert split_options(question) == (stem, options)


@pytest.mark.parametrize(
    ("question", "line"),
    [
        ("Which?\nA. Heparin\nB.\nC. None", "line 3"),  # an empty option that is not the last
        ("Which?\nA.\nB. Aspirin", "line 2"),
        ("Which?\nA. Heparin\nB. Aspirin\nD. None", "line 4"),  # C is missing
        ("Which?\nA. Heparin\nC. Aspirin\nD. None", "line 3"),  # B is missing
        ("Which?\nA. Heparin\nB. Aspirin\nB. None", "line 4"),  # B twice
        ("Which?\nA. Heparin\nB. Aspirin\nC.\nAnswer with one letter.", "line 5"),  # the text of C, or a sentence?
        ("Which?\nA. Heparin\nand rest\nB. Aspirin\nand rest", "line 5"),  # of B, or a sentence?
        ("Which?\nA. Heparin\nB) Aspirin\nC) None", "line 3"),  # another style on the way
        ("Which?\nA. Heparin\nb. Aspirin\nC. None", "line 3"),
        ("Which?\nA. Heparin\nB. both of\n(a) x\n(b) y", "line 4"),  # the options, or a part of B?
        ("Which?\nA. Heparin\nB. Aspirin\nS. aureus grew.", "line 4"),
        ("Which?\nA. Heparin\nB. Aspirin\nA. None", "line 4"),
        ("Which?\n" + "\n".join(f"{letter}. {letter}x" for letter in ascii_uppercase + "A"), "line 28"),
        ("Which?\nA. Heparin\nB. Aspirin\nAnswer: B", "line 4"),  # the question gives its answer away
    ],
)
def test_refused_with_the_line(question: str, line: str) -> None:
    """Where two readings are possible, a person has to look."""
    with pytest.raises(BadRecord, match=line):
        split_options(question)


@pytest.mark.parametrize(
    "question",
    [
        "Which drug first?",
        "",
        "A. fumigatus grew. Which drug?",
        "A man came.\nBoth of his eyes were red.",
        "Q: Which drug?\nA: Aspirin",
        "Name it.\nA. Heparin",  # one option is none
        "B. Heparin\nC. Aspirin",
        "Is it A. or B.?",
    ],
)
def test_no_options(question: str) -> None:
    """A question that only looks a little like it."""
    assert split_options(question) == (question, None)
