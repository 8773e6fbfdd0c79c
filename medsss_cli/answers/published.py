"""The rule by which the MedS3 authors' released evaluation reads and judges an answer, for numbers that can be compared
with theirs. It is more lenient, and now and then plainly wrong; docs/answers.md counts how often on our table.

What is taken as the answer (`Evol_Instruct/evaluation/eval_bench.py` of github.com/pixas/MedSSS, its later version):

1. With `<think>` and `</think>` in the text: what follows the last `</think>`, up to a line that begins "The answer
   is", and of that what follows the last "Answer: ".
2. Else the first of these phrases that occurs at all: "The answer is", "The correct answer is", "Final answer",
   "Final answer is"; of its last line, all that follows the phrase's first occurrence in the line.
3. Else the last line.

Choice with one gold letter: right if the first character is that letter, quotes dropped. All else: right if the gold
text stands somewhere in the answer, case ignored; of a choice only the first character is left by then, so a gold
answer of several letters is never right.

Departures: a phrase of one other model ("The diagnosis result is"), and the calculators of MedCalc-Bench, which the
released code judges by `eval` of the answer, are left out.
"""

from __future__ import annotations

import re

_PHRASES = tuple(
    re.compile(phrase, re.IGNORECASE)
    for phrase in ("The answer is", "The correct answer is", "Final answer", "Final answer is")
)
_SKIPPED = re.compile(r"[:\s]*")


def published_answer(text: str) -> str:
    """What the rule takes as the answer; it may be empty."""
    if "<think>" in text and "</think>" in text:
        after = text.rpartition("</think>")[2].strip().partition("\nThe answer is")[0].strip()
        return after.rpartition("Answer: ")[2].strip().strip("`")
    for phrase in _PHRASES:
        last = None
        position = 0
        while found := phrase.search(text, position):
            start = found.end()
            if phrase is _PHRASES[2]:
                skipped = _SKIPPED.match(text, start)
                start = skipped.end() if skipped else start
            end = text.find("\n", start)
            end = len(text) if end < 0 else end
            last = text[start:end]
            position = end
        if last is not None:
            return last.strip(":").strip().strip(".").strip("*").strip("`")
    return text.rpartition("\n")[2].strip().strip(".").strip("`")


def published_right(answer: str, gold: str) -> bool:
    """Whether the rule calls `answer` (of a choice its first character) right."""
    if len(gold) == 1:
        return answer.replace("'", "").replace('"', "").upper()[:1] == gold
    return gold.lower() in answer.lower()
