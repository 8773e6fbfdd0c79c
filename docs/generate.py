"""Bring the option lists of docs/commands/*.md up to date: what `medsss NAME --help` says stands there between two
marks, and nothing else of a page is touched. `make docs` runs it; `--check` changes nothing and ends with 1 where a
page is stale or missing.

A command without a page gets one with its help and the marks, for someone to write the rest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BEGIN = "<!-- options: written by `make docs` -->"
END = "<!-- end of options -->"
PAGES = Path(__file__).parent / "commands"
WIDTH = 80


def option_list(command: str) -> str:
    """The arguments and options of a command as its --help shows them, without the usage line and the description."""
    shown = subprocess.run(
        [sys.executable, "-m", "medsss_cli.app", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": str(WIDTH), "NO_COLOR": "1"},
    ).stdout
    heads = [at for head in ("Arguments:\n", "Options:\n") if (at := shown.find(f"\n{head}")) >= 0]
    return shown[min(heads) :].strip("\n")


def renewed(command: str, page: str) -> str:
    """The page with the option list of today. Raises ValueError where the marks are not there once each, in order."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"needs the lines {BEGIN} and {END}, once each")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n```text\n{option_list(command)}\n```\n{END}{rest.split(END)[1]}"


def blank(command: str, help_line: str) -> str:
    """What a page begins with."""
    return f"# medsss {command}\n\n{help_line}\n\n## Options\n\n{BEGIN}\n{END}\n"


def main() -> int:
    """Write what is stale, or with --check name it; returns the exit status."""
    from medsss_cli.app import COMMANDS

    check = "--check" in sys.argv[1:]
    stale = []
    for command, help in COMMANDS.items():
        path = PAGES / f"{command}.md"
        page = path.read_text(encoding="utf-8") if path.exists() else ""
        try:
            now = renewed(command, page or blank(command, help))
        except ValueError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 1
        if now != page:
            stale.append(path.name)
            if not check:
                path.write_text(now, encoding="utf-8")
    if stale:
        print(f"{'stale: ' if check else 'written: '}{', '.join(stale)}", file=sys.stderr)
    if check and stale:
        print("bring them up to date with: make docs", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
