"""Multiple choice: which letters stand at a place. One letter, or a set of letters in any order ("ACD", "B and D").

Letter or text of an option count the same. One rule holds for all letters and both cases, so that none is read less
often than another: a letter counts where what follows cannot continue a noun phrase, that is the end, a mark, its own
option's text, or a word such as "because". So "A good rest", "B cell", "C-reactive" and "vitamin D3" name no letter,
and "the answer is a because" names one. Nothing is read where letter and text disagree ("B. Aspirin", and Aspirin is
A), nor where two options are named for a question that has one answer. In Chinese a character beside a letter makes
no word with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import takewhile

from .readers import UNSURE, Place, cue, first_sentence, instead, plain

_DEFAULT_LETTERS = "ABCDEFGHIJ"
_POLAR = {"yes", "no", "maybe", "true", "false"}

_LEAD = cue(
    r"(?:[ (\[{:>#'=,—-]|[a-z]{0,2}nswer is\b|选项|选择|应该|应为|选|项|是|为"
    r"|(?:the|either|options?|choices?|letters?|answers?|most likely|likely to|likely|probably|definitely|clearly"
    r"|therefore|thus|so|hence|be|indeed|both|simply|actually|certainly|correct|only|is|are|to choose|all of"
    r"|best|right)\b(?!['’-]\w)){0,20}"
)
_HEDGED = cue(r"\b(?:likely|probably|is|are|be)\b")
_NEGATED = cue(
    r"\b(?:not|no|neither|nor|never|without|except|than|instead of|unlike|against|exclude|rule out)\b"
    r"|不[是为选]|并非|非"
)
_AND = (
    r";(?=\s?\(?[A-Z]\)?\s?(?:[.;]|$))|and/or\b|,\s?(?:and|or)\b|,|&|\+|/"
    r"|、|和|与|及|或者|或是|或|and\b|or\b|as\swell\sas\b"
)
_BETWEEN = re.compile(rf"[)\].}}]{{0,3}}\s?(?:{_AND})[\s(\[]{{0,3}}(?:options?\s)?", re.IGNORECASE)
_ALTERNATIVE = cue(r"\bor\b|或")

_CJK = "\u3400-\u9fff"
_FOLLOWS = re.compile(
    r"(?!['’.][^\W\d]|\.\d|\. [a-z])"
    rf"\s?(?:$|[)\]}}]|[.,:;!/&](?![^\W{_CJK}])|[…。！？；，、]|[/+&,、，]\s?\(?[A-Za-z]\b|[({{\[]|[-–—→]\s|[{_CJK}]"
    r"|(?i:because|since|as|for|given|due|based|which|in|on|and|or|not|but|rather|instead|over|is|are|was|were|would|has"
    r"|daily|explanation|rationale|reason|confidence)\b(?!-))"
)  # scoped (?i:): ignoring case in a pattern with the range of Chinese characters takes 20 ms to compile
_TEXT_FOLLOWS = re.compile(rf"(?!\s?(?i:in|(?:,\s?)?(?:and|or))\b)(?:{_FOLLOWS.pattern})|\s\d")
_POLAR_FOLLOWS = cue(r" ?(?:$|[.,;:!)…。，；！]|\(|[-–—] |because\b)")
_CORRECTED = cue(
    r"(?: ?\([^()]{0,40}\))?(?: ?(?:->|→) ?| (?:and/)?or\b[ ,]{1,2}(?:[a-z]{2,12}[ ,]{1,2}){0,3})"
    r"| ?[(,.…]{1,3} ?(?:(?:no|or|wait|sorry|rather|actually|perhaps|possibly)\b[ ,]{0,3}){1,3}(?:option )?"
)
# What stands after an option and takes it back: "B is wrong", "B (incorrect)", "B only if she is pregnant", B错.
_DISMISSED = cue(
    r"[)\].]{0,2} ?(?:\([^()]{0,80}\) )?(?:(?:is|are|was|were|seems|can be|could be) (?:(?:also|clearly|therefore"
    r"|both) )?(?:not|wrong|incorrect|false|unlikely|excluded|eliminated|less|ruled out|out|second|neither"
    r"|tempting)\b|(?:isn['’]t|aren['’]t|cannot|can['’]t)\b|(?:项|选项)?(?:是|都|均)?(?:错|不正确|不对|不是|不选|(?:的)?可能))"
    r"|[)\].]{0,2} ?[(:,–—-]{1,2} ?(?:which is )?(?:clearly )?(?:(?:wrong|incorrect|false|contraindicated|unlikely"
    r"|excluded|not (?:sure|correct|right|certain|indicated))\b|no[.!]?$)| (?:only )?(?:if|unless|when)\b"
)
# After a letter without a cue before it: "B. The pulse is high" answers, "E. coli grows" does not.
_BARE_FOLLOWS = re.compile(
    r" ?[.!)\]:。，、]{0,2} ?$|;| ?[,;—–-]? ?(?:because|since)\b|[.)]{1,2} (?:The|This|It|In|Because|Given|Since"
    r"|Based|Explanation|Reason|Rationale|As|He|She|Patient|According|Although|While|These|There|We|Option)\b"
)
_WORDED_FOLLOWS = re.compile(r" ?\(| (?:rather than|instead of)\b| ?[.!。)](?: |$)| ?[,;—–-] |[,，]")
_CLAUSE = cue(r"[,;:.，] ?|\b(?:so|therefore|thus|hence|that|and|option|choice) ")
_SET = re.compile(  # "ACD", "acd" at the end, "A C D"
    rf"[A-Z]{{2,26}}(?={_FOLLOWS.pattern})|[a-z]{{2,26}}(?=\s?[.)]?$)|[A-Z](?:\s[A-Z]){{1,25}}(?=\s?(?:$|[.,;)\]}}。，；]))"
)
_GOLD_SEPARATORS = re.compile(r"[ ,;/&+、，；和]{1,4}|\band\b")
_APPOSED = cue(r"(?:, (?:option )?| ?[(\[](?:option |选项)?)(?P<letter>[A-Z])[)\]]?[.!。]?$")
_WORD_ENDS = re.compile(r"(?!\w|[-.,/]\w)")
_OTHER_WORD = cue(r"[ ,/.:]{1,3}(?:yes|no|maybe)\b(?= ?(?:$|[.,!]))")
_NAME = cue(r"(?:hepatitis|vitamin|type|class|group|grade|stage|influenza|factor|protein|point|table|Child-Pugh)[, ]*$")
_OTHER_LETTER = re.compile(r"[B-HJ-Z]\b(?! (?:is|are|was|were|can)\b)")
_SET_OFF = cue(r" ?(?:\(|, option )(?:option )?([A-Z])\b\)?")
_LABEL = re.compile(r"(?P<letter>[A-Z])[.):]{1,2} ?(?=\w)")
_SEPARATORS = re.compile(r"[).\]:,、． –—(\[-]{0,6}")
_PART = re.compile(rf"[^\W{_CJK}]|-")
_CLOSED = re.compile(
    r"(?:\b(?i:the|a|an|to|is|be|that|likely|of|with|give|start|option|use|therefore|thus|diagnosis|treatment|say"
    r"|probably|clearly)|[:,—–-]|[\u3400-\u9fff])$"
)


def gold_letters(answer: str, options: Mapping[str, str] | None) -> str | None:
    """The gold answer as sorted letters ("DB", "B, D" -> "BD"); None where it is no set of letters of `options`."""
    joined = _GOLD_SEPARATORS.sub("", answer.strip().strip("().")).upper()
    letters = _set_of(joined, options if options is not None else _DEFAULT_LETTERS)
    return "".join(sorted(letters)) if letters else None


def _set_of(letters: str, allowed: Iterable[str]) -> str | None:
    """`letters`, if they are a set of those allowed."""
    return letters if len(set(letters)) == len(letters) and set(letters) <= set(allowed) else None


def read_choice(place: Place, options: Mapping[str, str] | None, *, several: bool = False) -> str | None:
    """The letters that `place` chooses, sorted; None where it chooses none, UNSURE where it names alternatives, or
    several where the question asks for one (not `several`)."""
    found = _reading(tuple(options.items()) if options else ()).read(place)
    if found is None or found == UNSURE:
        return found
    letters = "".join(sorted(set(found)))
    return letters if several or len(letters) == 1 else UNSURE


class _Reading:
    """The options of a question and what can be read with them."""

    def __init__(self, table: Mapping[str, str]) -> None:
        self.table = table
        self.phrases = {text.lower(): letter for letter, text in table.items() if text and text not in table}
        for letter, text in table.items():
            word = re.match("yes|no|maybe|true|false", text.lower())
            if word and _POLAR_FOLLOWS.match(text, word.end()):
                self.phrases.setdefault(word.group(), letter)
        self.longest = sorted(self.phrases, key=len, reverse=True)

    def read(self, place: Place) -> str | None:
        lines = [line.strip() for line in place.text.strip("\n").split("\n", 8)[:8]]
        listed = self.listed(lines) if len(lines) > 1 and not place.subject else None
        if listed or not lines[0]:
            return listed
        if place.subject:
            return self.subject(lines[0])
        if place.whole:
            return self.bare(lines[0]) if len(list(filter(None, lines))) == 1 else None
        return self.stated(lines[0])

    def listed(self, lines: list[str]) -> str | None:
        """The letters of lines that each hold an item and nothing else, up to an empty line."""
        letters = ""
        for line in takewhile(bool, lines):
            item = self.item(line, self.start(line))
            if item is None or line[item[1] :].strip(" .)"):
                return None
            letters += item[0]
        return letters if len(letters) < max(len(self.table), 3) else None

    def start(self, text: str, position: int = 0) -> int:
        """Where the words end that may stand before a letter at `position`; an option's own text has none."""
        lead = None if self.option_at(text, position) else _LEAD.match(text, position)
        return lead.end() if lead else position

    def stated(self, text: str) -> str | None:
        """What is said after "the answer is": at its head, else a text or set-off letter in its sentence."""
        position = self.start(text)
        rest = None if self.option_at(text, position) else instead(text[position:])
        if rest is not None:
            return self.stated(rest)
        found = self.items(text, position)
        if found is not None:
            return found[0]
        sentence = first_sentence(text)
        return self.contained(sentence) or self.apposed(sentence)

    def items(self, text: str, position: int) -> tuple[str, int] | None:
        """The letters listed at `position` (or UNSURE), and where the list ends."""
        letters, unsure, end = "", False, position
        while len(letters) <= len(self.table):
            item = self.item(text, position)
            if item is None or (letters and _DISMISSED.match(text, item[1])):
                break
            letters, end = letters + item[0], item[1]
            between = _BETWEEN.match(text, end)
            if not between:
                break
            position = between.end()
            if _OTHER_LETTER.match(text, position) and self.item(text, position) is None:
                return None  # "B and T cells"
            unsure = unsure or bool(_ALTERNATIVE.search(between.group()) and re.match(r"\w", text[position:]))
        if not letters or _DISMISSED.match(text, end):
            return None
        other = _CORRECTED.match(text, end)
        if unsure or UNSURE in letters or (other and self.item(text, other.end())):
            return UNSURE, end
        return letters, end

    def item(self, text: str, position: int) -> tuple[str, int] | None:
        """The letter or letters named at `position` and where they end; None where no option is named."""
        at = self.option_at(text, position)
        if at is not None:
            option, end = at
            set_off = _SET_OFF.match(text, end)
            if set_off and set_off[1].upper() in self.table:
                return (option if set_off[1].upper() == option else UNSURE), set_off.end()
            return at
        label = _LABEL.match(text, position)
        if label and label["letter"] not in self.table:
            return self.option_at(text, label.end())  # "D. maybe", where the options end with C
        several = _SET.match(text, position)
        letters = _set_of(several.group().replace(" ", "").upper(), self.table) if several else None
        if several and letters:
            return letters, several.end()
        letter, after = text[position : position + 1].upper(), position + 1
        if letter not in self.table:
            return None
        own = self.own_text(text, after, letter)
        if own is None:
            return UNSURE, after
        return (letter, own) if own > after or _FOLLOWS.match(text, after) else None

    def option_at(self, text: str, position: int, *, after_letter: bool = False) -> tuple[str, int] | None:
        """The option whose text (or whose first word, if that is yes, no, true or the like) stands at `position`, and
        where it ends: the longest. A text that is itself a letter of the table ("A" among blood groups) is left to the
        letters; one that goes on ("vitamin D deficiency", "metoprolol and ramipril") is another."""
        for phrase in self.longest:
            end = position + len(phrase)
            if text[position:end].lower() == phrase and (
                _WORD_ENDS.match(text, end) if after_letter else self.ends(text, end, phrase)
            ):
                return self.phrases[phrase], end
        return None

    def ends(self, text: str, end: int, phrase: str) -> bool:
        """Whether an option's text can end here: what follows goes on no name, or is "and" and another item."""
        follows = _POLAR_FOLLOWS if phrase in _POLAR else _TEXT_FOLLOWS
        between = _BETWEEN.match(text, end)
        return bool(follows.match(text, end) or (between and self.item(text, between.end())))

    def own_text(self, text: str, position: int, letter: str) -> int | None:
        """Where the option's own text ends after its letter ("A. Aspirin"), `position` if it does not follow, None if
        the text of another option does."""
        start = _SEPARATORS.match(text, position)
        begin = start.end() if start else position
        option = self.option_at(text, begin, after_letter=True)
        if option is None:
            return position
        if option[0] == letter:
            closed = text[begin - 1] in "([" and text[option[1] : option[1] + 1] in {")", "]"}
            return option[1] + 1 if closed else option[1]
        return None if re.match(r"\s?(?:$|[.)*])", text[option[1] :]) else position

    def contained(self, sentence: str) -> str | None:
        """The one option whose text stands in the sentence in whole words, with nothing before it that denies or
        modifies it ("gestational diabetes" is not diabetes)."""
        found: list[tuple[int, int]] = []
        lowered = sentence.lower()
        for phrase in self.longest:
            start = lowered.find(phrase) if len(phrase) > 1 else -1
            end = start + len(phrase)
            alone = start >= 0 and not _PART.match(sentence[max(start - 1, 0) : start])
            if alone and self.ends(sentence, end, phrase) and not any(a <= start and end <= b for a, b in found):
                found.append((start, end))
        if len(found) != 1:
            return None
        [(start, end)] = found
        before, first = sentence[:start].rstrip(" ("), sentence[start]
        named = not before or first.isupper() or not first.isalpha() or _CLOSED.search(before)
        taken_back = _NEGATED.search(before) or _DISMISSED.match(sentence, end)
        return self.phrases[lowered[start:end]] if named and not taken_back else None

    def apposed(self, sentence: str) -> str | None:
        """The letter set off at the end of the sentence: "the beta blocker (B)", "a beta blocker, B"."""
        found = _APPOSED.search(sentence[-80:].rstrip(". "))
        letter = found["letter"].upper() if found else ""
        if not found or letter not in self.table or _NAME.search(sentence[-80:], 0, found.start()):  # "hepatitis (B)"
            return None
        return letter if not _NEGATED.search(sentence) else None

    def bare(self, line: str) -> str | None:
        """The answer of a line that is an answer by itself; a reason or another sentence may follow it."""
        position = self.start(line)
        if _HEDGED.search(line, 0, position):
            return None
        rest = None if self.option_at(line, position) else instead(line[position:])
        if rest is not None:
            return self.stated(rest)
        found = self.items(line, position)
        if found is None:
            return self.apposed(line) if first_sentence(line) == line.rstrip(".!。") else None
        letters, end = found
        if _POLAR & self.phrases.keys() and _OTHER_WORD.match(line, end):
            return UNSURE
        rest = line[end:]
        worded = end > position + len(letters)
        follows = _BARE_FOLLOWS.match(rest) or (worded and _WORDED_FOLLOWS.match(rest))
        return letters if follows or self.resembled(rest) == letters else None

    def resembled(self, words: str) -> str | None:
        """The option that the words after a label are, misspelt or shortened ("D. Somatostatin secretion" for excessive
        somatostatin secretion); None where they are like another one too, or a sentence."""
        label = _SEPARATORS.match(words)
        if not label or not label.group().strip() or not words[label.end() :][:1].isupper():
            return None
        words = words[label.end() :][:200].lower().rstrip(" .")
        likeness = sorted(
            (SequenceMatcher(None, words, option[:200].lower(), autojunk=False).ratio(), letter)
            for letter, option in self.table.items()
        )
        (second, _), (best, letter) = [(0.0, ""), *likeness][-2:]
        option = self.table[letter]
        alike = best >= max(0.6, second + 0.05) and re.findall(r"\d+", words) == re.findall(r"\d+", option)
        return letter if alike and len(words.split()) <= len(option.split()) else None

    def subject(self, text: str) -> str | None:
        """What "is correct" is said of: the items that end the text, after a clause of something else or none."""
        for start in [0, *(clause.end() for clause in _CLAUSE.finditer(text))]:
            found = self.items(text, self.start(text, start))
            if found and not text[found[1] :].strip(" ,.)]"):
                return found[0]
        return None


@lru_cache(maxsize=256)
def _reading(options: tuple[tuple[str, str], ...]) -> _Reading:
    table = {letter: " ".join(plain(option).rstrip(". ").split()) for letter, option in options}
    return _Reading(table or dict.fromkeys(_DEFAULT_LETTERS, ""))
