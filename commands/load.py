"""`medsss load`: public data sets in, problem records out. Costs no model; only `hf:` sources touch the network.

Every command reads these layouts by itself; `load` is for a look at them, for a part of them, for tables and the hub,
for layouts that need `--map`, and to keep what is in a test set out of a pool. Rows are read one at a time; `--shuffle`
holds what it will print. ProcessBench rows come out as prm records, the authors' tree files as trees.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from medsss_cli.console import note, say
from medsss_cli.errors import BadRecord, UsageError
from medsss_cli.problems import to_record
from medsss_cli.problems.contamination import NGRAM, RULES, Contamination
from medsss_cli.problems.rows import FieldMap
from medsss_cli.problems.sources import find_sources, read_rows, stem
from medsss_cli.records import Problem
from medsss_cli.settings import Opt
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import Where, first_of_each
from medsss_cli.stream.outputs import open_whole

from ._options import Output, Quiet, Restart, Strict, options, refuse_given

DROPS_SHOWN = 20


@options
def run(
    *,
    sources: Annotated[
        tuple[str, ...],
        Opt(
            "Files (JSON, JSON lines, csv, tsv, parquet; .gz, .zst), hf:NAME[[:CONFIG]:SPLIT][@REVISION], `-` or "
            "nothing for stdin.",
            argument=True,
            metavar="[SOURCE]...",
        ),
    ] = (),
    output: Output = None,
    limit: Annotated[
        int | None, Opt("Take the first N only; 0 reads all, counts, and writes nothing.", least=0, metavar="N")
    ] = None,
    shuffle: Annotated[bool, Opt("In an order that --seed and the ids decide; with --limit, a sample.")] = False,
    seed: Annotated[int, Opt("What --shuffle goes by.", metavar="S")] = 0,
    map: Annotated[
        tuple[str, ...],
        Opt(
            "For a layout that is not known: the field that is our NAME (question, options, answer, id, dataset). Dots "
            "lead into nested fields, commas join several (options=opa,opb); answer=FIELD:0 or FIELD:1 is a position "
            "and what it counts from. Again for each.",
            metavar="NAME=FIELD",
        ),
    ] = (),
    exclude: Annotated[
        tuple[str, ...],
        Opt("Drop what overlaps with this test set (again for more); say on stderr what and why.", metavar="SOURCE"),
    ] = (),
    ngram: Annotated[int, Opt("--exclude: words in a row that are an overlap; 0: none.", least=0, metavar="N")] = NGRAM,
    errors: Annotated[str | None, Opt("Write a record for each bad row here.", metavar="FILE")] = None,
    strict: Strict = False,
    restart: Restart = False,
    quiet: Quiet = False,
) -> None:
    """Read public data sets as problem records, whole or in part, without what stands in a test set.

    The layout of each row is recognised by its keys, or said by --map. Rows that cannot be used are named on stderr and
    left out; exit status 1 then.
    """
    if not shuffle:
        refuse_given(("seed",), "belongs to --shuffle")
    if not exclude:
        refuse_given(("ngram",), "belongs to --exclude")
    fields = FieldMap.parse(map) if map else None
    pool, test = find_sources(sources), find_sources(exclude) if exclude else []
    local = [source for source in (*pool, *test) if not source.startswith("hf:")]
    counts: Counter[str] = Counter()
    with (
        open_whole(output, inputs=local, errors=errors, restart=restart) as writer,
        Faults(errors=errors, strict=strict) as faults,
    ):
        index = Contamination(ngram=ngram)
        for where, problem in _problems(test, None, faults):  # its layout is recognised: --map is the pool's
            index.add(problem, str(where))
        if test and not len(index):
            raise UsageError(f"--exclude: no problem in {', '.join(test)}")
        if test and not quiet:
            note(f"load: {len(index)} problems to exclude")
        rows = first_of_each(_problems(pool, fields, faults), on_bad=faults.bad)
        kept = _without(index, rows, counts)
        if shuffle:
            kept = _shuffled(kept, seed, limit)
        if limit == 0:
            deque(kept, maxlen=0)
        for problem in islice(kept, limit):
            writer.write([problem])
            counts["written"] += 1
        if shuffle and not counts["read"] and not faults.exit_code:
            raise UsageError("there is no record to shuffle")
        dropped = [f"{counts[rule]} {rule}" for rule in RULES if counts[rule]]
        if test:
            total = sum(counts[rule] for rule in RULES)
            hidden = f"; {total - DROPS_SHOWN} of them not shown" if total > DROPS_SHOWN else ""
            rules = f" ({', '.join(dropped)})" if dropped else ""
            note(f"load: {total} dropped for their overlap with the test set{rules}{hidden}")
        if not quiet or faults.exit_code:
            note(", ".join([f"load: {counts['read']} read", f"{counts['written']} written", *faults.words()]))
            faults.say_causes()
        if limit == 0:
            raise typer.Exit(faults.exit_code)  # no file is made
    raise typer.Exit(faults.exit_code)


def _problems(sources: list[str], fields: FieldMap | None, faults: Faults) -> Iterator[tuple[Where, Problem]]:
    """The rows of the sources as records, with their places."""
    stems = Counter(map(stem, sources))
    for source in sources:
        folder = Path(source).parent.name or "." if not source.startswith("hf:") else source.replace(":", "-")
        for where, row in read_rows(source, on_bad=faults.bad):
            try:
                problem = to_record(row, where, fields)
            except BadRecord as error:
                faults.bad(where, str(error))
                continue
            if stems[stem(source)] > 1 and problem.id.startswith(f"{stem(source)}-"):
                # Two files of one name in different folders: the ids that we made of it would collide.
                problem = replace(problem, id=f"{folder}-{problem.id}")
            yield where, problem


def _without(index: Contamination, rows: Iterable[tuple[Where, Problem]], counts: Counter[str]) -> Iterator[Problem]:
    """The problems that no test problem overlaps with; the first DROPS_SHOWN of the others are named."""
    for where, problem in rows:
        counts["read"] += 1
        if (overlap := index.overlap(problem)) is None:
            yield problem
            continue
        rule, shared = overlap
        counts[rule] += 1
        if sum(counts[rule] for rule in RULES) <= DROPS_SHOWN:
            say(f"{where}: {problem.id} dropped ({rule}): {shared}")


def _shuffled(problems: Iterable[Problem], seed: int, limit: int | None) -> Iterator[Problem]:
    """In the order of a hash of seed and id, so that the input's order does not matter. Of a part only that is held."""

    def rank(problem: Problem) -> tuple[bytes, str]:
        text = f"{seed}:{problem.id}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=16).digest(), problem.id

    yield from sorted(problems, key=rank) if limit is None else heapq.nsmallest(limit, problems, key=rank)
