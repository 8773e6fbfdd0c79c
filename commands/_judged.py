"""`medsss label --judge`: the steps of each trajectory labelled by a model, a request a trajectory, many records at
once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from medsss_cli.clinic.checker import gold_labels
from medsss_cli.console import Progress, note
from medsss_cli.engines import EngineConfig, open_engine
from medsss_cli.errors import BadRecord
from medsss_cli.labelling.documents import documents_of
from medsss_cli.labelling.judged import Judge, JudgeConfig, Judged
from medsss_cli.labelling.rows import PrmRows, Source
from medsss_cli.records import Prm
from medsss_cli.stream.jsonl import Where
from medsss_cli.stream.run import Stream, StreamOptions, run_concurrently


def label_by_judge(
    paths: PrmRows,
    most: int | None,
    policy: EngineConfig,
    judging: JudgeConfig,
    options: StreamOptions,
    parse: Callable[[dict[str, Any], Where], Source],
    config: dict[str, Any],
) -> tuple[Stream[Source], Counter[str]]:
    """Label the trajectories of all records, at most `most` of each; returns why records gave nothing. Those of which
    the judge says nothing are left out."""
    asked = {
        **policy.writer(),
        "prompt": judging.template(),
        "temperature": judging.temperature,
        "max_tokens": judging.max_tokens,
        "seed": judging.seed,
    }
    seen, nothing = Judged(), Counter[str]()

    async def work(sources: Stream[Source], progress: Progress) -> None:
        async with open_engine(policy) as engine:
            judge = Judge(engine, judging.sampling(), judging.template())

            async def label(source: Source) -> Sequence[Prm]:
                found = paths.paths(source, most)
                if isinstance(found, str):
                    nothing[found] += 1
                    return []
                plain = paths.unlabelled(source, found, {"labels": "judge", "judge": policy.policy})
                labels_PS = await asyncio.gather(
                    *(
                        judge.labels(source, record.prompt, record.completions, documents_of(record), number)
                        for number, record in enumerate(plain)
                    )
                )
                records = []
                for record, labels in zip(plain, labels_PS, strict=True):
                    seen.add(labels)
                    if (gold := _of_clinic(record)) is not None:
                        seen.compare(labels, gold)
                    if any(label is not None for label in labels):
                        records.append(msgspec.structs.replace(record, labels=labels))
                if not records:
                    nothing["with no judgement that can be read (the form of the reply: docs/labels.md)"] += 1
                progress.advance()
                return records

            await run_concurrently(sources, label, stage="judge", concurrency=policy.concurrency or engine.concurrency)

    sources: Stream[Source]
    with (
        Stream(options, command="label", parse=parse, config=config | {"judge": asked}) as sources,
        Progress("records", total=sources.expected(), quiet=options.quiet) as progress,
    ):
        asyncio.run(work(sources, progress))
    if not options.quiet:
        for line in seen.lines():
            note(line)
    return sources, nothing


def _of_clinic(record: Prm) -> list[int | None] | None:
    """What the checker of the built-in clinic says of the steps; None for any other problem."""
    if "clinic" not in record.meta:
        return None
    try:
        return gold_labels(record, record.completions)
    except BadRecord:
        return None  # somebody's own field of that name
