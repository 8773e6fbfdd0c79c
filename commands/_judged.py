"""`medsss label --judge`: the steps of each trajectory labelled by a model, a request a trajectory, many records at
once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from medsss_cli.clinic.checker import gold_labels
from medsss_cli.console import Progress, note
from medsss_cli.engines import notes_of, open_engine
from medsss_cli.engines.base import EngineConfig
from medsss_cli.errors import BadRecord
from medsss_cli.labelling.documents import documents_of
from medsss_cli.labelling.judged import Agreement, Judge, JudgeConfig, Judged
from medsss_cli.labelling.rows import PathRows, Source, labelled
from medsss_cli.records import Prm
from medsss_cli.stream.jsonl import Where
from medsss_cli.stream.run import Stream, StreamOptions, run_concurrently


def label_by_judge(
    paths: PathRows,
    policy: EngineConfig,
    judging: JudgeConfig,
    options: StreamOptions,
    parse: Callable[[dict[str, Any], Where], Source],
    config: dict[str, Any],
) -> tuple[Stream[Source], Counter[str]]:
    """Label the trajectories of all records; returns why records gave nothing."""
    template = judging.template()
    asked = {
        **policy.writer(),
        "prompt": template,
        "temperature": judging.temperature,
        "max_tokens": judging.max_tokens,
        "seed": judging.seed,
    }
    asked |= {"top_p": judging.top_p} if judging.temperature else {}
    seen = _Seen(Judged(), Agreement())

    async def work(sources: Stream[Source], progress: Progress) -> None:
        async with open_engine(policy) as engine:
            judge = Judge(engine, judging.sampling(), template)

            async def label(source: Source) -> Sequence[Prm]:
                records = await _judged(source, paths, judge, {"labels": "judge", "judge": policy.policy}, seen)
                progress.advance()
                return records

            await run_concurrently(sources, label, stage="judge", concurrency=policy.concurrency or engine.concurrency)
            seen.notes = notes_of(engine)

    sources: Stream[Source]
    with (
        Stream(options, command="label", parse=parse, config=config | {"judge": asked}) as sources,
        Progress("records", total=sources.expected(), quiet=options.quiet) as progress,
    ):
        asyncio.run(work(sources, progress))
    if not options.quiet:
        for line in seen.lines():
            note(line)
    return sources, seen.nothing


async def _judged(source: Source, paths: PathRows, judge: Judge, made_with: dict[str, Any], seen: _Seen) -> list[Prm]:
    """The trajectories of a record with the judge's labels; those of which it says nothing are left out."""
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
        self.judged.add(labels)
        if "clinic" not in record.meta:
            return
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
