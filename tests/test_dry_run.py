"""`--dry-run` and `--plan`: what they say comes true, and they leave no trace."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import Ran, clean_env, read_jsonl, to_lines, write_jsonl

from medsss_cli import dry_run
from medsss_cli.dry_run import Cost, Try, probe, report
from medsss_cli.prompts import CHOICE_TURN
from medsss_cli.records import Candidate, Problem, Response, Samples, Scored, Tree

Medsss = Callable[..., Ran]
ECHO = [sys.executable, str(Path(__file__).with_name("stream_program.py")), "echo"]


def problems(count: int, question: str = "Is a potassium of 6.1 high?") -> list[dict[str, Any]]:
    options = {"A": "No", "B": "Yes"}
    return [{"id": f"p{k}", "question": question, "options": options, "answer": "B"} for k in range(count)]


def echo(*args: object, stdin: str = "") -> Ran:
    done = subprocess.run(
        [*ECHO, *map(str, args)], input=stdin, capture_output=True, text=True, env=clean_env(), timeout=90
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.fixture
def script(tmp_path: Path) -> str:
    """A policy that reasons, then finishes. To one prompt it says one thing: texts in turn would go by the order in
    which records arrive."""
    lines = [
        {"match": CHOICE_TURN, "texts": ["Finish"]},
        {"match": "But wait,", "texts": [" the reference range ends at 5.0."]},
        {"match": "Step 2:", "texts": [" It is high. The answer is A."]},
        {"match": "", "texts": [" 6.1 is above 5.0."]},
    ]
    return f"scripted:{write_jsonl(tmp_path / 'script.jsonl', lines)}"


def test_the_plan_is_what_the_run_then_does(tmp_path: Path) -> None:
    """A run of two lines a record was killed amid the 14th: the 13th has both its lines, and only a next group would
    prove that it is whole. Of 60 records, a bad line among them, shard 1/3 takes its own and --limit 18 of these."""
    source = tmp_path / "in.jsonl"
    source.write_text(to_lines(problems(59)) + "{broken\n")
    args = [source, "-o", tmp_path / "out.jsonl", "--copies", 2, "--shard", "1/3"]
    echo(*args)
    whole = (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes(b"".join(whole[:26]) + whole[26][:9])
    before = snapshot(tmp_path)
    planned = echo(*args, "--limit", 18, "--plan", "--errors", tmp_path / "errors.jsonl").ok()
    assert snapshot(tmp_path) == before
    assert planned.stdout == ""
    found = re.search(
        r"dry run of echo: (\d+) records to do; left out: (\d+) done before, (\d+) of other", planned.stderr
    )
    assert found is not None, planned.stderr
    to_do, done, elsewhere = map(int, found.groups())
    assert (to_do, done) == (6, 12)
    assert "cutting off what its last run left unfinished, after the results of 12 records" in planned.stderr
    ran = echo(*args, "--limit", 18)
    assert f"18 read, {to_do} done, 12 lines written, {done} done before" in ran.stderr
    rest = re.search(r"(\d+) beyond --limit", planned.stderr)
    assert rest is not None
    assert 18 + elsewhere + int(rest[1]) + planned.stderr.count(": not JSON") == 60


def test_what_a_run_would_refuse_a_dry_run_refuses(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(3)), tmp_path / "out.jsonl"
    echo(source, "-o", out).ok()
    changed = echo(source, "-o", out, "--seed", 7, "--plan")
    assert changed.rc == 2
    assert "seed: 0 -> 7" in changed.stderr
    restarted = echo(source, "-o", out, "--seed", 7, "--plan", "--restart").ok()
    assert f"it would overwrite {out} ({out.stat().st_size} bytes)" in restarted.stderr
    assert len(read_jsonl(out)) == 3
    with out.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        locked = echo(source, "-o", out, "--plan")
    assert locked.rc == 2
    assert "is being written by another process" in locked.stderr
    for place, why in (("gone/out.jsonl", "No such file"), (".", "Is a directory"), ("in.jsonl/o", "Not a directory")):
        refused = echo(source, "-o", tmp_path / place, "--plan")
        assert refused.rc == 2
        assert f"cannot write -o {tmp_path / place}: {why}" in refused.stderr
    assert echo(source, "--errors", tmp_path / "gone/e.jsonl", "--plan").rc == 2
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl", "out.jsonl.run.json"]


def test_a_search_is_tried_on_a_few_records_and_leaves_nothing(medsss: Medsss, script: str, tmp_path: Path) -> None:
    """The probe grows the very trees that the run grows: its requests and tokens are theirs."""
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(40)), tmp_path / "trees.jsonl"
    args = ["search", source, "--engine", script, "--max-nodes", 8, "--rollouts", 2, "--min-rollouts", 1]
    before = snapshot(tmp_path)
    dry = medsss([*args, "-o", out, "--dry-run", "--concurrency", 3]).ok()
    assert snapshot(tmp_path) == before
    assert dry.stdout == ""
    assert f"dry run of search: 40 records to do\nmedsss: it would begin {out}\n" in dry.stderr
    trees = medsss([*args, "--limit", 3, "--concurrency", 3]).ok().records
    requests = sum(sum(tree["stats"]["requests"].values()) for tree in trees)
    tokens = sum(tree["stats"]["tokens"] for tree in trees)
    assert f"3 at once, results thrown away: {requests} requests, {tokens} generated tokens" in dry.stderr
    assert "estimate for 40 records, from 3: about 0:00:0" in dry.stderr
    assert "trees 0" not in dry.stderr


def test_a_second_try_has_as_many_in_flight_as_the_run(tmp_path: Path) -> None:
    """With 3 in flight half a second each, 100 records would seem to take many times what 20 in flight take."""
    source = write_jsonl(tmp_path / "in.jsonl", problems(100))
    dry = echo(source, "--concurrency", 20, "--pause", 0.5, "--dry-run").ok()
    assert "probe: 23 of 23 records in" in dry.stderr
    assert "3 then 20 at once" in dry.stderr
    found = re.search(r"estimate for 100 records, from 23: about 0:00:(\d\d)\n", dry.stderr)
    assert found is not None, dry.stderr
    assert int(found[1]) < 12


def test_failures_and_wrong_usage_come_out_in_the_probe(tmp_path: Path) -> None:
    failing = echo("--concurrency", 3, "--dry-run", stdin=to_lines(problems(3, "fail"))).ok()
    assert "p0: told to fail\n" in failing.stderr
    assert "0 of 3 records in" in failing.stderr
    assert "no estimate" in failing.stderr
    assert "stdin was read by this dry run; the run itself needs it again" in failing.stderr
    wrong = echo("--concurrency", 3, "--dry-run", stdin=to_lines(problems(3, "usage")))
    assert (wrong.rc, wrong.stdout) == (2, "")
    quiet = echo("--concurrency", 3, "--dry-run", "-q", stdin=to_lines(problems(3, "usage"))).ok()
    assert (quiet.stdout, quiet.stderr) == ("", "")


def test_a_curriculum_writes_nothing_in_a_dry_run(medsss: Medsss, script: str, tmp_path: Path) -> None:
    """It writes after its stream has ended, which a dry run must not come to: a file of three problems in the place of
    a seed set of thousands."""
    source = write_jsonl(tmp_path / "in.jsonl", problems(5))
    (tmp_path / "seed.jsonl").write_text("kept\n")
    args = ["sample", source, "-n", 2, "--engine", script, "--curriculum", 2, "-o", tmp_path / "seed.jsonl"]
    before = snapshot(tmp_path)
    dry = medsss([*args, "--dry-run"]).ok()
    assert "dry run of sample: 5 records to do" in dry.stderr
    assert medsss([*args, "--plan"]).ok().stdout == dry.stdout == ""
    assert snapshot(tmp_path) == before


# The numbers


def test_the_estimate_by_hand() -> None:
    """Try 1: 3 records in 3 s. Try 2: 9 of 10 in 4.5 s, so 2 a second, and 100 records take 50 s. 12 done made 60
    requests and 1200 tokens: 5 and 100 a record, 500 and 10,000 in all; 900 tokens in 4.5 s are 200 a second."""
    tries = [
        Try(begun=3, done=3, seconds=3.0, cost=Cost(15, 300)),
        Try(begun=10, done=9, failed=1, seconds=4.5, cost=Cost(45, 900)),
    ]
    assert report(tries, to_do=100, concurrency=10) == [
        "probe: 12 of 13 records in 7.5 s, 3 then 10 at once, results thrown away; 1 failed: "
        "60 requests, 1,200 generated tokens, 200 tokens/s",
        "estimate for 100 records, from 12: about 0:00:50, 500 requests, 10,000 tokens",
    ]


def test_what_the_probe_does_not_know_it_says() -> None:
    """One of three was done in 20 s and 64 may be in flight: 100 records at that pace take 2000 s."""
    [_, line] = report([Try(begun=3, done=1, seconds=20.0, cost=Cost(5, 50))], to_do=100, concurrency=64)
    assert line == (
        "estimate for 100 records, from 1: about 0:33:20, 500 requests, 5,000 tokens; 2 were not done in time, so "
        "requests and tokens are rather too low; the time is that of 3 at once, and 64 at once may be faster"
    )
    [_, line] = report([Try(begun=3, seconds=20.0)], to_do=100, concurrency=64)
    assert line == "no estimate: nothing was done within 20 s"


def test_a_model_that_is_opened_for_the_first_record_is_no_part_of_the_pace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bon` opens its engine when a problem asks for it. Here that takes 0.6 s of a patience of 60, the try may take
    0.3, and a record takes 0.02: 400 records with 8 in flight are a second or two, not half a minute."""
    monkeypatch.setattr(dry_run, "SECONDS", 0.3)
    monkeypatch.setattr(dry_run, "PATIENCE", 60.0)

    async def main() -> None:
        opening = asyncio.ensure_future(asyncio.sleep(0.6))

        async def work(number: int) -> list[Any]:
            await asyncio.shield(opening)
            await asyncio.sleep(0.02)
            return []

        await probe(range(400), work, to_do=400, concurrency=8)

    asyncio.run(main())
    said = capsys.readouterr().err
    assert "nothing done in 0 s; waiting up to 1 minutes for one record" in said
    found = re.search(r"3 then 8 at once.*\n.*estimate for 400 records, from \d+: about 0:00:(\d\d)", said)
    assert found is not None, said
    assert int(found[1]) < 12


def test_answers_that_came_with_the_input_cost_no_tokens() -> None:
    """`bon` draws answers to problems and only scores those of samples records: to count these would promise a bill
    that never comes."""
    problem = Problem(id="p", question="?", answer="B")
    drawn = Samples(id="p", question="?", answer="B", responses=[Response(text="x", tokens=7)] * 4, pass_rate=0.0)
    candidate = Candidate(text="x", tokens=7, step_scores=[], score=0.0)
    scored = Scored(id="p", question="?", answer="B", candidates=[candidate] * 4, selected=0, strategy="min-max")
    tree = Tree(
        id="p", question="?", answer="B", nodes=[], stats={"requests": {"reason": 3, "finish": 2}, "tokens": 90}
    )
    costs = []
    for record, result in ((problem, drawn), (problem, scored), (drawn, scored), (problem, tree), (problem, {"id": 1})):
        cost = Cost()
        cost.add(record, result)
        costs.append((cost.calls, cost.unit, cost.tokens))
    assert costs == [
        (4, "answers", 28),
        (4, "answers", 28),
        (0, "requests", 0),
        (5, "requests", 90),
        (0, "requests", 0),
    ]


def test_a_command_without_an_engine_says_what_is_to_do(medsss: Medsss, tmp_path: Path) -> None:
    dry = medsss(["convert", "--to", "tree", "--dry-run"], stdin=json.dumps([]) + "\n").ok()
    assert dry.stdout == ""
    assert "dry run of convert: 0 records to do" in dry.stderr
