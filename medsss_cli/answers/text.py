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
_NEGATIONS = frozenset(
    "not no never neither nor without except than unlike anything unlikely isn cannot exclude excludes denies negative"  # noqa: SIM905
    " absence non out 不 非 无".split()
)
_TURNS = {"but", "rather", "instead", "而"}
_DENIED_AFTER = re.compile(
    r"(?:is|was|are|seems) (?:\w+ )?(?:not|unlikely|excluded|wrong|incorrect|absent|ruled)\b|excluded\b"
    r"|ruled out\b"
)
_ASIDE = cue(r", (?:which|who|where|because|since|as)\b| because\b")
_NEGATED_WITHIN = 4
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
_GREEK = {
    ord(letter): f" {name} "
    for letter, name in {
        "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "κ": "kappa", "λ": "lambda",
        "μ": "mu", "σ": "sigma", "τ": "tau", "ω": "omega",
    }.items()
}  # fmt: skip


def normalise(text: str) -> str:
    """The words of `text`, lower case, one space apart. An article that is the whole text stays."""
    folded = unicodedata.normalize("NFKC", text)
    if not folded.isascii():
        folded = unicodedata.normalize("NFC", _COMBINING.sub("", unicodedata.normalize("NFD", folded)))
        folded = folded.casefold().replace("μg", "mcg").translate(_GREEK)
    words = _WORD.findall(_THOUSANDS.sub("", folded).casefold())
    return " ".join([word for word in words if word not in _ARTICLES] or words)


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
    return any(
        words[start : start + len(wanted)] == wanted
        and not _negated(words, start, start + len(wanted))
        and not _named(words, start, start + len(wanted), marks)
        for start in range(len(words) - len(wanted) + 1)
    )


def _named(words: list[str], start: int, end: int, marks: set[int]) -> bool:
    """Whether a word before or after makes another name of the phrase; numbers have none."""
    if any(c.isdigit() for word in words[start:end] for c in word):
        return False
    before, after = words[max(start - 4, 0) : start], words[end : end + 1]
    if (
        before
        and start not in marks
        and before[-1] not in _PLAIN_BEFORE
        and not "".join(before).endswith(_CHINESE_BEFORE)
    ):
        return True
    return bool(after and end not in marks and after[0] not in _PLAIN_AFTER)


def words_of(phrase: str) -> list[str]:
    """The words of a normalised phrase; of Chinese, the characters."""
    return _TOKEN.findall(phrase)


def _negated(words: list[str], start: int, end: int) -> bool:
    if {"or", "and", "或"} & {*words[max(start - 1, 0) : start], *words[end : end + 1]}:
        return True
    if _DENIED_AFTER.match(" ".join(words[end : end + 4])):
        return True
    before = words[max(start - _NEGATED_WITHIN, 0) : start]
    for place, word in reversed(list(enumerate(before))):
        if word in _TURNS and before[place + 1 : place + 2] in (["than"], ["of"]):
            return True
        if word in _TURNS and before[max(place - 1, 0) : place] != ["anything"]:
            return False
        if word in _NEGATIONS:
            return True
    return False
