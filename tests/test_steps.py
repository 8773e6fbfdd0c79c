"""Steps are cut and joined in one place, and the two are inverse."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medsss_cli.steps import ROOT_TEXT, join_steps, mark, split_steps, starts_at

# Text that is out to confuse: marks with right and wrong numbers, at line starts and elsewhere, odd white space.
PIECES = [
    "Step", "step", " ", "\n", "\n\n", ":", "0", "1", "2", "3", "10", "\r\n", "\t", "\u2028", "\x1f", "a", "Ω", ".",
]  # fmt: skip
PIECES += ["**Step 2:**", "## Step 1:", "The answer is B."]
PIECES += [mark(k) for k in range(5)] + [f"\n{mark(k)}" for k in range(5)]
confusing = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
lists_of_steps = st.lists(confusing | st.text(max_size=20), max_size=6)


@given(lists_of_steps, st.integers(0, 30))
@example(["as in Step 2: above", "Step 2: and Step 3:\nStep 5: x", "", "step 3: x\nstep 4: y"], 0)
@example([""], 1)
@example([], 0)
def test_split_is_the_inverse_of_join(steps: list[str], first: int) -> None:
    """`join_steps` refuses what could not be read back, and nothing else."""
    harmless = all(step == step.strip() and f"\nStep {k + 1}:" not in step for k, step in enumerate(steps, first))
    if not harmless:
        with pytest.raises(ValueError, match="step"):
            join_steps(steps, first)
        return
    text = join_steps(steps, first)
    assert split_steps(text, first) == steps
    if steps and first < 2:
        assert (split_steps(text), starts_at(text)) == (steps, first)


@pytest.mark.parametrize(
    ("text", "first", "steps"),
    [
        (f"Step 0: {ROOT_TEXT}\n\nStep 1: 2 x 80 = 160.\n\nStep 2: So C.", 0, [ROOT_TEXT, "2 x 80 = 160.", "So C."]),
        ("", 1, []),
        (" \n\n ", 1, []),
        ("The answer is B.", 1, ["The answer is B."]),
        ("Step 1: a\nStep 2: b", 1, ["a", "b"]),  # one line break is enough
        ("  Step 0: a\n\nStep 1: b\n", 0, ["a", "b"]),
        ("Let me see.\n\nStep 1: a\n\nStep 2: b", 0, ["Let me see.", "a", "b"]),  # words before step 1 are step 0
        ("Step 1: see Step 2: below\n\nStep 2: b", 1, ["see Step 2: below", "b"]),  # within a line
        ("Step 1: a\n\nStep 3: b\n\nStep 2: c", 1, ["a\n\nStep 3: b", "c"]),  # not the next number
        ("Step 1: a\n\nstep 2: b", 1, ["a\n\nstep 2: b"]),  # lower case
        ("Step 1: a\n\n Step 2: b", 1, ["a\n\n Step 2: b"]),  # not at the start of the line
        ("Step 1: a\n\nStep 02: b", 1, ["a\n\nStep 02: b"]),
        ("Step 1:\n\nStep 2: b", 1, ["", "b"]),
        ("Step 4: a\n\nStep 5: b", 1, ["Step 4: a\n\nStep 5: b"]),  # an answer begins with 0 or 1
    ],
)
def test_reading(text: str, first: int, steps: list[str]) -> None:
    assert split_steps(text) == steps
    assert starts_at(text) == first


def test_what_a_policy_writes_after_a_mark() -> None:
    """The prefix ends "Step 3:", so the policy begins with a space; some begin with the mark once more."""
    assert split_steps(" so it is 5.\n\nStep 4: Then 6.", first=3) == ["so it is 5.", "Then 6."]
    assert split_steps(" Step 3: so it is 5.", first=3) == ["so it is 5."]
