"""`medsss bon`: candidates in, one scored record a problem out, the best candidate selected; of records with steps of
their own (prm records, ProcessBench), these records with their steps scored. It draws nothing. With --prm it costs, for
each problem, one pass of the reward model over what its candidates do not share; without, nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from medsss_cli import console
from medsss_cli.answers import answer_key
from medsss_cli.errors import BadRecord, EngineError
from medsss_cli.labelling.trajectories import path_text, trajectories
from medsss_cli.prm.aggregate import StepAggregation, aggregate_steps
from medsss_cli.prm.config import PrmConfig
from medsss_cli.prm.loading import find_format
from medsss_cli.problems import is_tree, to_prm, to_problem, to_samples, to_tree, without_corrections
from medsss_cli.records import Problem, Response, Tree, Verdict, dump, problem_fields
from medsss_cli.selection import AnswerAggregation, select
from medsss_cli.settings import Opt
from medsss_cli.steps import ROOT_TEXT, answer_steps
from medsss_cli.stream.jsonl import Where
from medsss_cli.stream.run import Stream, StreamOptions

from . import _options as o


@o.options
def run(
    *,
    stream: StreamOptions,
    prm: PrmConfig,
    step_aggregation: Annotated[
        StepAggregation, Opt("From the scores of the steps to that of the answer.")
    ] = StepAggregation.MIN,
    answer_aggregation: Annotated[
        AnswerAggregation, Opt("From the scores of the answers to the selected one.")
    ] = AnswerAggregation.MAX,
) -> None:
    """Score candidates step by step with a process reward model and select the best.

    Reads samples records, scored records and trees (their endings); without --prm it selects anew from the scores that
    scored records carry. Of prm records and ProcessBench's rows it scores the steps, for `eval --steps`. It draws
    nothing: medsss sample -n 32 ... | medsss bon --prm R | medsss eval
    """
    config: dict[str, Any] = {"prm": None}
    if prm.prm is not None:
        find_format(prm)
        config = prm.identity()
    config |= {"step_aggregation": step_aggregation, "answer_aggregation": answer_aggregation}
    with (
        Stream(stream, command="bon", parse=read, config=config) as records,
        console.Progress("bon", total=records.expected(), quiet=stream.quiet) as progress,
    ):
        scorer = None
        if prm.prm is not None:
            from medsss_cli.prm.scorer import open_prm

            scorer = open_prm(prm)
        for item in records:
            try:
                carried = [candidate.get("step_scores") for candidate in item.candidates]
                scores = carried if scorer is None else scorer.score(item.problem, item.answers)
                records.write([item.with_scores(scores, step_aggregation, answer_aggregation)])
                progress.advance()
            except (BadRecord, EngineError) as error:
                records.fail(item.id, "bon", str(error))
    for line in scorer.warnings() if scorer is not None else ():
        console.warn(line)
    for line in scorer.notes() if scorer is not None and not stream.quiet else ():
        console.note(line)
    raise typer.Exit(records.exit_code())


@dataclass(frozen=True)
class Item:
    """A problem with written `answers` (bare steps, step 0 first) and what is known of each in `candidates`; or, with a
    `row`, a record whose own steps are the one answer, as it came."""

    id: str
    problem: Problem
    answers: list[list[str]]
    candidates: list[dict[str, Any]]
    row: dict[str, Any] | None = None

    def with_scores(self, scores_N: list[Any], by_step: StepAggregation, by_answer: AnswerAggregation) -> Any:
        """What is written: the row with the scores of its steps, or a scored record. Raises BadRecord for no scores."""
        if None in scores_N:
            raise BadRecord("it carries no step scores to select by; give --prm R")
        if self.row is not None:
            return self.row | {"id": self.id, "step_scores": scores_N[0]}
        try:
            totals = [aggregate_steps(steps, by_step) for steps in scores_N]
        except (TypeError, ValueError) as error:
            raise BadRecord(f"step scores that are none: {error}") from None
        scored = zip(self.candidates, scores_N, totals, strict=True)
        candidates = [each | {"step_scores": steps, "score": total} for each, steps, total in scored]
        keys = [answer_key(self.problem, candidate["answer"]) for candidate in candidates]
        logprobs: list[Any] = []
        if by_answer is AnswerAggregation.LIKELIHOOD:
            logprobs = [candidate.get("logprob") for candidate in candidates]
            if None in logprobs:
                raise BadRecord("a candidate carries no `logprob`, which --answer-aggregation likelihood goes by")
        return dump(Problem(**problem_fields(self.problem))) | {
            "candidates": candidates,
            "selected": select(keys, totals, by_answer, logprobs),
            "strategy": f"{by_step}-{by_answer}",
        }


def read(obj: dict[str, Any], where: Where) -> Item:
    """A record of the input. Raises BadRecord where there is nothing to score."""
    obj = without_corrections(obj)
    if is_tree(obj):
        tree = to_tree(obj, where)
        # What a trajectory cost is not known, for trajectories share their steps; what all of them did is.
        fields = problem_fields(tree) | {"meta": tree.meta | {"search": {"tokens": tree.stats.get("tokens", 0)}}}
        ends = endings(tree)
        return Item(tree.id, Problem(**fields), [answer_steps(end.text) for end in ends], [dump(end) for end in ends])
    if any(key in obj for key in ("responses", "candidates", "response", "output")):
        samples = to_samples(obj, where)
        written = obj.get("responses", obj.get("candidates"))
        known = written if isinstance(written, list) else [{}] * len(samples.responses)
        candidates = [
            (own if isinstance(own, dict) else {}) | dump(response)  # fields that we do not know come back
            for own, response in zip(known, samples.responses, strict=True)
        ]
        return Item(samples.id, samples, [answer_steps(response.text) for response in samples.responses], candidates)
    if {"prompt", "completions", "labels"} <= obj.keys() or {"problem", "steps", "label"} <= obj.keys():
        record = to_prm(obj, where)
        # Its first step is step 0 where it has no label.
        steps = record.completions if record.labels[:1] == [None] else [ROOT_TEXT, *record.completions]
        if len(steps) < 2:
            raise BadRecord(f"record {record.id} has no steps to score")
        return Item(record.id, record, [steps], [{}], row=obj)
    raise BadRecord(
        f"{to_problem(obj, where).id}: a problem without candidates, and bon draws none: "
        "medsss sample -n 32 ... | medsss bon --prm R | medsss eval"
    )


def endings(tree: Tree) -> list[Response]:
    """The trajectories of a tree as answers, in the order of their ends. Raises BadRecord where there are none."""
    found = []
    for path in trajectories(tree):
        end = tree.nodes[path.nodes[-1]]
        verdict = end.verdict or Verdict.NOT_JUDGED
        found.append(Response(text=path_text(tree, path.nodes), answer=end.answer, verdict=verdict))
    if not found:
        raise BadRecord(f"{tree.id}: no path of the tree ends in a judged Finish, so there is nothing to select from")
    return found
