"""How a process reward model reads an answer: question and steps -> token ids and the positions where scores are read.

`encode` is the one function that lays a sequence out, for training and for scoring alike. A score means something
only if the layout at scoring is that of training, token for token, and the way to make sure is to have no second
layout.

The convention `medsss`, with "|" where tokens of two pieces cannot merge and "^" at each read-out:

    <user turn: question><generation prompt>|Step 0: Let's ...\\n\\n|Step 1: ...\\n\\n|Step 2: ... is B.\\n\\n
                                                               ^                 ^                       ^
There is no system message unless the chat template writes one by itself. Every step is tokenised alone, with its mark
and its blank line, the last one too, and the pieces are joined as ids. So the tokens of a step depend on no other
step, a prefix of an answer is a prefix of its ids (packing relies on it), and the read-out, the last token of the
step, is a token of the blank line or one that it merged with. Nobody's text can become a special token.

Departure from the authors' code: 1. the score is softmax over the two logits in training and in scoring, where the
published code trains one logit and scores with two.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from ..engines.base import Prompt
from ..engines.rendering import encode_text, render
from ..records import Message
from ..steps import ROOT_TEXT, SEPARATOR, mark, split_steps, starts_at

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Convention(StrEnum):
    """The layouts that `train-prm` writes and `bon` reads."""

    MEDSSS = "medsss"


class Encoded(NamedTuple):
    """One answer as a PRM reads it. `readouts[k]` is the index in `ids` of the last token of the k-th step."""

    ids: list[int]
    readouts: list[int]


def encode(tokenizer: PreTrainedTokenizerBase, question: str, steps: Sequence[str]) -> Encoded:
    """Lay out an answer in the convention `medsss`.

    `question` is what stands in the user turn (`prompts.question_text`), `steps` are the bare steps, step 0 first;
    there are as many read-outs as steps, in their order.
    """
    ids = list(render(tokenizer, Prompt((Message("user", question),))))
    readouts = []
    for k, step in enumerate(steps):
        # A step that is empty keeps its mark: "Step 3:" and the blank line.
        ids += encode_text(tokenizer, f"{mark(k)} {step.strip()}".rstrip() + SEPARATOR)
        readouts.append(len(ids) - 1)
    return Encoded(ids, readouts)


def answer_steps(text: str) -> list[str]:
    """The bare steps of a written answer, step 0 first, ready for `encode`.

    An answer that begins with step 1, or has no marks and is one step, gets the usual step 0 in front: every sequence
    of the training had one, and it is never scored. A blank text has no steps at all.
    """
    steps = split_steps(text)
    if not steps or starts_at(text) == 0:
        return steps
    return [ROOT_TEXT, *steps]
