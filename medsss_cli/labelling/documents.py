"""Documents beside a problem: those that a record carries, and a library from which the best are taken by BM25.

A record carries documents under `meta.documents` (where a `documents` field of any layout ends up), or Med-PRM's
`related_docs`: a list of texts, or of objects with `text` and maybe `title`.

A library is a file of JSON lines, read whole into memory:

    {"id": "who-17", "title": "Sepsis in adults", "text": "Give 30 mL/kg of crystalloid ..."}

The scores are BM25's as Lucene computes them (k1 1.5, b .75), by bm25s. A query counts each of its words once, so that
a long answer does not outweigh the question by repeating itself. Of equal scores the document that stands first in the
file is better; one that shares no word with the query is never found.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UsageError
from ..records import Problem
from ..stream.jsonl import Where, read_objects

_WORDS = re.compile(r"[^\W_]+")
_CJK = re.compile(r"[\u3400-\u9fff]+")


class Document(NamedTuple):
    """A text with its title in front, where it has one, and its name in the library."""

    id: str
    text: str


def documents_of(problem: Problem) -> tuple[str, ...]:
    """The texts of the documents that a record carries; what is no document is passed over."""
    found = problem.meta.get("documents") or problem.meta.get("related_docs")
    texts = (_text(each) for each in found) if isinstance(found, list) else ()
    return tuple(text for text in texts if text is not None)


def _text(item: object) -> str | None:
    if isinstance(item, str):
        return item
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        return None
    title = item.get("title")
    return f"{title}\n{item['text']}" if isinstance(title, str) and title else item["text"]


def words(text: str) -> list[str]:
    """What documents are found by: words in lower case, numbers, and of Chinese every two characters that stand
    together (a lone one by itself), for nothing shows where its words end."""
    found: list[str] = []
    for word in _WORDS.findall(text.lower()):
        begin = 0
        for run in _CJK.finditer(word):
            found += [word[begin : run.start()]] if run.start() > begin else []
            characters = run.group()
            found += [characters[at : at + 2] for at in range(max(len(characters) - 1, 1))]
            begin = run.end()
        found += [word[begin:]] if begin < len(word) else []
    return found


class Library:
    """Documents that can be searched; raises UsageError where they hold no word."""

    def __init__(self, documents: Sequence[Document]) -> None:
        import bm25s

        self.documents = documents
        words_DN = [words(document.text) for document in documents]
        if not any(words_DN):
            raise UsageError("the documents hold no word to find them by")
        self._index: Any = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
        self._index.index(words_DN, show_progress=False)

    @classmethod
    def read(cls, path: str) -> Library:
        """The library of a file (.gz, .zst by name). A line without an id is named by its place. Raises UsageError for
        the first line that is no document, and for a file without any."""
        documents = []
        for where, obj in read_objects([path], on_bad=_refuse):
            text = _text(obj)
            if text is None:
                _refuse(where, f"no document: it needs a `text`, found the keys {', '.join(obj) or '(none)'}")
            else:
                documents.append(Document(str(obj.get("id", f"{Path(where.source).name}:{where.line}")), text))
        if not documents:
            raise UsageError(f"{path} holds no document", hint='a line is {"id": ..., "title": ..., "text": ...}')
        return cls(documents)

    def best(self, query: str, k: int) -> list[Document]:
        """The up to `k` documents that fit best, the best first."""
        import numpy as np

        known = [word for word in dict.fromkeys(words(query)) if word in self._index.vocab_dict]
        if not known:
            return []
        scores = self._index.get_scores(known)
        order = np.argsort(-scores, kind="stable")[:k]
        return [self.documents[at] for at in order if scores[at] > 0]


def _refuse(where: Where, what: str) -> None:
    raise UsageError(f"{where}: {what}", hint="--documents takes a file of documents, one JSON object a line")
