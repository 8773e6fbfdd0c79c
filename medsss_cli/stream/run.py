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
from .outputs import STDOUT, LineWriter, Record, check_outputs
from .resume import GrowingOutput, State
from .shard import Shard, digest

T = TypeVar("T", bound=HasId)

AHEAD = 8
"""With `ordered`, how many times `concurrency` records may be read and not yet written: a straggler at the head holds
the others back only then, and memory stays bounded."""

GRACE = 5.0
"""Seconds that work in flight gets to finish after Ctrl-C or SIGTERM; SLURM kills half a minute after its warning."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """The options that every record-by-record command takes.

    `limit` counts the records of the shard, those that are done already among them, so the same command line means the
    same records each time.
    """

    GROUP: ClassVar[str] = "Output"

    inputs: Annotated[
        tuple[str, ...],
        Opt(
            "Files of records, also .gz and .zst; `-` or nothing is stdin.", argument=True, metavar="INPUT...", group=""
        ),
    ] = ()
    output: Annotated[
        str | None,
        Opt(
            "Write here, not to stdout. Run again, it goes on where it stopped.",
            names=("--output", "-o"),
            metavar="FILE",
            group="",
        ),
    ] = None
    restart: Annotated[bool, Opt("Overwrite the output instead of going on with it.")] = False
    errors: Annotated[str | None, Opt("Write a record for each failure here.", metavar="FILE")] = None
    shard: Annotated[
        Shard | None,
        Opt(
            "Take the I-th of N parts (0 <= I < N) by a hash of the id; auto reads SLURM's array variables.",
            parse=Shard.parse,
            metavar="I/N",
        ),
    ] = None
    limit: Annotated[
        int | None,
        Opt(
            "Take the first N records and say what the rest would take; 0 checks all, without a model.",
            least=0,
            metavar="N",
        ),
    ] = None
    strict: Annotated[bool, Opt("Stop at the first bad line or failed record.")] = False
    ordered: Annotated[bool, Opt("Write in the order of the input.")] = False
    quiet: Annotated[bool, Opt("No progress and no notes; errors stay.", names=("--quiet", "-q"))] = False

    def __post_init__(self) -> None:
        check(self)


@dataclass
class StreamCounts:
    """`read` records were this run's (shard and limit), of which `skipped_done` were in OUT already. `written` inputs
    got their results, `lines` in all, for which `tokens` were generated."""

    read: int = 0
    skipped_done: int = 0
    written: int = 0
    lines: int = 0
    tokens: int = 0


class Stream(Generic[T]):
    """One run over the records of the input; a context manager.

    `parse` makes a record out of an object, or raises BadRecord. `config` holds the settings that change results (as
    JSON can say them); it is what a resumed run is compared with. Slow work, such as opening a model, belongs inside
    the `with`, for entering it finds every wrong usage of input and output; with a limit of 0 it ends there (Finished).

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
        self.counts = StreamCounts()
        self._command = command
        self._parse = parse
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
            if options.output is None or options.output in STDOUT:
                self._out = LineWriter()
            else:
                shard = str(options.shard or "all")
                state = State(self._command, self._config, shard=shard, inputs=list(options.inputs))
                self._out = out = GrowingOutput(options.output, state, restart=options.restart)
                self._done = out.done
            if options.limit == 0:
                self._check_only()
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
        if kind is None:
            self._report()
        elif interrupted and self.counts.written and isinstance(self._out, GrowingOutput) and not self.options.quiet:
            console.note(f"{self.counts.written} done; the same command line goes on with {self._out.name}")

    def _close(self, *, whole: bool) -> None:
        try:
            if isinstance(self._out, GrowingOutput):
                self._out.state.tokens += self.counts.tokens
            if self._out is not None:
                self._out.close(whole=whole)
        finally:
            self.faults.close(whole=whole)

    def _check_only(self) -> None:
        """Read and count all that a run would do, write nothing, and end the command."""
        self.faults.close(whole=False)
        to_do = sum(1 for _ in self._records(None))
        before = [f"{self.counts.skipped_done} done before"] * bool(self.counts.skipped_done)
        console.note(", ".join([f"{self._command}: {to_do} records to do", *before, *self.faults.words()]))
        console.note("--limit 0: input, output and options were checked, nothing was written and no model opened")
        self.faults.say_causes()
        raise Finished(self.exit_code())

    def _report(self) -> None:
        counts, options = self.counts, self.options
        if options.quiet and not self.exit_code():
            return
        parts = [f"{counts.read} read", f"{counts.written} done"]
        parts += [f"{counts.lines} lines written"] * (counts.lines != counts.written)
        parts += [f"{counts.skipped_done} done before"] * bool(counts.skipped_done) + self.faults.words()
        if not counts.read and not self.faults.bad_lines:
            parts = ["the input holds no record" + (" of this shard" if options.shard else "")]
        console.note(f"{self._command}: {', '.join(parts)}; took {console.clock(time.monotonic() - self._start)}")
        self.faults.say_causes()
        if options.limit is not None and counts.read >= options.limit and not options.quiet:
            self._say_rest()

    def _say_rest(self) -> None:
        """What the records beyond the limit would take, at the pace of those that were done."""
        counts = self.counts
        rest = (self._total() or 0) - counts.read
        if rest <= 0:
            return
        said = f"{self._command}: the input files hold {'about ' * (self.options.shard is not None)}{rest:,} more"
        if counts.written:
            seconds = (time.monotonic() - self._first) * rest / counts.written
            said += f", which would take about {console.clock(seconds)}"
            said += f" and {float(f'{counts.tokens * rest / counts.written:.2g}'):,.0f} tokens" * bool(counts.tokens)
        console.note(said)

    def __iter__(self) -> Iterator[T]:
        """The records to do: parsed, in the shard, within the limit, not finished. Bad lines are reported and counted;
        with `strict` the first one raises BadRecord."""
        self._first = time.monotonic()
        return self._records(self.options.limit)

    def _records(self, limit: int | None) -> Iterator[T]:
        shard, counts = self.options.shard, self.counts
        found = read_records(self.options.inputs, self._parse, on_bad=self.faults.bad)
        ours = ((where, record) for where, record in found if shard is None or shard.keeps(record.id))
        records = first_of_each(ours, on_bad=self.faults.bad)
        # The limit is looked at before the next line is asked for: whoever writes our input may be slow.
        while (limit is None or counts.read < limit) and (each := next(records, None)):
            counts.read += 1
            mark = digest(each[1].id)
            if mark in self._done:
                self._done.discard(mark)  # each digest is held once
                counts.skipped_done += 1
            else:
                yield each[1]

    def expected(self) -> int | None:
        """About how many records this run has to do, for the line of progress; None where nobody can tell."""
        count = None if self.options.quiet else self._total()
        if count is None:
            return None
        return max(min(count, self.options.limit or count) - len(self._done), 0)

    def _total(self) -> int | None:
        """The records of the input files; of a shard it is the expectation."""
        count = count_records(self.options.inputs)
        return count if count is None or self.options.shard is None else round(count / self.options.shard.count)

    def write(self, records: Sequence[Record]) -> None:
        """All results of one input at once, flushed. They carry its id, by which a resumed run knows them. Raises
        BadRecord if one cannot be written as JSON; then none is."""
        assert self._out is not None
        self._out.write(records)
        self.counts.written += 1
        self.counts.lines += len(records)

    def fail(self, id: str, stage: str, error: str) -> None:
        """The input of this id failed in `stage`. With `strict` it raises MedsssError, which ends the run."""
        self.faults.fail(id, stage, error)

    def exit_code(self) -> int:
        """0 if all went well, 1 if a line was bad or a record failed."""
        return self.faults.exit_code


async def run_concurrently(
    stream: Stream[T],
    work: Callable[[T], Awaitable[Sequence[Record]]],
    *,
    stage: str,
    concurrency: int,
    on_done: Callable[[T, Sequence[Record]], None] | None = None,
) -> None:
    """Do `work` on every record of the stream, `concurrency` of them in flight, with no barrier between them.

    Each result is written as it is done, or in the order of the input if the stream's options say so; `on_done` is told
    after that. A MedsssError of one record is its failure (`stream.fail`) and the run goes on; a UsageError is none of
    one record, and it and every other exception end the run. What ends the reading (a bad line under `strict`) is
    raised when what is in flight is done. When the run is cancelled (Ctrl-C) no more work is taken; what is in flight
    has GRACE seconds to finish and be written, the rest is cancelled.
    """
    loop = _Loop(stream, work, stage, concurrency, on_done)
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


class _Loop(Generic[T]):
    """One run of `run_concurrently`: workers, each with one record at a time, and a thread that reads."""

    def __init__(
        self,
        stream: Stream[T],
        work: Callable[[T], Awaitable[Sequence[Record]]],
        stage: str,
        concurrency: int,
        on_done: Callable[[T, Sequence[Record]], None] | None,
    ) -> None:
        self.in_flight = 0
        self._stream, self._work, self._stage, self._on_done = stream, work, stage, on_done
        self._workers = concurrency * (AHEAD if stream.options.ordered else 1)
        self._free = asyncio.Semaphore(concurrency)
        self._asked = threading.Semaphore(0)
        self._answers: asyncio.Queue[T | BaseException | None] = asyncio.Queue()
        self._reading = asyncio.Lock()
        self._over = False
        self._ended_by: BaseException | None = None
        self._last = asyncio.Event()  # what came of the record that was read last is written

    async def run(self) -> None:
        # Not by `asyncio.to_thread`: its threads are waited for at the end of the program, and one that sits in a read
        # of an open pipe would keep an interrupted program alive. This one is left where it is.
        threading.Thread(target=self._read, args=(asyncio.get_running_loop(),), daemon=True).start()
        self._last.set()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._take_turns())
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        if self._ended_by is not None:
            raise self._ended_by

    def end(self) -> None:
        """Begin with no further record."""
        self._over = True
        self._answers.put_nowait(None)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer each question with a record, the last one with None or what went wrong; read none ahead."""
        records = iter(self._stream)
        answer: T | BaseException | None
        while self._asked.acquire():
            try:
                answer = next(records, None)
            except BaseException as error:
                answer = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: the run was interrupted
                loop.call_soon_threadsafe(self._answers.put_nowait, answer)
            if answer is None or isinstance(answer, BaseException):
                return

    async def _take_turns(self) -> None:
        while True:
            async with self._reading:
                if self._over:
                    return
                self._asked.release()
                answer = await self._answers.get()
                if answer is None or isinstance(answer, BaseException):
                    self._over, self._ended_by = True, answer
                    return
                before, self._last = self._last, asyncio.Event()
                written = self._last
            async with self._free:
                self.in_flight += 1
                outcome = await self._outcome(answer)
            if self._stream.options.ordered:
                await before.wait()
            self._write(answer, outcome)
            self.in_flight -= 1
            written.set()

    async def _outcome(self, record: T) -> Sequence[Record] | MedsssError:
        try:
            return await self._work(record)
        except UsageError:
            raise
        except MedsssError as error:
            return error

    def _write(self, record: T, outcome: Sequence[Record] | MedsssError) -> None:
        try:
            if not isinstance(outcome, MedsssError):
                self._stream.write(outcome)
        except BadRecord as error:
            outcome = error
        if isinstance(outcome, MedsssError):
            self._stream.fail(record.id, self._stage, str(outcome))
            return
        self._stream.counts.tokens += sum(_tokens(record, result) for result in outcome)
        if self._on_done is not None:
            self._on_done(record, outcome)


def _tokens(record: Any, result: Any) -> int:
    """How many tokens were generated for a result. Answers that the record brought along stand first in it, and cost
    nothing."""
    answers = getattr(result, "responses", ())[len(getattr(record, "responses", ())) :]
    tokens: int = (getattr(result, "stats", None) or {}).get("tokens", 0)
    return tokens + sum(int(answer.tokens) for answer in answers)
