"""Free text: the phrase that an answer states, equal to the gold phrase or holding it in whole words.

Both are normalised first: lower case, accents and width folded (NFKC), punctuation and articles left out, the point
within a number kept. "10 mg/kg" is "10 mg kg"; "0.6" is one word, so "0.65" and "10.6" do not hold it.
"""

from __future__ import annotations

import re
import unicodedata

from .statements import first_sentence, last_line, statements

_WORD = re.compile(r"\d{1,40}(?:\.\d{1,40})?|[^\W\d_]{1,80}|%")
_ARTICLES = {"a", "an", "the"}
_NEGATIONS = {"not", "no", "never", "neither", "nor", "without", "except"}
_MAX_WORDS = 20


def normalise(text: str) -> str:
    """The words of `text`, lower case, one space apart. An article that is the whole text stays."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def read_text(text: str) -> tuple[str, str] | None:
    """The normalised phrase that `text` states and how it was read; None where it states none.

    The last statement wins; without one, the last line counts where it has at most 20 words.
    """
    for statement in statements(text):
        phrase = normalise(first_sentence(statement.text))
        if phrase:
            return phrase, statement.how
    line = normalise(last_line(text))
    return (line, "last-line") if line and len(line.split()) <= _MAX_WORDS else None


def holds(phrase: str, gold: str) -> bool:
    """Whether the normalised `phrase` equals `gold` or holds it in whole words, at least once without a negation
    before it."""
    if phrase == gold:
        return True
    words, wanted = phrase.split(), gold.split()
    return any(
        words[start : start + len(wanted)] == wanted and (start == 0 or words[start - 1] not in _NEGATIONS)
        for start in range(len(words) - len(wanted) + 1)
    )
