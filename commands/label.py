"""`medsss label`: search trees in, training data out (sft, preference or prm records). Costs no model and no torch:
some ten thousand small trees a second, in constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import _options as o

if TYPE_CHECKING:
    from medsss_cli.jsonl import Where
    from medsss_cli.labelling.trajectories import Trajectory
    from medsss_cli.records import Preference, Prm, Sft, Tree
    from medsss_cli.streams import StreamOptions


@o.grouped(options=o.stream_options)
def run(
    *,
    to: Annotated[
        Literal["sft", "preference", "prm"],
        typer.Option(
            help="sft: correct trajectories; preference: pairs; prm: trajectories with a label for each step."
        ),
    ] = ...,  # type: ignore[assignment]  # typer's way to say that an option has to be given
    labels: Annotated[
        Literal["dual", "dual-soft", "soft", "hard", "monotone", "published"] | None,
        typer.Option(help="prm: how values become labels; default dual, the paper's equation 7.", show_default=False),
    ] = None,
    values: Annotated[
        Literal["backed-up", "rollout"] | None,
        typer.Option(
            help="prm: which value of a step its label is made from, the search's or that of its own rollouts, which "
            "Reflects below it do not raise; default backed-up, the paper's.",
            show_default=False,
        ),
    ] = None,
    b: Annotated[
        float | None,
        typer.Option(
            "--b", min=0.0, help="prm: weight of the penalty in dual and published; default 1.", show_default=False
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="prm: what `monotone` must exceed; default 0.5.", show_default=False),
    ] = None,
    all_problems: Annotated[
        bool, typer.Option("--all", help="prm: keep problems that have only correct, or only wrong, trajectories.")
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="preference: values differ by more than this; default 0.8.", show_default=False
        ),
    ] = None,
    min_value: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="sft: drop trajectories with a step of a smaller value; default 0.",
            show_default=False,
        ),
    ] = None,
    no_reflect: Annotated[
        bool,
        typer.Option(
            "--no-reflect",
            help="sft: leave out trajectories with a Reflect, which write a wrong answer before the right one.",
        ),
    ] = False,
    max_per_problem: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="At most N records a problem, the best first.", show_default=False),
    ] = None,
    options: StreamOptions,
) -> None:
    """Turn trees into training data: sft, preference or prm records.

    Reads what `medsss search` writes; several records a tree, or none. The records are in the forms that TRL reads.
    """
    from medsss_cli.console import Progress, note
    from medsss_cli.errors import BadRecord
    from medsss_cli.labelling.labels import StepLabels
    from medsss_cli.labelling.trajectories import StepValues, trajectories
    from medsss_cli.streams import Stream

    _refuse_foreign(
        to,
        {
            "prm": {
                "--labels": labels,
                "--values": values,
                "--b": b,
                "--threshold": threshold,
                "--all": all_problems or None,
            },
            "preference": {"--margin": margin},
            "sft": {"--min-value": min_value, "--no-reflect": no_reflect or None},
        },
    )
    made: Callable[[Tree, list[Trajectory]], Sequence[Sft | Preference | Prm] | str]
    config: dict[str, Any] = {"to": to, "max_per_problem": max_per_problem}
    match to:
        case "sft":
            made = _sft(min_value or 0.0, no_reflect, max_per_problem)
            config |= {"min_value": min_value or 0.0, "no_reflect": no_reflect}
        case "preference":
            margin = 0.8 if margin is None else margin
            made, config = _preference(margin, max_per_problem), config | {"margin": margin}
        case "prm":
            how = StepLabels(labels or "dual")
            weight, above = 1.0 if b is None else b, 0.5 if threshold is None else threshold
            which = StepValues(values or "backed-up")
            made = _prm(how, which, weight, above, all_problems, max_per_problem)
            config |= {"labels": how.value, "b": weight, "threshold": above, "all": all_problems, "values": which.value}
    nothing: Counter[str] = Counter()
    stream: Stream[Tree]
    with (
        Stream(options, command="label", parse=_tree_reader(), config=config) as stream,
        Progress("trees", total=stream.expected(), quiet=options.quiet) as progress,
    ):
        for tree in stream:
            try:
                records = made(tree, trajectories(tree))
            except BadRecord as error:
                stream.fail(tree.id, "label", str(error))
                continue
            if isinstance(records, str):
                nothing[records] += 1
                records = []
            stream.write(tree.id, records)
            progress.advance()
    if not options.quiet and nothing:
        reasons = ", ".join(f"{count} {reason}" for reason, count in nothing.most_common())
        note(f"label: {nothing.total()} trees gave no {to} record: {reasons}")
    raise typer.Exit(stream.exit_code())


def _refuse_foreign(to: str, given: dict[str, dict[str, object]]) -> None:
    """An option that the chosen kind of record does not look at is a mistake, not a wish to be passed over."""
    from medsss_cli.errors import UsageError

    for kind, options in given.items():
        for name, value in options.items():
            if kind != to and value is not None:
                raise UsageError(f"{name} belongs to --to {kind}, not to --to {to}")


def _tree_reader() -> Callable[[dict[str, Any], Where], Tree]:
    from medsss_cli.errors import BadRecord
    from medsss_cli.labelling.trajectories import check_tree
    from medsss_cli.records import Tree, parse

    def read(obj: dict[str, Any], where: Where) -> Tree:
        if "nodes" not in obj:
            raise BadRecord(f"no tree: found the keys {', '.join(obj)}, but no `nodes` (medsss search writes them)")
        tree = parse(Tree, obj)
        check_tree(tree)
        return tree

    return read


def _joiner(tree: Tree) -> Callable[[Sequence[int]], str]:
    """Writes the steps of a path as one answer."""
    from medsss_cli.errors import BadRecord
    from medsss_cli.steps import join_steps

    texts = [node.text for node in tree.nodes]

    def joined(path: Sequence[int]) -> str:
        try:
            return join_steps([texts[index] for index in path])
        except ValueError as error:
            raise BadRecord(str(error)) from None

    return joined


def _sft(min_value: float, no_reflect: bool, most: int | None) -> Callable[[Tree, list[Trajectory]], list[Sft] | str]:
    """Correct trajectories, each text once, the largest smallest value first."""
    from medsss_cli.prompts import question_text
    from medsss_cli.records import Action, Message, Sft, problem_fields

    def made(tree: Tree, found: list[Trajectory]) -> list[Sft] | str:
        correct = sorted((each for each in found if each.correct), key=lambda each: -each.min_value)
        if not correct:
            return "without a correct trajectory"
        if no_reflect:
            nodes = tree.nodes
            correct = [each for each in correct if all(nodes[i].action is not Action.REFLECT for i in each.nodes)]
            if not correct:
                return "with no correct trajectory but by a Reflect"
        joined = _joiner(tree)
        texts: dict[str, float] = {}
        for each in correct:
            if each.min_value < min_value or (most is not None and len(texts) >= most):
                break
            texts.setdefault(joined(each.nodes), each.min_value)
        if not texts:
            return "with no trajectory that reaches --min-value"
        problem = problem_fields(tree)
        prompt = [Message("user", question_text(tree))]
        return [
            Sft(**problem, prompt=prompt, completion=[Message("assistant", text)], min_value=smallest)
            for text, smallest in texts.items()
        ]

    return made


def _preference(margin: float, most: int | None) -> Callable[[Tree, list[Trajectory]], list[Preference] | str]:
    """Pairs by both rules, the largest margin first."""
    from medsss_cli.labelling.preferences import preference_pairs
    from medsss_cli.prompts import question_text
    from medsss_cli.records import Message, Preference, problem_fields

    def made(tree: Tree, found: list[Trajectory]) -> list[Preference] | str:
        pairs = preference_pairs(tree, _joiner(tree), margin=margin, most=most, found=found)
        if not pairs:
            return "with no pair over the margin"
        problem = problem_fields(tree)
        prompt = [Message("user", question_text(tree))]
        return [
            Preference(
                **problem,
                prompt=prompt,
                chosen=[Message("assistant", pair.chosen)],
                rejected=[Message("assistant", pair.rejected)],
                margin=pair.margin,
                kind=pair.kind,
            )
            for pair in pairs
        ]

    return made


def _prm(
    how: Any, which: Any, b: float, threshold: float, all_problems: bool, most: int | None
) -> Callable[[Tree, list[Trajectory]], list[Prm] | str]:
    """Every trajectory with its labels, in the order of the tree; with a limit, wrong and correct ones by turns."""
    from medsss_cli.labelling.labels import step_labels
    from medsss_cli.labelling.trajectories import values_on
    from medsss_cli.prompts import question_text
    from medsss_cli.records import Prm, problem_fields

    made_with = {"labels": str(how), "values": str(which), "b": b, "threshold": threshold}

    def made(tree: Tree, found: list[Trajectory]) -> list[Prm] | str:
        correct = [each for each in found if each.correct]
        wrong = [each for each in found if not each.correct]
        if not found:
            return "without a judged trajectory"
        if not all_problems and not (correct and wrong):
            return f"with {'correct' if correct else 'wrong'} trajectories alone"
        if most is not None and len(found) > most:
            turns = [each for pair in zip(correct, wrong, strict=False) for each in pair]
            longer = max(correct, wrong, key=len)
            found = (turns + longer[len(turns) // 2 :])[:most]
        nodes = tree.nodes
        problem = problem_fields(tree)
        problem["meta"] = {**tree.meta, "label": made_with}
        prompt = question_text(tree)
        records = []
        for each in found:
            values = values_on(tree, each.nodes, which)
            records.append(
                Prm(
                    **problem,
                    prompt=prompt,
                    completions=[nodes[index].text for index in each.nodes],
                    labels=step_labels(values, how, b=b, threshold=threshold),
                    values=values,
                )
            )
        return records

    return made
