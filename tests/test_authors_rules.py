"""Trajectories, labels, pairs and selection are those of the authors' rules, on cases that were worked out by hand from
their code and not from ours (tests/data/authors_rules.json). Everything is compared exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trees import tree as record

from medsss_cli.labelling.labels import StepLabels
from medsss_cli.labelling.preferences import preference_pairs
from medsss_cli.labelling.rows import PrmRows, SftRows
from medsss_cli.labelling.trajectories import trajectories
from medsss_cli.prm.aggregate import StepAggregation, aggregate_steps
from medsss_cli.records import Tree
from medsss_cli.selection import AnswerAggregation, select

RULES = json.loads((Path(__file__).parent / "data" / "authors_rules.json").read_text(encoding="utf-8"))


def made(case: dict[str, Any]) -> Tree:
    nodes: list[dict[str, Any]] = []
    for index, (parent, action, value, verdict) in enumerate(case["nodes"]):
        depth = nodes[parent]["depth"] + 1 if index else 0
        text = f"{index}: the answer is B." if action == "finish" else f"Step of node {index}."
        node = {"parent": parent, "depth": depth, "action": action, "text": text, "value": value, "verdict": verdict}
        nodes.append(node)
    return record(nodes=nodes)


@pytest.mark.parametrize("case", RULES["trees"], ids=range(len(RULES["trees"])))
def test_a_tree(case: dict[str, Any]) -> None:
    tree = made(case)
    found = trajectories(tree)
    for verdict, name in ((True, "pos"), (False, "neg")):
        assert {str(each.nodes[-1]): list(each.nodes) for each in found if each.correct is verdict} == case[name]

    ends = [str(each.nodes[-1]) for each in found]
    for kind, wanted in case["labels"].items():
        rows = PrmRows(labels=StepLabels(kind))(tree)
        assert not isinstance(rows, str)
        assert dict(zip(ends, [row.labels[1:] for row in rows], strict=True)) == wanted, kind
        assert all(row.labels[0] is None for row in rows)
    if not case["labels"]:
        assert isinstance(PrmRows()(tree), str)

    sft = SftRows()(tree)
    assert (0 if isinstance(sft, str) else len(sft)) == len(case["pos"])
    pairs = preference_pairs(tree)
    for kind, wanted in case["pairs"].items():
        assert sorted([*pair.nodes, pair.margin] for pair in pairs if pair.kind == kind) == wanted, kind


def test_selection() -> None:
    case = RULES["selection"]
    for name, wanted in case["selected"].items():
        steps, _, answers = name.partition("-")
        scores = [aggregate_steps(each, StepAggregation(steps)) for each in case["scores"]]
        assert case["answers"][select(case["answers"], scores, AnswerAggregation(answers))] == wanted, name
