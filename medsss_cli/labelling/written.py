"""A written answer as bare steps, in whatever form it was written: what training on answers and judging them share.

An answer in our form ("Step 0: ...", "Step 1: ...") is taken as it is; step 0 is the usual sentence where it has none.
Otherwise marks in Markdown or Chinese count too, and what stands before the first mark, or before a `</think>`, is no
part of the solution (`thoughts.in_steps`); without any marks each paragraph is a step.
"""

from __future__ import annotations

import re

from ..steps import ROOT_TEXT, join_steps, mark, split_steps, starts_at
from ..thoughts import in_steps

_PARAGRAPHS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def written_steps(text: str) -> list[str]:
    """The bare steps of an answer, step 0 first; [] where nothing is said."""
    text = text.strip()
    if not text.startswith((mark(0), mark(1))):
        text = in_steps(text)
    if not text:
        return []
    if text.startswith(mark(0)):
        return split_steps(text)
    if text.startswith(mark(1)):
        return [ROOT_TEXT, *split_steps(text)]
    if starts_at(text) == 0:
        return [ROOT_TEXT, *split_steps(text)[1:]]
    return [ROOT_TEXT, *(part.strip() for part in _PARAGRAPHS.split(text))]


def in_form(text: str) -> str | None:
    """The answer as `join_steps` writes it; None where nothing is said, or no steps could be read back."""
    steps = written_steps(text)
    if not any(steps[1:]):
        return None
    try:
        return join_steps(steps)
    except ValueError:
        return None
