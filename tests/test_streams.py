"""The run loop: shards, resume, failures, many in flight. The hard cases run as real processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import Ran, clean_env, read_jsonl, run_medsss, to_lines, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from medsss_cli.errors import EngineError, UsageError
from medsss_cli.records import Problem, Response, Samples, parse, problem_fields
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import Where
from medsss_cli.stream.resume import read_state
from medsss_cli.stream.run import AHEAD, Stream, StreamOptions, run_concurrently
from medsss_cli.stream.shard import Shard

PROGRAM = [sys.executable, str(Path(__file__).with_name("stream_program.py")), "echo"]


def problems(count: int, question: str = "q") -> list[dict[str, Any]]:
    return [{"id": f"p{k}", "question": question, "answer": "a"} for k in range(count)]


def read_problem(found: dict[str, Any], where: Where) -> Problem:
    return parse(Problem, found)


def stream(config: dict[str, Any] | None = None, **options: Any) -> Stream[Problem]:
    if "inputs" in options:
        options["inputs"] = tuple(str(path) for path in options["inputs"])
    if "output" in options:
        options["output"] = str(options["output"])
    return Stream(
        StreamOptions(quiet=True, **options),
        command="test",
        parse=read_problem,
        config={"a": 1} if config is None else config,
    )


def copy_all(run: Stream[Problem], lines: int = 1) -> list[str]:
    """Write `lines` lines for every record to do; returns their ids."""
    with run:
        done = []
        for problem in run:
            run.write(problem.id, [{"id": problem.id, "copy": k} for k in range(lines)])
            done.append(problem.id)
    return done


def echo(*args: object, stdin: str = "") -> Ran:
    return run_medsss(["echo", *args], stdin)


# Shards


@given(st.lists(st.text(min_size=1), unique=True, max_size=60), st.integers(1, 9))
def test_shards_are_disjoint_and_together_complete(ids: list[str], count: int) -> None:
    parts = [[id for id in ids if Shard(index, count).keeps(id)] for index in range(count)]
    assert sorted(id for part in parts for id in part) == sorted(ids)


def test_a_shard_is_the_same_on_every_machine() -> None:
    assert [id for id in "abcdefgh" if Shard(0, 3).keeps(id)] == ["c", "f"]


def test_parse_shard() -> None:
    assert Shard.parse("2/8") == Shard(2, 8)
    for wrong in ("8/8", "-1/8", "0/0", "1", "a/b", "1/2/3", ""):
        with pytest.raises(UsageError):
            Shard.parse(wrong)


def test_shard_of_a_slurm_array(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no SLURM array job"):
        Shard.parse("auto")

    def array(task: int, least: int, count: int, step: int = 1) -> Shard:
        for name, value in (("ID", task), ("MIN", least), ("COUNT", count), ("STEP", step)):
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        return Shard.parse("auto")

    assert array(3, 1, 4) == Shard(2, 4)
    assert array(14, 10, 3, step=2) == Shard(2, 3)
    with pytest.raises(UsageError, match="gaps"):
        array(9, 1, 3)


def test_shards_of_a_stream_add_up(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(50))
    parts = [copy_all(stream(inputs=[source], output=tmp_path / f"{k}.jsonl", shard=Shard(k, 4))) for k in range(4)]
    assert all(parts)
    assert sorted(id for part in parts for id in part) == sorted(p["id"] for p in problems(50))


# What is read


def test_limit_counts_what_was_done_before(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(10)), tmp_path / "out.jsonl"
    assert copy_all(stream(inputs=[source], output=out, limit=4)) == ["p0", "p1", "p2", "p3"]
    assert copy_all(stream(inputs=[source], output=out, limit=4)) == []
    assert copy_all(stream(inputs=[source], output=out, limit=6)) == ["p4", "p5"]


def test_the_limit_does_not_wait_for_one_more_line() -> None:
    child = subprocess.Popen([*PROGRAM, "--limit", "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_env())
    assert child.stdin is not None
    child.stdin.write(to_lines(problems(2)).encode())
    child.stdin.flush()
    assert child.wait(120) == 0


def test_the_second_record_of_an_id_is_a_bad_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(2) + problems(1))
    run = stream(inputs=[source], output=tmp_path / "out.jsonl")
    assert copy_all(run) == ["p0", "p1"]
    assert run.faults.bad_lines == 1
    assert run.exit_code() == 1
    assert f"{source}:3: the id 'p0' came before" in capsys.readouterr().err


def test_bad_lines_are_reported_counted_and_skipped(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(to_lines(problems(1)) + '{"id":\n{"id": "x"}\n' + to_lines(problems(3)[2:]))
    done = echo(source, "--errors", tmp_path / "errors.jsonl")
    assert done.rc == 1
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["p0", "p2"]
    assert f"{source}:2: not JSON" in done.stderr
    assert f"{source}:3: not a problem record: Object missing required field `question`" in done.stderr
    errors = read_jsonl(tmp_path / "errors.jsonl")
    assert [(error["id"], error["stage"]) for error in errors] == [(f"{source}:2", "read"), (f"{source}:3", "read")]


@pytest.mark.parametrize("concurrency", [[], ["--concurrency", "3"]])
def test_strict_stops_at_the_first_bad_line(tmp_path: Path, concurrency: list[str]) -> None:
    done = echo("--strict", *concurrency, stdin=to_lines(problems(2)) + "{\n" + to_lines(problems(9)[5:]))
    assert done.rc == 1
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.startswith("medsss: stdin:3: not JSON")


@pytest.mark.parametrize("concurrency", [[], ["--concurrency", "3"]])
def test_a_record_that_fails_does_not_end_the_run(tmp_path: Path, concurrency: list[str]) -> None:
    lines = to_lines([*problems(2), {"id": "bad", "question": "fail", "answer": ""}])
    done = echo(*concurrency, "--errors", tmp_path / "e.jsonl", stdin=lines)
    assert done.rc == 1
    assert len(done.stdout.splitlines()) == 2
    assert read_jsonl(tmp_path / "e.jsonl") == [{"id": "bad", "error": "told to fail", "stage": "echo"}]
    assert "3 read, 2 done, 1 failed" in done.stderr
    assert "bad: echo: told to fail" in echo(*concurrency, stdin=lines).stderr
    assert echo("--strict", *concurrency, stdin=lines).rc == 1


def test_three_of_a_cause_are_said_and_the_rest_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong file printed one identical line per record. Numbers and quotations do not make a cause; beyond a hundred
    causes the rest is one, for memory is bounded."""
    faults = Faults(errors=str(tmp_path / "e.jsonl"))
    for tokens in range(500, 800):
        faults.fail(
            f"q{tokens}", "search", f"a prompt of {tokens} tokens and id 'p{tokens}' is too long\nfor this model"
        )
    faults.bad(Where("in.jsonl", 7), "not JSON: it doesn't end here, it isn't whole")
    faults.fail("last", "search", "the server said `busy`")
    assert faults.words() == ["301 failed", "1 bad line"]
    faults.say_causes()
    assert capsys.readouterr().err.splitlines() == [
        *(
            line
            for tokens in (500, 501, 502)
            for line in (
                f"q{tokens}: search: a prompt of {tokens} tokens and id 'p{tokens}' is too long",
                "for this model",
            )
        ),
        "... more of this kind are counted, and not shown",
        "in.jsonl:7: not JSON: it doesn't end here, it isn't whole",
        "last: search: the server said `busy`",
        "medsss:   300 x search: a prompt of 500 tokens and id 'p500' is too long",
    ]
    for word in ("".join(letters) for letters in itertools.permutations("abcdef", 4)):
        faults.bad(Where("in.jsonl", 9), word)
    faults.close()
    assert len(capsys.readouterr().err.splitlines()) == 97 + 3 + 1
    assert faults.words() == ["301 failed", "361 bad lines"]
    assert len(read_jsonl(tmp_path / "e.jsonl")) == 301 + 361


def test_the_end_says_what_failed_and_why(tmp_path: Path) -> None:
    lines = to_lines([*problems(2), *({"id": f"bad{k}", "question": "fail", "answer": ""} for k in range(5))]) + "{\n"
    for more in ([], ["--concurrency", 3]):
        said = echo(*more, stdin=lines).stderr.splitlines()
        assert sum(line.endswith(": echo: told to fail") for line in said) == 3
        assert sum(line.startswith("stdin:8: not JSON") for line in said) == 1
        assert re.fullmatch(r"medsss: echo: 7 read, 2 done, 5 failed, 1 bad line; took \d+:\d\d:\d\d", said[-2])
        assert said[-1] == "medsss:   5 x echo: told to fail"


def test_wrong_usage_within_a_record_ends_the_run() -> None:
    done = echo("--concurrency", "3", stdin=to_lines(problems(3, "usage")))
    assert (done.rc, done.stdout, done.stderr) == (2, "", "medsss: told to be wrong\n")


@pytest.mark.parametrize("concurrency", [[], ["--concurrency", "3"]])
def test_empty_input_is_no_failure(concurrency: list[str]) -> None:
    done = echo(*concurrency)
    assert (done.rc, done.stdout) == (0, "")
    assert "the input holds no record" in done.stderr
    assert echo(*concurrency, "-q").stderr == ""


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    done = echo(tmp_path / "nowhere.jsonl", "-o", tmp_path / "out.jsonl")
    assert done.rc == 2
    assert "nowhere.jsonl: No such file" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_a_library_prints_does_not_reach_stdout() -> None:
    done = echo("--talk", stdin=to_lines(problems(2)))
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["p0", "p1"]
    assert done.stderr.count("a library that talks") == 2


# Resume


def test_results_must_carry_the_id(tmp_path: Path) -> None:
    with stream(inputs=[write_jsonl(tmp_path / "in.jsonl", problems(1))], output=tmp_path / "o") as run:
        for problem in run:
            with pytest.raises(ValueError, match="carries the id None"):
                run.write(problem.id, [{"copy": 1}])


@pytest.mark.parametrize("lines", [1, 3])
def test_a_finished_run_is_left_alone(tmp_path: Path, lines: int) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(5)), tmp_path / "out.jsonl"
    copy_all(stream(inputs=[source], output=out), lines)
    before = out.read_bytes()
    again = stream(inputs=[source], output=out)
    assert copy_all(again, lines) == []
    assert again.counts.skipped_done == 5
    assert out.read_bytes() == before
    write_jsonl(source, problems(7))
    assert copy_all(stream(inputs=[source], output=out), lines) == ["p5", "p6"]
    assert [line["id"] for line in read_jsonl(out)] == [f"p{k}" for k in range(7) for _ in range(lines)]


def test_failed_and_empty_inputs_are_done_again(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(3)), tmp_path / "out.jsonl"
    with stream(inputs=[source], output=out) as run:
        for problem, lines in zip(run, (1, 0, None), strict=True):
            if lines is None:
                run.fail(problem.id, "test", "no luck")
            else:
                run.write(problem.id, [{"id": problem.id}] * lines)
    assert run.exit_code() == 1
    assert copy_all(stream(inputs=[source], output=out)) == ["p1", "p2"]


@pytest.mark.parametrize("cut", [1, 7, 20, 40])
def test_a_torn_last_line_is_done_again(tmp_path: Path, cut: int) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(5)), tmp_path / "out.jsonl"
    copy_all(stream(inputs=[source], output=out))
    out.write_bytes(out.read_bytes()[:-cut])
    again = copy_all(stream(inputs=[source], output=out))
    assert [line["id"] for line in read_jsonl(out)] == [p["id"] for p in problems(5)]
    assert again == (["p4"] if cut < 22 else ["p3", "p4"])


def test_a_group_that_may_be_there_in_part_is_done_again(tmp_path: Path) -> None:
    """Lines p3.0 and p3.1 are whole, p3.2 is missing: nothing says so but the state's `several_lines`."""
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(4)), tmp_path / "out.jsonl"
    copy_all(stream(inputs=[source], output=out), 3)
    write_jsonl(out, read_jsonl(out)[:-1])
    assert copy_all(stream(inputs=[source], output=out), 3) == ["p3"]
    assert [(line["id"], line["copy"]) for line in read_jsonl(out)] == [
        (f"p{k}", c) for k in range(4) for c in range(3)
    ]


def test_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(3)), tmp_path / "out.jsonl"
    copy_all(stream({"n": 8, "policy": "P0", "old": True}, inputs=[source], output=out))
    before = out.read_bytes()
    with (
        pytest.raises(UsageError) as refused,
        stream({"n": 16, "policy": "P0", "new": [1]}, inputs=[source], output=out),
    ):
        pass
    assert str(refused.value).splitlines()[1:] == ["  n: 8 -> 16", "  old: true -> not set", "  new: not set -> [1]"]
    assert "--restart" in str(refused.value.hint)
    assert out.read_bytes() == before
    assert len(copy_all(stream({"n": 16}, inputs=[source], output=out, restart=True))) == 3
    assert copy_all(stream({"n": 16}, inputs=[source], output=out)) == []


def test_a_file_that_is_not_ours_is_not_touched(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(3)), tmp_path / "thesis.txt"
    out.write_text("years of work\n")
    with pytest.raises(UsageError, match="not empty"), stream(inputs=[source], output=out):
        pass
    (tmp_path / ".thesis.txt.medsss").write_text("{}")
    with pytest.raises(UsageError, match="cannot use"), stream(inputs=[source], output=out):
        pass
    assert out.read_text() == "years of work\n"


def test_a_broken_line_amid_whole_ones_is_not_cut_off(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(3)), tmp_path / "out.jsonl"
    copy_all(stream(inputs=[source], output=out))
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0] + "edited by hand\n" + lines[2])
    with pytest.raises(UsageError, match=r"out.jsonl:2: not a record of `test`"), stream(inputs=[source], output=out):
        pass
    assert "edited by hand" in out.read_text()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(3)), tmp_path / "out.jsonl"
    with stream(inputs=[source], output=out):
        done = echo(source, "-o", out, "--restart")
        assert done.rc == 2
        assert "is being written by another process" in done.stderr
    assert copy_all(stream(inputs=[source], output=out)) == ["p0", "p1", "p2"]


def test_stdout_by_its_path_is_stdout(tmp_path: Path) -> None:
    """The descriptor behind it is stderr while a command runs, and its state would have stood in /dev."""
    assert len(echo("-o", "/dev/stdout", stdin=to_lines(problems(3))).stdout.splitlines()) == 3


def test_an_output_that_is_no_file(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(3))
    assert len(copy_all(stream(inputs=[source], output="/dev/null"))) == 3
    assert not Path("/dev/.null.medsss").exists()
    with pytest.raises(UsageError, match="No such file"), stream(inputs=[source], output=tmp_path / "no" / "out.jsonl"):
        pass


def test_errors_are_those_of_the_last_run(tmp_path: Path) -> None:
    lines = to_lines(problems(2, "fail"))
    for _ in range(2):
        assert echo("-o", tmp_path / "out.jsonl", "--errors", tmp_path / "e.jsonl", stdin=lines).rc == 1
        assert [error["id"] for error in read_jsonl(tmp_path / "e.jsonl")] == ["p0", "p1"]


def test_an_output_of_the_last_version_is_gone_on_with(tmp_path: Path) -> None:
    """It left OUT.run.json beside OUT, which `report out/*.json` took for a report."""
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(3)), tmp_path / "out.jsonl"
    write_jsonl(out, [{"id": "p0"}, {"id": "p1"}])
    old = {"command": "test", "version": "0.1.0", "config": {"a": 1}, "several_lines": False, "whole_bytes": 26}
    (tmp_path / "out.jsonl.run.json").write_text(json.dumps(old | {"seconds": 60.0, "shard": "all", "writer": None}))
    assert copy_all(stream(inputs=[source], output=out)) == ["p2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.jsonl.medsss", "in.jsonl", "out.jsonl"]
    state = read_state(str(out))
    assert state is not None
    assert state.seconds >= 60


def test_what_another_program_wrote_into_out_is_not_gone_on_with(tmp_path: Path) -> None:
    """`sample -o o`, `clinic > o`, then the same `sample` again said "40 done before", and o held bare problems."""
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(3)), tmp_path / "out.jsonl"
    copy_all(stream(inputs=[source], output=out))
    write_jsonl(out, problems(3))
    with pytest.raises(UsageError, match=r"out\.jsonl:1: not a record of `test`"), stream(inputs=[source], output=out):
        pass
    assert read_jsonl(out) == problems(3)


@pytest.mark.parametrize("restart", [[], ["--restart"]])
def test_wrong_usage_found_late_leaves_everything_as_it_was(tmp_path: Path, restart: list[str]) -> None:
    """A policy that does not exist is found when it is opened, after the output is. `search --policy nosuch -o z` left
    z and its state behind, and with --restart it would have emptied the z of yesterday."""
    usage, good = (write_jsonl(tmp_path / f"{name}.jsonl", problems(3, name)) for name in ("usage", "q"))
    out, errors = tmp_path / "z", tmp_path / "e"
    before = sorted(path.name for path in tmp_path.iterdir())
    args = ["-o", out, "--errors", errors, "--concurrency", 2, *restart]
    assert echo(usage, *args).rc == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    fail = write_jsonl(tmp_path / "fail.jsonl", problems(9, "fail")[3:])
    assert echo(good, fail, *args).rc == 1
    kept = {path: path.read_bytes() for path in (out, errors, tmp_path / ".z.medsss")}
    assert echo(write_jsonl(usage, problems(99, "usage")[50:]), *args).rc == 2
    assert {path: path.read_bytes() for path in kept} == kept


def test_errors_do_not_overwrite_what_is_no_file_of_errors(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("years of work\n")
    done = echo("--errors", notes, stdin=to_lines(problems(1)))
    assert done.rc == 2
    assert "holds something else" in done.stderr
    assert notes.read_text() == "years of work\n"


def test_packed_outputs_are_refused(tmp_path: Path) -> None:
    done = echo("-o", tmp_path / "out.jsonl.zst", stdin=to_lines(problems(1)))
    assert done.rc == 2
    assert "outputs are not packed" in done.stderr


# A part of the input


def test_limit_0_checks_and_counts_and_leaves_nothing(tmp_path: Path) -> None:
    """For a login node, which has no GPU: a policy that cannot be opened is no matter there."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(to_lines(problems(20, "usage")) + "{\n")
    done = echo(source, "--limit", 0, "-o", out, "--errors", tmp_path / "e", "--concurrency", 2)
    assert done.rc == 1
    assert "echo: 20 records to do (1 bad line)" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    write_jsonl(source, problems(20))
    assert echo(source, "--limit", 4, "-o", out).rc == 0
    before = out.read_bytes()
    done = echo(source, "--limit", 0, "-o", out)
    assert (done.rc, out.read_bytes()) == (0, before)
    assert "echo: 16 records to do (4 done before)" in done.stderr
    refused = echo(source, "--limit", 0, "-o", out, "--seed", 2)
    assert refused.rc == 2
    assert "seed: 0 -> 2" in refused.stderr
    assert echo(source, "--limit", 0, "-o", tmp_path / "no" / "out").rc == 2


def test_a_limit_says_what_the_rest_would_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(1000))

    async def work(problem: Problem) -> list[Samples]:
        return [Samples(**problem_fields(problem), responses=[Response(text="x", tokens=30)] * 4, pass_rate=0.0)]

    options = StreamOptions(inputs=(str(source),), output="/dev/null", limit=10)
    run: Stream[Problem] = Stream(options, command="test", parse=read_problem, config={})
    run_all(run, work, 2)
    said = capsys.readouterr().err
    assert re.search(
        r"test: the input files hold 990 more, which would take about \d+:\d\d:\d\d and 120,000 tokens\n", said
    )
    assert "more" not in echo("--limit", 5, stdin=to_lines(problems(9))).stderr
    assert "more" not in echo(source, "--limit", 1000).stderr


# Many in flight


def run_all(run: Stream[Problem], work: Any, concurrency: int, **more: Any) -> None:
    async def main() -> None:
        await run_concurrently(run, work, stage="test", concurrency=concurrency, **more)

    with run:
        asyncio.run(main())


def test_no_barrier_behind_a_straggler(tmp_path: Path) -> None:
    """One record waits until all the others are done: with a barrier anywhere this would never end."""
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(40)), tmp_path / "out.jsonl"
    finished: list[str] = []

    async def work(problem: Problem) -> list[dict[str, Any]]:
        while problem.id == "p0" and len(finished) < 39:
            await asyncio.sleep(0.001)
        return [{"id": problem.id}]

    run_all(stream(inputs=[source], output=out), work, 2, on_done=lambda problem, _: finished.append(problem.id))
    assert [line["id"] for line in read_jsonl(out)] == [f"p{k}" for k in (*range(1, 40), 0)] == finished


def test_ordered_keeps_the_order_within_bounded_room(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(100)), tmp_path / "out.jsonl"
    begun: list[str] = []
    most = 0

    async def work(problem: Problem) -> list[dict[str, Any]]:
        nonlocal most
        begun.append(problem.id)
        if problem.id == "p0":
            for _ in range(200):
                await asyncio.sleep(0.001)
            most = len(begun)
        if problem.id == "p50":
            raise EngineError("no luck")
        return [{"id": problem.id}]

    run = stream(inputs=[source], output=out, ordered=True)
    run_all(run, work, 3)
    assert [line["id"] for line in read_jsonl(out)] == [f"p{k}" for k in range(100) if k != 50]
    assert most == 3 * AHEAD
    assert run.faults.failed == 1


def test_input_is_read_no_faster_than_it_is_worked(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(50))
    run = stream(inputs=[source], output=tmp_path / "out.jsonl")
    ahead: list[int] = []

    async def work(problem: Problem) -> list[dict[str, Any]]:
        await asyncio.sleep(0.001)
        ahead.append(run.counts.read - run.counts.written)
        return [{"id": problem.id}]

    run_all(run, work, 4)
    assert 1 <= max(ahead) <= 4


def test_what_is_in_flight_when_the_run_is_cancelled_is_finished_and_written(tmp_path: Path) -> None:
    """Ctrl-C cancels; SLURM's warning comes half a minute before the kill."""
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(50)), tmp_path / "out.jsonl"

    async def main(run: Stream[Problem]) -> None:
        begun: list[str] = []

        async def work(problem: Problem) -> list[dict[str, Any]]:
            begun.append(problem.id)
            if len(begun) == 3:
                running.cancel()
            await asyncio.sleep(0.05)
            return [{"id": problem.id}]

        running = asyncio.create_task(run_concurrently(run, work, stage="test", concurrency=3))
        with pytest.raises(asyncio.CancelledError):
            await running
        assert begun == ["p0", "p1", "p2"]

    with stream(inputs=[source], output=out) as run:
        asyncio.run(main(run))
    assert [line["id"] for line in read_jsonl(out)] == ["p0", "p1", "p2"]


@pytest.mark.parametrize("ordered", [False, True])
def test_what_is_no_error_of_one_record_ends_the_run(tmp_path: Path, ordered: bool) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(50))

    async def work(problem: Problem) -> Sequence[dict[str, Any]]:
        if problem.id == "p5":
            raise ZeroDivisionError
        await asyncio.sleep(3600)
        return []

    with pytest.raises(ZeroDivisionError):
        run_all(stream(inputs=[source], output=tmp_path / "o", ordered=ordered), work, 8)


def test_a_result_that_json_cannot_say_is_a_failure(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(2))

    async def work(problem: Problem) -> list[dict[str, Any]]:
        return [{"id": problem.id, "text": "\ud800" if problem.id == "p0" else ""}]

    run = stream(inputs=[source], output=tmp_path / "o")
    run_all(run, work, 2)
    assert (run.counts.written, run.faults.failed) == (1, 1)


def test_the_work_is_the_same_whatever_the_concurrency(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(60))
    outputs = [
        sorted(echo(source, *args).stdout.splitlines())
        for args in ([], ["--concurrency", 1], ["--concurrency", 64], ["--ordered", "--concurrency", 7])
    ]
    assert all(output == outputs[0] for output in outputs)
    assert len(outputs[0]) == 60


# How a run ends


def start(*args: object, **pipes: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, *(str(arg) for arg in args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_env(),
        **pipes,
    )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("concurrency", [[], ["--concurrency", "4"]])
@pytest.mark.parametrize("background", [False, True], ids=["front", "background"])
def test_interrupted_while_it_waits_for_input(signum: int, concurrency: list[str], background: bool) -> None:
    """The pipe stays open, so a reader that cannot be left behind would hang here. In the background of a script
    SIGINT is ignored, and SIGTERM must end the run all the same."""
    ignore = (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if background else None
    if background and signum == signal.SIGINT:
        return
    with start(*concurrency, preexec_fn=ignore) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(to_lines(problems(1)).encode())
        child.stdin.flush()
        assert json.loads(child.stdout.readline())["id"] == "p0"
        time.sleep(0.1)
        child.send_signal(signum)
        assert child.wait(120) == 128 + signum
        assert child.stderr.read() == (b"medsss: interrupted\n" if signum == signal.SIGINT else b"medsss: terminated\n")


def test_interrupted_amid_a_long_line_finishes_the_line() -> None:
    """The line is longer than a pipe holds, so the interrupt comes while half of it is out."""
    with start("--pad", 1 << 20) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(to_lines(problems(3)).encode())
        child.stdin.flush()
        begun = child.stdout.read(10)
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        time.sleep(0.2)
        rest = child.stdout.read()
        assert child.wait(120) == 130
    assert [json.loads(line)["id"] for line in (begun + rest).splitlines()] == ["p0"]


@pytest.mark.parametrize("concurrency", [[], ["--concurrency", "16"]])
def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path, concurrency: list[str]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(20000))
    with start(source, *concurrency) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.wait(120) == 0
        assert child.stderr.read() == b""


def test_closed_descriptors(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(2))

    def shell(redirect: str) -> subprocess.CompletedProcess[str]:
        command = " ".join([*PROGRAM, str(source), redirect])
        return subprocess.run(command, shell=True, capture_output=True, text=True, env=clean_env(), timeout=120)

    assert (closed := shell(">&-")).returncode == 2
    assert "standard output is closed" in closed.stderr
    assert len(shell("2>&-").stdout.splitlines()) == 2
    assert shell("- <&-").returncode == 2


def test_a_disk_that_is_full_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    done = echo("-o", "/dev/full", stdin=to_lines(problems(2)))
    assert done.rc == 1
    assert done.stderr == "medsss: cannot write to /dev/full: No space left on device\n"


# What people see


def test_control_characters_of_an_id_do_not_reach_the_terminal() -> None:
    done = echo(stdin=to_lines([{"id": "\x1b[31mred", "question": "fail", "answer": ""}]))
    assert "\x1b" not in done.stderr
    assert "\\x1b[31mred: echo: told to fail" in done.stderr


def test_progress_is_a_live_line_on_a_terminal_alone(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(30))
    plain = echo(source, "--pause", 0.02)
    assert re.fullmatch(r"medsss: echo: 30 read, 30 done; took \d+:\d\d:\d\d\n", plain.stderr)
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [*PROGRAM, str(source), "--pause", "0.02", "--pid"], stdout=subprocess.DEVNULL, stderr=slave, env=clean_env()
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while data := os.read(master, 4096):
            shown += data
    os.close(master)
    assert child.wait(120) == 0
    assert re.search(rb"\x1b\[2Kecho 30 \| \d+:\d\d:\d\d", shown)
    assert re.search(rb"medsss: echo: 30 read, 30 done; took \d+:\d\d:\d\d\r\n$", shown)


def test_what_a_run_has_to_do_is_known_beforehand_where_the_input_is_a_file(tmp_path: Path) -> None:
    """A wrong total would show a day-long search a wrong time left: what is done, and what others do, is not to do."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(problem) + "\n" for problem in problems(40)))

    def expected(**options: Any) -> int | None:
        run = Stream(StreamOptions(**options), command="test", parse=read_problem, config={"a": 1})
        with run:
            return run.expected()

    assert expected(inputs=(str(source),)) == 40
    assert expected(inputs=(str(source),), limit=7) == 7
    assert expected(inputs=(str(source),), shard=Shard(1, 4)) == 10
    copy_all(stream(inputs=(source,), output=out, limit=30))
    assert expected(inputs=(str(source),), output=str(out)) == 10
