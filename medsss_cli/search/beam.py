"""A step beam that a process reward model guides, as a pure generator like `mcts`: problem, numbers, completions and
scores in, answers out. `driver.converse` runs it.

A path is the beginning of an answer; W paths are open at a time. Each round draws C next steps for every open path (W C
for the root, which stands for all W), has all new paths scored in one valuation, and ranks them by the aggregate of
their step scores; ties go to the path that was drawn first. The best W are kept.

- A path whose step states the answer is finished, and so is one after which a policy that writes its steps by itself
  ended its turn. Every finished path is a candidate, whatever its rank: it has been paid for, and may be voted for.
- A finished path among the best keeps its place for good, so the beam becomes narrower and comes to an end: when no
  open path is left, at `max_depth` steps, or when no draw of a round can be used. In the last two cases the open paths
  become candidates as they are.
- Equal paths are one. Empty steps, and steps that were cut before they came to an end, are dropped.

Where this differs from beam search over tokens: finished paths stay candidates outside the beam, and nothing is
normalised by length but by the choice of the aggregate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..answers import states_answer
from ..errors import UsageError
from ..prm.aggregate import StepAggregation, aggregate_steps
from ..prompts import Prompting, reason_prompt
from ..records import Problem
from ..requests import Completion, FinishReason, Sampling, derive_seed
from ..steps import ROOT_TEXT, SEPARATOR, STEP_WORD
from .mcts import Request, RequestKind, Talk, Valuation, first_step


@dataclass(frozen=True, slots=True)
class BeamConfig:
    """What a beam runs with. Raises UsageError for a number outside its range."""

    width: int  # paths that are open at a time; >= 1
    children: int  # draws for each; >= 1
    max_depth: int  # steps of a path, step 0 left out; >= 1
    sampling: Sampling  # of one step; its stop strings are the beam's own, its seed the run's
    prompting: Prompting = Prompting.NATIVE
    step_aggregation: StepAggregation = StepAggregation.MIN

    def __post_init__(self) -> None:
        for option, value in (("beam-width", self.width), ("children", self.children), ("max-depth", self.max_depth)):
            if value < 1:
                raise UsageError(f"--{option} must be at least 1, got {value}")


@dataclass(frozen=True, slots=True)
class Path:
    """The beginning of an answer, or a whole one. `steps` are bare, step 0 first; `scores` are those of the others,
    none for a path that the reward model cannot read, whose `score` is 0; `tokens` were drawn for the steps on it.

    `finish_reason` is that of the last step, "length" where the beam ended with the path still open."""

    number: int
    steps: tuple[str, ...]
    finished: bool = False
    finish_reason: str = "length"
    tokens: int = 0
    scores: list[float] = field(default_factory=list)
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Beamed:
    """The candidates, at least one, in the order in which they were drawn, those left open last. `tokens` counts all
    that was drawn; `duplicates` equal paths, `dropped` steps that could not be used."""

    paths: list[Path]
    tokens: int
    rounds: int
    duplicates: int
    dropped: int


def beam(problem: Problem, config: BeamConfig) -> Talk[Beamed]:
    """The candidates for one problem. Every request has its own seed, derived from (the run's, problem.id, the path's
    number), so what comes out does not depend on what runs beside it."""
    return (yield from _Beam(problem, config).run())


class _Beam:
    """What has been drawn and counted."""

    def __init__(self, problem: Problem, config: BeamConfig) -> None:
        self.problem, self.config = problem, config
        self.tokens = self.rounds = self.drawn = self.duplicates = self.dropped = 0

    def run(self) -> Talk[Beamed]:
        beams, places, done = [Path(0, (ROOT_TEXT,))], self.config.width, list[Path]()
        while beams and self.rounds < self.config.max_depth:
            paths = yield from self.extend(beams)
            if not paths:
                break
            kept = sorted(paths, key=lambda path: -path.score)[:places]
            done += [path for path in paths if path.finished]
            beams = [path for path in kept if not path.finished]
            places -= len(kept) - len(beams)
        return Beamed([*done, *beams], self.tokens, self.rounds, self.duplicates, self.dropped)

    def extend(self, beams: Sequence[Path]) -> Talk[list[Path]]:
        """The paths that one round adds to open ones, scored, in the order of drawing."""
        self.rounds += 1
        requests = [self.request(path) for path in beams]
        replies_BC: list[list[Completion]] = yield requests
        found: dict[tuple[str, ...], Path] = {}
        for path, replies in zip(beams, replies_BC, strict=True):
            for reply in replies:
                self.tokens += reply.tokens
                longer = self.read(path, reply)
                if longer is None:
                    self.dropped += 1
                elif longer.steps in found:
                    self.duplicates += 1
                else:
                    self.drawn += 1
                    found[longer.steps] = replace(longer, number=self.drawn)
        if not found:
            return []
        scores_PS: list[list[float]] = yield Valuation(tuple(found))
        how = self.config.step_aggregation
        return [
            replace(path, scores=scores, score=aggregate_steps(scores, how))
            for path, scores in zip(found.values(), scores_PS, strict=True)
        ]

    def request(self, path: Path) -> Request:
        config = self.config
        seed = derive_seed(config.sampling.seed, self.problem.id, path.number, "beam")
        sampling = replace(config.sampling, stop=(SEPARATOR + STEP_WORD,), seed=seed)
        prompt = reason_prompt(self.problem, path.steps, config.prompting)
        n = config.children if path.number else config.children * config.width
        return Request(RequestKind.REASON, path.number, prompt, sampling, n)

    def read(self, path: Path, reply: Completion) -> Path | None:
        """`path` with the step that was drawn; None where that cannot be used."""
        step, cut = first_step(reply, len(path.steps))
        # A policy that is told to write one step ends its turn after each.
        ended = self.config.prompting is Prompting.NATIVE and reply.finish_reason is FinishReason.EOS
        finished = states_answer(step) or ended
        if not step or (cut and not finished):
            return None
        return Path(
            number=0,
            steps=(*path.steps, step),
            finished=finished,
            finish_reason=str(reply.finish_reason) if finished else FinishReason.LENGTH.value,
            tokens=path.tokens + reply.tokens,
        )
