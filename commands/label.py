"""`medsss label`: search trees or answers in, training data out (sft, preference or prm records). Costs no model and no
torch: some ten thousand small trees a second, in constant memory. With `--judge` (`_judged`) it costs a request to a
model for each trajectory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from medsss_cli.console import Progress, note, warn
from medsss_cli.engines.base import EngineConfig
from medsss_cli.errors import BadRecord
from medsss_cli.labelling.judged import JudgeConfig
from medsss_cli.labelling.rows import PreferenceRows, PrmRows, SftRows, Source
from medsss_cli.problems import is_tree, to_samples, to_tree
from medsss_cli.settings import Opt, options_of
from medsss_cli.stream.jsonl import Where
from medsss_cli.stream.run import Stream, StreamOptions

from ._judged import label_by_judge
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
    records end in "@2". The policy and its options are for --judge alone.
    """
    kinds: dict[To, SftRows | PreferenceRows | PrmRows] = {To.SFT: sft, To.PREFERENCE: preference, To.PRM: prm}
    rows = kinds[to]
    for kind, own in kinds.items():
        if kind != to:
            names = {*options_of(type(own)), *(("judge",) if kind == To.PRM else ())}
            refuse_given(names, f"belongs to --to {kind}, not to --to {to}")
    if judge.judge:
        refuse_given(("labels", "all_problems"), "belongs to labels made from values, not to --judge")
    else:
        refuse_given({*options_of(JudgeConfig), *options_of(EngineConfig)}, "belongs to --judge")
    config: dict[str, Any] = {"to": str(to), "max_per_problem": max_per_problem}
    config |= {name: getattr(rows, name) for name in options_of(type(rows))}
    if judge.judge:
        config["judge"] = policy.writer() | judge.identity()
    said, nothing = "", Counter[str]()
    sources: Stream[Source]
    with (
        Stream(stream, command="label", parse=_reader(), config=config) as sources,
        Progress("records", total=sources.expected(), quiet=stream.quiet) as progress,
    ):
        if judge.judge:
            paths = replace(prm, all_problems=True)
            said = asyncio.run(label_by_judge(sources, progress, nothing, paths, max_per_problem, policy, judge))
        else:
            for source in sources:
                try:
                    records = rows(source, max_per_problem)
                except BadRecord as error:
                    sources.fail(source.id, "label", str(error))
                    continue
                if isinstance(records, str):
                    nothing[records] += 1
                    records = []
                sources.write(records)
                progress.advance()
    if said and not stream.quiet:
        note(said)
    # An output without a single record is never left without a word.
    reasons = ", ".join(f"{count} {reason}" for reason, count in nothing.most_common())
    counts = sources.counts
    if nothing and counts.written and not counts.lines and not counts.skipped_done:
        warn(f"label: no {to} record at all from {counts.written} records: {reasons}")
    elif nothing and not stream.quiet:
        note(f"label: {nothing.total()} records gave no {to} record: {reasons}")
    raise typer.Exit(sources.exit_code())


def _reader() -> Callable[[dict[str, Any], Where], Source]:
    """Reads trees and samples, and raises BadRecord for anything else. A record whose id stood in an earlier file gets
    one of its own: two searches of a question are two trees to learn from."""
    files: list[str] = []
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
        if where.source not in files:
            files.append(where.source)
        number = files.index(where.source) + 1
        if first.setdefault(hash(source.id), number) == number:
            return source
        return msgspec.structs.replace(source, id=f"{source.id}@{number}")

    return read
