"""The run loop of every command that works record by record. A `Stream` is opened on the options that all such commands
share; iterated, it gives the records that this run has to do; `write` takes the results of one of them, `fail` its
failure. `run_concurrently` keeps many in flight. How a run goes on after a stop is `resume.py`."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import orjson

from .. import console, signals
from ..errors import BadRecord, Finished, MedsssError, UsageError
from ..settings import Opt, check
from .faults import Faults
from .jsonl import HasId, Where, check_inputs, count_records, first_of_each, read_records
from .outputs import LineWriter, Record, check_outputs, straight
from .resume import GrowingOutput, State
from .shard import Shard, digest

T = TypeVar("T", bound=HasId)

AHEAD = 8  # with `ordered`, how many times `concurrency` records may wait for a straggler at the head
GRACE = 5.0  # seconds that work in flight gets after Ctrl-C or SIGTERM; SLURM kills half a minute after its warning


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What every record-by-record command takes. `limit` counts the records of the shard, those that are done already
    among them, so the same command line means the same records each time."""

    GROUP: ClassVar[str] = "Output"

    inputs: Annotated[
        tuple[str, ...],
        Opt("Files of records, also .gz and .zst; `-` or nothing is stdin.", argument=True, metavar="INPUT..."),
    ] = ()
    output: Annotated[
        str | None,
        Opt("Write to a file. Run again, it goes on where it stopped.", ("--output", "-o"), metavar="FILE", group=""),
    ] = None
    restart: Annotated[bool, Opt("Overwrite the output instead of going on with it.")] = False
    errors: Annotated[str | None, Opt("Write a record for each failure here.", metavar="FILE")] = None
    shard: Annotated[
        Shard | None,
        Opt("Take part I of N (from 0) by a hash of the id; auto: SLURM's array.", parse=Shard.parse, metavar="I/N"),
    ] = None
    limit: Annotated[
        int | None, Opt("Take the first N and say what the rest would take; 0 only checks.", least=0, metavar="N")
    ] = None
    strict: Annotated[bool, Opt("Stop at the first bad line or failed record.")] = False
    ordered: Annotated[bool, Opt("Write in the order of the input.")] = False
    quiet: Annotated[bool, Opt("No progress and no notes; errors stay.", ("--quiet", "-q"))] = False

    def __post_init__(self) -> None:
        check(self)


class Stream(Generic[T]):
    """One run over the records of the input; a context manager.

    `parse` makes a record out of an object, or raises BadRecord. `config` holds the settings that change results (as
    JSON can say them); it is what a resumed run is compared with. Slow work, such as opening a model, belongs inside
    the `with`, for entering it finds every wrong usage of input and output; with a limit of 0 it ends there (Finished).

    `read` records were this run's (shard and limit), of which `skipped_done` were in OUT already. `written` inputs got
    their results, `lines` in all, for which `tokens` were generated; `faults` knows what went wrong.

    The iterator and `fail` may run in another thread than `write`; each of them in one thread only.
    """

    def __init__(
        self,
        options: StreamOptions,
        *,
        command: str,
        parse: Callable[[dict[str, Any], Where], T],
        config: Mapping[str, Any],
    ) -> None:
        self.options = options
        self.read = self.skipped_done = self.written = self.lines = self.tokens = 0
        self._command, self._parse = command, parse
        self._config: dict[str, Any] = orjson.loads(orjson.dumps(dict(config), default=str))
        self._start = self._first = time.monotonic()

    def __enter__(self) -> Stream[T]:
        options = self.options
        check_inputs(options.inputs or ("-",))
        check_outputs(options.inputs, {"-o": options.output, "--errors": options.errors})
        self.faults = Faults(errors=options.errors, strict=options.strict)
        self._out: LineWriter | None = None
        self._done: set[int] = set()
        try:
            self._out = straight(options.output, "-o")
            if self._out is None:
                shard = str(options.shard or "all")
                state = State(self._command, self._config, shard=shard, inputs=list(options.inputs))
                self._out = out = GrowingOutput(str(options.output), state, restart=options.restart)
                self._done = out.done
            if options.limit == 0:
                self.faults.close(whole=False)
                self._say(f"{sum(1 for _ in self._records(None))} records to do")
                console.note("--limit 0: input, output and options were checked; nothing written, no model opened")
                raise Finished(self.exit_code())
            if self._done and not options.quiet:
                console.note(f"{options.output} holds the results of {len(self._done)} records; going on after them")
        except BaseException:
            self._close(whole=False)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        interrupted = kind is not None and issubclass(kind, (KeyboardInterrupt, asyncio.CancelledError))
        if interrupted:
            signals.next_is_final()
        self._close(whole=kind is None)
        quiet = self.options.quiet
        if kind is None and not (quiet and not self.exit_code()):
            lines = [f"{self.lines} lines written"] * (self.lines != self.written)
            done = [f"{self.read} read", f"{self.written} done", *lines]
            if not self.read and not self.faults.bad_lines:
                done = ["the input holds no record" + " of this shard" * bool(self.options.shard)]
            self._say(*done, end=f"; took {console.clock(time.monotonic() - self._start)}")
            if not quiet:
                self._say_rest()
        elif interrupted and self.written and isinstance(self._out, GrowingOutput) and not quiet:
            console.note(f"{self.written} done; the same command line goes on with {self._out.name}")

    def _close(self, *, whole: bool) -> None:
        try:
            if isinstance(self._out, GrowingOutput):
                self._out.state.tokens += self.tokens
            if self._out is not None:
                self._out.close(whole=whole)
        finally:
            self.faults.close(whole=whole)

    def _say(self, *done: str, end: str = "") -> None:
        before = [f"{self.skipped_done} done before"] * bool(self.skipped_done)
        console.note(f"{self._command}: {', '.join([*done, *before, *self.faults.words()])}{end}")
        self.faults.say_causes()

    def _say_rest(self) -> None:
        """What the records beyond the limit would take, at the pace of those that were done."""
        if self.options.limit is None or (rest := (self._total() or 0) - self.read) <= 0:
            return
        said = f"{self._command}: the input files hold {'about ' * bool(self.options.shard)}{rest:,} more"
        if self.written:
            share = rest / self.written
            said += f", which would take about {console.clock((time.monotonic() - self._first) * share)}"
            said += f" and {float(f'{self.tokens * share:.2g}'):,.0f} tokens" * bool(self.tokens)
        console.note(said)

    def __iter__(self) -> Iterator[T]:
        """The records to do: parsed, in the shard, within the limit, not finished. Bad lines are reported and counted;
        with `strict` the first one raises BadRecord."""
        self._first = time.monotonic()
        return self._records(self.options.limit)

    def _records(self, limit: int | None) -> Iterator[T]:
        shard = self.options.shard
        found = read_records(self.options.inputs, self._parse, on_bad=self.faults.bad)
        ours = ((where, record) for where, record in found if shard is None or shard.keeps(record.id))
        records = first_of_each(ours, on_bad=self.faults.bad)
        # The limit is looked at before the next line is asked for: whoever writes our input may be slow.
        while (limit is None or self.read < limit) and (each := next(records, None)):
            self.read += 1
            mark = digest(each[1].id)
            if mark in self._done:
                self._done.discard(mark)  # each digest is held once
                self.skipped_done += 1
            else:
                yield each[1]

    def expected(self) -> int | None:
        """About how many records this run has to do, for the line of progress; None where nobody can tell."""
        count = None if self.options.quiet else self._total()
        return None if count is None else max(min(count, self.options.limit or count) - len(self._done), 0)

    def _total(self) -> int | None:
        """The records of the input files; of a shard it is the expectation."""
        count, shard = count_records(self.options.inputs), self.options.shard
        return round(count / shard.count) if count and shard else count

    def write(self, records: Sequence[Record]) -> None:
        """All results of one input at once, flushed. They carry its id, by which a resumed run knows them. Raises
        BadRecord if one cannot be written as JSON; then none is."""
        assert self._out is not None
        self._out.write(records)
        self.written += 1
        self.lines += len(records)

    def fail(self, id: str, stage: str, error: str) -> None:
        """The input of this id failed in `stage`. With `strict` it raises MedsssError, which ends the run."""
        self.faults.fail(id, stage, error)

    def exit_code(self) -> int:
        return self.faults.exit_code


async def run_concurrently(
    stream: Stream[T],
    work: Callable[[T], Awaitable[Sequence[Record]]],
    *,
    stage: str,
    concurrency: int,
) -> None:
    """Do `work` on every record of the stream, `concurrency` of them in flight, with no barrier between them.

    Each result is written as it is done, or in the order of the input if the stream's options say so. A MedsssError of
    one record is its failure (`stream.fail`) and the run goes on; a UsageError and every other exception end it. What
    ends the reading (a bad line under `strict`) is raised when what is in flight is done. When the run is cancelled
    (Ctrl-C) no more work is taken; what is in flight has GRACE seconds to finish and be written.
    """
    loop = _Loop(stream, work, stage, concurrency)
    running = asyncio.create_task(loop.run())
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        signals.next_is_final()
        loop.end()
        if loop.in_flight and not stream.options.quiet:
            console.note(f"stopping: {loop.in_flight} in flight have {GRACE:.0f} s to finish; once more stops at once")
        await asyncio.wait([running], timeout=GRACE)
        if running.done():
            running.result()  # a disk that is full, say: not to be hidden behind "interrupted"
        running.cancel()
        await asyncio.wait([running])
        raise


@dataclass(eq=False)
class _Loop(Generic[T]):
    """One run of `run_concurrently`: workers, each with one record at a time, and a thread that reads for them."""

    stream: Stream[T]
    work: Callable[[T], Awaitable[Sequence[Record]]]
    stage: str
    concurrency: int
    in_flight: int = 0

    def __post_init__(self) -> None:
        self._workers = self.concurrency * (AHEAD if self.stream.options.ordered else 1)
        self._over = False
        self._failure: BaseException | None = None
        self._places, self._busy = threading.Semaphore(self._workers), asyncio.Semaphore(self.concurrency)
        self._records: asyncio.Queue[T | None] = asyncio.Queue()
        self._last = asyncio.Event()  # what came of the record before is written
        self._last.set()

    async def run(self) -> None:
        # Not by `asyncio.to_thread`: its threads are waited for at the end of the program, and one that sits in a read
        # of an open pipe would keep an interrupted program alive. This one is left where it is.
        threading.Thread(target=self._read, args=(asyncio.get_running_loop(),), daemon=True).start()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._take_turns())
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Begin with no further record."""
        self._over = True
        self._records.put_nowait(None)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read a record whenever there is a place for it, none ahead."""
        records, record = iter(self.stream), None
        while self._places.acquire():
            try:
                record = next(records, None)
            except BaseException as error:
                self._failure, record = error, None
            with contextlib.suppress(RuntimeError):  # the loop is closed: the run was interrupted
                loop.call_soon_threadsafe(self._records.put_nowait, record)
            if record is None:
                return

    async def _take_turns(self) -> None:
        while (record := await self._records.get()) is not None and not self._over:
            before, self._last = self._last, asyncio.Event()
            written = self._last
            outcome: Sequence[Record] | MedsssError
            async with self._busy:
                self.in_flight += 1
                try:
                    outcome = await self.work(record)
                except UsageError:
                    raise
                except MedsssError as error:
                    outcome = error
            if self.stream.options.ordered:
                await before.wait()
            try:
                if isinstance(outcome, MedsssError):
                    self.stream.fail(record.id, self.stage, str(outcome))
                else:
                    self.stream.write(outcome)
                    self.stream.tokens += sum(_tokens(record, result) for result in outcome)
            except BadRecord as error:
                self.stream.fail(record.id, self.stage, str(error))
            self.in_flight -= 1
            written.set()
            self._places.release()
        self.end()


def _tokens(record: Any, result: Any) -> int:
    """How many tokens were generated for a result. Answers that the record brought along stand first in it, and cost
    nothing."""
    answers = getattr(result, "responses", ())[len(getattr(record, "responses", ())) :]
    tokens: int = (getattr(result, "stats", None) or {}).get("tokens", 0)
    return tokens + sum(int(answer.tokens) for answer in answers)
