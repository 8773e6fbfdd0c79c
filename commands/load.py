"""`medsss load`: public data sets in, problem records out. Costs no model; only `hf:` sources touch the network.

Every command reads these layouts by itself; `load` is for a look at them, for a part of them, for tables and the hub,
and to keep what is in a test set out of a pool. Rows are read one at a time, but with `--shuffle`, which holds what it
will print. ProcessBench rows come out as prm records, for they have steps and no gold answer.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options as o

if TYPE_CHECKING:
    from medsss_cli.problems.contamination import Contamination, Overlap
    from medsss_cli.records import Problem
    from medsss_cli.stream.jsonl import LineWriter, Where

DROPS_SHOWN = 20


def run(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...",
            help="Files (JSON, JSON lines, csv, tsv, parquet; .gz, .zst), folders, hf:NAME[:CONFIG][:SPLIT], `-` or "
            "nothing for stdin.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write here instead of stdout (.gz, .zst by name).",
            show_default=False,
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option("--layout", metavar="NAME", help="Read every row as this layout (--list).", show_default=False),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="The data set that every record names.", show_default=False),
    ] = None,
    limit: o.Limit = None,
    per_dataset: Annotated[
        int | None,
        typer.Option(
            "--per-dataset", min=1, metavar="N", help="At most N records of each data set.", show_default=False
        ),
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="In an order that --seed and the ids decide; with a limit, a sample.")
    ] = False,
    seed: o.Seed = 0,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="SOURCE",
            help="Drop what overlaps with this test set (again for more), and say on stderr what and why.",
            show_default=False,
        ),
    ] = None,
    ngram: Annotated[
        int, typer.Option("--ngram", min=0, metavar="N", help="--exclude: words in a row that are an overlap; 0: none.")
    ] = 13,
    similarity: Annotated[
        float,
        typer.Option("--similarity", min=0.0, max=1.0, metavar="S", help="--exclude: alike from here on; 0: no look."),
    ] = 0.9,
    list_: Annotated[bool, typer.Option("--list", help="List the benchmarks and the layouts, and stop.")] = False,
    errors: o.Errors = None,
    strict: o.Strict = False,
    quiet: o.Quiet = False,
) -> None:
    """Read public data sets as problem records, whole or in part, without what stands in a test set.

    The layout of each row is recognised by its keys. Rows that cannot be used are named on stderr and left out; exit
    status 1 then.
    """
    from medsss_cli.errors import UsageError
    from medsss_cli.problems import LAYOUTS
    from medsss_cli.problems.sources import find_sources
    from medsss_cli.stream.jsonl import LineWriter

    if list_:
        _show_list()
        return
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(f"there is no layout {layout!r}", hint=f"known: {', '.join(LAYOUTS)}")
    found = find_sources(sources or [])
    excluded = find_sources(exclude) if exclude else []
    _check_files([*found, *excluded], output, errors)
    report = _Report(LineWriter(errors) if errors else None, strict)
    with report:
        index = _index(excluded, ngram, similarity, report, quiet) if excluded else None
        reader = _Reader(found, layout, dataset, index, report)
        with LineWriter(output) as writer:
            for problem in _chosen(reader, limit, per_dataset, seed if shuffle else None):
                writer.write([problem])
                report.written += 1
    if index is not None:
        report.tell_drops()
    if not quiet or report.bad:
        report.summary(reader.read)
    raise typer.Exit(1 if report.bad else 0)


def _check_files(inputs: list[str], output: str | None, errors: str | None) -> None:
    """An output that is also read, or written twice, would eat itself."""
    import os

    from medsss_cli.errors import UsageError

    outputs = [(name, path) for name, path in (("-o", output), ("--errors", errors)) if path not in (None, "-")]
    for name, path in outputs:
        for other in [*inputs, *(p for n, p in outputs if n != name)]:
            if path and other and os.path.isfile(path) and os.path.exists(other) and os.path.samefile(path, other):
                raise UsageError(f"{name} {path} is also {'an input' if other in inputs else 'the other output'}")


# Reading


class _Report:
    """Bad rows and dropped ones: lines on stderr, error records, counts."""

    def __init__(self, errors: LineWriter | None, strict: bool) -> None:
        self._errors = errors
        self._strict = strict
        self.bad = self.written = 0
        self._drops: Counter[str] = Counter()

    def __enter__(self) -> _Report:
        return self

    def __exit__(self, *_: object) -> None:
        if self._errors is not None:
            self._errors.close()

    def on_bad(self, where: Where, what: str) -> None:
        """Report a row that cannot be used. With --strict it raises BadRecord."""
        from medsss_cli.console import say
        from medsss_cli.errors import BadRecord
        from medsss_cli.records import ErrorRecord

        self.bad += 1
        place = str(where) if where.line else where.source
        if self._errors is not None:
            self._errors.write([ErrorRecord(id=place, error=what, stage="read")])
        if self._strict:
            raise BadRecord(f"{place}: {what}", hint="--strict stops at the first bad line")
        say(f"{place}: {what}")

    def on_drop(self, where: Where, id: str, overlap: Overlap) -> None:
        """Report a row that overlaps with the test set; the first `DROPS_SHOWN` in full."""
        from medsss_cli.console import say

        if self._drops.total() < DROPS_SHOWN:
            shown = f'"{overlap.shown}"' if overlap.rule == "ngram" else overlap.shown
            say(f"{where}: {id} dropped ({overlap.rule}): {overlap.place} ({overlap.id}): {shown}")
        self._drops[overlap.rule] += 1

    def tell_drops(self) -> None:
        """The line of counts."""
        from medsss_cli.console import note

        total = self._drops.total()
        rules = ", ".join(f"{count} {rule}" for rule, count in self._drops.most_common())
        hidden = f"; {total - DROPS_SHOWN} of them not shown" if total > DROPS_SHOWN else ""
        note(f"load: {total} dropped for their overlap with the test set{f' ({rules})' if rules else ''}{hidden}")

    def summary(self, read: int) -> None:
        """The line at the end."""
        from medsss_cli.console import note

        note(f"load: {read} read, {self.written} written" + (f", {self.bad} bad lines" if self.bad else ""))


class _Reader:
    """The problems of the sources: parsed, each id once, none that overlaps with the test set."""

    def __init__(
        self, sources: list[str], layout: str | None, dataset: str | None, index: Contamination | None, report: _Report
    ) -> None:
        self._sources = sources
        self._layout = layout
        self._dataset = dataset
        self._index = index
        self._report = report
        self.read = 0

    def __iter__(self) -> Iterator[Problem]:
        import msgspec

        from medsss_cli.stream.shard import digest

        seen: set[int] = set()
        for where, problem in _problems(self._sources, self._layout, self._report):
            self.read += 1
            mark = digest(problem.id)
            if mark in seen:
                self._report.on_bad(where, f"the id {problem.id!r} came before; only its first record counts")
                continue
            seen.add(mark)
            if self._index is not None:
                overlap = self._index.overlap(problem)
                if overlap is not None:
                    self._report.on_drop(where, problem.id, overlap)
                    continue
            yield problem if self._dataset is None else msgspec.structs.replace(problem, dataset=self._dataset)


def _problems(sources: list[str], layout: str | None, report: _Report) -> Iterator[tuple[Where, Problem]]:
    from medsss_cli.errors import BadRecord
    from medsss_cli.problems.sources import read_rows

    parse = _row_reader(layout, _ambiguous(sources))
    for source in sources:
        for where, row in read_rows(source, on_bad=report.on_bad, layout=layout):
            try:
                problem = parse(row, where)
            except BadRecord as error:
                report.on_bad(where, str(error))
                continue
            yield where, problem


def _row_reader(layout: str | None, ambiguous: set[str]) -> Callable[[dict[str, Any], Where], Problem]:
    from medsss_cli.problems import detect, to_prm, to_problem

    def read(row: dict[str, Any], where: Where) -> Problem:
        if where.source in ambiguous and not isinstance(row.get("id"), str):
            # Two files of one name in different folders: their made-up ids would collide.
            row = row | {"id": _qualified(where, row.get("id"))}
        known = detect(row) if layout is None else None
        if layout == "processbench" or (known is not None and known.name == "processbench"):
            return to_prm(row, where, "processbench")
        return to_problem(row, where, layout)

    return read


def _ambiguous(sources: list[str]) -> set[str]:
    """The files whose stem another source has too."""
    from medsss_cli.problems.sources import source_stem

    counts = Counter(map(source_stem, sources))
    return {source for source in sources if counts[source_stem(source)] > 1}


def _qualified(where: Where, id: object) -> str:
    from pathlib import Path

    from medsss_cli.problems.sources import source_stem

    folder = where.source.replace(":", "-") if where.source.startswith("hf:") else Path(where.source).parent.name
    return f"{folder or '.'}-{source_stem(where.source)}-{where.line if id in (None, '') else id}"


def _index(sources: list[str], ngram: int, similarity: float, report: _Report, quiet: bool) -> Contamination:
    from medsss_cli.console import note
    from medsss_cli.errors import UsageError
    from medsss_cli.problems.contamination import Contamination

    if not ngram and not similarity:
        raise UsageError("--exclude with --ngram 0 and --similarity 0 only looks for equal texts", hint="set one")
    if similarity:
        try:
            import rapidfuzz  # noqa: F401
        except ImportError:
            raise UsageError(
                "near duplicates need rapidfuzz, which is not installed",
                hint="pip install rapidfuzz, or --similarity 0 for n-grams alone",
            ) from None
    index = Contamination(ngram=ngram, similarity=similarity)
    # The layout of a test set is recognised row by row: --layout is the pool's.
    for where, problem in _problems(sources, None, report):
        index.add(problem, str(where))
    if not quiet:
        note(f"load: {len(index)} problems to exclude")
    return index


# Choosing


def _chosen(
    problems: _Reader, limit: int | None, per_dataset: int | None, shuffle_seed: int | None
) -> Iterator[Problem]:
    """The records to print. Without a shuffle, in the order of the input, which is read no further than needed."""
    if shuffle_seed is not None:
        yield from _shuffled(problems, limit, per_dataset, shuffle_seed)
        return
    counts: Counter[str] = Counter()
    if limit == 0:
        return
    given = 0
    for problem in problems:
        if per_dataset is not None and counts[problem.dataset] >= per_dataset:
            continue
        counts[problem.dataset] += 1
        yield problem
        given += 1
        if limit is not None and given >= limit:
            return


def _shuffled(problems: _Reader, limit: int | None, per_dataset: int | None, seed: int) -> Iterator[Problem]:
    """In the order of a hash of seed and id, so the input's order does not matter. Of each data set only as many are
    held as may be printed: those with the smallest hashes."""
    caps = [n for n in (limit, per_dataset) if n is not None]
    cap = min(caps) if caps else None
    held: dict[str, list[tuple[int, str, Problem]]] = {}
    for problem in problems:
        digest = hashlib.blake2b(f"{seed}:{problem.id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
        heap = held.setdefault(problem.dataset, [])
        entry = (-int.from_bytes(digest), problem.id, problem)
        if cap is None:
            heap.append(entry)
        elif len(heap) < cap:
            heapq.heappush(heap, entry)
        elif cap:
            heapq.heappushpop(heap, entry)
    everything = sorted((entry for heap in held.values() for entry in heap), key=lambda entry: -entry[0])
    for _, _, problem in everything[:limit]:
        yield problem


# The list


def _show_list() -> None:
    from medsss_cli.problems import LAYOUTS
    from medsss_cli.problems.benchmarks import BENCHMARKS
    from medsss_cli.stream.jsonl import write_stdout

    head = ("benchmark", "n", "task", "split", "layouts", "on the hub")
    rows = [
        (
            entry.name,
            "-" if entry.size is None else str(entry.size),
            entry.task.value,
            entry.split,
            ", ".join(entry.layouts),
            f"hf:{entry.hub}" if entry.hub else "-",
        )
        for entry in BENCHMARKS
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: tuple[str, ...]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() + "\n"

    text = line(head)
    for entry, row in zip(BENCHMARKS, rows, strict=True):
        text += line(row) + f"    prompt: {entry.prompt}\n    right:  {entry.rule}\n"
        text += f"    note:   {entry.note}\n" if entry.note else ""
    text += "\nlayouts\n"
    width = max(map(len, LAYOUTS))
    for layout in LAYOUTS.values():
        text += f"{layout.name:{width}}  {layout.title}\n{'':{width}}  keys: {', '.join(layout.needs)}\n"
    write_stdout(text)
