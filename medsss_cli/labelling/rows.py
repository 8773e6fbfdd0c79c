"""Training records out of one tree, or out of one samples record: what `label --to sft, preference, prm` makes, and the
options of each. Where there is none to make, the reason is returned in its place, worded to follow "3 records ..."."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, NamedTuple

import msgspec

from ..answers import judge
from ..errors import BadRecord
from ..prompts import is_chinese, question_text
from ..records import Message, Preference, Prm, Problem, Samples, Sft, Tree, Verdict, problem_fields
from ..settings import Opt, check
from ..steps import split_steps
from .labels import StepLabels, step_labels
from .preferences import correction_pairs, preference_pairs
from .trajectories import path_text, trajectories
from .values import StepValues, values_on
from .written import in_form, written_steps

Source = Tree | Samples


class Take(StrEnum):
    """Which of a problem's correct answers become sft records."""

    ALL = "all"
    SHORTEST = "shortest"
    LONGEST = "longest"


@dataclass(frozen=True, slots=True)
class SftRows:
    """The correct answers to a problem, each text once: a tree's trajectories with the largest smallest value first,
    the verified responses of a samples record in their order. `take` sorts by length (in characters) instead, and keeps
    one unless `most` says more."""

    GROUP: ClassVar[str] = "Sft"

    take: Annotated[
        Take, Opt("Which correct answers; the shortest or longest is one, or N with --max-per-problem.")
    ] = Take.ALL
    no_reflect: Annotated[
        bool, Opt("Leave out trajectories with a Reflect, which write a wrong answer before the right one.")
    ] = False

    def __call__(self, source: Source, most: int | None = None) -> list[Sft] | str:
        found = _correct_trajectories(source) if isinstance(source, Tree) else _verified(source)
        if isinstance(found, str):
            return found
        if self.no_reflect:
            found = {text: value for text, value in found.items() if not _reflects(text)}
        texts = list(found)
        if self.take is not Take.ALL:
            texts.sort(key=len, reverse=self.take is Take.LONGEST)
            most = most or 1
        problem = problem_fields(source)
        prompt = [Message("user", question_text(source))]
        return [
            Sft(**problem, prompt=prompt, completion=[Message("assistant", text)], min_value=found[text])
            for text in texts[:most]
        ] or "with no correct answer but by a Reflect"


def _correct_trajectories(tree: Tree) -> dict[str, float] | str:
    """Texts and their smallest values."""
    correct = sorted((each for each in trajectories(tree) if each.correct), key=lambda each: -each.min_value)
    texts: dict[str, float] = {}
    for each in correct:
        texts.setdefault(path_text(tree, each.nodes), each.min_value)
    return texts or "without a correct trajectory"


def _verified(samples: Samples) -> dict[str, float] | str:
    """Texts in our form; their value is the verdict's, 1."""
    verified = [response for response in samples.responses if response.verdict is Verdict.CORRECT]
    if not verified:
        return "without a verified answer"
    formed = [(in_form(response.text), response.answer) for response in verified]
    texts = [_stated(samples, text, answer) for text, answer in formed if text is not None]
    return dict.fromkeys(texts, 1.0) or "with no verified answer that can be written in steps"


def _reflects(text: str) -> bool:
    return any(step.lower().startswith("but wait") for step in split_steps(text))


def _stated(problem: Problem, text: str, answer: str | None) -> str:
    """The text in our form, with the answer said at its end where it cannot be read any more. "A. yes" alone can be
    read; as "Step 1: A. yes" it cannot, and a policy that learns it writes nothing else."""
    try:
        if answer is None or judge(problem, text).verdict is not Verdict.NO_ANSWER:
            return text
    except BadRecord:  # a gold answer that cannot be read: somebody else has judged
        return text
    stop, said = ("。", f"答案是{answer}。") if is_chinese(problem.question) else (".", f" The answer is {answer}.")
    return f"{text}{'' if text[-1] in '.!?。！？' else stop}{said}"


@dataclass(frozen=True, slots=True)
class PreferenceRows:
    """Pairs of a tree by both rules, the largest `margin` first; of a samples record its corrections, in their order,
    with what they put right."""

    GROUP: ClassVar[str] = "Preference"

    margin: Annotated[float, Opt("Values of a tree differ by more than this.", least=0, most=1)] = 0.8

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, source: Source, most: int | None = None) -> list[Preference] | str:
        if isinstance(source, Tree):
            found = preference_pairs(source, margin=self.margin, most=most)
            nothing = "with no pair over the margin"
        else:
            found = correction_pairs(source, most=most)
            nothing = "without a correct correction of a wrong answer (`sample --correct` writes them)"
        problem = problem_fields(source)
        prompt = [Message("user", question_text(source))]
        return [
            Preference(
                **problem,
                prompt=prompt,
                chosen=[Message("assistant", pair.chosen)],
                rejected=[Message("assistant", pair.rejected)],
                margin=pair.margin,
                kind=pair.kind,
            )
            for pair in found
        ] or nothing


class Path(NamedTuple):
    """A trajectory whose steps are to be labelled: bare steps, step 0 first, and their values, none for an answer that
    no search wrote."""

    steps: list[str]
    values: list[float]
    correct: bool


@dataclass(frozen=True, slots=True)
class PrmRows:
    """The trajectories of a tree with labels made from its values; with `most`, wrong and correct ones by turns. What a
    judge labels starts from `unlabelled`."""

    GROUP: ClassVar[str] = "Prm"

    labels: Annotated[StepLabels, Opt("How values become labels; dual is the paper's equation 7.")] = StepLabels.DUAL
    values: Annotated[
        StepValues,
        Opt(
            "A step's value: the search's (as in the paper), the share of its own rollouts, that of all rollouts and "
            "Finishes at and below it (pooled), or this one held against the best sibling's (contrasted)."
        ),
    ] = StepValues.BACKED_UP
    all_problems: Annotated[
        bool, Opt("Keep problems that have only correct, or only wrong, trajectories.", names=("--all",))
    ] = False

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, source: Source, most: int | None = None) -> list[Prm] | str:
        if not isinstance(source, Tree):
            return "that are samples, which have no values (--judge labels their steps)"
        found = self.unlabelled(source, most, {"labels": str(self.labels), "values": str(self.values)})
        if isinstance(found, str):
            return found
        labels_PS = [step_labels(each.values, self.labels, worthless=self.values.worthless) for each in found]
        return [msgspec.structs.replace(each, labels=own) for each, own in zip(found, labels_PS, strict=True)]

    def unlabelled(self, source: Source, most: int | None, made_with: dict[str, Any]) -> list[Prm] | str:
        """The trajectories of a tree, or the answers of a samples record (each text once), in their order; all labels
        are null."""
        found = _trajectories(source, self.values) if isinstance(source, Tree) else _answers(source)
        if not found:
            return "without a judged trajectory" if isinstance(source, Tree) else "without an answer in words"
        correct = [each for each in found if each.correct]
        wrong = [each for each in found if not each.correct]
        if not self.all_problems and not (correct and wrong):
            return f"with {'correct' if correct else 'wrong'} trajectories alone"
        if most is not None and len(found) > most:
            turns = [each for pair in zip(correct, wrong, strict=False) for each in pair]
            longer = max(correct, wrong, key=len)
            found = (turns + longer[len(turns) // 2 :])[:most]
        problem = problem_fields(source) | {"meta": {**source.meta, "label": made_with}}
        prompt = question_text(source)
        return [
            Prm(**problem, prompt=prompt, completions=each.steps, labels=[None] * len(each.steps), values=each.values)
            for each in found
        ]


def _trajectories(tree: Tree, how: StepValues) -> list[Path]:
    found = trajectories(tree)
    values_PS = values_on(tree, [each.nodes for each in found], how)
    return [
        Path([tree.nodes[index].text for index in each.nodes], values, each.correct)
        for each, values in zip(found, values_PS, strict=True)
    ]


def _answers(samples: Samples) -> list[Path]:
    paths: dict[tuple[str, ...], Path] = {}
    for response in samples.responses:
        steps = written_steps(response.text)
        if any(steps[1:]):
            paths.setdefault(tuple(steps), Path(steps, [], response.verdict is Verdict.CORRECT))
    return list(paths.values())
