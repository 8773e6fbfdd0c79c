"""Dates: the day that an answer states. Read where the gold answer is a date, and only there.

2024-03-15, 2024/3/15, 15.03.2024, 03/15/2024 and 03-15-2024 (the month first, unless it is no month), March 15, 2024,
15th of March 2024, 2024年3月15日. A day that no calendar has is no date.
"""

from __future__ import annotations

import datetime
import re

from .readers import UNSURE, Place, cue, plain

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAME = rf"(?P<m>{'|'.join(_MONTHS)})[a-z]{{0,6}}\.?"
_FORMS = [
    re.compile(rf"(?<![\d/.-]){form}(?![\d/-])", re.IGNORECASE)
    for form in (
        r"(?P<y>\d{4})(?P<s>[-/.])(?P<m>\d{1,2})(?P=s)(?P<d>\d{1,2})",
        r"(?P<m>\d{1,2})(?P<s>[-/.])(?P<d>\d{1,2})(?P=s)(?P<y>\d{4})",
        _NAME + r"\s(?P<d>\d{1,2})(?:st|nd|rd|th)?,?\s(?P<y>\d{4})",
        r"(?P<d>\d{1,2})(?:st|nd|rd|th)?[\s-](?:of\s)?" + _NAME + r",?[\s-](?P<y>\d{4})",
        r"(?P<y>\d{4})\s?年\s?(?P<m>\d{1,2})\s?月\s?(?P<d>\d{1,2})\s?日?",
    )
]
_MONTH_FIRST = _FORMS[1]

_NOT = cue(r"\b(?:not|never|neither)\b|n['’]t\b|不")
_SECOND_DAY = cue(r"\bor\b|或")


def gold_date(answer: str) -> datetime.date | None:
    """The gold answer as a day; None where it is anything but one date."""
    answer = plain(answer)
    return next((_day(match) for form in _FORMS if (match := form.fullmatch(answer))), None)


def read_date(place: Place) -> datetime.date | str | None:
    """The day at `place`: the one of its first sentence; UNSURE where that names two or takes it back."""
    line = place.text.strip("\n").partition("\n")[0].strip()
    if _NOT.search(line):
        return None
    days = {day for form in _FORMS for match in form.finditer(line) if (day := _day(match)) is not None}
    if len(days) > 1 or (days and _SECOND_DAY.search(line)):
        return UNSURE if not place.whole else None
    return days.pop() if days else None


def _day(match: re.Match[str]) -> datetime.date | None:
    named = match["m"][:3].lower()
    month = _MONTHS.index(named) + 1 if named in _MONTHS else int(match["m"])
    day = int(match["d"])
    if match.re is _MONTH_FIRST and (match["s"] == "." or month > 12):
        month, day = day, month
    try:
        return datetime.date(int(match["y"]), month, day)
    except ValueError:
        return None
