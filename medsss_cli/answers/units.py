"""Units of measurement as clinicians write them, and conversion between those of one kind.

A unit is read at a position of a text: "mg/dL", "mL per hour", "mcg/kg/min", "°F". Two units convert where they
measure the same things in the same order: mg/kg/h and mcg/kg/min do, mg/dL and mmol/L do not (that takes the
substance). mEq and mmol are one only for ions of one charge: the caller says whether it is such an ion.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PREFIXES = {
    "": 1.0, "k kilo": 1e3, "d deci": 1e-1, "c centi": 1e-2, "m milli": 1e-3, "u µ μ mc micro": 1e-6, "n nano": 1e-9,
    "p pico": 1e-12, "f femto": 1e-15,
}  # fmt: skip
_METRIC = {
    "mass": "g gram gm", "volume": "l liter litre", "amount": "mol mole", "length": "m meter metre",
    "charge": "eq equivalent", "osmoles": "osm osmol osmole", "activity": "u unit iu",
}  # fmt: skip
# kind: {factor to the base unit of its kind: spellings}. "month" and "year" are no fixed number of days.
_OTHERS: dict[str, dict[float, str]] = {
    "mass": {1e3: "kilo", 453.59237: "lb pound", 28.349523125: "oz ounce"},
    "volume": {1e-3: "cc cm3", 1e-6: "mm3"},
    "pressure": {1: "mmhg torr", 0.735559: "cmh2o", 7.50062: "kpa"},
    "length": {0.0254: "inch inches in", 0.3048: "ft feet foot"},
    "area": {1: "m2 squaremeter squaremetre"},
    "time": {1: "h hr hour", 1 / 60: "min minute", 1 / 3600: "s sec second", 24: "d day", 168: "wk week"},
    "calendar": {1: "mo month", 12: "y yr year"},
    "percent": {1: "% percent pct"},
    "permille": {1: "‰ permille"},
    "celsius": {1: "c celsius centigrade", 5 / 9: "f fahrenheit"},
    "energy": {1: "kcal calories", 1 / 4.184: "kj"},
    "": {1: "beat breath"},  # what is only counted: "80 beats/min" is "80/min"
    "drops": {1: "drop gtt"},
}
_KNOWN = {
    prefix + name: (kind, factor)
    for kind, names in _METRIC.items()
    for name in names.split()
    for prefixes, factor in _PREFIXES.items()
    for prefix in prefixes.split() or [""]
    if prefix + name != "pm"  # in the afternoon
} | {
    spelling: (kind, factor)
    for kind, units in _OTHERS.items()
    for factor, spellings in units.items()
    for spelling in spellings.split()
}
_ATOM = re.compile(
    r"(?:mm\s?hg|cm\s?h2o|(?P<degrees>degrees?\s|deg\s|°\s?)?(?P<scale>c|f|celsius|fahrenheit)|per\s?cent|m\^?[2²]"
    r"|square\smet(?:er|re)s?|(?:cm|mm)\^?[3³]|%|‰|[a-zµμ]{1,16})(?![a-z0-9^²³])",
    re.IGNORECASE,
)
_LINK = re.compile(r"\s?(?P<per>/|per\b(?!\s?cent))?\s?", re.IGNORECASE)
_BODY_SURFACE = re.compile(r"\s?(?:/|\bper\b)\s?1\.73\s?m\^?[2²]?", re.IGNORECASE)
_MOLAR = re.compile(r"([mµμn]?)M\b")
_FLAT = str.maketrans("²³", "23", " ^")
_INCH = re.compile(r"in(?=\s?(?:$|[.,;)]))", re.IGNORECASE)


class Unit(NamedTuple):
    """What is measured, in order ("mass", "volume" for mg/dL), and the factor to its base units."""

    kinds: tuple[str, ...]
    factor: float
    offset: float = 0.0  # of °F


def read_unit(text: str, position: int) -> tuple[Unit | None, int]:
    """The unit at `position`, after a space or none, and where it ends; None and `position` where there is none that is
    known whole ("mg/bag" is not)."""
    kinds: list[str] = []
    factor, offset, end = 1.0, 0.0, position
    for _ in range(4):
        if kinds and (surface := _BODY_SURFACE.match(text, end)):
            end = surface.end()
            break
        link = _LINK.match(text, end)
        per = link is not None and link["per"] is not None
        if link is None or (kinds and not per):
            break
        if per and not kinds:
            kinds.append("")  # "80/min"
        atom = _atom(text, link.end(), first=not kinds)
        if atom is None:
            return None, position
        unit, end = atom
        factor = factor / unit.factor if per else unit.factor
        offset = offset or unit.offset
        kinds.extend(unit.kinds)
    return (Unit(tuple(kinds), factor, offset), end) if kinds else (None, position)


def _atom(text: str, position: int, *, first: bool) -> tuple[Unit, int] | None:
    """The one unit at `position`, and its end."""
    molar = _MOLAR.match(text, position)
    if molar and (molar[1] or first):
        return Unit(("amount", "volume"), _KNOWN[f"{molar[1]}mol"][1]), molar.end()
    match = _ATOM.match(text, position)
    if match is None:
        return None
    written = (match["scale"] or match.group().translate(_FLAT)).lower()
    if written == "bpm":
        return Unit(("", "time"), 60.0), match.end()
    if len(written) > 2 and written not in _KNOWN:
        written = written.removesuffix("s")
    letter = written in {"c", "f"} and not match["degrees"] and not match.group().isupper()
    if letter or (written == "in" and not _INCH.match(text, position)) or written not in _KNOWN:
        return None
    kind, factor = _KNOWN[written]
    return Unit((kind,), factor, -32.0 if kind == "celsius" and factor != 1 else 0.0), match.end()


def convert(value: float, unit: Unit, wanted: Unit, *, univalent: bool = True) -> float | None:
    """`value` in the unit `wanted`; None where the two measure different things."""
    if unit.kinds != wanted.kinds:
        amounts = [tuple("amount" if kind == "charge" else kind for kind in each.kinds) for each in (unit, wanted)]
        if not univalent or amounts[0] != amounts[1]:
            return None
    if unit.factor == wanted.factor and unit.offset == wanted.offset:
        return value
    if unit.offset or wanted.offset:
        return (value + unit.offset) * unit.factor / wanted.factor - wanted.offset
    return value * (unit.factor / wanted.factor)
