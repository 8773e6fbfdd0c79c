"""`medsss clinic`: problems of the built-in clinic, as many as one likes, and the checker of written solutions.

Costs nothing: 10,000 problems take about a second and need no model. `--split` matters: `seed` (the default) is to
search and train on, `test` to measure on, and `train` is what the built-in policy was made from; no problem is in two.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

import typer

from medsss_cli import console
from medsss_cli.clinic import checker
from medsss_cli.clinic.kinds import KINDS
from medsss_cli.clinic.problems import Split, problems, read_meta, select_kinds, solution, write_steps
from medsss_cli.errors import BadRecord, UsageError
from medsss_cli.records import Problem, Response, Samples, Scored, Verdict, dump, parse, problem_fields
from medsss_cli.steps import join_steps
from medsss_cli.stream.jsonl import LineWriter, Where, read_objects, write_stdout

from ._options import Seed


def run(
    n: Annotated[int, typer.Option("-n", "--count", min=0, metavar="N", help="How many problems.")] = 500,
    seed: Seed = 0,
    split: Annotated[
        Literal["seed", "test", "train"],
        typer.Option("--split", help="seed: to search and train on; test: to measure on; train: the policy's own."),
    ] = "seed",
    kind: Annotated[
        list[str] | None, typer.Option("--kind", metavar="KIND", help="Only this kind (again for more).")
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option("--domain", metavar="DOMAIN", help="Only this domain (again for more).")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write here instead of stdout (.gz, .zst by name)."),
    ] = None,
    solutions: Annotated[
        bool, typer.Option("--solutions", help="Write samples records, each with the right solution as its response.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List kinds with domain and rule, and stop.")] = False,
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            metavar="FILE",
            help="Judge every step of the responses in FILE (samples or scored records, - is stdin) and print counts "
            "as JSON; with -o the records too, with the verdicts under meta.clinic.steps.",
        ),
    ] = None,
) -> None:
    """Make problems of the built-in clinic, or check the steps of written answers to them."""
    if list_:
        width = max(map(len, KINDS))
        chosen = select_kinds(kind, domain)
        write_stdout("".join(f"{k.name:{width}}  {k.domain.value:11}  {k.formula}\n" for k in chosen))
        return
    if check is not None:
        _check(check, output)
        return
    made = problems(n, seed=seed, split=Split(split), kinds=kind, domains=domain)
    with LineWriter(output) as writer:
        for problem in made:
            writer.write([_solved(problem) if solutions else problem])


def _solved(problem: Problem) -> Samples:
    text = join_steps(write_steps(problem))
    response = Response(text=text, answer=solution(problem).answer, verdict=Verdict.CORRECT)
    if problem.options is not None:
        response = Response(text=text, answer=problem.answer, verdict=Verdict.CORRECT)
    return Samples(**problem_fields(problem), responses=[response], pass_rate=1.0)


def _texts(found: dict[str, Any]) -> tuple[Samples | Scored, list[str]]:
    if "responses" in found:
        samples = parse(Samples, found)
        return samples, [response.text for response in samples.responses]
    if "candidates" in found:
        scored = parse(Scored, found)
        return scored, [candidate.text for candidate in scored.candidates]
    raise BadRecord(f"neither samples nor scored record: keys {', '.join(found)}")


def _check(source: str, output: str | None) -> None:
    bad = 0

    def on_bad(where: Where, why: str) -> None:
        nonlocal bad
        bad += 1
        console.warn(f"{where}: {why}")

    totals: dict[str, Counter[str]] = {}
    writer = None if output is None else LineWriter(output)
    for where, found in read_objects([source], on_bad=on_bad):
        try:
            record, texts = _texts(found)
            name = read_meta(record)[0].name
            checked_NK = [checker.check(record, text) for text in texts]
        except BadRecord as error:
            on_bad(where, str(error))
            continue
        for text, checked in zip(texts, checked_NK, strict=True):
            steps = [c for c in checked if c.number > 0]
            fault = next((c for c in steps if c.verdict is not checker.StepVerdict.RIGHT), None)
            for row in (totals.setdefault("all", Counter()), totals.setdefault(name, Counter())):
                row["responses"] += 1
                row["answer_right"] += checker.answer_is_right(record, text)
                row.update(f"steps_{c.verdict.value}" for c in steps)
                row["no_fault" if fault is None else f"first_fault_at_{fault.number}"] += 1
        if writer is not None:
            line = dump(record)
            line["meta"]["clinic"]["steps"] = [[c.verdict.value for c in checked] for checked in checked_NK]
            writer.write([line])
    if writer is not None:
        writer.close()
    if not totals and bad:
        raise UsageError(f"{source} holds no answers to clinic problems", hint="medsss clinic | medsss sample > FILE")
    import orjson

    write_stdout(orjson.dumps(totals, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())
    if bad:
        raise typer.Exit(1)
