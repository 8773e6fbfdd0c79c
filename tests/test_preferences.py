"""Trajectories and preference pairs of a tree that is drawn in trees.py."""

from __future__ import annotations

import re

import pytest
from trees import node, nodes, tree

from medsss_cli.errors import BadRecord
from medsss_cli.labelling.preferences import STEP, TRAJECTORY, preference_pairs
from medsss_cli.labelling.trajectories import Trajectory, check_tree, trajectories


def test_trajectories_end_in_leaves_that_are_judged_finishes() -> None:
    # The wrong Finish 5 is reflected on: a step of the trajectory that ends in 7, and no ending. Node 8 ends none.
    assert trajectories(tree()) == [
        Trajectory((0, 1, 3), True, 0.9),
        Trajectory((0, 1, 4), False, 0.0),
        Trajectory((0, 2, 5, 6, 7), True, 0.0),
    ]


def test_no_answer_is_wrong_and_not_judged_is_nothing() -> None:
    changed = nodes()
    changed[4]["verdict"] = "no_answer"
    changed[7]["verdict"] = "not_judged"
    found = trajectories(tree(nodes=changed))
    assert [(each.nodes[-1], each.correct) for each in found] == [(3, True), (4, False)]


def finished() -> list[dict[str, object]]:
    """The same tree, node 8 finished too: 9, wrong."""
    return [*nodes(), node(8, 3, "finish", "It is a pill. The answer is A.", 0.0, "wrong")]


def test_the_pairs_of_both_rules() -> None:
    # Rule (a), depth 2: 3 over 5 (1.0); not 3 over 4 (one parent), not 3 over 8 (.7). Depth 1: 1 over 2 is .8 and
    # one parent. Depth 3: 6 and 9 are only children. Rule (b): smallest values .9 (3) and 0 (7) against 0 (4, 9): only
    # 3 wins.
    mine = tree(nodes=finished())
    pairs = preference_pairs(mine)
    assert [(pair.kind, pair.nodes, pair.margin) for pair in pairs] == [
        (STEP, (3, 5), 1.0),
        (TRAJECTORY, (3, 4), 0.9),
        (TRAJECTORY, (3, 9), 0.9),
    ]
    assert pairs[0].chosen.endswith("The answer is B.")
    assert pairs[0].rejected.endswith("So it is heparin. The answer is A.")


def test_a_smaller_margin_gives_more_pairs_and_has_to_be_exceeded() -> None:
    """Nodes that differ by exactly the margin are no pair, whatever floating point says: .3 + .6 - .1 is 0.8."""
    mine = tree(nodes=finished())
    found = [(pair.kind, pair.nodes, pair.margin) for pair in preference_pairs(mine, margin=0.6)]
    assert found[-1] == (STEP, (3, 8), 0.7)
    assert [pair.nodes for pair in preference_pairs(mine, margin=0.7)] == [nodes for _, nodes, _ in found[:-1]]
    assert preference_pairs(mine, margin=1.0) == []
    assert [pair.nodes for pair in preference_pairs(mine, most=1)] == [(3, 5)]
    changed = finished()
    changed[3]["value"], changed[5]["value"] = 0.3 + 0.6, 0.1
    assert all(pair.nodes != (3, 5) or pair.kind != STEP for pair in preference_pairs(tree(nodes=changed)))


def test_rule_a_wants_siblings_on_both_sides_that_lead_to_an_ending() -> None:
    mine = tree()  # node 8 leads to none, so node 5 is an only child
    assert [(pair.kind, pair.nodes) for pair in preference_pairs(mine)] == [(TRAJECTORY, (3, 4))]


def test_equal_texts_count_once_and_never_against_themselves() -> None:
    changed = finished()
    changed.append(dict(changed[9]))  # a second wrong Finish of the same words
    mine = tree(nodes=changed)
    assert [pair.nodes for pair in preference_pairs(mine)] == [(3, 5), (3, 4), (3, 9)]
    for each in changed[1:]:
        each["text"] = "the same"
    assert all(pair.chosen != pair.rejected for pair in preference_pairs(tree(nodes=changed)))


@pytest.mark.parametrize(
    ("index", "field", "value", "message"),
    [
        (0, "parent", 0, "node 0 must be the root"),
        (3, "parent", 3, "node 3 has the parent 3"),
        (3, "parent", -1, "node 3 has the parent -1"),
        (3, "depth", 1, "node 3 is no step of depth 2"),
        (3, "value", 1.5, "outside [0, 1]"),
        (3, "action", "root", "node 3 is no step"),
    ],
)
def test_a_table_of_nodes_that_is_no_tree(index: int, field: str, value: object, message: str) -> None:
    changed = nodes()
    changed[index][field] = value
    with pytest.raises(BadRecord, match=re.escape(message)):
        check_tree(tree(nodes=changed))
    with pytest.raises(BadRecord, match="no nodes"):
        check_tree(tree(nodes=[]))
