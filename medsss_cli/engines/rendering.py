"""A prompt as token ids: the model's chat template, then the text that the assistant has already written.

The rendered text and the prefix are tokenised as one string with `add_special_tokens=False`: the template writes the
BOS itself where the model wants one, and text that runs over the border of template and prefix gets the ids that it
gets in training. Text of a message or of the prefix never becomes a special token. A question that holds "<|end|>" is
cut inside that word before the template sees it, and the two halves are tokenised apart; no template logic is touched,
and the ids still spell the same text. (A tokenizer that puts a space before every string, as Llama 2's does, adds one
at the cut.)
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from ..errors import EngineError
from ..requests import Prompt

# For tokenizers without a chat template. A turn begins on a line of its own, so the prefix joins without a space.
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}"
    "{% for m in messages %}"
    "{{ m['role'] | capitalize }}:\n{{ m['content'] }}"
    "{{ (eos_token or '') + '\n' if m['role'] == 'assistant' else '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)

# Some templates write today's date (Llama 3.2's by `date_string`, others by `strftime_now`), and a prompt must be the
# same tomorrow. The date is the one that Llama's template falls back on.
_DATE = date(2024, 7, 26)
_TODAY: dict[str, Any] = {"date_string": _DATE.strftime("%d %b %Y"), "strftime_now": _DATE.strftime}

THOUGHT, THOUGHT_END = "<think>", "</think>"

# Unicode noncharacters mark where a text is cut. They stand for nothing, so any one that the prompt lacks will do.
_MARKS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))


@functools.lru_cache(8)
def _guard(tokenizer: Any) -> re.Pattern[str]:
    """What finds special tokens in plain text."""
    # Some tokenizers mark turns with added tokens that are not flagged special: what the template writes counts.
    frame = _apply(tokenizer, [{"role": "user", "content": "x"}])
    added = tokenizer.added_tokens_decoder.values()
    words = {token.content for token in added if token.special or (token.content.strip() and token.content in frame)}
    # The longest first, so that a special token within another one is found as the whole.
    spelled = "|".join(re.escape(word) for word in sorted(words - {""}, key=len, reverse=True))
    return re.compile(spelled or r"(?!)")


def _apply(tokenizer: Any, messages: list[dict[str, str]], *, goes_on: bool = True) -> str:
    """What the chat template makes of the turns; where it `goes_on`, the assistant's turn is opened."""
    from jinja2 import TemplateError

    template = None if getattr(tokenizer, "chat_template", None) else PLAIN_TEMPLATE
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=goes_on, chat_template=template, **_TODAY
        )
    except (TemplateError, ValueError) as error:  # ValueError: no turns at all
        roles = ", ".join(message["role"] for message in messages)
        raise EngineError(f"the chat template refuses the turns ({roles}): {error}") from None
    return str(text)


def _encode(tokenizer: Any, text: str) -> list[int]:
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is not None:  # three times as fast as the tokenizer's own call, with the same ids
        ids: list[int] = core.encode(text, add_special_tokens=False).ids
        return ids
    return list(tokenizer.encode(text, add_special_tokens=False))


def rendered_pieces(tokenizer: Any, prompt: Prompt) -> list[str]:
    """The text of the prompt, cut where a special token stands in a message or in the prefix. One piece is the rule."""
    texts, mark = _marked(tokenizer, [message.content for message in prompt.messages] + [prompt.prefix])
    messages = [
        {"role": message.role, "content": text} for message, text in zip(prompt.messages, texts[:-1], strict=True)
    ]
    opened = _apply(tokenizer, messages)
    if prompt.prefix and opened.rstrip().endswith(THOUGHT) and THOUGHT_END not in prompt.prefix:
        opened += f"\n{THOUGHT_END}\n\n"  # the template opens a thought, and steps are none
    return (opened + texts[-1]).split(mark)


def _marked(tokenizer: Any, texts: list[str]) -> tuple[list[str], str]:
    """The texts with a mark where a special token is to be cut, and the mark, which they do not hold otherwise."""
    pattern = _guard(tokenizer)
    whole = "".join(texts)
    mark = next((candidate for candidate in _MARKS if candidate not in whole), None)
    if mark is None:
        raise EngineError("a text that holds all 32 noncharacters U+FDD0 to U+FDEF")
    return [_cut(pattern, text, mark) for text in texts], mark


def _cut(pattern: re.Pattern[str], text: str, mark: str) -> str:
    """`text` with `mark` after the first character of every special token, until no piece holds one.

    "<|end|>" becomes "<" mark "|end|>". A piece may hold another one ("|end|>" where that is a token), hence the loop.
    A special token of one character cannot be cut; it is left out.
    """
    pieces = [text]
    position = 0
    while position < len(pieces):
        piece = pieces[position]
        found = pattern.search(piece)
        if found is None:
            position += 1
        elif len(found.group()) == 1:
            pieces[position] = piece[: found.start()] + piece[found.end() :]
        else:
            pieces[position : position + 1] = [piece[: found.start() + 1], piece[found.start() + 1 :]]
    return mark.join(pieces)


def render(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The token ids of `prompt`: chat template with the generation prompt, then the prefix, without a second BOS.

    A tokenizer that has no chat template is used with PLAIN_TEMPLATE. Raises EngineError where the template refuses the
    turns (a system turn where it knows none, say).
    """
    return [token for piece in rendered_pieces(tokenizer, prompt) for token in _encode(tokenizer, piece)]


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """The ids of plain text: no BOS, and a special token that is spelled in it stays text, as in `render`.

    (The tokenizers' own switch for that, `split_special_tokens`, stays on afterwards and spoils the next prompt.)
    """
    [text], mark = _marked(tokenizer, [text])
    return [token for piece in text.split(mark) for token in _encode(tokenizer, piece)]


def first_tokens(tokenizer: Any, prompt: Prompt, words: tuple[str, ...]) -> list[int]:
    """The first token id of each word where it follows the prompt: [word].

    Raises EngineError when two words begin with the same token, so that one token cannot tell them apart.
    """
    pieces = rendered_pieces(tokenizer, prompt)
    alone = _encode(tokenizer, pieces[-1])
    ids = []
    for word in words:
        joined = _encode(tokenizer, pieces[-1] + word)
        # Where the prompt's last token would merge with the word, the prompt as it stands cannot be continued like
        # that: the word is taken by itself.
        fits = joined[: len(alone)] == alone and len(joined) > len(alone)
        ids.append(joined[len(alone)] if fits else _encode(tokenizer, word)[0])
    if len(set(ids)) < len(ids):
        raise EngineError(f"the words {', '.join(words)} share their first token: one token cannot choose among them")
    return ids


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the template writes straight after an assistant's answer; None where it writes text.

    Some folders name another token as EOS, and a model trained on the template would write on for ever.
    """
    answer = "Reply"
    turns = [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": answer}]
    try:
        after = _apply(tokenizer, turns, goes_on=False).rpartition(answer)[2]
    except EngineError:
        return None
    for id, token in tokenizer.added_tokens_decoder.items():
        if token.special and token.content and after.lstrip().startswith(token.content):
            return int(id)
    return None


def end_tokens(tokenizer: Any, *sources: Any) -> set[int]:
    """Every token that ends a turn: those that `sources` (configurations of a model) name as `eos_token_id`, the
    tokenizer's, and what the template writes after an answer."""
    given = [getattr(source, "eos_token_id", None) for source in sources]
    given += [tokenizer.eos_token_id, end_of_turn(tokenizer)]
    return {int(id) for each in given if each is not None for id in ([each] if isinstance(each, int) else each)}


class Speller:
    """What generated ids spell, for one tokenizer: special tokens left out, a space at the beginning kept."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special = special | set(tokenizer.all_special_ids)
        # Some decoders drop the space of the first token, so one of text goes before the ids.
        self._anchor = _encode(tokenizer, "a")
        self._length = len(self._decode(self._anchor))

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def __call__(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        return self._decode([*self._anchor, *(id for id in ids if id not in self._special)])[self._length :]


def first_stop(text: str, stop: Sequence[str]) -> tuple[str, str] | None:
    """(text before the first stop string, that string); None where there is none. Of two at one place the longer."""
    hits = [(text.find(string), -len(string), string) for string in stop if string in text]
    if not hits:
        return None
    start, _, string = min(hits)
    return text[:start], string
