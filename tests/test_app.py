"""The program itself: its help, its errors and exit codes, what it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import clean_env, run_medsss

from medsss_cli import __version__
from medsss_cli.app import COMMANDS

HEAVY = ("torch", "transformers", "trl", "datasets", "peft", "accelerate", "pandas")


def test_help_names_every_command() -> None:
    for args in (["--help"], ["-h"]):
        shown = run_medsss(args).ok()
        assert all(f"  {name} " in shown.stdout for name in COMMANDS)
        assert shown.stderr == ""
    assert run_medsss(["--version"]).ok().stdout == f"medsss {__version__}\n"
    of_one = run_medsss(["search", "--help"]).ok().stdout
    assert "--config FILE" in of_one
    assert "env var" not in of_one  # two for each option would bury the rest


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "Commands:"),
        (["serch"], "did you mean search?"),
        (["--bogus"], "--bogus"),
        (["eval", "--bogus"], "medsss eval --help lists what there is"),
    ],
)
def test_wrong_usage_says_what_there_is(args: list[str], said: str) -> None:
    done = run_medsss(args)
    assert (done.rc, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("args", [["--help"], ["label", "--help"], ["eval", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    probe = f"import sys; from medsss_cli.app import run; run({args!r}); print('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=clean_env(), timeout=60)
    word, *loaded = done.stdout.splitlines()[-1].split()
    assert word == "LOADED", done.stderr
    assert set(loaded) & set(HEAVY) == set()
