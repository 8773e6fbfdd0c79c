"""A small command on the real stream, for tests that kill, interrupt and starve a process: `stream_program.py echo`.

It adds itself to the program's table, so that everything from argv to the exit status is what users get. Its work
repeats the record `--copies` times after a pause. `run_medsss(["echo", ...])` knows it too.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from medsss_cli.app import COMMANDS, main
from medsss_cli.commands._options import options
from medsss_cli.console import Progress
from medsss_cli.errors import BadRecord, UsageError
from medsss_cli.records import Problem, parse
from medsss_cli.settings import Opt
from medsss_cli.stream.jsonl import Where
from medsss_cli.stream.run import Stream, StreamOptions, run_concurrently

PROGRAM = [sys.executable, __file__, "echo"]


def problems(count: int, question: str = "q") -> list[dict[str, Any]]:
    return [{"id": f"p{k}", "question": question, "answer": "a"} for k in range(count)]


@dataclass(frozen=True)
class Echo:
    seed: Annotated[int, Opt("No matter.")] = 0
    concurrency: Annotated[int | None, Opt("Records in flight.")] = None
    copies: Annotated[int, Opt("Lines for each record.")] = 1
    pause: Annotated[float, Opt("Seconds for each record, at most.")] = 0.0
    pad: Annotated[int, Opt("Bytes of padding in each line.")] = 0
    talk: Annotated[bool, Opt("Print, as libraries do.")] = False


@options
def run(*, stream: StreamOptions, echo: Echo) -> None:
    """Repeat records. A question of "fail" fails, "usage" is wrong usage, "slow" takes half a minute."""

    def read(found: dict[str, Any], where: Where) -> Problem:
        return parse(Problem, found)

    def results(problem: Problem) -> list[dict[str, Any]]:
        if problem.question == "fail":
            raise BadRecord("told to fail")
        if problem.question == "usage":
            raise UsageError("told to be wrong")
        if echo.talk:
            print("a library that talks")
        return [{"id": problem.id, "copy": k, "pad": "x" * echo.pad} for k in range(echo.copies)]

    async def work(problem: Problem) -> list[dict[str, Any]]:
        await asyncio.sleep(30 if problem.question == "slow" else random.random() * echo.pause)
        progress.advance()
        return results(problem)

    records: Stream[Problem]
    with (
        Stream(stream, command="echo", parse=read, config={"seed": echo.seed, "copies": echo.copies}) as records,
        Progress("echo", quiet=stream.quiet) as progress,
    ):
        if echo.concurrency is None:
            for problem in records:
                time.sleep(random.random() * echo.pause)
                try:
                    records.write(results(problem))
                except BadRecord as error:
                    records.fail(problem.id, "echo", str(error))
                progress.advance()
        else:
            asyncio.run(run_concurrently(records, work, stage="echo", concurrency=echo.concurrency))
    raise typer.Exit(records.exit_code())


def enter(module: Any) -> None:
    """Put `echo` into the program's table."""
    COMMANDS["echo"] = "Repeat records."
    sys.modules["medsss_cli.commands.echo"] = module


if __name__ == "__main__":
    enter(sys.modules["__main__"])
    main()
