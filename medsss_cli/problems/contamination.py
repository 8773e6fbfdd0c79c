"""What of a training pool stands in a test set: problems that share a long run of words with it.

Compared is the question with the texts of its options in alphabetical order, so that shuffled options hide nothing, as
words: lower case, accents and punctuation gone, every Chinese character a word. Two rules, in this order:

equal  the words are the same
ngram  n words in a row (13 by default) stand in both. Runs that more than `COMMON` problems of the test set share are
       no sign of anything: instructions, the boilerplate of a task. (Brown et al., arXiv 2005.14165, appendix C, leave
       out n-grams that occur more than ten times.)

The index is over the test set: its memory grows with that, not with the pool, which streams by.
"""

from __future__ import annotations

from typing import NamedTuple

from ..answers.text import normalise, words_of
from ..records import Problem
from ..stream.shard import digest

RULES = ("equal", "ngram")
NGRAM = 13
COMMON = 10


class Overlap(NamedTuple):
    """Why a problem is dropped: `rule` is one of RULES, `place` and `id` name the test problem, `shown` is what the two
    share."""

    rule: str
    place: str
    id: str
    shown: str


class Contamination:
    """The index over a test set. `ngram` 0 leaves the rule of runs out."""

    def __init__(self, *, ngram: int = NGRAM) -> None:
        self._ngram = ngram
        self._equal: dict[int, tuple[str, str]] = {}  # digest of all words -> place and id of the first test problem
        self._runs: dict[int, tuple[int, tuple[str, str]]] = {}  # digest of a run -> how many have it, and the first

    def __len__(self) -> int:
        """The different problems in it."""
        return len(self._equal)

    def add(self, problem: Problem, place: str) -> None:
        """Take a test problem in; `place` is where it stands (file:line)."""
        words, name = _words(problem), (place, problem.id)
        if words:
            self._equal.setdefault(digest(" ".join(words)), name)
        for run in set(map(digest, self._runs_of(words))):
            holders, first = self._runs.get(run, (0, name))
            self._runs[run] = (holders + 1, first)

    def overlap(self, problem: Problem) -> Overlap | None:
        """The test problem that `problem` repeats, by the first rule that finds one; None where none does."""
        words = _words(problem)
        if equal := self._equal.get(digest(" ".join(words))):
            return Overlap("equal", *equal, "the same question and options")
        for run in self._runs_of(words):
            holders, first = self._runs.get(digest(run), (0, ("", "")))
            if 0 < holders <= COMMON:
                return Overlap("ngram", *first, run)
        return None

    def _runs_of(self, words: list[str]) -> list[str]:
        n = self._ngram
        return [" ".join(words[start : start + n]) for start in range(len(words) - n + 1)] if n else []


def _words(problem: Problem) -> list[str]:
    options = sorted(map(normalise, (problem.options or {}).values()))
    return words_of(" ".join([normalise(problem.question), *options]))
