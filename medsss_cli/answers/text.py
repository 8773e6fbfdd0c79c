"""Free text: the phrase that an answer states, equal to the gold phrase or holding it in whole words.

Both are normalised first: lower case, accents and width folded (NFKC), Greek letters spelled out, punctuation and
articles left out, the point within a number kept, the comma between thousands not. "10 mg/kg" is "10 mg kg"; "0.6" is
one word, so "0.65" and "10.6" do not hold it. Chinese has no spaces: there every character is a word.
"""

from __future__ import annotations

import re
import unicodedata

from .readers import UNSURE, Place, asserted, first_sentence, plain

_WORD = re.compile(r"\d{1,40}(?:\.\d{1,40})?|[^\W\d_]{1,80}|%")
_TOKEN = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")
_ARTICLES = {"a", "an", "the"}
_NEGATIONS = frozenset(
    "not no never neither nor without except than unlike anything unlikely isn cannot exclude excludes denies negative"  # noqa: SIM905
    " absence non out 不 非 无".split()
)
_TURNS = {"but", "rather", "instead", "而"}
_DENIED_AFTER = re.compile(
    r"(?:is|was|are|seems)\s(?:\w+\s)?(?:not|unlikely|excluded|wrong|incorrect|absent|ruled)\b|excluded\b|ruled\sout\b"
)
_ASIDE = re.compile(r",\s(?:which|who|where|because|since|as)\b|\sbecause\b", re.IGNORECASE)
_NEGATED_WITHIN = 4
_MAX_WORDS = 20
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
    """The normalised phrase of the first sentence at `place`; a line without a cue counts where it has at most 20 words
    and asks nothing. UNSURE where it is taken back."""
    if place.withdrawn:
        return UNSURE
    line = plain(place.text.strip("\n").partition("\n")[0])
    sentence = _ASIDE.split(first_sentence(line), maxsplit=1)[0]
    phrase = normalise(line if place.whole else sentence)
    bare = line.rstrip(" .!。")
    if place.whole and not asserted(bare + " ", len(bare) + 1, len(bare) + 1):
        return None
    if place.subject or (place.whole and (len(words_of(phrase)) > _MAX_WORDS or line[-1:] in "?？")):
        return None
    return phrase or None


def holds(phrase: str, gold: str) -> bool:
    """Whether the normalised `phrase` equals `gold` or holds it in whole words, at least once without a denial in the
    four words before it ("not a high dose"; but "not low but high" is high) or after it, and not as one of two."""
    if phrase == gold:
        return True
    words, wanted = words_of(phrase), words_of(gold)
    return any(
        words[start : start + len(wanted)] == wanted and not _negated(words, start, start + len(wanted))
        for start in range(len(words) - len(wanted) + 1)
    )


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
