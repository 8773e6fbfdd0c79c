"""The run loop of every command that works record by record: what to read, what is done already, what failed.

A `Stream` is opened on the options that all such commands share. Iterated, it gives the records that this run has to
do; `write` takes the results of one of them, `fail` its failure. `run_concurrently` keeps many in flight.

With an output file a run can be resumed. Beside OUT stands OUT.run.json, the sidecar: command, version, configuration.
It is written before the first record, and a later run with other settings is refused. These hold at every moment,
`kill -9` included:

1. All lines of one input are one write to OUT, so they stand together, as one group.
2. A line without its line feed is torn; on resume it is cut off.
3. Before the first group of more than one line goes out, the sidecar says `several_lines`. Only then can a group be
   there in part, and only the last one; on resume the last group is dropped and done again. Where an input gives one
   line, a whole line is a whole result and nothing is done twice.
4. A run that ends by itself leaves the size of OUT in the sidecar; an OUT of just that size is whole, and left alone.
5. OUT is locked (flock) from before it is looked at until it is closed.

An input that failed, or that gave no line, is no part of OUT; a resumed run does it again.

This module knows no engine. It prints only what the user must see of the stream itself, through `console`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import re
import stat
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import orjson

from .. import __version__, console, signals
from ..dry_run import HELD, DryRunDone, probe
from ..errors import BadRecord, MedsssError, UsageError
from ..records import ErrorRecord
from .jsonl import LineWriter, Where, check_inputs, compression, count_records, read_objects, unpack


class HasId(Protocol):
    """What a stream needs of a record."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=HasId)
Record = msgspec.Struct | dict[str, Any]

_END: tuple[Where, None] = (Where("", 0), None)


def digest(id: str) -> int:
    """64 bits of blake2b of an id, equal on every machine. Shards and the sets of ids that are done stand on it; among
    ten million ids two share one with a chance of 3 in a million."""
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest())


@dataclass(frozen=True, slots=True)
class Shard:
    """The `index`-th of `count` parts of any input: disjoint, together complete, and the same on every machine."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UsageError(
                f"there is no shard {self.index}/{self.count}",
                hint=f"shards of {self.count} are numbered 0 to {self.count - 1}" if self.count > 0 else None,
            )

    def keeps(self, id: str) -> bool:
        """Whether the record of this id falls in the shard."""
        return digest(id) % self.count == self.index

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/8`, or `auto`, which reads the variables of a SLURM array job (task id, smallest id, count, step).

        Raises UsageError.
        """
        if text == "auto":
            return cls._of_slurm(os.environ)
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise UsageError(f"not a shard: {text}", hint="--shard I/N with 0 <= I < N, or --shard auto")
        return cls(int(index), int(count))

    @classmethod
    def _of_slurm(cls, environ: Mapping[str, str]) -> Shard:
        try:
            task, least, count = (int(environ["SLURM_ARRAY_TASK_" + name]) for name in ("ID", "MIN", "COUNT"))
            step = int(environ.get("SLURM_ARRAY_TASK_STEP") or 1)
        except (KeyError, ValueError) as error:
            raise UsageError(
                f"--shard auto: no SLURM array job here ({error})", hint="sbatch --array=0-7, or --shard I/N"
            ) from None
        index, rest = divmod(task - least, max(step, 1))
        if rest or not 0 <= index < count:
            raise UsageError(
                f"--shard auto: task {task} of an array of {count} from {least}, which has gaps",
                hint="give the array as a range, as in sbatch --array=0-7",
            )
        return cls(index, count)


class DryRun(StrEnum):
    """How much of a run is done in earnest."""

    NO = "no"
    """All of it."""
    PLAN = "plan"
    """Input and output are looked at, what is to do is said, and the command ends. Nothing is written."""
    PROBE = "probe"
    """That, and a few records are worked on to learn what they cost; their results are thrown away."""


@dataclass(frozen=True)
class StreamOptions:
    """The options that every record-by-record command takes (`commands/_options.py` says them to the user).

    No `inputs` is stdin, no `output` is stdout. `limit` counts the records of the shard, those that are done already
    among them, so the same command line means the same records each time. `verbose` shows where a failure arose.
    """

    inputs: tuple[str, ...] = ()
    output: str | None = None
    errors: str | None = None
    shard: Shard | None = None
    limit: int | None = None
    strict: bool = False
    ordered: bool = False
    restart: bool = False
    quiet: bool = False
    verbose: bool = False
    dry_run: DryRun = DryRun.NO


@dataclass
class StreamCounts:
    """`read` records were this run's (shard and limit), of which `skipped_done` were in OUT already. `written` inputs
    got their results, `lines` in all; `failed` did not. `bad_lines` were no record, or one whose id had come before.
    `elsewhere` records were those of other shards."""

    read: int = 0
    skipped_done: int = 0
    written: int = 0
    lines: int = 0
    failed: int = 0
    bad_lines: int = 0
    elsewhere: int = 0


@dataclass
class _Sidecar:
    """OUT.run.json. `whole_bytes` is the size that OUT had when a run ended by itself, None while one is under way;
    `seconds` of wall time went into OUT, those of runs that were killed left out. `shard` is the part of the input
    that OUT is for ("2/8", "all", or None from a version that did not say); `writer` is the process that writes, or
    that was killed while it did, None after an end."""

    command: str
    config: dict[str, Any]
    version: str = __version__
    several_lines: bool = False
    whole_bytes: int | None = None
    seconds: float = 0.0
    shard: str | None = None
    writer: str | None = None
    path: str = field(default="", compare=False)

    def save(self) -> None:
        """Replace the file in one step."""
        content = {
            "command": self.command,
            "version": self.version,
            "config": self.config,
            "several_lines": self.several_lines,
            "whole_bytes": self.whole_bytes,
            "seconds": round(self.seconds, 1),
            "shard": self.shard,
            "writer": self.writer,
        }
        temporary = self.path + ".tmp"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            with os.fdopen(fd, "wb") as file:
                file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
                file.flush()
                os.fsync(fd)
            os.replace(temporary, self.path)
        except OSError as error:
            raise MedsssError(f"cannot write {self.path}: {error.strerror}") from None

    @classmethod
    def load(cls, path: str) -> _Sidecar | None:
        """None where there is no such file. Raises UsageError for one that is not ours."""
        try:
            content = orjson.loads(Path(path).read_bytes())
            known = {name: content[name] for name in ("command", "config", "version", "several_lines", "whole_bytes")}
            # Runs of earlier versions did not write these.
            known["seconds"] = float(content.get("seconds") or 0.0)
            known |= {name: content.get(name) for name in ("shard", "writer")}
        except FileNotFoundError:
            return None
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"cannot use {path}: {error}", hint="--restart starts over") from None
        return cls(**known, path=path)


class Stream(Generic[T]):
    """One run over the records of the input; a context manager.

    `parse` makes a record out of an object, or raises BadRecord. `config` holds the settings that change results (as
    JSON can say them); it is what a resumed run is compared with. Slow work, such as opening a model, belongs inside
    the `with`, for entering it finds every wrong usage.

    In a dry run entering reads the whole input and says what there is to do, the iterator gives nothing, and leaving
    (with DryRun.PLAN entering) raises DryRunDone: what a command does after its `with` is no part of a dry run.

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
        self._command = command
        self._parse = parse
        plain: dict[str, Any] = orjson.loads(orjson.dumps(dict(config), default=str))
        self._sidecar = _Sidecar(command=command, config=plain, path=f"{options.output}.run.json")
        self._sidecar.shard = "all" if options.shard is None else f"{options.shard.index}/{options.shard.count}"
        self._counts = StreamCounts()
        self._finished: set[int] = set()
        self._seen: set[int] = set()
        self._causes = _Causes()
        self._held: list[T] = []
        self._to_do = 0
        self._resumable = False
        self._start = time.monotonic()
        self._writer: LineWriter | None = None
        self._errors: LineWriter | None = None
        self._errors_kept = options.errors is not None
        self._lock = threading.Lock()
        check_inputs(options.inputs or ("-",))
        _check_distinct(options)

    # Opening and closing

    def __enter__(self) -> Stream[T]:
        if self.options.dry_run is not DryRun.NO:
            self._rehearse()
            return self
        try:
            self._writer = self._open_output()
            if self.options.errors is not None:
                # A resumed run meets every failure again, so the errors are those of this run.
                fd = _open_locked(self.options.errors, "--errors")
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    os.ftruncate(fd, 0)
                self._errors = LineWriter(self.options.errors, fd=fd)
        except BaseException:
            self._close(whole=False)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        interrupted = kind is not None and kind.__name__ in ("KeyboardInterrupt", "CancelledError")
        if interrupted:
            signals.next_is_final()
        self._close(whole=kind is None)
        if kind is None and self.options.dry_run is not DryRun.NO:
            raise DryRunDone
        if kind is None:
            self._report()
        elif interrupted and self._resumable and not self.options.quiet:
            console.note(f"{self._counts.written} done; the same command line goes on with {self.options.output}")

    def _close(self, *, whole: bool) -> None:
        writer, errors, self._writer, self._errors = self._writer, self._errors, None, None
        with contextlib.ExitStack() as stack:
            if errors is not None:
                stack.callback(errors.close)
            if writer is not None:
                if not self._resumable:
                    stack.callback(writer.close)
                    return
                assert self.options.output is not None
                # The lock belongs to the open file: a second descriptor keeps it until the sidecar is written.
                keep = writer.duplicate()
                stack.callback(os.close, keep)
                writer.close()
                self._sidecar.seconds += time.monotonic() - self._start
                self._sidecar.whole_bytes = os.fstat(keep).st_size if whole else None
                self._sidecar.writer = None
                self._sidecar.save()

    def _report(self) -> None:
        counts = self._counts
        if self.options.quiet and not self.exit_code():
            return
        parts = [f"{counts.read} read", f"{counts.written} done"]
        if counts.lines != counts.written:
            parts.append(f"{counts.lines} lines written")
        if counts.skipped_done:
            parts.append(f"{counts.skipped_done} done before")
        if counts.failed:
            parts.append(f"{counts.failed} failed")
        if counts.bad_lines:
            parts.append(f"{counts.bad_lines} bad lines")
        if not counts.read and not counts.bad_lines:
            parts = ["the input holds no record" + (" of this shard" if self.options.shard else "")]
        console.note(f"{self._command}: {', '.join(parts)}; took {console.clock(time.monotonic() - self._start)}")
        # One failure was said when it came; of several nobody wants to count the lines.
        if counts.failed + counts.bad_lines > 1 or self._errors_kept:
            for line in self._causes.lines():
                console.note(f"  {line}")

    def _open_output(self) -> LineWriter:
        path = self.options.output
        if path is None or path == "-":
            return LineWriter(None)
        fd = _open_locked(path, "-o")
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # a named pipe or /dev/null: nothing there to resume
            return LineWriter(path, fd=fd)
        self._resumable = True
        try:
            fd = self._prepare(path, fd)
        except BaseException:
            os.close(fd)
            raise
        return LineWriter(path, fd=fd)

    def _prepare(self, path: str, fd: int) -> int:
        """Bring OUT to a whole end and learn what is done. Returns the descriptor to append to."""
        size = os.fstat(fd).st_size
        if self.options.restart:
            os.ftruncate(fd, 0)
            size = 0
        if size:
            former = self._former(path)
            self._sidecar.several_lines = former.several_lines
            self._sidecar.seconds = former.seconds
            # Who is refused in the meantime is told of this process, not of one that was killed.
            self._sidecar.whole_bytes = former.whole_bytes
            self._sidecar.writer = _this_process()
            self._sidecar.save()
            if size != former.whole_bytes:
                # From here on OUT changes, and might come to the same size by chance.
                self._sidecar.whole_bytes = None
                self._sidecar.save()
                fd = self._repair(path, fd)
            else:
                for group in _groups(path, fd):
                    self._finished.add(digest(group.id))
        self._sidecar.whole_bytes = None
        self._sidecar.writer = _this_process()
        self._sidecar.save()
        if self._finished and not self.options.quiet:
            console.note(f"{path} holds the results of {len(self._finished)} records; going on after them")
        os.lseek(fd, 0, os.SEEK_END)
        return fd

    def _former(self, path: str) -> _Sidecar:
        """What the run before said of OUT. Raises UsageError if nothing is known of it, or it was begun otherwise."""
        former = _Sidecar.load(self._sidecar.path)
        if former is None:
            raise UsageError(
                f"{path} is not empty, and no run of medsss is known to have written it",
                hint="--restart overwrites it; or choose another -o",
            )
        changes = [] if former.command == self._command else [f"command: {former.command} -> {self._command}"]
        changes += _differences(former.config, self._sidecar.config)
        if changes:
            lines = "".join(f"\n  {change}" for change in changes)
            raise UsageError(
                f"{path} was begun with other settings:{lines}",
                hint="the same settings go on with it, --restart overwrites it, or choose another -o",
            )
        # Each part of another number of parts holds ids of several of these: merged by `cat` they would stand twice.
        # To go on with the whole input in one file is no such change.
        if former.shard not in (None, self._sidecar.shard) and self._sidecar.shard != "all":
            was = "without a shard" if former.shard == "all" else f"as shard {former.shard}"
            raise UsageError(
                f"{path} was begun {was}, this is shard {self._sidecar.shard}: records of other parts stand in it",
                hint="the same --shard goes on with it, --restart overwrites it, or choose another -o",
            )
        if former.version != __version__:
            console.warn(f"{path} was begun with medsss {former.version}, this is {__version__}")
        return former

    def _repair(self, path: str, fd: int) -> int:
        """Cut off what a run that was killed left unfinished (rules 2 and 3 at the top)."""
        groups = _kept(_groups(path, fd), but_last=self._sidecar.several_lines)
        if not compression(path):
            end = 0
            for group in groups:
                end = group.end
                self._finished.add(digest(group.id))
            os.ftruncate(fd, end)
            return fd
        # Compressed data cannot be cut at a line: the whole lines go to a new file, which then takes the place of OUT.
        # It is locked before that, so OUT is never there unlocked.
        temporary = path + ".repair"
        new = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _lock_file(new, path, "-o")
            os.fchmod(new, stat.S_IMODE(os.fstat(fd).st_mode))
            writer = LineWriter(path, fd=os.dup(new))
            for group in groups:
                writer.write_bytes(group.lines)
                self._finished.add(digest(group.id))
            writer.close()
            os.replace(temporary, path)
        except BaseException:
            os.close(new)
            raise
        os.close(fd)
        return new

    # A dry run

    def _rehearse(self) -> None:
        """Look at output and input as a run would, write nothing, and say what there is to do.

        Raises UsageError for what a run would refuse, and DryRunDone where that is all.
        """
        console.hide_progress()
        output = self._look_at_output()
        if self.options.errors is not None:
            _check_writable(self.options.errors, "--errors")
        for record in self._read():
            self._to_do += 1
            if len(self._held) < HELD:
                self._held.append(record)
        if not self.options.quiet:
            self._say_plan(output)
        if self.options.dry_run is DryRun.PLAN or self.options.quiet:
            raise DryRunDone

    def _look_at_output(self) -> str:
        """What a run would do with OUT, which is left as it is. Raises UsageError as a run would."""
        path = self.options.output
        if path is None or path == "-":
            return "write to stdout"
        if path == os.devnull:  # a command whose output is no stream: it says what becomes of it by itself
            return ""
        _check_writable(path, "-o")
        if os.path.exists(path) and not os.path.isfile(path):
            return f"write to {path}"
        size = os.path.getsize(path) if os.path.exists(path) else 0
        if self.options.restart and size:
            return f"overwrite {path} ({size:,} bytes)"
        if not size:
            return f"begin {path}"
        former = self._former(path)
        torn = size != former.whole_bytes
        fd = os.open(path, os.O_RDONLY)
        try:
            for group in _kept(_groups(path, fd), but_last=torn and former.several_lines):
                self._finished.add(digest(group.id))
        finally:
            os.close(fd)
        cut = ", cutting off what its last run left unfinished," if torn else ""
        return f"go on with {path}{cut} after the results of {len(self._finished)} records"

    def _say_plan(self, output: str) -> None:
        counts, options = self._counts, self.options
        parts = [f"{counts.skipped_done} done before"] if counts.skipped_done else []
        if counts.elsewhere:
            parts.append(f"{counts.elsewhere} of other shards")
        if options.limit is not None and counts.read >= options.limit:
            total = count_records(options.inputs)
            rest = None if total is None else total - counts.read - counts.elsewhere - counts.bad_lines
            parts.append(f"{'the rest' if rest is None else rest} beyond --limit")
        if counts.bad_lines:
            parts.append(f"{counts.bad_lines} bad lines")
        left_out = f"; left out: {', '.join(parts)}" if parts else ""
        console.note(f"dry run of {self._command}: {self._to_do} records to do{left_out}")
        if output:
            console.note(f"it would {output}" + (f", and failures to {options.errors}" if options.errors else ""))
        if "-" in (options.inputs or ("-",)):
            console.note("stdin was read by this dry run; the run itself needs it again")

    async def try_out(self, work: Callable[[T], Awaitable[Sequence[Record]]], concurrency: int) -> None:
        """Work on a few of the records and say what all of them would cost. For a dry run."""
        await probe(self._held, work, to_do=self._to_do, concurrency=concurrency)

    # The run

    def __iter__(self) -> Iterator[T]:
        """The records to do; none in a dry run."""
        return self._read() if self.options.dry_run is DryRun.NO else iter(())

    def _read(self) -> Iterator[T]:
        """The records to do: parsed, in the shard, within the limit, not finished. Bad lines are reported and counted;
        with `strict` the first one raises BadRecord. An id that came before in this input is a bad line too: its
        results would be taken for the first one's."""
        options = self.options
        counts = self._counts
        if "-" in (options.inputs or ("-",)) and sys.stdin is not None and sys.stdin.isatty() and not options.quiet:
            console.note(f"{self._command} reads records from the terminal; Ctrl-D ends them")
        objects = read_objects(options.inputs, on_bad=self._bad)
        # The limit is looked at before the next line is asked for: whoever writes our input may be slow.
        while options.limit is None or counts.read < options.limit:
            where, found = next(objects, _END)
            if found is None:
                return
            try:
                record = self._parse(found, where)
            except BadRecord as error:
                self._bad(where, str(error))
                continue
            mark = digest(record.id)
            if options.shard is not None and mark % options.shard.count != options.shard.index:
                counts.elsewhere += 1
                continue
            if mark in self._seen:
                self._bad(where, f"the id {record.id!r} came before; only its first record counts")
                continue
            self._seen.add(mark)
            counts.read += 1
            if mark in self._finished:
                self._finished.discard(mark)  # each digest is held once
                counts.skipped_done += 1
                continue
            yield record

    def expected(self) -> int | None:
        """About how many records this run has to do, for the line of progress; None where nobody can tell. Of a shard
        it is the expectation, and bad lines count."""
        shown = not self.options.quiet and self.options.dry_run is DryRun.NO
        count = count_records(self.options.inputs) if shown else None
        if count is None:
            return None
        if self.options.shard is not None:
            count = round(count / self.options.shard.count)
        if self.options.limit is not None:
            count = min(count, self.options.limit)
        return max(count - len(self._finished), 0)

    def _bad(self, where: Where, what: str) -> None:
        what = _short(what)
        with self._lock:
            self._counts.bad_lines += 1
            self._causes.add("read", what)
            if self._errors is not None:
                self._errors.write([ErrorRecord(id=str(where), error=what, stage="read")])
        if self.options.strict:
            raise BadRecord(f"{where}: {what}", hint="--strict stops at the first bad line")
        console.say(f"{where}: {what}")

    def write(self, id: str, records: Sequence[Record]) -> None:
        """All results of one input at once, flushed. They carry its `id`, by which a resumed run knows them. Raises
        BadRecord if one cannot be written as JSON; then none is."""
        assert self._writer is not None, "the stream is not open"
        for record in records:
            own = record.get("id") if isinstance(record, dict) else getattr(record, "id", None)
            if own != id:
                raise ValueError(f"a result of {id!r} carries the id {own!r}")
        if len(records) > 1 and self._resumable and not self._sidecar.several_lines:
            self._sidecar.several_lines = True
            self._sidecar.save()
        self._writer.write(records)
        self._counts.written += 1
        self._counts.lines += len(records)

    def fail(self, id: str, stage: str, error: str, cause: BaseException | None = None) -> None:
        """The input of this id failed in `stage`: an error record where --errors says, else a line on stderr. With
        `strict` it raises MedsssError, which ends the run. With `verbose` the traceback of `cause` is shown, or of the
        exception that is being handled."""
        error = _short(error)
        cause = cause or sys.exception()
        if self.options.verbose and cause is not None:
            import traceback

            console.say(f"{id}: {stage}:\n{_short(''.join(traceback.format_exception(cause))).rstrip()}")
        with self._lock:
            self._counts.failed += 1
            self._causes.add(stage, error)
            if self._errors is not None:
                self._errors.write([ErrorRecord(id=id, error=error, stage=stage)])
        if self.options.strict:
            raise MedsssError(f"{id}: {stage}: {error}", hint="--strict stops at the first failure")
        if self._errors is None:
            console.say(f"{id}: {stage}: {error}")

    @property
    def counts(self) -> StreamCounts:
        """What the run has come to so far."""
        return self._counts

    def exit_code(self) -> int:
        """0 if all went well, 1 if a line was bad or a record failed."""
        return 1 if self._counts.failed or self._counts.bad_lines else 0


MESSAGE_LIMIT = 2000
"""Characters of an error that are shown: some errors quote their record, and a record may be of 64 MiB."""


def _short(message: str, most: int = MESSAGE_LIMIT) -> str:
    if len(message) <= most:
        return message
    half = most // 2
    return f"{message[:half]} [... {len(message) - 2 * half} characters ...] {message[-half:]}"


_VARIES = re.compile(r"""\d+|(?<!\w)'[^']*'(?!\w)|"[^"]*"|`[^`]*`""")


class _Causes:
    """Failures put together by what they say, numbers and quotations aside: 500 lines of one reason are one line."""

    MOST = 100
    SHOWN = 8

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, stage: str, error: str) -> None:
        """One more. Beyond MOST kinds they are held as one, for memory is bounded."""
        shown = f"{stage}: {error.splitlines()[0] if error else error}"
        kind = _VARIES.sub("#", shown)
        if kind not in self._counts and len(self._counts) >= self.MOST:
            kind = shown = "others"
        self._counts[kind] += 1
        self._first.setdefault(kind, shown)

    def lines(self) -> list[str]:
        """The commonest causes with their counts, each in the words of its first failure."""
        shown = self._counts.most_common(self.SHOWN)
        lines = [f"{count} x {_short(self._first[kind], 160)}" for kind, count in shown]
        rest = self._counts.total() - sum(count for _, count in shown)
        return lines + ([f"{rest} x other causes"] if rest else [])


def _check_distinct(options: StreamOptions) -> None:
    """An output that is also read, or written twice, would eat itself."""
    outputs = [(name, path) for name, path in (("-o", options.output), ("--errors", options.errors)) if path]
    places = [("the input", path) for path in options.inputs if path != "-"] + outputs
    for number, (name, path) in enumerate(outputs, start=len(places) - len(outputs)):
        for other_name, other in places[:number]:
            with contextlib.suppress(OSError):
                if os.path.samefile(path, other) and os.path.isfile(path):
                    raise UsageError(f"{other_name} {other} and {name} {path} are the same file")
            if os.path.abspath(path) == os.path.abspath(other) and not os.path.exists(path):
                raise UsageError(f"{other_name} {other} and {name} {path} are the same file")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    def shown(config: Mapping[str, Any], key: str) -> str:
        return orjson.dumps(config[key]).decode() if key in config else "not set"

    keys = list(old) + [key for key in new if key not in old]
    return [f"{key}: {shown(old, key)} -> {shown(new, key)}" for key in keys if shown(old, key) != shown(new, key)]


def _open_locked(path: str, option: str) -> int:
    """Open or make a file, locked against a second process. Raises UsageError if that has it already."""
    while True:
        try:
            special = os.path.exists(path) and not os.path.isfile(path)
            fd = os.open(path, (os.O_WRONLY if special else os.O_RDWR | os.O_CREAT), 0o666)
        except OSError as error:
            raise UsageError(f"cannot write {option} {path}: {error.strerror}") from None
        if special:
            return fd
        try:
            _lock_file(fd, path, option)
            # Between the two calls another process may have put a repaired file in its place.
            if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _check_writable(path: str, option: str) -> None:
    """Raise UsageError where `_open_locked` would, and make no file."""
    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        if not os.access(folder, os.W_OK | os.X_OK):
            missing = not os.path.exists(folder)
            code = errno.ENOENT if missing else errno.EACCES if os.path.isdir(folder) else errno.ENOTDIR
            raise UsageError(f"cannot write {option} {path}: {os.strerror(code)}")
        return
    if os.path.isdir(path) or not os.access(path, os.W_OK):
        code = errno.EISDIR if os.path.isdir(path) else errno.EACCES
        raise UsageError(f"cannot write {option} {path}: {os.strerror(code)}")
    if os.path.isfile(path):
        # Open for writing, for so network file systems want it; nothing is written, and the lock is let go at once.
        fd = os.open(path, os.O_WRONLY)
        try:
            _lock_file(fd, path, option)
        finally:
            os.close(fd)


def _lock_file(fd: int, path: str, option: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = _writer_of(path)
        raise UsageError(
            f"{option} {path} is being written by another process" + (f" ({who})" if who else ""),
            hint="wait for it, or give each process its own file",
        ) from None
    except OSError as error:  # some network file systems have no locks
        console.warn(f"{path} cannot be locked ({error.strerror}): see that no second process writes to it")


def _this_process() -> str:
    return f"pid {os.getpid()} on {os.uname().nodename}"


def _writer_of(path: str) -> str | None:
    """Who holds the lock of a file: as its sidecar says, which other machines can read; else as the system's table of
    locks does."""
    with contextlib.suppress(UsageError):
        sidecar = _Sidecar.load(path + ".run.json")
        if sidecar is not None and sidecar.writer is not None:
            return sidecar.writer
    with contextlib.suppress(OSError, ValueError):
        inode = str(os.stat(path).st_ino)
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, _, _, pid, place, *_ = line.split()
            if kind == "FLOCK" and place.rpartition(":")[2] == inode and int(pid) > 0:
                return f"pid {pid}"
    return None


# What stands in OUT


class _Identified(msgspec.Struct):
    """All that is looked at in a line of OUT."""

    id: str


_read_id = msgspec.json.Decoder(_Identified)


@dataclass(slots=True)
class _Group:
    """The lines of one input. `end` is the offset after them in the unpacked data; `lines` only for packed files."""

    id: str
    end: int
    lines: bytes = b""


def _groups(path: str, fd: int) -> Iterator[_Group]:
    """The groups of OUT up to the first torn line. Raises UsageError for a broken line with whole ones after it: that
    is no trace of a run that was killed, and cutting there would lose records."""
    keep = bool(compression(path))
    raw = io.FileIO(os.dup(fd))
    raw.seek(0)
    group: _Group | None = None
    end = 0
    broken = 0
    parts: list[bytes] = []
    with unpack(raw, path) as stream:
        number = 0
        while True:
            try:
                line = stream.readline()
            except (EOFError, OSError, zlib.error):
                break
            number += 1
            if not line.endswith(b"\n"):
                break
            try:
                id = _read_id.decode(line).id
            except msgspec.MsgspecError:
                broken = broken or number
                continue
            if broken:
                raise UsageError(
                    f"{path}:{broken}: not a record of ours", hint="repair the line, or --restart overwrites"
                )
            end += len(line)
            if group is not None and group.id == id:
                group.end = end
            else:
                if group is not None:
                    group.lines = b"".join(parts)
                    yield group
                    parts = []
                group = _Group(id, end)
            if keep:
                parts.append(line)
    if group is not None:
        group.lines = b"".join(parts)
        yield group


def _kept(groups: Iterator[_Group], *, but_last: bool) -> Iterator[_Group]:
    """The groups that are whole for sure: all, or all but the last one (rule 3 at the top)."""
    last: _Group | None = None
    for group in groups:
        if last is not None:
            yield last
        last = group
    if last is not None and not but_last:
        yield last


# Many at once


class _Reader(Generic[T]):
    """Takes one record at a time from an iterator that blocks, in a thread of its own.

    Not `asyncio.to_thread`: its threads are waited for at the end of the program, and one that sits in a read of an
    open pipe would keep an interrupted program alive. This one is a daemon and is left where it is.
    """

    def __init__(self, records: Iterator[T]) -> None:
        import asyncio
        import queue

        self._records = records
        self._loop = asyncio.get_running_loop()
        self._asked: queue.SimpleQueue[asyncio.Future[tuple[T] | None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="medsss-reader", daemon=True).start()

    async def next(self) -> tuple[T] | None:
        """The next record, as a tuple of one, or None at the end. Raises what the iterator raises."""
        answer: Any = self._loop.create_future()
        self._asked.put(answer)
        result: tuple[T] | None = await answer
        return result

    def close(self) -> None:
        """Let the thread end, once it is back from its read."""
        self._asked.put(None)

    def _serve(self) -> None:
        while (answer := self._asked.get()) is not None:
            result: tuple[T] | None = None
            error: BaseException | None = None
            try:
                result = (next(self._records),)
            except StopIteration:
                pass
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: the run was interrupted
                self._loop.call_soon_threadsafe(_settle, answer, result, error)


def _settle(answer: Any, result: object, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


AHEAD = 8
"""With `ordered`, how many times `concurrency` records may be read and not yet written: a straggler at the head holds
the others back only then, and memory stays bounded."""

GRACE = 5.0
"""Seconds that work in flight gets to finish after Ctrl-C or SIGTERM; SLURM kills half a minute after its warning."""


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
    one record, and it and every other exception end the run. A bad line under `strict` ends the reading; what is in
    flight is still done before it is raised. When the run is cancelled (Ctrl-C) no more work is taken; what is in
    flight has GRACE seconds to finish and be written, the rest is cancelled. In a dry run a few records are tried.
    """
    import asyncio

    if concurrency < 1:
        raise UsageError(f"a concurrency of {concurrency} does nothing", hint="--concurrency 1 or more")
    if stream.options.dry_run is not DryRun.NO:
        await stream.try_out(work, concurrency)
        return
    reader = _Reader(iter(stream))
    taking = asyncio.Lock()
    room = asyncio.Semaphore(concurrency * AHEAD) if stream.options.ordered else None
    finished: dict[int, tuple[T, Sequence[Record] | MedsssError]] = {}
    taken = 0
    put = 0
    ended = False
    stop: BaseException | None = None
    busy: set[asyncio.Task[None]] = set()

    def deliver(record: T, outcome: Sequence[Record] | MedsssError) -> None:
        if not isinstance(outcome, MedsssError):
            try:
                stream.write(record.id, outcome)
            except BadRecord as error:
                outcome = error
        if isinstance(outcome, MedsssError):
            stream.fail(record.id, stage, str(outcome), outcome)
        elif on_done is not None:
            on_done(record, outcome)

    async def worker() -> None:
        nonlocal taken, put, ended, stop
        this = asyncio.current_task()
        assert this is not None
        while True:
            busy.discard(this)
            async with taking:
                if ended:
                    return
                if room is not None:
                    await room.acquire()
                try:
                    item = await reader.next()
                except MedsssError as error:
                    stop, item = error, None
                if item is None:
                    ended = True
                    return
                number, taken = taken, taken + 1
                busy.add(this)
            (record,) = item
            outcome: Sequence[Record] | MedsssError
            try:
                outcome = await work(record)
            except UsageError:
                raise
            except MedsssError as error:
                outcome = error
            if room is None:
                deliver(record, outcome)
                continue
            finished[number] = (record, outcome)
            while put in finished:
                now = finished.pop(put)
                put += 1
                room.release()
                deliver(*now)

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        except asyncio.CancelledError:
            ended = True
            signals.next_is_final()
            for task in workers:
                if task not in busy:
                    task.cancel()
            if busy and not stream.options.quiet:
                console.note(f"stopping: {len(busy)} in flight have {GRACE:.0f} s to finish; once more stops at once")
            done, _ = await asyncio.wait(workers, timeout=GRACE, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                if not task.cancelled() and isinstance(task.exception(), MedsssError):
                    task.result()  # a disk that is full, say: not to be hidden behind "interrupted"
            raise
        for task in done:
            task.result()
    finally:
        reader.close()
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    if stop is not None:
        raise stop
