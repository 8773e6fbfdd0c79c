"""What of a training pool stands in a test set: problems that share a long run of words with it, or are nearly equal.

Compared is the question with the texts of its options in alphabetical order, so that shuffled options hide nothing, as
words: lower case, accents and punctuation gone, every Chinese character a word. Three rules, in this order:

equal    the words are the same
ngram    n words in a row (13 by default) stand in both. Runs that more than `COMMON` problems of the test set share
         are no sign of anything: instructions, the boilerplate of a task. (Brown et al., arXiv 2005.14165, appendix
         C, leave out n-grams that occur more than ten times.)
similar  the texts agree to at least `similarity`, as rapidfuzz's normalised indel distance of characters says. Only
         problems that share some run of three words are compared: of two texts that agree to nine tenths one
         always does, but for a few words.

The index is over the test set: its memory grows with that, not with the pool, which streams by.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from rapidfuzz import process
from rapidfuzz.distance import Indel

from ..answers.text import normalise, words_of
from ..records import Problem
from ..stream.shard import digest

RULES = ("equal", "ngram", "similar")
NGRAM = 13
SIMILARITY = 0.9
COMMON = 10

_SHINGLE = 3
_CANDIDATES = 32  # test problems that one pool problem is compared with, those with the most shared runs
_COMMON_SHINGLE = 500


class Overlap(NamedTuple):
    """Why a problem is dropped: `rule` is one of RULES, `place` and `id` name the test problem,
    `shown` is the shared run, or how similar the two are."""

    rule: str
    place: str
    id: str
    shown: str


@dataclass(frozen=True, slots=True)
class _Entry:
    place: str
    id: str
    text: str


class Contamination:
    """The index over a test set. `ngram` 0 leaves the rule of runs out, `similarity` 0 the rule of near duplicates."""

    def __init__(self, *, ngram: int = NGRAM, similarity: float = SIMILARITY) -> None:
        self._ngram = ngram
        self._similarity = similarity
        self._entries: list[_Entry] = []
        self._equal: dict[int, int] = {}
        self._runs: dict[int, list[int]] = {}  # digest of a run -> [how many test problems have it, the first of them]
        self._shingles: defaultdict[int, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, problem: Problem, place: str) -> None:
        """Take a test problem in; `place` is where it stands (file:line)."""
        words = _words(problem)
        if not words:
            return
        number = len(self._entries)
        text = " ".join(words)
        self._entries.append(_Entry(place, problem.id, text))
        self._equal.setdefault(digest(text), number)
        if self._ngram:
            for run in {digest(run) for run in _runs(words, self._ngram)}:
                seen = self._runs.setdefault(run, [0, number])
                seen[0] += 1
        if self._similarity:
            for shingle in {digest(run) for run in _runs(words, min(_SHINGLE, len(words)))}:
                self._shingles[shingle].append(number)

    def overlap(self, problem: Problem) -> Overlap | None:
        """The test problem that `problem` repeats, by the first rule that finds one; None where none does."""
        words = _words(problem)
        if not words:
            return None
        text = " ".join(words)
        equal = self._equal.get(digest(text))
        if equal is not None:
            return self._found("equal", equal, "the same question and options")
        if self._ngram:
            for run in _runs(words, self._ngram):
                seen = self._runs.get(digest(run))
                if seen is not None and seen[0] <= COMMON:
                    return self._found("ngram", seen[1], run)
        return self._similar(words, text) if self._similarity else None

    def _similar(self, words: list[str], text: str) -> Overlap | None:
        shared: Counter[int] = Counter()
        for run in _runs(words, min(_SHINGLE, len(words))):
            holders = self._shingles.get(digest(run), ())
            if len(holders) <= _COMMON_SHINGLE:
                shared.update(holders)
        candidates = {number: self._entries[number].text for number, _ in shared.most_common(_CANDIDATES)}
        best = process.extractOne(text, candidates, scorer=Indel.normalized_similarity, score_cutoff=self._similarity)
        if best is None:
            return None
        return self._found("similar", best[2], f"{best[1]:.0%} alike")

    def _found(self, rule: str, number: int, shown: str) -> Overlap:
        entry = self._entries[number]
        return Overlap(rule, entry.place, entry.id, shown)


def _words(problem: Problem) -> list[str]:
    words = words_of(normalise(problem.question))
    for option in sorted(normalise(text) for text in (problem.options or {}).values()):
        words += words_of(option)
    return words


def _runs(words: list[str], n: int) -> list[str]:
    return [" ".join(words[start : start + n]) for start in range(len(words) - n + 1)]
