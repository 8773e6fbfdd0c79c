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

from ..answers.text import normalise, words_of
from ..records import Problem
from ..stream.shard import digest

RULES = ("equal", "ngram")
NGRAM = 13
COMMON = 10


class Contamination:
    """The index over a test set. `ngram` 0 leaves the rule of runs out."""

    def __init__(self, *, ngram: int = NGRAM) -> None:
        self._ngram = ngram
        self._equal: dict[int, str] = {}  # digest of all words -> the first test problem that has them
        self._runs: dict[int, tuple[int, str]] = {}  # digest of a run -> how many have it, and the first

    def __len__(self) -> int:
        """The different problems in it."""
        return len(self._equal)

    def add(self, problem: Problem, place: str) -> None:
        """Take a test problem in; `place` is where it stands (file:line)."""
        words, name = _words(problem), f"{place} ({problem.id})"
        if words:
            self._equal.setdefault(digest(" ".join(words)), name)
        for run in set(map(digest, self._runs_of(words))):
            holders, first = self._runs.get(run, (0, name))
            self._runs[run] = (holders + 1, first)

    def overlap(self, problem: Problem) -> tuple[str, str] | None:
        """The first rule by which `problem` repeats a test problem, with that problem and what the two share; None
        where none does."""
        words = _words(problem)
        if equal := self._equal.get(digest(" ".join(words))):
            return "equal", f"{equal}: the same question and options"
        for run in self._runs_of(words):
            holders, first = self._runs.get(digest(run), (0, ""))
            if 0 < holders <= COMMON:
                return "ngram", f'{first}: "{run}"'
        return None

    def _runs_of(self, words: list[str]) -> list[str]:
        n = self._ngram
        return [" ".join(words[start : start + n]) for start in range(len(words) - n + 1)] if n else []


def _words(problem: Problem) -> list[str]:
    options = sorted(map(normalise, (problem.options or {}).values()))
    return words_of(" ".join([normalise(problem.question), *options]))
