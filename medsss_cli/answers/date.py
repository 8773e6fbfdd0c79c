"""Dates: the day that an answer states. Read where the gold answer is a date, and only there.

2024-03-15, 2024/3/15, 15.03.2024, 03/15/2024 and 03-15-2024 (the month first, unless it is no month), March 15, 2024,
15th of March 2024, 2024年3月15日. A day that no calendar has is no date.
"""

from __future__ import annotations

import datetime
import re

from .readers import UNSURE, Place, plain

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAME = r"(?P<{}>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{{0,6}}\.?"
_DATE = re.compile(
    r"(?<![\d/.-])(?:"
    r"(?P<y1>\d{4})(?P<s1>[-/.])(?P<m1>\d{1,2})(?P=s1)(?P<d1>\d{1,2})"
    r"|(?P<a2>\d{1,2})(?P<s2>[-/.])(?P<b2>\d{1,2})(?P=s2)(?P<y2>\d{4})"
    r"|" + _NAME.format("m3") + r"\s(?P<d3>\d{1,2})(?:st|nd|rd|th)?,?\s(?P<y3>\d{4})"
    r"|(?P<d4>\d{1,2})(?:st|nd|rd|th)?[\s-](?:of\s)?" + _NAME.format("m4") + r",?[\s-](?P<y4>\d{4})"
    r"|(?P<y5>\d{4})\s?年\s?(?P<m5>\d{1,2})\s?月\s?(?P<d5>\d{1,2})\s?日?"
    r")(?![\d/-])",
    re.IGNORECASE,
)

_NOT = re.compile(r"\b(?:not|never|neither)\b|n['’]t\b|不", re.IGNORECASE)
_SECOND_DAY = re.compile(r"\bor\b|或", re.IGNORECASE)


def gold_date(answer: str) -> datetime.date | None:
    """The gold answer as a day; None where it is anything but one date."""
    answer = plain(answer)
    match = _DATE.fullmatch(answer)
    return _day(match) if match else None


def read_date(place: Place) -> datetime.date | str | None:
    """The day at `place`: the one of its first sentence; UNSURE where that names two or takes it back."""
    line = plain(place.text.strip("\n").partition("\n")[0])
    if _NOT.search(line):
        return None
    days = {day for match in _DATE.finditer(line) if (day := _day(match)) is not None}
    if len(days) > 1 or (days and _SECOND_DAY.search(line)):
        return UNSURE if not place.whole else None
    return days.pop() if days else None


def _day(match: re.Match[str]) -> datetime.date | None:
    if match["y1"]:
        year, month, day = match["y1"], int(match["m1"]), match["d1"]
    elif match["y2"]:
        first, second = int(match["a2"]), int(match["b2"])
        month, day = (second, str(first)) if match["s2"] == "." or first > 12 else (first, str(second))
        year = match["y2"]
    elif match["y3"]:
        year, month, day = match["y3"], _MONTHS.index(match["m3"].lower()) + 1, match["d3"]
    elif match["y4"]:
        year, month, day = match["y4"], _MONTHS.index(match["m4"].lower()) + 1, match["d4"]
    else:
        year, month, day = match["y5"], int(match["m5"]), match["d5"]
    try:
        return datetime.date(int(year), month, int(day))
    except ValueError:
        return None
