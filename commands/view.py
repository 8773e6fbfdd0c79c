"""`medsss view`: records as a person looks at them, in the terminal or (`--html FILE`) on one page of their own. Costs
no model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated

import typer

from medsss_cli.console import note
from medsss_cli.errors import UsageError
from medsss_cli.records import Problem
from medsss_cli.settings import Opt
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import check_inputs, read_records
from medsss_cli.stream.outputs import LineWriter, open_whole
from medsss_cli.view.model import read
from medsss_cli.view.page import page

from ._options import Inputs, Restart, Strict, options, refuse_given

ON_A_TERMINAL = 1
"""Records that are shown on a terminal unless --limit or --id says otherwise: a tree fills the screen."""

ON_A_PAGE = 300
"""Records of a page unless --limit says otherwise: some MB, which a browser opens at once."""


@options
def run(
    *,
    inputs: Inputs = (),
    html: Annotated[str | None, Opt("Write one page that needs nothing else, for a browser.", metavar="FILE")] = None,
    id: Annotated[tuple[str, ...], Opt("The records of this id; may be repeated.", metavar="ID")] = (),
    limit: Annotated[
        int | None,
        Opt(
            f"Show the first N records; default {ON_A_TERMINAL} on a terminal, {ON_A_PAGE} on a page, all in a pipe.",
            least=1,
            metavar="N",
        ),
    ] = None,
    full: Annotated[bool, Opt("Every answer, and every text in its whole length.")] = False,
    restart: Restart = False,
    strict: Strict = False,
) -> None:
    """Look at records: trees with values, visits and verdicts, the best and the worst trajectory with step labels;
    answers with verdicts; candidates with their step scores; training data.

    Reads every record that medsss writes, the authors' tree files, and problems of any known layout.
    """
    sources = inputs or ("-",)
    check_inputs(sources)
    with Faults(strict=strict) as faults:
        records = (record for _, record in read_records(sources, read, on_bad=faults.bad) if not id or record.id in id)
        if html is not None:
            refuse_given(["full"], "is for the terminal, not for --html")
            shown = _page(records, html, sources, limit or ON_A_PAGE, restart)
        else:
            shown = _text(records, limit, full, one_fits=not id)
        if not shown:
            raise UsageError(f"there is no record{' of the id ' + ', '.join(id) if id else ''} to show")
    raise typer.Exit(faults.exit_code)


def _text(records: Iterator[Problem], limit: int | None, full: bool, one_fits: bool) -> int:
    """Show records one by one as they come, on a terminal the first alone; returns how many."""
    from rich.console import Console

    from medsss_cli.view.terminal import show

    count = 0
    with LineWriter() as writer, open(writer.fd, "w", closefd=False) as stdout:
        console = Console(file=stdout)  # it knows COLUMNS, NO_COLOR, FORCE_COLOR and dumb terminals
        most = ON_A_TERMINAL if limit is None and one_fits and os.isatty(writer.fd) else limit
        for record in records:
            if count == most:
                if limit is None:
                    note(f"view: the first of several; --limit N or --id ID ({record.id}) shows more")
                break
            with console.capture() as captured:
                show(record, console, full=full)
            writer.write_bytes((("\n" if count else "") + captured.get()).encode("utf-8", "replace"))
            count += 1
    return count


def _page(records: Iterator[Problem], html: str, inputs: Sequence[str], most: int, restart: bool) -> int:
    """Write a page of the first records; returns how many."""
    with open_whole(html, inputs=inputs, restart=restart, option="--html") as writer:
        found = list(islice(records, most))
        if not found:
            return 0
        names = ", ".join("stdin" if path == "-" else os.path.basename(path) for path in inputs)
        more = next(records, None) is not None
        text = page(found, title=names, more=more).encode("utf-8", "replace")
        writer.write_bytes(text)
    if html != "-":
        number = f"{len(found)} record{'s' if len(found) > 1 else ''}"
        note(f"view: {number} on {html} ({len(text) / 1e6:.1f} MB)" + ("; there are more: --limit N" if more else ""))
    return len(found)
