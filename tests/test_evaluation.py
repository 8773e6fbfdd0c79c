"""The parts of an evaluation by hand-worked numbers, brute force and scipy: curves of many problems at once, pairs of
runs, first errors, calibration, plots in characters."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsss_cli.errors import BadRecord
from medsss_cli.evaluation.compare import Answers, compare
from medsss_cli.evaluation.curves import HELD, ORDER, Curves, answer_scores, curve_values
from medsss_cli.evaluation.items import NO_FIELD, Item, field_of, item_reader
from medsss_cli.evaluation.measures import vote_columns
from medsss_cli.evaluation.provenance import Origin
from medsss_cli.evaluation.steps import StepItem, StepTotals, Trajectory, step_reader
from medsss_cli.evaluation.terminal import Bar, bar_plot, curve_plot
from medsss_cli.prm.aggregate import StepAggregation, aggregate_steps
from medsss_cli.selection import AnswerAggregation, select
from medsss_cli.stream.jsonl import Where

WHERE = Where("runs/gsm8k.jsonl", 7)
# Powers of four: means, products and roots of one or two of them are exact, so ties are ties in any arithmetic.
grid = st.sampled_from([0.0, 0.0625, 0.25, 1.0])


def item(id: str, keys: list[str | None], gold: str, scores: list[list[float]] | None = None, **more: Any) -> Item:
    correct = [key == gold for key in keys]
    return Item(id, "d", "samples", correct=correct, columns=vote_columns(keys, correct), scores=scores, **more)


# Curves


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(
            st.lists(
                st.tuples(st.sampled_from(["A", "B", "C", None]), st.lists(grid, max_size=2)), min_size=n, max_size=n
            ),
            min_size=1,
            max_size=3,
        )
    )
)
def test_all_problems_at_once_give_what_select_gives_one_by_one(
    problems: list[list[tuple[str | None, list[float]]]],
) -> None:
    """A batch that mixes up rows, ties or answers would put wrong curves into every report."""
    items = [item("p", [key for key, _ in rows], "A", [steps for _, steps in rows]) for rows in problems]
    n = len(problems[0])
    found = {(name, k): values for name, k, values in curve_values(items, range(1, n + 1), seed=0)}
    for step in StepAggregation:
        for way in (AnswerAggregation.MAX, AnswerAggregation.VOTE_SUM, AnswerAggregation.VOTE_MEAN):
            for k in range(1, n + 1):
                expected = []
                for rows in problems:
                    scores = [round(aggregate_steps(steps, step), 12) for _, steps in rows]
                    right = []
                    for subset in combinations(range(n), k):
                        chosen = select([rows[i][0] for i in subset], [scores[i] for i in subset], way)
                        right.append(rows[subset[chosen]][0] == "A")
                    expected.append(sum(right) / len(right))
                assert found[f"{step}-{way}", k] == pytest.approx(expected), (step, way, k)


def test_step_scores_of_many_are_those_of_each() -> None:
    rng = random.Random(3)
    rows = [[[rng.random() for _ in range(rng.randrange(5))] for _ in range(4)] for _ in range(50)]
    found = answer_scores([item(str(i), ["A"] * 4, "A", scores) for i, scores in enumerate(rows)])
    for how in StepAggregation:
        expected = [[aggregate_steps(steps, how) for steps in scores] for scores in rows]
        np.testing.assert_allclose(found[how], expected, rtol=1e-11)


def test_the_order_of_the_steps_decides_no_tie() -> None:
    """.1 + .2 + .3 is not .3 + .2 + .1 in floating point; two answers with these steps are as good."""
    found = answer_scores([item("p", ["A", "B"], "A", [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])])
    for how in ("prod", "mean", "gmean"):
        assert found[how][0, 0] == found[how][0, 1], how


def test_more_problems_than_are_held_at_once_all_count() -> None:
    curves = Curves(None, seed=0)
    for i in range(HELD * 2 + 10):
        n = 2 + i % 3
        curves.add(item(str(i), ["A"] * (i % 2) + ["B"] * (n - i % 2), "A"))
    tallies = curves.tallies()
    assert list(tallies) == ORDER[:2]
    assert tallies["pass@k"][1].count == HELD * 2 + 10
    assert tallies["pass@k"][4].count == (HELD * 2 + 10) // 3
    assert tallies["pass@k"][2].mean == pytest.approx(
        np.mean([(i % 2) * min(1, 2 / (2 + i % 3)) for i in range(HELD * 2 + 10)])
    )


# Reading


def test_a_path_into_the_record_or_its_meta() -> None:
    record = {"id": "p", "meta": {"clinic": {"kind": "curb_65"}, "year": 2020}, "task": "number"}
    assert field_of(record, "meta.clinic.kind") == field_of(record, "clinic.kind") == "curb_65"
    assert (field_of(record, "task"), field_of(record, "year")) == ("number", "2020")
    assert field_of(record, "meta.clinic.kind.x") == field_of(record, "none") == NO_FIELD


def test_what_the_short_way_takes_is_what_the_long_way_takes() -> None:
    """Judged records are read by one conversion, others by the adapters; both must mean the same."""
    texts = ["The answer is B.", "The answer is A.", "Hm.", "The answer is D."]
    problem = {"id": "p", "question": "Which?", "answer": "B", "options": {"A": "x", "B": "y"}, "task": "choice"}
    long = item_reader()(problem | {"response": texts}, WHERE)
    responses = [
        {"text": text, "answer": answer, "verdict": verdict}
        for text, answer, verdict in zip(
            texts, ["B", "A", None, "A"], ["correct", "wrong", "no_answer", "wrong"], strict=True
        )
    ]
    short = item_reader()(problem | {"responses": responses}, WHERE)
    assert long.correct == short.correct == [True, False, False, False]
    assert long.unparsed >= 1
    assert short.unparsed == 1
    assert short.columns[:3] == long.columns[:3]
    assert long.mark == short.mark != item_reader()(problem | {"answer": "A", "response": texts}, WHERE).mark


def test_forms_are_counted_where_records_carry_them() -> None:
    responses = [
        {"text": "", "answer": "B", "verdict": "correct", "form": form} for form in ("boxed", "boxed", "letter")
    ] + [{"text": "", "verdict": "no_answer"}]
    problem = {"id": "p", "question": "Which?", "answer": "B", "task": "choice", "responses": responses}
    assert item_reader()(problem, WHERE).forms == {"boxed": 2, "letter": 1}


# Two runs


def answers(values: dict[str, float], dataset: str = "d", marks: dict[str, int] | None = None) -> Answers:
    run = Answers()
    for id, value in values.items():
        good = round(value * 4)
        mark = (marks or {}).get(id, 1)
        run.add(Item(id, dataset, "samples", correct=[True] * good + [False] * (4 - good), mark=mark))
    return run


def test_pairs_by_hand() -> None:
    a = answers({"p": 1, "q": 0, "r": 0, "s": 1, "only-a": 1})
    b = answers({"s": 1, "r": 1, "q": 1, "p": 0, "only-b": 0, "too": 1})
    report = compare(a, b, seed=0, resamples=500)
    pairs = report["pairs"]
    assert (pairs["n"], pairs["a"], pairs["b"], pairs["difference"]["value"]) == (4, 0.5, 0.75, 0.25)
    assert (pairs["only_a_right"], pairs["only_b_right"], pairs["mcnemar_p"]) == (1, 2, 1.0)
    assert report["unmatched"] == {
        "only_a": {"n": 1, "ids": ["only-a"]},
        "only_b": {"n": 2, "ids": ["only-b", "too"]},
    }
    assert pairs["difference"]["low"] < 0.25 < pairs["difference"]["high"]


def test_shares_have_no_mcnemar() -> None:
    report = compare(answers({"p": 0.5, "q": 1}), answers({"p": 1, "q": 1}), seed=0, resamples=100)
    assert report["pairs"]["mcnemar_p"] is None
    assert report["pairs"]["difference"]["value"] == 0.25


def test_one_id_for_two_problems_is_told() -> None:
    """Two clinics of different seeds may use one id: the difference of such runs means nothing."""
    a, b = answers({"p": 1, "q": 1}, marks={"p": 5}), answers({"p": 1, "q": 0}, marks={"p": 6})
    assert compare(a, b, seed=0, resamples=100)["different_problems"] == {"n": 1, "ids": ["p"]}


def test_a_failed_problem_belongs_to_the_data_set_of_the_other_run() -> None:
    a = answers({"p": 1, "q": 1})
    b = answers({"q": 1})
    b.add(Item("p", "(failed)", "failed"))
    report = compare(a, b, seed=0, resamples=100)
    assert list(report["datasets"]) == ["d"]
    assert report["datasets"]["d"]["b"] == 0.5
    swapped = compare(b, a, seed=0, resamples=100)
    assert swapped["datasets"]["d"]["n"] == 2
    assert swapped["failed"] == {"a": 1, "b": 0}


def test_nothing_in_common() -> None:
    with pytest.raises(ValueError, match="no id is in both"):
        compare(answers({"p": 1}), answers({"q": 1}), seed=0, resamples=10)


# Steps


def totals(*items: StepItem, threshold: float = 0.5) -> dict[str, Any]:
    counted = StepTotals(threshold)
    for each in items:
        counted.add(each)
    return counted.report(Origin(None, [], {}, bad_lines=0, seed=0, resamples=200))


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
    assert (first["wrong"]["n"], first["right"]["n"], report["undecided"]) == (3, 3, 1)
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


@pytest.mark.parametrize("threshold", [0.0, 0.33, 0.5, 1.0])
def test_every_threshold_is_what_it_says(threshold: float) -> None:
    """The grid is counted by intervals; at the chosen threshold both ways must agree."""
    rng = random.Random(1)
    items = []
    for i in range(200):
        n = rng.randint(1, 5)
        first = rng.randint(-1, n - 1)
        labels = [first < 0 or step < first for step in range(n)]
        items.append(StepItem(str(i), "d", [Trajectory([round(rng.random(), 1) for _ in range(n)], list(labels))]))
    report = totals(*items, threshold=threshold)
    [row] = [row for row in report["by_threshold"] if row["threshold"] == threshold]
    assert row["wrong"] == report["first_error"]["wrong"]["value"]
    assert row["right"] == report["first_error"]["right"]["value"]


def test_auroc_brier_and_calibration_against_scipy() -> None:
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.beta(4, 1, 3000), rng.beta(1, 2, 2000), [1 - 1e-9, 1 - 1e-8, 1.0, 0.0]])
    golds = [*([True] * 3000), *([False] * 2000), True, False, True, False]
    report = totals(StepItem("p", "d", [Trajectory(scores.tolist(), list(golds))]))
    right, wrong = scores[golds], scores[~np.asarray(golds)]
    expected = mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
    assert report["auroc"] == pytest.approx(expected, abs=2e-5)
    assert report["brier"] == pytest.approx(float(np.mean((scores - np.asarray(golds)) ** 2)), abs=1e-6)
    edges = np.minimum((scores * 15).astype(int), 14)
    gap = sum(abs((scores[edges == i] - np.asarray(golds)[edges == i]).sum()) for i in range(15))
    assert report["ece"] == pytest.approx(gap / len(scores), abs=1e-6)
    assert sum(row["n"] for row in report["reliability"]) == report["steps"] == 5004


def test_scores_near_one_are_told_apart() -> None:
    """A sure reward model writes .999999: on a plain grid its best and worst steps would tie."""
    steps = [Trajectory([1 - 1e-6, 1 - 2e-6], [True, False])]
    assert totals(StepItem("p", "d", steps))["auroc"] == 1.0


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
    [found] = step_reader()(scored, WHERE).trajectories
    assert found == ([0.9, 0.2, 0.7], [True, False, None])
    assert step_reader()(scored, WHERE).dataset == "gsm8k"
    [right] = step_reader()(scored | {"label": -1}, WHERE).trajectories
    assert right.labels == [True, True, True]
    with pytest.raises(BadRecord, match="gsm8k-3: no step scores"):
        step_reader()(row, WHERE)
    with pytest.raises(BadRecord, match="index of the first wrong step"):
        step_reader()(scored | {"label": 3}, WHERE)
    with pytest.raises(BadRecord, match="2 step scores but gold for 3 steps"):
        step_reader()(scored | {"step_scores": [0.9, 0.2]}, WHERE)
    # As `bon` writes it, with the label under `meta`.
    through_bon = {"id": "gsm8k-3", "meta": {"label": 1}, "candidates": [{"text": "", "step_scores": [0.9, 0.2, 0.7]}]}
    assert step_reader()(through_bon, WHERE).trajectories == [found]


def test_prm_records_with_gold_labels() -> None:
    record = {"id": "p", "completions": ["Let's", "a", "b"], "labels": [None, 1, 0.0], "scores": [0.9, 0.1]}
    [found] = step_reader()(record, WHERE).trajectories
    assert found.labels == [True, False]
    for broken, message in (
        ({"labels": [None, 1, 2]}, "`labels` must be"),
        ({"labels": None}, "no gold"),
        ({"scores": [0.9, "x"]}, "`step_scores` must be"),
        ({"completions": None}, "no steps"),
    ):
        with pytest.raises(BadRecord, match=message):
            step_reader()(record | broken, WHERE)


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
    found = step_reader()(record, WHERE)
    assert [trajectory.labels for trajectory in found.trajectories] == [
        [True] * len(scores),
        [True] * (len(scores) - 1) + [False],
    ]
    assert found.unscored == 1


# Plots in characters


def test_curves_fit_a_narrow_terminal() -> None:
    curves = {f"min-vote-sum-{i}": [(k, 0.3 + i / 20 + k / 100) for k in (1, 2, 4, 8, 16, 32)] for i in range(5)}
    for width in (40, 79, 100):
        lines = curve_plot(curves, width)
        assert max(map(len, lines)) <= max(width, 40)
        assert all(line.isascii() and line.isprintable() for line in lines)
    text = "\n".join(curve_plot({"pass@k": [(1, 0.5), (2, 0.75)], "majority@k": [(1, 0.5), (2, 0.5)]}, 79))
    assert "a pass@k   b majority@k" in text
    assert text.count("*") == 1  # where the two begin together
    assert curve_plot({}) == []
    assert curve_plot({"flat": [(1, 0.0)]})  # one point, no span


def test_bars() -> None:
    lines = bar_plot([Bar("half", 0.5, 0.25, 0.75, "n 4"), Bar("x" * 200, 1.0, 1.0, 1.0, "n 1000")], 60)
    assert max(map(len, lines)) <= 60
    assert lines[0].count("#") + lines[0].count("|") == lines[1].count("#") / 2
    assert "50.0  " in lines[0]
    assert bar_plot([]) == []
