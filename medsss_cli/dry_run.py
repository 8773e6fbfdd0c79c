"""What a run would cost, learnt by doing a little of it: a few records are worked on and their results thrown away.

It knows no engine: what a record cost is read from its result (`stats` of a tree, `tokens` of answers).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from . import console
from .errors import MedsssError, UsageError

FIRST = 3
"""Records of the first try. They are few, for a search tree may take minutes."""

HELD = 256
"""Records that are kept at most for the second try, which has as many in flight as the run would have."""

SECONDS = 20.0
"""How long both tries may take together."""

PATIENCE = 300.0
"""How long to wait on where nothing was done by then: some commands open their model for the first record."""

T = TypeVar("T")


class DryRunDone(Exception):
    """A dry run has said all it has to say: the command ends here, with status 0."""


@dataclass(slots=True)
class Cost:
    """What some results say of the work in them: `calls` requests to the engine, or answers drawn, as `unit` says."""

    calls: int = 0
    tokens: int = 0
    unit: str = "requests"

    def add(self, record: Any, result: Any) -> None:
        """Add a result of `record`. Answers that the record brought along stand first in it and cost nothing."""
        stats = _field(result, "stats")
        if isinstance(stats, dict) and "tokens" in stats:
            self.calls += sum(stats.get("requests", {}).values())
            self.tokens += stats["tokens"]
            return
        brought = len(_field(record, "responses") or _field(record, "candidates") or ())
        made = (_field(result, "responses") or _field(result, "candidates") or ())[brought:]
        beam = (_field(result, "meta") or {}).get("beam")
        if made:
            self.unit = "answers"
            self.calls += len(made)
            self.tokens += beam["tokens"] if beam else sum(answer.tokens for answer in made)


def _field(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else getattr(record, name, None)


@dataclass(slots=True)
class Try:
    """One try: `begun` records in flight at once, of which `done` were done in time and `failed` failed."""

    begun: int
    seconds: float
    done: int = 0
    failed: int = 0
    cost: Cost = field(default_factory=Cost)

    @property
    def pace(self) -> float:
        """Records a second."""
        return self.done / max(self.seconds, 1e-9)


async def probe(
    records: Sequence[T], work: Callable[[T], Awaitable[Sequence[Any]]], *, to_do: int, concurrency: int
) -> None:
    """Do `work` on the first records and say what all `to_do` of them would take at this concurrency.

    First FIRST records; where these leave time, as many more as the run would have in flight. What is not done after
    SECONDS is given up, but one record is waited for. Raises UsageError and what is no MedsssError as the run would; a
    record that fails is counted.
    """
    if not records:
        return
    first = min(FIRST, concurrency)
    tries = [await _try(records[:first], work, SECONDS, PATIENCE)]
    more = records[first : first + concurrency]
    spent = tries[0].seconds
    # Where the first try was late it may have waited for a model: only a second one can tell.
    late = spent > SECONDS
    if more and tries[0].done and (late or (concurrency > first and 2 * spent < SECONDS)):
        tries.append(await _try(more, work, SECONDS if late else SECONDS - spent))
    for line in report(tries, to_do=to_do, concurrency=concurrency):
        console.note(line)


async def _try(
    records: Sequence[T], work: Callable[[T], Awaitable[Sequence[Any]]], seconds: float, patience: float = 0.0
) -> Try:
    """Work on all records at once, for `seconds`; then, if none is done, until one is, for `patience`."""
    import asyncio

    start = time.monotonic()
    tasks = {asyncio.ensure_future(work(record)): record for record in records}
    try:
        finished, going_on = await asyncio.wait(tasks, timeout=seconds)
        if not finished and patience:
            console.note(f"nothing done in {seconds:.0f} s; waiting up to {patience / 60:.0f} minutes for one record")
            finished, _ = await asyncio.wait(going_on, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        made = Try(begun=len(records), seconds=time.monotonic() - start)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in finished:
        try:
            results = task.result()
        except UsageError:
            raise
        except MedsssError as error:
            made.failed += 1
            console.say(f"{getattr(tasks[task], 'id', '?')}: {error}")
            continue
        made.done += 1
        for result in results:
            made.cost.add(tasks[task], result)
    return made


def report(tries: Sequence[Try], *, to_do: int, concurrency: int) -> list[str]:
    """What was seen, and what follows for the whole, a line each.

    Calls and tokens are scaled from all that was done, time and rate are those of the faster try. The time is rather
    too long: at the end of a try fewer are in flight than the run would have.
    """
    begun, done, failed = (sum(getattr(each, name) for each in tries) for name in ("begun", "done", "failed"))
    seconds = sum(each.seconds for each in tries)
    flights = " then ".join(str(each.begun) for each in tries)
    seen = f"probe: {done} of {begun} records in {seconds:.1f} s, {flights} at once, results thrown away"
    seen += f"; {failed} failed" if failed else ""
    if not done:
        return [seen, f"no estimate: nothing was done within {seconds:.0f} s"]
    fastest = max(tries, key=lambda each: each.pace)
    expected = [f"about {console.clock(to_do / fastest.pace)}"]
    calls, tokens = sum(each.cost.calls for each in tries), sum(each.cost.tokens for each in tries)
    late = begun - done - failed
    but = ""
    if tokens:
        unit, rate = fastest.cost.unit, fastest.cost.tokens / max(fastest.seconds, 1e-9)
        seen += f": {calls:,} {unit}, {tokens:,} generated tokens, {rate:,.0f} tokens/s"
        expected += [f"{_round(calls / done * to_do)} {unit}", f"{_round(tokens / done * to_do)} tokens"]
        but = f"; {late} were not done in time, so {unit} and tokens are rather too low" if late else ""
    if fastest.begun < min(concurrency, to_do - tries[0].begun):
        but += f"; the time is that of {fastest.begun} at once, and {concurrency} at once may be faster"
    return [seen, f"estimate for {to_do:,} records, from {done}: {', '.join(expected)}{but}"]


def _round(number: float) -> str:
    """Two digits that count, and no more than that is known."""
    whole = round(number)
    digits = len(str(whole))
    return f"{round(whole, -max(digits - 2, 0)):,}"
