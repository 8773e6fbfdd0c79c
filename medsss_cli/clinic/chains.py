"""Harder problems: chains of kinds, in which the number that one part finds is an input of the next part.

A chain is a `Kind` like any other, so what makes, writes and checks problems knows nothing of it. The number that a
part finds gets a name (P, then Q, R), and the next part has this name in place of one input (`Kind.takes`); where that
input is a word, the number decides between two ("gout if P > 12, else asthma").

    Na 140, Cl 105, HCO3 21 mmol/L. What is the anion gap? Call it P. A child of P kg needs 60 mg/kg a day, ...

    Step 3: 35 - 21 = 14. P = 14.

The values are {"links": [the values of each part]} with the right numbers in place; a part that is decided also has
"over" (a number) and "above" (whether its word stands for more than that). A slip is "1.NAME" (the part and its slip),
or several of these with blanks between. A mistake is carried on: the parts after it work with the number that it gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from random import Random

from .kinds import KINDS, Kind, Solution, Values

NAMES = "PQR"
JOIN = "+"
LENGTHS = {1: (1,), 2: (2, 3), 3: (4,)}
"""Level -> of how many parts its problems are."""

TRIES = 10
DECIDED = 0.3
"""How often a decision may be the next part: luck gets it right half of the time."""

LAST_ONLY = ("corrected_calcium", "start_triage", "contraindication", "interaction")
"""Their answers are no whole numbers, so no part can follow them."""


def parts(kind: Kind) -> list[Kind]:
    """The kinds that a kind is made of: itself, or those of the chain."""
    return [KINDS[name] for name in kind.name.split(JOIN)]


def kind_of(name: str) -> Kind | None:
    """The kind or chain of that name ("anion_gap+divided_dose"); None if there is none."""
    names = name.split(JOIN)
    if not all(each in KINDS for each in names) or len(names) > len(NAMES) + 1:
        return None
    if any(KINDS[each].takes is None for each in names[1:]):
        return None
    return chain(tuple(names)) if len(names) > 1 else KINDS[name]


def draw(lengths: Sequence[int], rng: Random, *, lucky: bool = False) -> tuple[Kind, Values]:
    """A chain of one of the lengths, its kinds all different, and values for it, such that the usual slip of each part
    can be carried on to the end, where it gives another answer than the right one. `lucky` also takes chains in which a
    slip comes right by luck, and more of those that end with a decision."""
    while True:
        kinds = [rng.choice([kind for kind in KINDS.values() if kind.name not in LAST_ONLY])]
        links = [kinds[0].sample(rng)]
        answers = [kinds[0].solve(links[0], slip).answer for slip in (None, _usual(kinds[0]))]
        length = rng.choice(lengths)
        while answers and len(kinds) < length:
            answers = _extend(kinds, links, answers, length, rng, lucky)
        if answers:
            return chain(tuple(kind.name for kind in kinds)), {"links": links}


def _extend(
    kinds: list[Kind], links: list[Values], answers: list[str], length: int, rng: Random, lucky: bool
) -> list[str]:
    """Draw one more part. `answers` are what the last part finds without a slip and with the usual slip of each part;
    so are those that come back for the new part, or none where nothing fits."""
    if not answers[0].isdecimal() or not answers[-1].isdecimal():
        return []
    found = int(answers[0])
    barred = {*(kind.name for kind in kinds), *(LAST_ONLY if len(kinds) < length - 1 else ())}
    able = [k for k in KINDS.values() if k.takes and found in k.takes[1] and k.name not in barred]
    if not lucky:
        able = [kind for kind in able if kind.other is None or rng.random() < DECIDED]
    for kind in rng.sample(able, min(len(able), 1 if lucky else 3)):
        for _ in range(TRIES):
            values = kind.sample(rng)
            if kind.other is None:
                values[_input(kind)] = found
            else:
                low, high = sorted((found, int(answers[-1])))
                values["over"] = rng.randrange(low, high) if low < high else max(0, low - rng.randint(0, 1))
                values["above"] = int(found > values["over"])
            with suppress(ValueError):
                carried = [kind.solve(_given(kind, values, answer), None).answer for answer in answers]
                carried.append(kind.solve(values, _usual(kind)).answer)
                if lucky or carried[0] not in carried[1:]:
                    kinds.append(kind)
                    links.append(values)
                    return carried
    return []


def _usual(kind: Kind) -> str:
    return next(iter(kind.slips))


@cache
def chain(names: tuple[str, ...]) -> Kind:
    """The kinds one after the other, as one kind."""
    kinds = [KINDS[name] for name in names]
    choices = kinds[-1].choices
    return Kind(
        JOIN.join(names),
        kinds[-1].domain,
        ", then ".join(kind.formula for kind in kinds),
        {f"{place}.{name}": slip for place, kind in enumerate(kinds, 1) for name, slip in kind.slips.items()},
        lambda r: {},
        lambda v: (_ask(kinds, v["links"]),),
        lambda v, slip: _solve(kinds, v["links"], slip),
        choices=None if choices is None else lambda v: choices(v["links"][-1]),
        also=lambda v: [claim for kind, link in zip(kinds, v["links"], strict=True) for claim in kind.also(link)],
    )


def _input(kind: Kind) -> str:
    assert kind.takes is not None, f"{kind.name} can only stand first"
    return kind.takes[0]


def _ask(kinds: list[Kind], links: list[Values]) -> str:
    asked = [kinds[0].ask(links[0])[0]]
    for name, kind, values in zip(NAMES, kinds[1:], links[1:], strict=False):
        input_, word = _input(kind), name
        if kind.other is not None:
            words = [values[input_], kind.other(values)[input_]]
            above, below = words if values["above"] else reversed(words)
            word = f"{above} if {name} > {values['over']}, else {below}"
        asked += [f"Call it {name}.", kind.ask({**values, input_: word})[0]]
    return " ".join(asked)


def _solve(kinds: list[Kind], links: list[Values], slip: str | None) -> Solution:
    solved = solve_parts(kinds, links, slip)
    if len(solved) != len(kinds):
        raise ValueError("not as many values as parts")
    return Solution(tuple(step for part in solved for step in part.steps), solved[-1].answer)


def solve_parts(kinds: list[Kind], links: list[Values], slip: str | None) -> list[Solution]:
    """A solution for each part that has values, in the words of the chain. Raises ValueError where a mistake cannot be
    carried on: a sum that does not come out, or a second slip in a part that was decided wrongly."""
    slips = dict(each.split(".") for each in (slip or "").split())
    solved: list[Solution] = []
    for place, (kind, values) in enumerate(zip(kinds, links, strict=False)):
        own, decided = slips.get(str(place + 1)), ""
        if solved:
            found = solved[-1].answer
            given = _given(kind, values, found)
            if own is not None and kind.other is not None and given is not values:
                raise ValueError(f"a slip in {kind.name}, which was decided wrongly")
            values = given
            if kind.other is not None:
                sign = ">" if int(found) > values["over"] else "<="
                decided = f"{NAMES[place - 1]} {found} {sign} {values['over']}: {values[_input(kind)]}. "
        part = kind.solve(values, own)
        ending = f" {NAMES[place]} = {part.answer}." if place < len(kinds) - 1 else ""
        first, *rest = part.steps
        steps = [tuple(f"{decided}{text}" for text in first), *rest]
        steps[-1] = tuple(f"{text}{ending}" for text in steps[-1])
        solved.append(Solution(tuple(steps), part.answer))
    return solved


def _given(kind: Kind, values: Values, found: str) -> Values:
    """The values of a part after one that found a number. Raises ValueError where they do not work out."""
    if kind.other is not None:
        return values if (int(found) > values["over"]) == bool(values["above"]) else kind.other(values)
    given = {**values, _input(kind): int(found)}
    if not kind.fit(given):
        raise ValueError(f"{kind.name} cannot go on with {found}")
    return given
