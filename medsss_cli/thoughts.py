"""What an instructed teacher writes, as an answer in our steps: its marks ("**Step 1: Plan:**", "### Step 2:") made
ours, what stands before them left out, and what must not be learnt from found. No prompting and no judging."""

from __future__ import annotations

import re
from enum import StrEnum

from .answers.readers import after_thought
from .steps import answer_steps, join_steps, mark

# "Step 3:", "**Step 3:**", "### Step 3.", "- Step 3 -", 步骤3：, 第3步：, each at the start of a line.
_MARK = re.compile(
    r"""
    ^ [ \t]{0,8} [#>*_\-]{0,6} [ \t]{0,3} [*_]{0,3}
    (?: Step[ \t]{1,3}(?P<english>\d{1,3})
      | 步骤[ \t]{0,3}(?P<chinese>\d{1,3})
      | 第[ \t]{0,3}(?P<nth>\d{1,3})[ \t]{0,3}步 )
    [*_]{0,3} [ \t]{0,3} (?: [:.：、] | [ \t]-[ \t] | $ ) [*_]{0,3} [ \t]{0,3}
    """,
    re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)
# "Among the given answer options", "the answer is given in mL" and "the solution that was given" betray nothing.
_BETRAYED = re.compile(
    r"""
    \b (?: (?:given|provided|supplied|known|expected|revealed)\s (?:(?:correct|right|final|true)\s)? answer
        | (?:reference|gold|official)\s (?:(?:correct|right|final)\s)? (?:answer|solution)
        | answer\skey
        | answer\s (?:that\s|which\s)? (?:I|we)\s (?:was|were|am|are|have\sbeen|had\sbeen)\s (?:given|told|shown)
        | (?:correct|right)\s answer\s (?:is|was|has\sbeen)\s (?:already\s)? (?:known|given|provided|told|revealed)
        | (?:I|we)\s (?:was|were|am|are|have\sbeen|had\sbeen)\s (?:told|shown|given)\s (?:that\s)? the\s
          (?:(?:correct|right)\s)? answer
        | (?:knowing|given)\s (?:that\s)? the\s (?:(?:correct|right|true)\s)? answer
    ) \b (?!\s(?:option|choice))
    | 参考答案|标准答案|已知答案|(?:给出|给定|提供|告知)的?(?:正确)?答案|答案(?:已经?|被)(?:给出|给定|告知|提供|知道)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_FEWEST_STEPS = 2  # besides step 0: one step is an answer, not a chain


class Refusal(StrEnum):
    """Why a teacher's answer is not to be learnt from; it stands in the response's `form`."""

    NO_STEPS = "refused-no-steps"  # it is not in numbered steps
    BETRAYS = "refused-betrays"  # it says that it was shown the gold answer


def in_steps(text: str) -> str:
    """`text` as an answer in our steps, where it has them: what stands before `</think>` and before the first mark left
    out, marks in Markdown or Chinese made "Step k:", one blank line between steps, step 0 put in where it is missing.

    Without two marks that count it comes back as it is, less the thought.
    """
    text = after_thought(text).strip()
    marked = _MARK.sub(lambda found: f"{mark(int(found['english'] or found['chinese'] or found['nth']))} ", text)
    begin = min((at for at in (marked.find(f"{mark(0)} "), marked.find(f"{mark(1)} ")) if at >= 0), default=-1)
    if begin < 0:
        return text
    steps = [_unbold(step) for step in answer_steps(marked[begin:])]
    return join_steps(steps) if len(steps) > _FEWEST_STEPS else text


def _unbold(step: str) -> str:
    """The step less the half of a pair of asterisks whose other half stood before its mark ("**Step 1: Plan:** x")."""
    return step.replace("**", "", 1).strip() if step.partition("\n")[0].count("**") % 2 else step


def refusal(text: str, *, revealed: bool) -> Refusal | None:
    """Why `text`, as `in_steps` gives it, is not to be learnt from; None where nothing is wrong with its form."""
    if len(answer_steps(text)) <= _FEWEST_STEPS:
        return Refusal.NO_STEPS
    return Refusal.BETRAYS if revealed and _BETRAYED.search(text) else None
