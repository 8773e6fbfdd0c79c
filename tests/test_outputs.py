"""No output of any command replaces an input, a file of errors, or what somebody else wrote: the real program."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers import clean_env, problem, program, read_jsonl, run_medsss, to_lines, write_jsonl
from trees import record as tree

from medsss_cli.errors import UsageError
from medsss_cli.stream.outputs import open_whole


def samples(k: int, text: str = "Step 1: It is above 5.0. The answer is B.") -> dict[str, Any]:
    answer = text[-2]
    verdict = "correct" if answer == "B" else "wrong"
    response = {"text": text, "answer": answer, "verdict": verdict, "tokens": 9}
    return problem(k) | {"responses": [response], "pass_rate": float(verdict == "correct")}


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    """A policy without a model."""
    lines = [{"match": "", "texts": [" 6.1 is above 5.0. The answer is B."]}]
    return ["--engine", f"scripted:{write_jsonl(tmp_path / 'script.jsonl', lines)}"]


def command(name: str, script: list[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """A command line without its input, and records that it reads."""
    problems = [problem(k) for k in range(3)]
    answers = [samples(k, "The answer is A.") for k in range(3)]
    scored = [
        problem(k) | {"candidates": [{"text": "B", "step_scores": [0.5], "score": 0.5}], "selected": 0, "strategy": "m"}
        for k in range(3)
    ]
    return {
        "load": (["load"], problems),
        "sample": (["sample", "-n", "1", *script], problems),
        "curriculum": (["sample", "--curriculum", "2"], answers),
        "search": (["search", "--max-nodes", "4", "--rollouts", "1", "--min-rollouts", "1", *script], problems),
        "label": (["label", "--to", "sft"], [tree(id=f"t{k}") for k in range(3)]),
        "bon": (["bon"], scored),
        "eval": (["eval"], answers),
        "check": (["clinic", "--check"], []),
        "view": (["view", "--html"], answers),
    }[name]


WHOLE = ["load", "curriculum", "eval", "view"]
GROWING = ["sample", "search", "label", "bon"]


@pytest.mark.parametrize("name", [*WHOLE, *GROWING, "check"])
def test_no_output_replaces_an_input(tmp_path: Path, script: list[str], name: str) -> None:
    """`clinic --check s.jsonl -o s.jsonl` emptied s.jsonl and ended with 0."""
    args, records = command(name, script)
    if name == "check":
        records = run_medsss(["clinic", "-n", "3", "--solutions"]).ok().records
    source = write_jsonl(tmp_path / "s.jsonl", records)
    before = source.read_bytes()
    ran = run_medsss([*args, source, source] if name == "view" else [*args, source, "-o", source])
    assert (ran.rc, ran.stdout) == (2, "")
    assert "are the same file" in ran.stderr
    assert source.read_bytes() == before


@pytest.mark.parametrize("name", [*WHOLE, *GROWING, "clinic"])
def test_no_output_replaces_what_is_there(tmp_path: Path, script: list[str], name: str) -> None:
    """`-o` of clinic, load, eval and --curriculum overwrote any file."""
    args, records = (["clinic", "-n", "3"], []) if name == "clinic" else command(name, script)
    out = tmp_path / "thesis.txt"
    out.write_text("years of work\n")
    line = [*args, out] if name == "view" else [*args, "-o", out]
    ran = run_medsss(line, to_lines(records))
    assert ran.rc == 2
    assert out.read_text() == "years of work\n"
    assert run_medsss([*line, "--restart"], to_lines(records)).rc == 0
    assert "years of work" not in out.read_text()


@pytest.mark.parametrize("name", WHOLE)
def test_an_output_that_cannot_be_written_is_found_before_the_work(
    tmp_path: Path, script: list[str], name: str
) -> None:
    """`eval -o /nonexistent/x` failed after the evaluation: here no input is read, so the missing one is not named."""
    args, _ = command(name, script)
    out = tmp_path / "nonexistent" / "x"
    ran = run_medsss([*args, out] if name == "view" else [*args, "-o", out], "no record\n" * 9)
    assert ran.rc == 2
    assert "cannot write" in ran.stderr
    assert "stdin" not in ran.stderr


def test_an_output_in_one_step_takes_its_name_at_the_end_or_leaves_what_is_there(tmp_path: Path) -> None:
    out, other = tmp_path / "out.json", tmp_path / "other.json"
    with open_whole(str(out)) as writer:
        writer.write([{"made": 1}])
        assert not out.exists()
    assert [each.name for each in tmp_path.iterdir()] == ["out.json"]
    (tmp_path / "plain").touch()
    assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(ZeroDivisionError), open_whole(str(out), restart=True) as writer:
        writer.write([{"made": 1 / 0}])
    assert out.read_text() == '{"made":1}\n'
    with pytest.raises(UsageError, match="is there already"), open_whole(str(other)) as writer:
        other.write_text("another's\n")
    assert other.read_text() == "another's\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other.json", "out.json", "plain"]


@pytest.mark.parametrize("how", ["itself", "symlink", "hard link", "not there yet"])
@pytest.mark.parametrize("role", ["input", "errors"])
def test_a_file_by_another_name_is_the_same_file(tmp_path: Path, how: str, role: str) -> None:
    file, out = tmp_path / "s.jsonl", tmp_path / "out"
    if how != "not there yet":
        write_jsonl(file, [problem(1)])
    if how == "symlink":
        out.symlink_to(file)
    elif how == "hard link":
        out.hardlink_to(file)
    else:
        out = tmp_path / "." / "s.jsonl"
    more = [file] if role == "input" else ["-", "--errors", file]
    ran = run_medsss(["load", "-o", f"{tmp_path}/./{out.name}", "--restart", *more], to_lines([problem(2)]))
    assert (ran.rc, ran.stdout) == (2, "")
    if how != "not there yet":
        assert read_jsonl(file) == [problem(1)]
    assert ("are the same file" if file.exists() or role == "errors" else "No such file") in ran.stderr


def test_files_that_the_shell_opened_are_looked_at_too(tmp_path: Path) -> None:
    """`medsss load < p -o p`; and an option that is not given is no second stdout."""
    file = write_jsonl(tmp_path / "p", [problem(1)])

    def load(*args: object, **pipes: Any) -> str:
        done = subprocess.run(program("load", "-q", *args), stderr=subprocess.PIPE, env=clean_env(), **pipes)
        return done.stderr.decode()

    with file.open() as given, (tmp_path / "r").open("w") as made, file.open("a") as both:
        assert "stdin and -o" in load("-o", file, stdin=given)
        assert "stdin and stdout are the same file" in load(stdin=given, stdout=both)
        assert load(stdin=given, stdout=made) == ""
    assert read_jsonl(tmp_path / "r") == read_jsonl(file) == [problem(1)]


def test_a_link_stays_a_link_and_a_pipe_is_written_to_as_it_is(tmp_path: Path) -> None:
    out, real, pipe, got = tmp_path / "out", tmp_path / "real", tmp_path / "pipe", list[str]()
    out.symlink_to(real)
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    for path in (out, pipe):
        run_medsss(["load", "-o", path], to_lines([problem(1)])).ok()
    reader.join()
    assert (out.is_symlink(), pipe.is_fifo()) == (True, True)
    assert real.read_text() == got[0]


@pytest.mark.parametrize(
    ("name", "status"),
    [(name, 0) for name in GROWING] + [("curriculum", 2), ("eval", 2), ("report", 2), ("view", 2), ("check", 2)],
)
def test_an_empty_input(tmp_path: Path, script: list[str], name: str, status: int) -> None:
    """It ended with 0 in some commands and with 1 in others: what goes record by record has nothing to do and leaves an
    empty OUT, what makes one thing of the whole cannot."""
    args = {"report": ["report"], "view": ["view"], "check": ["clinic", "--check", "-"]}.get(name)
    out = tmp_path / "out"
    ran = run_medsss([*(args or command(name, script)[0]), *([] if status else ["-o", out])], "")
    assert (ran.rc, ran.stdout) == (status, "")
    assert status or out.read_bytes() == b""
    assert ran.stderr.startswith("medsss: ")


def test_reports_are_put_together_by_a_wildcard(tmp_path: Path) -> None:
    """Every state file beside them cost 23 lines of warnings."""
    source = write_jsonl(tmp_path / "s.json", [samples(0), samples(1)])
    run_medsss(["load", source, "-o", tmp_path / "p.jsonl"]).ok()
    for name in "ab":
        run_medsss(["eval", source, "-o", tmp_path / f"{name}.report.json", "-q"]).ok()
    shown = run_medsss(["report", *sorted(tmp_path.glob("*.report.json"))]).ok()
    assert shown.stderr == ""
    assert json.loads((tmp_path / "a.report.json").read_text())["kind"] == "report"


@pytest.mark.parametrize("name", ["label", "eval"])
def test_who_is_to_type_the_records_is_told(script: list[str], name: str) -> None:
    """`medsss eval` without a file looked like a program that hangs."""
    args = command(name, script)[0]
    master, slave = pty.openpty()
    with subprocess.Popen(
        program(*args), stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env()
    ) as child:
        os.close(slave)
        assert child.stderr is not None
        assert child.stderr.readline() == b"medsss: waiting for records from the terminal; Ctrl-D ends them\n"
        os.write(master, b"\x04")
        child.communicate(timeout=120)
    os.close(master)
