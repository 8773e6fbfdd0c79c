"""The clinic: every kind and chains against numbers worked by hand, the splits, the slips and the checker."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
from clinic_corpus import applicable_slips, chats
from helpers import read_jsonl, run_medsss
from hypothesis import given, settings
from hypothesis import strategies as st

from medsss_cli.clinic import chains
from medsss_cli.clinic.checker import StepVerdict, answer_is_right, check, check_steps, gold_labels, parse_sum
from medsss_cli.clinic.kinds import KINDS
from medsss_cli.clinic.problems import Split, make_problem, problems, value_key, write_steps
from medsss_cli.errors import BadRecord
from medsss_cli.prompts import question_text
from medsss_cli.records import Problem, Task, dump, parse
from medsss_cli.steps import join_steps, split_steps

SOME = [p for level in (1, 2, 3) for p in problems(120, seed=7, level=level)]

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
    ("start_triage", {"walks": 1, "rr": 40, "refill": 4, "obeys": 0}, "minor"),
    ("start_triage", {"walks": 0, "rr": 31, "refill": 1, "obeys": 1}, "immediate"),
    ("start_triage", {"walks": 0, "rr": 30, "refill": 3, "obeys": 1}, "immediate"),
    ("start_triage", {"walks": 0, "rr": 30, "refill": 2, "obeys": 0}, "immediate"),
    ("start_triage", {"walks": 0, "rr": 30, "refill": 2, "obeys": 1}, "delayed"),
]


@pytest.mark.parametrize(("kind", "values", "answer"), BY_HAND)
def test_formulas_by_hand(kind: str, values: dict[str, Any], answer: str) -> None:
    assert KINDS[kind].solve(values, None).answer == answer


def chained(*links: tuple[str, dict[str, Any]]) -> Problem:
    kind = chains.chain(tuple(name for name, _ in links))
    return make_problem(kind, {"links": [values for _, values in links]}, Random(0), "hand")


TWO = chained(("anion_gap", {"na": 140, "cl": 105, "hco3": 21}), ("divided_dose", {"kg": 14, "daily": 60, "hours": 8}))
FOUR = chained(
    ("qsofa", {"rr": 28, "sbp": 91, "gcs": 15}),
    ("dose_volume", {"kg": 50, "dose": 2, "strength": 10}),
    ("osmolality", {"na": 150, "glucose": 10, "urea": 8}),
    (
        "contraindication",
        {
            "condition": "asthma",
            "right": "sotalol",
            "taken": "enalapril",
            "others": ["cetirizine", "thiamine"],
            "over": 300,
            "above": 1,
        },
    ),
)


OF_FOUR = (
    "RR 28 >= 22: 1. / SBP 91 <= 100: 1. / GCS 15 > 14: 0. / 1 + 1 + 0 = 2. P = 2. / "
    "Weight = 110 / 2.2 = 50 kg. / Dose = 50 x 2 = 100 mg. / 100 / 10 = 10 mL. Q = 10. / "
)
"""The steps to its third part."""


@pytest.mark.parametrize(
    ("problem", "slip", "question", "steps"),
    [
        (
            TWO,
            None,
            "Na 140, Cl 105, HCO3 21 mmol/L. What is the anion gap? Call it P. "
            "A child of P kg needs 60 mg/kg a day, given every 8 h. How many mg is each dose?",
            "AG = Na - Cl - HCO3. / 140 - 105 = 35. / 35 - 21 = 14. P = 14. / "
            "Each dose = weight x mg/kg / doses a day. / 24 / 8 = 3. 14 x 60 = 840. / "
            "840 / 3 = 280. The answer is 280.",
        ),
        (
            TWO,
            "1.bicarbonate_added 2.not_divided",
            "",
            "AG = Na - Cl + HCO3. / 140 - 105 = 35. / 35 + 21 = 56. P = 56. / "
            "Each dose = weight x mg/kg. / 56 x 60 = 3360. The answer is 3360.",
        ),
        (
            FOUR,
            None,
            "RR 28, SBP 91, GCS 15. What is the qSOFA score? Call it P. A patient of 110 lb needs P mg/kg. The vial "
            "has 10 mg/mL. How many mL? Call it Q. Na 150, glucose Q, urea 8 mmol/L. What is the serum osmolality? "
            "Call it R. Which drug is avoided in asthma if R > 300, else bilateral renal artery stenosis?",
            OF_FOUR
            + "Osmolality = 2 x Na + glucose + urea. / 2 x 150 = 300. / 300 + 10 = 310. / 310 + 8 = 318. R = 318. / "
            "R 318 > 300: asthma. In asthma avoid a beta blocker. / Sotalol is a beta blocker. / "
            "So avoid sotalol (D). The answer is D.",
        ),
        (
            FOUR,
            "3.sodium_once",
            "",
            OF_FOUR + "Osmolality = Na + glucose + urea. / 150 + 10 = 160. / 160 + 8 = 168. R = 168. / "
            "R 168 <= 300: bilateral renal artery stenosis. "
            "In bilateral renal artery stenosis avoid an ACE inhibitor. / "
            "Enalapril is an ACE inhibitor. / So avoid enalapril (B). The answer is B.",
        ),
    ],
)
def test_chains_by_hand(problem: Problem, slip: str | None, question: str, steps: str) -> None:
    """What a part finds goes into the next, also when it is wrong; a wrong number may decide for another condition
    (step 12 of the last is true all the same: enalapril is an ACE inhibitor)."""
    assert problem.question.startswith(question)
    assert write_steps(problem, slip)[1:] == re.split(r"(?<=\.) / ", steps)
    wrong = [c.number for c in check_steps(problem, write_steps(problem, slip)) if c.verdict is StepVerdict.WRONG]
    first = {None: [], "1.bicarbonate_added 2.not_divided": [1, 3, 4, 5], "3.sodium_once": [8, 9, 10, 11, 13]}
    assert wrong == first[slip]


# Splits and seeds


@pytest.mark.parametrize("level", [1, 2, 3])
def test_splits_share_no_values(level: int) -> None:
    keys, asked = {}, {}
    for split in Split:
        made = [p for seed in range(2) for p in problems(600 // level**3, seed=seed, split=split, level=level)]
        keys[split] = {value_key(p.meta["clinic"]["kind"], p.meta["clinic"]["values"]) for p in made}
        asked[split] = {question_text(p) for p in made}
    for found in (keys, asked):
        assert not found[Split.TRAIN] & found[Split.SEED]
        assert not found[Split.TRAIN] & found[Split.TEST]
        assert not found[Split.SEED] & found[Split.TEST]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: problems(600, seed=3, split=Split.TRAIN), "bd53bd8adc0c5630"),
        (lambda: problems(600, seed=3, split=Split.SEED), "83c13ce802acaa78"),
        (lambda: problems(600, seed=3, split=Split.TEST), "e17185fbc49f0e85"),
        (lambda: problems(100, seed=3, split=Split.TEST, level=2), "2d5d9793f0937ed3"),
        (lambda: problems(100, seed=3, split=Split.TEST, level=3), "6d83fd4dec79d44e"),
        (lambda: islice(chats(0, 0.4, 1), 600), "77bb12c0f52af34b"),
        (lambda: islice(chats(0, 0.1, 2), 600), "3a4bfd4972d1853f"),
    ],
    ids=range(7),
)
def test_no_problem_moves(made: Callable[[], Iterable[Any]], expected: str) -> None:
    """The shipped policies were trained on `train` and its chats, and published figures are of `test`: byte for
    byte."""
    plain = ([dump(turn) for turn in each] if isinstance(each, list) else dump(each) for each in made())
    text = "".join(json.dumps(each, ensure_ascii=False) for each in plain)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == expected


def test_a_longer_run_begins_the_same_and_there_is_no_end() -> None:
    for level in (1, 2):
        assert list(problems(60, seed=3, level=level)) == list(problems(90, seed=3, level=level))[:60]
        assert list(problems(60, seed=3, level=level)) != list(problems(60, seed=4, level=level))
    # The smallest kinds have about 50 combinations in a split.
    assert len(list(problems(200, seed=1, kinds=["mean_arterial_pressure"]))) == 200


# Written solutions and slips


@pytest.mark.parametrize(("level", "steps_of_answers"), [(1, (3, 5)), (2, (4, 14)), (3, (9, 18))])
def test_a_right_solution_passes_and_one_with_a_number_changed_does_not(
    level: int, steps_of_answers: tuple[int, int]
) -> None:
    rng = Random(level)
    for index in range(1000 // level):
        one = rng.choice(list(KINDS.values()))
        kind, values = (one, one.sample(rng)) if level == 1 else chains.draw(chains.LENGTHS[level], rng)
        p = make_problem(kind, values, rng, str(index))
        steps = write_steps(p, None, rng)
        assert steps_of_answers[0] <= len(steps) <= steps_of_answers[1]
        text = join_steps(steps)
        assert split_steps(text) == steps
        checked = check(p, text)
        assert [c.number for c in checked] == list(range(len(steps)))
        assert {c.verdict for c in checked} == {StepVerdict.RIGHT}, (p.id, checked)
        assert answer_is_right(p, text)
        assert gold_labels(p, steps) == [None] + [1] * (len(steps) - 1)
        numbers = [(k, m) for k, step in enumerate(steps) for m in re.finditer(r"\d+(?:\.\d+)?", step)]
        if numbers:
            at, found = rng.choice(numbers)
            other = found[0][:-1] + str((int(found[0][-1]) + rng.randint(1, 9)) % 10)
            changed = steps[at][: found.start()] + other + steps[at][found.end() :]
            assert check_steps(p, [changed], first=at)[0].verdict is not StepVerdict.RIGHT, (p, steps[at], changed)


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


# The checker on other people's texts

GAP = Problem(
    id="gap",
    question="Na 140, Cl 104, HCO3 24?",
    answer="A",
    options={"A": "12", "B": "36", "C": "60", "D": "11"},
    task=Task.CHOICE,
    meta={"clinic": {"kind": "anion_gap", "values": {"na": 140, "cl": 104, "hco3": 24}}},
)
FREE = Problem(id="x", question="q", answer="12", meta=GAP.meta)


@pytest.mark.parametrize(
    ("problem", "step", "verdict"),
    [
        (GAP, "AG = Na - Cl - HCO3.", "right"),
        (GAP, "ag=na-cl-hco3", "right"),
        (GAP, "AG = Na - Cl.", "wrong"),
        (GAP, "AG = Na + Cl - HCO3.", "wrong"),
        (GAP, "140 - 104 = 36.", "right"),
        (GAP, "So 140-104 = 36", "right"),
        (GAP, "140 - 104 = 34.", "wrong"),  # arithmetic
        (GAP, "140 - 24 = 116.", "wrong"),  # comes out, but is no part of the solution
        (GAP, "36 - 24 = 12. 12 - 2 = 10.", "wrong"),
        (GAP, "140 - 104 = 36. Blue sky.", "unreadable"),
        (GAP, "Blue sky. 140 - 104 = 35.", "wrong"),
        (GAP, "I think it is fine.", "unreadable"),
        (GAP, "", "unreadable"),
        (GAP, "= =", "unreadable"),
        (GAP, "1 / 0 = 3.", "unreadable"),
        (GAP, "36 - 24 = 12 (A).", "right"),
        (GAP, "36 - 24 = 12 (B).", "wrong"),
        (GAP, "But wait, the answer 99 is wrong.", "right"),
        (GAP, "The answer is 99.", "wrong"),
        (FREE, "The answer is 12.0.", "right"),
        (FREE, "The answer is 12 mmol/L.", "right"),
        (FREE, "But wait, the answer 12 is wrong.", "wrong"),
        (TWO, "60 * 14 = 840. 840 / 3 = 280 mg.", "right"),  # the order of factors, another sign, a unit
        (TWO, "P = 35.", "wrong"),
        (TWO, "So P = 14.", "right"),
        (FOUR, "R 318 <= 300: bilateral renal artery stenosis.", "wrong"),
        (FOUR, "In bilateral renal artery stenosis avoid an ACE inhibitor.", "wrong"),  # not what was decided
    ],
)
def test_verdicts(problem: Problem, step: str, verdict: str) -> None:
    assert check_steps(problem, [step], first=1)[0].verdict == verdict


def test_the_last_answer_counts() -> None:
    assert answer_is_right(FREE, "The answer is 11. The answer is 12.")
    assert not answer_is_right(FREE, "The answer is 12. The answer is 11.")
    assert not answer_is_right(FREE, "12")


@pytest.mark.parametrize(
    ("text", "value"),
    [("2 + 3 x 4", 14), ("(2 + 3) x 4", 20), ("10 - 2 - 3", 5), ("12 / 4 / 3", 1), ("0.5 * 4", 2), ("68 mL/h", 68)]
    + [(text, None) for text in ("", "()", "1 +", "+ 1", "1 / 0", "1 2", "(1", "1)", "x", "2 ** 9", "9 // 2")]
    + [("1" * 50, None), ("(" * 60, None), ("1 + " * 60 + "1", None)],
)
def test_sums(text: str, value: int | None) -> None:
    read = parse_sum(text)
    assert (read and read.value) == value


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SOME[::9]), st.text(max_size=200), st.randoms(use_true_random=False))
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
    for kind, values in (("anion_gap", {"na": "x"}), ("anion_gap+curb_65", {"links": [{}]}), ("qsofa+interaction", {})):
        broken = Problem(id="b", question="?", answer="A", meta={"clinic": {"kind": kind, "values": values}})
        with pytest.raises(BadRecord, match=f"do not fit {re.escape(kind)}"):
            check(broken, "Step 1: x")


# The command


def test_command_makes_problems(tmp_path: Path) -> None:
    ran = run_medsss(["clinic", "-n", 20, "--seed", 3]).ok()
    assert [parse(Problem, line) for line in ran.records] == list(problems(20, seed=3))
    assert run_medsss(["clinic", "-n", 0]).ok().stdout == ""
    listed = run_medsss(["clinic", "--list"]).ok().stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(KINDS)
    out = tmp_path / "p.jsonl"
    args = ["clinic", "-n", 9, "--kind", "drip_rate", "--kind", "qsofa", "--split", "test", "-o", out]
    run_medsss(args).ok()
    lines = read_jsonl(out)
    assert {line["meta"]["clinic"]["kind"] for line in lines} == {"drip_rate", "qsofa"}
    assert lines[0]["id"] == "clinic-test-0-0"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--level", 2, "--kind", "qsofa"], "--level 1"),
        (["--kind", "x"], "no clinic kind 'x'"),
        (["--check", "-", "-n", 3], "--check"),
    ],
)
def test_wrong_usage(args: list[object], said: str) -> None:
    ran = run_medsss(["clinic", *args])
    assert (ran.rc, said in ran.stderr) == (2, True), ran.stderr


def test_command_checks_what_it_writes(tmp_path: Path) -> None:
    made = [run_medsss(["clinic", "-n", 17, "--solutions", "--level", level]).ok().stdout for level in (1, 3)]
    out = tmp_path / "checked.jsonl"
    ran = run_medsss(["clinic", "--check", "-", "-o", out], "".join(made) + "{broken\n")
    assert (ran.rc, "stdin:35" in ran.stderr) == (1, True)
    counts = json.loads(ran.stdout)
    assert counts["all"]["responses"] == counts["all"]["answer_right"] == counts["all"]["no_fault"] == 34
    assert counts["4 parts"]["responses"] == 17
    assert set(read_jsonl(out)[0]["meta"]["clinic"]["steps"][0]) == {"right"}
    assert run_medsss(["clinic", "--check", "-"], '{"id": "x"}').rc == 2


def test_docs_have_the_table_of_kinds_and_slips() -> None:
    docs = Path(__file__).parent.parent / "docs"
    kinds, slipped = (docs / "clinic.md").read_text(), (docs / "internals" / "clinic.md").read_text()
    for kind in KINDS.values():
        slips = "; ".join(f"`{name}` ({slip.what}) {slip.share:.0%}" for name, slip in kind.slips.items())
        assert f"| {kind.domain.value} | `{kind.name}` | {kind.formula} |\n" in kinds
        assert f"| `{kind.name}` | {slips} |" in slipped
