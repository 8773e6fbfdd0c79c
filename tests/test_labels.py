"""Step values and step labels against numbers worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import node, nodes, tree

from medsss_cli.labelling.labels import StepLabels, StepValues, step_labels, values_on

KINDS = [how for how in StepLabels if how is not StepLabels.JUDGE]
DESIGN = [0.3, 0.8, 0.2, 0.1, 0.0]
SLIP = [0.5, 0.4, 0.6, 0.9, 1.0]


@pytest.mark.parametrize(
    ("values", "how", "expected"),
    [
        (DESIGN, "dual", [1, 0, 0, 0]),
        (DESIGN, "dual-soft", [0.8, 0, 0, 0]),
        (DESIGN, "soft", [0.8, 0.2, 0.1, 0]),
        (DESIGN, "hard", [1, 1, 1, 0]),
        (DESIGN, "monotone", [1, 0, 0, 0]),
        (DESIGN, "published", [1, 0, 1, 0]),
        (SLIP, "dual", [1, 1, 1, 1]),
        (SLIP, "dual-soft", [0.4, 0.6, 0.9, 1]),
        (SLIP, "monotone", [0, 1, 1, 1]),
        (SLIP, "published", [1, 1, 1, 1]),
        # The last step falls, but has no step after it, so no penalty: .2 is rounded up.
        ([0.5, 0.9, 0.2], "dual", [1, 1]),
        # It falls and the next step falls on: .6 - (.9 - .4) = .1, still positive; then .4 - (.6 - 0) < 0; then 0.
        ([0.9, 0.6, 0.4, 0.0], "dual", [1, 0, 0]),
        ([0.9, 0.6, 0.4, 0.0], "dual-soft", [0.1, 0, 0]),
        # Published: l1 = 0, l2 = 0 - (0 - 0) = 0, l3 = 1 - (0 - 1) = 2.
        ([0.2, 0, 0, 1], "published", [0, 0, 1]),
        ([0.2, 0, 0, 1], "hard", [0, 0, 1]),
        # Monotone wants more than one half: .5 is not.
        ([0, 0.5, 0.6, 0.6], "monotone", [0, 1, 1]),
    ],
)
def test_by_hand(values: list[float], how: str, expected: list[float]) -> None:
    first, *labels = step_labels(values, StepLabels(how))
    assert first is None
    assert labels == pytest.approx(expected)


def test_the_residue_of_floating_point_is_no_label() -> None:
    """.1 + .2 - .3 is 5.6e-17: rounding that up would call a worthless step right; so is .3 - (.9 - .6)."""
    for how in (StepLabels.DUAL, StepLabels.HARD):
        assert step_labels([0.5, 0.1 + 0.2 - 0.3, 0.5], how)[1] == 0.0
    assert step_labels([0.9, 0.3, 0.6], StepLabels.DUAL)[1] == 0.0


def test_short_paths_and_values_outside_their_range() -> None:
    for how in KINDS:
        assert [step_labels(path, how) for path in ([], [0.4], [0.4, 1.0], [0.4, 0.0])] == [
            [], [None], [None, 1.0], [None, 0.0]
        ]  # fmt: skip
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="must lie in"):
            step_labels([0.5, value], StepLabels.SOFT)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from(KINDS))
def test_labels_stay_in_range(values: list[float], how: StepLabels) -> None:
    first, *labels = step_labels(values, how)
    assert first is None
    assert len(labels) == len(values) - 1
    assert all(label is not None and 0.0 <= label <= 1.0 for label in labels)
    if how not in (StepLabels.SOFT, StepLabels.DUAL_SOFT):
        assert set(labels) <= {0.0, 1.0}


ROLLED_OUT = nodes()
"""The tree of trees.py: of node 1 two of four rollouts came out right, of 2 none, of 8 one, of 6, a Reflect, three; 10
and 11 are a Finish below 1 that wrote two steps."""
for index, right in ((1, 2), (2, 0), (6, 3), (8, 1)):
    ROLLED_OUT[index] |= {"rollouts": 4, "rollout_value": right / 4}
ROLLED_OUT += [
    node(8, 3, "finish", "The answer is A.", 0.0, "no_answer"),
    node(1, 2, "reason", "It is a cephalosporin.", 0.45),
    node(10, 3, "finish", "The answer is A.", 0.0, "wrong"),
]


PATHS = ((0, 1, 3), (0, 2, 5, 6, 7), (0, 2, 8, 9), (0, 1, 10, 11))


@pytest.mark.parametrize(
    ("how", "values"),
    [
        ("backed-up", ([0.5, 0.9, 1], [0.5, 0.1, 0, 0.6, 1], [0.5, 0.1, 0.3, 0], [0.5, 0.9, 0.45, 0])),
        # Of the root's children .5 and 0. The first step of a Finish of two has what came of it.
        ("rollout", ([0.25, 0.5, 1], [0.25, 0, 0, 0.75, 1], [0.25, 0, 0.25, 0], [0.25, 0.5, 0, 0])),
        # 1: 2 of 4 rollouts, Finishes 3 right, 4 and 11 wrong: 3/7. 8: 1 of 4 and 9 wrong: 1/5. 2: 0 of 4, 5 wrong, and
        # 8's: 1/10; what the Reflect 6 put right is left out. 6: 3 of 4 and 7: 4/5. The root: 4/17.
        ("pooled", ([4 / 17, 3 / 7, 1], [4 / 17, 0.1, 0, 0.8, 1], [4 / 17, 0.1, 0.2, 0], [4 / 17, 3 / 7, 0, 0])),
        # Smoothed: the root 4.25/17.5, 1 3.25/7.5 = 13/30, 2 1.25/10.5 = 5/42, 6 4.25/5.5; Finishes as they are; 8 and
        # 5 1.25/5.5 and 0, 10 and 3 0 and 1. Beside its best sibling 1 has 13/30 * 13/30 / (13/30 + 5/42) = 1183/3480,
        # 2 has 5/42 * 5/42 / (5/42 + 13/30) = 125/4872. No step is worth more than one before; a Reflect begins anew.
        (
            "contrasted",
            (
                [17 / 70, 1183 / 3480, 1183 / 3480],
                [17 / 70, 125 / 4872, 0, 17 / 22, 17 / 22],
                [17 / 70, 125 / 4872, 125 / 4872, 0],
                [17 / 70, 1183 / 3480, 0, 0],
            ),
        ),
    ],
)
def test_values_by_hand(how: str, values: tuple[list[float], ...]) -> None:
    mine = tree(nodes=ROLLED_OUT)
    found = values_on(mine, PATHS, StepValues(how))
    for path, own, expected in zip(PATHS, found, values, strict=True):
        assert own == pytest.approx(expected, abs=1e-5), path


def test_a_smoothed_value_has_a_line_below_which_a_step_is_wrong() -> None:
    # No smoothed share is 0: by the paper's line of 0 every step would be right, and a reward model learns nothing.
    values = [0.3, 0.5, 0.11, 0.1]
    assert step_labels(values, StepLabels.HARD, worthless=StepValues.CONTRASTED.worthless) == [None, 1.0, 1.0, 0.0]
    # Step 2 falls, and the next one falls on: .11 - (.5 - .1) is below the line.
    assert step_labels(values, StepLabels.DUAL, worthless=StepValues.CONTRASTED.worthless) == [None, 1.0, 0.0, 0.0]
    assert step_labels(values, StepLabels.SOFT, worthless=StepValues.CONTRASTED.worthless) == [None, 0.5, 0.11, 0.1]
