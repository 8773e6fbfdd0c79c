"""The program itself: its help, its errors and exit codes, what it imports."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Ran, clean_env, program

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
    assert "did you mean search?" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_option(medsss: Medsss) -> None:
    done = medsss(["--bogus"])
    assert done.rc == 2
    assert "--bogus" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(medsss: Medsss, command: str) -> None:
    shown = medsss([command, "--help"]).ok()
    assert f"medsss {command}" in shown.stdout
    assert "--config FILE" in shown.stdout
    assert "env var" not in shown.stdout  # two for each option would bury the rest
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


# Completion


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("medsss se", ["search"]),
        ("medsss --sh", ["--show-completion"]),
        ("medsss search --max-n", ["--max-nodes"]),
        ("medsss train-prm --no-m", ["--no-merge"]),
        ("medsss label --to p", ["preference", "prm"]),
        ("medsss eval --dry", []),
        ("medsss view tree", []),  # nothing: the shell offers its files
    ],
)
def test_what_bash_asks_is_answered(medsss: Medsss, typed: str, offered: list[str]) -> None:
    env = {"_MEDSSS_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    shown = medsss([], env=env).ok()
    assert shown.stdout.split() == [word for word in offered if word.startswith(typed.split()[-1])]
    assert shown.stderr == ""


def test_zsh_and_fish_get_help_texts_too(medsss: Medsss) -> None:
    zsh = medsss([], env={"_MEDSSS_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "medsss s"}).ok().stdout
    assert '"search":"Grow a tree' in zsh
    fish = {"_MEDSSS_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    shown = medsss([], env=fish | {"_TYPER_COMPLETE_ARGS": "medsss label --to "}).ok().stdout
    assert shown.split() == ["sft", "preference", "prm"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_with_what_is_shown(tmp_path: Path) -> None:
    """The whole way: bash takes the script of --show-completion and calls its function as a Tab would. File names come
    from bash itself (`-o default`) where we offer nothing."""
    (tmp_path / "medsss").write_text(f'#!/bin/sh\nexec {shlex.join(program())} "$@"\n')
    (tmp_path / "medsss").chmod(0o755)
    lines = [
        'eval "$(medsss --show-completion)"',
        "complete -p medsss",
        'tab() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _medsss_completion medsss; }',
        'tab medsss tr; echo "${COMPREPLY[@]}"',
        'tab medsss view poo; echo "${#COMPREPLY[@]} offered"',
    ]
    env = clean_env()
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.stdout.splitlines() == [
        "complete -o default -F _medsss_completion medsss",
        "train-policy train-prm",
        "0 offered",
    ]


def test_completion_is_installed_where_the_shell_looks(tmp_path: Path) -> None:
    env = clean_env(HOME=str(tmp_path))
    line = shlex.join(program("--install-completion")) + "; exit $?"
    done = subprocess.run(["bash", "--norc", "-c", line], capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "bash completion installed" in done.stdout
    assert "complete_bash" in (tmp_path / ".bash_completions" / "medsss.sh").read_text()
