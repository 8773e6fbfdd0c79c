"""A prompt as token ids: the model's chat template, then the text that the assistant has already written.

The rendered text and the prefix are tokenised as one string with `add_special_tokens=False`: the template writes the
BOS itself where the model wants one, and text that runs over the border of template and prefix gets the ids that it
gets in training. Text of a message or of the prefix never becomes a special token. A question that holds "<|end|>" is
cut inside that word before the template sees it, and the two halves are tokenised apart; no template logic is touched,
and the ids still spell the same text. (A tokenizer that puts a space before every string, as Llama 2's does, adds one
at the cut.)
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

from ..errors import EngineError
from ..requests import Prompt

# Some templates write today's date (Llama 3.2's by `date_string`, others by `strftime_now`), and a prompt must be the
# same tomorrow. The date is the one that Llama's template falls back on.
_DATE = date(2024, 7, 26)
_TODAY: dict[str, Any] = {"date_string": _DATE.strftime("%d %b %Y"), "strftime_now": _DATE.strftime}

THOUGHT, THOUGHT_END = "<think>", "</think>"

_MARK = "\ufdd0"  # where a text is cut: a noncharacter, which no text should hold; it is taken out of one that does


@functools.lru_cache(8)
def _cutter(tokenizer: Any) -> Callable[[str], str]:
    """Puts the mark after the first character of every special token that a text spells: "<" mark "|end|>". A special
    token of one character cannot be cut; it is left out."""
    # Some tokenizers mark turns with added tokens that are not flagged special: what the template writes counts.
    frame = _apply(tokenizer, [{"role": "user", "content": "x"}]) if tokenizer.chat_template else ""
    added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values() if token.content}
    words = {word for word, special in added.items() if special or (word.strip() and word in frame)}
    # The rest of a token is only looked at, so that one that begins within another ("|end|>" where that is one) is cut.
    pattern = re.compile("|".join(f"{re.escape(word[0])}(?={re.escape(word[1:])})" for word in words) or "(?!)")

    def cut(text: str) -> str:
        return pattern.sub(lambda found: _MARK if found[0] in words else found[0] + _MARK, text.replace(_MARK, ""))

    return cut


def _apply(tokenizer: Any, messages: list[dict[str, str]], *, goes_on: bool = True) -> str:
    """What the chat template makes of the turns; where it `goes_on`, the assistant's turn is opened."""
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=goes_on, **_TODAY)
    except (TemplateError, ValueError) as error:  # ValueError: no turns at all, or no template
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
    cut = _cutter(tokenizer)
    opened = _apply(tokenizer, [{"role": each.role, "content": cut(each.content)} for each in prompt.messages])
    if prompt.prefix and opened.rstrip().endswith(THOUGHT) and THOUGHT_END not in prompt.prefix:
        opened += f"\n{THOUGHT_END}\n\n"  # the template opens a thought, and steps are none
    return (opened + cut(prompt.prefix)).split(_MARK)


def render(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The token ids of `prompt`: chat template with the generation prompt, then the prefix, without a second BOS.
    Raises EngineError where the template refuses the turns (a system turn where it knows none, say)."""
    return [token for piece in rendered_pieces(tokenizer, prompt) for token in _encode(tokenizer, piece)]


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """The ids of plain text: no BOS, and a special token that is spelled in it stays text, as in `render`.

    (The tokenizers' own switch for that, `split_special_tokens`, stays on afterwards and spoils the next prompt.)
    """
    return [token for piece in _cutter(tokenizer)(text).split(_MARK) for token in _encode(tokenizer, piece)]


def first_tokens(tokenizer: Any, prompt: Prompt, words: tuple[str, ...]) -> list[int]:
    """The first token id of each word where it follows the prompt: [word]. Raises EngineError when two words begin with
    the same token, so that one token cannot tell them apart."""
    before = rendered_pieces(tokenizer, prompt)[-1]
    alone, ids = _encode(tokenizer, before), []
    for word in words:
        joined = _encode(tokenizer, before + word)
        # Where the prompt's last token would merge with the word, the prompt as it stands cannot be continued like
        # that: the word is taken by itself.
        fits = joined[: len(alone)] == alone and len(joined) > len(alone)
        ids.append(joined[len(alone)] if fits else _encode(tokenizer, word)[0])
    if len(set(ids)) < len(ids):
        raise EngineError(f"the words {', '.join(words)} share their first token: one token cannot choose among them")
    return ids


def end_tokens(tokenizer: Any, *sources: Any) -> set[int]:
    """Every token that ends a turn: those that `sources` (configurations of a model) name as `eos_token_id`, the
    tokenizer's, and the special one that the template writes straight after an answer: some folders name another one as
    EOS, and a model trained on the template would write on for ever."""
    given = [getattr(source, "eos_token_id", None) for source in sources] + [tokenizer.eos_token_id]
    turns = [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": "Reply"}]
    with contextlib.suppress(EngineError):
        after = _apply(tokenizer, turns, goes_on=False).rpartition("Reply")[2].lstrip()
        special = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        given.append(next((id for id, content in special.items() if content and after.startswith(content)), None))
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
