"""The clinic: every kind against numbers worked by hand, the splits, the slips and the checker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
from helpers import read_jsonl, run_medsss
from hypothesis import given, settings
from hypothesis import strategies as st

from medsss_cli.clinic.checker import StepVerdict, answer_is_right, check, check_steps, gold_labels, parse_sum
from medsss_cli.clinic.corpus import chats, correction
from medsss_cli.clinic.kinds import KINDS
from medsss_cli.clinic.problems import (
    Split,
    applicable_slips,
    make_problem,
    problems,
    solution,
    value_key,
    write_steps,
)
from medsss_cli.errors import BadRecord, UsageError
from medsss_cli.prompts import question_text
from medsss_cli.records import Problem, Task, dump, parse
from medsss_cli.steps import join_steps, split_steps

SOME = list(problems(340, seed=7))


def make(kind: str, **values: Any) -> Problem:
    return make_problem(KINDS[kind], values, Random(0), "hand")


# Worked by hand, each from the formula in the name.
BY_HAND: list[tuple[str, dict[str, Any], str]] = [
    ("anion_gap", {"na": 140, "cl": 104, "hco3": 24}, "12"),  # 140 - 104 - 24
    ("mean_arterial_pressure", {"sbp": 120, "dbp": 90}, "100"),  # 90 + 30/3
    ("corrected_calcium", {"ca": 210, "albumin": 28}, "2.34"),  # 2.10 + 0.02 x 12
    ("osmolality", {"na": 140, "glucose": 8, "urea": 6}, "294"),  # 280 + 8 + 6
    ("glasgow_coma_scale", {"was": 15, "eyes": 2, "speech": 4, "motor": 5}, "4"),  # 15 - 11
    ("curb_65", {"confused": 1, "urea": 8, "rr": 29, "sbp": 89, "age": 65}, "4"),  # all but the rate
    ("cha2ds2_vasc", {"age": 77, "sex": "woman", "risks": ["diabetes", "stroke"]}, "6"),  # 2 + 1 + 1 + 2
    ("cha2ds2_vasc", {"age": 65, "sex": "man", "risks": ["hypertension"]}, "2"),
    ("qsofa", {"rr": 22, "sbp": 100, "gcs": 15}, "2"),  # both cut-offs count
    ("dose_volume", {"kg": 20, "dose": 5, "strength": 10}, "10"),  # 44 lb; 100 mg / 10
    ("divided_dose", {"kg": 15, "daily": 40, "hours": 8}, "200"),  # 600 / 3
    ("maintenance_fluid", {"kg": 28, "given": 30}, "38"),  # 40 + 20 + 8 - 30
    ("maintenance_fluid", {"kg": 14, "given": 20}, "28"),  # 40 + 8 - 20
    ("drip_rate", {"rate": 120, "hours": 5, "drops": 20}, "40"),  # 600 mL / 5 h = 2 mL/min
]


@pytest.mark.parametrize(("kind", "values", "answer"), BY_HAND)
def test_formulas_by_hand(kind: str, values: dict[str, Any], answer: str) -> None:
    assert KINDS[kind].solve(values, None).answer == answer


@pytest.mark.parametrize(
    ("values", "tag"),
    [
        ({"walks": 1, "rr": 40, "refill": 4, "obeys": 0}, "minor"),
        ({"walks": 0, "rr": 31, "refill": 1, "obeys": 1}, "immediate"),
        ({"walks": 0, "rr": 30, "refill": 3, "obeys": 1}, "immediate"),
        ({"walks": 0, "rr": 30, "refill": 2, "obeys": 0}, "immediate"),
        ({"walks": 0, "rr": 30, "refill": 2, "obeys": 1}, "delayed"),
    ],
)
def test_start_by_hand(values: dict[str, Any], tag: str) -> None:
    assert KINDS["start_triage"].solve(values, None).answer == tag


# Splits and seeds


def test_splits_share_no_values() -> None:
    keys = {
        split: {
            value_key(p.meta["clinic"]["kind"], p.meta["clinic"]["values"])
            for seed in range(2)
            for p in problems(500, seed=seed, split=split)
        }
        for split in Split
    }
    assert not keys[Split.TRAIN] & keys[Split.SEED]
    assert not keys[Split.TRAIN] & keys[Split.TEST]
    assert not keys[Split.SEED] & keys[Split.TEST]
    questions = {split: {(p.question, str(p.options)) for p in problems(500, split=split)} for split in Split}
    assert not questions[Split.TRAIN] & questions[Split.TEST]


def test_corpus_holds_train_problems_only() -> None:
    held_out = {question_text(p) for split in (Split.SEED, Split.TEST) for p in problems(1000, split=split, seed=1)}
    for chat in islice(chats(5), 3000):
        assert next(m.content for m in chat if m.role == "user") not in held_out


def digest(objects: Iterable[Any]) -> str:
    text = "".join(json.dumps(each, ensure_ascii=False) for each in objects)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("split", "expected"), [("train", "bd53bd8adc0c5630"), ("seed", "83c13ce802acaa78"), ("test", "e17185fbc49f0e85")]
)
def test_no_problem_moves(split: str, expected: str) -> None:
    """The shipped policy was trained on `train`, and published figures are of `test`: byte for byte."""
    assert digest(dump(p) for p in problems(600, seed=3, split=Split(split))) == expected


def test_the_corpus_is_that_of_the_shipped_policy() -> None:
    assert digest([dump(m) for m in chat] for chat in islice(chats(0, 0.4), 600)) == "77bb12c0f52af34b"


def test_same_seed_same_problems_and_a_longer_run_begins_the_same() -> None:
    assert list(problems(60, seed=3)) == list(problems(90, seed=3))[:60]
    assert list(problems(60, seed=3)) != list(problems(60, seed=4))
    assert len({p.id for p in problems(200, seed=3)}) == 200


def test_no_values_twice_while_there_are_new_ones_and_no_end() -> None:
    seen: dict[str, set[str]] = {}
    for p in problems(600, seed=1):
        kind, values = p.meta["clinic"]["kind"], p.meta["clinic"]["values"]
        seen.setdefault(kind, set()).add(value_key(kind, values))
    # 40 of each asked for; the smallest kinds have about 50 combinations in a split.
    assert {len(keys) for keys in seen.values()} == {40}
    few = list(problems(200, seed=1, kinds=["mean_arterial_pressure"]))
    assert len(few) == 200


def test_forms() -> None:
    some = list(problems(600))
    choices = [p for p in some if p.task is Task.CHOICE]
    assert 0.2 < len(choices) / len(some) < 0.35  # four kinds of fifteen are choices
    for p in some:
        assert parse(Problem, dump(p)) == p
        if p.task is Task.CHOICE:
            assert p.options is not None
            assert list(p.options) == list("ABCD")
            assert len(set(p.options.values())) == 4
            assert p.options[p.answer] == solution(p).answer
        else:
            assert p.options is None
            float(p.answer)
    letters = [p.answer for p in choices]
    assert all(0.1 < letters.count(letter) / len(letters) < 0.4 for letter in "ABCD")


def test_unknown_names_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="no clinic kind 'x'"):
        problems(1, kinds=["x"])
    with pytest.raises(UsageError, match="no clinic domain"):
        problems(1, domains=["x"])
    with pytest.raises(UsageError, match="no kind is in the domains"):
        problems(1, kinds=["anion_gap"], domains=["fluids"])


# Written solutions and slips


def test_gold_solutions_pass_step_by_step() -> None:
    for p in SOME[:170]:
        rng = Random(p.id)
        for steps in (write_steps(p), *(write_steps(p, None, rng) for _ in range(4))):
            assert 3 <= len(steps) <= 5
            text = join_steps(steps)
            assert split_steps(text) == steps
            checked = check(p, text)
            assert [c.number for c in checked] == list(range(len(steps)))
            assert {c.verdict for c in checked} == {StepVerdict.RIGHT}, (p.id, checked)
            assert [c.states_answer for c in checked] == [False] * (len(steps) - 1) + [True]
            assert answer_is_right(p, text)
            assert gold_labels(p, steps) == [None] + [1] * (len(steps) - 1)


# Kind and slip -> the step where it shows.
SHOWS_AT = {
    ("interaction", "blocker_confused"): 2,
    ("contraindication", "member_confused"): 2,
    ("qsofa", "pressure_cutoff"): 2,
    ("cha2ds2_vasc", "stroke_one_point"): 2,
    ("drip_rate", "wrong_set"): 2,
    ("start_triage", "rate_cutoff"): 2,
    ("start_triage", "refill_cutoff"): 2,
    ("dose_volume", "milligrams_as_millilitres"): 2,
    ("curb_65", "age_forgotten"): 2,
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_slip_is_caught_where_it_happens(kind: str) -> None:
    rng = Random(kind)
    met = set()
    for p in problems(90, kinds=[kind], seed=2):
        for slip in applicable_slips(p):
            met.add(slip)
            steps = write_steps(p, slip, rng)
            at = SHOWS_AT.get((kind, slip), 1)
            checked = check_steps(p, steps)
            assert checked[at].verdict is StepVerdict.WRONG
            assert checked[-1].verdict is StepVerdict.WRONG
            assert not answer_is_right(p, join_steps(steps))
            assert gold_labels(p, steps) == [None] + [1] * (at - 1) + [0] * (len(steps) - at)
    assert met == set(KINDS[kind].slips)


def test_a_correction_is_right_after_its_mistake() -> None:
    rng = Random(1)
    for p in SOME:
        for slip in applicable_slips(p):
            steps = correction(p, slip, rng)
            wrong = len(write_steps(p, slip))
            verdicts = [c.verdict for c in check_steps(p, steps)]
            assert set(verdicts[wrong:]) == {StepVerdict.RIGHT}
            assert steps[wrong].startswith("But wait, the answer ")
            assert answer_is_right(p, join_steps(steps))


# The checker on other people's texts

GAP = Problem(
    id="gap",
    question="Na 140, Cl 104, HCO3 24?",
    answer="A",
    options={"A": "12", "B": "36", "C": "60", "D": "11"},
    task=Task.CHOICE,
    meta={"clinic": {"kind": "anion_gap", "values": {"na": 140, "cl": 104, "hco3": 24}}},
)


@pytest.mark.parametrize(
    ("step", "verdict"),
    [
        ("AG = Na - Cl - HCO3.", "right"),
        ("ag=na-cl-hco3", "right"),
        ("AG = Na - Cl.", "wrong"),
        ("AG = Na + Cl - HCO3.", "wrong"),
        ("140 - 104 = 36.", "right"),
        ("So 140-104 = 36", "right"),
        ("140 - 104 = 34.", "wrong"),  # arithmetic
        ("140 - 24 = 116.", "wrong"),  # comes out, but is no part of the solution
        ("36 - 24 = 12. 12 - 2 = 10.", "wrong"),
        ("140 - 104 = 36. Blue sky.", "unreadable"),
        ("Blue sky. 140 - 104 = 35.", "wrong"),
        ("I think it is fine.", "unreadable"),
        ("", "unreadable"),
        ("= =", "unreadable"),
        ("1 / 0 = 3.", "unreadable"),
        ("36 - 24 = 12 (A).", "right"),
        ("36 - 24 = 12 (B).", "wrong"),
        ("But wait, the answer 99 is wrong.", "right"),
        ("The answer is 99.", "wrong"),
    ],
)
def test_verdicts(step: str, verdict: str) -> None:
    assert check_steps(GAP, [step], first=1)[0].verdict == verdict


def test_the_answer_is_right_or_not() -> None:
    p = Problem(id="x", question="q", answer="12", meta=GAP.meta)
    assert check_steps(p, ["The answer is 12.0."], first=1)[0].verdict is StepVerdict.RIGHT
    assert check_steps(p, ["The answer is 12 mmol/L."], first=1)[0].verdict is StepVerdict.RIGHT
    assert check_steps(p, ["But wait, the answer 12 is wrong."], first=1)[0].verdict is StepVerdict.WRONG
    assert answer_is_right(p, "The answer is 11. The answer is 12.")
    assert not answer_is_right(p, "The answer is 12. The answer is 11.")
    assert not answer_is_right(p, "12")


def test_order_of_addends_and_factors_does_not_matter() -> None:
    p = make("divided_dose", kg=15, daily=40, hours=8)
    assert [c.verdict for c in check_steps(p, ["40 * 15 = 600. 600 / 3 = 200 mg."], first=1)] == [StepVerdict.RIGHT]


@pytest.mark.parametrize(
    ("text", "value"),
    [("2 + 3 x 4", 14), ("(2 + 3) x 4", 20), ("10 - 2 - 3", 5), ("12 / 4 / 3", 1), ("0.5 * 4", 2), ("68 mL/h", 68)],
)
def test_sums(text: str, value: int) -> None:
    read = parse_sum(text)
    assert read is not None
    assert read.value == value


@pytest.mark.parametrize(
    "text", ["", "()", "1 +", "+ 1", "1 / 0", "1 2", "(1", "1)", "x", "1" * 50, "(" * 60, "1 + " * 60 + "1"]
)
def test_what_is_no_sum(text: str) -> None:
    assert parse_sum(text) is None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SOME[:34]), st.text(max_size=200), st.randoms(use_true_random=False))
def test_any_text_gets_a_verdict(p: Problem, text: str, rng: Random) -> None:
    letters = list(join_steps(write_steps(p)))
    for _ in range(rng.randint(1, 12)):
        letters[rng.randrange(len(letters))] = rng.choice("0123456789 =.+-x/\n:<>,ABCDN")
    for written in (text, "".join(letters)):
        assert all(isinstance(c.verdict, StepVerdict) for c in check(p, written))


@pytest.mark.parametrize(
    "text",
    [
        "1 + " * 200_000, "(" * 500_000, "=" * 500_000, " " * 500_000, "a " * 300_000, "But wait, " * 100_000,
        "the answer is " * 50_000, "9" * 1_000_000, "1=" * 300_000, ". " * 300_000, "Step 1: " * 100_000,
        "\n".join(f"Step {k}: 1 + 1 = 2." for k in range(20_000)),
    ],
    ids=range(12),
)  # fmt: skip
@pytest.mark.timeout(60)
def test_no_text_makes_the_checker_slow(text: str) -> None:
    """Each takes a fraction of a second; a checker that backtracks takes hours."""
    check(GAP, text)
    answer_is_right(GAP, text)


def test_other_problems_are_refused_with_their_id() -> None:
    with pytest.raises(BadRecord, match="other-1"):
        check(Problem(id="other-1", question="?", answer="A"), "Step 1: x")
    broken = Problem(id="b", question="?", answer="A", meta={"clinic": {"kind": "anion_gap", "values": {"na": "x"}}})
    with pytest.raises(BadRecord, match="do not fit anion_gap"):
        check(broken, "Step 1: x")


# The command


def test_command_prints_problems() -> None:
    ran = run_medsss(["clinic", "-n", 20, "--seed", 3]).ok()
    assert [parse(Problem, line) for line in ran.records] == list(problems(20, seed=3))
    assert run_medsss(["clinic", "-n", 0]).ok().stdout == ""
    listed = run_medsss(["clinic", "--list", "--domain", "fluids"]).ok().stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["maintenance_fluid", "drip_rate"]


def test_command_takes_kinds_and_a_file_that_it_overwrites_only_when_told(tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    args = ["clinic", "-n", 9, "--kind", "drip_rate", "--kind", "qsofa", "--split", "test", "-o", out]
    run_medsss(args).ok()
    lines = read_jsonl(out)
    assert {line["meta"]["clinic"]["kind"] for line in lines} == {"drip_rate", "qsofa"}
    assert lines[0]["id"] == "clinic-test-0-0"
    again = run_medsss([*args, "--seed", "1"])
    assert (again.rc, "is there already" in again.stderr, read_jsonl(out)) == (2, True, lines)
    run_medsss([*args, "--seed", "1", "--restart"]).ok()
    assert read_jsonl(out)[0]["id"] == "clinic-test-1-0"
    unknown = run_medsss(["clinic", "--kind", "nosuch"])
    assert (unknown.rc, "no clinic kind" in unknown.stderr) == (2, True)


def test_command_checks_what_it_writes_and_keeps_its_input(tmp_path: Path) -> None:
    """`--check s.jsonl -o s.jsonl` once emptied s.jsonl."""
    solved = tmp_path / "s.jsonl"
    solved.write_text(run_medsss(["clinic", "-n", 34, "--solutions"]).ok().stdout)
    for more in ([], ["--restart"]):
        ran = run_medsss(["clinic", "--check", solved, "-o", solved, *more])
        assert (ran.rc, "are the same file" in ran.stderr) == (2, True)
    out = tmp_path / "checked.jsonl"
    ran = run_medsss(["clinic", "--check", "-", "-o", out], solved.read_text() + "{broken\n")
    assert (ran.rc, "stdin:35" in ran.stderr) == (1, True)
    counts = json.loads(ran.stdout)["all"]
    assert counts["responses"] == counts["answer_right"] == counts["no_fault"] == 34
    assert set(read_jsonl(out)[0]["meta"]["clinic"]["steps"][0]) == {"right"}
    assert run_medsss(["clinic", "--check", "-"], '{"id": "x"}').rc == 2
    assert run_medsss(["clinic", "--check", solved, "-n", 3]).rc == 2


def test_docs_have_the_table_of_kinds_and_slips() -> None:
    docs = Path(__file__).parent.parent / "docs"
    kinds, slipped = (docs / "clinic.md").read_text(), (docs / "internals" / "clinic.md").read_text()
    for kind in KINDS.values():
        slips = "; ".join(f"`{name}` ({slip.what}) {slip.share:.0%}" for name, slip in kind.slips.items())
        assert f"| {kind.domain.value} | `{kind.name}` | {kind.formula} |\n" in kinds
        assert f"| `{kind.name}` | {slips} |" in slipped
