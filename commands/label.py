"""`medsss label`: search trees or answers in, training data out (sft, preference or prm records). Costs no model and no
torch: thousands of trees a second, in constant memory. With `--labels judge` it costs a request to a model for each
trajectory, many records at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from msgspec.structs import replace

from medsss_cli.console import Progress, note, warn
from medsss_cli.engines import EngineConfig, open_engine
from medsss_cli.errors import BadRecord
from medsss_cli.labelling.judged import JudgeConfig
from medsss_cli.labelling.rows import PreferenceRows, PrmRows, SftRows, Source
from medsss_cli.problems import is_tree, to_samples, to_tree
from medsss_cli.records import Prm
from medsss_cli.settings import Opt, options_of
from medsss_cli.stream.jsonl import Where
from medsss_cli.stream.run import Stream, StreamOptions, run_concurrently

from ._options import options, refuse_given


class To(StrEnum):
    """What is made."""

    SFT = "sft"  # correct answers
    PREFERENCE = "preference"  # pairs
    PRM = "prm"  # trajectories with a label for each step


@options
def run(
    *,
    to: Annotated[To, Opt("sft: correct answers; preference: pairs; prm: trajectories with a label for each step.")],
    stream: StreamOptions,
    policy: EngineConfig,
    max_per_problem: Annotated[
        int | None, Opt("At most N records a problem, the best first.", least=1, metavar="N")
    ] = None,
    sft: SftRows,
    preference: PreferenceRows,
    prm: PrmRows,
    judge: JudgeConfig,
) -> None:
    """Turn trees and answers into training data: sft, preference or prm records.

    Reads what `medsss search` and `medsss sample` write; several records for each, or none. The records are in the
    forms that TRL reads. A question that stands in two input files is labelled twice: the ids of the second file's
    records end in "@2". The policy and its options are for --labels judge alone.
    """
    kinds: dict[To, SftRows | PreferenceRows | PrmRows] = {To.SFT: sft, To.PREFERENCE: preference, To.PRM: prm}
    rows = kinds[to]
    for kind, own in kinds.items():
        if kind != to:
            refuse_given(options_of(type(own)), f"belongs to --to {kind}, not to --to {to}")
    config: dict[str, Any] = {"to": str(to), "max_per_problem": max_per_problem}
    config |= {name: getattr(rows, name) for name in options_of(type(rows))}
    by_judge = to is To.PRM and prm.by_judge
    if by_judge:
        config["judge"] = policy.writer() | judge.identity()
    else:
        refuse_given({*options_of(JudgeConfig), *options_of(EngineConfig)}, "belongs to --labels judge")
    nothing, said = Counter[str](), Counter[str]()

    def made(source: Source) -> Sequence[Any]:
        """The records of a source. Raises BadRecord."""
        records = rows(source, max_per_problem)
        if isinstance(records, str):
            nothing[records] += 1
            return ()
        return records

    with (
        Stream(stream, command="label", parse=_reader(len(stream.inputs)), config=config) as sources,
        Progress("records", total=sources.expected(), quiet=stream.quiet) as progress,
    ):
        if by_judge:
            asyncio.run(_judge(sources, made, judge, policy, said=said, nothing=nothing, progress=progress))
        for source in () if by_judge else sources:
            try:
                sources.write(made(source))
                progress.advance()
            except BadRecord as error:
                sources.fail(source.id, "label", str(error))
    if by_judge and not stream.quiet:
        note(
            f"judge: {said['trajectories']} trajectories, {said['right']} steps right, {said['wrong']} wrong, "
            f"{said['unknown']} not judged; {said['left out']} trajectories without any judgement left out"
        )
    # An output without a single record is never left without a word.
    reasons = ", ".join(f"{count} {reason}" for reason, count in nothing.most_common())
    if nothing and sources.written and not sources.lines and not sources.skipped_done:
        warn(f"label: no {to} record at all from {sources.written} records: {reasons}")
    elif nothing and not stream.quiet:
        note(f"label: {nothing.total()} records gave no {to} record: {reasons}")
    raise typer.Exit(sources.exit_code())


async def _judge(
    sources: Stream[Source],
    made: Callable[[Source], Sequence[Any]],
    judge: JudgeConfig,
    policy: EngineConfig,
    *,
    said: Counter[str],
    nothing: Counter[str],
    progress: Progress,
) -> None:
    """The trajectories that are `made` of each source, with the labels that a model gives; what it `said` is counted,
    and what gave `nothing`."""
    template = judge.template()
    async with open_engine(policy) as engine:

        async def judged(source: Source) -> Sequence[Prm]:
            plain = made(source)
            asked = (judge.labels(engine, template, record, number) for number, record in enumerate(plain))
            kept = []
            for record, labels in zip(plain, await asyncio.gather(*asked), strict=True):
                said.update({1.0: "right", 0.0: "wrong", None: "unknown"}[label] for label in labels[1:])
                said["trajectories"] += 1
                if any(label is not None for label in labels):
                    meta = record.meta | {"label": {"labels": "judge", "judge": policy.policy}}
                    kept.append(replace(record, labels=labels, meta=meta))
            said["left out"] += len(plain) - len(kept)
            if plain and not kept:
                nothing["with no judgement that can be read (the form of the reply: docs/labels.md)"] += 1
            progress.advance()
            return kept

        await run_concurrently(sources, judged, stage="judge", concurrency=engine.concurrency)


def _reader(inputs: int) -> Callable[[dict[str, Any], Where], Source]:
    """Reads trees and samples, and raises BadRecord for anything else. A record whose id stood in an earlier file gets
    one of its own: two searches of a question are two trees to learn from."""
    files: dict[str, int] = {}
    first: dict[int, int] = {}  # where an id stood first, by its hash

    def read(obj: dict[str, Any], where: Where) -> Source:
        if is_tree(obj):
            source: Source = to_tree(obj, where)
        elif "responses" in obj or "candidates" in obj:
            source = to_samples(obj, where)
        else:
            raise BadRecord(
                f"no tree and no samples: found the keys {', '.join(obj)}, but neither `nodes` (medsss search writes "
                "them) nor `pos` and `neg` (the authors' tree files) nor `responses` (medsss sample)"
            )
        if inputs < 2:
            return source
        number = files.setdefault(where.source, len(files) + 1)
        known = first.setdefault(hash(source.id), number) == number
        return source if known else replace(source, id=f"{source.id}@{number}")

    return read
