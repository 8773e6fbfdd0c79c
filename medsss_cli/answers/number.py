"""Numbers: the value that stands at a place, and whether it equals the gold value. docs/answers.md shows what is read.

`in_digits` first writes every way of writing a number in one: "half a", "1½", 5 million, 10^3 and \\frac{1}{2} become
plain decimals and fractions. Tolerance: half of the last digit that the gold answer states, at least 0.1 % and at most
5 % of it, unless it says its own ("84 ± 2", "84 ± 5%", "80 to 90"). **What stands right after a number must not be able
to change it**: "5-fold", "5 in 1000" and "84 ± 2" are no numbers. Where the gold answer and the answer both state a
known unit, the answer is converted, and must agree to half of its own last digit too, or 130 min would pass for 2 h.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

from .readers import UNSURE, Place, cue, first_sentence, instead, plain
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


# One way of writing numbers

_ONES = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"  # noqa: SIM905
    " eighteen nineteen".split()
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: i for i, word in enumerate(_ONES)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_WORD = "|".join((*_TENS, *sorted(_ONES, key=len, reverse=True)))
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "mn": 6, "m": 6, "billion": 9, "bn": 9, "k": 3} | {
    "千": 3, "万": 4, "亿": 8,
}  # fmt: skip
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "eighth": 8, "tenth": 10}
_GLYPHS = dict(zip("½⅓⅔¼¾⅛⅕", ("1/2", "1/3", "2/3", "1/4", "3/4", "1/8", "1/5"), strict=True))
_SMALL = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--")
_DIGITS = "零一二三四五六七八九"
_CHINESE = {  # to ninety-nine: 三, 十, 二十四
    f"{_DIGITS[tens] if tens > 1 else ''}{'十' if tens else ''}{_DIGITS[ones] if ones else ''}": str(10 * tens + ones)
    for tens in range(10)
    for ones in range(10)
}
_IN_CHINESE = re.compile(r"^[一二两三四五六七八九十]{1,3}(?=[片次个天克岁种周支粒]?[。.! ]{0,2}$)")
_FILLER = cue(
    r"(?:[ (~≈:$£€#>*-]|(?:about|approximately|approx\.?|around|roughly|exactly|only|nearly|simply|so|thus|hence"
    r"|therefore|just|equal to|the|is|a|(?:you|we|I) (?:would|should|must|will)|give|administer|infuse|prescribe"
    r"|draw up|set the \w{1,12} (?:at|to)|约|大约)\b,?)*"
)
_IN_WORDS = cue(
    rf"(?<![\w-])(?P<sign>(?:minus|negative) )?(?P<first>{_WORD})(?:[ -](?P<second>{'|'.join(_ONES[1:10])}))?\b"
    r"(?P<scale> (?:hundred|thousand|million)\b)?"
)
_WORDS_GO_ON = cue(
    rf" ?(?:hundred|thousand|million|of |and (?!a half)\w|-(?!(?:hal|third|quarter|fourth|fifth|eighth|tenth)))"
    rf"| (?:in (?:a )?(?=\d|hundred|{_WORD})|(?:{_WORD})\b)"
)


def _power(found: re.Match[str]) -> str:
    """A power as a number with six decimals; as it is where it is too large."""
    base, exponent = float(found[1]), int(found[2])
    if base == 0 or abs(exponent * math.log10(base)) > 300:
        return found.group()
    return f"{base**exponent:.6e}"


_GROUPED = (
    r"(?<![\w.,])(?:\d{1,3}(?:,\d{3}){1,5}(?!\d|,\d)"
    r"|(?:\d{2,3}(?:\s\d{3}){1,4}|\d(?:\s\d{3}){2,4}|\d\s000)(?![\d,.]?\d))"
)
_REWRITTEN: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(pattern, re.IGNORECASE), written)
    for pattern, written in (
        (f"[{''.join(_GLYPHS)}]", lambda found: f" {_GLYPHS[found.group()]}"),
        (r"[⁰¹²³⁴-⁹⁻]{1,4}", lambda found: "^" + found.group().translate(_SMALL)),
        (r"(?<!and )\bhalf an? (?=[a-z])", "0.5 "),
        (r"(?<=\d) and a half\b", " 1/2"),
        (rf"(?<=\d)[ -]({'|'.join(_PARTS)})s?\b", lambda found: f"/{_PARTS[found[1].lower()]}"),
        (r"\b(?:minus|negative) (?=\d)", "-"),
        (r"(?<=\d) ?['’] ?(\d{1,2})(?: ?(?:''|’’))?(?!\d)", r" ft \1 inches"),
        (r"\bbetween (\d[^;]{0,20}?) and (?=\d)", r"\1 to "),
        (_GROUPED, lambda found: re.sub(r"[, ]", "", found.group())),
        (r"(?<=\d) ?(?:[x×*·]|\\times|\\cdot) ?10(?:(?:\^|\*\*) ?([-+]?\d{1,3})|([-+−]\d{1,3})\b)", r"e\1\2"),
        (r"(?<![\w.])(\d{1,9}(?:\.\d{1,9})?)(?:\^|\*\*) ?([-+]?\d{1,3})", _power),
        (
            r"(?<=\d)(?:((?-i:[kKM]|mn|bn))(?![\w/])| ?(hundred|thousand|million|billion)\b|([千万亿]))",
            lambda found: f"e{_SCALES[found.group().strip().lower()]}",
        ),
    )
]


def in_digits(text: str) -> str:
    """`text` with its numbers as plain decimals and fractions, one in words where it begins with it; "" where such
    words go on that are not understood ("five hundred and ten", "one of three")."""
    text = _IN_CHINESE.sub(lambda found: _CHINESE.get(found.group().replace("两", "二"), found.group()), text)
    word = _IN_WORDS.search(text[:120])
    if word and _FILLER.fullmatch(text, 0, word.start()):
        value = _WORDS[word["first"].lower()]
        if _WORDS_GO_ON.match(text, word.end()) or (word["second"] and (value < 20 or value % 10)):
            return ""
        value += _WORDS[word["second"].lower()] if word["second"] else 0
        text = f"{text[: word.start()]}{'-' if word['sign'] else ''}{value}{word['scale'] or ''}{text[word.end() :]}"
    for pattern, written in _REWRITTEN:
        text = pattern.sub(written, text)
    return text


# The number at a place

_NUMBER = re.compile(
    r"(?<![\w.])(?<!\w[-–])(?P<sign>[-+−–] ?)?(?P<value>\d{1,40}(?!\d)(?P<decimals>\.\d{1,30})?"
    r"|(?P<bare>\.\d{1,30}))(?:[eE](?P<exponent>[-+−]?\d{1,3})\b)?(?:(?<!\.\d)(?<!\.\d\d) (?P<top>\d{1,3})/"
    r"(?P<below>\d{1,3})(?!\d))?"
)
_RANGE = re.compile(r" ?(?:[-–—~～至到]|\bto\b) ?(?=\d)")
_OR = re.compile(r",? ?(?:or|或|\() ?(?=[\d.])")
_OUT_OF = cue(
    r" ?(?:(?P<slash>/)|(?:out )?of (?:a (?:possible|total of|maximum of) )?) ?(?P<total>\d{1,9}|"
    + _WORD
    + r")(?![\d/]|[.,]\d)"
)
_PLUS_MINUS = re.compile(r" ?(?:±|\\pm|\+ ?/? ?[-−]) ?(?P<size>\d{1,12}(?:\.\d{1,12})?) ?(?P<percent>%)?")
_COMPOUND = cue(r",? (?:and )?(?P<value>\d{1,4}(?:\.\d{1,4})?)(?= ?[a-z])")
_EQUALS = re.compile(r"[=≈]")
_CLAUSE_END = re.compile(r"(?<=\S)[.!?;](?= (?!\d)|$)|[。；]")  # not the point of "12.5"
# Before a number, these make it no value: bounds, other numbers' places, denials.
_UNFIT_BEFORE = cue(
    r"[<>≥≤√^×]|\\(?!approx)|\w\($|[-−] ?\($|\b(?:log|ln|exp|root|double|twice|triple|square|cube|than|above|below"
    r"|over|under|least|at most|up to|range|not|never|neither|exceeds?|within|may|might|could|or|half|dozen|times"
    r"|plus|from|between|years?|divided|per|step|tablets? of)\b|n['’]t|大于|小于|超过|不"
)
# After a number and its unit: the end, a mark that ends it, or words that cannot change it.
_FIT_AFTER = re.compile(
    r" ?(?:$|[.!;)\]}。；，、](?: |$|[\u3400-\u9fff])(?! ?\d)|,(?= [^\W\d])|:(?= ?$)|\((?!\d{1,3}[,;])"
    r"|[—–-] (?=[^\W\d])|[\u3400-\u9fff](?<![到至或和比×倍分成折]))| ?[}\])]{1,3}(?: |$)|!| (?!(?i:dozen|tens|more|less"
    r"|fewer|greater|higher|lower|point|over|lakh|crore|mil|mio|mn|bn|trillion|and|am|pm|[a-z]{1,12} ?(?:/"
    r"|per ) ?\d+|[a-z]{1,3}\d+|(?:[a-z]{1,20} ){1,4}(?<!range )of \d+|squared|cubed|if|unless|when|provided|fold"
    r"|of|[a-z]{1,12}/\d+|per|or|to|times|plus|minus|x|divided|percentile|thrice|twice(?! (?:a|per|every"
    r"|daily)\b))\b|(?i:in|by) (?:a )?(?:\d|[a-z]{1,5} ?hundred))[A-Za-z]"
)
_NAMED = cue(
    r"^(?:(?:so|thus|hence|therefore|and|then)\b,? )?(?:the|his|her|its|this|mean|total|x)?\b[^=:.!?\d]{0,80}? "
    r"(?:is|was|are|equals|will be|would be|should be|should receive|comes to|becomes|needs) "
    r"|^[^=:.!?\d]{0,40}(?:为|是|等于|给予)(?= ?[-+−\d])|^[^=:.!?\d]{1,60}: (?=[-+−.\d])"
)
_NO_RESULT = cue(
    r"\b(?:patient|he|she|man|woman|boy|girl|child|infant|normal|reference|limit|threshold|cut-?off|target|range"
    r"|step|maximum|minimum|let|if|input|usual|typical|old)\b"
)


def read_gold(answer: str) -> Number | None:
    """The gold number, with its unit, tolerance or range if it states one ("84", "12.5 mg/dL", "1,500 mL", "84 ± 2",
    "80 to 90 mmHg"); None where there is not exactly one. "5-6" is refused: a range, a date or a subtraction?"""
    answer = in_digits(plain(answer))
    found = _first(answer)
    if found is None:
        return None
    number, start, end = found
    subtraction = number.high is not None and "-" in answer[start:end].lstrip("-")
    alternative = _OR.match(answer, end) and "(" not in answer[end : end + 2]
    if answer[:start].strip(" ≈~<>=$£€") or subtraction or alternative:
        return None
    if around := _PLUS_MINUS.match(answer, end):
        size = float(around["size"])
        unit, _ = read_unit(answer, around.end())
        slack = abs(number.value) * size / 100 if around["percent"] else size
        number = number._replace(slack=slack, unit=number.unit or unit)
    return number


def read_number(place: Place) -> Number | str | None:
    """The number at `place`; None where none stands there, UNSURE where it is taken back or one of two.

    In "2 x 42 = 84 mmHg" the number after the last equals sign counts, else the first. A line or sentence without a cue
    must be a number with at most three words, or say that something is it ("The MAP is 84 mmHg.").
    """
    if place.subject or place.early or place.text[:1] == "—":  # an early number may be a step
        return None
    line = place.text.strip("\n").partition("\n")[0].strip()
    if not place.whole:
        ends = [end.start() for end in _CLAUSE_END.finditer(line)]
        clause = next(
            (line[:end] for end in ends if re.search(r"\d", line[:end])), first_sentence(line) if ends else line
        )
        rest = instead(clause)
        return _number(_EQUALS.split(clause if rest is None else rest)[-1])
    line = re.sub(r"^(?:[-•>]\s|\\\[)", "", line).rstrip(". 。\\]")
    named = _NAMED.match(line)
    if _EQUALS.search(line):
        line = _EQUALS.split(line)[-1].partition(", which is ")[0]
    elif named:
        if _NO_RESULT.search(line[: named.end()]) or _UNFIT_BEFORE.search(line[: named.end()]):
            return None
        line = line[named.end() :].partition(", which is ")[0]
        if len(re.findall(r"\d+(?:[.,]\d+)*", line)) > 1 and not re.search(r"10\s?\^|\(", line):
            return None
    return _number(line, most_words=3)


def _number(text: str, most_words: int | None = None) -> Number | str | None:
    """The number of `text`, alone or followed by at most `most_words` words."""
    text = in_digits(text.strip())
    found = _first(text)
    if found is None:
        return None
    number, start, end = found
    before, rest = text[:start], text[end:]
    if _UNFIT_BEFORE.search(before):
        return None
    if most_words is not None and (_FILLER.fullmatch(before) is None or len(rest.split()) > most_words):
        return None
    if (link := _OR.match(rest)) and (other := _first(rest[link.end() :])):
        second, _, stop = other
        alike = None in (second.unit, number.unit) or number.unit == second.unit
        inside = re.match(r" ?(?:\)|[a-z])", rest[link.end() + stop :]) is not None
        repeated = "(" in link.group() and (second.high is not None or not inside)
        return number if repeated or not alike or same(second.value, number) else UNSURE
    of_what = number.unit is not None and rest.startswith(" of ") and number.unit.kinds != ("percent",)
    return number if of_what or _FIT_AFTER.match(rest) else None


def _first(text: str) -> tuple[Number, int, int] | None:
    """The first number or range of `text`, and where it begins and ends, unit included; None if there is none or it
    cannot be read as one."""
    match = _NUMBER.search(text)
    number = _value(match) if match else None
    if match is None or number is None:
        return None
    end = match.end()
    if total := _OUT_OF.match(text, end):
        below = float(_WORDS.get(total["total"].lower(), 0) if total["total"].isalpha() else total["total"])
        unit, end = read_unit(text, total.end())
        share = number._replace(unit=unit, out_of=below, fraction=bool(total["slash"]))
        return (share, match.start(), end) if below else None
    if re.match(r"[,.]\d|\s?/\s?\d|\s\d", text[end:]):
        return None
    unit, end = read_unit(text, end)
    while unit is not None and unit.offset == 0 and (more := _COMPOUND.match(text, end)):
        smaller, stop = read_unit(text, more.end())
        part = convert(float(more["value"]), smaller, unit) if smaller else None
        if smaller is None or part is None or smaller.factor >= unit.factor:
            break
        half = convert(number.half_digit, smaller, unit) or number.half_digit
        number, end = number._replace(value=number.value + part, half_digit=half), stop
    number = number._replace(unit=unit)
    if link := _RANGE.match(text, end):
        rest = text[link.end() :]  # a slice: the hyphen before it is no part of the number
        second = _NUMBER.match(rest)
        upper = _value(second) if second else None
        if second is None or upper is None or upper.value < number.value or re.match(r"[,.]\d", rest[second.end() :]):
            return None
        end = link.end() + second.end()
        half = max(number.half_digit, upper.half_digit)
        unit, end = read_unit(text, end)
        number = number._replace(half_digit=half, high=upper.value, unit=unit or number.unit)
    return number, match.start(), end


def _value(match: re.Match[str]) -> Number | None:
    """The number that `match` found; None where it is out of range."""
    exponent = int((match["exponent"] or "0").replace("−", "-"))
    decimals = len(match["decimals"] or match["bare"] or ".") - 1
    value, half = float(f"{match['value']}e{exponent}"), float(f"5e{exponent - decimals - 1}")
    if match["top"]:
        if float(match["below"]) == 0:
            return None
        value, half = value + float(match["top"]) / float(match["below"]), 0.0
    sign = -1 if (match["sign"] or "+")[0] in "-−–" else 1
    return Number(sign * value, half) if math.isfinite(value + half) else None


# Whether it is right

_SCORE = cue(r"\b(?:scores?|scale|points|gcs|apgar|criteria|index)\b|评分")
_MULTIVALENT = cue(r"\b(?:calcium|magnesium|phosph\w{1,6}|sul(?:f|ph)ate|iron|zinc|ca|mg\+\+|mg2\+)\b|[钙镁磷]")


def compared(number: Number, gold: Number, question: str) -> tuple[str, bool] | str:
    """The number as one spelling in the gold answer's unit, and whether it is right; UNSURE for a range where the gold
    answer is none."""
    if number.high is not None and gold.high is None:
        return UNSURE
    # "3/5" is a score of 3 where the gold answer or the question speaks of a score, else .6.
    shares = number.fraction or gold.fraction
    if shares and not _SCORE.search(question) and (not gold.out_of or gold.fraction):
        number, gold = (
            each._replace(value=each.value / each.out_of, half_digit=0.0, out_of=None) if each.out_of else each
            for each in (number, gold)
        )
    univalent = not _MULTIVALENT.search(question[-2_000:])
    return canonical(number, gold.unit), _agrees(number, gold, univalent=univalent)


def _agrees(answer: Number, gold: Number, *, univalent: bool) -> bool:
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
    if gold.high is None:
        return answer.high is None and same(answer.value, gold)
    if answer.high is None:
        return gold.value * (1 - 1e-9) <= answer.value <= gold.high * (1 + 1e-9)
    return same(answer.value, gold) and same(answer.high, Number(gold.high, gold.half_digit))


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
