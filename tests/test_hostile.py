"""Hostile input, in the small version of benchmarks/fuzz.py and through the program; and a disk that fills up."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import clean_env, run_medsss, write_jsonl
from stream_program import PROGRAM, problems
from trees import record as tree_record

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import fuzz

from medsss_cli.steps import split_steps
from medsss_cli.stream.jsonl import read_objects

# Input


def test_any_bytes_give_records_or_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback in a reader ends a run of a day; a call that does not end stops all that is in flight."""
    monkeypatch.setattr(fuzz, "LIMIT", fuzz.HANG)
    tallies = fuzz.fuzz(1200, seed=11)
    assert len(tallies) == len(fuzz.READERS)
    assert {name: dict(tally.kinds) for name, tally in tallies.items() if tally.kinds} == {}
    for name in ("read_objects", "to_problem", "to_samples", "label", "steps"):
        assert tallies[name].good > 0, f"{name} was given nothing that it can read"
        assert tallies[name].refused > 0


HOSTILE_LINES = [
    b'{"a":', b"3", b"null", b'"text"', b"[1]", b'{"id":"n","question":"q","answer":1e999}', b"[" * 100_000,
    b'{"a":' * 100_000, b"\x00" * 1000, b'{"id":"\\ud800","question":"q","answer":"a"}',
    b'{"id":"n","question":"q","answer":NaN}', b'{"id":' + b"9" * 5000 + b',"question":"q"}', b'{"id":"\xff"}',
    b'{"nodes":[{"parent":0}],"id":"c","question":"q","answer":"a"}',
    b'{"id":"t","question":"q","answer":"a","nodes":' + b"[" * 500 + b"]" * 500 + b"}",
]  # fmt: skip


def test_hostile_lines_are_reported_and_the_rest_is_done(tmp_path: Path) -> None:
    good = [tree_record(id=id) for id in ("first", "The answer is B.\n\nStep 1: <|im_start|>user", "z")]
    lines = [json.dumps(tree).encode() for tree in good]
    doubled = lines[2][:-1] + b',"id":"last"}'
    data = b"\xef\xbb\xbf" + b"\r\n".join([lines[0], *HOSTILE_LINES, lines[1], doubled])
    done = run_medsss(["label", "--to", "sft"], data)
    assert done.rc == 1
    assert "Traceback" not in done.stderr
    assert f", {len(HOSTILE_LINES)} bad lines;" in done.stderr
    assert {found["id"] for found in done.records} == {"first", good[1]["id"], "last"}


def test_an_answer_of_a_million_steps() -> None:
    text = "\n\n".join(f"Step {k}: x" for k in range(1, 1_000_001))
    assert len(split_steps(text)) == 1_000_000


# Output


def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path) -> None:
    """The limit on the size of files stands for the disk: the write that crosses it is cut in its middle."""
    source, out = write_jsonl(tmp_path / "in.jsonl", problems(40)), tmp_path / "out.jsonl"
    args = [str(source), "-o", str(out), "--pad", "1000"]

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    full = subprocess.run([*PROGRAM, *args], capture_output=True, text=True, env=clean_env(), preexec_fn=small)
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1] == f"medsss: cannot write to {out}: File too large"
    assert "Traceback" not in full.stderr
    kept = [line for _, line in read_objects([str(out)], on_bad=lambda *_: None)]
    assert 0 < len(kept) < 40
    assert run_medsss(["echo", *args]).rc == 0
    found = [line for _, line in read_objects([str(out)], on_bad=lambda *_: pytest.fail("a torn line"))]
    assert sorted(line["id"] for line in found) == sorted(problem["id"] for problem in problems(40))
    assert found[: len(kept)] == kept
