"""Ctrl-C and SIGTERM, once and twice, sent to real processes amid their work."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import clean_env, program, read_jsonl, run_medsss, to_lines, write_jsonl
from stream_program import PROGRAM, problems
from trees import record as tree_record


def begin(*args: object) -> Any:
    return subprocess.Popen([str(arg) for arg in args], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env())


def wait_for_lines(path: Path, count: int) -> None:
    while not (path.exists() and path.read_bytes().count(b"\n") >= count):
        time.sleep(0.01)


def test_once_lets_what_is_in_flight_finish_and_takes_no_more(tmp_path: Path) -> None:
    """Of 200 records, most of a minute's work, the rest is not begun, and those that are done are said."""
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(200)), tmp_path / "out.jsonl"
    with begin(*PROGRAM, source, "-o", out, "--concurrency", 4, "--pause", 2) as child:
        wait_for_lines(out, 2)
        child.send_signal(signal.SIGINT)
        assert child.wait() == 130
        said = child.stderr.read().decode()
    done = read_jsonl(out)
    assert 2 <= len(done) < 200
    assert "in flight have 5 s to finish; once more stops at once" in said
    assert f"{len(done)} done; the same command line goes on with {out}" in said
    assert said.endswith("medsss: interrupted\n")


def test_once_gives_up_what_takes_longer(tmp_path: Path) -> None:
    """SLURM's warning comes half a minute before the kill: what takes longer must not keep the rest from its end."""
    source = write_jsonl(tmp_path / "in.jsonl", [*problems(3), *problems(9, "slow")[3:]])
    out = tmp_path / "out.jsonl"
    with begin(*PROGRAM, source, "-o", out, "--concurrency", 4) as child:
        wait_for_lines(out, 3)
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 143  # what is slow takes half a minute, and five more begin after these
        said = child.stderr.read().decode()
    assert "in flight have 5 s to finish" in said
    assert "3 done; the same command line goes on with" in said
    assert said.endswith("medsss: terminated\n")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_twice_stops_at_once(tmp_path: Path, signum: int) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*problems(3), *problems(9, "slow")[3:]])
    out = tmp_path / "out.jsonl"
    with begin(*PROGRAM, source, "-o", out, "--concurrency", 4) as child:
        wait_for_lines(out, 3)
        child.send_signal(signum)
        assert b"stopping" in child.stderr.readline()
        child.send_signal(signum)
        assert child.wait() == 128 + signum
        assert child.stderr.read() == b"\nmedsss: stopped at once\n"
    assert [line["id"] for line in read_jsonl(out)] == ["p0", "p1", "p2"]
    write_jsonl(source, problems(9))
    assert "9 read, 6 done, 3 done before" in run_medsss(["echo", source, "-o", out]).stderr


def test_a_command_without_asyncio(tmp_path: Path) -> None:
    """`label` works record by record in one thread; its output is whole and it says how to go on."""
    out = tmp_path / "sft.jsonl"
    with begin(*program("label", "--to", "sft", "-", "-o", out)) as child:
        child.stdin.write(to_lines(tree_record(id=f"t{k}") for k in range(3)).encode())
        child.stdin.flush()
        wait_for_lines(out, 6)
        child.send_signal(signal.SIGINT)
        assert child.wait() == 130
        said = child.stderr.read().decode()
    assert len({line["id"] for line in read_jsonl(out)}) == 3
    assert f"3 done; the same command line goes on with {out}" in said
    assert "Traceback" not in said
