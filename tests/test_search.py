"""The tree search: its arithmetic against numbers worked by hand, a whole search against a stored tree, its rules one
by one, and what must hold for any policy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talks import Write, noisy, reply, serve

from medsss_cli.answers import judge
from medsss_cli.errors import BadRecord, EngineError
from medsss_cli.prompts import Prompting
from medsss_cli.records import Action, Problem, Task, Tree, Verdict, dump, parse
from medsss_cli.requests import Completion, Prompt, Sampling
from medsss_cli.search.config import Expand, SearchConfig, as_record
from medsss_cli.search.drawing import Request, RequestKind
from medsss_cli.search.driver import grow
from medsss_cli.search.mcts import search
from medsss_cli.search.tree import GrowingTree, back_up, select, ucb
from medsss_cli.search.values import Rollouts
from medsss_cli.settings import options_of
from medsss_cli.steps import join_steps, split_steps

STORY = json.loads((Path(__file__).parent / "data" / "search_story.json").read_text(encoding="utf-8"))
PROBLEM = parse(Problem, STORY["problem"])
CORRECT, WRONG = " The answer is B.", " The answer is A."


def numbers(**given: Any) -> tuple[SearchConfig, Rollouts]:
    """The config of a search and that of its rollouts, from the numbers of both."""
    own = {name: given.pop(name) for name in options_of(Rollouts) if name in given}
    return SearchConfig(**given), Rollouts(**own)


# The arithmetic


def test_back_up_by_hand() -> None:
    """root -> a, b; a -> c.

    a gets .6: v(a) = .6, N 1; root: (0 + .6) / 2 = .3, N 1.
    b gets .2: v(b) = .2, N 1; root: mean (.6 + .2) / 2 = .4, (.3 + .4) / 2 = .35, N 2.
    c gets 1:  v(c) = 1, N 1; a: (.6 + 1) / 2 = .8, N 2;
               root: mean (2 x .8 + 1 x .2) / 3 = .6, (.35 + .6) / 2 = .475, N 3.
    """
    tree = GrowingTree()
    a, b = tree.add(0, Action.REASON, "a"), tree.add(0, Action.REASON, "b")
    back_up(tree, a, 0.6)
    assert (tree[0].value, tree[0].visits, tree[b].visits) == (pytest.approx(0.3), 1, 0)
    back_up(tree, b, 0.2)
    assert (tree[0].value, tree[0].visits) == (pytest.approx(0.35), 2)
    c = tree.add(a, Action.FINISH, "c")
    tree[c].closed = True
    back_up(tree, c, 1.0)
    assert (tree[a].value, tree[a].visits, tree[a].closed) == (pytest.approx(0.8), 2, True)
    assert (tree[0].value, tree[0].visits, tree[0].closed) == (pytest.approx(0.475), 3, False)


def test_selection_goes_down_open_nodes_by_their_bound() -> None:
    """v + c sqrt(ln N_parent / N_child): .5 + 2 sqrt(ln 9 / 4) = .5 + 2 x .741152 = 1.982303; ln 1 = 0."""
    assert ucb(0.5, 4, 9, c=2) == pytest.approx(0.5 + 2 * 0.7411519, abs=1e-6)
    assert (ucb(0.5, 1, 1, c=2), ucb(0.25, 7, 9, c=0)) == (0.5, 0.25)
    tree = GrowingTree()
    a, b = tree.add(0, Action.REASON, "a"), tree.add(0, Action.REASON, "b")
    back_up(tree, a, 0.5)
    back_up(tree, b, 0.5)
    assert select(tree, c=2) == a, "a tie goes to the child that was made first"
    c = tree.add(a, Action.REASON, "c")
    back_up(tree, c, 0.1)  # N: root 3, a 2, b 1; a .3 + 2 sqrt(ln 3 / 2) = 1.78, b .5 + 2 sqrt(ln 3) = 2.60
    assert select(tree, c=2) == select(tree, c=0) == b
    tree[b].closed = True
    assert select(tree, c=2) == c


# A whole search


def test_a_whole_search_node_by_node() -> None:
    """The story of tests/data/search_story.json, in which each action and each way to lose a step comes up once.

    1, 2    The root draws three Reasons. Two are equal: they become one child. Rollouts (8 // 2 = 4 each): .5 and 0;
            the rollout that gives no answer counts as not correct. v(1) = .5; root (0 + .5) / 2 = .25.
    3, 4    Node 1 has the greater bound (N are equal). The policy says Reason, Finish, Reason. The second Reason states
            an answer and is a Finish, a wrong one.
    5, 6    The Finish wrote two steps: node 5 is a Reason that takes v(1) = .5 and no rollouts, node 6 a correct
            Finish. v(5) = (.5 + 1) / 2 = .75; both are closed. Then v(1) = .604, N 4, and root .4526, N 5.
    7       Node 2, with one visit, has the greater bound: 2 sqrt(ln 5) = 2.54 against 1.87. Of its three Reasons one is
            empty and one was cut: one node is left, value 0.
    8       Now node 1 (1.94 against 1.89), then node 3, whose rollout value 1 makes it finish at once. It is wrong.
    9, 10   Node 2 again, node 7 (it was node 2's only child): a Reason that gives the right answer, and two Finishes
            that give none; they are equal, so one node, judged no_answer. Nothing open is left below node 2: closed.
    11      Below node 1, the wrong Finish 4 has the greater bound: 2 sqrt(ln 5) against .5 + 2 sqrt(ln 5 / 2). It gets
            its Reflect, rolled out like any other node: .5.
    12, 13  Twelve nodes are enough: the search ends with two correct Finishes of the three wanted. So each leaf that is
            no Finish gets one: only node 11 is such. It wrote two steps. Node 4 has been reflected on, and is closed by
            what followed; node 8, wrong and not reflected on, stays open.
    """
    config, rollouts = numbers(**STORY["config"], max_step_tokens=9, max_tokens=99, top_p=0.5)
    asks = [ask for batch in STORY["script"] for ask in batch]
    said = [[reply(*([each] if isinstance(each, str) else each)) for each in ask["replies"]] for ask in asks]
    replies, log = list(said), list[list[Request]]()
    tree = serve(search(PROBLEM, config, judge, rollouts), lambda _: replies.pop(0), log=log)
    for number, (batch, wanted) in enumerate(zip(log, STORY["script"], strict=True)):
        assert [(str(r.kind), r.node, r.n) for r in batch] == [
            (ask["ask"], ask["node"], len(ask["replies"])) for ask in wanted
        ], f"batch {number}"
    found = dump(tree)
    assert [node.pop("value") for node in found["nodes"]] == pytest.approx(
        [node["value"] for node in STORY["nodes"]], abs=1e-6
    )
    for number, (node, wanted) in enumerate(zip(found["nodes"], STORY["nodes"], strict=True)):
        assert node == {key: value for key, value in wanted.items() if key != "value"}, f"node {number}"
    assert found["stats"] == STORY["stats"] | {"tokens": sum(each.tokens for of_one in said for each in of_one)}
    assert {key: found[key] for key in STORY["problem"]} == STORY["problem"]
    assert tree.config == as_record(config) | as_record(rollouts)
    json.dumps(tree.config)

    asked = [request for batch in log for request in batch]
    assert len({request.sampling.seed for request in asked}) == len(asked), "every request has a seed of its own"
    by_kind = {request.kind: request for request in asked}  # the last of each
    assert set(by_kind) == set(RequestKind)
    for kind, request in by_kind.items():
        sampling = request.sampling
        assert (sampling.temperature, sampling.top_p) == (1.0, 0.5)
        assert sampling.stop == (("\n\nStep",) if kind in ("reason", "reflect") else ())
        assert sampling.max_tokens == {"reason": 9, "reflect": 9, "choice": 1}.get(kind, 99)
        assert sampling.allowed_tokens == (("Reason", "Finish") if kind == "choice" else ())
    wrong = "Amoxicillin is the common one. The answer is A."
    assert by_kind[RequestKind.REFLECT].prompt.prefix.endswith(f"\n\nStep 2: {wrong}\n\nStep 3: But wait,")
    assert by_kind[RequestKind.ROLLOUT].prompt.prefix.endswith(
        "\n\nStep 3: But wait, amoxicillin does not inhibit CYP2C9.\n\nStep 4:"
    )


# The rules, one by one


def run(both: tuple[SearchConfig, Rollouts], write: Write, problem: Problem = PROBLEM) -> Tree:
    return serve(search(problem, both[0], judge, both[1]), write)


def always(*, differ: bool = False, **texts: str | Completion) -> Write:
    """Each request of a kind gets n times the same text, or n that differ; what is unnamed gets "Reason" or a step."""

    def answer(request: Request) -> Sequence[str | Completion]:
        if request.kind is RequestKind.CHOICE:
            return [texts.get("choice", "Reason")] * request.n
        text = texts.get(str(request.kind), f" Step of node {request.node}.")
        return [f" Draw {i}.{text}" if differ else text for i in range(request.n)]

    return answer


CUT = reply(" Let us see the", "length")


@pytest.mark.parametrize(
    ("given", "texts", "nodes", "stats"),
    [
        # Enough correct leaves, and nothing is forced; the root is closed as all its children are.
        ({"children": 2, "enough_correct": 2}, {"differ": True, "reason": CORRECT}, "0 finish, 0 finish",
         {"end": "enough_correct", "forced_nodes": 0}),
        # All nodes are closed: no leaf is left that could be forced. Three equal draws are one child.
        ({}, {"reason": CORRECT}, "0 finish", {"end": "exhausted", "duplicates": 2, "forced_finish": 0}),
        # All rollouts are correct: the node is not asked for a choice, and gets a single Finish.
        ({"children": 1}, {"rollout": CORRECT, "finish": CORRECT}, "0 reason, 1 finish", {"choice": 0}),
        # The Reflect upon a wrong Finish answers, wrongly too, and that is the end.
        ({"children": 1}, {"reason": WRONG, "reflect": " no. The answer is C."}, "0 finish, 1 finish",
         {"end": "exhausted", "reflect": 1, "wrong": 2}),
        # A Finish without an answer is closed.
        ({"children": 1}, {"choice": "Finish", "finish": " Hard to say."}, "0 reason, 1 finish",
         {"end": "exhausted", "no_answer": 1}),
        # Every completion was cut: a cut Reason is no step, a cut Finish an answer that did not come.
        ({}, {"reason": CUT, "forced_finish": CUT}, "0 finish",
         {"end": "exhausted", "no_answer": 1, "dropped": {"empty": 0, "cut": 3}}),
        # At the greatest depth a node may only finish, and is not reflected on.
        ({"children": 1, "max_depth": 2, "rollout_budget": 2, "min_rollouts": 1}, {"finish": WRONG},
         "0 reason, 1 reason, 2 finish", {"end": "exhausted", "choice": 1, "reflect": 0}),
        # Every leaf that is no Finish gets one, which is not reflected on.
        ({"max_nodes": 4}, {"differ": True, "forced_finish": WRONG},
         "0 reason, 0 reason, 0 reason, 1 finish, 2 finish, 3 finish", {"end": "max_nodes", "reflect": 0}),
    ],
)  # fmt: skip
def test_how_searches_go(given: dict[str, Any], texts: dict[str, Any], nodes: str, stats: dict[str, Any]) -> None:
    tree = run(numbers(**given), always(**texts))
    assert ", ".join(f"{node.parent} {node.action}" for node in tree.nodes[1:]) == nodes
    found = tree.stats | tree.stats["requests"]
    assert {key: found[key] for key in stats} == stats
    assert all(node.closed for node in tree.nodes)


@pytest.mark.parametrize(("correct", "choices"), [(9, 0), (8, 1)])
def test_nine_of_ten_rollouts_make_a_node_sure_and_eight_do_not(correct: int, choices: int) -> None:
    rolls = [CORRECT] * correct + [WRONG] * (10 - correct)
    plain = always(finish=CORRECT, choice="Finish")
    tree = run(numbers(children=1), lambda request: rolls if request.kind == "rollout" else plain(request))
    assert tree.nodes[1].rollout_value == correct / 10
    assert tree.stats["requests"]["choice"] == choices


def test_reflects_on_a_path() -> None:
    """Wrong answer, Reflect, wrong answer, ...: by default nothing follows the second, whatever stands between."""
    draws = always(reason=WRONG, reflect=" it is low.", choice="Finish", finish=WRONG)
    for reflects, wanted in ((0, 0), (1, 1), (2, 2)):
        tree = run(numbers(children=1, reflects=reflects, rollout_budget=1, min_rollouts=1), draws)
        assert sum(node.action is Action.REFLECT for node in tree.nodes) == wanted
        assert tree.stats["end"] == "exhausted"


@pytest.mark.parametrize(
    ("given", "texts", "wanted"),
    [
        # A Reflect is read without what it repeats.
        ({"max_nodes": 3}, {"reason": WRONG, "reflect": " Step 2: But wait, it is low."}, "But wait, it is low."),
        ({}, {"reason": WRONG, "reflect": " no. The answer is C."}, "But wait, no. The answer is C."),
        # A policy that goes on after its answer: what follows is left out, and the answer that stands is judged.
        ({"reflects": 0}, {"choice": "Finish", "finish": " So.\n\nStep 3: The answer is A.\n\nStep 4: But wait, no.\n\n"
         "Step 5: The answer is B."}, "The answer is A."),
        # Cut after the mark of the next step, or after the answer: the step itself is whole.
        ({"max_nodes": 2}, {"reason": reply(" First.\nStep 2: Seco", "length")}, "First."),
        ({}, {"reason": reply(" The answer is B. Moreo", "length")}, "The answer is B. Moreo"),
    ],
)  # fmt: skip
def test_how_steps_are_read(given: dict[str, Any], texts: dict[str, Any], wanted: str) -> None:
    tree = run(numbers(children=1, rollout_budget=1, min_rollouts=1, **given), always(**texts))
    step = next(node for node in tree.nodes if node.text == wanted)
    verdicts = {"A": Verdict.WRONG, "B": Verdict.CORRECT, "C": Verdict.WRONG}
    assert step.verdict == (verdicts[step.answer] if step.answer else None)
    assert (step.action is Action.FINISH) == ("answer is" in wanted)


def test_without_rollouts_a_node_takes_the_value_of_its_parent() -> None:
    config = numbers(rollout_budget=0, min_rollouts=0, children=1, max_nodes=3)
    tree = run(config, always(forced_finish=CORRECT))
    assert (tree.stats["rollouts"], tree.nodes[1].rollout_value) == (0, None)
    assert tree.nodes[3].value == 1.0


def test_a_rollout_does_not_live_on_what_stands_above_it() -> None:
    """The judge would read an answer out of the step; the rollout itself says nothing, so it is not correct."""
    step = "B is correct"
    assert judge(PROBLEM, step).verdict is Verdict.CORRECT
    tree = run(numbers(children=1, max_nodes=2), always(reason=f" {step}", rollout=" Hm."))
    assert (tree.nodes[1].action, tree.nodes[1].text, tree.nodes[1].rollout_value) == (Action.REASON, step, 0.0)


def test_an_unreadable_gold_answer_is_an_error_with_its_id() -> None:
    problem = Problem(id="bad-gold", question="?", answer="Z", options={"A": "x", "B": "y"}, task=Task.CHOICE)
    with pytest.raises(BadRecord, match="bad-gold"):
        run(numbers(children=1), always(reason=CORRECT), problem)


# What must hold for any policy


configs = st.builds(
    numbers,
    max_nodes=st.integers(1, 40),
    children=st.integers(1, 4),
    rollout_budget=st.integers(0, 8),
    min_rollouts=st.integers(0, 3),
    finish_threshold=st.sampled_from([0.3, 0.9]),
    reflects=st.integers(0, 2),
    enough_correct=st.integers(1, 5),
    max_depth=st.integers(1, 6),
    ucb_c=st.sampled_from([0.0, 2.0]),
    prompting=st.sampled_from(Prompting),
    expand=st.sampled_from(Expand),
    seed=st.integers(0, 10**6),
)


@settings(max_examples=150, deadline=None)
@given(configs)
def test_invariants(both: tuple[SearchConfig, Rollouts]) -> None:
    config, rollouts = both
    asked: list[Request] = []

    def write(request: Request) -> list[Completion]:
        asked.append(request)
        return noisy(request)

    tree = run(both, write)
    nodes = tree.nodes
    children: dict[int, list[int]] = {index: [] for index in range(len(nodes))}
    for index, node in enumerate(nodes[1:], start=1):
        assert 0 <= node.parent < index, "parents stand before their children"
        assert node.depth == nodes[node.parent].depth + 1
        children[node.parent].append(index)

    for index, node in enumerate(nodes):
        below = [nodes[child] for child in children[index]]
        # A visit is an evaluation: of the node itself, once, or of a node below it. The root and the Reasons within a
        # Finish are never evaluated themselves; a Reason that draws no rollouts is (with the value of its parent).
        own = node.visits - sum(child.visits for child in below)
        assert own in (0, 1)
        assert own == 0 if index == 0 else own == 1 or (node.action is Action.REASON and len(below) == 1)
        assert 0 <= node.value <= 1
        assert node.rollout_value is None or 0 <= node.rollout_value <= 1
        if below:
            assert node.closed == all(child.closed for child in below)
        assert node.text.strip() == node.text != ""
        assert (node.verdict is not None) == (node.action is Action.FINISH), "Finishes, and they alone, are judged"
        if node.action is Action.FINISH:
            assert (node.rollout_value == 1) == (node.verdict is Verdict.CORRECT)
            assert all(child.action in (Action.REFLECT, Action.FINISH) for child in below)
            assert len(below) <= 1
            assert not below or node.verdict is Verdict.WRONG, "only a wrong answer is reflected on"
        elif node.action is Action.REFLECT:
            assert node.text.startswith("But wait, ")
            assert nodes[node.parent].verdict is Verdict.WRONG
        if node.rollouts:
            assert node.rollouts == rollouts.count(node.depth)
            assert (node.rollout_value or 0) * node.rollouts == pytest.approx(
                round((node.rollout_value or 0) * node.rollouts)
            )
        path = [node]
        while path[0].parent >= 0:
            path.insert(0, nodes[path[0].parent])
        steps = [each.text for each in path]
        assert split_steps(join_steps(steps)) == steps, "every path can be written down and read back"

    stats = tree.stats
    assert (stats["nodes"], stats["rollouts"]) == (len(nodes), sum(node.rollouts for node in nodes))
    assert stats["requests"] == {str(kind): sum(r.kind is kind for r in asked) for kind in RequestKind}
    for verdict in (Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER):
        assert stats[str(verdict)] == sum(node.verdict is verdict for node in nodes)
    searched = nodes[: len(nodes) - stats["forced_nodes"]]
    correct = sum(node.verdict is Verdict.CORRECT for node in searched)
    match stats["end"]:
        case "enough_correct":
            assert correct >= rollouts.enough_correct
            assert stats["forced_nodes"] == 0
        case "max_nodes":
            assert len(searched) >= config.max_nodes
            assert correct < rollouts.enough_correct
        case "exhausted":
            assert all(node.closed for node in searched)
    purposes = [(r.kind, r.node) for r in asked]
    assert len(purposes) == len(set(purposes)), "no two requests share their purpose, so none share their seed"


# Through the driver


class Draws:
    """An engine whose requests are served by `serve`."""

    name, concurrency = "draws", 32

    def __init__(self, serve: Callable[[Prompt, int], Awaitable[list[Completion]]]) -> None:
        self.serve = serve

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        return await self.serve(prompt, n)


def test_a_request_that_cannot_be_served_fails_its_tree_and_leaves_nothing_running() -> None:
    cancelled = []

    async def fails(prompt: Prompt, n: int) -> list[Completion]:
        if "Draw 0." in prompt.prefix:
            raise EngineError("the prompt is too long")
        if "Draw 1." in prompt.prefix:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(1)
                raise
        return [reply(f" Draw {i}.") for i in range(n)]

    with pytest.raises(EngineError, match="too long"):
        asyncio.run(grow(PROBLEM, SearchConfig(children=2), Draws(fails)))
    assert cancelled == [1]
