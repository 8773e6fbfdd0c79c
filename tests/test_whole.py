"""Outputs made in one step: there whole or not at all, and never in the place of something else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medsss_cli.errors import UsageError
from medsss_cli.stream.whole import open_whole


def write(path: Path | str, **options: object) -> None:
    with open_whole(str(path), **options) as out:  # type: ignore[arg-type]
        out.write([{"made": 1}])


def test_it_takes_its_name_at_the_end_or_leaves_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    with open_whole(str(out)) as writer:
        writer.write([{"made": 1}])
        assert not out.exists()
    assert out.read_text() == '{"made":1}\n'
    assert [each.name for each in tmp_path.iterdir()] == ["out.json"]
    (tmp_path / "plain").touch()
    assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(ZeroDivisionError), open_whole(str(out), restart=True) as writer:
        writer.write([{"made": 1 / 0}])
    assert out.read_text() == '{"made":1}\n'

    def meanwhile(out: Path) -> None:
        with open_whole(str(out)) as writer:
            writer.write([{"made": 1}])
            out.write_text("another's\n")

    with pytest.raises(UsageError, match="is there already"):
        meanwhile(tmp_path / "other.json")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other.json", "out.json", "plain"]


@pytest.mark.parametrize("how", ["itself", "symlink", "hard link", "not there yet"])
@pytest.mark.parametrize("role", ["input", "errors"])
def test_no_output_is_an_input_or_the_errors_file(tmp_path: Path, how: str, role: str) -> None:
    file, out = tmp_path / "s.jsonl", tmp_path / "out"
    if how != "not there yet":
        file.write_text("{}\n")
    if how == "symlink":
        out.symlink_to(file)
    elif how == "hard link":
        out.hardlink_to(file)
    else:
        out = tmp_path / "." / "s.jsonl"
    others = {"inputs": [str(file)]} if role == "input" else {"inputs": ["other"], "errors": str(file)}
    with pytest.raises(UsageError, match="are the same file"):
        write(out, restart=True, **others)
    assert how == "not there yet" or file.read_text() == "{}\n"


def test_files_that_the_shell_opened_are_looked_at_too(tmp_path: Path) -> None:
    """`medsss load < p -o p`; and an option that is not given is no second stdout."""
    program = [sys.executable, "-c", "import sys; from medsss_cli.stream.whole import check_outputs; "]
    file = tmp_path / "p"
    file.write_text("{}\n")

    def check(call: str, **pipes: object) -> str:
        done = subprocess.run(
            [*program[:2], program[2] + f"check_outputs({call})"],
            stderr=subprocess.PIPE,
            text=True,
            **pipes,  # type: ignore[call-overload]
        )
        return done.stderr

    with file.open() as given, (tmp_path / "r").open("w") as made, file.open("a") as both:
        assert "stdin and -o" in check(f"[], {{'-o': {str(file)!r}}}", stdin=given)
        assert "stdin and stdout are the same file" in check("[], {'-o': None}", stdin=given, stdout=both)
        assert check("['x'], {'-o': None, '--plot': None, '--errors': None}", stdin=given, stdout=made) == ""


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    out = tmp_path / "out.json"
    out.symlink_to(tmp_path / "disk" / "real.json")
    write(out)
    assert out.is_symlink()
    assert (tmp_path / "disk" / "real.json").read_text() == '{"made":1}\n'


def test_pipes_and_devices_are_written_to_as_they_are(tmp_path: Path) -> None:
    write("/dev/null")
    pipe, got = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write(pipe)
    reader.join()
    assert got == ['{"made":1}\n']
    assert pipe.is_fifo()
