"""The program itself: its help, its errors and exit codes, what it imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from helpers import Ran, clean_env

from medsss_cli import __version__
from medsss_cli.app import COMMANDS

Medsss = Callable[..., Ran]

HEAVY = ("torch", "transformers", "trl", "datasets", "peft", "accelerate", "pandas")


def test_help_names_every_command(medsss: Medsss) -> None:
    for args in (["--help"], ["-h"]):
        shown = medsss(args).ok()
        assert all(f"  {name} " in shown.stdout for name in COMMANDS)
        assert shown.stderr == ""


def test_version(medsss: Medsss) -> None:
    assert medsss(["--version"]).ok().stdout == f"medsss {__version__}\n"


def test_no_command_shows_help_and_is_wrong_usage(medsss: Medsss) -> None:
    done = medsss([])
    assert done.rc == 2
    assert done.stdout == ""
    assert "Commands:" in done.stderr


def test_unknown_command_gets_a_suggestion(medsss: Medsss) -> None:
    done = medsss(["serch"])
    assert done.rc == 2
    assert "Did you mean search?" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_option(medsss: Medsss) -> None:
    done = medsss(["--bogus"])
    assert done.rc == 2
    assert "--bogus" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(medsss: Medsss, command: str) -> None:
    shown = medsss([command, "--help"]).ok()
    assert f"medsss {command}" in shown.stdout
    assert shown.stderr == ""


@pytest.mark.parametrize("args", [["--help"], ["label", "--help"], ["eval", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    assert imported(args) == []


def imported(args: list[str], stdin: str = "") -> list[str]:
    """The heavy modules that a run of the program has loaded by its end."""
    probe = (
        "import sys\n"
        "from medsss_cli.app import run\n"
        f"status = run({args!r})\n"
        f"sys.stderr.write('LOADED ' + ' '.join(m for m in {HEAVY!r} if m in sys.modules) + chr(10))\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], input=stdin, capture_output=True, text=True, env=clean_env(), timeout=60
    )
    loaded = done.stderr.splitlines()[-1]
    assert loaded.startswith("LOADED"), done.stderr
    return loaded.split()[1:]
