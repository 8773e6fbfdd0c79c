"""Units of measurement as clinicians write them, and conversion between those of one kind.

A unit is read at a position of a text: "mg/dL", "mL per hour", "mcg/kg/min", "°F". Two units convert where they
measure the same things in the same order: mg/kg/h and mcg/kg/min do, mg/dL and mmol/L do not (that takes the
substance). mEq and mmol are one only for ions of one charge: the caller says whether it is such an ion.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# kind: {unit: (factor to the first unit of its kind, spellings)}. "month" and "year" are no fixed number of days.
_TABLE: dict[str, dict[str, tuple[float, str]]] = {
    "mass": {
        "g": (1, "gram grams gm gms"), "kg": (1e3, "kilogram kilograms kilo kilos kgs"),
        "mg": (1e-3, "milligram milligrams mgs"), "mcg": (1e-6, "µg μg ug microgram micrograms mcgs"),
        "ng": (1e-9, "nanogram nanograms"), "pg": (1e-12, "picogram picograms"),
        "lb": (453.59237, "lbs pound pounds"), "oz": (28.349523125, "ounce ounces"),
    },
    "volume": {
        "L": (1, "l liter liters litre litres"), "dL": (0.1, "dl deciliter deciliters decilitre decilitres"),
        "cL": (1e-2, "cl"), "mL": (1e-3, "ml milliliter milliliters millilitre millilitres cc ccs cm3"),
        "uL": (1e-6, "ul µl μl microliter microliters mm3"), "fL": (1e-15, "fl"),
    },
    "amount": {
        "mol": (1, "mole moles"), "mmol": (1e-3, "millimole millimoles"),
        "umol": (1e-6, "µmol μmol micromol micromoles"),
        "nmol": (1e-9, "nanomoles"), "pmol": (1e-12, ""),
    },
    "charge": {"mEq": (1e-3, "meq meqs milliequivalent milliequivalents")},
    "osmoles": {"mOsm": (1e-3, "mosm mosmol milliosmoles")},
    "activity": {"U": (1, "u unit units iu ius")},
    "pressure": {"mmHg": (1, "mmhg torr"), "cmH2O": (0.735559, "cmh2o"), "kPa": (7.50062, "kpa")},
    "length": {
        "m": (1, "meter meters metre metres"), "cm": (1e-2, "centimeter centimeters centimetre centimetres"),
        "mm": (1e-3, "millimeter millimeters millimetre millimetres"),
        "inch": (0.0254, "inches in"), "ft": (0.3048, "feet foot"),
    },
    "area": {"m2": (1, "")},
    "time": {
        "h": (1, "hr hrs hour hours"), "min": (1 / 60, "mins minute minutes"),
        "s": (1 / 3600, "sec secs second seconds"),
        "d": (24, "day days"), "wk": (168, "week weeks wks"),
    },
    "calendar": {"mo": (1, "month months mos"), "y": (12, "yr yrs year years")},
    "percent": {"%": (1, "percent pct")},
    "permille": {"‰": (1, "permille")},
    "celsius": {"°C": (1, "c celsius centigrade"), "°F": (5 / 9, "f fahrenheit")},
    "energy": {"kcal": (1, "calories"), "kJ": (1 / 4.184, "kj")},
    "beats": {"beat": (1, "beats")}, "breaths": {"breath": (1, "breaths")}, "drops": {"drop": (1, "drops gtt gtts")},
}  # fmt: skip
_KNOWN = {
    spelling: (kind, factor, unit)
    for kind, units in _TABLE.items()
    for unit, (factor, spellings) in units.items()
    for spelling in (unit.lower(), *spellings.split())
}
_ATOM = re.compile(
    r"(?:mm\s?hg|cm\s?h2o|(?:degrees?\s|deg\s|°\s?)(?P<scale>c|f|celsius|fahrenheit)|per\s?cent|(?P<area>m\^?[2²]|square\smet(?:er|re)s?)"
    r"|(?:cm|mm)\^?[3³]|%|‰|[a-zµμ]{1,16})(?![a-z0-9^²³])",
    re.IGNORECASE,
)
_PER = re.compile(r"\s?(?:/|\bper\b)\s?", re.IGNORECASE)
_PER_CENT = re.compile(r"\s?per\s?cent", re.IGNORECASE)
_BODY_SURFACE = re.compile(r"\s?(?:/|\bper\b)\s?1\.73\s?m\^?[2²]?", re.IGNORECASE)
_MOLAR = re.compile(r"([mµμn]?)M\b")
_MOLES = {"": 1.0, "m": 1e-3, "µ": 1e-6, "μ": 1e-6, "n": 1e-9}
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
    if kinds[0] in {"beats", "breaths"}:
        kinds[0] = ""
    return Unit(tuple(kinds), factor, offset), end


def _atom(text: str, position: int, *, first: bool) -> tuple[tuple[str, ...], float, float, int] | None:
    molar = _MOLAR.match(text, position)
    if molar and (molar[1] or first):
        return ("amount", "volume"), _MOLES[molar[1]], 0.0, molar.end()
    match = _ATOM.match(text, position)
    if match is None:
        return None
    written = match.group().lower().replace(" ", "").replace("^", "").replace("²", "2").replace("³", "3")
    if match["scale"]:
        written = match["scale"].lower()
    elif match["area"]:
        written = "m2"
    elif written == "bpm":
        return ("", "time"), 60.0, 0.0, match.end()
    elif (written in {"c", "f"} and not match.group().isupper()) or (
        written == "in" and not _INCH.match(text, position)
    ):
        return None
    known = _KNOWN.get(written)
    if known is None:
        return None
    kind, factor, unit = known
    return (kind,), factor, (-32.0 if unit == "°F" else 0.0), match.end()


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
