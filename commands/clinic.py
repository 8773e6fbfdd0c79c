"""`medsss clinic`: problems of the built-in clinic, as many as one likes, and the checker of written solutions.

500 problems take a fraction of a second and need no model. `--split` matters: `seed` (the default) is to
search and train on, `test` to measure on, and `train` is what the built-in policy was made from; no problem is in two.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from typing import Annotated, Any

import orjson
import typer

from medsss_cli.clinic import checker
from medsss_cli.clinic.chains import parts
from medsss_cli.clinic.kinds import KINDS
from medsss_cli.clinic.problems import Split, problems, read_meta, solution, write_steps
from medsss_cli.errors import BadRecord, UsageError
from medsss_cli.records import Problem, Response, Samples, Scored, Verdict, dump, parse, problem_fields
from medsss_cli.settings import Opt
from medsss_cli.steps import join_steps
from medsss_cli.stream.faults import Faults
from medsss_cli.stream.jsonl import Where, read_records
from medsss_cli.stream.outputs import open_whole, write_stdout

from ._options import Output, Restart, options, refuse_given


@options
def run(
    *,
    n: Annotated[int, Opt("How many problems.", names=("-n", "--count"), least=0, metavar="N")] = 500,
    seed: Annotated[int, Opt("Which of the endless series of problems.", metavar="S")] = 0,
    split: Annotated[
        Split, Opt("seed: to search and train on; test: to measure on; train: the policy's own.")
    ] = Split.SEED,
    level: Annotated[
        int,
        Opt(
            "1: single kinds. 2 and 3: chains of two or three, and of four, in which what one part finds is an input "
            "of the next.",
            least=1,
            most=3,
            metavar="L",
        ),
    ] = 1,
    kind: Annotated[tuple[str, ...], Opt("Only this kind; may be repeated.", metavar="KIND")] = (),
    output: Output = None,
    restart: Restart = False,
    solutions: Annotated[bool, Opt("Write samples records, each with the right solution as its response.")] = False,
    list_: Annotated[bool, Opt("List the kinds with domain and rule, and stop.", names=("--list",))] = False,
    check: Annotated[
        str | None,
        Opt(
            "Judge every step of the answers in FILE (samples or scored records, - is stdin) and print counts as "
            "JSON; with -o the records too, with the verdicts under meta.clinic.steps.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Make problems of the built-in clinic, or check the steps of written answers to them."""
    if list_:
        width = max(map(len, KINDS))
        write_stdout("".join(f"{k.name:{width}}  {k.domain.value:11}  {k.formula}\n" for k in KINDS.values()))
        return
    if check is not None:
        making = ("n", "seed", "split", "level", "kind", "solutions")
        refuse_given(making, "makes problems, and --check makes none")
        with open_whole(output, inputs=[check], restart=restart) if output else nullcontext() as writer:
            exit_code = _check(check, writer)
        raise typer.Exit(exit_code)
    if level > 1:
        refuse_given(("kind",), "chooses among single kinds: --level 1")
    made = problems(n, seed=seed, split=split, level=level, kinds=kind)
    with open_whole(output, restart=restart) as writer:
        for problem in made:
            writer.write([_solved(problem) if solutions else problem])


def _solved(problem: Problem) -> Samples:
    answer = solution(problem).answer if problem.options is None else problem.answer
    response = Response(text=join_steps(write_steps(problem)), answer=answer, verdict=Verdict.CORRECT)
    return Samples(**problem_fields(problem), responses=[response], pass_rate=1.0)


def _check(source: str, writer: Any) -> int:
    """Print what the checker says of the answers in `source`, and write each record with its verdicts. Returns the exit
    status."""
    faults = Faults()
    totals: dict[str, Counter[str]] = {}
    for _, (record, texts, kind, checked_NK) in read_records([source], _read, on_bad=faults.bad):
        for text, checked in zip(texts, checked_NK, strict=True):
            steps = [c for c in checked if c.number > 0]
            fault = next((c for c in steps if c.verdict is not checker.StepVerdict.RIGHT), None)
            for row in (totals.setdefault("all", Counter()), totals.setdefault(kind, Counter())):
                row["responses"] += 1
                row["answer_right"] += checker.answer_is_right(record, text)
                row.update(f"steps_{c.verdict.value}" for c in steps)
                row["no_fault" if fault is None else f"first_fault_at_{fault.number}"] += 1
        if writer is not None:
            line = dump(record)
            line["meta"]["clinic"]["steps"] = [[c.verdict.value for c in checked] for checked in checked_NK]
            writer.write([line])
    if not totals:
        raise UsageError(f"{source} holds no answers to clinic problems", hint="medsss clinic | medsss sample > FILE")
    faults.say_causes()
    write_stdout(orjson.dumps(totals, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())
    return faults.exit_code


def _read(
    found: dict[str, Any], where: Where
) -> tuple[Samples | Scored, list[str], str, list[list[checker.StepCheck]]]:
    """A record with its answers, the kind of its problem (of a chain, how many parts it has), and what the checker says
    of each answer's steps."""
    if "responses" not in found and "candidates" not in found:
        raise BadRecord(f"neither samples nor scored record: keys {', '.join(found)}")
    record: Samples | Scored = parse(Samples, found) if "responses" in found else parse(Scored, found)
    texts = [each.text for each in (record.responses if isinstance(record, Samples) else record.candidates)]
    kinds = parts(read_meta(record)[0])
    name = kinds[0].name if len(kinds) == 1 else f"{len(kinds)} parts"
    return record, texts, name, [checker.check(record, text) for text in texts]
