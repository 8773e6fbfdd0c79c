"""`medsss load`: public data sets in, problem records out. Costs no model; only `hf:` sources touch the network.

Every command reads these layouts by itself; `load` is for a look at them, for a part of them, for tables and the hub,
for layouts that need `--map`, and to keep what is in a test set out of a pool. Rows are read one at a time; `--shuffle`
holds what it will print. ProcessBench rows come out as prm records, the authors' tree files as trees.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from medsss_cli.console import note, say
from medsss_cli.errors import BadRecord, UsageError
from medsss_cli.problems import FieldMap, to_record
from medsss_cli.problems.contamination import NGRAM, Contamination, Overlap
from medsss_cli.problems.sources import find_sources, read_rows, stem
from medsss_cli.records import Problem
from medsss_cli.settings import Opt, check
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import Where
from medsss_cli.stream.whole import open_whole

from ._options import Output, options, refuse_given

DROPS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What to read, what of it to take, and where to write it."""

    sources: Annotated[
        tuple[str, ...],
        Opt(
            "Files (JSON, JSON lines, csv, tsv, parquet; .gz, .zst), folders, hf:NAME[:CONFIG][:SPLIT][@REVISION], `-` "
            "or nothing for stdin.",
            argument=True,
            metavar="[SOURCE]...",
        ),
    ] = ()
    output: Output = None
    limit: Annotated[
        int | None, Opt("Take the first N only; 0 reads all, counts, and writes nothing.", least=0, metavar="N")
    ] = None
    shuffle: Annotated[bool, Opt("In an order that --seed and the ids decide; with --limit, a sample.")] = False
    seed: Annotated[int, Opt("What --shuffle goes by.", metavar="S")] = 0
    map: Annotated[
        tuple[str, ...],
        Opt(
            "For a layout that is not known: the field that is our NAME (question, options, answer, id, dataset). Dots "
            "lead into nested fields, commas join several (options=opa,opb); answer=FIELD:0 or FIELD:1 is a position "
            "and what it counts from; numbers are the columns of a table without names. Again for each.",
            metavar="NAME=FIELD",
        ),
    ] = ()
    exclude: Annotated[
        tuple[str, ...],
        Opt("Drop what overlaps with this test set (again for more); say on stderr what and why.", metavar="SOURCE"),
    ] = ()
    ngram: Annotated[int, Opt("--exclude: words in a row that are an overlap; 0: none.", least=0, metavar="N")] = NGRAM
    errors: Annotated[str | None, Opt("Write a record for each bad row here.", metavar="FILE")] = None
    strict: Annotated[bool, Opt("Stop at the first bad row.")] = False
    restart: Annotated[bool, Opt("Overwrite what is in -o FILE.")] = False
    quiet: Annotated[bool, Opt("No notes on stderr; errors stay.", names=("--quiet", "-q"))] = False

    def __post_init__(self) -> None:
        check(self)


@options
def run(*, asked: LoadOptions) -> None:
    """Read public data sets as problem records, whole or in part, without what stands in a test set.

    The layout of each row is recognised by its keys, or said by --map. Rows that cannot be used are named on stderr and
    left out; exit status 1 then.
    """
    if not asked.shuffle:
        refuse_given(("seed",), "belongs to --shuffle")
    if not asked.exclude:
        refuse_given(("ngram",), "belongs to --exclude")
    fields = FieldMap.parse(asked.map) if asked.map else None
    sources = find_sources(asked.sources)
    excluded = find_sources(asked.exclude) if asked.exclude else []
    local = [source for source in (*sources, *excluded) if not source.startswith("hf:")]
    written = 0
    with (
        open_whole(asked.output, inputs=local, errors=asked.errors, restart=asked.restart) as writer,
        Faults(errors=asked.errors, strict=asked.strict) as faults,
    ):
        pool = _Pool(sources, fields, _index(excluded, asked.ngram, faults, asked.quiet), faults)
        for problem in _shuffled(pool, asked.limit, asked.seed) if asked.shuffle else pool.first(asked.limit):
            writer.write([problem])
            written += 1
        if asked.shuffle and not pool.read and not faults.exit_code:
            raise UsageError("there is no record to shuffle")
        pool.tell_drops()
        if not asked.quiet or faults.exit_code:
            note(", ".join([f"load: {pool.read} read", f"{written} written", *faults.words()]))
            faults.say_causes()
        if asked.limit == 0:
            raise typer.Exit(faults.exit_code)  # no file is made
    raise typer.Exit(faults.exit_code)


class _Pool:
    """The problems of the sources: each id once, none that overlaps with the test set. `read` counts rows."""

    def __init__(
        self, sources: list[str], fields: FieldMap | None, index: Contamination | None, faults: Faults
    ) -> None:
        self._sources = sources
        self._fields = fields
        self._index = index
        self._faults = faults
        self._drops: Counter[str] = Counter()
        self.read = 0

    def __iter__(self) -> Iterator[Problem]:
        seen: set[int] = set()
        for where, problem in _problems(self._sources, self._fields, self._faults):
            self.read += 1
            mark = hash(problem.id)
            if mark in seen:
                self._faults.bad(where, f"the id {problem.id!r} came before; only its first record counts")
                continue
            seen.add(mark)
            overlap = None if self._index is None else self._index.overlap(problem)
            if overlap is None:
                yield problem
            else:
                self._drop(where, problem.id, overlap)

    def first(self, limit: int | None) -> Iterator[Problem]:
        """The first `limit` problems; no row behind them is read, but with 0 all are."""
        for number, problem in enumerate(self, start=1):
            if limit != 0:
                yield problem
            if number == limit:
                return

    def _drop(self, where: Where, id: str, overlap: Overlap) -> None:
        if self._drops.total() < DROPS_SHOWN:
            shown = f'"{overlap.shown}"' if overlap.rule == "ngram" else overlap.shown
            say(f"{where}: {id} dropped ({overlap.rule}): {overlap.place} ({overlap.id}): {shown}")
        self._drops[overlap.rule] += 1

    def tell_drops(self) -> None:
        """The line of counts, where a test set was to be kept out."""
        if self._index is None:
            return
        total = self._drops.total()
        rules = ", ".join(f"{count} {rule}" for rule, count in self._drops.most_common())
        hidden = f"; {total - DROPS_SHOWN} of them not shown" if total > DROPS_SHOWN else ""
        note(f"load: {total} dropped for their overlap with the test set{f' ({rules})' if rules else ''}{hidden}")


def _problems(sources: list[str], fields: FieldMap | None, faults: Faults) -> Iterator[tuple[Where, Problem]]:
    """The rows of the sources as records, with their places."""
    stems = Counter(map(stem, sources))
    for source in sources:
        folder = Path(source).parent.name or "." if not source.startswith("hf:") else source.replace(":", "-")
        for where, row in read_rows(source, on_bad=faults.bad, header=fields is None or not fields.by_column):
            try:
                problem = to_record(row, where, fields)
            except BadRecord as error:
                faults.bad(where, str(error))
                continue
            if stems[stem(source)] > 1 and problem.id.startswith(f"{stem(source)}-"):
                # Two files of one name in different folders: the ids that we made of it would collide.
                problem = msgspec.structs.replace(problem, id=f"{folder}-{problem.id}")
            yield where, problem


def _index(sources: list[str], ngram: int, faults: Faults, quiet: bool) -> Contamination | None:
    """The test set to keep out. Its layout is recognised row by row: --map is the pool's."""
    if not sources:
        return None
    index = Contamination(ngram=ngram)
    for where, problem in _problems(sources, None, faults):
        index.add(problem, str(where))
    if not len(index):
        raise UsageError(f"--exclude: no problem in {', '.join(sources)}")
    if not quiet:
        note(f"load: {len(index)} problems to exclude")
    return index


def _shuffled(pool: _Pool, limit: int | None, seed: int) -> Iterator[Problem]:
    """In the order of a hash of seed and id, so the input's order does not matter. Only `limit` are held."""
    ranked = ((_rank(seed, problem.id), problem.id, problem) for problem in pool)
    chosen = sorted(ranked) if limit is None else heapq.nsmallest(limit, ranked)
    return (problem for _, _, problem in chosen)


def _rank(seed: int, id: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
