"""Written answers with the verdict that a careful reader gives, and what hostile text costs."""

from __future__ import annotations

import time

import pytest

from medsss_cli.answers import answer_key, check_gold, judge, states_answer
from medsss_cli.errors import BadRecord
from medsss_cli.records import Problem, Task, Verdict

DRUGS = {"A": "Aspirin", "B": "Metoprolol", "C": "No treatment", "D": "Vitamin D", "E": "E. coli vaccine"}
RIGHT, WRONG, NONE = Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER


def choice(answer: str = "B", options: dict[str, str] | None = DRUGS) -> Problem:
    return Problem(id="q", question="Which drug?", answer=answer, options=options, task=Task.CHOICE)


def number(answer: str) -> Problem:
    return Problem(id="q", question="How much?", answer=answer, task=Task.NUMBER)


def text(answer: str) -> Problem:
    return Problem(id="q", question="Which?", answer=answer, task=Task.TEXT)


CHOICES = [
    # The forms.
    ("Step 1: It slows the heart. The answer is B.", "B", RIGHT),
    ("The answer is B", "B", RIGHT),
    ("The answer is (B).", "B", RIGHT),
    ("The answer is **B**.", "B", RIGHT),
    ("**The answer is: B. Metoprolol**", "B", RIGHT),
    ("Final answer: B", "B", RIGHT),
    ("**Final Answer:** B", "B", RIGHT),
    ("**Answer**: (B) Metoprolol", "B", RIGHT),
    ("ANSWER: B", "B", RIGHT),
    ("The correct answer is option B.", "B", RIGHT),
    ("The correct option is B because it lowers the rate.", "B", RIGHT),
    ("The best choice would be B.", "B", RIGHT),
    ("So the final answer is $\\boxed{B}$.", "B", RIGHT),
    ("\\boxed{\\text{B}}", "B", RIGHT),
    ("\\boxed{B. Metoprolol}", "B", RIGHT),
    ("The answer to this question is B.", "B", RIGHT),
    ("The answer is\n\n**B**", "B", RIGHT),
    ("the answer is b.", "B", RIGHT),
    ("the answer is b because it slows the heart", "B", RIGHT),
    ("The answer is B - Metoprolol", "B", RIGHT),
    ("B", "B", RIGHT),
    ("(B)", "B", RIGHT),
    ("**B.**", "B", RIGHT),
    ("B) Metoprolol", "B", RIGHT),
    ("B: Metoprolol", "B", RIGHT),
    ("b", "B", RIGHT),
    ("Option B", "B", RIGHT),
    ("The heart is too fast.\n\nB. Metoprolol", "B", RIGHT),
    ("It must be slowed, so B.", "B", RIGHT),
    ("A beta blocker is wanted, therefore (B)", "B", RIGHT),
    ("A is wrong. Option B is correct since it lowers the rate", "B", RIGHT),
    # The text of an option alone.
    ("Metoprolol", "B", RIGHT),
    ("metoprolol.", "B", RIGHT),
    ("The answer is metoprolol.", "B", RIGHT),
    ("The answer is the beta blocker Metoprolol, once daily.", "B", RIGHT),
    ("The answer is no treatment.", "C", RIGHT),
    ("The answer is vitamin D.", "D", RIGHT),
    ("The answer is E. coli vaccine.", "E", RIGHT),
    ("E. coli vaccine", "E", RIGHT),
    ("The answer is Aspirin.", "B", WRONG),
    # The last statement wins.
    ("The answer is A. But wait, the rate is high. The answer is B.", "B", RIGHT),
    ("The answer is B. But wait, it is a child. The answer is A.", "B", WRONG),
    ("Final answer: A\n\nFinal answer: B", "B", RIGHT),
    ("\\boxed{A} was my guess. The answer is B.", "B", RIGHT),
    ("The answer is B. The answer is not A.", "B", RIGHT),
    # Negations.
    ("The answer is not A.", "A", NONE),
    ("The answer is not A but B.", "B", RIGHT),
    ("The answer isn't A", "A", NONE),
    ("The answer is neither A nor C.", "A", NONE),
    ("The answer is B, not A.", "B", RIGHT),
    ("The answer is definitely not Aspirin.", "A", NONE),
    ("The answer is anything but A.", "A", NONE),
    # A letter that names no option.
    ("The answer is a beta blocker.", "A", NONE),
    ("The patient has hepatitis B.", "B", NONE),
    ("The answer is C-reactive protein.", "C", NONE),
    ("The answer is Bupropion.", "B", NONE),
    ("A patient of 40 needs rest", "A", NONE),
    ("The answer is F.", "B", NONE),
    ("I do not know.", "B", NONE),
    ("", "B", NONE),
    ("The answer choices are A, B, C, D and E.", "A", NONE),
    ("The answer is unclear.", "B", NONE),
    ("This is the answer in this case. It is hard.", "B", NONE),
    # Two letters where one is right are no right answer.
    ("The answer is A or B.", "B", WRONG),
    ("Both A and B: the answer is both A and B.", "B", WRONG),
]


@pytest.mark.parametrize(("written", "gold", "verdict"), CHOICES)
def test_a_choice(written: str, gold: str, verdict: Verdict) -> None:
    assert judge(choice(gold), written).verdict == verdict


SETS = [
    ("The answer is B and D.", "BD", RIGHT),
    ("The answer is D, B.", "BD", RIGHT),
    ("The answer is BD.", "BD", RIGHT),
    ("The answer is DB.", "BD", RIGHT),
    ("The answer is (A), (C), and (D).", "ACD", RIGHT),
    ("The answer is A. Aspirin and C. No treatment.", "AC", RIGHT),
    ("The answer is b and d.", "BD", RIGHT),
    ("The answer is A/C.", "AC", RIGHT),
    ("The answer is Aspirin and Metoprolol.", "AB", RIGHT),
    ("A, C and D", "ACD", RIGHT),
    ("\\boxed{A, C}", "AC", RIGHT),
    ("The answer is B.", "BD", WRONG),
    ("The answer is ABD.", "BD", WRONG),
    ("The answer is BAD news.", "D", WRONG),
]


@pytest.mark.parametrize(("written", "gold", "verdict"), SETS)
def test_a_set_of_letters(written: str, gold: str, verdict: Verdict) -> None:
    judgement = judge(choice(gold), written)
    assert judgement.verdict == verdict


def test_options_beyond_e_and_the_pronoun() -> None:
    many = {letter: f"finding {letter.lower()}{letter.lower()}" for letter in "ABCDEFGHIJ"}
    assert judge(choice("H", many), "The answer is H.").verdict == RIGHT
    assert judge(choice("I", many), "The answer is I.").verdict == RIGHT
    assert judge(choice("I", many), "The answer is I think H.").verdict != RIGHT


def test_short_options() -> None:
    factors = {"A": "VII", "B": "XII", "C": "X", "D": "5", "E": "AB"}
    assert judge(choice("A", factors), "The answer is VII.").verdict == RIGHT
    assert judge(choice("B", factors), "The answer is XII").answer == "B"
    assert judge(choice("C", factors), "The answer is X.").answer == "C"
    assert judge(choice("D", factors), "The answer is 5.").answer == "D"
    assert judge(choice("D", factors), "The answer is 5.5.").answer is None
    assert judge(choice("E", factors), "The answer is AB.").answer == "E"
    yes_no = {"A": "yes", "B": "no", "C": "maybe"}
    assert judge(choice("B", yes_no), "The answer is no.").answer == "B"
    assert judge(choice("B", yes_no), "The answer is not clear.").answer is None


NUMBERS = [
    ("MAP = (120 + 2 x 66) / 3 = 84. The answer is 84 mmHg.", "84 mmHg", RIGHT),
    ("The answer is 84.", "84", RIGHT),
    ("The answer is 84.0", "84", RIGHT),
    ("The answer is approximately 84.", "84", RIGHT),
    ("The answer is 83.6.", "84", RIGHT),  # rounds to 84
    ("The answer is 83.4.", "84", WRONG),
    ("The answer is 12.5.", "12.5", RIGHT),
    ("The answer is 12.54.", "12.5", RIGHT),
    ("The answer is 12.6.", "12.5", WRONG),
    ("The answer is 12.", "12.5", WRONG),
    ("The answer is 1,500 mL.", "1500 mL", RIGHT),
    ("The answer is 1500 mL.", "1,500 mL", RIGHT),
    ("The answer is 1,5.", "1.5", NONE),  # a decimal comma is not read
    ("The answer is -3.", "-3", RIGHT),
    ("The answer is −3 mmol/L.", "-3", RIGHT),
    ("The answer is 3.", "-3", WRONG),
    ("The answer is 1.2e3.", "1200", RIGHT),
    ("The answer is 1.2 x 10^3.", "1200", RIGHT),
    ("The answer is 2 x 42 = 84 mmHg.", "84", RIGHT),
    ("The answer is $84.$", "84", RIGHT),
    ("The answer is 5-6.", "5", NONE),  # a range is no number
    ("The answer is between a lot and many.", "5", NONE),
    ("The answer is a CURB-65 score of 3.", "3", RIGHT),
    ("The answer is 14/15.", "14", RIGHT),
    ("\\boxed{12.5 \\text{ mg}}", "12.5", RIGHT),
    ("**84 mmHg**", "84", RIGHT),
    ("84", "84", RIGHT),
    ("120 - 36 = 84 mmHg.", "84", RIGHT),
    ("The dose is high.", "84", NONE),
    ("The answer is not 84.", "84", NONE),
    ("The answer is 80. But wait. The answer is 84.", "84", RIGHT),
    ("The answer is 0.3.", ".3", RIGHT),
    ("The answer is 10%.", "10%", RIGHT),
    ("", "84", NONE),
]


@pytest.mark.parametrize(("written", "gold", "verdict"), NUMBERS)
def test_a_number(written: str, gold: str, verdict: Verdict) -> None:
    assert judge(number(gold), written).verdict == verdict


TEXTS = [
    ("The answer is high.", "High", RIGHT),
    ("The answer is 10 mg/kg.", "10 mg/kg", RIGHT),
    ("The answer is: **10 mg / kg**", "10 mg/kg", RIGHT),
    ("The answer is a single dose of 10 mg/kg daily.", "10 mg/kg", RIGHT),
    ("The answer is 0.65.", "0.6", WRONG),
    ("The answer is 110 mg/kg.", "10 mg/kg", WRONG),
    ("The answer is overdosed.", "overdose", WRONG),
    ("The answer is not high.", "high", WRONG),
    ("The answer is E. coli. It grows fast.", "E. coli", RIGHT),
    ("Final answer: the aorta", "aorta", RIGHT),
    ("high", "high", RIGHT),
    (" ".join(["many words"] * 30), "high", NONE),
    ("...", "high", NONE),
]


@pytest.mark.parametrize(("written", "gold", "verdict"), TEXTS)
def test_a_text(written: str, gold: str, verdict: Verdict) -> None:
    assert judge(text(gold), written).verdict == verdict


def test_the_table_is_long_enough() -> None:
    assert len(CHOICES) + len(SETS) + len(NUMBERS) + len(TEXTS) >= 120


def test_answers_are_normalised_and_say_how_they_were_read() -> None:
    assert (judge(choice(), "The answer is (b).").answer, judge(choice(), "B").how) == ("B", "letter")
    assert judge(choice("BD"), "The answer is D and B.").answer == "BD"
    assert judge(number("84"), "The answer is 84.0 mmHg").answer == "84"
    assert judge(number("1500"), "The answer is 1,500").answer == "1500"
    assert judge(text("x"), "The answer is The  Aorta!").answer == "aorta"
    assert judge(choice(), "\\boxed{B}").how == "boxed"
    assert judge(choice(), "Hm.").how == "none"


def test_keys_make_one_vote_of_equal_answers() -> None:
    assert answer_key(number("84"), "84.0") == answer_key(number("84"), "84 mmHg") == "84"
    assert answer_key(number("0"), "-0") == answer_key(number("0"), "0.0") == "0"
    assert answer_key(choice(), "DB") == "BD"
    assert answer_key(text("high"), "High.") == "high"
    assert answer_key(choice(), "Z") == "z"
    assert answer_key(choice(), None) is None


@pytest.mark.parametrize(
    "problem",
    [
        choice("F"),
        choice(""),
        choice("BB"),
        choice("Aspirin"),
        number("many"),
        number("5-6"),
        number(""),
        text("..."),
        text(""),
    ],
)
def test_an_unreadable_gold_answer_is_an_error_with_its_id(problem: Problem) -> None:
    with pytest.raises(BadRecord, match=r"^q: the gold answer"):
        judge(problem, "The answer is B.")
    with pytest.raises(BadRecord):
        check_gold(problem)


def test_a_step_that_states_the_answer() -> None:
    for step in ["So it is 84. The answer is 84.", "Final answer: B", "\\boxed{3}", "The answer is no treatment."]:
        assert states_answer(step), step
    for step in [
        "The pressure is 84.",
        "The answer is not A.",
        "The answer is",
        "Answers vary.",
        "The answer is found by dividing.",
    ]:
        assert not states_answer(step), step


@pytest.mark.parametrize(
    "hostile",
    [
        "The answer is " * 7_000,
        "answer answer to of " * 5_000,
        "\\boxed{" * 15_000,
        " " * 100_000 + "B",
        "answer" + " " * 100_000,
        "answer to " + "a" * 100_000,
        "1," * 50_000,
        "1,234" * 20_000,
        "The answer is " + ",123" * 25_000,
        "9" * 100_000,
        "The answer is " + "9" * 100_000,
        "The answer is " + "A, " * 33_000,
        "(((((" * 20_000,
        "A is B is C is " * 6_000,
        "\n" * 100_000,
        "*" * 100_000,
        "The answer is option option " * 4_000,
        "-" * 100_000,
        "1e1" * 33_000,
        "word " * 20_000,
        "B. " * 33_000,
        "answer is" + "\t\n" * 50_000,
        "so " * 33_000,
    ],
)
@pytest.mark.parametrize("problem", [choice(), number("84"), text("high")])
def test_no_text_is_slow(hostile: str, problem: Problem) -> None:
    start = time.perf_counter()
    judge(problem, hostile)
    states_answer(hostile)
    assert time.perf_counter() - start < 1
