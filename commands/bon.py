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
from medsss_cli.labelling.trajectories import trajectories
from medsss_cli.prm.aggregate import StepAggregation, aggregate_steps
from medsss_cli.prm.config import PrmConfig
from medsss_cli.prm.layout import answer_steps
from medsss_cli.prm.loading import find_format
from medsss_cli.problems import is_tree, to_prm, to_problem, to_samples, to_tree, without_corrections
from medsss_cli.records import (
    Candidate,
    Prm,
    Problem,
    Response,
    Samples,
    Scored,
    Tree,
    Verdict,
    dump,
    pass_rate,
    problem_fields,
)
from medsss_cli.selection import AnswerAggregation, select
from medsss_cli.settings import Opt
from medsss_cli.steps import ROOT_TEXT, join_steps
from medsss_cli.stream.jsonl import Where
from medsss_cli.stream.run import Stream, StreamOptions

from . import _options as o


@o.options
def run(
    *,
    stream: StreamOptions,
    prm: PrmConfig,
    n: Annotated[int | None, Opt("Take the first N candidates of each problem.", ("-n",), least=1, metavar="N")] = None,
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
    if prm.prm is not None:
        find_format(prm)
    config = prm.identity() if prm.prm is not None else {"prm": None}
    config |= {"step_aggregation": step_aggregation, "answer_aggregation": answer_aggregation, "n": n}
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
                if isinstance(item, Steps):
                    if scorer is None:
                        raise BadRecord("steps of its own are scored by --prm R")
                    found = {"step_scores": scorer.score(item.record, [item.steps])[0]}
                    records.write(item.id, [item.row | {"id": item.id} | found])
                else:
                    texts = [answer_steps(response.text) for response in item.samples.responses[:n]]
                    scores = item.scores[:n] if scorer is None else scorer.score(item.samples, texts)
                    records.write(item.id, [choose(item, scores, step_aggregation, answer_aggregation)])
                progress.advance()
            except (BadRecord, EngineError) as error:
                records.fail(item.id, "bon", str(error))
    for line in scorer.warnings() if scorer is not None else ():
        console.warn(line)
    for line in scorer.notes() if scorer is not None and not stream.quiet else ():
        console.note(line)
    raise typer.Exit(records.exit_code())


@dataclass(frozen=True)
class Steps:
    """A record whose own steps are scored: `steps` are bare, step 0 first; `row` is how it came, and comes back."""

    id: str
    record: Prm
    steps: list[str]
    row: dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """A problem with written answers. Beside each run what it carries of scores (None: nothing) and the fields that are
    no candidate's own (gold `labels` of its steps, say), which come back with it."""

    id: str
    samples: Samples
    scores: list[Any]
    kept: list[dict[str, Any]]


def read(obj: dict[str, Any], where: Where) -> Answers | Steps:
    """A record of the input. Raises BadRecord where there is nothing to score."""
    obj = without_corrections(obj)
    if is_tree(obj):
        tree = endings(to_tree(obj, where))
        return Answers(tree.id, tree, [None] * len(tree.responses), [{}] * len(tree.responses))
    if any(key in obj for key in ("responses", "candidates", "response", "output")):
        samples = to_samples(obj, where)
        written = obj.get("responses", obj.get("candidates"))
        own = Candidate.__struct_fields__
        items = [item if isinstance(item, dict) else {} for item in (written if isinstance(written, list) else [{}])]
        kept = [{key: value for key, value in item.items() if key not in own} for item in items]
        return Answers(samples.id, samples, [item.get("step_scores") for item in items], kept)
    if {"prompt", "completions", "labels"} <= obj.keys() or {"problem", "steps", "label"} <= obj.keys():
        record = to_prm(obj, where)
        # Its first step is step 0 where it has no label.
        steps = record.completions if record.labels[:1] == [None] else [ROOT_TEXT, *record.completions]
        if len(steps) < 2:
            raise BadRecord(f"record {record.id} has no steps to score")
        return Steps(record.id, record, steps, obj)
    problem = to_problem(obj, where)
    raise BadRecord(
        f"{problem.id}: a problem without candidates, and bon draws none: "
        "medsss sample -n 32 ... | medsss bon --prm R | medsss eval"
    )


def endings(tree: Tree) -> Samples:
    """The trajectories of a tree as answers, in the order of their ends."""
    paths = [path.nodes for path in trajectories(tree)]
    try:
        responses = [
            Response(
                text=join_steps([tree.nodes[index].text for index in path]),
                answer=tree.nodes[path[-1]].answer,
                verdict=tree.nodes[path[-1]].verdict or Verdict.NOT_JUDGED,
            )
            for path in paths
        ]
    except ValueError as error:
        raise BadRecord(f"{tree.id}: {error}") from None
    if not responses:
        raise BadRecord(f"{tree.id}: no path of the tree ends in a judged Finish, so there is nothing to select from")
    # What a trajectory cost is not known, for trajectories share their steps; what all of them did is.
    fields = problem_fields(tree) | {"meta": tree.meta | {"search": {"tokens": tree.stats.get("tokens", 0)}}}
    return Samples(**fields, responses=responses, pass_rate=pass_rate(responses))


def choose(
    item: Answers, scores_N: list[Any], by_step: StepAggregation, by_answer: AnswerAggregation
) -> dict[str, Any]:
    """The scored record of answers with the scores of their steps. Raises BadRecord for answers without scores."""
    problem: Problem = item.samples
    candidates = []
    for response, steps in zip(item.samples.responses, scores_N, strict=False):
        if not isinstance(steps, list):
            raise BadRecord("its candidates carry no step scores to select by; give --prm R")
        shared = {name: getattr(response, name) for name in Candidate.__struct_fields__ if hasattr(response, name)}
        try:
            candidates.append(Candidate(**shared, step_scores=steps, score=aggregate_steps(steps, by_step)))
        except (TypeError, ValueError) as error:
            raise BadRecord(f"step scores that are none: {error}") from None
    keys = [answer_key(problem, candidate.answer) for candidate in candidates]
    selected = select(keys, [candidate.score for candidate in candidates], by_answer)
    scored = Scored(
        **problem_fields(problem), candidates=candidates, selected=selected, strategy=f"{by_step}-{by_answer}"
    )
    plain = dump(scored)
    plain["candidates"] = [extra | own for extra, own in zip(item.kept, plain["candidates"], strict=False)]
    return plain
