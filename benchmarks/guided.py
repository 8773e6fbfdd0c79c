"""What a reward model is worth while answers are written, at equal generated tokens: `benchmarks/guided.py --prm R`.

Clinic problems of the test split. Guided methods: step beams of several sizes, and tree searches by the model's values
(`search --prm`), each with its candidates selected by the greatest score, by P-VS (vote-sum) and by majority. Beside
each stands best-of-N of the same policy and model with as many whole answers a problem as come nearest to the tokens
that the guided method generated in the mean, everything that it threw away included. Whole answers are drawn until
there are enough for the most expensive method, scored once, and the first N of them are used. A candidate's score is
that of its least step everywhere.

Accuracy with Wilson's interval; `p` is McNemar's exact test against best-of-N with the same selection (problems are
the pairs). Tokens are generated ones; `scored` are those that went through the reward model, shared ones once; `cpu` is
processor time of everything, per problem. A table goes to stderr, a JSON line a row to stdout.

The reward model: train one as examples/demo.sh does (300 problems with it: some ten minutes of one core).

    OUT=out/demo examples/demo.sh
    python benchmarks/guided.py --prm out/demo/prm-dual --policy out/demo/policy --problems 300
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from medsss_cli.answers import answer_key, judge
from medsss_cli.clinic.problems import Split, problems
from medsss_cli.engines import Engine, EngineConfig, open_engine
from medsss_cli.evaluation.intervals import sign_flip_p
from medsss_cli.labelling.trajectories import trajectories
from medsss_cli.prm.aggregate import StepAggregation, aggregate_steps
from medsss_cli.prm.config import PrmConfig
from medsss_cli.prm.scorer import Scorer, open_prm
from medsss_cli.records import Problem, Verdict
from medsss_cli.sampling import SamplingConfig, answers
from medsss_cli.search.config import SearchConfig
from medsss_cli.search.driver import grow
from medsss_cli.search.values import RewardModel
from medsss_cli.selection import AnswerAggregation, select
from medsss_cli.steps import answer_steps

SELECTIONS = (AnswerAggregation.MAX, AnswerAggregation.VOTE_SUM, AnswerAggregation.MAJORITY)
CHUNK = 8  # whole answers that are drawn at a time


@dataclass(frozen=True)
class Candidate:
    """An answer as selection sees it. `tokens` are its own; those of a tree's trajectories are not told apart."""

    key: str | None
    correct: bool
    score: float
    tokens: int = 0


@dataclass
class Written:
    """What one method made of a problem: candidates, and all tokens that were generated for them."""

    candidates: list[Candidate]
    tokens: int


@dataclass
class Run:
    """A method over all problems. `scored` tokens and `cpu` seconds are per problem."""

    name: str
    written: list[Written]
    scored: float
    cpu: float

    @property
    def tokens(self) -> float:
        return sum(each.tokens for each in self.written) / len(self.written)


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share (Wilson 1927), by default of 95 %. By hand: 8 of 10 gives .490 to .943."""
    p, spread = right / n, z * z / n
    middle, half = p + spread / 2, z * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)


def rights(written: Sequence[Written], how: AnswerAggregation) -> list[bool]:
    """Whether the selected candidate of each problem is correct."""
    found = []
    for each in written:
        keys, scores = [one.key for one in each.candidates], [one.score for one in each.candidates]
        found.append(bool(keys) and each.candidates[select(keys, scores, how)].correct)
    return found


class Bench:
    """Policy, reward model in a thread of its own, and the problems."""

    def __init__(self, given: argparse.Namespace, engine: Engine, scorer: Scorer, thread: ThreadPoolExecutor) -> None:
        self.engine, self.scorer, self.thread = engine, scorer, thread
        self.problems = list(problems(given.problems, seed=given.seed, split=Split.TEST))
        self.sampling = SamplingConfig(n=CHUNK, max_tokens=given.max_tokens, seed=given.seed)

    async def values(self, problem: Problem, paths: Sequence[Sequence[str]]) -> list[list[float]]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.thread, self.scorer.score, problem, paths)

    def candidate(self, problem: Problem, text: str, scores: Sequence[float], tokens: int) -> Candidate:
        judgement = judge(problem, text)
        score = aggregate_steps(scores, StepAggregation.MIN)
        key = answer_key(problem, judgement.answer)
        return Candidate(key, judgement.verdict is Verdict.CORRECT, score, tokens)

    async def measure(self, name: str, write: Callable[[Problem], Awaitable[Written]]) -> Run:
        """`write` for every problem, 32 in flight."""
        gate = asyncio.Semaphore(32)

        async def one(problem: Problem) -> Written:
            async with gate:
                return await write(problem)

        scored, cpu = self.scorer.tokens, time.process_time()
        written = list(await asyncio.gather(*map(one, self.problems)))
        n = len(self.problems)
        run = Run(name, written, (self.scorer.tokens - scored) / n, (time.process_time() - cpu) / n)
        print(f"{name}: {run.tokens:.0f} tokens, {run.cpu:.2f} CPU seconds a problem", file=sys.stderr)
        return run

    async def beams(self, width: int, children: int) -> Run:
        return await self.trees(f"beam {width} x {children}", RewardModel(beam=width), {"children": children})

    async def search(self, nodes: int, by: StepAggregation, more: dict[str, Any]) -> Run:
        said = "".join(f", {key} {value:g}" for key, value in more.items())
        model = RewardModel(step_aggregation=by, enough_finishes=1 << 20)
        return await self.trees(f"search {nodes} nodes by {by}{said}", model, {"max_nodes": nodes} | more)

    async def trees(self, name: str, model: RewardModel, numbers: dict[str, Any]) -> Run:
        most, seed = self.sampling.max_tokens, self.sampling.seed
        config = replace(SearchConfig(max_tokens=most, max_step_tokens=most, seed=seed), **numbers)

        async def write(problem: Problem) -> Written:
            tree = await grow(problem, config, self.engine, model, score=self.values)
            made = []
            for path in trajectories(tree):
                scores = [value for i in path.nodes[1:] if (value := tree.nodes[i].rollout_value) is not None]
                end = tree.nodes[path.nodes[-1]]
                # By `last` these are the scores of the steps, by `min` the least ones so far: one minimum of both.
                score = aggregate_steps(scores, StepAggregation.MIN)
                made.append(Candidate(answer_key(problem, end.answer), path.correct, score))
            return Written(made, int(tree.stats["tokens"]))

        return await self.measure(name, write)

    async def pool(self, tokens: float) -> Run:
        """Whole answers, as many for every problem as together reach `tokens` in the mean."""
        runs: list[Run] = []
        while sum(run.tokens for run in runs) < tokens:
            sampling = replace(self.sampling, seed=self.sampling.seed + 1000 * len(runs))

            async def write(problem: Problem, sampling: SamplingConfig = sampling) -> Written:
                drawn = await answers(problem, self.engine, sampling)
                texts = [response.text for response in drawn]
                scores_N = await self.values(problem, [answer_steps(text) for text in texts])
                made = [
                    self.candidate(problem, response.text, scores, response.tokens)
                    for response, scores in zip(drawn, scores_N, strict=True)
                ]
                return Written(made, sum(each.tokens for each in made))

            runs.append(
                await self.measure(f"whole answers {len(runs) * CHUNK + 1} to {(len(runs) + 1) * CHUNK}", write)
            )
        joined = [
            Written([one for part in parts for one in part.candidates], sum(part.tokens for part in parts))
            for parts in zip(*(run.written for run in runs), strict=True)
        ]
        return Run("whole answers", joined, sum(run.scored for run in runs), sum(run.cpu for run in runs))


def best_of(pool: Run, n: int) -> Run:
    """The first `n` whole answers of every problem."""
    total = len(pool.written[0].candidates)
    written = [Written(each.candidates[:n], sum(one.tokens for one in each.candidates[:n])) for each in pool.written]
    return Run(f"best of {n}", written, pool.scored * n / total, pool.cpu * n / total)


def nearest(pool: Run, tokens: float) -> Run:
    """Best-of-N with the N whose mean tokens come nearest to `tokens`."""
    return min(
        (best_of(pool, n) for n in range(1, len(pool.written[0].candidates) + 1)),
        key=lambda run: abs(run.tokens - tokens),
    )


def rows_of(run: Run, against: Run | None = None) -> list[dict[str, Any]]:
    """A row for each way to select, with the difference to `against` under the same selection."""
    rows = []
    for how in SELECTIONS:
        right = rights(run.written, how)
        low, high = wilson(sum(right), len(right))
        row: dict[str, Any] = {
            "method": run.name,
            "selection": str(how),
            "accuracy": round(sum(right) / len(right), 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "candidates": round(sum(len(each.candidates) for each in run.written) / len(run.written), 1),
            "tokens": round(run.tokens, 1),
            "scored": round(run.scored, 1),
            "cpu": round(run.cpu, 3),
        }
        if against is not None:
            pairs = list(zip(right, rights(against.written, how), strict=True))
            won, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
            p = round(sign_flip_p([1] * won + [-1] * lost), 4)
            row |= {"against": against.name, "won": won, "lost": lost, "p": p}
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| method | selected by | accuracy | 95 % | candidates | tokens | scored | cpu s | won : lost, p |"]
    lines.append("|---" * 9 + "|")
    for row in rows:
        beside = f"{row['won']} : {row['lost']}, {row['p']:.3f}" if "won" in row else ""
        lines.append(
            f"| {row['method']} | {row['selection']} | {row['accuracy']:.1%} | {row['low']:.1%} to {row['high']:.1%} "
            f"| {row['candidates']:g} | {row['tokens']:.0f} | {row['scored']:.0f} | {row['cpu']:.2f} | {beside} |"
        )
    return "\n".join(lines)


async def compare(given: argparse.Namespace) -> list[dict[str, Any]]:
    scorer = open_prm(PrmConfig(given.prm, prm_device=given.device))
    spec = EngineConfig(engine="hf", policy=given.policy, device=given.device)
    async with open_engine(spec) as engine:
        with ThreadPoolExecutor(1, "prm") as thread:
            bench = Bench(given, engine, scorer, thread)
            guided = [await bench.beams(*map(int, size.split("x"))) for size in given.beams]
            for nodes in given.nodes:
                for by in given.values:
                    guided.append(await bench.search(nodes, StepAggregation(by), {}))
                if given.variants:
                    guided.append(await bench.search(nodes, StepAggregation(given.values[0]), {"reflects": 0}))
                    guided.append(await bench.search(nodes, StepAggregation(given.values[0]), {"ucb_c": 0.5}))
            pool = await bench.pool(max(run.tokens for run in guided))
    rows = rows_of(best_of(pool, 1))[:1]
    for run in guided:
        beside = nearest(pool, run.tokens)
        rows += [*rows_of(beside), *rows_of(run, beside)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--prm", required=True, help="a folder of train-prm")
    parser.add_argument("--policy", default="builtin:clinic")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=160, help="of a whole answer or of a step")
    parser.add_argument("--beams", nargs="*", default=["2x4", "4x4"], metavar="WxC")
    parser.add_argument("--nodes", nargs="*", type=int, default=[30], help="sizes of guided trees")
    parser.add_argument("--values", nargs="*", default=["min", "last"], choices=["min", "last"], help="of a node")
    parser.add_argument("--variants", action="store_true", help="guided trees without Reflect, and of less exploration")
    given = parser.parse_args()
    rows = asyncio.run(compare(given))
    for row in rows:
        print(json.dumps(row))
    print(table(rows), file=sys.stderr)


if __name__ == "__main__":
    main()
