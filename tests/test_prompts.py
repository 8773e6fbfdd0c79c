"""What the policy is asked, in both ways of asking."""

from __future__ import annotations

import msgspec
import pytest

from medsss_cli.answers import judge, states_answer
from medsss_cli.prompts import (
    CHOICE_TURN,
    Prompting,
    Template,
    answer_messages,
    choice_prompt,
    correction_messages,
    finish_prompt,
    is_chinese,
    question_text,
    reason_prompt,
    reflect_prompt,
    revealed_text,
)
from medsss_cli.records import Message, Problem, Task, Verdict
from medsss_cli.requests import Prompt
from medsss_cli.steps import ROOT_TEXT, join_steps, split_steps
from medsss_cli.thoughts import Refusal, in_steps, refusal

OPTIONS = {"A": "Low", "B": "Normal", "C": "High"}
PROBLEM = Problem(id="p", question="Is a potassium of 6.1 high?", answer="C", options=OPTIONS, task=Task.CHOICE)
QUESTION = "Is a potassium of 6.1 high?\nA. Low\nB. Normal\nC. High"
STEPS = [ROOT_TEXT, "Normal is 3.5 to 5.0."]
SO_FAR = f"Step 0: {ROOT_TEXT}\n\nStep 1: Normal is 3.5 to 5.0."


@pytest.mark.parametrize("form", ["{}. {}", "{}) {}", "({}) {}", "{}: {}", "  {}.  {}"])
def test_options_that_the_question_lists_are_not_repeated(form: str) -> None:
    assert question_text(PROBLEM) == QUESTION
    assert question_text(Problem(id="p", question=" How much? ", answer="3", task=Task.NUMBER)) == "How much?"
    listed = "Is it high?\n" + "\n".join(form.format(letter, text) for letter, text in OPTIONS.items())
    assert question_text(msgspec.structs.replace(PROBLEM, question=listed)) == listed
    partly = "\n".join(listed.splitlines()[:-1])  # two of three in the question are not the options
    assert question_text(msgspec.structs.replace(PROBLEM, question=partly)) == f"{partly}\nA. Low\nB. Normal\nC. High"


def test_native_is_the_question_and_the_steps_so_far() -> None:
    """A trained policy is asked as its training data are written; only the choice is a turn of its own."""
    user = (Message("user", QUESTION),)
    native = Prompting.NATIVE
    assert answer_messages(PROBLEM) == user
    assert reason_prompt(PROBLEM, STEPS, native) == Prompt(user, f"{SO_FAR}\n\nStep 2:")
    assert finish_prompt(PROBLEM, STEPS, native) == reason_prompt(PROBLEM, STEPS, native)
    assert reflect_prompt(PROBLEM, STEPS, native) == Prompt(user, f"{SO_FAR}\n\nStep 2: But wait,")
    turns = (*user, Message("assistant", SO_FAR), Message("user", CHOICE_TURN))
    assert choice_prompt(PROBLEM, STEPS, native) == Prompt(turns)
    assert CHOICE_TURN == "Write one more step or finish now? Reply Reason or Finish."


def test_instruct_asks_in_turns_after_a_common_prefix() -> None:
    """The first two turns are equal, so that an engine computes them once."""
    first = answer_messages(PROBLEM, Prompting.INSTRUCT)
    assert first[0].content.endswith(QUESTION)
    for ask, prefix, words in (
        (reason_prompt, "Step 2:", "step 2 alone"),
        (finish_prompt, "Step 2:", "from step 2 on"),
        (reflect_prompt, "Step 2: But wait,", "wrong"),
        (choice_prompt, "", "reply Finish"),
    ):
        prompt = ask(PROBLEM, STEPS, Prompting.INSTRUCT)
        assert prompt.messages[:2] == (*first, Message("assistant", SO_FAR))
        assert (prompt.messages[2].role, prompt.prefix) == ("user", prefix)
        assert words in prompt.messages[2].content


CHINESE = Problem(
    id="c",
    question="高钾血症患者首先应给予哪些治疗？",
    answer="AC",
    options={"A": "葡萄糖酸钙", "B": "补钾", "C": "胰岛素加葡萄糖", "D": "观察", "E": "螺内酯"},
    task=Task.CHOICE,
)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("question", ["Unrelated?", "高血压患者的平均动脉压是多少？"])
@pytest.mark.parametrize("template", [None, Template.THOUGHT])
def test_every_worked_example_is_read_and_judged_right(task: Task, question: str, template: Template | None) -> None:
    """An example that our own rules could not read would teach a teacher to be refused."""
    options = {"A": "420 mL", "B": "920 mL"} if task is Task.CHOICE else None
    problem = Problem(id="p", question=question, answer="B" if options else "920 mL", options=options, task=task)
    content = answer_messages(problem, Prompting.INSTRUCT, template)[0].content
    solution = content[content.index(f"\n\nStep 0: {ROOT_TEXT}") : content.rindex("Now solve")].strip()
    steps = split_steps(solution)
    assert join_steps(steps) == solution
    assert len(steps) == (4 if template is None else 6)
    assert judge(problem, solution).verdict is Verdict.CORRECT
    assert ("A. 420 mL" in content) == (task is Task.CHOICE)
    if template is not None:
        assert steps[1].startswith("Plan:")
        assert steps[-2].startswith("Check:")
    # No step before the last one states an answer: the search would take it for a Finish.
    assert [states_answer(step) for step in steps] == [False] * (len(steps) - 1) + [True]


def test_a_chinese_question_is_asked_to_be_answered_in_chinese() -> None:
    """With "The answer is X" as the only form, models answer CMExam in English, or in a form of their own."""
    content = answer_messages(CHINESE, Prompting.INSTRUCT)[0].content
    assert "答案是X。" in content
    assert "The answer is X." not in content
    assert content.endswith("E. 螺内酯")
    assert "答案是X。" in finish_prompt(CHINESE, STEPS, Prompting.INSTRUCT).messages[2].content
    assert is_chinese("血清 K+ 6.1 mmol/L 的患者")
    assert not is_chinese("A trial of 黄连 (Coptis chinensis) in adults")


def test_the_gold_answer_is_shown_only_where_it_is_asked_for() -> None:
    """A prompt that leaks the answer makes every number of a run worthless."""
    plain = answer_messages(CHINESE, Prompting.INSTRUCT, Template.THOUGHT)[0].content
    shown = answer_messages(CHINESE, Prompting.INSTRUCT, Template.THOUGHT, reveal=True)[0].content
    assert shown.startswith(plain)
    assert "the right answer is A. 葡萄糖酸钙; C. 胰岛素加葡萄糖." in shown
    assert "the right answer is" not in plain
    number = Problem(id="n", question="How much?", answer="3 {mL}", task=Task.NUMBER)
    assert "the right answer is 3 {mL}." in revealed_text(number)
    for reveal in (False, True):
        told = correction_messages(CHINESE, "Step 1: x", "B", reveal=reveal)[-1].content
        assert ("A. 葡萄糖酸钙" in told) == reveal
        assert "it came to B." in told
    assert "comes to no answer" in correction_messages(CHINESE, "x", None)[-1].content


@pytest.mark.parametrize(
    ("text", "betrays"),
    [
        ("This matches the given answer.", True),
        ("The reference answer says so.", True),
        ("I was told that the answer is B.", True),
        ("Since the correct answer is already known, take B.", True),
        ("所以与参考答案一致。", True),
        ("Among the given answer options B fits.", False),
        ("Given the answer choices, B.", False),
        ("The answer is given in mL.", False),
        ("The solution that was given is 5% glucose.", False),
        ("The expected sodium is 140.", False),
    ],
)
def test_what_betrays_a_shown_answer(text: str, betrays: bool) -> None:
    """Too eager, the rule throws away good teachers' answers; too lax, students learn to speak of an answer given."""
    answer = f"Step 1: Plan.\n\nStep 2: {text}"
    assert (refusal(answer, revealed=True) is Refusal.BETRAYS) == betrays
    assert refusal(answer, revealed=False) is None


def test_text_without_steps_is_left_as_it_is() -> None:
    assert in_steps("<think>Step 1: x</think> B, by Step 1: of the guideline.") == "B, by Step 1: of the guideline."
    assert in_steps("Step 1: all at once. The answer is B.") == "Step 1: all at once. The answer is B."
    assert in_steps("") == ""
