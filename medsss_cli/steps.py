"""An answer and its steps: the one home of the separator and of the step mark.

An answer is written

    Step 0: Let's break down this problem step by step.

    Step 1: The mean arterial pressure is ...

    Step 2: ... The answer is B.

A *bare step* is the text after its mark, stripped of white space at both ends; trees, labels and training data hold
bare steps. `join_steps` writes marks, `split_steps` reads them, and on what `join_steps` accepts the two are inverse:
`split_steps(join_steps(steps)) == steps`.

A mark counts only at the start of a line and only if its number is the next one that is expected. So "as in Step 3:"
within a line, "step 2:" in lower case, "Step 7:" after step 2 and "## Step 2:" are text of the step they stand in.
"""

from __future__ import annotations

from collections.abc import Sequence

ROOT_TEXT = "Let's break down this problem step by step."
SEPARATOR = "\n\n"
STEP_WORD = "Step"


def mark(k: int) -> str:
    """The mark of step `k`, "Step 3:". No space follows: a prefix that ends with the mark lets the model write " text",
    which is how its tokenizer cuts running text."""
    return f"{STEP_WORD} {k}:"


def join_steps(steps: Sequence[str], first: int = 0) -> str:
    """The answer whose bare steps are `steps`, the first of them numbered `first`. No steps give "".

    Raises ValueError for a step that could not be read back: one with white space at an end, or one that has the mark
    of the step after it at the start of a line.
    """
    parts = []
    for k, step in enumerate(steps, start=first):
        if step != step.strip():
            raise ValueError(f"step {k} begins or ends with white space (steps are kept stripped): {step[:60]!r}")
        if f"\n{mark(k + 1)}" in step:
            raise ValueError(f"step {k} holds the mark {mark(k + 1)!r} at the start of a line: {step[:60]!r}")
        parts.append(f"{mark(k)} {step}".rstrip())
    return SEPARATOR.join(parts)


def split_steps(text: str, first: int | None = None) -> list[str]:
    """The bare steps of an answer.

    `first` is the number of its first step; None reads it from the text (`starts_at`). What stands before the mark of
    step `first + 1` is step `first`, with its mark or without. Without any mark the text is one step; a blank text has
    none. A mark at the start of a line counts after a single line break too; a step may be empty ("Step 1:" alone).
    """
    text = text.strip()
    if not text:
        return []
    number = starts_at(text) if first is None else first
    start = len(mark(number)) if text.startswith(mark(number)) else 0
    steps: list[str] = []
    while (end := text.find(f"\n{mark(number + 1)}", start)) >= 0:
        number += 1
        steps.append(text[start:end].strip())
        start = end + 1 + len(mark(number))
    return [*steps, text[start:].strip()]


def answer_steps(text: str) -> list[str]:
    """The bare steps of a written answer, step 0 first: the usual one where the answer has none. A blank text has no
    steps at all."""
    steps = split_steps(text)
    return [ROOT_TEXT, *steps] if steps and starts_at(text) == 1 else steps


def starts_at(text: str) -> int:
    """The number of the first step that `split_steps(text)` gives: 0 for a text that begins "Step 0:", and for one that
    has words of its own before "Step 1:"; else 1. A text without marks is step 1: reasoning, not the opening sentence.
    """
    text = text.strip()
    return 0 if text.startswith(mark(0)) or (f"\n{mark(1)}" in text and not text.startswith(mark(1))) else 1
