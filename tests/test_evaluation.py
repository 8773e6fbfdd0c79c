"""The parts of an evaluation by numbers worked by hand, brute force over subsets and published implementations: records
read, curves, intervals, pairs of runs, first errors, calibration."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, mannwhitneyu

from medsss_cli.errors import BadRecord
from medsss_cli.evaluation.intervals import difference_interval, mean_interval, sign_flip_p
from medsss_cli.evaluation.items import NO_FIELD, Item, candidate_scores, field_of
from medsss_cli.evaluation.measures import (
    DRAWS,
    NO_VOTE,
    best_of_k,
    k_values,
    majority_at_k,
    pass_at_k,
    vote_columns,
    votes_at_k,
)
from medsss_cli.evaluation.reports import answers_report, comparison_report, curve_points
from medsss_cli.evaluation.steps import StepItem, Trajectory, read_steps, step_report
from medsss_cli.prm.aggregate import StepAggregation, aggregate_steps
from medsss_cli.selection import AnswerAggregation, select
from medsss_cli.stream.jsonl import Where

WHERE = Where("runs/gsm8k.jsonl", 7)
Z = 1.959963984540054
# Powers of four: means, products and roots of one or two of them are exact, so ties are ties in any arithmetic.
grid = st.sampled_from([0.0, 0.0625, 0.25, 1.0])


def item(
    id: str,
    keys: list[str | None],
    gold: Collection[str],
    scores: list[list[float]] | None = None,
    dataset: str = "d",
    **more: Any,
) -> Item:
    correct = [key is not None and key in gold for key in keys]
    return Item(
        id,
        dataset,
        correct=correct,
        columns=vote_columns(keys, correct),
        readable=[key is not None for key in keys],
        scores_AN=None if scores is None else candidate_scores(scores),
        **more,
    )


def columns_of(answers: Sequence[str | None], *right: str) -> list[int]:
    return vote_columns(answers, [answer in right for answer in answers])


def test_one_of_k_by_hand() -> None:
    assert (pass_at_k(4, 1, 2), pass_at_k(4, 0, 4), pass_at_k(4, 1, 4)) == (0.5, 0.0, 1.0)
    assert pass_at_k(5000, 1, 2500) == pytest.approx(0.5)  # factorials of this size are no trouble
    for n, c, k in [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)]:
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(n, c, k)
    # Correct is only the second best of three: of AB, AC, BC only BC selects it; log-probabilities choose alike.
    for scores in ([0.9, 0.5, 0.1], [-9.0, -50.0, -100.0]):
        assert best_of_k(scores, columns_of("ABC", "B"), 2) == pytest.approx(1 / 3)
    # A B B, B correct, k = 2: AB is a tie that A wins, AB again, BB is right.
    assert [majority_at_k(columns_of("ABB", "B"), k) for k in (2, 3)] == [pytest.approx(1 / 3), 1.0]


def test_votes_that_are_drawn_are_near_what_they_estimate() -> None:
    """Draws of each problem are its own: the mean of many problems is not off by what one draw of subsets is off."""
    rng = random.Random(5)
    columns = columns_of([rng.choice("AABC") for _ in range(16)], "A")
    ones = np.ones((1, 16))  # votes that all weigh the same: the majority, which is exact
    exact = majority_at_k(columns, 8)
    votes = [votes_at_k(columns, ones, 8, [0, problem])[0, 0] for problem in range(400)]
    error = math.sqrt(exact * (1 - exact) / DRAWS / 400)
    assert abs(fmean(votes) - exact) < 4 * error < 0.01
    assert votes_at_k(columns, ones, 8, [0, 7])[0, 0] == votes[7]  # fixed by the seed


def test_where_curves_are_drawn() -> None:
    assert [k_values(n) for n in (1, 2, 3, 8, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]
    assert columns_of(["x", None, "A", "x", "C"], "A", "C") == [-1, NO_VOTE, 0, -1, 1]


# Curves


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["A", "B", "C", None]), st.lists(grid, max_size=2)), min_size=1, max_size=6),
    st.sets(st.sampled_from("ABC")),
)
def test_every_curve_is_what_select_does_on_every_subset(
    rows: list[tuple[str | None, list[float]]], gold: set[str]
) -> None:
    """A curve that mixes up rows, ties or answers would be wrong in every report. Several answers may be right: "84"
    and "84.0 mmHg" where they have different keys."""
    answers = [key for key, _ in rows]
    one = item("p", answers, gold, [steps for _, steps in rows])
    n = len(rows)

    def chance(scores: Sequence[float], how: AnswerAggregation, k: int) -> float:
        """The share of the subsets of k, in list order, of which `select` takes a right one."""
        right = []
        for subset in combinations(range(n), k):
            chosen = select([answers[i] for i in subset], [scores[i] for i in subset], how)
            right.append(answers[subset[chosen]] in gold)
        return fmean(right)

    for k in range(1, n + 1):
        found = dict(curve_points(one, k))
        any_right = [any(answers[i] in gold for i in subset) for subset in combinations(range(n), k)]
        assert found["pass"] == pytest.approx(fmean(any_right))
        assert found["majority"] == pytest.approx(chance([0.5] * n, AnswerAggregation.MAJORITY, k))
        for step in StepAggregation:
            scores = [round(aggregate_steps(steps, step), 12) for _, steps in rows]
            for way in (AnswerAggregation.MAX, AnswerAggregation.VOTE_SUM, AnswerAggregation.VOTE_MEAN):
                assert found[f"{step}-{way}"] == pytest.approx(chance(scores, way, k)), (step, way, k)


def test_the_order_of_the_steps_decides_no_tie() -> None:
    """.1 + .2 + .3 is not .3 + .2 + .1 in floating point; two answers with these steps are as good."""
    found = candidate_scores([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    for row, how in enumerate(StepAggregation):
        if how is not StepAggregation.LAST:
            assert found[row, 0] == found[row, 1], how


def test_the_likeliest_of_k_by_hand() -> None:
    """What a reward model has to beat, free of charge: the answer that the policy itself found most probable."""
    one = item("p", ["A", "B", None], "B", logprobs=[-5.0, -7.5, -1.0])
    # Pairs: AB gives A, A- gives A, B- gives B, for what says nothing is chosen last.
    assert dict(curve_points(one, 2))["likeliest"] == pytest.approx(1 / 3)
    assert "likeliest" not in dict(curve_points(item("p", ["A", "B"], "B"), 2))


def report_of(*items: Item, **more: Any) -> dict[str, Any]:
    return answers_report(items, **more)


def test_the_order_of_the_problems_changes_nothing() -> None:
    """What is drawn for a problem depends on that problem and the seed alone."""
    rng = random.Random(3)
    items = [
        item(f"p{i}", [rng.choice("AABC") for _ in range(16)], "A", [[rng.random()] for _ in range(16)], mark=i)
        for i in range(20)
    ]
    one, other = report_of(*items), report_of(*items[::-1])
    assert one["best_of_k"] == other["best_of_k"]
    assert one["majority_at_k"] == other["majority_at_k"]


def test_readable_answers_alone() -> None:
    """Of 29 % right with 15 % unread one wants to know what is form and what is content."""
    report = report_of(item("p", ["A", "B", None, None], "A"), item("q", [None, None], "A"), item("r", ["A"], "A"))
    assert (report["readable"]["n"], report["readable"]["value"]) == (2, 0.75)
    assert report["micro"]["value"] == pytest.approx((0.25 + 0 + 1) / 3, abs=1e-6)
    chosen = item("p", ["A", None], "A", selected=1)
    assert (chosen.value, chosen.readable_value) == (0.0, None)


def test_macro_by_hand() -> None:
    """Two data sets: the squares of half of what each moves the mean by are added."""
    report = report_of(
        *(item(f"a{i}", ["A"], "A", dataset="a") for i in range(30)),
        *(item(f"b{i}", ["A" if i % 2 else "B"], "A", dataset="b") for i in range(10)),
    )
    a, b = report["datasets"]["a"], report["datasets"]["b"]
    assert (report["macro"]["value"], report["macro"]["datasets"]) == (0.75, 2)
    low = 0.75 - (((1 - a["low"]) / 2) ** 2 + ((0.5 - b["low"]) / 2) ** 2) ** 0.5
    assert report["macro"]["low"] == pytest.approx(low, abs=1e-5)
    assert report["micro"]["value"] == 0.875


# Reading


def test_a_path_into_the_record_or_its_meta() -> None:
    record = {"id": "p", "meta": {"clinic": {"kind": "curb_65"}, "year": 2020}, "task": "number"}
    assert field_of(record, "meta.clinic.kind") == field_of(record, "clinic.kind") == "curb_65"
    assert (field_of(record, "task"), field_of(record, "year")) == ("number", "2020")
    assert field_of(record, "meta.clinic.kind.x") == field_of(record, "none") == NO_FIELD


# Intervals and the paired test


def test_wilson_by_hand_and_by_scipy() -> None:
    assert mean_interval([1] * 30) == (1.0, pytest.approx(1 / (1 + Z**2 / 30)), 1.0)
    assert mean_interval([0] * 30) == (0.0, 0.0, pytest.approx(1 - 1 / (1 + Z**2 / 30)))
    for good, n in [(0, 1), (1, 1), (3, 7), (29, 30), (500, 6811)]:
        theirs = binomtest(good, n).proportion_ci(method="wilson")
        assert mean_interval([1] * good + [0] * (n - good))[1:] == pytest.approx((theirs.low, theirs.high))


def test_shares_by_hand() -> None:
    # .25 and .75, with 0 and 1 added: mean .5, squares (.0625 + .5625 + 1) / 4 = .40625, variance .15625.
    half = Z * math.sqrt(0.15625 / 4)
    assert mean_interval([0.25, 0.75]) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    # Shares are ratios of size 1; problems of two sizes weigh by size.
    assert mean_interval([1, 3], [4, 4]) == pytest.approx(mean_interval([0.25, 0.75]))
    assert mean_interval([1, 4], [2, 8]).mean == 0.5
    for wrong in ([], [1.5], [float("nan")], [-0.5]):
        with pytest.raises(ValueError, match="values"):
            mean_interval(wrong)


def test_differences_by_hand() -> None:
    half = Z * math.sqrt(2 / 102 / 102)
    assert difference_interval([0] * 100) == pytest.approx((0, -half, half))
    low = difference_interval([1] * 12).low  # 12 of 14, squares 14 / 14
    assert low == pytest.approx(12 / 14 - Z * math.sqrt((1 - (12 / 14) ** 2) / 14))
    with pytest.raises(ValueError, match="no values"):
        difference_interval([])


def test_the_paired_test_by_hand() -> None:
    assert sign_flip_p([1, 0.5, 0.5]) == pytest.approx(0.25)
    assert sign_flip_p([1, -1, -1, -1, -1, -1, 0]) == pytest.approx(2 * 7 / 64)
    assert sign_flip_p([0, 0]) == sign_flip_p([0.5, -0.25, -0.25]) == 1.0
    # One pair can say nothing: the bootstrap of version 0.1 gave .0005.
    assert sign_flip_p([1.0]) == sign_flip_p([0.3]) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-12, 12), min_size=1, max_size=10), st.sampled_from([1, 12, 16, 7]))
def test_the_paired_test_is_the_count_of_all_signs(units: list[int], unit: int) -> None:
    expected = fmean(
        abs(sum(s * u for s, u in zip(signs, units, strict=True))) >= abs(sum(units))
        for signs in np.stack(np.meshgrid(*[[1, -1]] * len(units)), -1).reshape(-1, len(units)).tolist()
    )
    assert sign_flip_p([u / 12 / unit for u in units]) == pytest.approx(expected, abs=1e-9)


def test_of_right_and_wrong_the_paired_test_is_mcnemar_s() -> None:
    for a, b in [(0, 1), (0, 9), (3, 8), (40, 61), (480, 530), (700, 1900)]:
        assert sign_flip_p([-1] * a + [1] * b + [0] * 7) == pytest.approx(binomtest(a, a + b).pvalue, rel=1e-9)


# Two runs


def run_of(values: dict[str, float], marks: dict[str, int] | None = None) -> list[Item]:
    items = []
    for id, value in values.items():
        good = round(value * 4)
        items.append(item(id, ["A"] * good + ["B"] * (4 - good), "A", mark=(marks or {}).get(id, 1)))
    return items


def test_shares_have_the_same_test() -> None:
    """McNemar's wants one verdict a problem; the count of all signs does not."""
    a, b = run_of({"p": 0.5, "q": 1, "r": 0.25, "s": 0.5}), run_of({"p": 1, "q": 1, "r": 0.5, "s": 0.75})
    pairs = comparison_report(a, b)["pairs"]
    assert (pairs["only_a_right"], pairs["only_b_right"]) == (None, None)
    assert pairs["difference"]["value"] == 0.25
    assert pairs["difference"]["p"] == 0.25  # three differences of one sign: 2 of 8


def test_one_id_for_two_problems_is_told() -> None:
    """Two clinics of different seeds may use one id: the difference of such runs means nothing."""
    a, b = run_of({"p": 1, "q": 1}, marks={"p": 5}), run_of({"p": 1, "q": 0}, marks={"p": 6})
    assert comparison_report(a, b)["different_problems"] == {"n": 1, "ids": ["p"]}


# Steps


def totals(*items: StepItem, threshold: float = 0.5) -> dict[str, Any]:
    return step_report(items, threshold)


def test_first_errors_by_hand() -> None:
    right, wrong = True, False
    report = totals(
        StepItem("a", "d", [Trajectory([0.9, 0.2, 0.1], [right, wrong, None])]),  # found
        StepItem("b", "d", [Trajectory([0.4, 0.2], [right, wrong])]),  # a step too early
        StepItem("c", "d", [Trajectory([0.9, 0.6, 0.1], [right, wrong, wrong])]),  # a step too late
        StepItem("e", "d", [Trajectory([0.9, 0.5], [right, right])]),  # .5 is not below .5
        StepItem("f", "d", [Trajectory([0.9, 0.4], [right, right])]),  # a false alarm
        StepItem("g", "e", [Trajectory([0.9], [right])]),
        StepItem("h", "e", [Trajectory([0.9, 0.9], [right, None])]),  # nobody knows whether the rest is right
    )
    first = report["first_error"]
    assert (first["wrong"]["n"], first["right"]["n"], report["trajectories"]) == (3, 3, 7)
    assert first["wrong"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert first["right"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert first["f1"]["value"] == pytest.approx(2 * (1 / 3) * (2 / 3) / 1, abs=1e-6)
    assert first["f1"]["low"] < first["f1"]["value"] < first["f1"]["high"]
    assert report["datasets"]["e"]["f1"] is None  # no wrong trajectory there
    at = {row["threshold"]: row for row in report["by_threshold"]}
    assert at[0.5]["f1"] == first["f1"]["value"]
    # At .7 a and c are found, b is not; no right trajectory but g passes.
    assert (at[0.7]["wrong"], at[0.7]["right"]) == (pytest.approx(2 / 3, abs=1e-6), pytest.approx(1 / 3, abs=1e-6))
    # At .3 a and b are found.
    assert (at[0.3]["wrong"], at[0.3]["right"]) == (pytest.approx(2 / 3, abs=1e-6), 1.0)


def test_auroc_brier_and_calibration_against_scipy() -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.beta(4, 1, 3000), rng.beta(1, 2, 2000), [1 - 1e-9, 1 - 1e-8, 1.0, 0.0]])
    golds = [*([True] * 3000), *([False] * 2000), True, False, True, False]
    report = totals(StepItem("p", "d", [Trajectory(scores.tolist(), list(golds))]))
    right, wrong = scores[golds], scores[~np.asarray(golds)]
    expected = mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
    assert report["auroc"] == pytest.approx(expected, abs=1e-6)
    assert report["brier"] == pytest.approx(float(np.mean((scores - np.asarray(golds)) ** 2)), abs=1e-6)
    edges = np.minimum((scores * 15).astype(int), 14)
    gap = sum(abs((scores[edges == i] - np.asarray(golds)[edges == i]).sum()) for i in range(15))
    assert report["ece"] == pytest.approx(gap / len(scores), abs=1e-6)
    assert sum(row["n"] for row in report["reliability"]) == report["steps"] == 5004


def test_processbench_as_it_is() -> None:
    """https://arxiv.org/abs/2412.06559: label is the first wrong step from 0, or -1."""
    row = {
        "id": "gsm8k-3",
        "generator": "Qwen2-7B-Instruct",
        "problem": "A nurse gives 3 doses of 2 mL. How much in all?",
        "steps": ["Each dose is 2 mL.", "3 * 2 = 5.", "The answer is 5."],
        "final_answer_correct": False,
        "label": 1,
    }
    scored = row | {"step_scores": [0.9, 0.2, 0.7]}
    [found] = read_steps(scored, WHERE).trajectories
    assert found == ([0.9, 0.2, 0.7], [True, False, None])
    assert read_steps(scored, WHERE).dataset == "gsm8k"
    [right] = read_steps(scored | {"label": -1}, WHERE).trajectories
    assert right.labels == [True, True, True]
    with pytest.raises(BadRecord, match="gsm8k-3: no step scores"):
        read_steps(row, WHERE)
    with pytest.raises(BadRecord, match="2 step scores but gold for 4 steps"):
        read_steps(scored | {"step_scores": [0.9, 0.2]}, WHERE)


def test_prm_records_with_gold_labels() -> None:
    record = {"prompt": "?", "completions": ["Let's", "a", "b"], "labels": [None, 1, 0.0], "scores": [0.9, 0.1]}
    found = read_steps(record, WHERE)
    assert (found.dataset, found.trajectories[0].labels) == ("gsm8k", [True, False])
    for broken, message in (
        ({"labels": [None, 1, 2]}, r"the label 2.0, outside \[0, 1\]"),
        ({"scores": [0.9, "x"]}, "`step_scores` must be"),
        ({"completions": None}, "completions"),
    ):
        with pytest.raises(BadRecord, match=message):
            read_steps(record | broken, WHERE)


def test_the_clinic_gives_the_gold() -> None:
    from medsss_cli.clinic.problems import Split, problems, write_steps
    from medsss_cli.records import dump
    from medsss_cli.steps import join_steps

    [problem] = problems(1, seed=0, split=Split.TEST, kinds=["mean_arterial_pressure"])
    steps = write_steps(problem)
    good = join_steps(steps)
    bad = join_steps([*steps[:-1], "1 + 1 = 3."])
    scores = [0.9] * (len(steps) - 1)
    record = dump(problem) | {
        "candidates": [
            {"text": good, "step_scores": scores},
            {"text": bad, "step_scores": scores},
            {"text": good, "step_scores": []},  # too long for the reward model
        ]
    }
    found = read_steps(record, WHERE)
    assert [trajectory.labels for trajectory in found.trajectories] == [
        [True] * len(scores),
        [True] * (len(scores) - 1) + [False],
    ]
    assert found.unscored == 1
