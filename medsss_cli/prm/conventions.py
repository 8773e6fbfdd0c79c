"""How a process reward model reads an answer: question and steps -> token ids and the positions where scores are read.

`encode` is the one function that lays out a sequence of our own convention, for training and for scoring alike;
`lay_out` does it for every convention, by `encode` for ours. A score means something only if the layout at scoring is
that of training, token for token, and the way to make sure is to have no second layout.

The convention `medsss`, with "|" where tokens of two pieces cannot merge and "^" at each read-out:

    <user turn: question><generation prompt>|Step 0: Let's ...\\n\\n|Step 1: ...\\n\\n|Step 2: ... is B.\\n\\n
                                                               ^                 ^                       ^
There is no system message unless the chat template writes one by itself. Every step is tokenised alone, with its mark
and its blank line, the last one too, and the pieces are joined as ids. So the tokens of a step depend on no other
step, a prefix of an answer is a prefix of its ids (packing relies on it), and the read-out, the last token of the
step, is a token of the blank line or one that it merged with. Nobody's text can become a special token.

The conventions of others, each as its published code lays it out (two steps a and b; step 0 is left out of all: no such
model was trained with one):

    qwen            system, user: question, assistant: a<extra_0>b<extra_0>            two labels at <extra_0>
                                                        ^         ^
    math-shepherd   <s>question Step 1: a ки\\nStep 2: b ки                            "+" against "-" after ки
                                         ^              ^
    rlhflow         user: question Step 1: a, assistant: +, user: Step 2: b, assistant: +    "+" against "-" before +
                                                       ^                               ^
    skywork         <bos>question\\na\\nb\\n                                           a value at \\n
                                   ^  ^
    med-prm         system, user: documents, Question: question, Explanation: Step 1: a ки Step 2: b ки    at ки
                                                                                     ^            ^
    trl             <bos>question|a|\\n|b|\\n                                          two labels at \\n
                                     ^    ^
What their code writes after the last read-out (the end of the turn) is left out: attention is causal, so no score can
see it, and a prefix of an answer stays a prefix of its ids. Read-outs are places in the layout, never occurrences of a
token: a question may hold a "+" or a "ки".

Departures from the authors' code: 1. the medsss score is softmax over the two logits in training and in scoring, where
the published code trains one logit and scores with two. 2. Skywork's code scores every line; here a step of several
lines has the score of its last one, and blank lines are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from ..engines.rendering import encode_text, render, rendered_pieces
from ..errors import UsageError
from ..labelling.documents import documents_of
from ..prompts import question_text
from ..records import Message, Prm, Problem
from ..requests import Prompt
from ..steps import ROOT_TEXT, SEPARATOR, mark, split_steps, starts_at

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Convention(StrEnum):
    """The layouts that `bon` reads; `train-prm` writes the first."""

    MEDSSS = "medsss"
    QWEN = "qwen"  # Qwen2.5-Math-PRM, Qwen2.5-Math-7B-PRM800K
    MATH_SHEPHERD = "math-shepherd"  # arXiv 2312.08935
    RLHFLOW = "rlhflow"  # Llama3.1-8B-PRM-Deepseek-Data, -Mistral-Data
    SKYWORK = "skywork"  # Skywork-o1-Open-PRM
    MED_PRM = "med-prm"  # arXiv 2506.11474
    TRL = "trl"  # TRL's PRMTrainer (up to 1.13) with its default separator


class Head(StrEnum):
    """What makes scores of a model's last layer."""

    TOKENS = "tokens"  # two labels a token: wrong, right
    WORDS = "words"  # the two rows of a language model's head that stand for "-" and "+"
    VALUE = "value"  # one number, whose sigmoid is the score


HEADS = {
    Convention.MEDSSS: Head.TOKENS,
    Convention.QWEN: Head.TOKENS,
    Convention.MATH_SHEPHERD: Head.WORDS,
    Convention.RLHFLOW: Head.WORDS,
    Convention.SKYWORK: Head.VALUE,
    Convention.MED_PRM: Head.WORDS,
    Convention.TRL: Head.TOKENS,
}

# Tokens by their names in vocabularies: "▁" is a space in SentencePiece's, "Ġ" in byte-level ones, where "ки" is
# spelled by its bytes.
_STEP_TAG = ("▁ки", "ĠÐºÐ¸")
_AFTER_SPACE: dict[str, tuple[str, ...]] = {"+": ("▁+", "Ġ+"), "-": ("▁-", "Ġ-")}
_WORDS: dict[Convention, dict[str, tuple[str, ...]]] = {
    Convention.MATH_SHEPHERD: _AFTER_SPACE,
    Convention.RLHFLOW: {"+": ("+",), "-": ("-",)},
    Convention.MED_PRM: _AFTER_SPACE,
}
QWEN_TAG = "<extra_0>"
MED_PRM_TAG = " ки"  # one special token, its space included

# The words of the system turns are part of what these models were trained on, so they stand here as published.
_QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
_MED_PRM_SYSTEM = (
    "You are an evaluator assessing the logicality and validity of the reasoning in each step of the given explanation."
    " In order to support the evaluation, {given}. If the reasoning contains errors, output - after that step. If the "
    "reasoning in a step is logical and valid, output + after that step."
)
_WITH_DOCUMENTS = "the relevant documents, the question, and the explanation are provided sequentially"
_WITHOUT_DOCUMENTS = "the question and the explanation are provided"
_DOCUMENT_TOKENS = 4096 - 1024  # Med-PRM's limit less what it keeps for question and explanation

_HERE = "\ufdef"  # a noncharacter: where a tag goes in a chat


class Encoded(NamedTuple):
    """One answer as a PRM reads it. `readouts[k]` is the index in `ids` of the token where step k is read."""

    ids: list[int]
    readouts: list[int]


class Asked(NamedTuple):
    """What an answer is an answer to: the question with its options, and documents where the convention reads them."""

    question: str
    documents: tuple[str, ...] = ()


def encode(tokenizer: PreTrainedTokenizerBase, question: str, steps: Sequence[str]) -> Encoded:
    """Lay out an answer in the convention `medsss`.

    `question` is what stands in the user turn (`prompts.question_text`), `steps` are the bare steps, step 0 first;
    there are as many read-outs as steps, in their order.
    """
    ids = list(render(tokenizer, Prompt((Message("user", question),))))
    readouts = []
    for k, step in enumerate(steps):
        # A step that is empty keeps its mark: "Step 3:" and the blank line.
        ids += encode_text(tokenizer, _marked(k, step) + SEPARATOR)
        readouts.append(len(ids) - 1)
    return Encoded(ids, readouts)


def answer_steps(text: str) -> list[str]:
    """The bare steps of a written answer, step 0 first, ready for `encode` and `lay_out`.

    An answer that begins with step 1, or has no marks and is one step, gets the usual step 0 in front: every sequence
    of the training had one, and it is never scored. A blank text has no steps at all.
    """
    steps = split_steps(text)
    if not steps or starts_at(text) == 0:
        return steps
    return [ROOT_TEXT, *steps]


def asked(convention: Convention, problem: Problem) -> Asked:
    """What is asked in a convention. A prm record says it in `prompt`, to which its steps belong. Med-PRM writes
    options as "(A) ..." and reads the documents that the record carries (`labelling.documents.documents_of`)."""
    if convention is not Convention.MED_PRM:
        return Asked(problem.prompt if isinstance(problem, Prm) else question_text(problem))
    question = problem.question.strip()
    if problem.options:
        question += "\n\n" + "\n".join(f"({letter}) {text}" for letter, text in problem.options.items())
    return Asked(question, documents_of(problem))


def lay_out(convention: Convention, tokenizer: PreTrainedTokenizerBase, given: Asked, steps: Sequence[str]) -> Encoded:
    """An answer in any convention. `steps` are the bare steps, step 0 first; the read-outs are those of the others.

    Raises UsageError where the tokenizer lacks a token that the convention needs, or cuts one in another way.
    """
    scored = steps[1:]
    match convention:
        case Convention.MEDSSS:
            ids, readouts = encode(tokenizer, given.question, steps)
            return Encoded(ids, readouts[1:])
        case Convention.QWEN:
            turns = [
                Message("system", _QWEN_SYSTEM),
                Message("user", _clean(given.question)),
                Message("assistant", "".join(_clean(step.strip()) + _HERE for step in scored)),
            ]
            return _chat(tokenizer, turns, token_id(tokenizer, convention, QWEN_TAG), len(scored))
        case Convention.MED_PRM:
            return _med_prm(tokenizer, given, scored)
        case Convention.RLHFLOW:
            return _rlhflow(tokenizer, given.question, scored)
        case Convention.MATH_SHEPHERD:
            return _math_shepherd(tokenizer, given.question, scored)
        case Convention.SKYWORK:
            bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
            ids = [*bos, *encode_text(tokenizer, given.question + "\n")]
            line_end = encode_text(tokenizer, "\n")[-1:]
            readouts = []
            for step in scored:
                for line in step.strip().splitlines() or [""]:
                    if line.strip() or not step.strip():
                        ids += [*encode_text(tokenizer, line), *line_end]
                readouts.append(len(ids) - 1)
            return Encoded(ids, readouts)
        case Convention.TRL:
            bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
            ids = [*bos, *encode_text(tokenizer, given.question)]
            separator = encode_text(tokenizer, "\n")
            readouts = []
            for step in scored:
                ids += [*encode_text(tokenizer, step.strip()), *separator]
                readouts.append(len(ids) - 1)
            return Encoded(ids, readouts)


def check_tokens(convention: Convention, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UsageError where a tokenizer cannot lay out a convention, before any model is loaded."""
    lay_out(convention, tokenizer, Asked("Which dose?"), [ROOT_TEXT, "Add.", "The answer is B."])
    if HEADS[convention] is Head.WORDS:
        label_tokens(convention, tokenizer)


def label_tokens(convention: Convention, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids of "-" and "+", in the order of the labels wrong and right."""
    names = _WORDS[convention]
    return token_id(tokenizer, convention, *names["-"]), token_id(tokenizer, convention, *names["+"])


def token_id(tokenizer: PreTrainedTokenizerBase, convention: Convention, *names: str) -> int:
    """The id of the first of these names that the vocabulary has. Raises UsageError where it has none."""
    for name in names:
        found = tokenizer.convert_tokens_to_ids(name)
        if isinstance(found, int) and found != tokenizer.unk_token_id:
            return found
    raise UsageError(
        f"the convention {convention} needs the token {' or '.join(map(repr, names))}, which this tokenizer has not",
        hint="is it the tokenizer of that PRM? --prm-format names the convention",
    )


def _marked(k: int, step: str) -> str:
    return f"{mark(k)} {step.strip()}".rstrip()


def _clean(text: str) -> str:
    return text.replace(_HERE, "")


def _leading(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before a text by itself: the BOS, or nothing."""
    alone = list(tokenizer.encode("x", add_special_tokens=False))
    whole = list(tokenizer.encode("x"))
    begin = next((at for at in range(len(whole)) if whole[at : at + len(alone)] == alone), 0)
    return whole[:begin]


def _chat(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], tag: int, count: int, *, before: bool = False
) -> Encoded:
    """A chat whose texts hold `_HERE` `count` times: `tag` stands there, and is read, or the token `before` it. Ends
    with the last tag."""
    ids: list[int] = []
    readouts: list[int] = []
    for piece in rendered_pieces(tokenizer, Prompt(tuple(turns))):
        for number, part in enumerate(piece.split(_HERE)):
            if number:
                ids.append(tag)
                readouts.append(len(ids) - 1 - before)
                if len(readouts) == count:
                    return Encoded(ids, readouts)
            ids += tokenizer.encode(part, add_special_tokens=False)
    if count:
        raise UsageError(
            f"the chat template shows {len(readouts)} of {count} steps, so it is not that of this convention",
            hint="is it the tokenizer of that PRM? --prm-format names the convention",
        )
    return Encoded(ids, readouts)


def _med_prm(tokenizer: PreTrainedTokenizerBase, given: Asked, steps: Sequence[str]) -> Encoded:
    kept: list[str] = []
    used = 0
    for text in given.documents:
        used += len(encode_text(tokenizer, text)) + 1
        if used > _DOCUMENT_TOKENS:
            break
        kept.append(text)
    system = _MED_PRM_SYSTEM.format(given=_WITH_DOCUMENTS if given.documents else _WITHOUT_DOCUMENTS)
    documents = "".join(f"Document {number}: {text}\n\n" for number, text in enumerate(kept, 1))
    solution = " ".join(_clean(_marked(k, step).replace("\n", " ")) + _HERE for k, step in enumerate(steps, 1))
    content = f"{_clean(documents)}Question: {_clean(given.question)}\n\nExplanation: {solution}"
    tag = token_id(tokenizer, Convention.MED_PRM, MED_PRM_TAG)
    ids, readouts = _chat(tokenizer, [Message("system", system), Message("user", content)], tag, len(steps))
    # Their code tokenises the rendered chat as any text, so a BOS comes before the template's own.
    more = _leading(tokenizer)
    return Encoded([*more, *ids], [at + len(more) for at in readouts])


def _rlhflow(tokenizer: PreTrainedTokenizerBase, question: str, steps: Sequence[str]) -> Encoded:
    turns: list[Message] = []
    for k, step in enumerate(steps, 1):
        text = _clean(_marked(k, step))
        turns += [Message("user", f"{_clean(question)} {text}" if k == 1 else text), Message("assistant", _HERE)]
    plus = label_tokens(Convention.RLHFLOW, tokenizer)[1]
    return _chat(tokenizer, turns, plus, len(steps), before=True) if turns else Encoded([], [])


def _math_shepherd(tokenizer: PreTrainedTokenizerBase, question: str, steps: Sequence[str]) -> Encoded:
    """As one text, since a tokenizer with a space in front of every text would cut pieces in another way."""
    tag = token_id(tokenizer, Convention.MATH_SHEPHERD, *_STEP_TAG)
    text = f"{question} "
    ids: list[int] = []
    readouts: list[int] = []
    for k, step in enumerate(steps, 1):
        text += f"{_marked(k, step)} ки"
        longer = encode_text(tokenizer, text)
        if longer[: len(ids)] != ids or longer[-1] != tag:
            raise UsageError(
                "the tokenizer does not keep the step tag ки as a token of its own, so it is not that of math-shepherd",
                hint="is it the tokenizer of that PRM? --prm-format names the convention",
            )
        ids = longer
        readouts.append(len(ids) - 1)
        text += "\n"
    more = _leading(tokenizer)
    return Encoded([*more, *ids], [at + len(more) for at in readouts])
