"""What the policy is asked, in both ways of asking."""

from __future__ import annotations

import pytest

from medsss_cli.answers import judge
from medsss_cli.prompts import (
    CHOICE_TURN,
    Prompting,
    answer_messages,
    choice_prompt,
    finish_prompt,
    question_text,
    reason_prompt,
    reflect_prompt,
)
from medsss_cli.records import Message, Problem, Task, Verdict
from medsss_cli.steps import ROOT_TEXT, join_steps, split_steps

OPTIONS = {"A": "Low", "B": "Normal", "C": "High"}
PROBLEM = Problem(id="p", question="Is a potassium of 6.1 high?", answer="C", options=OPTIONS, task=Task.CHOICE)
QUESTION = "Is a potassium of 6.1 high?\nA. Low\nB. Normal\nC. High"
STEPS = [ROOT_TEXT, "Normal is 3.5 to 5.0."]
SO_FAR = f"Step 0: {ROOT_TEXT}\n\nStep 1: Normal is 3.5 to 5.0."


def test_question_and_options() -> None:
    assert question_text(PROBLEM) == QUESTION
    assert question_text(Problem(id="p", question=" How much? ", answer="3", task=Task.NUMBER)) == "How much?"


@pytest.mark.parametrize("form", ["{}. {}", "{}) {}", "({}) {}", "{}: {}", "  {}.  {}"])
def test_options_that_the_question_lists_are_not_repeated(form: str) -> None:
    listed = "Is it high?\n" + "\n".join(form.format(letter, text) for letter, text in OPTIONS.items())
    problem = Problem(id="p", question=listed, answer="C", options=OPTIONS, task=Task.CHOICE)
    assert question_text(problem) == listed
    # Two of three in the question are not the options.
    partly = "\n".join(listed.splitlines()[:-1])
    problem = Problem(id="p", question=partly, answer="C", options=OPTIONS, task=Task.CHOICE)
    assert question_text(problem).endswith("A. Low\nB. Normal\nC. High")


def test_native_is_the_question_and_the_steps_so_far() -> None:
    user = (Message("user", QUESTION),)
    native = Prompting.NATIVE
    assert answer_messages(PROBLEM) == user
    assert reason_prompt(PROBLEM, STEPS, native).messages == user
    assert reason_prompt(PROBLEM, STEPS, native).prefix == f"{SO_FAR}\n\nStep 2:"
    assert finish_prompt(PROBLEM, STEPS, native) == reason_prompt(PROBLEM, STEPS, native)
    assert reflect_prompt(PROBLEM, STEPS, native).prefix == f"{SO_FAR}\n\nStep 2: But wait,"


def test_native_choice_is_a_turn_of_its_own() -> None:
    prompt = choice_prompt(PROBLEM, STEPS, Prompting.NATIVE)
    assert prompt.messages == (Message("user", QUESTION), Message("assistant", SO_FAR), Message("user", CHOICE_TURN))
    assert prompt.prefix == ""
    assert CHOICE_TURN == "Write one more step or finish now? Reply Reason or Finish."


def test_instruct_asks_in_turns_after_a_common_prefix() -> None:
    asked = [
        ask(PROBLEM, STEPS, Prompting.INSTRUCT) for ask in (reason_prompt, finish_prompt, reflect_prompt, choice_prompt)
    ]
    reason, finish, reflect, choice = asked
    first = answer_messages(PROBLEM, Prompting.INSTRUCT)
    for prompt in asked:
        assert [message.role for message in prompt.messages] == ["user", "assistant", "user"]
        assert prompt.messages[:1] == first
        assert prompt.messages[1].content == SO_FAR
    assert (reason.prefix, finish.prefix, reflect.prefix, choice.prefix) == (
        "Step 2:",
        "Step 2:",
        "Step 2: But wait,",
        "",
    )
    assert len({prompt.messages[2].content for prompt in asked}) == 4
    assert "step 2 alone" in reason.messages[2].content
    assert "from step 2 on" in finish.messages[2].content
    assert "wrong" in reflect.messages[2].content
    assert "reply Finish" in choice.messages[2].content
    assert first[0].content.endswith(QUESTION)


@pytest.mark.parametrize(
    ("task", "answer", "options"),
    [(Task.CHOICE, "B", {"A": "420 mL", "B": "920 mL"}), (Task.NUMBER, "920 mL", None), (Task.TEXT, "920 mL", None)],
)
def test_the_worked_example_is_in_the_form_that_it_asks_for(
    task: Task, answer: str, options: dict[str, str] | None
) -> None:
    """Its steps can be cut, and its answer is read and judged correct by the rule that judges the policy."""
    problem = Problem(id="p", question="Unrelated?", answer=answer, options=options, task=task)
    content = answer_messages(problem, Prompting.INSTRUCT)[0].content
    example = content[content.index("Problem: ") : content.rindex("Now solve")]
    solution = example[example.index(f"Step 0: {ROOT_TEXT}") :].strip()
    steps = split_steps(solution)
    assert join_steps(steps) == solution
    assert len(steps) == 4
    assert judge(problem, solution).verdict is Verdict.CORRECT
    assert ("A. 420 mL" in example) == (task is Task.CHOICE)
