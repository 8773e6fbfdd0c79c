"""From generated token ids to text, and where a stop string ends it, without decoding at every token.

A stop string can only be completed by a token whose text holds the string's last character. A table of such tokens is
made once per set of stop strings, so a row is decoded only at those tokens, and then only its tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REPLACEMENT = "�"  # what half a character decodes to


class Detokenizer:
    """Text of generated ids for one tokenizer. `vocabulary` is the width of the model's logits."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._special = frozenset(
            id for id, token in tokenizer.added_tokens_decoder.items() if token.special
        ) | frozenset(tokenizer.all_special_ids)
        self._texts: list[str] | None = None
        self._tables: dict[tuple[str, ...], NDArray[Any]] = {}
        # Some decoders drop the space of the first token. They are given a token of text to stand on.
        anchor = self._plain([*self._ids("a"), *self._ids(" b")])
        alone = self._plain(self._ids(" b"))
        self._anchored = not anchor.endswith(alone) or not alone.startswith(" ")
        self._anchor = self._ids("a") if self._anchored else []
        self._anchor_length = len(self._plain(self._anchor))

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _plain(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def text(self, ids: Sequence[int]) -> str:
        """Exactly what the ids spell where they follow other text, special tokens left out."""
        kept = [id for id in ids if id not in self._special]
        return self._plain([*self._anchor, *kept])[self._anchor_length :]

    def enders(self, stop: tuple[str, ...]) -> NDArray[Any]:
        """Which tokens may complete one of the stop strings, [V]: one too many is slow, one too few is wrong."""
        table = self._tables.get(stop)
        if table is None:
            import numpy as np

            if self._texts is None:
                # Special tokens spell nothing, and ids above the tokenizer's (padded vocabularies) have no text.
                top = min(len(self._tokenizer), self._vocabulary)
                self._texts = [
                    "" if id in self._special else self._plain([*self._anchor, id])[self._anchor_length :]
                    for id in range(top)
                ] + [""] * (self._vocabulary - top)
            last = {string[-1] for string in stop}
            table = np.array(
                [_REPLACEMENT in text or not last.isdisjoint(text) for text in self._texts], dtype=np.bool_
            )
            self._tables[stop] = table
        return table

    def find_stop(self, ids: Sequence[int], stop: tuple[str, ...]) -> tuple[str, str] | None:
        """(text before the first stop string, that string) once the ids spell one; None before. Of two that begin
        at one place, the longer one counts."""
        # A character takes at most four tokens; a few more for special tokens in between.
        longest = max(len(string) for string in stop)
        tail = self.text(ids[-(4 * longest + 8) :])
        if not any(string in tail for string in stop):
            return None
        text = self.text(ids)
        hits = [(text.find(string), -len(string), string) for string in stop if string in text]
        if not hits:
            return None
        start, _, string = min(hits)
        return text[:start], string
