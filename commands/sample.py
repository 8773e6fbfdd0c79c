"""`medsss sample`: n answers of a policy to each problem, judged by rule, with the share that is right.

Costs n completions a problem and policy; with `--correct` n, or 2 n where the policy is native, for each wrong answer.
With `--curriculum K` the answers are looked at and left behind: what comes out is the problems that are worth a search,
which only the whole input can tell, so they are written at the end.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options as o
from ._authors import Recipe, engine_specs, recipe

if TYPE_CHECKING:
    import asyncio

    from medsss_cli.console import Progress
    from medsss_cli.engines.base import Engine, EngineConfig
    from medsss_cli.problems.curriculum import Curriculum
    from medsss_cli.records import Problem, Response, Samples
    from medsss_cli.sampling import Asking, Author
    from medsss_cli.stream.jsonl import LineWriter, Where
    from medsss_cli.stream.run import Stream, StreamOptions


@o.grouped(specs=engine_specs, recipe=recipe, options=o.stream_options)
def run(
    *,
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=1,
            metavar="N",
            help="Answers to each problem; 8, or 1 with --greedy or --correct.",
            show_default="8",
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
    extract: o.ExtractOpt = o.Extract.FLEXIBLE,
    seed: o.Seed = 0,
    concurrency: o.Concurrency = None,
    specs: list[EngineConfig],
    recipe: Recipe,
    options: StreamOptions,
) -> None:
    """Draw n answers to each problem, judge them, and write them with their pass rate.

    Reads problems (any record, or a public benchmark file), writes one samples record a problem. With --curriculum K it
    writes problems instead, with `meta.pass_rate`, and samples records in the input are taken as they are. With
    --correct it reads samples records and adds what became of their wrong answers.
    """
    import asyncio
    from dataclasses import replace

    from medsss_cli.console import Progress
    from medsss_cli.errors import UsageError
    from medsss_cli.problems.curriculum import Curriculum
    from medsss_cli.requests import Sampling
    from medsss_cli.stream.run import Stream

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
    recipe.check(prompting, curriculum=curriculum is not None)
    count = n or (1 if greedy or recipe.correct else 8)
    asking = recipe.asking(
        Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed), count, prompting, extract
    )
    # What is chosen from the answers is no part of it: a file of answers serves any --curriculum.
    config = {
        "policy": specs[0].policy if len(specs) == 1 else [spec.policy for spec in specs],
        **({"adapter": specs[0].adapter} if specs[0].adapter else {}),
        **({} if extract == "flexible" else {"extract": extract}),
        "n": count,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "prompting": prompting,
        "seed": seed,
        **recipe.config(),
    }
    final_output = options.output
    chooser = None if curriculum is None else Curriculum(curriculum)
    if chooser is not None:
        options = replace(options, output=samples or os.devnull)
    with contextlib.ExitStack() as stack:
        # Opened before the first answer is drawn: that it cannot be written is no news for the end of a long run.
        final = None if chooser is None else stack.enter_context(_FinalOutput(final_output))
        with (
            Stream(options, command="sample", parse=_reader(recipe, chooser), config=config) as stream,
            Progress("problems", total=stream.expected(), quiet=options.quiet) as progress,
        ):
            watcher = _Watcher(progress, recipe)
            policies = _Policies(specs, watcher, signed=len(specs) > 1 or recipe.keep)
            # What is kept in a file of its own is offered when all of it is there.
            offered = chooser if samples is None else None
            work = _work(policies, recipe, asking, offered, watcher)
            asyncio.run(_all(stream, policies, work, concurrency, lazy=chooser is not None or recipe.reads_samples))
        if chooser is not None and final is not None:
            if samples is not None:
                _offer_file(chooser, samples)
            final.write(chooser.chosen())
    if not options.quiet:
        watcher.summary(chooser)
    raise typer.Exit(stream.exit_code())


async def _all(
    stream: Stream[Problem],
    policies: _Policies,
    work: Callable[[Problem], Awaitable[list[Samples]]],
    concurrency: int | None,
    *,
    lazy: bool,
) -> None:
    """The run. Where records may need no engine (`lazy`), the first that does opens it."""
    from medsss_cli.stream.run import run_concurrently

    async with policies:
        most = 64 if lazy else max(author.engine.concurrency for author in await policies.get())
        await run_concurrently(stream, work, stage="sample", concurrency=concurrency or most)


def _work(
    policies: _Policies, recipe: Recipe, asking: Asking, chooser: Curriculum | None, watcher: _Watcher
) -> Callable[[Problem], Awaitable[list[Samples]]]:
    """What is done to one record: it gives a samples record, or none where it is for the curriculum alone."""
    from medsss_cli.correction import Correcting, corrections, to_correct, with_corrections
    from medsss_cli.records import Samples
    from medsss_cli.sampling import answers, with_responses

    how = Correcting(asking, recipe.others, *(recipe.rates or (0.0, 1.0)))

    async def new_of(problem: Problem) -> list[Response]:
        if recipe.correct:
            assert isinstance(problem, Samples)
            if not how.takes(problem) or not to_correct(problem):
                return []
            signed = any(isinstance(response.policy, str) for response in problem.responses)
            return await corrections(problem, await policies.get(signed=signed), how)
        if isinstance(problem, Samples) and not recipe.keep:
            return []
        return await answers(problem, await policies.get(), asking)

    async def work(problem: Problem) -> list[Samples]:
        new = await new_of(problem)
        if not isinstance(problem, Samples):
            drawn = with_responses(problem, new)
        elif recipe.correct:
            drawn = with_corrections(problem, new)
        else:
            drawn = with_responses(problem, [*problem.responses, *new])
        watcher.done(drawn, new or ([] if recipe.correct else drawn.responses))
        if chooser is not None:
            chooser.offer(drawn)
            return []
        return [drawn]

    return work


def _reader(recipe: Recipe, chooser: Curriculum | None) -> Callable[[dict[str, Any], Where], Problem]:
    """How a line is read: as a problem, as samples, or as what it is."""
    from medsss_cli.problems import to_problem, to_samples

    if recipe.correct:
        return to_samples
    return to_problem if chooser is None and not recipe.keep else _samples_or_problem


def _samples_or_problem(obj: dict[str, Any], where: Where) -> Problem | Samples:
    """A record with answers as samples, any other as the problem that it holds."""
    from medsss_cli.problems import to_problem, to_samples

    return to_samples(obj, where) if "responses" in obj else to_problem(obj, where)


def _offer_file(chooser: Curriculum, path: str) -> None:
    """Look at every samples record of a file that `sample` wrote: this run's and those of the runs before."""
    from medsss_cli.console import say
    from medsss_cli.problems import to_samples
    from medsss_cli.stream.jsonl import read_objects

    for where, obj in read_objects([path], on_bad=lambda where, what: say(f"{where}: {what}")):
        chooser.offer(to_samples(obj, where))


class _FinalOutput:
    """Where the problems of a curriculum go: stdout, or a file that is there whole or not at all."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path in (None, "-") else path
        self._writer: LineWriter | None = None
        self._part = ""

    def __enter__(self) -> _FinalOutput:
        from medsss_cli.stream.jsonl import LineWriter

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


class _Policies:
    """The policies of a run with their engines, all opened when somebody asks first; an async context manager that
    closes them. `signed` answers carry the name of their policy."""

    def __init__(self, specs: Sequence[EngineConfig], watcher: _Watcher, *, signed: bool) -> None:
        self._specs = specs
        self._watcher = watcher
        self._signed = signed
        self._stack = contextlib.AsyncExitStack()
        self._engines: list[Engine] = []
        self._opening: asyncio.Lock | None = None

    async def __aenter__(self) -> _Policies:
        import asyncio

        self._opening = asyncio.Lock()
        return self

    async def get(self, *, signed: bool = False) -> list[Author]:
        """All of them, in the order that they were named in. Raises UsageError where one cannot be opened."""
        from medsss_cli.console import warn
        from medsss_cli.engines import open_engine
        from medsss_cli.sampling import Author

        assert self._opening is not None
        async with self._opening:
            if not self._engines:
                for spec in self._specs:
                    engine = await self._stack.enter_async_context(open_engine(spec))
                    for warning in getattr(engine, "warnings", ()):
                        warn(warning)
                    self._engines.append(engine)
                self._watcher.start()
        signed = signed or self._signed
        return [
            Author(engine, spec.policy if signed else None)
            for engine, spec in zip(self._engines, self._specs, strict=True)
        ]

    async def __aexit__(self, *error: Any) -> None:
        from medsss_cli.engines import notes_of

        self._watcher.notes = [line for engine in self._engines for line in notes_of(engine)]
        await self._stack.__aexit__(*error)


@dataclass
class _Watcher:
    """Counts new answers as they come, for the line of progress and the summary; `wrong` are those that there were to
    put right."""

    progress: Progress
    recipe: Recipe
    problems: int = 0
    responses: int = 0
    correct: int = 0
    unparsed: int = 0
    tokens: int = 0
    wrong: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    begin: float | None = None
    notes: list[str] = field(default_factory=list)

    def start(self) -> None:
        """The clock of tokens per second starts when the engine is open."""
        self.begin = time.monotonic()

    def done(self, samples: Samples, new: Sequence[Response]) -> None:
        """A record is done; `new` are the answers to count."""
        from medsss_cli.records import Verdict

        self.problems += 1
        self.responses += len(new)
        self.correct += sum(response.verdict is Verdict.CORRECT for response in new)
        self.unparsed += sum(response.verdict is Verdict.NO_ANSWER for response in new)
        self.tokens += sum(response.tokens for response in new)
        self.wrong += len({response.corrects for response in new})
        self.refused.update(str(response.form) for response in new if (response.form or "").startswith("refused"))
        self.progress.set(accuracy=self.correct / max(self.responses, 1), tokens_per_s=round(self.rate()))
        self.progress.advance()

    def rate(self) -> float:
        """Generated tokens per second since the engine was opened; 0 where none was."""
        return 0.0 if self.begin is None else self.tokens / max(time.monotonic() - self.begin, 1e-9)

    def summary(self, chooser: Curriculum | None) -> None:
        """The lines at the end."""
        from medsss_cli.console import note, warn

        for line in self.notes:
            note(line)
        if self.problems:
            what = f"corrections of {self.wrong} wrong answers" if self.recipe.correct else "responses"
            shares = (
                f", accuracy {self.correct / self.responses:.1%}, unparsed {self.unparsed / self.responses:.1%}, "
                if self.responses
                else ", "
            )
            note(
                f"sample: {self.problems} problems, {self.responses} {what}{shares}"
                f"{self.tokens} tokens" + ("" if self.begin is None else f" at {self.rate():.0f}/s")
            )
        if self.refused:
            reasons = ", ".join(f"{count} {_REFUSED[form]}" for form, count in self.refused.most_common())
            note(f"sample: {self.refused.total()} responses refused, which count as no answer: {reasons}")
        if self.responses and not self.correct and (self.recipe.correct or self.recipe.template):
            warn(
                f"no {'correction' if self.recipe.correct else 'response'} is right: there is nothing here to train on"
            )
        if chooser is not None:
            note(
                f"curriculum: {len(chooser.chosen())} of {chooser.offered} problems kept; {chooser.solved} always right"
                + (f", {chooser.unjudged} not judged" if chooser.unjudged else "")
            )


_REFUSED = {
    "refused-no-steps": "without numbered steps",
    "refused-betrays": "that betray the answer they were shown",
}
