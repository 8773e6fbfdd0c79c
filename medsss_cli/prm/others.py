"""How reward models of others read an answer, as their published code lays it out. Ours: `layout.py`.

Two steps a and b; step 0 is left out of all: no such model was trained with one:

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

A departure: Skywork's code scores every line; here a step of several lines has the score of its last one, and blank
lines are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..engines.rendering import encode_text, rendered_pieces
from ..errors import UsageError
from ..labelling.judged import documents_of
from ..prompts import question_text
from ..records import Message, Prm, Problem
from ..requests import Prompt
from ..steps import ROOT_TEXT
from .config import Format
from .layout import Encoded, encode, marked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Tokens by their names in vocabularies: "▁" is a space in SentencePiece's, "Ġ" in byte-level ones, where "ки" is
# spelled by its bytes.
_STEP_TAG = ("▁ки", "ĠÐºÐ¸")
_AFTER_SPACE = (("▁-", "Ġ-"), ("▁+", "Ġ+"))
_WRONG_RIGHT: dict[Format, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Format.MATH_SHEPHERD: _AFTER_SPACE,
    Format.RLHFLOW: (("-",), ("+",)),
    Format.MED_PRM: _AFTER_SPACE,
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
_HINT = "is it the tokenizer of that PRM? --prm-format names the format"


def asked(format: Format, problem: Problem) -> str:
    """The question with its options, as a format has it. A prm record says it in `prompt`."""
    if format is not Format.MED_PRM:
        return problem.prompt if isinstance(problem, Prm) else question_text(problem)
    options = "\n".join(f"({letter}) {text}" for letter, text in (problem.options or {}).items())
    return problem.question.strip() + (options and f"\n\n{options}")


def lay_out(format: Format, tokenizer: PreTrainedTokenizerBase, problem: Problem, steps: Sequence[str]) -> Encoded:
    """An answer in any format. `steps` are the bare steps, step 0 first; the read-outs are those of the others.

    Raises UsageError where the tokenizer lacks a token that the format needs, or cuts one in another way.
    """
    question, scored = asked(format, problem), steps[1:]
    match format:
        case Format.MEDSSS:
            ids, readouts = encode(tokenizer, question, steps)
            return Encoded(ids, readouts[1:])
        case Format.QWEN:
            answer = "".join(_clean(step.strip()) + _HERE for step in scored)
            turns = [("system", _QWEN_SYSTEM), ("user", _clean(question)), ("assistant", answer)]
            return _chat(tokenizer, turns, token_id(tokenizer, format, QWEN_TAG), len(scored))
        case Format.MED_PRM:
            return _med_prm(tokenizer, question, documents_of(problem), scored)
        case Format.RLHFLOW:
            turns = []
            for k, step in enumerate(scored, 1):
                text = _clean(marked(k, step))
                turns += [("user", f"{_clean(question)} {text}" if k == 1 else text), ("assistant", _HERE)]
            plus = label_tokens(format, tokenizer)[1]
            return _chat(tokenizer, turns, plus, len(scored), before=1) if turns else Encoded([], [])
        case Format.MATH_SHEPHERD:
            return _math_shepherd(tokenizer, question, scored)
        case Format.SKYWORK:
            line_end = encode_text(tokenizer, "\n")[-1:]
            lines_S = [[line for line in step.strip().splitlines() if line.strip()] or [""] for step in scored]
            return _lines(tokenizer, question + "\n", lines_S, line_end)
        case Format.TRL:
            return _lines(tokenizer, question, [[step.strip()] for step in scored], encode_text(tokenizer, "\n"))
        case Format.AUTO:
            raise ValueError("the format must be found first (loading.find_format)")


def check_tokens(format: Format, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UsageError where a tokenizer cannot lay out a format, before any model is loaded."""
    problem = Problem(id="", question="Which dose?", answer="B")
    lay_out(format, tokenizer, problem, [ROOT_TEXT, "Add.", "The answer is B."])
    if format in _WRONG_RIGHT:
        label_tokens(format, tokenizer)


def label_tokens(format: Format, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids of "-" and "+", in the order of the labels wrong and right."""
    wrong, right = _WRONG_RIGHT[format]
    return token_id(tokenizer, format, *wrong), token_id(tokenizer, format, *right)


def token_id(tokenizer: PreTrainedTokenizerBase, format: Format, *names: str) -> int:
    """The id of the first of these names that the vocabulary has. Raises UsageError where it has none."""
    for name in names:
        found = tokenizer.convert_tokens_to_ids(name)
        if isinstance(found, int) and found != tokenizer.unk_token_id:
            return found
    needed = " or ".join(map(repr, names))
    raise UsageError(f"the format {format} needs the token {needed}, which this tokenizer has not", hint=_HINT)


def _lines(
    tokenizer: PreTrainedTokenizerBase, question: str, lines_S: Sequence[Sequence[str]], end: Sequence[int]
) -> Encoded:
    """The question after a BOS, then the lines of every step, each with its `end`, where the last of a step is read."""
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids += encode_text(tokenizer, question)
    readouts = []
    for lines in lines_S:
        for line in lines:
            ids += [*encode_text(tokenizer, line), *end]
        readouts.append(len(ids) - 1)
    return Encoded(ids, readouts)


def _clean(text: str) -> str:
    return text.replace(_HERE, "")


def _after_leading(tokenizer: PreTrainedTokenizerBase, ids: list[int], readouts: list[int]) -> Encoded:
    """An answer after what the tokenizer puts before a text by itself: the BOS, or nothing."""
    alone = list(tokenizer.encode("x", add_special_tokens=False))
    whole = list(tokenizer.encode("x"))
    begin = next((at for at in range(len(whole)) if whole[at : at + len(alone)] == alone), 0)
    return Encoded(whole[:begin] + ids, [at + begin for at in readouts])


def _chat(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[str, str]], tag: int, count: int, *, before: int = 0
) -> Encoded:
    """A chat whose texts hold `_HERE` `count` times: `tag` stands there, and the token that stands so many `before` it
    is read. Ends with the last tag."""
    ids: list[int] = []
    readouts: list[int] = []
    for piece in rendered_pieces(tokenizer, Prompt(tuple(Message(*turn) for turn in turns))):
        for number, part in enumerate(piece.split(_HERE)):
            if number:
                ids.append(tag)
                readouts.append(len(ids) - 1 - before)
                if len(readouts) == count:
                    return Encoded(ids, readouts)
            ids += tokenizer.encode(part, add_special_tokens=False)
    if count:
        what = f"the chat template shows {len(readouts)} of {count} steps, so it is not that of this format"
        raise UsageError(what, hint=_HINT)
    return Encoded(ids, readouts)


def _med_prm(tokenizer: PreTrainedTokenizerBase, question: str, given: Sequence[str], steps: Sequence[str]) -> Encoded:
    documents, used = "", 0
    for number, text in enumerate(given, 1):
        used += len(encode_text(tokenizer, text)) + 1
        if used > _DOCUMENT_TOKENS:
            break
        documents += f"Document {number}: {text}\n\n"
    system = _MED_PRM_SYSTEM.format(given=_WITH_DOCUMENTS if given else _WITHOUT_DOCUMENTS)
    solution = " ".join(_clean(marked(k, step).replace("\n", " ")) + _HERE for k, step in enumerate(steps, 1))
    content = f"{_clean(documents)}Question: {_clean(question)}\n\nExplanation: {solution}"
    tag = token_id(tokenizer, Format.MED_PRM, MED_PRM_TAG)
    ids, readouts = _chat(tokenizer, [("system", system), ("user", content)], tag, len(steps))
    # Their code tokenises the rendered chat as any text, so a BOS comes before the template's own.
    return _after_leading(tokenizer, ids, readouts)


def _math_shepherd(tokenizer: PreTrainedTokenizerBase, question: str, steps: Sequence[str]) -> Encoded:
    """As one text, since a tokenizer with a space in front of every text would cut pieces in another way."""
    tag = token_id(tokenizer, Format.MATH_SHEPHERD, *_STEP_TAG)
    text = f"{question} "
    ids: list[int] = []
    readouts: list[int] = []
    for k, step in enumerate(steps, 1):
        text += f"{marked(k, step)} ки"
        longer = encode_text(tokenizer, text)
        if longer[: len(ids)] != ids or longer[-1] != tag:
            raise UsageError(
                "the tokenizer does not keep the step tag ки as a token of its own, so it is not that of math-shepherd",
                hint=_HINT,
            )
        ids = longer
        readouts.append(len(ids) - 1)
        text += "\n"
    return _after_leading(tokenizer, ids, readouts)
