"""What the policy is asked: a problem and its steps so far -> a chat. Nothing here samples, parses or judges.

Two ways of asking, `Prompting`:

native    for a policy that was trained to write "Step k: ..." (the built-in clinic policy, and everything that
          `train-policy` makes). The user turn is the question alone; the steps so far are the beginning of the open
          assistant turn, and the policy goes on. Only the choice between Reason and Finish is a turn of its own.
instruct  for the first iteration with a general instruction-tuned model. The first user turn holds an expert's role,
          how to write steps, a worked example and the question; the steps so far are an assistant turn; a second user
          turn says what to do now; the open assistant turn is begun with the mark of the next step.

Departures from the paper (section 3 and its appendix of prompts) and from the authors' code:

1. All words are ours, the worked example too. It is one example for every data set, and only its last sentence changes
   with the task (letter, number, phrase); the authors write examples by hand for each task.
2. Instruct asks in turns (question, steps so far, instruction) where the authors put everything in one user message.
   All requests about a node then share question and steps as one prefix, which an engine computes once.
3. No system turn, because several chat templates refuse one, and the PRM reads chats without one.
4. Under native the three requests reason, finish and rollout have the same prompt and differ in where they stop.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

from .engines.base import Prompt
from .records import Message, Problem, Task
from .steps import ROOT_TEXT, SEPARATOR, join_steps, mark


class Prompting(StrEnum):
    """How the policy is asked."""

    NATIVE = "native"  # it writes "Step k: ..." by itself
    INSTRUCT = "instruct"  # it must be told how


CHOICES = ("Reason", "Finish")
CHOICE_TURN = "Write one more step or finish now? Reply Reason or Finish."
BUT_WAIT = "But wait,"

_ROLE = (
    "You are a senior clinician who teaches. You solve medical problems in writing, so that a student can check each "
    "step: what the case says, the medical knowledge that applies, the conclusion from both."
)
_FORM = (
    f'Write your solution as numbered steps with a blank line between them. Begin with "{mark(0)} {ROOT_TEXT}", go on '
    f'with "{mark(1)}", "{mark(2)}" and so on. A step is one small inference, a few sentences at most.'
)
_STATEMENT = {
    Task.CHOICE: (
        'End the last step with the sentence "The answer is X.", where X is the letter of the right option '
        '(all letters in one word, such as "AC", if several are right).'
    ),
    Task.NUMBER: (
        'End the last step with the sentence "The answer is X.", where X is a number, with its unit if it has one.'
    ),
    Task.TEXT: (
        'End the last step with the sentence "The answer is X.", where X is the answer in as few words as possible.'
    ),
}

_EXAMPLE_QUESTION = (
    "An adult of 64 kg with septic shock is to receive 30 mL/kg of crystalloid within three hours. A bag of 1000 mL "
    "has run in. How many millilitres are still to be given?"
)
_EXAMPLE_OPTIONS = {"A": "420 mL", "B": "920 mL", "C": "1000 mL", "D": "1920 mL"}
_EXAMPLE_STEPS = (
    ROOT_TEXT,
    "The whole volume is the dose per kilogram times the body weight: 30 mL/kg x 64 kg = 1920 mL.",
    "Of this volume 1000 mL has been given already, so 1920 mL - 1000 mL = 920 mL remain.",
)
_EXAMPLE_END = {
    Task.CHOICE: "920 mL is option B. The answer is B.",
    Task.NUMBER: "Nothing else was given, so 920 mL are still to run. The answer is 920 mL.",
    Task.TEXT: "Nothing else was given, so 920 mL are still to run. The answer is 920 mL.",
}


def question_text(problem: Problem) -> str:
    """The question as it is put to a policy and to a PRM: its text, then each option as a line "A. ...".

    Options that the question lists already, each at the start of a line ("A. x", "A) x", "(A) x", "A: x"), are not
    repeated.
    """
    question = problem.question.strip()
    if not problem.options or _lists_options(question, problem.options):
        return question
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in problem.options.items())])


def _lists_options(question: str, options: dict[str, str]) -> bool:
    return all(
        re.search(rf"^[ \t]*\(?{re.escape(letter)}[.):]+[ \t]*{re.escape(text.strip())}", question, re.MULTILINE)
        for letter, text in options.items()
    )


def answer_messages(problem: Problem, prompting: Prompting = Prompting.NATIVE) -> tuple[Message, ...]:
    """The chat that asks for a whole answer, one user turn (`sample`, `bon`, and the prompt of training data)."""
    question = question_text(problem)
    if prompting is Prompting.NATIVE:
        return (Message("user", question),)
    return (Message("user", _instructed(problem)),)


def _instructed(problem: Problem) -> str:
    """The first user turn of an instruct chat: role, form, example, question."""
    example = Problem(
        id="example",
        question=_EXAMPLE_QUESTION,
        answer="B",
        options=_EXAMPLE_OPTIONS if problem.task is Task.CHOICE else None,
        task=problem.task,
    )
    return SEPARATOR.join(
        [
            _ROLE,
            f"{_FORM} {_STATEMENT[problem.task]}",
            "Here is a problem with its solution.",
            f"Problem: {question_text(example)}",
            join_steps([*_EXAMPLE_STEPS, _EXAMPLE_END[problem.task]]),
            "Now solve this problem in the same way.",
            f"Problem: {question_text(problem)}",
        ]
    )


def reason_prompt(problem: Problem, steps: Sequence[str], prompting: Prompting) -> Prompt:
    """Ask for the next step alone. `steps` are the bare steps so far, step 0 first; what comes back follows the mark of
    step `len(steps)`, and begins with a space. The caller stops it before the mark after (`SEPARATOR + "Step"`)."""
    return _continue(
        problem,
        steps,
        prompting,
        f"Write step {len(steps)} alone: the one inference that brings the solution forward now. Do not write the "
        "steps after it. Give the answer in it only if nothing is left to work out.",
    )


def finish_prompt(problem: Problem, steps: Sequence[str], prompting: Prompting) -> Prompt:
    """Ask for all the remaining steps and the answer: Finish nodes and rollouts."""
    return _continue(
        problem,
        steps,
        prompting,
        f"Write all the steps that remain, from step {len(steps)} on, and conclude. {_STATEMENT[problem.task]}",
    )


def reflect_prompt(problem: Problem, steps: Sequence[str], prompting: Prompting) -> Prompt:
    """Ask for one step that looks for the mistake, after an answer that was wrong. It begins `BUT_WAIT`, which stands
    in the prefix already: what comes back goes on after the comma."""
    return _continue(
        problem,
        steps,
        prompting,
        f"The answer that you gave is wrong. Write step {len(steps)} alone: look back over the steps, name the mistake "
        f'and put it right. Begin with "{BUT_WAIT}" and do not give a new answer yet.',
        begun=f" {BUT_WAIT}",
    )


def choice_prompt(problem: Problem, steps: Sequence[str], prompting: Prompting) -> Prompt:
    """Ask whether to reason or to finish. The caller allows the words of `CHOICES` alone."""
    instruction = CHOICE_TURN
    if prompting is Prompting.INSTRUCT:
        instruction = (
            "Judge how far the solution has come. If the answer follows from it almost directly, reply Finish. If an "
            "inference is missing, reply Reason. Reply with this one word."
        )
    return Prompt(
        (
            *answer_messages(problem, prompting),
            Message("assistant", join_steps(steps)),
            Message("user", instruction),
        )
    )


def _continue(
    problem: Problem, steps: Sequence[str], prompting: Prompting, instruction: str, begun: str = ""
) -> Prompt:
    """A chat whose open assistant turn is begun with the mark of the next step. Native leaves the instruction out."""
    asked = answer_messages(problem, prompting)
    opening = mark(len(steps)) + begun
    if prompting is Prompting.NATIVE:
        return Prompt(asked, join_steps(steps) + SEPARATOR + opening)
    turns = (Message("assistant", join_steps(steps)), Message("user", instruction))
    return Prompt((*asked, *turns), opening)
