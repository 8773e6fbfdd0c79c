"""Run the command lines that the documents show: `Console` has a `medsss` on its PATH, and `examples` reads a page."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import clean_env
from warm import put_medsss


class Console:
    """Runs command lines as a shell does, with `medsss` from this checkout (tests/warm.py) in `bin`."""

    def __init__(self, bin: Path) -> None:
        put_medsss(bin, heavy=True)  # half of what a page runs opens a model
        self.bin = bin
        self.env = clean_env(PATH=f"{bin}{os.pathsep}{os.environ['PATH']}")

    def run(self, command: str, folder: Path, env: dict[str, str] | None = None, timeout: float = 300) -> Any:
        """The finished process of one command line; stdout and stderr are one text, as on a terminal."""
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=folder,
            env=self.env | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )


@dataclass
class Example:
    """A command line of a page and what the page shows under it: [] where it shows nothing."""

    command: str
    shown: list[str]

    def check(self, status: int, output: str) -> None:
        """A line `...` stands for any lines, and `...` within a line for any text. Where nothing is shown, anything
        may have been written."""
        assert status == 0, f"exit status {status} of: {self.command}\n{output}"
        if self.shown:
            pattern = "\n".join(r"(?:.*\n)*?.*" if line.strip() == "..." else _pattern(line) for line in self.shown)
            assert re.fullmatch(pattern, output.rstrip("\n")), f"$ {self.command}\n{output}\nbut the page shows\n" + (
                "\n".join(self.shown)
            )


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.rstrip().split("...")) + " *"


def examples(text: str) -> list[Example]:
    """The commands of a page's ```console blocks: lines after `$ `, gone on with after a backslash."""
    found: list[Example] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Example(line[2:], []))
            elif found[-1].command.endswith("\\"):
                found[-1].command = found[-1].command[:-1] + line.strip()
            else:
                found[-1].shown.append(line)
    return found
