"""A small command on the real stream, for tests that kill, interrupt and starve a process: `stream_program.py echo`.

It adds itself to the program's table, so that everything from argv to the exit status is what users get. Its work
repeats the record `--copies` times after a pause.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from typing import Any

from medsss_cli.app import COMMANDS, Entry, main
from medsss_cli.commands import _options as opt
from medsss_cli.console import Progress
from medsss_cli.errors import BadRecord, UsageError
from medsss_cli.records import Problem, parse
from medsss_cli.stream.jsonl import Where
from medsss_cli.stream.run import Stream, run_concurrently


def run(
    inputs: opt.Inputs = None,
    output: opt.Output = None,
    errors: opt.Errors = None,
    shard: opt.ShardOpt = None,
    limit: opt.Limit = None,
    strict: opt.Strict = False,
    ordered: opt.Ordered = False,
    restart: opt.Restart = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    dry_run: opt.DryRunOpt = False,
    plan: opt.Plan = False,
    seed: opt.Seed = 0,
    concurrency: opt.Concurrency = None,
    copies: int = 1,
    pause: float = 0.0,
    pad: int = 0,
    talk: bool = False,
    pid: bool = False,
) -> None:
    """Repeat records. A question of "fail" fails, "usage" is wrong usage, "slow" takes half a minute."""
    import typer

    options = opt.stream_options(
        inputs, output, errors, shard, limit, strict, ordered, restart, quiet, verbose, dry_run, plan
    )

    def read(found: dict[str, Any], where: Where) -> Problem:
        return parse(Problem, found)

    def results(problem: Problem) -> list[dict[str, Any]]:
        if problem.question == "fail":
            raise BadRecord("told to fail")
        if problem.question == "usage":
            raise UsageError("told to be wrong")
        if talk:
            print("a library that talks")
        return [
            {"id": problem.id, "copy": k, "pid": os.getpid() if pid else 0, "pad": "x" * pad} for k in range(copies)
        ]

    async def work(problem: Problem) -> list[dict[str, Any]]:
        await asyncio.sleep(30 if problem.question == "slow" else random.random() * pause)
        return results(problem)

    with (
        Stream(options, command="echo", parse=read, config={"seed": seed, "copies": copies}) as stream,
        Progress("echo", quiet=quiet) as progress,
    ):
        if concurrency is None:
            for problem in stream:
                time.sleep(random.random() * pause)
                try:
                    stream.write(problem.id, results(problem))
                except BadRecord as error:
                    stream.fail(problem.id, "echo", str(error))
                progress.advance()
        else:
            asyncio.run(
                run_concurrently(
                    stream, work, stage="echo", concurrency=concurrency, on_done=lambda *_: progress.advance()
                )
            )
    raise typer.Exit(stream.exit_code())


if __name__ == "__main__":
    sys.modules["stream_program"] = sys.modules["__main__"]
    COMMANDS["echo"] = Entry("stream_program", "Repeat records.")
    main()
