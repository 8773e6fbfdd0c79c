"""The run loop: shards, resume, failures, many in flight. The hard cases run as real processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from helpers import clean_env, read_jsonl, to_lines, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from medsss_cli.errors import BadRecord, EngineError, MedsssError, UsageError
from medsss_cli.records import Problem, parse
from medsss_cli.stream.jsonl import Where, read_objects
from medsss_cli.stream.run import AHEAD, Shard, Stream, StreamOptions, _Causes, digest, run_concurrently

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


def echo(*args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *(str(arg) for arg in args)],
        input=stdin,
        capture_output=True,
        text=True,
        env=clean_env(),
        timeout=60,
    )


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
    assert child.wait(20) == 0


def test_the_second_record_of_an_id_is_a_bad_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(2) + problems(1))
    run = stream(inputs=[source], output=tmp_path / "out.jsonl")
    assert copy_all(run) == ["p0", "p1"]
    assert run.counts.bad_lines == 1
    assert run.exit_code() == 1
    assert f"{source}:3: the id 'p0' came before" in capsys.readouterr().err


def test_bad_lines_are_reported_counted_and_skipped(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(to_lines(problems(1)) + '{"id":\n{"id": "x"}\n' + to_lines(problems(3)[2:]))
    done = echo(source, "--errors", tmp_path / "errors.jsonl")
    assert done.returncode == 1
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["p0", "p2"]
    assert f"{source}:2: not JSON" in done.stderr
    assert f"{source}:3: not a problem record: Object missing required field `question`" in done.stderr
    errors = read_jsonl(tmp_path / "errors.jsonl")
    assert [(error["id"], error["stage"]) for error in errors] == [(f"{source}:2", "read"), (f"{source}:3", "read")]


@pytest.mark.parametrize("concurrency", [[], ["--concurrency", "3"]])
def test_strict_stops_at_the_first_bad_line(tmp_path: Path, concurrency: list[str]) -> None:
    done = echo("--strict", *concurrency, stdin=to_lines(problems(2)) + "{\n" + to_lines(problems(9)[5:]))
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.startswith("medsss: stdin:3: not JSON")


@pytest.mark.parametrize("concurrency", [[], ["--concurrency", "3"]])
def test_a_record_that_fails_does_not_end_the_run(tmp_path: Path, concurrency: list[str]) -> None:
    lines = to_lines([*problems(2), {"id": "bad", "question": "fail", "answer": ""}])
    done = echo(*concurrency, "--errors", tmp_path / "e.jsonl", stdin=lines)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert read_jsonl(tmp_path / "e.jsonl") == [{"id": "bad", "error": "told to fail", "stage": "echo"}]
    assert "3 read, 2 done, 1 failed" in done.stderr
    assert "bad: echo: told to fail" in echo(*concurrency, stdin=lines).stderr
    assert echo("--strict", *concurrency, stdin=lines).returncode == 1


def test_failures_are_put_together_by_cause(tmp_path: Path) -> None:
    """Of a thousand failures overnight the summary says the two or three reasons; numbers and quotations do not make a
    reason."""
    causes = _Causes()
    for tokens in range(500, 800):
        causes.add("search", f"a prompt of {tokens} tokens and id 'p{tokens}' is too long\nfor this model")
    causes.add("read", "not JSON: it doesn't end here, it isn't whole")
    causes.add("search", "the server said `busy`")
    assert causes.lines() == [
        "300 x search: a prompt of 500 tokens and id 'p500' is too long",
        "1 x read: not JSON: it doesn't end here, it isn't whole",
        "1 x search: the server said `busy`",
    ]
    for word in ("".join(letters) for letters in itertools.permutations("abcdef", 4)):
        causes.add("search", word)
    assert len(causes.lines()) == _Causes.SHOWN + 1
    assert sum(int(line.split()[0]) for line in causes.lines()) == 302 + 360


def test_the_end_says_what_failed_and_why(tmp_path: Path) -> None:
    lines = to_lines([*problems(2), *({"id": f"bad{k}", "question": "fail", "answer": ""} for k in range(3))]) + "{\n"
    for more in ([], ["--concurrency", 3]):
        said = echo(*more, "--errors", tmp_path / "e.jsonl", stdin=lines).stderr.splitlines()
        assert re.fullmatch(r"medsss: echo: 5 read, 2 done, 3 failed, 1 bad lines; took 0:00:0\d", said[-3])
        assert said[-2:] == ["medsss:   3 x echo: told to fail", "medsss:   1 x read: " + said[0].partition(": ")[2]]


@pytest.mark.parametrize("concurrency", [[], ["--concurrency", "3"]])
def test_verbose_shows_where_a_failure_arose(concurrency: list[str]) -> None:
    done = echo(*concurrency, "-v", stdin=to_lines(problems(1, "fail")))
    assert done.returncode == 1
    assert "p0: echo:\nTraceback (most recent call last):" in done.stderr
    assert 'raise BadRecord("told to fail")' in done.stderr
    assert "Traceback" not in echo(*concurrency, stdin=to_lines(problems(1, "fail"))).stderr


def test_wrong_usage_within_a_record_ends_the_run() -> None:
    done = echo("--concurrency", "3", stdin=to_lines(problems(3, "usage")))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "medsss: told to be wrong\n")


@pytest.mark.parametrize("concurrency", [[], ["--concurrency", "3"]])
def test_empty_input_is_no_failure(concurrency: list[str]) -> None:
    done = echo(*concurrency)
    assert (done.returncode, done.stdout) == (0, "")
    assert "the input holds no record" in done.stderr
    assert echo(*concurrency, "-q").stderr == ""


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    done = echo(tmp_path / "nowhere.jsonl", "-o", tmp_path / "out.jsonl")
    assert done.returncode == 2
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


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("lines", [1, 3])
def test_a_finished_run_is_left_alone(tmp_path: Path, ending: str, lines: int) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(5)), tmp_path / f"out.{ending}"
    copy_all(stream(inputs=[source], output=out), lines)
    before = out.read_bytes()
    again = stream(inputs=[source], output=out)
    assert copy_all(again, lines) == []
    assert again.counts.skipped_done == 5
    assert out.read_bytes() == before
    write_jsonl(source, problems(7))
    assert copy_all(stream(inputs=[source], output=out), lines) == ["p5", "p6"]
    assert [line["id"] for line in written(out)] == [f"p{k}" for k in range(7) for _ in range(lines)]


def written(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    match path.suffix:
        case ".gz":
            data = gzip.decompress(data)
        case ".zst":
            with zstandard.open(path, "rb", dctx=zstandard.ZstdDecompressor()) as _:
                pass
            data = b"".join(_frames(data))
    return [json.loads(line) for line in data.splitlines()]


def _frames(data: bytes) -> Iterator[bytes]:
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        yield frame.decompress(data)
        assert frame.eof, "the last frame is cut"
        data = frame.unused_data


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


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("cut", [1, 7, 20, 40])
def test_a_torn_last_line_is_done_again(tmp_path: Path, ending: str, cut: int) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(5)), tmp_path / f"out.{ending}"
    copy_all(stream(inputs=[source], output=out))
    out.write_bytes(out.read_bytes()[:-cut])
    again = copy_all(stream(inputs=[source], output=out))
    assert [line["id"] for line in written(out)] == [p["id"] for p in problems(5)]
    if ending == "jsonl":
        assert again == (["p4"] if cut < 22 else ["p3", "p4"])


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_a_group_that_may_be_there_in_part_is_done_again(tmp_path: Path, ending: str) -> None:
    """Lines p3.0 and p3.1 are whole, p3.2 is missing: nothing in the file says so but the sidecar's `several_lines`."""
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(4)), tmp_path / f"out.{ending}"
    copy_all(stream(inputs=[source], output=out), 3)
    kept = b"".join(json.dumps(line).encode() + b"\n" for line in written(out)[:-1])
    pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstandard.ZstdCompressor().compress}[ending]
    out.write_bytes(pack(kept))
    assert copy_all(stream(inputs=[source], output=out), 3) == ["p3"]
    assert [(line["id"], line["copy"]) for line in written(out)] == [(f"p{k}", c) for k in range(4) for c in range(3)]


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


def test_the_program_refuses_another_configuration_with_exit_2(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(3)), tmp_path / "out.jsonl"
    assert echo(source, "-o", out, "--seed", 1).returncode == 0
    done = echo(source, "-o", out, "--seed", 2)
    assert done.returncode == 2
    assert "seed: 1 -> 2" in done.stderr
    assert echo(source, "-o", out, "--seed", 2, "--restart").returncode == 0


def test_a_file_that_is_not_ours_is_not_touched(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(3)), tmp_path / "thesis.txt"
    out.write_text("years of work\n")
    with pytest.raises(UsageError, match="not empty"), stream(inputs=[source], output=out):
        pass
    (tmp_path / "thesis.txt.run.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot use"), stream(inputs=[source], output=out):
        pass
    assert out.read_text() == "years of work\n"


def test_a_broken_line_amid_whole_ones_is_not_cut_off(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(3)), tmp_path / "out.jsonl"
    copy_all(stream(inputs=[source], output=out))
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0] + "edited by hand\n" + lines[2])
    with pytest.raises(UsageError, match=r"out.jsonl:2: not a record of ours"), stream(inputs=[source], output=out):
        pass
    assert "edited by hand" in out.read_text()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(3)), tmp_path / "out.jsonl"
    with stream(inputs=[source], output=out):
        done = echo(source, "-o", out, "--restart")
        assert done.returncode == 2
        assert "is being written by another process" in done.stderr
    assert copy_all(stream(inputs=[source], output=out)) == ["p0", "p1", "p2"]


def test_an_output_that_is_the_input_is_refused(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(3))
    (tmp_path / "link.jsonl").symlink_to(source)
    for options in (
        {"output": source},
        {"output": tmp_path / "link.jsonl"},
        {"errors": str(source)},
        {"output": tmp_path / "o", "errors": str(tmp_path / "o")},
    ):
        with pytest.raises(UsageError, match="are the same file"):
            stream(inputs=[source], **options)
    assert len(read_jsonl(source)) == 3


def test_an_output_that_is_no_file(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(3))
    assert len(copy_all(stream(inputs=[source], output="/dev/null"))) == 3
    assert not Path("/dev/null.run.json").exists()
    with pytest.raises(UsageError, match="No such file"), stream(inputs=[source], output=tmp_path / "no" / "out.jsonl"):
        pass


def test_errors_are_those_of_the_last_run(tmp_path: Path) -> None:
    lines = to_lines(problems(2, "fail"))
    for _ in range(2):
        assert echo("-o", tmp_path / "out.jsonl", "--errors", tmp_path / "e.jsonl", stdin=lines).returncode == 1
        assert [error["id"] for error in read_jsonl(tmp_path / "e.jsonl")] == ["p0", "p1"]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("lines", [1, 3])
def test_kill_9_loses_nothing_and_doubles_nothing(tmp_path: Path, ending: str, lines: int) -> None:
    """A real process is killed again and again at moments drawn by chance, then let finish. What stood in the file
    after a kill is still there at the end, from the same process; only the last group may have been done again, and
    only where groups have several lines."""
    count = 1500
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(count)), tmp_path / f"out.{ending}"
    args = [*PROGRAM, str(source), "-o", str(out), "--copies", str(lines), "--pad", "3000", "--pause", "0.02", "--pid"]
    draw = random.Random(f"{ending}{lines}")
    survived: list[tuple[str, int, int]] = []
    for concurrency in ("1", "8", "8"):
        child = subprocess.Popen([*args, "--concurrency", concurrency], env=clean_env(), stderr=subprocess.DEVNULL)
        start = out.stat().st_size if out.exists() else 0
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not (out.exists() and out.stat().st_size > start):
            time.sleep(0.01)
        time.sleep(draw.random() * 0.2)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        standing = [
            (line["id"], line["copy"], line["pid"]) for _, line in read_objects([str(out)], on_bad=lambda *_: None)
        ]
        assert standing
        if lines > 1:
            standing = [line for line in standing if line[0] != standing[-1][0]]
        survived += standing
    done = echo(*args[3:], "--concurrency", "64")
    assert done.returncode == 0, done.stderr
    seen = Counter((line["id"], line["copy"]) for line in written(out))
    assert seen == Counter((f"p{k}", c) for k in range(count) for c in range(lines))
    assert set(survived) <= {(line["id"], line["copy"], line["pid"]) for line in written(out)}
    ids = [line["id"] for line in written(out)]
    assert all(ids[k : k + lines] == [ids[k]] * lines for k in range(0, len(ids), lines))
    assert " done before" in done.stderr


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
    assert run.counts.failed == 1


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


@pytest.mark.parametrize("ordered", [False, True])
def test_what_is_no_error_of_one_record_ends_the_run(tmp_path: Path, ordered: bool) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(50))

    async def work(problem: Problem) -> Sequence[dict[str, Any]]:
        if problem.id == "p5":
            raise ZeroDivisionError
        await asyncio.sleep(5)
        return []

    start = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        run_all(stream(inputs=[source], output=tmp_path / "o", ordered=ordered), work, 8)
    assert time.monotonic() - start < 4


def test_a_result_that_json_cannot_say_is_a_failure(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(2))

    async def work(problem: Problem) -> list[dict[str, Any]]:
        return [{"id": problem.id, "text": "\ud800" if problem.id == "p0" else ""}]

    run = stream(inputs=[source], output=tmp_path / "o")
    run_all(run, work, 2)
    assert (run.counts.written, run.counts.failed) == (1, 1)


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
        assert child.wait(10) == 128 + signum
        assert child.stderr.read() == (b"medsss: interrupted\n" if signum == signal.SIGINT else b"medsss: terminated\n")


def test_interrupted_amid_work_leaves_whole_lines_and_can_go_on(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", [*problems(20), problems(30, "slow")[29]]), tmp_path / "out.jsonl"
    with start(source, "-o", out, "--concurrency", 4) as child:
        while not (out.exists() and out.read_bytes().count(b"\n") == 20):
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130
        assert child.stderr is not None
        assert b"20 done; the same command line goes on with" in child.stderr.read()
    assert [line["id"] for line in read_jsonl(out)] == [f"p{k}" for k in range(20)]
    write_jsonl(source, problems(30))
    done = echo(source, "-o", out)
    assert "30 read, 10 done, 20 done before" in done.stderr


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
        assert child.wait(10) == 130
    assert [json.loads(line)["id"] for line in (begun + rest).splitlines()] == ["p0"]


@pytest.mark.parametrize("concurrency", [[], ["--concurrency", "16"]])
def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path, concurrency: list[str]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(20000))
    with start(source, *concurrency) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.wait(20) == 0
        assert child.stderr.read() == b""


def test_closed_descriptors(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(2))

    def shell(redirect: str) -> subprocess.CompletedProcess[str]:
        command = " ".join([*PROGRAM, str(source), redirect])
        return subprocess.run(command, shell=True, capture_output=True, text=True, env=clean_env(), timeout=60)

    assert (closed := shell(">&-")).returncode == 2
    assert "standard output is closed" in closed.stderr
    assert len(shell("2>&-").stdout.splitlines()) == 2
    assert shell("- <&-").returncode == 2


def test_a_disk_that_is_full_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    done = echo("-o", "/dev/full", stdin=to_lines(problems(2)))
    assert done.returncode == 1
    assert done.stderr == "medsss: cannot write to /dev/full: No space left on device\n"


# What people see


def test_control_characters_of_an_id_do_not_reach_the_terminal() -> None:
    done = echo(stdin=to_lines([{"id": "\x1b[31mred", "question": "fail", "answer": ""}]))
    assert "\x1b" not in done.stderr
    assert "\\x1b[31mred: echo: told to fail" in done.stderr


def test_progress_is_a_live_line_on_a_terminal_alone(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", problems(30))
    plain = echo(source, "--pause", 0.02)
    assert re.fullmatch(r"medsss: echo: 30 read, 30 done; took 0:00:0\d\n", plain.stderr)
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
    assert child.wait(10) == 0
    assert b"\r\x1b[Kecho 30 | 0:00:0" in shown
    assert re.search(rb"\nmedsss: echo: 30 read, 30 done; took 0:00:0\d\r\n$", shown)


def test_digest_is_stable() -> None:
    assert digest("p0") == digest("p0") != digest("p1")
    assert digest("\ud800") >= 0
    assert issubclass(BadRecord, MedsssError)


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
