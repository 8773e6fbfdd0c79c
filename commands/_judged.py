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
from medsss_cli.labelling.judged import JudgeConfig
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
    template = judging.template()
    asked = policy.writer() | {
        "prompt": template,
        "temperature": judging.temperature,
        "max_tokens": judging.max_tokens,
    }
    seen, nothing = Counter[str](), Counter[str]()

    async def work(sources: Stream[Source], progress: Progress) -> None:
        async with open_engine(policy) as engine:

            async def label(source: Source) -> Sequence[Prm]:
                found = paths.paths(source, most)
                if isinstance(found, str):
                    nothing[found] += 1
                    return []
                plain = paths.unlabelled(source, found, {"labels": "judge", "judge": policy.policy})
                labels_PS = await asyncio.gather(
                    *(judging.labels(engine, template, record, number) for number, record in enumerate(plain))
                )
                records = []
                for record, labels in zip(plain, labels_PS, strict=True):
                    seen.update(counted(labels[1:], (_of_clinic(record) or [])[1:]))
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
    if seen and not options.quiet:
        left_out = f"; {seen['unread']} trajectories without any judgement left out" if seen["unread"] else ""
        note(
            f"judge: {seen['trajectories']} trajectories, {seen['right']} steps right, {seen['wrong']} wrong, "
            f"{seen['unknown']} not judged{left_out}"
        )
        if checked := seen["same"] + seen["other"]:
            share = seen["same"] / checked
            note(f"judge: agrees with the clinic's checker on {seen['same']} of {checked} ({share:.1%}) steps")
    return sources, nothing


def counted(labels: Sequence[float | None], gold: Sequence[int | None]) -> Counter[str]:
    """What the labels of a trajectory's steps add to the summary: steps `right`, `wrong`, `unknown`, and of those that
    are judged how many have the `same` label as `gold` (none, or one a step) and how many an `other`."""
    found = Counter({1.0: "right", 0.0: "wrong", None: "unknown"}[label] for label in labels)
    found["trajectories"] += 1
    found["unread"] += all(label is None for label in labels)
    pairs = zip(labels, gold, strict=False)
    found.update("same" if label == true else "other" for label, true in pairs if label is not None)
    return found


def _of_clinic(record: Prm) -> list[int | None] | None:
    """What the checker of the built-in clinic says of the steps; None for any other problem."""
    if "clinic" not in record.meta:
        return None
    try:
        return gold_labels(record, record.completions)
    except BadRecord:
        return None  # somebody's own field of that name
