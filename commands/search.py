"""`medsss search`: problems in, one tree record a problem out. Costs some hundreds of completions a tree (60 nodes,
most of them with 5 to 10 rollouts); `--max-nodes`, `--rollouts` and `--min-rollouts` are what it depends on. With
`--prm` nothing is rolled out: a tree costs about as many completions as it has nodes, and a pass of the reward model
over the new paths of each expansion."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Annotated, Any

import msgspec
import typer

from medsss_cli.answers import Extract, judge
from medsss_cli.console import Progress, note, warn
from medsss_cli.engines import EngineConfig, open_engine
from medsss_cli.prm.config import PrmConfig
from medsss_cli.prm.loading import find_format
from medsss_cli.problems import to_problem
from medsss_cli.records import Problem, Tree
from medsss_cli.search.config import SearchConfig, as_record
from medsss_cli.search.driver import grow
from medsss_cli.search.values import RewardModel, Rollouts
from medsss_cli.settings import Opt, options_of
from medsss_cli.stream.run import Stream, StreamOptions, run_concurrently

from ._options import options, refuse_given

# What a beam does not look at: it has its own way to choose leaves and to end.
_NOT_OF_BEAM = ("max_nodes", "expand", "ucb_c", "finish_threshold", "reflects", "enough_finishes")


@options
def run(
    *,
    stream: StreamOptions,
    policy: EngineConfig,
    search: SearchConfig,
    rollouts: Rollouts,
    prm: PrmConfig,
    guided: RewardModel,
    extract: Annotated[
        Extract,
        Opt("Read answers with all readers; those of a statement; as the authors did; or with one.", group="Search"),
    ] = Extract.FLEXIBLE,
) -> None:
    """Grow a tree of reasoning steps for each problem (MedS3's Monte Carlo tree search).

    Reads problems (any record, or a public benchmark file), writes one tree a problem. Every number of the algorithm is
    an option; the defaults are the authors'. A tree depends on the problem, the policy, the options and --seed, not on
    what else is in flight. With --prm a reward model's scores stand in place of rollouts and of the gold answer, and
    with --beam W its best W paths are lengthened step by step.
    """
    if prm.prm:
        refuse_given(options_of(Rollouts), "has no meaning where a reward model values the nodes", "--enough-finishes")
        if guided.beam:
            refuse_given(_NOT_OF_BEAM, "has no meaning in a beam", "--beam, --children, --max-depth")
    else:
        alone = {*options_of(PrmConfig), *options_of(RewardModel)} - {"prm"}
        refuse_given(alone, "is for a search by a reward model", "--prm R")
    values = guided if prm.prm else rollouts
    made_with = {**policy.writer(), **as_record(search), **as_record(values)}
    made_with |= {} if extract is Extract.FLEXIBLE else {"extract": str(extract)}
    if prm.prm:
        find_format(prm)
        made_with |= prm.identity()
    verdict = partial(judge, extract=extract)

    scorer: Any = None

    async def grow_all(watcher: _Watcher) -> None:
        async with open_engine(policy) as engine:

            async def tree_of(problem: Problem) -> list[Tree]:
                score = scorer.values if scorer else None
                tree = await grow(problem, search, engine, values, judge=verdict, score=score)
                watcher.done(tree)
                return [msgspec.structs.replace(tree, config=made_with)]

            await run_concurrently(trees, tree_of, stage="search", concurrency=engine.concurrency)

    with (
        Stream(stream, command="search", parse=to_problem, config=made_with) as trees,
        Progress("trees", total=trees.expected(), quiet=stream.quiet) as progress,
    ):
        if prm.prm:
            from medsss_cli.prm.scorer import open_prm  # it imports torch

            scorer = open_prm(prm)
        watcher = _Watcher(progress)
        asyncio.run(grow_all(watcher))
    for line in scorer.warnings() if scorer else ():
        warn(line)
    if not stream.quiet:
        for line in scorer.notes() if scorer else ():
            note(line)
        watcher.summary()
    raise typer.Exit(trees.exit_code())


class _Watcher:
    """Counts the trees that are done, for the line of progress and the summary."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.counts: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()

    def done(self, tree: Tree) -> None:
        self.counts.update({name: tree.stats[name] for name in ("nodes", "correct", "rollouts", "tokens")})
        self.counts.update(trees=1, solved=tree.stats["correct"] > 0, dropped=sum(tree.stats["dropped"].values()))
        self.ends[tree.stats["end"]] += 1
        self.progress.advance()
        shown = {name: self.counts[name] for name in ("solved", "nodes", "rollouts")}
        self.progress.set(**shown, tok_per_s=self._rate())

    def _rate(self) -> int:
        """Generated tokens per second since the models were opened."""
        return round(self.counts["tokens"] / self.progress.seconds)

    def summary(self) -> None:
        counts = self.counts
        if not counts["trees"]:
            return
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))
        note(
            f"search: {counts['solved']} of {counts['trees']} trees found the answer ({counts['correct']} correct "
            f"leaves); {counts['nodes']} nodes, {counts['rollouts']} rollouts, {counts['tokens']} tokens at "
            f"{self._rate()}/s; ended: {ends}"
        )
        if counts["dropped"]:
            said = "steps could not be used (stats.dropped: empty, or cut at --max-step-tokens)"
            note(f"search: {counts['dropped']} {said}")
