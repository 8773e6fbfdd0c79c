"""A reward model in the lead: the tree search by its values and the step beam against numbers worked by hand, what may
not depend on the gold answer or on what runs beside, and both as commands with a real (random) model."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import problem, run_medsss, to_lines, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from talks import Write, noisy, serve
from tiny_models import make_tiny_reward

from medsss_cli.answers import judge
from medsss_cli.labelling.trajectories import path_to
from medsss_cli.prm.aggregate import StepAggregation, aggregate_steps
from medsss_cli.records import Action, Problem, Task, Tree, dump
from medsss_cli.requests import Completion
from medsss_cli.search.beam import beam
from medsss_cli.search.config import Expand, SearchConfig
from medsss_cli.search.drawing import Request, Valuation
from medsss_cli.search.mcts import search
from medsss_cli.search.values import RewardModel
from medsss_cli.steps import ROOT_TEXT, join_steps, split_steps

PROBLEM = Problem(
    id="k", question="Is 6.1 high?", answer="B", options={"A": "No", "B": "Yes"}, task=Task.CHOICE, dataset="made"
)


def after(table: dict[str, list[str | Completion]]) -> Write:
    """Draws by the last step that the prompt holds."""

    def write(request: Request) -> Sequence[str | Completion]:
        last = split_steps(request.prompt.prefix.rpartition("\n\n")[0])[-1]
        drawn = table[last]
        assert len(drawn) == request.n, (last, request.n)
        return drawn

    return write


# The search


GUIDED = SearchConfig(children=2, max_nodes=5, expand=Expand.REASON)
MODEL = RewardModel()
SCORES = {"r1": 0.8, "r2": 0.4, "x": 0.5, "The answer is A.": 0.9, "y": 0.7, "The answer is B.": 0.3, "z": 0.6}
DRAWS: dict[str, list[str | Completion]] = {
    ROOT_TEXT: [" r1", " r2"],
    "r1": [" x", " The answer is A."],
    "r2": [" y\n\nStep 3: The answer is B."],
    "x": [" The answer is B."],
}


def test_a_guided_search_node_by_node() -> None:
    """Scores r1 .8, r2 .4, x .5, "A" .9, y .7, "B" .3; a node's value is the least on its path.

    Root: r1 .8, r2 .4. Root value: (0 + .8) / 2 = .4, then (.4 + .6) / 2 = .5.
    r1 is selected (.8 is the greater bound): x min(.8, .5) = .5, and a Finish "A" min(.8, .9) = .8.
      After x: r1 (.8 + .5) / 2 = .65; root: mean (2 x .65 + .4) / 3 = .566667, (.5 + .566667) / 2 = .533333.
      After A: r1 (.65 + .65) / 2 = .65; root: mean (3 x .65 + .4) / 4 = .5875, (.533333 + .5875) / 2 = .560417.
    Five nodes: over. Both open leaves must finish, the better one first, in one batch and one valuation: below x "B"
    min(.8, .5, .3) = .3; below r2 a step y min(.4, .7) = .4 and "B" min(.4, .7, .3) = .3.
      After x-B: x (.5 + .3) / 2 = .4, r1: mean (2 x .4 + .8) / 3 = .533333, (.65 + .533333) / 2 = .591667.
      After r2-y-B: y (.4 + .3) / 2 = .35, r2 (.4 + .35) / 2 = .375.
    """
    log: list[Any] = []
    tree = serve(search(PROBLEM, GUIDED, judge, MODEL), after(DRAWS), SCORES.__getitem__, log)
    assert [(node.parent, str(node.action), node.text, node.rollouts) for node in tree.nodes] == [
        (-1, "root", ROOT_TEXT, 0),
        (0, "reason", "r1", 0),
        (0, "reason", "r2", 0),
        (1, "reason", "x", 0),
        (1, "finish", "The answer is A.", 0),
        (3, "finish", "The answer is B.", 0),
        (2, "reason", "y", 0),
        (6, "finish", "The answer is B.", 0),
    ]
    assert [node.rollout_value for node in tree.nodes] == [None, 0.8, 0.4, 0.5, 0.8, 0.3, 0.4, 0.3]
    found = [node.value for node in tree.nodes]
    assert found[1:] == pytest.approx([0.591667, 0.375, 0.4, 0.8, 0.3, 0.35, 0.3], abs=1e-6)
    valuations = [each for each in log if isinstance(each, Valuation)]
    assert [len(each.paths) for each in valuations] == [2, 2, 2], "one for all new paths of an expansion"
    assert valuations[1].paths == ((ROOT_TEXT, "r1", "x"), (ROOT_TEXT, "r1", "The answer is A."))
    assert (tree.stats["guided"], tree.stats["valued"], tree.stats["rollouts"]) == (True, 7, 0)
    assert tree.stats["requests"]["rollout"] == 0
    assert (tree.stats["end"], tree.stats["forced_nodes"]) == ("max_nodes", 3)
    assert tree.config["step_aggregation"] == "min"
    assert "rollout_budget" not in tree.config, "what was not used is not told"


def unit(step: str) -> float:
    return random.Random(step).random()


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        SearchConfig,
        max_nodes=st.integers(1, 30),
        children=st.integers(1, 4),
        reflects=st.integers(0, 2),
        finish_threshold=st.sampled_from([0.8, None]),
        max_depth=st.integers(1, 5),
        expand=st.sampled_from(Expand),
        seed=st.integers(0, 10**6),
    ),
    st.builds(
        RewardModel,
        enough_finishes=st.integers(1, 8),
        step_aggregation=st.sampled_from(StepAggregation),
        beam=st.none() | st.integers(1, 4),
    ),
)
def test_what_a_reward_model_guides(config: SearchConfig, model: RewardModel) -> None:
    """At test time nobody has a gold answer: with another one the tree is the same but for the verdicts. Every value is
    the aggregate of what stands on the path; nothing is rolled out; every path can be written down."""
    trees = []
    for gold in "AB":
        log: list[Any] = []
        grown = (beam if model.beam else search)(msgspec.structs.replace(PROBLEM, answer=gold), config, judge, model)
        tree = serve(grown, noisy, unit, log)
        plain = [{key: value for key, value in dump(node).items() if key != "verdict"} for node in tree.nodes]
        trees.append((plain, {key: tree.stats[key] for key in tree.stats if key not in ("correct", "wrong")}))
    assert trees[0] == trees[1]
    assert tree.stats["rollouts"] == 0
    assert tree.stats["valued"] == len(tree.nodes) - 1
    for index, node in enumerate(tree.nodes):
        path = [tree.nodes[i].text for i in path_to(tree, index)]
        assert split_steps(join_steps(path)) == path
        assert index == 0 or node.rollout_value == aggregate_steps(list(map(unit, path[1:])), model.step_aggregation)
    finishes = [node for node in tree.nodes[: len(tree.nodes) - tree.stats["forced_nodes"]] if node.answer is not None]
    if model.beam is None:
        assert (tree.stats["end"] == "enough_finishes") == (len(finishes) >= model.enough_finishes)
        return
    assert all(node.closed for node in tree.nodes if node.action is Action.FINISH)
    rounds = [batch for batch in log if isinstance(batch, list) and batch[0].kind == "reason"]
    assert len(rounds) <= config.max_depth
    assert max(len(batch) for batch in rounds) <= model.beam
    assert sum(request.n for batch in rounds for request in batch) <= len(rounds) * model.beam * config.children


# The beam


def beam_tree(write: Write, rate: Callable[[str], float], log: list[Any], depth: int) -> Tree:
    config = SearchConfig(children=2, max_depth=depth, max_step_tokens=50)
    return serve(beam(PROBLEM, config, judge, RewardModel(beam=2)), write, rate, log)


BEAM_SCORES = {"a": 0.9, "b": 0.6, "c": 0.8, "a1": 0.5, "A1 The answer is A.": 0.4, "The answer is B.": 0.75}
BEAM_SCORES |= {"c1": 0.2, "So. The answer is B.": 0.45, "a2": 0.3}
BEAM_DRAWS: dict[str, list[str | Completion]] = {
    ROOT_TEXT: [" a", " b", " b", " c"],
    "a": [" a1", " A1 The answer is A."],
    "c": [" The answer is B.", " c1"],
    "a1": [" So. The answer is B.", " a2"],
}


def test_a_beam_by_hand() -> None:
    """Width 2, 2 children, valued by the least step.

    1  The root draws 2 x 2: a .9, b .6, b again, c .8. a and c are kept.
    2  a1 min(.9, .5) = .5; "A" min(.9, .4) = .4, a Finish; "B" min(.8, .75) = .75, a Finish; c1 .2. B and a1 are the
       best two: B keeps its place, so one path goes on. A is an ending all the same.
    3  a1: "So B" min(.9, .5, .45) = .45, a Finish, and a2 .3. The one place goes to "So B": over.
    Words drawn: 4, then 1 + 5 + 4 + 1 = 11, then 5 + 1 = 6: 21 in all.
    """
    log: list[Any] = []
    tree = beam_tree(after(BEAM_DRAWS), BEAM_SCORES.__getitem__, log, depth=5)
    assert [(node.parent, node.text, node.rollout_value) for node in tree.nodes[1:]] == [
        (0, "a", 0.9),
        (0, "b", 0.6),
        (0, "c", 0.8),
        (1, "a1", 0.5),
        (1, "A1 The answer is A.", 0.4),
        (3, "The answer is B.", 0.75),
        (3, "c1", 0.2),
        (4, "So. The answer is B.", 0.45),
        (4, "a2", 0.3),
    ]
    assert all(node.closed for node in tree.nodes)
    assert (tree.stats["end"], tree.stats["tokens"], tree.stats["duplicates"]) == ("exhausted", 21, 1)
    assert (tree.config["beam"], tree.config["step_aggregation"]) == (2, "min")
    asked = [[(request.node, request.n) for request in batch] for batch in log if isinstance(batch, list)]
    assert asked == [[(0, 4)], [(1, 2), (3, 2)], [(4, 2)]]
    requests = [request for batch in log if isinstance(batch, list) for request in batch]
    assert len({request.sampling.seed for request in requests}) == len(requests), "every request draws its own"
    assert {(request.sampling.stop, request.sampling.max_tokens) for request in requests} == {(("\n\nStep",), 50)}


def test_a_beam_that_comes_to_no_answer_is_made_to_finish() -> None:
    """At the greatest depth the open paths get a Finish each; where nothing can be drawn, the tree is its root."""

    def steps(request: Request) -> list[str]:
        return [" The answer is B."] if request.kind == "forced_finish" else [f" s{i}" for i in range(request.n)]

    tree = beam_tree(steps, lambda step: 0.5, [], depth=2)
    ends = [index for index, node in enumerate(tree.nodes) if node.action is Action.FINISH]
    assert [[tree.nodes[i].text for i in path_to(tree, index)[1:]] for index in ends] == [
        ["s0", "s0", "The answer is B."],
        ["s0", "s1", "The answer is B."],
    ]
    assert (tree.stats["end"], tree.stats["forced_nodes"]) == ("max_depth", 2)
    assert len(beam_tree(lambda r: [""] * r.n, lambda step: 0.5, [], depth=5).nodes) == 1


# As commands


@pytest.fixture(scope="module")
def prm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of random weights, in a folder as `train-prm` writes it."""
    folder = make_tiny_reward(tmp_path_factory.mktemp("prm"))
    (folder / "medsss.json").write_text(json.dumps({"kind": "prm", "convention": "medsss"}))
    return folder


def script(folder: Path) -> str:
    end = "\n\nStep 9: The answer is"
    texts = [
        f" Potassium is normal to 5.0.{end} B.",
        " The answer is A.",
        f" It is 6.1.{end} A.",
        " High. The answer is B.",
    ]
    lines = [{"match": "Reply Reason or Finish", "texts": ["Reason"]}, {"match": "", "texts": texts}]
    return f"scripted:{write_jsonl(folder / 'script.jsonl', lines)}"


@pytest.fixture(scope="module")
def tree(prm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tree")
    line = ["search", "--prm", prm, "--engine", script(folder), "--max-nodes", 8, "--concurrency", 1]
    [found] = run_medsss(line, to_lines([problem(2)])).ok().records
    return dict(found)


def test_a_guided_search_in_a_pipe(prm: Path, tree: dict[str, Any]) -> None:
    """The record says that a model gave the values, and which; `label` takes it like any other tree."""
    assert (tree["config"]["prm"], tree["config"]["step_aggregation"]) == (str(prm), "min")
    assert tree["stats"]["guided"] is True
    assert (tree["stats"]["rollouts"], tree["stats"]["valued"]) == (0, len(tree["nodes"]) - 1)
    assert {node["verdict"] for node in tree["nodes"]} == {None, "correct", "wrong"}
    assert 0 < min(node["value"] for node in tree["nodes"]) < max(node["value"] for node in tree["nodes"]) < 1
    assert run_medsss(["label", "--to", "sft"], to_lines([tree])).ok().records


def test_a_beam_in_a_pipe(prm: Path, tmp_path: Path) -> None:
    """A tree like any other: its endings are candidates, with the values that led the beam as their scores."""
    line = ["search", "--prm", prm, "--beam", 2, "--engine", script(tmp_path), "--concurrency", 1]
    [tree] = run_medsss(line, to_lines([problem(0)])).ok().records
    assert tree["config"]["beam"] == 2
    [record] = run_medsss(["bon", "--prm", prm], to_lines([tree])).ok().records
    ends = [node["rollout_value"] for node in tree["nodes"] if node["action"] == "finish"]
    assert [each["score"] for each in record["candidates"]] == pytest.approx(ends, abs=1e-5)


def test_the_endings_of_a_guided_tree_are_candidates(prm: Path, tree: dict[str, Any]) -> None:
    """Scored again with the same model, each ending has the score that led the search; a tree without nodes is a bad
    line; gold labels of steps stay with their candidate, in place of whose scores the new ones stand."""
    text = join_steps([ROOT_TEXT, "6.1 is above 5.0.", "The answer is B."])
    own = {"text": text, "labels": [1, 1], "step_scores": [0.25, 0.25], "score": 0.25, "tokens": 9, "note": "x"}
    scored = problem(3) | {"candidates": [own], "selected": 0, "strategy": "min-max"}
    ran = run_medsss(["bon", "--prm", prm], to_lines([tree, scored, problem(5) | {"nodes": []}]))
    assert ran.rc == 1
    assert "p5: the tree has no nodes" in ran.stderr
    from_tree, labelled = ran.records
    inner = {node["parent"] for node in tree["nodes"]}
    ends = [node for index, node in enumerate(tree["nodes"]) if node["action"] == "finish" and index not in inner]
    assert [candidate["answer"] for candidate in from_tree["candidates"]] == [node["answer"] for node in ends]
    assert [candidate["score"] for candidate in from_tree["candidates"]] == pytest.approx(
        [node["rollout_value"] for node in ends], abs=1e-5
    )
    assert from_tree["meta"]["search"]["tokens"] == tree["stats"]["tokens"]
    [candidate] = labelled["candidates"]
    assert (candidate["labels"], candidate["note"], candidate["tokens"]) == ([1, 1], "x", 9)
    assert candidate["step_scores"] != [0.25, 0.25]
    assert candidate["score"] == min(candidate["step_scores"])
    assert json.loads(run_medsss(["eval", "-q"], ran.stdout).ok().stdout)
