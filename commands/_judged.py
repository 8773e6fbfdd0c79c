"""`medsss label --judge`: the steps of each trajectory labelled by a model, a request a trajectory, many records at
once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec

from medsss_cli.console import Progress
from medsss_cli.engines import EngineConfig, open_engine
from medsss_cli.labelling.judged import JudgeConfig
from medsss_cli.labelling.rows import PrmRows, Source
from medsss_cli.records import Prm
from medsss_cli.stream.run import Stream, run_concurrently


async def label_by_judge(
    sources: Stream[Source],
    progress: Progress,
    nothing: Counter[str],
    paths: PrmRows,
    most: int | None,
    policy: EngineConfig,
    judging: JudgeConfig,
) -> str:
    """Label the trajectories of all records, at most `most` of each, but those of which the judge says nothing, and
    count in `nothing` why records gave nothing. Returns what the judge said, in a line."""
    template = judging.template()
    seen = Counter[str]()
    async with open_engine(policy) as engine:

        async def label(source: Source) -> Sequence[Prm]:
            plain = paths.unlabelled(source, most, {"labels": "judge", "judge": policy.policy})
            if isinstance(plain, str):
                nothing[plain] += 1
                return []
            labels_PS = await asyncio.gather(
                *(judging.labels(engine, template, record, number) for number, record in enumerate(plain))
            )
            records = []
            for record, labels in zip(plain, labels_PS, strict=True):
                judged = any(label is not None for label in labels)
                seen.update({1.0: "right", 0.0: "wrong", None: "unknown"}[label] for label in labels[1:])
                seen.update(["trajectories"] if judged else ["trajectories", "unread"])
                if judged:
                    records.append(msgspec.structs.replace(record, labels=labels))
            if not records:
                nothing["with no judgement that can be read (the form of the reply: docs/labels.md)"] += 1
            progress.advance()
            return records

        await run_concurrently(sources, label, stage="judge", concurrency=engine.concurrency)
    left_out = f"; {seen['unread']} trajectories without any judgement left out" if seen["unread"] else ""
    return (
        f"judge: {seen['trajectories']} trajectories, {seen['right']} steps right, {seen['wrong']} wrong, "
        f"{seen['unknown']} not judged{left_out}"
    )
