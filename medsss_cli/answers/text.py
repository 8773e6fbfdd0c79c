"""Free text: the phrase that an answer states, equal to the gold phrase or holding it in whole words.

Both are normalised first: lower case, accents and width folded (NFKC), Greek letters spelled out, punctuation and
articles left out, the point within a number kept, the comma between thousands not. "10 mg/kg" is "10 mg kg"; "0.6" is
one word, so "0.65" and "10.6" do not hold it. Chinese has no spaces: there every character is a word.
"""

from __future__ import annotations

import re
import unicodedata

from .readers import Place, asserted, cue, first_sentence

_WORD = re.compile(r"\d{1,40}(?:\.\d{1,40})?|[^\W\d_]{1,80}|%")
_TOKEN = re.compile(r"[\u3400-\u9fff]|[^ \u3400-\u9fff]+")
_ARTICLES = {"a", "an", "the"}
# Of the four words before a phrase: a denial that nothing turns ("not high", but not "not low but high").
_DENIED_BEFORE = re.compile(
    r"(?<!\w)(?:not|no|never|neither|nor|without|except|than|unlike|anything|unlikely|isn|cannot|excludes?|denies|negative"
    r"|absence|non|out|不|非|无)(?!\w)(?!.*(?:(?<!anything )\bbut\b|\brather\b(?! than)|\binstead\b(?! of)|而))"
    r"|\b(?:rather than|instead of)\b"
)
_DENIED_AFTER = re.compile(
    r"(?:is|was|are|seems) (?:\w+ )?(?:not|unlikely|excluded|wrong|incorrect|absent|ruled)\b|excluded\b|ruled out\b"
)
_ASIDE = cue(r", (?:which|who|where|because|since|as)\b| because\b")
_MAX_WORDS = 20
_MARKS = re.compile(r"[(),:;—–→=\"*](?!\d)| - ")
_UNFINISHED = cue(r"\b(?:is|are|was|be|of|to|an?|the|and|or)$|(?:[是为]|:)$")
# Words beside a phrase that leave it what it is; any other may make another name of it.
_PLAIN_BEFORE = frozenset(
    "is are was be been that this of to with by as has have from for in on at due likely probable"  # noqa: SIM905
    " probably most therefore thus so hence clearly called namely but acute chronic severe mild moderate"
    " primary essential arterial systemic classic typical suspected bacterium organism hormone drug enzyme"
    " vitamin disease diagnosis use give start choose it its my your both indeed rather option".split()
)
_PLAIN_AFTER = frozenset(
    "is are was be because since as due in on at of by with for from to which that rather but than"  # noqa: SIM905
    " not if when given based after before instead over dose level levels syndrome disease mellitus"
    " infection value here therefore via causes caused has 的 是 而 病 症 伴 引 所 导 不".split()
)
_CHINESE_BEFORE = tuple("是 为 即 有 患 用 选 原发性 急性 慢性 严重".split())  # noqa: SIM905
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_COMBINING = re.compile(r"[\u0300-\u036f]")
_GREEK = re.compile("[α-ω]")


def normalise(text: str) -> str:
    """The words of `text`, lower case, one space apart. An article that is the whole text stays."""
    folded = unicodedata.normalize("NFKC", text)
    if not folded.isascii():
        folded = unicodedata.normalize("NFC", _COMBINING.sub("", unicodedata.normalize("NFD", folded)))
        folded = _GREEK.sub(_spelled, folded.casefold().replace("μg", "mcg"))
    words = _WORD.findall(_THOUSANDS.sub("", folded).casefold())
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def _spelled(letter: re.Match[str]) -> str:
    """ " alpha " for α; Unicode's LAMDA is lambda."""
    name = unicodedata.name(letter.group()).split()[-1].lower()
    return f" {name.replace('lamda', 'lambda')} "


def read_text(place: Place) -> str | None:
    """The first sentence at `place`; a line without a cue counts where it has at most 20 words
    and asks nothing. UNSURE where it is taken back."""
    line = place.text.strip("\n").partition("\n")[0].strip()
    sentence = _ASIDE.split(first_sentence(line), maxsplit=1)[0]
    phrase = normalise(line if place.whole else sentence)
    bare = line.rstrip(" .!。")
    if place.whole and not asserted(bare + " ", len(bare) + 1, len(bare) + 1):
        return None
    if place.subject or (place.whole and (len(words_of(phrase)) > _MAX_WORDS or line[-1:] in "?？")):
        return None
    if not phrase or _UNFINISHED.search(bare):
        return None
    return line if place.whole else sentence


def holds(sentence: str, gold: str) -> bool:
    """Whether `sentence` equals the normalised `gold` or holds it in whole words, at least once without a denial in the
    four words before it ("not a high dose"; but "not low but high" is high) or after it, not as one of two, and not as
    a part of another name ("gestational diabetes", "diabetes insipidus")."""
    if normalise(sentence) == gold:
        return True
    words, marks = list[str](), {0}
    for part in _MARKS.split(sentence):
        words += words_of(normalise(part))
        marks.add(len(words))
    wanted = words_of(gold)
    starts = range(len(words) - len(wanted) + 1)
    return any(
        words[start : start + len(wanted)] == wanted and _stands(words, start, start + len(wanted), marks)
        for start in starts
    )


def _stands(words: list[str], start: int, end: int, marks: set[int]) -> bool:
    """Whether the phrase is not denied, not one of two, and no part of another name (numbers have none). Names end
    at `marks`."""
    before, after = words[max(start - 4, 0) : start], words[end : end + 4]
    if _DENIED_BEFORE.search(" ".join(before)) or _DENIED_AFTER.match(" ".join(after)):
        return False
    if {"or", "and", "或"} & {*before[-1:], *after[:1]}:
        return False
    if any(c.isdigit() for word in words[start:end] for c in word):
        return True
    begins = not before or start in marks or before[-1] in _PLAIN_BEFORE or "".join(before).endswith(_CHINESE_BEFORE)
    return begins and (not after or end in marks or after[0] in _PLAIN_AFTER)


def words_of(phrase: str) -> list[str]:
    """The words of a normalised phrase; of Chinese, the characters."""
    return _TOKEN.findall(phrase)
