"""How our own reward models read an answer (the format `medsss`): question and steps -> token ids, and the positions
where scores are read. Training and scoring both call `encode`, so the two cannot differ. The formats of others:
`others.py`.

"|" stands where tokens of two pieces cannot merge, "^" under each read-out:

    <user turn: question><generation prompt>|Step 0: Let's ...\\n\\n|Step 1: ...\\n\\n|Step 2: ... is B.\\n\\n
                                                               ^                 ^                       ^
There is no system message unless the chat template writes one by itself. Every step is tokenised alone, with its mark
and its blank line, and the pieces are joined as ids. So the tokens of a step depend on no other step, the beginning of
an answer is the beginning of its ids (packing relies on it), and the read-out is the last token of the step: the blank
line, or a token that it merged with. Nobody's text can become a special token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..engines.rendering import encode_text, render
from ..records import Message
from ..requests import Prompt
from ..steps import SEPARATOR, mark

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Encoded(NamedTuple):
    """One answer as a reward model reads it. `readouts[k]` is the index in `ids` of the token where step k is read."""

    ids: list[int]
    readouts: list[int]


def encode(tokenizer: PreTrainedTokenizerBase, question: str, steps: Sequence[str]) -> Encoded:
    """`question` is what stands in the user turn, `steps` are the bare steps, step 0 first; a read-out for each of
    them."""
    ids = list(render(tokenizer, Prompt((Message("user", question),))))
    readouts = []
    for k, step in enumerate(steps):
        ids += encode_text(tokenizer, marked(k, step) + SEPARATOR)
        readouts.append(len(ids) - 1)
    return Encoded(ids, readouts)


def marked(k: int, step: str) -> str:
    """ "Step 3: Add."; an empty step keeps its mark."""
    return f"{mark(k)} {step.strip()}".rstrip()
