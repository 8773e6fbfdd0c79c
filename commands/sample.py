"""`medsss sample`: n answers of a policy to each problem, judged by rule, with the share that is right.

Costs n completions a problem. With `--curriculum K` the answers are looked at and left behind: what comes out is the
problems that are worth a search, which only the whole input can tell, so they are written at the end.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options as o

if TYPE_CHECKING:
    import asyncio

    from medsss_cli.console import Progress
    from medsss_cli.curriculum import Curriculum
    from medsss_cli.engines.base import Engine, EngineSpec
    from medsss_cli.jsonl import LineWriter, Where
    from medsss_cli.records import Problem, Samples
    from medsss_cli.streams import Stream, StreamOptions


@o.grouped(spec=o.engine_spec, options=o.stream_options)
def run(
    *,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", min=1, metavar="N", help="Answers to each problem; 8, or 1 with --greedy.", show_default="8"
        ),
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="The likeliest answer: temperature 0, one answer.")] = False,
    temperature: o.Temperature = 1.0,
    top_p: o.TopP = 1.0,
    max_tokens: o.MaxTokens = 512,
    prompting: o.PromptingOpt = "native",
    curriculum: Annotated[
        int | None,
        typer.Option(
            "--curriculum",
            min=1,
            metavar="K",
            help="Write problems: per dataset the K with the lowest pass rate, those always right left out. "
            "Comes at the end of the input; equal rates go by a hash of the id.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(
            "--samples",
            metavar="FILE",
            help="With --curriculum: keep the answers here, and go on from them when run again.",
            show_default=False,
        ),
    ] = None,
    extract: o.ExtractOpt = "flexible",
    seed: o.Seed = 0,
    concurrency: o.Concurrency = None,
    spec: EngineSpec,
    options: StreamOptions,
) -> None:
    """Draw n answers to each problem, judge them, and write them with their pass rate.

    Reads problems (any record, or a public benchmark file), writes one samples record a problem. With --curriculum K it
    writes problems instead, with `meta.pass_rate`, and samples records in the input are taken as they are.
    """
    import asyncio
    from dataclasses import replace

    from medsss_cli.adapters import to_problem
    from medsss_cli.answers import Extract
    from medsss_cli.console import Progress
    from medsss_cli.curriculum import Curriculum
    from medsss_cli.engines.base import Sampling
    from medsss_cli.errors import UsageError
    from medsss_cli.prompts import Prompting
    from medsss_cli.records import Samples
    from medsss_cli.streams import Stream, run_concurrently

    if greedy and n not in (None, 1):
        raise UsageError("--greedy gives one answer, and -n asks for more", hint="leave one of the two out")
    if greedy:
        temperature = 0.0
    if not 0 < top_p <= 1:
        raise UsageError(f"--top-p {top_p}: nothing is in a nucleus of no mass", hint="a number above 0, up to 1")
    if samples is not None and samples == options.output:
        raise UsageError(f"--samples and -o both name {samples}")
    if samples is not None and curriculum is None:
        raise UsageError("--samples goes with --curriculum", hint="without it, -o FILE keeps the answers")
    count = n or (1 if greedy else 8)
    way = Extract(extract)
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    # What is chosen from the answers is no part of it: a file of answers serves any --curriculum.
    config = {
        "policy": spec.policy,
        **({"adapter": spec.adapter} if spec.adapter else {}),
        **({} if extract == "flexible" else {"extract": extract}),
        "n": count,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "prompting": prompting,
        "seed": seed,
    }
    final_output = options.output
    chooser = None if curriculum is None else Curriculum(curriculum)
    if chooser is not None:
        options = replace(options, output=samples or os.devnull)

    async def work(stream: Stream[Problem], watcher: _Watcher) -> None:
        from medsss_cli.sampling import draw

        async with _LazyEngine(spec, watcher) as lazy:
            # A curriculum over samples records needs no engine, so there it is opened by the first problem without.
            opened = await lazy.get() if chooser is None else None

            async def answers(problem: Problem) -> list[Samples]:
                if isinstance(problem, Samples):
                    drawn = problem
                else:
                    drawn = await draw(problem, await lazy.get(), sampling, count, Prompting(prompting), way)
                watcher.done(drawn)
                if chooser is not None and samples is None:
                    chooser.offer(drawn)
                    return []
                return [drawn]

            await run_concurrently(
                stream, answers, stage="sample", concurrency=concurrency or (opened.concurrency if opened else 64)
            )

    parse = to_problem if chooser is None else _samples_or_problem
    with contextlib.ExitStack() as stack:
        # Opened before the first answer is drawn: that it cannot be written is no news for the end of a long run.
        final = None if chooser is None else stack.enter_context(_FinalOutput(final_output))
        with (
            Stream(options, command="sample", parse=parse, config=config) as stream,
            Progress("problems", total=stream.expected(), quiet=options.quiet) as progress,
        ):
            watcher = _Watcher(progress)
            asyncio.run(work(stream, watcher))
        if chooser is not None and final is not None:
            if samples is not None:
                _offer_file(chooser, samples)
            final.write(chooser.chosen())
    if not options.quiet:
        watcher.summary(chooser)
    raise typer.Exit(stream.exit_code())


def _samples_or_problem(obj: dict[str, Any], where: Where) -> Problem | Samples:
    """A record with answers as samples, any other as the problem that it holds."""
    from medsss_cli.adapters import to_problem, to_samples

    return to_samples(obj, where) if "responses" in obj else to_problem(obj, where)


def _offer_file(chooser: Curriculum, path: str) -> None:
    """Look at every samples record of a file that `sample` wrote: this run's and those of the runs before."""
    from medsss_cli.adapters import to_samples
    from medsss_cli.console import say
    from medsss_cli.jsonl import read_objects

    for where, obj in read_objects([path], on_bad=lambda where, what: say(f"{where}: {what}")):
        chooser.offer(to_samples(obj, where))


class _FinalOutput:
    """Where the problems of a curriculum go: stdout, or a file that is there whole or not at all."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path in (None, "-") else path
        self._writer: LineWriter | None = None
        self._part = ""

    def __enter__(self) -> _FinalOutput:
        from medsss_cli.jsonl import LineWriter

        if self._path is not None and not (os.path.exists(self._path) and not os.path.isfile(self._path)):
            # In front of the name: what stands at its end (.gz) says how to compress.
            folder, name = os.path.split(self._path)
            self._part = os.path.join(folder, f".part-{os.getpid()}-{name}")
        self._writer = LineWriter(self._part or self._path)
        return self

    def write(self, problems: Sequence[Problem]) -> None:
        """All of them, and the file takes its name."""
        assert self._writer is not None
        for problem in problems:
            self._writer.write([problem])
        self._writer.close()
        if self._part and self._path is not None:
            os.replace(self._part, self._path)
            self._part = ""

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._part:
            with contextlib.suppress(OSError):
                os.unlink(self._part)


class _LazyEngine:
    """An engine that is opened when somebody asks for it first; an async context manager that closes it."""

    def __init__(self, spec: EngineSpec, watcher: _Watcher) -> None:
        self._spec = spec
        self._watcher = watcher
        self._stack = contextlib.AsyncExitStack()
        self._engine: Engine | None = None
        self._opening: asyncio.Lock | None = None

    async def __aenter__(self) -> _LazyEngine:
        import asyncio

        self._opening = asyncio.Lock()
        return self

    async def get(self) -> Engine:
        """The engine. Raises UsageError where it cannot be opened."""
        from medsss_cli.console import warn
        from medsss_cli.engines import open_engine

        assert self._opening is not None
        async with self._opening:
            if self._engine is None:
                self._engine = await self._stack.enter_async_context(open_engine(self._spec))
                for warning in getattr(self._engine, "warnings", ()):
                    warn(warning)
                self._watcher.start()
            return self._engine

    async def __aexit__(self, *error: Any) -> None:
        from medsss_cli.engines import notes_of

        if self._engine is not None:
            self._watcher.notes = notes_of(self._engine)
        await self._stack.__aexit__(*error)


@dataclass
class _Watcher:
    """Counts answers as they come, for the line of progress and the summary."""

    progress: Progress
    problems: int = 0
    responses: int = 0
    correct: int = 0
    unparsed: int = 0
    tokens: int = 0
    begin: float | None = None
    notes: list[str] = field(default_factory=list)

    def start(self) -> None:
        """The clock of tokens per second starts when the engine is open."""
        self.begin = time.monotonic()

    def done(self, samples: Samples) -> None:
        """The answers to one problem are there."""
        from medsss_cli.records import Verdict

        self.problems += 1
        self.responses += len(samples.responses)
        self.correct += sum(response.verdict is Verdict.CORRECT for response in samples.responses)
        self.unparsed += sum(response.verdict is Verdict.NO_ANSWER for response in samples.responses)
        self.tokens += sum(response.tokens for response in samples.responses)
        self.progress.set(accuracy=self.correct / self.responses, tokens_per_s=round(self.rate()))
        self.progress.advance()

    def rate(self) -> float:
        """Generated tokens per second since the engine was opened; 0 where none was."""
        return 0.0 if self.begin is None else self.tokens / max(time.monotonic() - self.begin, 1e-9)

    def summary(self, chooser: Curriculum | None) -> None:
        """The line at the end."""
        from medsss_cli.console import note

        for line in self.notes:
            note(line)
        if self.problems:
            note(
                f"sample: {self.problems} problems, {self.responses} responses, "
                f"accuracy {self.correct / self.responses:.1%}, unparsed {self.unparsed / self.responses:.1%}, "
                f"{self.tokens} tokens" + ("" if self.begin is None else f" at {self.rate():.0f}/s")
            )
        if chooser is not None:
            note(
                f"curriculum: {len(chooser.chosen())} of {chooser.offered} problems kept; {chooser.solved} always right"
                + (f", {chooser.unjudged} not judged" if chooser.unjudged else "")
            )
