"""`medsss view`: records as a person looks at them, in the terminal or (`--html FILE`) on one page of their own. Costs
no model."""

from __future__ import annotations

import os
from itertools import islice
from typing import Annotated

import typer

from medsss_cli.console import note
from medsss_cli.errors import UsageError
from medsss_cli.labelling.labels import StepLabels
from medsss_cli.settings import Opt
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import LineWriter, check_inputs, read_records
from medsss_cli.stream.whole import open_whole
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
    labels: Annotated[StepLabels, Opt("How the steps of a tree are labelled, as in `label`.")] = StepLabels.DUAL,
    restart: Restart = False,
    strict: Strict = False,
) -> None:
    """Look at records: trees with values, visits and verdicts, the best and the worst trajectory with step labels;
    answers with verdicts; candidates with their step scores; training data.

    Reads every record that medsss writes, the authors' tree files, and problems of any known layout.
    """
    check_inputs(inputs or ["-"])
    faults = Faults(strict=strict)
    found_records = read_records(inputs or (), read, on_bad=faults.bad)
    records = (record for _, record in found_records if not id or record.id in id)
    if html is not None:
        refuse_given(["full"], "is for the terminal, not for --html")
        with open_whole(html, inputs=inputs or (), restart=restart, option="--html") as writer:
            found = list(islice(records, limit or ON_A_PAGE))
            if not found:
                raise _nothing(id)
            names = ", ".join(os.path.basename(path) for path in inputs or () if path != "-") or "stdin"
            more = next(records, None) is not None
            text = page(found, title=names, labels=labels, more=more).encode("utf-8", "replace")
            writer.write_bytes(text)
        if html != "-":
            number = f"{len(found)} {'record' if len(found) == 1 else 'records'}"
            note(
                f"view: {number} on {html} ({len(text) / 1e6:.1f} MB)" + ("; there are more: --limit N" if more else "")
            )
    else:
        from medsss_cli.view.terminal import Look, render

        with LineWriter() as writer:
            columns = _terminal_columns(writer.fd)
            look = Look(_columns_set() or columns or 80, full, labels)
            colored = _colours_wanted(columns is not None)
            most = limit if limit is not None or id or columns is None else ON_A_TERMINAL
            shown = 0
            for record in records:
                if most is not None and shown >= most:
                    if limit is None:
                        note(f"view: the first of several; --limit N or --id ID ({record.id}) shows more")
                    break
                shown_text = ("\n" if shown else "") + render(record, look, color=colored)
                writer.write_bytes(shown_text.encode("utf-8", "replace"))
                shown += 1
        if not shown:
            raise _nothing(id)
    faults.say_causes()
    raise typer.Exit(faults.exit_code)


def _nothing(ids: tuple[str, ...]) -> UsageError:
    return UsageError(f"there is no record{' of the id ' + ', '.join(ids) if ids else ''} to show")


def _terminal_columns(fd: int) -> int | None:
    """The width of the terminal behind this descriptor; None where there is none."""
    try:
        return max(os.get_terminal_size(fd).columns, 40) if os.isatty(fd) else None
    except OSError:
        return None


def _columns_set() -> int | None:
    """COLUMNS, where the user has set it to a number that we can draw in."""
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and 40 <= int(columns) <= 1000 else None


def _colours_wanted(terminal: bool) -> bool:
    """NO_COLOR with any text in it means no (no-color.org), FORCE_COLOR yes; a dumb terminal knows none."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (terminal and os.environ.get("TERM") != "dumb")
