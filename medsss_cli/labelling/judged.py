"""Steps labelled by a judge: a language model that reads question, gold answer, documents and steps (Med-PRM, arXiv
2506.11474, section 3), and is held to one form of reply. A reply as models write it:

    Step 1 uses the wrong formula, the others follow from it ...

    **Step 1:** wrong
    Step 2: right

The first wrong step makes all later ones wrong. A step of which the reply says nothing, or both, is not judged.

Departures from Med-PRM: 1. the words of the prompt are ours, and a file may hold others; 2. the judge says right or
wrong of each step, as words on a line; 3. steps before the first that is not judged keep their labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from ..answers.readers import after_thought
from ..errors import UsageError
from ..prompts import gold_text
from ..records import Message, Prm, Problem
from ..requests import Engine, Prompt, Sampling, derive_seed
from ..settings import Opt, check
from ..steps import SEPARATOR, mark

JUDGE_PROMPT = """\
You check how a medical problem was solved. You are given the question, the right answer, and a solution in numbered \
steps.

Question:
{question}

Right answer: {answer}

Documents on the matter. Where your memory says something else, go by them:
{documents}

Solution:
{steps}

Judge the steps one after another. A step is right if what it says is true of this case, its arithmetic comes out, and \
it follows from the question, from medical knowledge or from the steps before it. Else it is wrong. A solution can \
come to the right answer by a wrong step, and can go astray after right ones: judge what a step says, not where it ends.

End your reply with one line for each step, in this form:
Step 1: right
Step 2: wrong"""

_PLACES = ("question", "answer", "documents", "steps")
_PLACE = re.compile(rf"\{{({'|'.join(_PLACES)})\}}")
_BREAKS = re.compile(r"\n|(?<=[.,;])[ \t]+(?=Step[ \t]\d)", re.IGNORECASE)
# "Step 1: Right-sided failure ..." repeats the step and is no verdict: after the word comes nothing, or a reason behind
# a sign.
_VERDICT = re.compile(
    r"""
    [ \t>#*_|•-]{0,12} (?:Step|步骤|第)? [ \t]{0,3} (?P<step>\d{1,4}) [ \t]{0,3} 步? [*_ \t]{0,6}
    (?: [:：.)=|–—-] | is\b ) [ \t*_]{0,6}
    (?: (?P<right>right|correct|正确) | wrong|incorrect|错误 )
    [*_]{0,3} (?: [ \t]*$ | [ \t]*[.,;:!(|。，；：（] | [ \t]+[–—-][ \t] )
    """,
    re.IGNORECASE | re.VERBOSE,
)


def judge_prompt(template: str, record: Prm) -> str:
    """What the judge is asked: `template` with its places filled, each once and by nothing that is read again. Step 0
    is not shown. Without documents the paragraph that holds their place is left out."""
    documents = documents_of(record)
    if not documents:
        template = SEPARATOR.join(part for part in template.split(SEPARATOR) if "{documents}" not in part)
    filled = {
        "question": record.prompt,
        "answer": gold_text(record),
        "documents": SEPARATOR.join(f"[{number}] {text}" for number, text in enumerate(documents, start=1)),
        "steps": SEPARATOR.join(f"{mark(k)} {step}" for k, step in enumerate(record.completions) if k > 0),
    }
    return _PLACE.sub(lambda place: filled[place[1]], template)


def read_verdicts(reply: str, count: int) -> list[bool | None]:
    """Right (True), wrong or not judged (None), of the steps 1 to `count`.

    Verdicts on lines of their own count, in the form of the prompt or near it, after a thought that is marked as such.
    A step that is called both is not judged; a reply that judges a step beyond `count` speaks of something else, and
    judges none. What is said of step 0 is passed over.
    """
    found: dict[int, set[bool]] = {}
    for line in _BREAKS.split(after_thought(reply)):
        if verdict := _VERDICT.match(line):
            found.setdefault(int(verdict["step"]), set()).add(verdict["right"] is not None)
    if any(step > count for step in found):
        return [None] * count
    clear = {step: said.pop() for step, said in found.items() if len(said) == 1}
    return [clear.get(step) for step in range(1, count + 1)]


def judged_labels(verdicts: Sequence[bool | None]) -> list[float | None]:
    """The labels of steps 0 to n from the verdicts on 1 to n: 1 up to the first wrong step, 0 from it on. Between a
    step that is not judged and the first wrong one there are none: a step is right only if all before it are.

    right right wrong right  gives  null 1 1 0 0;  right ? right wrong ?  gives  null 1 null null 0 0
    """
    labels: list[float | None] = [None]
    known, wrong = True, False
    for verdict in verdicts:
        wrong = wrong or verdict is False
        known = known and verdict is not None
        labels.append(0.0 if wrong else 1.0 if known else None)
    return labels


def documents_of(problem: Problem) -> tuple[str, ...]:
    """The texts of the documents that a record carries, each with its title in front: `meta.documents` (where a
    `documents` field of any layout ends up), or Med-PRM's `related_docs`; texts, or objects with `text` and maybe
    `title`. What is no document is passed over."""
    found = problem.meta.get("documents") or problem.meta.get("related_docs")
    texts = []
    for each in found if isinstance(found, list) else ():
        text, title = (each.get("text"), each.get("title")) if isinstance(each, dict) else (each, None)
        if isinstance(text, str):
            texts.append(f"{title}\n{text}" if title and isinstance(title, str) else text)
    return tuple(texts)


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """How steps are judged; which model judges is the engine's affair."""

    GROUP: ClassVar[str] = "Judge"

    judge_prompt: Annotated[
        str | None,
        Opt(
            "What the judge is asked, with {question}, {answer}, {documents} and {steps} in their places.",
            metavar="FILE",
        ),
    ] = None
    temperature: Annotated[
        float, Opt("Sampling temperature; 0 is greedy.", names=("--temperature", "-T"), least=0, metavar="T")
    ] = 0.0
    max_tokens: Annotated[int, Opt("Most tokens of one reply.", least=1, metavar="N")] = 1024

    def __post_init__(self) -> None:
        check(self)

    def template(self) -> str:
        """What the judge is asked. Raises UsageError where the file cannot be read, or leaves out question or steps."""
        if self.judge_prompt is None:
            return JUDGE_PROMPT
        try:
            text = Path(self.judge_prompt).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read --judge-prompt {self.judge_prompt}: {error}") from None
        for place in ("{question}", "{steps}"):
            if place not in text:
                raise UsageError(
                    f"--judge-prompt {self.judge_prompt} has no place for the {place.strip('{}')}",
                    hint=f"write {', '.join(f'{{{each}}}' for each in _PLACES)} where they are to stand",
                )
        return text

    def identity(self) -> dict[str, Any]:
        """What the labels depend on, beside the model."""
        return {"prompt": self.template(), "temperature": self.temperature, "max_tokens": self.max_tokens}

    async def labels(self, engine: Engine, template: str, record: Prm, number: int) -> list[float | None]:
        """The labels of the steps of a record, the `number`-th trajectory of its problem. Raises EngineError."""
        seed = derive_seed(0, record.id, "judge", number)
        sampling = Sampling(temperature=self.temperature, top_p=0.95, max_tokens=self.max_tokens, seed=seed)
        [reply] = await engine.complete(Prompt((Message("user", judge_prompt(template, record)),)), sampling, 1)
        return judged_labels(read_verdicts(reply.text, len(record.completions) - 1))
