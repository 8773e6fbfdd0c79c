"""`medsss label`: search trees or answers in, training data out (sft, preference or prm records). Costs no model and no
torch: some ten thousand small trees a second, in constant memory. With `--judge` it costs a request to a model for each
trajectory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import _options as o

if TYPE_CHECKING:
    from medsss_cli.engines.base import EngineConfig
    from medsss_cli.labelling.judged import Agreement, Judge, Judged
    from medsss_cli.labelling.rows import PathRows, Source
    from medsss_cli.records import Preference, Prm, Sft
    from medsss_cli.stream.jsonl import Where
    from medsss_cli.stream.run import Stream, StreamOptions

Made = Sequence["Sft | Preference | Prm"]


@dataclass(frozen=True)
class Judging:
    """How steps are judged, where they are; see the options. `prompt` is the text with its places."""

    asked: bool
    prompt: str
    temperature: float
    max_tokens: int
    seed: int
    concurrency: int | None


def judging(
    judge: Annotated[
        bool,
        typer.Option(
            "--judge",
            help="prm: the model of --policy and --engine says which steps are right, a request a trajectory; the "
            "first wrong one makes all later ones wrong.",
        ),
    ] = False,
    judge_prompt: Annotated[
        str | None,
        typer.Option(
            "--judge-prompt",
            metavar="FILE",
            help="What the judge is asked, with {question}, {answer}, {documents} and {steps} in their places.",
            show_default=False,
        ),
    ] = None,
    temperature: o.Temperature = 0.0,
    max_tokens: o.MaxTokens = 1024,
    seed: o.Seed = 0,
    concurrency: o.Concurrency = None,
) -> Judging:
    from medsss_cli.labelling.judged import JUDGE_PROMPT, read_prompt

    prompt = JUDGE_PROMPT if judge_prompt is None else read_prompt(judge_prompt)
    return Judging(judge, prompt, temperature, max_tokens, seed, concurrency)


# The options that one kind of record alone looks at, and those that go with a choice of another option.
_OF_KIND = {
    "prm": ("labels", "values", "b", "threshold", "all_problems", "judge", "documents", "top_k"),
    "preference": ("pairs", "margin"),
    "sft": ("take", "min_value", "no_reflect"),
}
_OF_JUDGE = tuple(name for of in (judging, o.engine_spec) for name in signature(of).parameters if name != "judge")


@o.grouped(spec=o.engine_spec, judging=judging, options=o.stream_options)
def run(
    ctx: typer.Context,
    *,
    to: Annotated[
        Literal["sft", "preference", "prm"],
        typer.Option(help="sft: correct answers; preference: pairs; prm: trajectories with a label for each step."),
    ] = ...,  # type: ignore[assignment]  # typer's way to say that an option has to be given
    labels: Annotated[
        Literal["dual", "dual-soft", "soft", "hard", "monotone", "published"],
        typer.Option(help="prm: how values become labels; dual is the paper's equation 7."),
    ] = "dual",
    values: Annotated[
        Literal["backed-up", "rollout"],
        typer.Option(
            help="prm: which value of a step its label is made from, the search's (as in the paper) or that of its own "
            "rollouts, which Reflects below it do not raise."
        ),
    ] = "backed-up",
    b: Annotated[float, typer.Option("--b", min=0.0, help="prm: weight of the penalty in dual and published.")] = 1.0,
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="prm: what `monotone` must exceed.")] = 0.5,
    all_problems: Annotated[
        bool, typer.Option("--all", help="prm: keep problems that have only correct, or only wrong, trajectories.")
    ] = False,
    documents: Annotated[
        str | None,
        typer.Option(
            "--documents",
            metavar="FILE",
            help="prm: take the documents that fit question and trajectory best (BM25) from these JSON lines, for "
            "records that carry none.",
            show_default=False,
        ),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, metavar="K", help="prm: how many documents.")] = 5,
    pairs: Annotated[
        Literal["tree", "correction"],
        typer.Option(
            help="preference: steps and trajectories of a tree, or the corrections of `sample --correct` with what "
            "they put right."
        ),
    ] = "tree",
    margin: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="preference: values of a tree differ by more than this.")
    ] = 0.8,
    take: Annotated[
        Literal["all", "shortest", "longest"],
        typer.Option(help="sft: which correct answers; the shortest or longest is one, or N with --max-per-problem."),
    ] = "all",
    min_value: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="sft: drop trajectories with a step of a smaller value.")
    ] = 0.0,
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
    spec: EngineConfig,
    judging: Judging,
    options: StreamOptions,
) -> None:
    """Turn trees and answers into training data: sft, preference or prm records.

    Reads what `medsss search` and `medsss sample` write; several records for each, or none. The records are in the
    forms that TRL reads. The engine and its options are for --judge alone.
    """
    from medsss_cli.labelling.documents import Library
    from medsss_cli.labelling.labels import StepLabels
    from medsss_cli.labelling.rows import Pairs, PathRows, PreferenceRows, SftRows, Take, ValueRows
    from medsss_cli.labelling.trajectories import StepValues

    _refuse_foreign(ctx, to, judged=judging.asked, corrections=pairs == "correction")
    config: dict[str, Any] = {"to": to, "max_per_problem": max_per_problem}
    make: Callable[[Source], Made | str]
    match to:
        case "sft":
            make = SftRows(min_value, no_reflect, Take(take), max_per_problem)
            config |= {"min_value": min_value, "no_reflect": no_reflect} | _unless("all", take=take)
        case "preference":
            make = PreferenceRows(Pairs(pairs), margin, max_per_problem)
            config |= {"margin": margin} | _unless("tree", pairs=pairs)
        case "prm":
            library = None if documents is None else Library.read(documents)
            both = not (all_problems or judging.asked)
            paths = PathRows(StepValues(values), both, max_per_problem, library, top_k)
            make = ValueRows(paths, StepLabels(labels), b, threshold)
            config |= {"labels": labels, "b": b, "threshold": threshold, "all": all_problems, "values": values}
            config |= {} if documents is None else {"documents": documents, "top_k": top_k}
            if judging.asked:
                _label_by_judge(paths, spec, judging, options, config)
                return
    _label(make, options, config)


def _unless(default: str, **given: str) -> dict[str, str]:
    """The option where it is not at its default: files that were begun before it was there go on."""
    return {name: value for name, value in given.items() if value != default}


def _refuse_foreign(ctx: typer.Context, to: str, *, judged: bool, corrections: bool) -> None:
    """See `o.refuse`: the options that only another kind of record, or another way to make it, looks at."""
    foreign = {
        name: f"--to {kind}, not to --to {to}" for kind, names in _OF_KIND.items() if kind != to for name in names
    }
    if judged:
        foreign |= dict.fromkeys(
            ("labels", "b", "threshold", "all_problems"), "labels made from values, not to --judge"
        )
    else:
        foreign |= dict.fromkeys(_OF_JUDGE, "--judge") | foreign
    if corrections:
        foreign |= {"margin": "--pairs tree, not to --pairs correction"}
    for name, belongs in foreign.items():
        o.refuse(ctx, [name], f"belongs to {belongs}")


def _read(obj: dict[str, Any], where: Where) -> Source:
    """A tree, or samples. Raises BadRecord for anything else."""
    from medsss_cli.errors import BadRecord
    from medsss_cli.problems import is_tree, to_samples, to_tree

    if is_tree(obj):
        return to_tree(obj, where)
    if "responses" in obj or "candidates" in obj:
        return to_samples(obj, where)
    raise BadRecord(
        f"no tree and no samples: found the keys {', '.join(obj)}, but neither `nodes` (medsss search writes them) nor "
        "`pos` and `neg` (the authors' tree files) nor `responses` (medsss sample)"
    )


def _label(make: Callable[[Source], Made | str], options: StreamOptions, config: dict[str, Any]) -> None:
    """Record by record, without an engine. Ends the program."""
    from medsss_cli.console import Progress
    from medsss_cli.errors import BadRecord
    from medsss_cli.stream.run import Stream

    nothing: Counter[str] = Counter()
    stream: Stream[Source]
    with (
        Stream(options, command="label", parse=_read, config=config) as stream,
        Progress("records", total=stream.expected(), quiet=options.quiet) as progress,
    ):
        for source in stream:
            try:
                records = make(source)
            except BadRecord as error:
                stream.fail(source.id, "label", str(error))
                continue
            if isinstance(records, str):
                nothing[records] += 1
                records = []
            stream.write(source.id, records)
            progress.advance()
    _end(stream, nothing, config["to"])


def _end(stream: Stream[Source], nothing: Counter[str], to: str) -> None:
    """Say how many records gave nothing, and why; an output without a single record is never left without a word. Ends
    the program."""
    from medsss_cli.console import note, warn

    reasons = ", ".join(f"{count} {reason}" for reason, count in nothing.most_common())
    counts = stream.counts
    if nothing and counts.written and not counts.lines and not counts.skipped_done:
        warn(f"label: no {to} record at all from {counts.written} records: {reasons}")
    elif nothing and not stream.options.quiet:
        note(f"label: {nothing.total()} records gave no {to} record: {reasons}")
    raise typer.Exit(stream.exit_code())


def _label_by_judge(
    paths: PathRows, spec: EngineConfig, judging: Judging, options: StreamOptions, config: dict[str, Any]
) -> None:
    """Many records at once, each of their trajectories a request. Ends the program."""
    import asyncio

    from medsss_cli.console import Progress, note, warn
    from medsss_cli.engines import notes_of, open_engine
    from medsss_cli.labelling.judged import Agreement, Judge, Judged
    from medsss_cli.requests import Sampling
    from medsss_cli.stream.run import Stream, run_concurrently

    asked = {
        **spec.writer(),
        "prompt": judging.prompt,
        "temperature": judging.temperature,
        "max_tokens": judging.max_tokens,
        "seed": judging.seed,
    }
    config = {
        name: config[name] for name in ("to", "max_per_problem", "values", "documents", "top_k") if name in config
    }
    sampling = Sampling(temperature=judging.temperature, top_p=0.95, max_tokens=judging.max_tokens, seed=judging.seed)
    seen = _Seen(Judged(), Agreement())

    async def work(stream: Stream[Source], progress: Progress) -> None:
        async with open_engine(spec) as engine:
            for warning in getattr(engine, "warnings", ()):
                warn(warning)
            judge = Judge(engine, sampling, judging.prompt)

            async def label(source: Source) -> Made:
                records = await _judged(source, paths, judge, {"labels": "judge", "judge": spec.policy}, seen)
                progress.advance()
                return records

            await run_concurrently(stream, label, stage="judge", concurrency=judging.concurrency or engine.concurrency)
            seen.notes = notes_of(engine)

    stream: Stream[Source]
    with (
        Stream(options, command="label", parse=_read, config=config | {"judge": asked}) as stream,
        Progress("records", total=stream.expected(), quiet=options.quiet) as progress,
    ):
        asyncio.run(work(stream, progress))
    if not options.quiet:
        for line in seen.lines():
            note(line)
    _end(stream, seen.nothing, "prm")


async def _judged(source: Source, paths: PathRows, judge: Judge, made_with: dict[str, Any], seen: _Seen) -> list[Prm]:
    """The trajectories of a record with the judge's labels; those of which it says nothing are left out."""
    import asyncio

    from medsss_cli.labelling.documents import documents_of
    from medsss_cli.labelling.rows import labelled

    found = paths.paths(source)
    if isinstance(found, str):
        seen.nothing[found] += 1
        return []
    plain = paths.unlabelled(source, found, made_with)
    labels_PS = await asyncio.gather(
        *(
            judge.labels(source, record.prompt, record.completions, documents_of(record), number)
            for number, record in enumerate(plain)
        )
    )
    for record, labels in zip(plain, labels_PS, strict=True):
        seen.add(record, labels)
    records = [
        labelled(record, labels)
        for record, labels in zip(plain, labels_PS, strict=True)
        if any(label is not None for label in labels)
    ]
    if not records:
        seen.nothing["with no judgement that can be read (the form of the reply: docs/labels.md)"] += 1
    return records


@dataclass
class _Seen:
    """What the judge said in this run, for the summary. `clinic` compares it with the checker of the built-in clinic,
    whose problems have exact labels."""

    judged: Judged
    clinic: Agreement
    nothing: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def add(self, record: Prm, labels: list[float | None]) -> None:
        """One trajectory has been judged."""
        from medsss_cli.errors import BadRecord

        self.judged.add(labels)
        if "clinic" not in record.meta:
            return
        from medsss_cli.clinic.checker import gold_labels

        try:
            self.clinic.add(labels, gold_labels(record, record.completions))
        except BadRecord:
            return  # somebody's own field of that name

    def lines(self) -> list[str]:
        """The summary."""
        judged, clinic = self.judged, self.clinic
        lines = [*self.notes]
        if judged.trajectories:
            lines.append(
                f"judge: {judged.trajectories} trajectories, {judged.right} steps right, {judged.wrong} wrong, "
                f"{judged.unknown} not judged"
                + (f"; {judged.unread} trajectories without any judgement left out" if judged.unread else "")
            )
        if clinic.steps:
            line = f"judge: agrees with the clinic's checker on {_share(clinic.same_steps, clinic.steps)} steps"
            if clinic.trajectories:
                line += f", on the first wrong step of {_share(clinic.same_first, clinic.trajectories)} trajectories"
            lines.append(line)
        return lines


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.1%})"
