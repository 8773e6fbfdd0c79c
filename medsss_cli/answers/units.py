"""Units of measurement as clinicians write them, and conversion between those of one kind.

A unit is read at a position of a text: "mg/dL", "mL per hour", "mcg/kg/min", "°F". Two units convert where they
measure the same things in the same order: mg/kg/h and mcg/kg/min do, mg/dL and mmol/L do not (that takes the
substance). mEq and mmol are one only for ions of one charge: the caller says whether it is such an ion.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# kind: {factor to the base unit of its kind: spellings}. "month" and "year" are no fixed number of days.
_TABLE: dict[str, dict[float, str]] = {
    "mass": {
        1: "g gram grams gm gms", 1e3: "kg kilogram kilograms kilo kilos kgs", 1e-3: "mg milligram milligrams mgs",
        1e-6: "mcg µg μg ug microgram micrograms mcgs", 1e-9: "ng nanogram nanograms", 1e-12: "pg picogram picograms",
        453.59237: "lb lbs pound pounds", 28.349523125: "oz ounce ounces",
    },
    "volume": {
        1: "l liter liters litre litres", 0.1: "dl deciliter deciliters decilitre decilitres", 1e-2: "cl", 1e-15: "fl",
        1e-3: "ml milliliter milliliters millilitre millilitres cc ccs cm3",
        1e-6: "ul µl μl microliter microliters mm3",
    },
    "amount": {
        1: "mol mole moles", 1e-3: "mmol millimole millimoles", 1e-6: "umol µmol μmol micromol micromoles",
        1e-9: "nmol nanomoles", 1e-12: "pmol",
    },
    "charge": {1e-3: "meq meqs milliequivalent milliequivalents"},
    "osmoles": {1e-3: "mosm mosmol milliosmoles"},
    "activity": {1: "u unit units iu ius"},
    "pressure": {1: "mmhg torr", 0.735559: "cmh2o", 7.50062: "kpa"},
    "length": {
        1: "m meter meters metre metres", 1e-2: "cm centimeter centimeters centimetre centimetres",
        1e-3: "mm millimeter millimeters millimetre millimetres", 0.0254: "inch inches in", 0.3048: "ft feet foot",
    },
    "area": {1: "m2 squaremeter squaremeters squaremetre squaremetres"},
    "time": {
        1: "h hr hrs hour hours", 1 / 60: "min mins minute minutes", 1 / 3600: "s sec secs second seconds",
        24: "d day days", 168: "wk week weeks wks",
    },
    "calendar": {1: "mo month months mos", 12: "y yr yrs year years"},
    "percent": {1: "% percent pct"},
    "permille": {1: "‰ permille"},
    "celsius": {1: "c celsius centigrade", 5 / 9: "f fahrenheit"},
    "energy": {1: "kcal calories", 1 / 4.184: "kj"},
    "": {1: "beat beats breath breaths"},  # what is only counted: "80 beats/min" is "80/min"
    "drops": {1: "drop drops gtt gtts"},
}  # fmt: skip
_KNOWN = {
    spelling: (kind, factor)
    for kind, units in _TABLE.items()
    for factor, spellings in units.items()
    for spelling in spellings.split()
}
_ATOM = re.compile(
    r"(?:mm\s?hg|cm\s?h2o|(?P<degrees>degrees?\s|deg\s|°\s?)?(?P<scale>c|f|celsius|fahrenheit)|per\s?cent|m\^?[2²]"
    r"|square\smet(?:er|re)s?|(?:cm|mm)\^?[3³]|%|‰|[a-zµμ]{1,16})(?![a-z0-9^²³])",
    re.IGNORECASE,
)
_PER = re.compile(r"\s?(?:/|\bper\b)\s?", re.IGNORECASE)
_PER_CENT = re.compile(r"\s?per\s?cent", re.IGNORECASE)
_BODY_SURFACE = re.compile(r"\s?(?:/|\bper\b)\s?1\.73\s?m\^?[2²]?", re.IGNORECASE)
_MOLAR = re.compile(r"([mµμn]?)M\b")
_MOLES = {"": 1.0, "m": 1e-3, "µ": 1e-6, "μ": 1e-6, "n": 1e-9}
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
    factor, offset = 1.0, 0.0
    end = position
    start = position + 1 if text[position : position + 1] == " " else position
    for _ in range(4):
        surface = _BODY_SURFACE.match(text, end)
        if surface and kinds:
            end = surface.end()
            break
        per = None if _PER_CENT.match(text, end) else _PER.match(text, end)
        if per is None and kinds:
            break
        if per is not None:
            start = per.end()
            if not kinds:
                kinds.append("")  # "80/min"
        atom = _atom(text, start, first=not kinds)
        if atom is None:
            return None, position
        kind, size, shift, end = atom
        factor = size if not kinds else factor * size if per is None else factor / size
        offset = offset or shift
        kinds.extend(kind)
    if not kinds:
        return None, position
    return Unit(tuple(kinds), factor, offset), end


def _atom(text: str, position: int, *, first: bool) -> tuple[tuple[str, ...], float, float, int] | None:
    """Kinds, factor, offset and end of the one unit at `position`."""
    molar = _MOLAR.match(text, position)
    if molar and (molar[1] or first):
        return ("amount", "volume"), _MOLES[molar[1]], 0.0, molar.end()
    match = _ATOM.match(text, position)
    if match is None:
        return None
    written = match.group().lower().translate(_FLAT) if not match["scale"] else match["scale"].lower()
    if written == "bpm":
        return ("", "time"), 60.0, 0.0, match.end()
    letter = written in {"c", "f"} and not match["degrees"] and not match.group().isupper()
    if letter or (written == "in" and not _INCH.match(text, position)) or written not in _KNOWN:
        return None
    kind, factor = _KNOWN[written]
    return (kind,), factor, (-32.0 if kind == "celsius" and factor != 1 else 0.0), match.end()


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
