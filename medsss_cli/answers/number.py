"""Numbers: the value that stands at a place, and whether it equals the gold value. docs/answers.md shows what is read.

Tolerance: half of the last digit that the gold answer states, at least 0.1 % and at most 5 % of it, unless it says its
own ("84 ± 2", "84 ± 5%", "80 to 90"). **What stands right after a number must not be able to change it**: "5-fold",
"5 in 1000" and "84 ± 2" are no numbers. Where the gold answer and the answer both state a known unit, the answer is
converted, and must agree to half of its own last digit too, or 130 min would pass for 2 h.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from .readers import UNSURE, Place, first_sentence, plain
from .units import Unit, convert, read_unit

RELATIVE = 1e-3
ROUNDED = 0.05


class Number(NamedTuple):
    """A number as it was written: its value, and half of its last stated digit.

    `high` is the upper end of a range, of which `value` is the lower. `slack` is a tolerance that the gold answer
    states. `unit` is None where none is stated that we know; `out_of` is the total of a score or the lower part of a
    fraction, and `fraction` tells that it may be one ("3/5", not "3 out of 5").
    """

    value: float
    half_digit: float
    high: float | None = None
    slack: float | None = None
    unit: Unit | None = None
    out_of: float | None = None
    fraction: bool = False


class _Found(NamedTuple):
    """A number and where its text begins and ends, the unit included."""

    number: Number
    start: int
    end: int


_ONES = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"  # noqa: SIM905
    " eighteen nineteen".split()
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: float(i) for i, word in enumerate(_ONES)} | {word: 20.0 + 10 * i for i, word in enumerate(_TENS)}
_SCALES = {
    "hundred": 1e2, "thousand": 1e3, "k": 1e3, "million": 1e6, "m": 1e6, "billion": 1e9, "bn": 1e9,
    "千": 1e3, "万": 1e4, "亿": 1e8,
}  # fmt: skip
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "eighth": 8, "tenth": 10}
_GLYPHS = {"½": 0.5, "⅓": 1 / 3, "⅔": 2 / 3, "¼": 0.25, "¾": 0.75, "⅛": 0.125, "⅕": 0.2}

_NUMBER = re.compile(
    r"(?<![\w.])(?<!\w[-–])(?P<sign>[-+−–]\s?)?(?:\\[dt]?frac\s?\{(?P<top>\d{1,9})\}\s?\{(?P<below>\d{1,9})\}"
    r"|(?P<digits>\d{1,3}(?:,\d{3}){1,5}(?![\d]|,\d)|\d{2,3}(?:\s\d{3}){1,4}(?![\d,.]?\d)|\d(?:\s\d{3}){2,4}(?![\d,.]?\d)|\d\s000(?![\d,.]?\d)"
    r"|\d{1,30}(?!\d))(?P<decimals>\.\d{1,30})?|(?P<bare>\.\d{1,30})|(?P<glyph>[½⅓⅔¼¾⅛⅕]))"
)
_WORD = "|".join((*_TENS, *sorted(_ONES, key=len, reverse=True)))
_PART = "|".join(f"{part}s?" for part in _PARTS).replace("halfs", "hal(?:f|ves)")
_IN_WORDS = re.compile(
    rf"(?<![\w-])(?P<sign>minus |negative )?(?:(?P<first>{_WORD})(?:[\s-](?P<second>{'|'.join(_ONES[1:10])}))?\b"
    rf"(?P<scale>\s(?:hundred|thousand|million))?(?:[\s-](?P<part>{_PART})\b)?(?P<half>\sand\sa\shalf\b)?)",
    re.IGNORECASE,
)
_WORDS_GO_ON = re.compile(
    rf"\s?(?:hundred|thousand|million|of\s|and\s\w|-)|\s(?:in\s(?:a\s)?(?=\d|hundred|{_WORD})|(?:{_WORD})\b)",
    re.IGNORECASE,
)
_SMALL = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_POWER = r"(?:(?:\^|\*\*)\s?\{?(?P<NAME>[-+−]?\d{1,3})\}?|(?P<NAMEs>⁻?[⁰¹²³⁴-⁹]{1,3}))"
_EXPONENT = re.compile(
    r"[eE](?P<e>[-+−]?\d{1,3})\b|\s?(?:[x×*·]|\\times|\\cdot)\s?10(?:"
    + _POWER.replace("NAME", "ten")
    + r"|(?P<loose>[-+−]\d{1,3})\b)|"
    + _POWER.replace("NAME", "own")
)
_SCALE = re.compile(
    r"(?P<tight>[kK]|M|mn|bn)(?![\w/])|\s?(?P<word>hundred|thousand|million|billion)\b|(?P<chinese>[千万亿])",
    re.IGNORECASE,
)
_MIXED = re.compile(
    r"(?:\s(?P<top>\d{1,3})/(?P<below>\d{1,3})(?!\d)|\s?\\[dt]?frac\{(?P<t2>\d{1,3})\}\{(?P<b2>\d{1,3})\}|\s?(?P<glyph>[½⅓⅔¼¾⅛⅕])|(?P<half>\sand\sa\shalf\b))"
)
_RANGE = re.compile(r"\s?(?:[-–—~～至到]|\bto\b)\s?(?=\d)")
_AND = re.compile(r"\s?(?:and|to)\s(?=\d)")
_BETWEEN = re.compile(r"\bbetween\s$", re.IGNORECASE)
_MINUS = re.compile(r"\b(?:minus|negative)\s$", re.IGNORECASE)
_OR = re.compile(r",?\s?(?:or|或|\()\s?(?=[\d.])")
_OUT_OF = re.compile(
    r"\s?(?:(?P<slash>/)|(?:out\s)?of\s(?:a\s(?:possible|total\sof|maximum\sof)\s)?)\s?(?P<total>\d{1,9}|"
    + _WORD
    + r")(?![\d/]|[.,]\d)",
    re.IGNORECASE,
)
_PLUS_MINUS = re.compile(r"\s?(?:±|\\pm|\+\s?/?\s?[-−])\s?(?P<size>\d{1,12}(?:\.\d{1,12})?)\s?(?P<percent>%)?")
_FEET = re.compile(r"\s?['’]\s?(?P<inches>\d{1,2})(?:\s?(?:\"|''|”|’’))?(?!\d)")
_EQUALS = re.compile(r"[=≈]")
_CLAUSE_END = re.compile(r"(?<=\S)[.!?](?=\s(?!\d)|$)|;(?=\s(?!\d)|$)|[。；\n]")
_NOT = re.compile(r"(?:not|never|neither)\b|不是|并非", re.IGNORECASE)
_BUT = re.compile(r"\b(?:but|rather)\b|而是|,\sit\sis\b", re.IGNORECASE)
# Before a number, these make it no value: bounds, other numbers' places, denials.
_UNFIT_BEFORE = re.compile(
    r"[<>≥≤√^×]|\\(?!approx)|\w\($|[-−]\s?\($|\b(?:log|ln|exp|root|double|twice|triple|square|cube|than|above|below|over|under|least|at\smost|up\sto|range|not|never|neither|exceeds?|within|may|might|could|or|half|dozen|times"
    r"|plus|from|years?|divided|per|step|tablets?\sof)\b|n['’]t|大于|小于|超过|不",
    re.IGNORECASE,
)
# After a number and its unit: the end, a mark that ends it, or words that cannot change it.
_FIT_AFTER = re.compile(
    r"\s?(?:$|[.!;)\]}。；，、](?:\s|$|[\u3400-\u9fff])(?!\s?\d)|,(?=\s[^\W\d])|:(?=\s?$)|\((?!\d{1,3}[,;])|[—–-]\s(?=[^\W\d])"
    r"|[\u3400-\u9fff](?<![到至或和比×倍分成折]))|\s?[}\])]{1,3}(?:\s|$)|!"
    r"|\s(?!(?i:dozen|tens|more|less|fewer|greater|higher|lower|point|over|lakh|crore|mil|mio|mn|bn|trillion|and|am|pm|[a-z]{1,12}\s?(?:/|per\s)\s?\d+|[a-z]{1,3}\d+|(?:[a-z]{1,20}\s){1,4}(?<!range\s)of\s\d+|squared|cubed|if|unless|when|provided|fold|of|[a-z]{1,12}/\d+|per|or|to|times|plus|minus|x|divided"
    r"|percentile|thrice|twice(?!\s(?:a|per|every|daily)\b))\b|(?i:in|by)\s(?:a\s)?(?:\d|[a-z]{1,5}\s?hundred))[A-Za-z]"
)
_NAMED = re.compile(
    r"^(?:(?:so|thus|hence|therefore|and|then)\b,?\s)?(?:the|his|her|its|this|mean|total|x)?\b[^=:.!?\d]{0,80}?\s"
    r"(?:is|was|are|equals|will\sbe|would\sbe|should\sbe|should\sreceive|comes\sto|becomes|needs)\s|^[^=:.!?\d]{0,40}(?:为|是|等于|给予)(?=\s?[-+−\d])",
    re.IGNORECASE,
)
_NO_RESULT = re.compile(
    r"\b(?:patient|he|she|man|woman|boy|girl|child|infant|normal|reference|limit|threshold|cut-?off|target|range|step|maximum|minimum|let|if|input"
    r"|usual|typical|old)\b",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^[^=:.!?\d]{1,60}:\s(?=[-+−.\d])")
_FILLER = re.compile(
    r"(?:[\s(~≈:$£€#>*-]|(?:about|approximately|approx\.?|around|roughly|exactly|only|nearly|simply|so|thus|hence|therefore|just|equal\sto|the|is|a|约|大约)\b,?)*",
    re.IGNORECASE,
)
_SCORE = re.compile(r"\b(?:scores?|scale|points|gcs|apgar|criteria|index)\b|评分", re.IGNORECASE)
MULTIVALENT = re.compile(
    r"\b(?:calcium|magnesium|phosph\w{1,6}|sul(?:f|ph)ate|iron|zinc|ca|mg\+\+|mg2\+)\b|[钙镁磷]", re.IGNORECASE
)


_HALF_A = re.compile(r"(?<!and\s)\bhalf\san?\s(?=[a-z])", re.IGNORECASE)
_ORDER = re.compile(
    r"^(?:(?:so|thus|hence|therefore)\b,?\s)?(?:(?:(?:(?:you|we|I)\s(?:would|should|must|will)\s)?(?:give|administer|infuse|prescribe|draw\sup)|set\sthe\s\w{1,12}\s(?:at|to))\s(?=[\d.]))?",
    re.IGNORECASE,
)
_WHICH_IS = re.compile(
    r",\swhich\sis\s(?:normal|low|high|elevated|abnormal|\w{4,5}weight|obese|mild|severe|(?:with)?in)\b.*$",
    re.IGNORECASE,
)
_CHINESE = re.compile(
    r"^(?:[一二两三四五六七八九])?十?[一二两三四五六七八九]?(?=[片次个天克岁种周支粒]{0,1}[。.!\s]{0,2}$)"
)
_CHINESE_DIGITS = "零一二三四五六七八九"


def _in_digits(text: str) -> str:
    """`text` with the number in words that it begins with in digits: "twenty-five mg", "one and a half", "two thirds";
    "" where words go on that are not understood ("five hundred and ten", "one of three")."""
    word = _IN_WORDS.search(text[:120])
    if word is None or not _FILLER.fullmatch(text, 0, word.start()):
        return text
    value = _WORDS[word["first"].lower()]
    odd = word["second"] and (value < 20 or value % 10)
    if odd or _WORDS_GO_ON.match(text, word.end()):
        return ""
    value += _WORDS[word["second"].lower()] if word["second"] else 0
    value *= _SCALES[word["scale"].strip().lower()] if word["scale"] else 1
    if word["part"]:
        value /= _PARTS[re.sub(r"halves$", "half", word["part"].lower()).removesuffix("s")]
    value += 0.5 if word["half"] else 0
    return f"{text[: word.start()]}{'-' if word['sign'] else ''}{value:.10g}{text[word.end() :]}"


def _of_chinese(match: re.Match[str]) -> str:
    """Chinese numerals to ninety-nine, as digits; two digits beside each other ("三四", three or four) stay."""
    tens, ten, ones = match.group().replace("两", "二").rpartition("十")
    if len(ones) > 1 or not match.group():
        return match.group()
    value = 10 * (_CHINESE_DIGITS.index(tens) if tens else 1) if ten else 0
    return str(value + (_CHINESE_DIGITS.index(ones) if ones else 0))


def read_gold(answer: str) -> Number | None:
    """The gold number, with its unit, tolerance or range if it states one ("84", "12.5 mg/dL", "1,500 mL", "84 ± 2",
    "80 to 90 mmHg"); None where there is not exactly one. "5-6" is refused: a range, a date or a subtraction?"""
    answer = _in_digits(plain(answer))
    found = _first(answer)
    if found is None or answer[: found.start].strip(" ≈~<>=$£€") not in {"", "between"}:
        return None
    if found.number.high is not None and "-" in answer[found.start : found.end].lstrip("-"):
        return None
    number = found.number
    if _OR.match(answer, found.end) and "(" not in answer[found.end : found.end + 2]:
        return None
    around = _PLUS_MINUS.match(answer, found.end)
    if around:
        size = float(around["size"])
        unit, _ = read_unit(answer, around.end())
        number = number._replace(
            slack=abs(number.value) * size / 100 if around["percent"] else size, unit=number.unit or unit
        )
    return number


def read_number(place: Place) -> Number | str | None:
    """The number at `place`; None where none stands there, UNSURE where it is taken back or one of two.

    In "2 x 42 = 84 mmHg" the number after the last equals sign counts, else the first. A line or sentence without a cue
    must be a number with at most three words, or say that something is it ("The MAP is 84 mmHg.").
    """
    if place.subject or place.early or place.text[:1] == "—":  # an early number may be a step
        return None
    line = _HALF_A.sub("0.5 ", plain(place.text.strip("\n").partition("\n")[0]))
    line = _CHINESE.sub(_of_chinese, line)
    if not place.whole:
        return _stated(_clause(line))
    line = re.sub(r"^(?:[-•>]\s|\\\[)", "", line).rstrip(". 。\\]")
    named = _NAMED.match(line) or _LABEL.match(line)
    if _EQUALS.search(line):
        line = _WHICH_IS.sub("", _EQUALS.split(line)[-1])
    elif named:
        if _NO_RESULT.search(line[: named.end()]) or _UNFIT_BEFORE.search(line[: named.end()]):
            return None
        line = _WHICH_IS.sub("", line[named.end() :])
        if len(re.findall(r"\d+(?:[.,]\d+)*", line)) > 1 and not re.search(r"10\s?\^|\(", line):
            return None
    else:
        line = _ORDER.sub("", line)
    return _number(line, most_words=3)


def _clause(text: str) -> str:
    """`text` up to the end of its first sentence; the point of "12.5" ends nothing."""
    for end in _CLAUSE_END.finditer(text):
        if any(c.isdigit() for c in text[: end.start()]):
            return text[: end.start()]
    return text if _CLAUSE_END.search(text) is None else first_sentence(text)


def _stated(clause: str) -> Number | str | None:
    if _NOT.match(clause):
        turn = _BUT.search(clause)
        return _stated(clause[turn.end() :].strip()) if turn else None
    return _number(_EQUALS.split(clause)[-1])


def _number(text: str, most_words: int | None = None) -> Number | str | None:
    """The number of `text`, alone or followed by at most `most_words` words."""
    text = _in_digits(text.strip())
    found = _first(text)
    if found is None:
        return None
    before, rest = text[: found.start], text[found.end :]
    if _UNFIT_BEFORE.search(_BETWEEN.sub("", before) if found.number.high is not None else before):
        return None
    if most_words is not None and (_FILLER.fullmatch(before) is None or len(rest.split()) > most_words):
        return None
    other = _OR.match(rest)
    second = _first(rest[other.end() :]) if other else None
    if second is not None and other is not None:
        unit, first = second.number.unit, found.number
        alike = unit is None or first.unit is None or unit == first.unit
        after = rest[other.end() + second.end :]
        if alike and ("(" not in other.group() or (second.number.high is None and re.match(r"\s?(?:\)|[a-z])", after))):
            return first if same(second.number.value, first) else UNSURE
        return first
    of_what = found.number.unit is not None and rest.startswith(" of ") and found.number.unit.kinds != ("percent",)
    return found.number if of_what or _FIT_AFTER.match(rest) else None


def _first(text: str) -> _Found | None:
    """The first number or range of `text`; None if there is none or it cannot be read as one."""
    match = _NUMBER.search(text)
    single = _at(text, match) if match else None
    if match is None or single is None:
        return None
    value, half, end = single
    if _MINUS.search(text[max(match.start() - 10, 0) : match.start()]):
        value = -value
    total = _OUT_OF.match(text, end)
    if total:
        return _share(text, value, half, total, match.start())
    if re.match(r"\s?/\s?\d|\s\d", text[end:]):
        return None
    unit, end = read_unit(text, end)
    feet = _FEET.match(text, end) if unit is None else None
    if feet:
        unit, end = read_unit("ft", 0)[0], feet.end()
        value += float(feet["inches"]) / 12
    while unit is not None and unit.offset == 0 and (more := _COMPOUND.match(text, end)):
        smaller, stop = read_unit(text, more.end())
        part = convert(float(more["value"]), smaller, unit) if smaller else None
        if smaller is None or part is None or smaller.factor >= unit.factor:
            break
        value, half, end = value + part, convert(half, smaller, unit) or half, stop
    between = _BETWEEN.search(text[max(match.start() - 10, 0) : match.start()])
    link = (_AND if between else _RANGE).match(text, end)
    if not link:
        return _Found(Number(value, half, unit=unit), match.start(), end)
    rest = text[link.end() :]  # a slice: the hyphen before it is no part of the number
    second = _NUMBER.match(rest)
    upper = _at(rest, second) if second else None
    if upper is None or upper[0] < value:
        return None
    end = link.end() + upper[2]
    upper_unit, end = read_unit(text, end)
    number = Number(value, max(half, upper[1]), high=upper[0], unit=upper_unit or unit)
    return _Found(number, match.start(), end)


_COMPOUND = re.compile(r",?\s(?:and\s)?(?P<value>\d{1,4}(?:\.\d{1,4})?)(?=\s?[a-z])", re.IGNORECASE)


def _share(text: str, value: float, half: float, total: re.Match[str], start: int) -> _Found | None:
    """ "3/5" or "3 out of 5"."""
    below = _WORDS.get(total["total"].lower()) if total["total"].isalpha() else float(total["total"])
    if below is None or below == 0:
        return None
    unit, end = read_unit(text, total.end())
    return _Found(Number(value, half, unit=unit, out_of=below, fraction=bool(total["slash"])), start, end)


def _at(text: str, match: re.Match[str]) -> tuple[float, float, int] | None:
    """Value, half of the last digit and end of the number that `match` found; None where it is out of range."""
    end = match.end()
    decimals = match["decimals"] or match["bare"] or ""
    digits = re.sub(r"[,\s]", "", match["digits"] or "0")
    try:
        if match["top"]:
            value, half = float(match["top"]) / float(match["below"]), 0.0
        elif match["glyph"]:
            value, half = _GLYPHS[match["glyph"]], 0.0
        else:
            value, half = float(f"{digits}{decimals}"), 0.5 * 10.0 ** -max(len(decimals) - 1, 0)
            value, half, end = _scaled(text, end, value, half, whole=not decimals)
        if re.match(r",\d|\.\d", text[end : end + 2]) or not math.isfinite(value):
            return None
    except (OverflowError, ZeroDivisionError):
        return None
    return (-value if (match["sign"] or "+")[0] in "-−–" else value), half, end


def _scaled(text: str, end: int, value: float, half: float, *, whole: bool) -> tuple[float, float, int]:
    """The number with what multiplies it or adds a fraction: "1 1/2", "5 x 10^3", "10^6", "5 million"."""
    mixed = _MIXED.match(text, end) if whole else None
    if mixed:
        top, below = mixed["top"] or mixed["t2"], mixed["below"] or mixed["b2"]
        part = float(top) / float(below) if top else _GLYPHS[mixed["glyph"]] if mixed["glyph"] else 0.5
        return value + part, 0.0, mixed.end()
    power = _EXPONENT.match(text, end)
    if power:
        own = power["own"] or power["owns"]
        written = power["e"] or power["ten"] or power["tens"] or power["loose"] or own
        exponent = int(written.translate(_SMALL).replace("−", "-"))
        if own and (value == 0 or abs(exponent * math.log10(abs(value) or 1)) > 300):
            raise OverflowError
        if own:
            return value**exponent, 0.0, power.end()
        return value * 10.0**exponent, half * 10.0**exponent, power.end()
    scale = _SCALE.match(text, end)
    if scale:
        written = (scale["tight"] or scale["word"] or scale["chinese"]).lower()
        size = _SCALES.get(written, 1e6)
        return value * size, half * size, scale.end()
    return value, half, end


def as_value(number: Number, gold: Number, question: str) -> Number:
    """The number as the question means it: "3/5" is a score of 3 where the gold answer or the question speaks of a
    score, else .6."""
    maybe_a_part = number.fraction or gold.fraction
    score = not maybe_a_part or _SCORE.search(question) or (gold.out_of and not gold.fraction)
    if number.out_of is None or score:
        return number
    return number._replace(value=number.value / number.out_of, half_digit=0.0, out_of=None)


def agrees(answer: Number, gold: Number, *, univalent: bool = True) -> bool:
    """Whether `answer` is the gold number: in its tolerance or range, in the same unit or converted, and with no other
    total. A range is right only where the gold answer is that range, ends compared as numbers are.
    """
    if answer.unit is not None and gold.unit is not None and answer.unit != gold.unit:
        ends = [convert(end, answer.unit, gold.unit, univalent=univalent) for end in (answer.value, answer.high or 0.0)]
        digit = abs(answer.half_digit * answer.unit.factor / gold.unit.factor)
        if ends[0] is None or ends[1] is None:
            return False
        answer = answer._replace(value=ends[0], high=ends[1] if answer.high is not None else None, unit=gold.unit)
        gold = gold._replace(half_digit=min(gold.half_digit, digit))
    if answer.out_of is not None and gold.out_of is not None and answer.out_of != gold.out_of:
        return False
    if gold.high is not None:
        if answer.high is not None:
            upper = Number(gold.high, gold.half_digit)
            return same(answer.value, gold) and same(answer.high, upper)
        return gold.value * (1 - 1e-9) <= answer.value <= gold.high * (1 + 1e-9)
    return answer.high is None and same(answer.value, gold)


def same(value: float, gold: Number) -> bool:
    """Whether `value` equals the gold number within the tolerance of this module."""
    slack = gold.slack
    if slack is None:
        slack = max(RELATIVE * abs(gold.value), min(gold.half_digit, ROUNDED * abs(gold.value)))
    return abs(value - gold.value) <= slack * (1 + 1e-9)  # 12.55 - 12.5 is 0.05000000000000071


def canonical(number: Number, unit: Unit | None = None) -> str:
    """One spelling for equal numbers, so that votes can be counted: "84" for 84.0, at most 10 significant digits; a
    range is "5 to 6". In `unit`, where it can be converted."""
    values = [number.value] if number.high is None else [number.value, number.high]
    if unit is not None and number.unit is not None and unit != number.unit:
        values = [value if (to := convert(value, number.unit, unit)) is None else to for value in values]
    return " to ".join(f"{value + 0.0:.10g}" if value else "0" for value in values)
