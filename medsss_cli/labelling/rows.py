"""Training records out of one tree, or out of one samples record: what `label --to sft, preference, prm` makes, and the
options of each. Where there is none to make, the reason is returned in its place, worded to follow "3 records ..."."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, NamedTuple

from ..answers import judge
from ..errors import BadRecord
from ..prompts import is_chinese, question_text
from ..records import Message, Preference, Prm, Problem, Samples, Sft, Tree, Verdict, problem_fields
from ..settings import Opt, check
from ..steps import split_steps
from .labels import StepLabels, StepValues, step_labels, values_on
from .preferences import correction_pairs, preference_pairs
from .trajectories import in_form, path_text, trajectories, written_steps

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
        found: dict[str, float] = {}  # texts and their smallest values
        if isinstance(source, Tree):
            correct = [each for each in trajectories(source) if each.correct]
            for each in sorted(correct, key=lambda each: -each.min_value):
                found.setdefault(path_text(source, each.nodes), each.min_value)
            if not found:
                return "without a correct trajectory"
        else:
            verified = [each for each in source.responses if each.verdict is Verdict.CORRECT]
            formed = [(in_form(each.text), each.answer) for each in verified]
            found = {_stated(source, text, answer): 1.0 for text, answer in formed if text is not None}
            if not found:
                none = "verified answer that can be written in steps"
                return f"with no {none}" if verified else "without a verified answer"
        texts = [text for text in found if not (self.no_reflect and _reflects(text))]
        if self.take is not Take.ALL:
            texts.sort(key=len, reverse=self.take is Take.LONGEST)
            most = most or 1
        problem = problem_fields(source)
        prompt = [Message("user", question_text(source))]
        return [
            Sft(**problem, prompt=prompt, completion=[Message("assistant", text)], min_value=found[text])
            for text in texts[:most]
        ] or "with no correct answer but by a Reflect"


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
    """The trajectories of a tree with labels made from its values; with `most`, wrong and correct ones by turns. For a
    judge also the answers of a samples record, each text once, whatever their verdicts; all labels are null then."""

    GROUP: ClassVar[str] = "Prm"

    labels: Annotated[
        StepLabels,
        Opt(
            "How values become labels; dual is the paper's equation 7. judge: the model of --policy and --engine says "
            "which steps are right, a request a trajectory; the first wrong one makes all later ones wrong."
        ),
    ] = StepLabels.DUAL
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

    @property
    def by_judge(self) -> bool:
        return self.labels is StepLabels.JUDGE

    def __call__(self, source: Source, most: int | None = None) -> list[Prm] | str:
        if isinstance(source, Tree):
            ends = trajectories(source)
            values_PS = values_on(source, [each.nodes for each in ends], self.values)
            found = [
                Path([source.nodes[index].text for index in each.nodes], values, each.correct)
                for each, values in zip(ends, values_PS, strict=True)
            ]
        elif self.by_judge:
            found = _answers(source)
        else:
            return "that are samples, which have no values (--labels judge reads their steps)"
        if not found:
            return "without a judged trajectory" if isinstance(source, Tree) else "without an answer in words"
        correct, wrong = ([each for each in found if each.correct is right] for right in (True, False))
        if not (self.all_problems or self.by_judge or (correct and wrong)):
            return f"with {'correct' if correct else 'wrong'} trajectories alone"
        if most is not None and len(found) > most:
            turns = [each for pair in zip(correct, wrong, strict=False) for each in pair]
            longer = max(correct, wrong, key=len)
            found = (turns + longer[len(turns) // 2 :])[:most]
        made_with = {"labels": str(self.labels), "values": str(self.values)}
        problem = problem_fields(source) | {"meta": {**source.meta, "label": made_with}}
        prompt = question_text(source)
        return [
            Prm(
                **problem,
                prompt=prompt,
                completions=each.steps,
                labels=step_labels(each.values, self.labels, worthless=self.values.worthless),
                values=each.values,
            )
            for each in found
        ]


def _answers(samples: Samples) -> list[Path]:
    paths: dict[tuple[str, ...], Path] = {}
    for response in samples.responses:
        steps = written_steps(response.text)
        if any(steps[1:]):
            paths.setdefault(tuple(steps), Path(steps, [], response.verdict is Verdict.CORRECT))
    return list(paths.values())
