"""The documents say what is so: option lists, commands with what they show, links, messages that are explained."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from documented import Console, examples
from helpers import run_medsss

from medsss_cli.app import COMMANDS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "docs"))

import generate

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
README = ROOT / "README.md"
ALL = [README, ROOT / "CHANGELOG.md", *PAGES]

NOT_RUN = {"make test": "it would run this test", "make demo": "run below, by make, with smaller numbers"}
"""Lines of README's console blocks that are not run as they stand, and why."""

SMALLER = {
    "medsss clinic -n 240": "medsss clinic -n 12",
    "medsss clinic -n 200": "medsss clinic -n 3",
    "medsss search": "medsss search --max-nodes 12 --rollouts 4 --min-rollouts 2",
    "-n 16": "-n 2",
}
"""README's loop takes twelve minutes: here with fewer problems, smaller trees, fewer answers; else word for word."""

OF_THE_LOOP = "medsss report base16.json evolved16.json"
"""The table at the loop's end: of the smaller loop it has the same rows, with other figures."""

SIZES = {
    "ITERATIONS": "1",
    "LABELS": "dual",
    "N": "2",
    "DRAWS": "2",
    "CURRICULUM": "2",
    "JOBS": "1",
    "SAMPLE_EXTRA": "--max-tokens 120",
    "SEARCH_EXTRA": "--max-nodes 8 --rollouts 3 --min-rollouts 2 --max-tokens 120 --max-step-tokens 60",
    "PRM_SEARCH": "--max-nodes 8 --rollouts 3 --min-rollouts 2 --max-tokens 120 --max-step-tokens 60",
    "PRM_LABEL": "--all",
    **dict.fromkeys(("SFT_EXTRA", "DPO_EXTRA", "PRM_EXTRA"), "--full --epochs 1"),
}
"""Settings of `examples/evolve.sh` and `examples/demo.sh`, which are variables of theirs, at their smallest."""


# Pages of commands


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_a_page_whose_options_are_those_of_help(command: str) -> None:
    """A page that does not know an option sends people to the source; one that knows a former option misleads them."""
    assert {path.stem for path in generate.PAGES.glob("*.md")} == set(COMMANDS)
    path = generate.PAGES / f"{command}.md"
    page = path.read_text()
    assert generate.renewed(command, page) == page, f"docs/commands/{path.name} is stale: make docs"
    for section in ("## Examples", "## Options", "## Reads and writes", "## See also"):
        assert section in page, f"{path.name} has no {section}"
    assert "Exit status" in page


def test_the_scripts_name_options_that_there_are() -> None:
    # Settings in a variable are seen by no parser before the hour in which the script needs them.
    option = re.compile(r"(?<![\w-])--[a-z][\w-]*")
    known = {name for page in (ROOT / "docs" / "commands").glob("*.md") for name in option.findall(page.read_text())}
    known |= {"--standalone", "--nproc_per_node", "--tokens"}  # of torchrun, of recipes_table.py
    for script in sorted((ROOT / "examples").glob("*.sh")):
        assert {*option.findall(script.read_text())} <= known, script.name


# Command lines


@pytest.mark.parametrize("page", [p for p in PAGES if "```console" in p.read_text()], ids=lambda p: p.stem)
def test_what_a_page_shows_is_what_one_gets(page: Path, console: Console, tmp_path: Path) -> None:
    for example in examples(page.read_text()):
        ran = console.run(example.command, tmp_path)
        example.check(ran.returncode, ran.stdout)


@pytest.mark.timeout(900)
def test_every_line_of_the_readme_runs(console: Console, tmp_path: Path) -> None:
    """People copy from the README, into an empty folder."""
    for example in examples(README.read_text()):
        if example.command.split("  ")[0] in NOT_RUN:
            continue
        command = example.command
        for words, more in SMALLER.items():
            command = command.replace(words, more)
        ran = console.run(command, tmp_path)
        if command == OF_THE_LOOP:
            example.shown = []
            for row in ("base     one of N", "evolved  majority@2", "evolved  likeliest@2", "min-vote-sum"):
                assert row in ran.stdout
        example.check(ran.returncode, ran.stdout)


def test_the_readme_has_no_command_outside_its_console_blocks() -> None:
    """An indented or untyped block would be run by no test. The lines of the installation need an index of packages."""
    text = re.sub(r"^```console\n.*?^```$", "", README.read_text(), flags=re.M | re.S)
    installation = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    assert len(installation) == 2
    assert all(re.fullmatch(r"python3 -m venv .*\npip install .*\n", block) for block in installation)
    text = re.sub(r"^```sh\n.*?^```$", "", text, flags=re.M | re.S)
    assert not re.findall(r"^(?:    \S.*|```.*)$", text, re.M)


@pytest.mark.slow
def test_make_demo_runs(console: Console, tmp_path: Path) -> None:
    """The first thing that a newcomer runs, down to the story at its end. The environment counts as installed."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    out = tmp_path / "demo"
    out.mkdir()
    for name, count, split in (("pool", 4, "seed"), ("prm.pool", 3, "seed"), ("test", 2, "test")):
        run_medsss(["clinic", "-n", count, "--seed", "5", "--split", split, "-o", out / f"{name}.jsonl"]).ok()
    bin = os.path.relpath(console.bin, ROOT)
    ran = console.run(
        f"make --no-print-directory -C '{ROOT}' -o .venv/installed BIN='{bin}' demo",
        tmp_path,
        env={**SIZES, "OUT": str(out)},
    )
    assert ran.returncode == 0, ran.stdout[-3000:]
    told = ran.stdout.partition("The policy:")[2]
    for line in ("the base policy ", "iteration 1: ", "the majority ", "reward model times likelihood", "Look further"):
        assert line in told, told
    assert "best of 2, min-vote-sum" in (out / "report.txt").read_text()


# Links


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    heads = re.findall(r"^#+ (.+?)\s*$", text, re.M)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", head)).lower().replace(" ", "-") for head in heads
    }


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$|^    [^\n]*$|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    return re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", ALL, ids=lambda p: p.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"https?://|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}: there is no such file"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{page.name}: {link}: there is no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    """A page that nothing links to is read by nobody."""
    seen, ahead = set(), [README]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        found = (link.partition("#")[0] for link in links(page) if "://" not in link)
        ahead += [(page.parent / name).resolve() for name in found if name]
    assert set(PAGES) <= seen, f"reached by no link: {sorted(p.name for p in set(PAGES) - seen)}"


# Messages


def messages() -> list[str]:
    """Every text in the source, with a NUL where a value is put in."""

    def text(node: ast.expr) -> str | None:
        match node:
            case ast.Constant(value=str() as value):
                return value
            case ast.JoinedStr(values=parts):
                return "".join(text(part) or "\0" for part in parts)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return (text(left) or "\0") + (text(right) or "\0")
            case _:
                return None

    found = []
    for path in [*(ROOT / "medsss_cli").rglob("*.py"), *(ROOT / "commands").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.expr) and (value := text(node)):
                found.append(value)
    return found


def test_messages_that_are_explained_are_messages_that_are_given() -> None:
    """One looks up the message on the screen. The page writes … where a value stands."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `(.+?)` \|", page, re.M)
    assert len(quoted) >= 30
    assert len(set(quoted)) == len(quoted)
    source = "\n\n\n".join(messages())
    for message in quoted:
        pattern = r"[^\n]*?".join(re.escape(part) for part in message.split("…"))
        assert re.search(pattern, source), f"no message of ours: {message}"


def test_the_departures_are_counted_as_in_the_source() -> None:
    """docs/algorithms.md collects the numbered departures of the modules: a new one that it lacks would go unseen."""
    page = (ROOT / "docs" / "algorithms.md").read_text()
    told = dict(re.findall(r"\(`(medsss_cli/[\w/]+\.py)`, departures 1 to (\d+)\)", page))
    counted = {}
    for path in (ROOT / "medsss_cli").rglob("*.py"):
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        _, found, listed = doc.partition("Departures from ")
        if found and (numbers := [int(n) for n in re.findall(r"(?:^|\s)(\d+)\. [a-zA-Z`\[]", listed)]):
            counted[str(path.relative_to(ROOT))] = str(max(numbers))
    assert told == counted
