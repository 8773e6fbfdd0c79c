"""`medsss report`: the table that ends a demo is made of what `medsss eval` really writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import run_medsss, to_lines, write_jsonl
from trees import samples


def report(folder: Path, name: str, records: list[dict[str, Any]], file: str = "") -> Path:
    path = folder / f"{file or name}.report.json"
    path.write_text(run_medsss(["eval", "--name", name, "-q"], to_lines(records)).ok().stdout)
    return path


def test_greedy_and_majority_come_out_of_their_reports(tmp_path: Path) -> None:
    """A wrong cell in this table is a wrong result in somebody's paper."""
    greedy = report(tmp_path, "greedy", [samples("p", "B"), samples("q", "A")])
    many = report(tmp_path, "many", [samples("p", "BBA"), samples("q", "AAB")])
    rows = run_medsss(["report", "--json", greedy, many]).ok().records
    assert [(row["run"], row["measure"], round(row["value"], 3), row["n"]) for row in rows] == [
        ("greedy", "accuracy", 0.5, 2),
        ("many", "one of N", 0.5, 2),
        ("many", "majority@3", 0.5, 2),
        ("many", "pass@3", 1.0, 2),
    ]
    table = run_medsss(["report", greedy, many]).ok().stdout
    assert "greedy  accuracy" in table
    assert "pass@3      2  100.0  34.2 to 100.0" in table
    assert "| many   | pass@3" in run_medsss(["report", "--markdown", many, greedy]).ok().stdout


def test_best_of_n_names_its_strategy(tmp_path: Path) -> None:
    """Two strategies give two figures; a reader must see which is which, and what the policy's own log-probability
    selects, free of charge."""
    record = samples("p", "BA")
    candidates = [
        response | {"step_scores": [score], "score": score, "logprob": -2 * score}
        for response, score in zip(record.pop("responses"), (0.9, 0.1), strict=True)
    ]
    record |= {"candidates": candidates, "selected": 0, "strategy": "min-max"}
    rows = run_medsss(["report", "--json", report(tmp_path, "prm", [record])]).ok().records
    assert [(row["measure"], row["value"]) for row in rows] == [
        ("one of N", 0.5),  # what it has to beat stands above
        ("majority@2", 1.0),  # one vote each: the first wins
        ("likeliest@2", 0.0),
        ("best of 2, min-max", 1.0),
        ("best of 2, min-vote-sum", 1.0),
        ("best of 2, min-likelihood", 1.0),  # .9 e^-1.8 = .149 beside .1 e^-.2 = .082
    ]


def test_seeds_of_one_name_come_together(tmp_path: Path) -> None:
    """Three seeds gave three rows, and everybody worked out mean and spread by hand."""
    paths = [
        report(tmp_path, "base", [samples("p", answer), samples("q", "B")], file=f"base.{i}")
        for i, answer in enumerate("BAA")
    ]
    ran = run_medsss(["report", "--json", *paths]).ok()
    [row] = ran.records
    assert (row["run"], row["runs"], row["n"]) == ("base", 3, 2)
    assert row["value"] == pytest.approx(2 / 3)  # 1, .5 and .5
    assert row["spread"] == pytest.approx((1 / 12) ** 0.5)  # squares (1/3)^2 + 2 (1/6)^2 = 1/6, over n - 1 = 2
    alone = [json.loads(path.read_text())["micro"] for path in paths]
    assert row["low"] == pytest.approx(sum(each["low"] for each in alone) / 3)
    table = run_medsss(["report", *paths]).ok().stdout
    assert "base  accuracy     3  2  66.7  28.9" in table


def test_a_report_of_the_version_before_is_read() -> None:
    path = Path(__file__).parent / "data/report_0_1.json"
    rows = run_medsss(["report", "--json", path]).ok().records
    assert [(row["measure"], row["value"], row["low"]) for row in rows] == [
        ("one of N", 0.5, 0.5),
        ("majority@2", 0.0, 0.0),
        ("best of 2, min-max", 0.5, 0.166667),
        ("best of 2, min-vote-sum", 0.5, 0.166667),
    ]


def wrote(path: Path, records: list[dict[str, Any]], inputs: list[Path], **state: Any) -> Path:
    """A file with the state that a run leaves beside it."""
    named = {"config": {}, "inputs": list(map(str, inputs))} | state
    (path.parent / f".{path.name}.medsss").write_text(json.dumps(named))
    return write_jsonl(path, records)


def test_what_a_row_took_is_told_with_all_that_stands_behind_it(tmp_path: Path) -> None:
    """A policy two points better for ten times the tokens is another finding than one for the same. The samples took
    50 tokens and 10 s; the policy's training 60 s; its rows came out of trees: 5,000 tokens, an hour on two GPUs."""
    trees = wrote(tmp_path / "t.jsonl", [], [tmp_path / "problems"], command="search", seconds=3600.0,
                  cpu_seconds=7200.0, gpus=2, tokens=5000)  # fmt: skip
    rows = wrote(tmp_path / "sft.jsonl", [], [trees], command="label", seconds=30.0, cpu_seconds=36.0)
    card = {"options": {"policy": "builtin:clinic", "inputs": [str(rows)]}}
    (tmp_path / "P").mkdir()
    (tmp_path / "P/medsss.json").write_text(json.dumps(card | {"cost": {"seconds": 60, "cpu_seconds": 324, "gpus": 0}}))
    config = {"policy": str(tmp_path / "P")}
    answers = wrote(tmp_path / "s.jsonl", [samples("p", "BA")], [tmp_path / "problems", trees], command="sample",
                    config=config, seconds=10.0, cpu_seconds=360.0, tokens=50)  # fmt: skip
    path = tmp_path / "r.json"
    path.write_text(run_medsss(["eval", "-q", "--name", "P", answers]).ok().stdout)
    [first, *_] = run_medsss(["report", "--json", "--cost", path]).ok().records
    assert first["cost"] == {"tokens": 5050, "seconds": 3700, "cpu_hours": 2.2, "gpu_hours": 2, "whole": 1}
    assert "5050  3700   2.20   2.00\n" in run_medsss(["report", "--cost", path]).ok().stdout
    # A card that says nothing (the clinic's own policy) is passed over, and known to be so.
    (tmp_path / "P/medsss.json").write_text("{}")
    path.write_text(run_medsss(["eval", "-q", "--name", "P", answers]).ok().stdout)
    [first, *_] = run_medsss(["report", "--json", "--cost", path]).ok().records
    assert (first["cost"]["tokens"], first["cost"]["whole"]) == (5050, 0)
    # By a pipe the tokens of the answers are all that is known, and the table says that there is more.
    piped = report(tmp_path, "piped", [samples("p", "BA")])
    assert re.search(r" 20\+ +0 +0.00 +0.00\n", run_medsss(["report", "--cost", piped]).ok().stdout)


def test_a_run_writes_down_what_it_took(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "s.jsonl", [samples("p", "BA")])
    run_medsss(["label", "--to", "sft", file, "-o", tmp_path / "sft.jsonl"]).ok()
    state = json.loads((tmp_path / ".sft.jsonl.medsss").read_text())
    assert (state["inputs"], state["gpus"], state["tokens"]) == ([str(file)], 0, 0)
    assert 0 <= state["cpu_seconds"] < 60


def test_what_is_no_report_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    good = report(tmp_path, "good", [samples("p", "B")])
    bad = write_jsonl(tmp_path / "bad.jsonl", [samples("p", "B")])
    ran = run_medsss(["report", bad, good])
    assert ran.rc == 1
    assert "bad.jsonl:1: not a report" in ran.stderr
    assert "good" in ran.stdout


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    path = report(
        tmp_path, "a name that says all that there is to say of a run and more than that", [samples("p", "BA")]
    )
    assert max(map(len, run_medsss(["report", path]).ok().stdout.splitlines())) <= 80
    assert "more than that" in run_medsss(["report", "--markdown", path]).ok().stdout


def test_a_reward_model_s_report_has_its_rows(tmp_path: Path) -> None:
    rows = [
        {"id": "gsm8k-1", "problem": "?", "steps": ["a", "b"], "label": 1, "step_scores": [0.9, 0.1]},
        {"id": "gsm8k-2", "problem": "?", "steps": ["a", "b"], "label": -1, "step_scores": [0.9, 0.2]},
    ]
    path = tmp_path / "prm.report.json"
    path.write_text(run_medsss(["eval", "--steps", "--name", "R", "-q"], to_lines(rows)).ok().stdout)
    shown = run_medsss(["report", "--json", path]).ok().records
    assert [(row["run"], row["measure"], row["value"], row["n"]) for row in shown] == [
        ("R", "first error found, threshold 0.5", 1.0, 1),
        ("R", "no error found, threshold 0.5", 0.0, 1),
        ("R", "F1 of first errors, threshold 0.5", 0.0, 2),
    ]
