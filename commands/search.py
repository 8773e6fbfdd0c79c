"""`medsss search`: problems in, one tree record a problem out. Costs some hundreds of completions a tree (60 nodes,
most of them with 5 to 10 rollouts); `--max-nodes`, `--rollouts` and `--min-rollouts` are what it depends on. With
`--prm` nothing is rolled out: a tree costs about as many completions as it has nodes, and a pass of the reward model
over the new paths of each expansion."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import _options as o
from ._prm import READING, PrmReading, PrmThread, StepAggregationName, as_config, prm_reading

if TYPE_CHECKING:
    from medsss_cli.console import Progress
    from medsss_cli.engines.base import EngineConfig
    from medsss_cli.requests import Completion
    from medsss_cli.search.mcts import Request
    from medsss_cli.stream.run import StreamOptions

NEVER = 2.0  # a threshold that no value reaches


@o.grouped(spec=o.engine_spec, options=o.stream_options, reading=prm_reading)
def run(
    ctx: typer.Context,
    *,
    prm: Annotated[
        str | None,
        typer.Option(
            "--prm",
            metavar="MODEL",
            help="Let this reward model value the nodes: no rollouts, and no gold answer is read.",
            show_default=False,
        ),
    ] = None,
    step_aggregation: Annotated[
        StepAggregationName,
        typer.Option("--step-aggregation", help="--prm: from the scores of the steps on a node's path to its value."),
    ] = "min",
    prompting: o.PromptingOpt = "native",
    max_nodes: Annotated[int, typer.Option(min=1, metavar="N", help="Begin no expansion at N nodes or more.")] = 60,
    children: Annotated[int, typer.Option(min=1, metavar="N", help="Draws per expansion.")] = 3,
    expand: Annotated[
        Literal["choice", "reason"],
        typer.Option(help="choice: the policy says Reason or Finish for each child; reason: every child is a Reason."),
    ] = "choice",
    ucb_c: Annotated[float, typer.Option(min=0, metavar="C", help="Weight of exploration.")] = 2.0,
    unvisited: Annotated[float, typer.Option(metavar="U", help="Bound of a child without visits.")] = 5.0,
    rollouts: Annotated[
        int, typer.Option(min=0, metavar="N", help="A node at depth d gets max(N // (d + 1), --min-rollouts) rollouts.")
    ] = 20,
    min_rollouts: Annotated[int, typer.Option(min=0, metavar="N", help="Fewest rollouts of a node.")] = 5,
    finish_threshold: Annotated[
        float | None,
        typer.Option(
            metavar="V", help="A node whose own value reaches V gets one Finish.", show_default="0.9; with --prm none"
        ),
    ] = None,
    wrong_below: Annotated[
        float,
        typer.Option(metavar="V", help="A wrong Finish (--prm: any) of value below V gets one Reflect; 0: none does."),
    ] = 0.5,
    reflects: Annotated[int, typer.Option(min=0, metavar="N", help="At most N Reflects on a path; 0: none.")] = 1,
    enough_correct: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Correct Finishes that end a tree; with fewer, open leaves must finish."),
    ] = 4,
    enough_finishes: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="--prm: Finishes with an answer that end a tree, in place of --enough-correct."
        ),
    ] = 16,
    max_depth: Annotated[int, typer.Option(min=1, metavar="N", help="A node this deep may only finish.")] = 20,
    temperature: o.Temperature = 1.0,
    top_p: o.TopP = 0.95,
    max_step_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most tokens of one Reason or Reflect.")
    ] = 512,
    max_tokens: o.MaxTokens = 1024,
    extract: o.ExtractOpt = o.Extract.FLEXIBLE,
    seed: o.Seed = 0,
    concurrency: o.Concurrency = None,
    reading: PrmReading,
    spec: EngineConfig,
    options: StreamOptions,
) -> None:
    """Grow a tree of reasoning steps for each problem (MedS3's Monte Carlo tree search).

    Reads problems (any record, or a public benchmark file), writes one tree a problem. Every number of the algorithm is
    an option; the defaults are the paper's. A tree depends on the problem, the policy, the options and --seed, not on
    what else is in flight. With --prm a reward model's scores stand in place of rollouts and of the gold answer.
    """
    import asyncio
    from contextlib import AsyncExitStack
    from functools import partial

    import msgspec

    from medsss_cli.answers import Extract, judge
    from medsss_cli.console import Progress
    from medsss_cli.engines import notes_of, open_engine
    from medsss_cli.prm.aggregate import StepAggregation
    from medsss_cli.prm.loading import find_format
    from medsss_cli.problems import to_problem
    from medsss_cli.prompts import Prompting
    from medsss_cli.records import Problem, Tree
    from medsss_cli.search.config import Expand, SearchConfig
    from medsss_cli.search.driver import grow
    from medsss_cli.stream.run import Stream, run_concurrently

    if prm:
        unused = ("rollouts", "min_rollouts", "enough_correct")
        o.refuse(ctx, unused, "has no meaning where a reward model values the nodes", "--enough-finishes, --max-nodes")
    else:
        o.refuse(ctx, (*READING, "step_aggregation", "enough_finishes"), "is for a search by a reward model", "--prm R")
    if finish_threshold is None:
        finish_threshold = NEVER if prm else 0.9
    config = SearchConfig(
        max_nodes=max_nodes,
        children=children,
        ucb_c=ucb_c,
        unvisited=unvisited,
        rollout_budget=rollouts,
        min_rollouts=min_rollouts,
        finish_threshold=finish_threshold,
        wrong_below=wrong_below,
        reflects=reflects,
        enough_correct=enough_correct,
        enough_finishes=enough_finishes,
        max_depth=max_depth,
        temperature=temperature,
        top_p=top_p,
        max_step_tokens=max_step_tokens,
        max_tokens=max_tokens,
        prompting=Prompting(prompting),
        expand=Expand(expand),
        seed=seed,
        step_aggregation=StepAggregation(step_aggregation) if prm else None,
    )
    made_with = {**spec.writer(), **config.as_record()}
    made_with |= {} if extract == "flexible" else {"extract": extract}
    if prm:
        made_with |= {"prm": prm, "prm_format": reading.format, "prm_dtype": reading.dtype}
        find_format(as_config(prm, reading))
    verdict = partial(judge, extract=Extract(extract))

    async def work(stream: Stream[Problem], watcher: _Watcher) -> None:
        async with AsyncExitStack() as stack:
            thread = stack.enter_context(PrmThread.open(prm, reading, spec)) if prm else None
            values = thread.values if thread else None
            policy_engine = await stack.enter_async_context(open_engine(spec))

            async def tree_of(problem: Problem) -> list[Tree]:
                watcher.in_flight += 1
                try:
                    tree = await grow(problem, config, policy_engine, judge=verdict, values=values, watch=watcher.batch)
                finally:
                    watcher.in_flight -= 1
                return [msgspec.structs.replace(tree, config=made_with)]

            await run_concurrently(
                stream,
                tree_of,
                stage="search",
                concurrency=concurrency or policy_engine.concurrency,
                on_done=lambda _, trees: watcher.done(trees),
            )
            watcher.notes = notes_of(policy_engine)
        if thread:
            watcher.notes += thread.notes()
            thread.warn_too_long()

    with (
        Stream(options, command="search", parse=to_problem, config=made_with) as stream,
        Progress("trees", total=stream.expected(), quiet=options.quiet) as progress,
    ):
        watcher = _Watcher(progress)
        asyncio.run(work(stream, watcher))
    if not options.quiet:
        watcher.summary()
    raise typer.Exit(stream.exit_code())


class _Watcher:
    """Counts what the search does while it does it, for the line of progress and the summary."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.start = time.monotonic()
        self.in_flight = self.trees = self.solved = self.nodes = self.correct = self.rollouts = self.tokens = 0
        self.ends: dict[str, int] = {}
        self.dropped = 0
        self.notes: list[str] = []

    def batch(self, requests: Sequence[Request], completions: Sequence[Sequence[Completion]]) -> None:
        self.tokens += sum(each.tokens for replies in completions for each in replies)
        self.rollouts += sum(request.n for request in requests if request.kind == "rollout")
        self._show()

    def done(self, trees: Sequence[Any]) -> None:
        """The tree of a problem has been written."""
        [tree] = trees
        stats = tree.stats
        self.trees += 1
        self.nodes += stats["nodes"]
        self.correct += stats["correct"]
        self.solved += stats["correct"] > 0
        self.dropped += sum(stats["dropped"].values())
        self.ends[stats["end"]] = self.ends.get(stats["end"], 0) + 1
        self.progress.advance()
        self._show()

    def rate(self) -> float:
        """Generated tokens per second since the engine was opened."""
        return self.tokens / max(time.monotonic() - self.start, 1e-9)

    def _show(self) -> None:
        self.progress.set(
            in_flight=self.in_flight,
            solved=self.solved,
            tok_per_s=round(self.rate()),
            nodes=self.nodes,
            rollouts=self.rollouts,
        )

    def summary(self) -> None:
        from medsss_cli.console import note

        for line in self.notes:
            note(line)
        if not self.trees:
            return
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))
        note(
            f"search: {self.solved} of {self.trees} trees found the answer ({self.correct} correct leaves); "
            f"{self.nodes} nodes, {self.rollouts} rollouts, {self.tokens} tokens at {self.rate():.0f}/s; ended: {ends}"
        )
        if self.dropped:
            note(f"search: {self.dropped} steps could not be used (stats.dropped: empty, or cut at --max-step-tokens)")
