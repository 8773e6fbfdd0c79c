"""The house is built as docs/design.md says: imports point one way, and every place that the page names is there."""

from __future__ import annotations

import ast
import functools
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def module_of(path: Path) -> str:
    """`medsss_cli.search.mcts`; commands/ is installed as `medsss_cli.commands`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(("medsss_cli", *parts) if parts[0] == "commands" else parts)


def files() -> dict[str, Path]:
    found = [*(ROOT / "medsss_cli").rglob("*.py"), *(ROOT / "commands").glob("*.py")]
    return {module_of(path): path for path in found}


def imports(module: str, path: Path, known: set[str]) -> set[str]:
    """The modules of ours that a module names in any import, within functions and for types too. A package counts where
    one of its own names is taken, not where it stands on the way to a module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                found.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base)
    return found & known - {module}


@functools.cache
def graph() -> dict[str, set[str]]:
    known = files()
    return {module: imports(module, path, set(known)) for module, path in known.items()}


def test_no_module_is_needed_by_what_it_needs() -> None:
    """In a circle of imports nothing can be read, moved or tested without all the rest."""
    try:
        order = list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert "medsss_cli.search.mcts" in order


APART = (
    "search engines, engines search, engines labelling, stream engines, answers stream, labelling problems, "
    "problems engines, problems evaluation, evaluation engines, records stream, requests engines"
)


@pytest.mark.parametrize("pair", APART.split(", "))
def test_rooms_that_do_not_know_each_other(pair: str) -> None:
    """What the search wants is in `requests`, so an engine can be exchanged, and so on for the others."""
    room, other = (f"medsss_cli.{name}." for name in pair.split())
    known = {(module, each) for module, needs in graph().items() for each in needs}
    assert [two for two in known if f"{two[0]}.".startswith(room) and f"{two[1]}.".startswith(other)] == []


def test_nothing_of_ours_is_imported_by_the_words_that_all_share() -> None:
    needs = graph()
    assert needs["medsss_cli.errors"] == set()
    assert needs["medsss_cli.records"] <= {"medsss_cli.errors"}
    assert needs["medsss_cli.requests"] <= {"medsss_cli.records"}
    assert needs["medsss_cli.settings"] == {"medsss_cli.errors"}


def test_places_that_the_page_names_are_there() -> None:
    page = (ROOT / "docs" / "design.md").read_text()
    named = re.findall(r"`((?:medsss_cli|commands|tests|examples|docs)/[\w./-]+?)(?:::(\w+))?`", page)
    assert len(named) >= 20
    for path, name in named:
        assert (ROOT / path).exists(), path
        if name:
            assert re.search(rf"^\s*(?:class|(?:async )?def) {name}\b|^{name}\b", (ROOT / path).read_text(), re.M), (
                f"{path} has no {name}"
            )
