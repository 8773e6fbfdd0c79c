"""`medsss view`: records as a person looks at them, in the terminal or (`--html FILE`) on one page of their own. Costs
no model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import _options as o

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medsss_cli.records import Problem
    from medsss_cli.stream.jsonl import Where
    from medsss_cli.view.model import Labelling

ON_A_TERMINAL = 1
"""Records that are shown on a terminal unless --limit or --id says otherwise: a tree fills the screen."""

ON_A_PAGE = 300
"""Records of a page unless --limit says otherwise: some MB, which a browser opens at once."""


def run(
    inputs: o.Inputs = None,
    html: Annotated[
        str | None,
        typer.Option(
            "--html", metavar="FILE", help="Write one page that needs nothing else, for a browser.", show_default=False
        ),
    ] = None,
    id: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="The records of this id; may be repeated.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=1,
            metavar="N",
            help=f"Show the first N records; default {ON_A_TERMINAL} on a terminal, {ON_A_PAGE} on a page, "
            "all in a pipe.",
            show_default=False,
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Every answer, and every text in its whole length.")] = False,
    labels: Annotated[
        Literal["dual", "dual-soft", "soft", "hard", "monotone", "published"],
        typer.Option(help="How the steps of a tree are labelled, as in `label`."),
    ] = "dual",
    values: Annotated[
        Literal["backed-up", "rollout"],
        typer.Option(help="Which value of a step its label is made from, as in `label`."),
    ] = "backed-up",
    b: Annotated[float, typer.Option("--b", min=0.0, help="Weight of the penalty in dual and published.")] = 1.0,
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="What `monotone` must exceed.")] = 0.5,
    width: Annotated[
        int | None,
        typer.Option(
            "--width",
            min=40,
            max=1000,
            metavar="N",
            help="Columns; default the terminal's, 80 in a pipe.",
            show_default=False,
        ),
    ] = None,
    color: Annotated[
        bool | None,
        typer.Option(
            "--color/--no-color",
            help="Colours; default on a terminal, unless NO_COLOR is set.",
            show_default=False,
        ),
    ] = None,
    strict: o.Strict = False,
) -> None:
    """Look at records: trees with values, visits and verdicts, the best and the worst trajectory with step labels;
    answers with verdicts; candidates with their step scores; training data.

    Reads every record that medsss writes, the authors' tree files, and problems of any known layout.
    """
    from medsss_cli.console import note
    from medsss_cli.errors import MedsssError, UsageError
    from medsss_cli.labelling.labels import StepLabels
    from medsss_cli.labelling.trajectories import StepValues
    from medsss_cli.stream.jsonl import LineWriter, check_inputs
    from medsss_cli.view.model import Labelling

    how = Labelling(StepLabels(labels), StepValues(values), b, threshold)
    check_inputs(inputs or ["-"])
    bad = _Bad(strict)
    records = _records(inputs or [], set(id or ()), bad)
    if html is not None:
        for name, given in (("--full", full or None), ("--width", width), ("--color", color)):
            if given is not None:
                raise UsageError(f"{name} is for the terminal, not for --html")
        shown = _page(records, html, inputs or [], limit or ON_A_PAGE, how)
    else:
        from medsss_cli.view.terminal import Look, render

        with LineWriter() as writer:
            columns = _terminal_columns(writer.duplicate())
            colored = columns is not None and _colours_wanted() if color is None else color
            look = Look(width or _columns_set() or columns or 80, full, how)
            most = limit if limit is not None or id or columns is None else ON_A_TERMINAL
            shown = 0
            for record in records:
                if most is not None and shown >= most:
                    if limit is None:
                        note(f"view: the first of several; --limit N or --id ID ({record.id}) shows more")
                    break
                text = ("\n" if shown else "") + render(record, look, color=colored)
                writer.write_bytes(text.encode("utf-8", "replace"))
                shown += 1
    if not shown:
        wanted = f" of the id {', '.join(id)}" if id else ""
        raise MedsssError(f"there is no record{wanted} to show")
    raise typer.Exit(1 if bad.count else 0)


class _Bad:
    """Lines that are no record: reported and counted, or the end under --strict."""

    def __init__(self, strict: bool) -> None:
        self.count = 0
        self._strict = strict

    def __call__(self, where: Where, what: str) -> None:
        from medsss_cli.console import say
        from medsss_cli.errors import MedsssError

        self.count += 1
        if self._strict:
            raise MedsssError(f"{where}: {what}", hint="--strict stops at the first bad line")
        say(f"{where}: {what}")


def _records(inputs: list[str], ids: set[str], bad: _Bad) -> Iterator[Problem]:
    """The records of the input, of these ids if there are any."""
    from medsss_cli.errors import BadRecord
    from medsss_cli.stream.jsonl import read_objects
    from medsss_cli.view.model import read

    for where, obj in read_objects(inputs, on_bad=bad):
        try:
            record = read(obj, where)
        except BadRecord as error:
            bad(where, str(error))
            continue
        if not ids or record.id in ids:
            yield record


def _page(records: Iterator[Problem], target: str, inputs: list[str], limit: int, how: Labelling) -> int:
    """Write the page in one step, so that a failure leaves no half of it; returns the number of records on it."""
    from itertools import islice

    from medsss_cli.console import note
    from medsss_cli.errors import UsageError
    from medsss_cli.stream.jsonl import write_stdout
    from medsss_cli.view.page import page

    if target != "-" and any(os.path.exists(path) and _same_file(path, target) for path in inputs):
        raise UsageError(f"--html {target} is one of the inputs")
    found = list(islice(records, limit))
    if not found:
        return 0
    more = next(records, None) is not None
    names = ", ".join(os.path.basename(path) for path in inputs if path != "-") or "stdin"
    text = page(found, title=names, labelling=how, more=more)
    if target == "-":
        write_stdout(text)
    else:
        temporary = f"{target}.{os.getpid()}.tmp"
        try:
            with open(temporary, "w", encoding="utf-8", errors="replace", newline="\n") as file:
                file.write(text)
            os.replace(temporary, target)
        except OSError as error:
            raise UsageError(f"cannot write {target}: {error.strerror}") from None
        size = f"{len(text) / 1e6:.1f} MB"
        note(
            f"view: {len(found)} {'record' if len(found) == 1 else 'records'} on {target} ({size})"
            + ("; there are more: --limit N" if more else "")
        )
    return len(found)


def _same_file(one: str, other: str) -> bool:
    return os.path.exists(other) and os.path.samefile(one, other)


def _terminal_columns(fd: int) -> int | None:
    """The width of the terminal behind this descriptor, which is closed; None where there is none."""
    try:
        return max(os.get_terminal_size(fd).columns, 40) if os.isatty(fd) else None
    except OSError:
        return None
    finally:
        os.close(fd)


def _columns_set() -> int | None:
    """COLUMNS, where the user has set it to a number that we can draw in."""
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and 40 <= int(columns) <= 1000 else None


def _colours_wanted() -> bool:
    """NO_COLOR with any text in it means no (no-color.org); a dumb terminal knows none."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
