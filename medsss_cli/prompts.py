"""What the policy is asked: a problem and its steps so far -> a chat. Nothing here samples, parses or judges.

native    For a policy that was trained to write "Step k: ...": the user turn is the question alone; the steps so far
          are the beginning of the open assistant turn. Only the choice between Reason and Finish is a turn of its own.
instruct  For a general instruction-tuned model: the first user turn holds a role, how to write steps, a worked example
          and the question; the steps so far are an assistant turn; a second user turn says what to do now; the open
          assistant turn is begun with the mark of the next step.

All words are ours: docs/algorithms.md, departures 13 to 15, and docs/internals/recipes.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from .answers.choice import gold_letters
from .records import Message, Problem, Task
from .requests import Prompt
from .steps import ROOT_TEXT, SEPARATOR, join_steps, mark


class Prompting(StrEnum):
    """How the policy is asked."""

    NATIVE = "native"  # it writes "Step k: ..." by itself
    INSTRUCT = "instruct"  # it must be told how


class Template(StrEnum):
    """The form of answer that `instruct` asks for, where it is not plain steps."""

    THOUGHT = "thought"  # a long thought: plan, chain, check, conclusion


CHOICES = ("Reason", "Finish")
CHOICE_TURN = "Write one more step or finish now? Reply Reason or Finish."
BUT_WAIT = "But wait,"

_ROLE = (
    "You are a senior clinician who teaches. You solve medical problems in writing, so that a student can check each "
    "step: what the case says, the medical knowledge that applies, the conclusion from both."
)
_MARKS = (
    f'numbered steps with a blank line between them. Begin with "{mark(0)} {ROOT_TEXT}", go on with "{mark(1)}", '
    f'"{mark(2)}" and so on.'
)
_FORM = f"Write your solution as {_MARKS} A step is one small inference, a few sentences at most."
_THOUGHT = (
    f"Think at length, and write the thought as {_MARKS} Its parts, in this order:\n"
    f'- {mark(1)} the plan, which begins "Plan:": what is asked, which knowledge decides it, in which order you will '
    "go. No result yet.\n"
    "- As many steps as it takes: the chain, one inference to a step and none left out. Quote the finding or number of "
    "the case that you use, say the rule, then what follows. With options, say what speaks for and against those that "
    "are plausible.\n"
    '- One step that begins "Check:": come to the result in another way, or hold it against the case. If it fails, say '
    "where the chain went wrong and put it right in a further step.\n"
    "- The last step: the conclusion in a sentence or two."
)
_REVEALED = (
    "To keep you from going astray: the right answer is {answer}. Write as somebody who does not know it and finds it: "
    "it follows from the chain, and nothing in your text says or hints that it was given to you. If your chain leads "
    "elsewhere, look for the mistake in the chain."
)


@dataclass(frozen=True, slots=True)
class _Words:
    """What the first turn of an instruct chat says in the language of the question."""

    statement: str  # how the answer is to be stated
    answer: dict[Task, str]  # what X is in it
    question: str
    steps: tuple[str, ...]
    thought: tuple[str, ...]  # the same in the form of the template
    choice: str  # the last step, where options are given
    end: str  # and where none are


_OPTIONS = {"A": "420 mL", "B": "920 mL", "C": "1000 mL", "D": "1920 mL"}
_ENGLISH = _Words(
    statement='End the last step with the sentence "The answer is X.", where X is {}.',
    answer={
        Task.CHOICE: 'the letter of the right option (all letters in one word, such as "AC", if several are right)',
        Task.NUMBER: "a number, with its unit if it has one",
        Task.TEXT: "the answer in as few words as possible",
    },
    question="An adult of 64 kg with septic shock is to receive 30 mL/kg of crystalloid within three hours. A bag of "
    "1000 mL has run in. How many millilitres are still to be given?",
    steps=(
        ROOT_TEXT,
        "The whole volume is the dose per kilogram times the body weight: 30 mL/kg x 64 kg = 1920 mL.",
        "Of this volume 1000 mL has been given already, so 1920 mL - 1000 mL = 920 mL remain.",
    ),
    thought=(
        ROOT_TEXT,
        "Plan: the question wants what is left of a volume that goes by weight. First the whole volume from weight and "
        "dose, then what has run in is taken off.",
        "The dose is 30 mL for each kilogram and the weight 64 kg, so the whole volume is 30 mL/kg x 64 kg = 1920 mL.",
        "One bag of 1000 mL has run in, and it is part of this volume: 1920 mL - 1000 mL = 920 mL remain.",
        "Check: 920 mL and 1000 mL are 1920 mL, and 1920 mL / 64 kg = 30 mL/kg, the dose that was ordered.",
    ),
    choice="920 mL is option B. The answer is B.",
    end="Nothing else was given, so 920 mL are still to run. The answer is 920 mL.",
)
_CHINESE = _Words(
    statement=f"题目是中文的，请用中文写每一步；但步骤标记“{mark(1)}”和第 0 步的英文句子保持原样。"
    "最后一步以“答案是X。”结束，X {}。",
    answer={
        Task.CHOICE: "是正确选项的字母；有几个正确选项就连写几个字母，例如“答案是AC。”",
        Task.NUMBER: "是一个数，有单位就写上单位",
        Task.TEXT: "用尽量少的字写出答案",
    },
    question="成人感染性休克患者，体重64 kg，三小时内应按30 mL/kg输入晶体液。现已输入一袋1000 mL。还应输入多少毫升？",
    steps=(
        ROOT_TEXT,
        "总量等于每公斤剂量乘以体重：30 mL/kg x 64 kg = 1920 mL。",
        "其中1000 mL已经输入，所以还剩1920 mL - 1000 mL = 920 mL。",
    ),
    thought=(
        ROOT_TEXT,
        "Plan: 题目问按体重计算的总量还剩多少。先由体重和剂量求总量，再减去已输入的量。",
        "剂量是每公斤30 mL，体重64 kg，所以总量是30 mL/kg x 64 kg = 1920 mL。",
        "已输入的一袋1000 mL属于这个总量：1920 mL - 1000 mL = 920 mL。",
        "Check: 920 mL加1000 mL等于1920 mL，1920 mL / 64 kg = 30 mL/kg，与医嘱的剂量一致。",
    ),
    choice="920 mL是选项B。答案是B。",
    end="此外没有输入其他液体，还应输入920 mL。答案是920 mL。",
)
_CJK = re.compile(r"[\u3400-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")


def is_chinese(text: str) -> bool:
    """Whether at least a third of the letters of `text` are Chinese characters."""
    return 3 * len(_CJK.findall(text)) >= max(len(_LETTER.findall(text)), 1)


def _words(problem: Problem) -> _Words:
    return _CHINESE if is_chinese(problem.question) else _ENGLISH


def _statement(problem: Problem) -> str:
    """How the answer is to be stated."""
    words = _words(problem)
    return words.statement.format(words.answer[problem.task])


def question_text(problem: Problem) -> str:
    """The question as it is put to a policy and to a PRM: its text, then each option as a line "A. ...", unless the
    question lists them all, each at the start of a line ("A. x", "A) x", "(A) x", "A: x")."""
    question, options = problem.question.strip(), problem.options or {}
    listed = all(
        re.search(rf"^[ \t]*\(?{re.escape(letter)}[.):]+[ \t]*{re.escape(text.strip())}", question, re.MULTILINE)
        for letter, text in options.items()
    )
    return question if listed else "\n".join([question, *(f"{letter}. {text}" for letter, text in options.items())])


def answer_messages(
    problem: Problem,
    prompting: Prompting = Prompting.NATIVE,
    template: Template | None = None,
    *,
    reveal: bool = False,
) -> tuple[Message, ...]:
    """The chat that asks for a whole answer, one user turn (`sample`, and the prompt of training data): native the
    question alone; instruct role, form (`template`), example, question, and with `reveal` the gold answer."""
    if prompting is Prompting.NATIVE:
        return (Message("user", question_text(problem)),)
    words = _words(problem)
    choice = problem.task is Task.CHOICE
    example = Problem(
        id="example", question=words.question, answer="B", options=_OPTIONS if choice else None, task=problem.task
    )
    form, steps = (_FORM, words.steps) if template is None else (_THOUGHT, words.thought)
    parts = [
        _ROLE,
        f"{form} {_statement(problem)}",
        "Here is a problem with its solution.",
        f"Problem: {question_text(example)}",
        join_steps([*steps, words.choice if choice else words.end]),
        "Now solve this problem in the same way.",
        f"Problem: {question_text(problem)}",
        *([revealed_text(problem)] if reveal else []),
    ]
    return (Message("user", SEPARATOR.join(parts)),)


def revealed_text(problem: Problem) -> str:
    """What a teacher is told who is shown the gold answer: the answer, and not to betray it."""
    return _REVEALED.format(answer=gold_text(problem))


def gold_text(problem: Problem) -> str:
    """The gold answer as it is shown to a model: of a choice the letters with what their options say."""
    if problem.task is not Task.CHOICE or not problem.options:
        return problem.answer
    letters = gold_letters(problem.answer, problem.options) or ""
    return "; ".join(f"{letter}. {problem.options[letter]}" for letter in letters) or problem.answer


def correction_messages(
    problem: Problem, wrong: str, stated: str | None, *, reveal: bool = False
) -> tuple[Message, ...]:
    """The chat that asks an instructed policy to put a wrong answer right: question, the answer as its own turn, and
    what to do. `stated` is what the answer came to, None for nothing."""
    parts = [
        f"This solution is wrong: it came to {stated}." if stated else "This solution comes to no answer.",
        'Find the first step that is wrong or missing. Say what is wrong with it in one line that begins "Error:".',
        f"Below that line write the whole solution anew, as {_MARKS} Keep the steps before the mistake, and write as "
        f"if nothing had gone wrong: no word about the mistake or the earlier solution. {_statement(problem)}",
        *([revealed_text(problem)] if reveal else []),
    ]
    turns = (Message("assistant", wrong), Message("user", SEPARATOR.join(parts)))
    return (*answer_messages(problem, Prompting.INSTRUCT), *turns)


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
        f"Write all the steps that remain, from step {len(steps)} on, and conclude. {_statement(problem)}",
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
    turns = (Message("assistant", join_steps(steps)), Message("user", instruction))
    return Prompt((*answer_messages(problem, prompting), *turns))


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
