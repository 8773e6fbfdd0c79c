"""The run loop: shards, resume, failures, many in flight. The hard cases run as real processes that are killed."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import Ran, clean_env, program, read_jsonl, run_medsss, to_lines, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from stream_program import PROGRAM, problems
from trees import record as tree_record

from medsss_cli.errors import EngineError, UsageError
from medsss_cli.records import Problem, Response, Samples, parse, problem_fields
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import Where
from medsss_cli.stream.run import AHEAD, Stream, StreamOptions, run_concurrently
from medsss_cli.stream.shard import Shard


def read_problem(found: dict[str, Any], where: Where) -> Problem:
    return parse(Problem, found)


def stream(source: Path, out: Path | str = "/dev/null", config: dict[str, Any] | None = None, **options: Any) -> Any:
    asked = StreamOptions(**{"quiet": True, "inputs": (str(source),), "output": str(out)} | options)
    return Stream(asked, command="test", parse=read_problem, config=config or {"a": 1})


def copy_all(run: Stream[Problem], lines: int = 1) -> list[str]:
    """Write `lines` lines for every record to do; returns their ids."""
    with run:
        done = []
        for problem in run:
            run.write([{"id": problem.id, "copy": k} for k in range(lines)])
            done.append(problem.id)
    return done


def echo(*args: object, stdin: str = "") -> Ran:
    return run_medsss(["echo", *args], stdin)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "in.jsonl", problems(5))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


# Shards


@given(st.lists(st.text(min_size=1), unique=True, max_size=60), st.integers(1, 9))
def test_shards_are_disjoint_and_together_complete(ids: list[str], count: int) -> None:
    parts = [[id for id in ids if Shard(index, count).keeps(id)] for index in range(count)]
    assert sorted(id for part in parts for id in part) == sorted(ids)


def test_a_shard_is_named_or_that_of_a_slurm_array(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [id for id in "abcdefgh" if Shard(0, 3).keeps(id)] == ["c", "f"], "on every machine"
    assert Shard.parse("2/8") == Shard(2, 8)
    for wrong in ("8/8", "-1/8", "0/0", "1", "a/b", "1/2/3", "", "auto"):
        with pytest.raises(UsageError):
            Shard.parse(wrong)

    def array(task: int, least: int, count: int, step: int = 1) -> Shard:
        for name, value in (("ID", task), ("MIN", least), ("COUNT", count), ("STEP", step)):
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        return Shard.parse("auto")

    assert array(3, 1, 4) == Shard(2, 4)
    assert array(14, 10, 3, step=2) == Shard(2, 3)
    with pytest.raises(UsageError, match="gaps"):
        array(9, 1, 3)


def test_another_number_of_shards_is_refused(tmp_path: Path, out: Path) -> None:
    """The file of shard 0/2 holds what shards 0/4 and 2/4 hold: `cat` of four parts would have them twice."""
    source = write_jsonl(tmp_path / "in.jsonl", problems(20))
    assert echo(source, "-o", out, "--shard", "0/2", "--limit", 3).rc == 0
    before = out.read_bytes()
    done = echo(source, "-o", out, "--shard", "0/4")
    assert (done.rc, out.read_bytes()) == (2, before)
    assert "was begun as shard 0/2, this is shard 0/4" in done.stderr
    assert echo(source, "-o", out, "--shard", "0/2").rc == 0
    # The whole input in one file is no part: nothing can stand twice.
    assert echo(source, "-o", out).rc == 0
    assert sorted(line["id"] for line in read_jsonl(out)) == sorted(problem["id"] for problem in problems(20))
    assert echo(source, "-o", out, "--shard", "0/2").rc == 2


# What is read


def test_the_limit_does_not_wait_for_one_more_line() -> None:
    with start("--limit", 2) as child:
        child.stdin.write(to_lines(problems(2)).encode())
        child.stdin.flush()
        assert child.wait(120) == 0


@pytest.mark.parametrize("concurrency", [[], ["--concurrency", "3"]])
def test_records_that_fail_do_not_end_the_run(tmp_path: Path, concurrency: list[str]) -> None:
    """The end says what failed and why; an id with the escape codes of a terminal reaches none, what a library prints
    does not reach stdout, the second record of an id is a bad line, and the next run does again what failed."""
    failing = [{"id": f"\x1b[31m{k}", "question": "fail", "answer": ""} for k in range(5)]
    lines = to_lines([*problems(2), *failing, *problems(1)]) + '{"id": "x"}\n{\n'
    args = [*concurrency, "--talk", "-o", tmp_path / "out.jsonl", "--errors", tmp_path / "e.jsonl"]
    for before in ("", ", 2 done before"):
        done = echo(*args, stdin=lines)
        assert (done.rc, [record["id"] for record in read_jsonl(tmp_path / "out.jsonl")]) == (1, ["p0", "p1"])
        assert f"done{before}, 5 failed, 3 bad lines" in done.stderr
        errors = [(error["id"], error["stage"], error["error"]) for error in read_jsonl(tmp_path / "e.jsonl")]
        assert sorted(each for each in errors if each[1] == "echo") == [
            (each["id"], "echo", "told to fail") for each in failing
        ]
        assert [id for id, stage, _ in errors if stage == "read"] == [f"stdin:{k}" for k in (8, 9, 10)]
    done = echo(*concurrency, "--talk", stdin=lines)
    assert done.stderr.count("a library that talks\n") == 2
    said = done.stderr.replace("a library that talks\n", "").splitlines()
    assert [line for line in said if line.endswith(": echo: told to fail")] == [
        f"\\x1b[31m{k}: echo: told to fail" for k in range(3)
    ]
    assert sum(line.startswith("stdin:10: not JSON") for line in said) == 1
    assert any(line.startswith("stdin:9: not a problem record: Object missing required field") for line in said)
    assert re.fullmatch(r"medsss: echo: 7 read, 2 done, 5 failed, 3 bad lines; took \d+:\d\d:\d\d", said[-2])
    assert said[-1] == "medsss:   5 x echo: told to fail"
    strict = echo("--strict", *concurrency, stdin=to_lines(problems(2)) + "{\n" + to_lines(problems(9)[5:]))
    assert (strict.rc, len(strict.records)) == (1, 2)
    assert strict.stderr.startswith("medsss: stdin:3: not JSON")


def test_three_of_a_cause_are_said_and_the_rest_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong file printed one identical line per record. Numbers and quotations do not make a cause; beyond a hundred
    causes the rest is one, for memory is bounded."""
    faults = Faults(errors=str(tmp_path / "e.jsonl"))
    for tokens in range(500, 800):
        faults.fail(f"q{tokens}", "search", f"a prompt of {tokens} tokens and id 'p{tokens}' is too long")
    faults.bad(Where("in.jsonl", 7), "not JSON: it doesn't end here, it isn't whole")
    assert faults.words() == ["300 failed", "1 bad line"]
    faults.say_causes()
    assert capsys.readouterr().err.splitlines() == [
        *(f"q{n}: search: a prompt of {n} tokens and id 'p{n}' is too long" for n in (500, 501, 502)),
        "... more of this kind are counted, and not shown",
        "in.jsonl:7: not JSON: it doesn't end here, it isn't whole",
        "medsss:   300 x search: a prompt of 500 tokens and id 'p500' is too long",
    ]
    for word in ("".join(letters) for letters in itertools.permutations("abcdef", 4)):
        faults.bad(Where("in.jsonl", 9), word)
    faults.close()
    assert len(capsys.readouterr().err.splitlines()) == 100 + 3 + 1
    assert faults.words() == ["300 failed", "361 bad lines"]
    assert len(read_jsonl(tmp_path / "e.jsonl")) == 300 + 361


# Resume


@pytest.mark.parametrize("lines", [1, 3])
def test_a_finished_run_is_left_alone(source: Path, out: Path, lines: int) -> None:
    assert copy_all(stream(source, out, limit=2), lines) == ["p0", "p1"]
    assert copy_all(stream(source, out, limit=2), lines) == [], "the limit counts what was done before"
    copy_all(stream(source, out), lines)
    before = out.read_bytes()
    again = stream(source, out)
    assert copy_all(again, lines) == []
    assert again.skipped_done == 5
    assert out.read_bytes() == before
    write_jsonl(source, problems(7))
    assert copy_all(stream(source, out), lines) == ["p5", "p6"]
    assert [line["id"] for line in read_jsonl(out)] == [f"p{k}" for k in range(7) for _ in range(lines)]


def test_failed_and_empty_inputs_are_done_again(source: Path, out: Path) -> None:
    with stream(source, out, limit=3) as run:
        for problem, lines in zip(run, (1, 0, None), strict=True):
            if lines is None:
                run.fail(problem.id, "test", "no luck")
            else:
                run.write([{"id": problem.id}] * lines)
    assert run.exit_code() == 1
    assert copy_all(stream(source, out, limit=3)) == ["p1", "p2"]


def test_a_group_that_may_be_there_in_part_is_done_again(source: Path, out: Path) -> None:
    """Lines p4.0 and p4.1 are whole, p4.2 is missing: nothing says so but the state's `several_lines`."""
    copy_all(stream(source, out), 3)
    write_jsonl(out, read_jsonl(out)[:-1])
    assert copy_all(stream(source, out), 3) == ["p4"]
    out.write_bytes(out.read_bytes()[:-1])  # torn
    assert copy_all(stream(source, out), 3) == ["p4"]
    assert [(line["id"], line["copy"]) for line in read_jsonl(out)] == [
        (f"p{k}", c) for k in range(5) for c in range(3)
    ]


def test_another_configuration_is_refused_with_the_difference(source: Path, out: Path) -> None:
    copy_all(stream(source, out, {"n": 8, "policy": "P0", "old": True}))
    before = out.read_bytes()
    with pytest.raises(UsageError) as refused, stream(source, out, {"n": 16, "policy": "P0", "new": [1]}):
        pass
    assert str(refused.value).splitlines()[1:] == ["  n: 8 -> 16", "  old: true -> not set", "  new: not set -> [1]"]
    assert "--restart" in str(refused.value.hint)
    assert out.read_bytes() == before
    assert len(copy_all(stream(source, out, {"n": 16}, restart=True))) == 5
    assert copy_all(stream(source, out, {"n": 16})) == []


def test_what_is_no_output_of_this_command_is_not_touched(source: Path, out: Path) -> None:
    """A thesis; a state that is broken; lines edited by hand; and `clinic > o` between two `sample -o o`, which said
    "40 done before" when o held bare problems."""

    def refused(match: str) -> None:
        before = out.read_text()
        with pytest.raises(UsageError, match=match), stream(source, out):
            pass
        assert out.read_text() == before

    out.write_text("years of work\n")
    refused("not empty")
    out.with_name(".out.jsonl.medsss").write_text("{}")
    refused("cannot use")
    copy_all(stream(source, out, restart=True))
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0] + "edited by hand\n" + lines[2])
    refused(r"out.jsonl:2: not a record of `test`")
    write_jsonl(out, problems(3))
    refused(r"out\.jsonl:1: not a record of `test`")


def test_a_second_process_is_refused(source: Path, out: Path) -> None:
    with stream(source, out):
        done = echo(source, "-o", out, "--restart")
        assert done.rc == 2
        assert "is being written by another process" in done.stderr
    assert len(copy_all(stream(source, out))) == 5


def test_outputs_that_are_no_files(tmp_path: Path, source: Path) -> None:
    """The descriptor behind /dev/stdout is stderr while a command runs, and its state would have stood in /dev."""
    assert len(echo(source, "-o", "/dev/stdout").records) == 5
    assert echo(source, "-o", "/dev/null").rc == 0
    assert not list(Path("/dev").glob(".*.medsss"))
    full = echo(source, "-o", "/dev/full")
    assert (full.rc, full.stderr) == (1, "medsss: cannot write to /dev/full: No space left on device\n")
    for path, message in (
        ("/sys/out.jsonl", "medsss: cannot write -o /sys/out.jsonl: "),  # where not even root may
        (tmp_path / "no" / "out.jsonl", "No such file"),
        (tmp_path / "out.jsonl.zst", "outputs are not packed"),
    ):
        done = echo(source, "-o", path)
        assert (done.rc, message in done.stderr) == (2, True)
    for path, message in (("nowhere.jsonl", "nowhere.jsonl: No such file"), ("", "it is a folder")):
        done = echo(source, tmp_path / path, "-o", tmp_path / "out.jsonl")
        assert (done.rc, done.stdout, message in done.stderr) == (2, "", True)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_errors_are_those_of_the_last_run_and_replace_nothing_else(tmp_path: Path) -> None:
    lines = to_lines(problems(2, "fail"))
    for _ in range(2):
        assert echo("-o", tmp_path / "out.jsonl", "--errors", tmp_path / "e.jsonl", stdin=lines).rc == 1
        assert [error["id"] for error in read_jsonl(tmp_path / "e.jsonl")] == ["p0", "p1"]
    notes = tmp_path / "notes.txt"
    notes.write_text("years of work\n")
    done = echo("--errors", notes, stdin=lines)
    assert (done.rc, "holds something else" in done.stderr, notes.read_text()) == (2, True, "years of work\n")


@pytest.mark.parametrize("restart", [[], ["--restart"]])
def test_wrong_usage_found_late_leaves_everything_as_it_was(tmp_path: Path, restart: list[str]) -> None:
    """A policy that does not exist is found when it is opened, after the output is. `search --policy nosuch -o z` left
    z and its state behind, and with --restart it would have emptied the z of yesterday."""
    usage, good = (write_jsonl(tmp_path / f"{name}.jsonl", problems(3, name)) for name in ("usage", "q"))
    out, errors = tmp_path / "z", tmp_path / "e"
    before = sorted(path.name for path in tmp_path.iterdir())
    args = ["-o", out, "--errors", errors, "--concurrency", 2, *restart]
    refused = echo(usage, *args)
    assert (refused.rc, refused.stdout, refused.stderr) == (2, "", "medsss: told to be wrong\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    fail = write_jsonl(tmp_path / "fail.jsonl", problems(9, "fail")[3:])
    assert echo(good, fail, *args).rc == 1
    kept = {path: path.read_bytes() for path in (out, errors, tmp_path / ".z.medsss")}
    assert echo(write_jsonl(usage, problems(99, "usage")[50:]), *args).rc == 2
    assert {path: path.read_bytes() for path in kept} == kept


# A part of the input


def test_limit_0_checks_and_counts_and_leaves_nothing(source: Path, out: Path, tmp_path: Path) -> None:
    """For a login node, which has no GPU: a policy that cannot be opened is no matter there."""
    source.write_text(to_lines(problems(20, "usage")) + "{\n")
    done = echo(source, "--limit", 0, "-o", out, "--errors", tmp_path / "e", "--concurrency", 2)
    assert done.rc == 1
    assert "echo: 20 records to do, 1 bad line" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    write_jsonl(source, problems(20))
    assert echo(source, "--limit", 4, "-o", out).rc == 0
    before = out.read_bytes()
    done = echo(source, "--limit", 0, "-o", out)
    assert (done.rc, out.read_bytes()) == (0, before)
    assert "echo: 16 records to do, 4 done before" in done.stderr
    refused = echo(source, "--limit", 0, "-o", out, "--seed", 2)
    assert (refused.rc, "seed: 0 -> 2" in refused.stderr) == (2, True)


def test_a_limit_says_what_the_rest_would_take(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(source, problems(1000))

    async def work(problem: Problem) -> list[Samples]:
        return [Samples(**problem_fields(problem), responses=[Response(text="x", tokens=30)] * 4, pass_rate=0.0)]

    run_all(stream(source, limit=10, quiet=False), work, 2)
    said = capsys.readouterr().err
    assert re.search(
        r"test: the input files hold 990 more, which would take about \d+:\d\d:\d\d and 120,000 tokens\n", said
    )
    assert "more" not in echo("--limit", 5, stdin=to_lines(problems(9))).stderr
    assert "more" not in echo(source, "--limit", 1000).stderr


def test_what_a_run_has_to_do_is_known_beforehand_where_the_input_is_a_file(source: Path, out: Path) -> None:
    """A wrong total would show a day-long search a wrong time left: what is done, and what others do, is not to do."""
    write_jsonl(source, problems(40))
    copy_all(stream(source, out, limit=30))
    for options, wanted in (({}, 40), ({"limit": 7}, 7), ({"shard": Shard(1, 4)}, 10), ({"out": out}, 10)):
        with stream(source, quiet=False, **options) as run:
            assert run.expected() == wanted


# Many in flight


def run_all(run: Stream[Problem], work: Any, concurrency: int) -> None:
    with run:
        asyncio.run(run_concurrently(run, work, stage="test", concurrency=concurrency))


def test_no_barrier_behind_a_straggler(source: Path, out: Path) -> None:
    """One record waits until all the others are written: with a barrier anywhere this would never end. And input is
    read no faster than it is worked on."""
    write_jsonl(source, problems(40))
    run = stream(source, out)
    ahead: list[int] = []

    async def work(problem: Problem) -> list[dict[str, Any]]:
        while problem.id == "p0" and run.written < 39:
            await asyncio.sleep(0.001)
        ahead.append(run.read - run.written)
        return [{"id": problem.id}]

    run_all(run, work, 2)
    assert [line["id"] for line in read_jsonl(out)] == [f"p{k}" for k in (*range(1, 40), 0)]
    assert 1 <= max(ahead) <= 2


def test_ordered_keeps_the_order_within_bounded_room(source: Path, out: Path) -> None:
    """A straggler at the head holds the others back when AHEAD times as many as run at once are waiting for it."""
    write_jsonl(source, problems(100))
    begun: list[str] = []

    async def work(problem: Problem) -> list[dict[str, Any]]:
        begun.append(problem.id)
        if problem.id == "p0":
            while len(begun) < 3 * AHEAD:
                await asyncio.sleep(0.001)
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert len(begun) == 3 * AHEAD
        if problem.id == "p50":
            raise EngineError("no luck")
        return [{"id": problem.id}]

    run = stream(source, out, ordered=True)
    run_all(run, work, 3)
    assert [line["id"] for line in read_jsonl(out)] == [f"p{k}" for k in range(100) if k != 50]
    assert run.faults.failed == 1


@pytest.mark.parametrize("ordered", [False, True])
def test_what_is_no_error_of_one_record_ends_the_run(source: Path, ordered: bool) -> None:
    async def work(problem: Problem) -> Sequence[dict[str, Any]]:
        if problem.id == "p4":
            raise ZeroDivisionError
        await asyncio.sleep(3600)
        return []

    with pytest.raises(ZeroDivisionError):
        run_all(stream(source, ordered=ordered), work, 8)


def test_a_result_that_json_cannot_say_is_a_failure(source: Path) -> None:
    async def work(problem: Problem) -> list[dict[str, Any]]:
        return [{"id": problem.id, "text": {"p0": "\ud800", "p1": 1 << 70, "p2": object()}.get(problem.id)}]

    run = stream(source)
    run_all(run, work, 2)
    assert (run.written, run.faults.failed) == (2, 3)


# How a run ends


def start(*args: object, command: list[str] = PROGRAM, **pipes: Any) -> Any:
    three = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([*command, *(str(arg) for arg in args)], **three, env=clean_env(), **pipes)


def wait_for_lines(path: Path, count: int) -> None:
    while not (path.exists() and path.read_bytes().count(b"\n") >= count):
        time.sleep(0.01)


def wait_until_asleep(child: subprocess.Popen[bytes]) -> None:
    """Until it waits in the kernel, for a line to read or for room to write."""
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("signum", "concurrency", "ignored"),
    [
        (signal.SIGINT, [], False),
        (signal.SIGINT, ["--concurrency", 4], False),
        (signal.SIGTERM, [], True),
        (signal.SIGTERM, ["--concurrency", 4], True),
    ],
)
def test_interrupted_while_it_waits_for_input(signum: int, concurrency: list[object], ignored: bool) -> None:
    """The pipe stays open, so a reader that cannot be left behind would hang here. In the background of a script
    SIGINT is ignored, and SIGTERM must end the run all the same."""
    ignore = (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None
    with start(*concurrency, preexec_fn=ignore) as child:
        child.stdin.write(to_lines(problems(1)).encode())
        child.stdin.flush()
        assert json.loads(child.stdout.readline())["id"] == "p0"
        wait_until_asleep(child)
        child.send_signal(signum)
        assert child.wait() == 128 + signum
        assert child.stderr.read() == (b"medsss: interrupted\n" if signum == signal.SIGINT else b"medsss: terminated\n")


def test_interrupted_amid_a_long_line_finishes_the_line() -> None:
    """The line is longer than a pipe holds, so the interrupt comes while half of it is out: the signal is there before
    the pipe has room again."""
    with start("--pad", 1 << 20) as child:
        child.stdin.write(to_lines(problems(3)).encode())
        child.stdin.flush()
        begun = child.stdout.read(10)
        wait_until_asleep(child)
        child.send_signal(signal.SIGINT)
        rest = child.stdout.read()
        assert child.wait() == 130
    assert [json.loads(line)["id"] for line in (begun + rest).splitlines()] == ["p0"]


@pytest.mark.parametrize("concurrency", [[], ["--concurrency", "16"]])
def test_a_reader_that_goes_away_ends_it_quietly(source: Path, concurrency: list[str]) -> None:
    write_jsonl(source, problems(20000))
    with start(source, *concurrency) as child:
        child.stdout.readline()
        child.stdout.close()
        assert child.wait() == 0
        assert child.stderr.read() == b""


def test_closed_descriptors(source: Path) -> None:
    def shell(redirect: str) -> subprocess.CompletedProcess[str]:
        command = " ".join([*PROGRAM, str(source), redirect])
        return subprocess.run(command, shell=True, capture_output=True, text=True, env=clean_env(), timeout=120)

    assert (closed := shell(">&-")).returncode == 2
    assert "standard output is closed" in closed.stderr
    assert len(shell("2>&-").stdout.splitlines()) == 5
    assert shell("- <&-").returncode == 2


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Three that take half a minute each, then three that are done at once while those are in flight."""
    return write_jsonl(tmp_path / "in.jsonl", [*problems(6, "slow")[3:], *problems(3), *problems(9, "slow")[6:]])


def test_a_signal_lets_what_is_in_flight_finish_and_takes_no_more(source: Path, out: Path) -> None:
    """Of 200 records, most of a minute's work, the rest is not begun, and those that are done are said."""
    write_jsonl(source, problems(200))
    with start(source, "-o", out, "--concurrency", 4, "--pause", 2) as child:
        wait_for_lines(out, 2)
        child.send_signal(signal.SIGINT)
        assert child.wait() == 130
        said = child.stderr.read().decode()
    done = read_jsonl(out)
    assert 2 <= len(done) < 200
    assert "in flight have 5 s to finish; once more stops at once" in said
    assert f"{len(done)} done; the same command line goes on with {out}" in said
    assert said.endswith("medsss: interrupted\n")


def test_a_signal_gives_up_what_takes_longer(slow: Path, out: Path) -> None:
    """SLURM's warning comes half a minute before the kill: what takes longer must not keep the rest from its end."""
    with start(slow, "-o", out, "--concurrency", 4) as child:
        wait_for_lines(out, 3)
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 143  # what is slow takes half a minute, and five more begin after these
        said = child.stderr.read().decode()
    assert "in flight have 5 s to finish" in said
    assert "3 done; the same command line goes on with" in said
    assert said.endswith("medsss: terminated\n")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(slow: Path, out: Path, signum: int) -> None:
    with start(slow, "-o", out, "--concurrency", 4) as child:
        wait_for_lines(out, 3)
        child.send_signal(signum)
        assert b"stopping" in child.stderr.readline()
        child.send_signal(signum)
        assert child.wait() == 128 + signum
        assert child.stderr.read() == b"\nmedsss: stopped at once\n"
    assert [line["id"] for line in read_jsonl(out)] == ["p0", "p1", "p2"]
    write_jsonl(slow, problems(9))
    assert "9 read, 6 done, 3 done before" in echo(slow, "-o", out).stderr


def test_a_signal_to_a_command_without_asyncio(out: Path) -> None:
    """`label` works record by record in one thread; its output is whole and it says how to go on."""
    with start("--to", "sft", "-", "-o", out, command=program("label")) as child:
        child.stdin.write(to_lines(tree_record(id=f"t{k}") for k in range(3)).encode())
        child.stdin.flush()
        wait_for_lines(out, 6)
        child.send_signal(signal.SIGINT)
        assert child.wait() == 130
        said = child.stderr.read().decode()
    assert len({line["id"] for line in read_jsonl(out)}) == 3
    assert f"3 done; the same command line goes on with {out}" in said
    assert "Traceback" not in said
