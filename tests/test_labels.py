"""Step labels against the numbers worked by hand in the design and in the module."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsss_cli.labelling.labels import StepLabels, step_labels

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
    ],
)
def test_by_hand(values: list[float], how: str, expected: list[float]) -> None:
    first, *labels = step_labels(values, StepLabels(how))
    assert first is None
    assert labels == pytest.approx(expected)


def test_the_weight_of_the_penalty() -> None:
    # .2 - b * .7 is positive for b = .25 and not for b = .3
    assert step_labels(DESIGN, StepLabels.DUAL, b=0.25)[2] == 1.0
    assert step_labels(DESIGN, StepLabels.DUAL, b=0.3)[2] == 0.0
    assert step_labels(DESIGN, StepLabels.DUAL, b=0.0) == [None, 1, 1, 1, 0]
    assert step_labels(DESIGN, StepLabels.DUAL_SOFT, b=0.0) == step_labels(DESIGN, StepLabels.SOFT)


def test_the_threshold_of_monotone() -> None:
    assert step_labels([0, 0.3, 0.3, 0.6], StepLabels.MONOTONE, threshold=0.25) == [None, 1, 1, 1]
    assert step_labels([0, 0.3, 0.3, 0.6], StepLabels.MONOTONE, threshold=0.3) == [None, 0, 0, 1]


def test_the_residue_of_floating_point_is_no_label() -> None:
    # .1 + .2 - .3 is 5.6e-17: rounding that up would call a worthless step right.
    assert 0.1 + 0.2 - 0.3 > 0
    for how in (StepLabels.DUAL, StepLabels.HARD):
        assert step_labels([0.5, 0.1 + 0.2 - 0.3, 0.5], how)[1] == 0.0
    # .3 - (.9 - .6) is 5.6e-17 too, by way of the penalty.
    assert step_labels([0.9, 0.3, 0.6], StepLabels.DUAL)[1] == 0.0


def test_short_paths() -> None:
    for how in StepLabels:
        assert step_labels([], how) == []
        assert step_labels([0.4], how) == [None]
        assert step_labels([0.4, 1.0], how) == [None, 1.0]
        assert step_labels([0.4, 0.0], how) == [None, 0.0]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_values_outside_their_range(value: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        step_labels([0.5, value], StepLabels.SOFT)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from(list(StepLabels)), st.floats(0, 3))
def test_labels_stay_in_range(values: list[float], how: StepLabels, b: float) -> None:
    first, *labels = step_labels(values, how, b=b)
    assert first is None
    assert len(labels) == len(values) - 1
    assert all(label is not None and 0.0 <= label <= 1.0 for label in labels)
    if how not in (StepLabels.SOFT, StepLabels.DUAL_SOFT):
        assert set(labels) <= {0.0, 1.0}
