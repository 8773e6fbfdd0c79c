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
from typing import NamedTuple

from .readers import UNSURE, Place, first_sentence, plain

_DEFAULT_LETTERS = "ABCDEFGHIJ"
_POLAR = {"yes", "no", "maybe", "true", "false"}

_LEAD = re.compile(
    r"(?:[\s(\[{:>#'=,—-]|[a-z]{0,2}nswer\sis\b|选项|选择|应该|应为|选|项|是|为"
    r"|(?:the|options?|choices?|letters?|answers?|most\slikely|likely\sto|likely|probably|definitely|clearly|therefore|thus|so|hence|be"
    r"|indeed|both|simply|actually|certainly|correct|only|is|are|to\schoose|all\sof|best|right)\b(?!['’-]\w)){0,20}",
    re.IGNORECASE,
)
_HEDGED = re.compile(r"\b(?:likely|probably|is|are|be)\b", re.IGNORECASE)  # of a line without a cue
_BULLET = re.compile(r"[\s>#*•✅✔-]{0,8}(?=\S)")
_NOT = re.compile(
    r"(?:not|neither|never|unlikely|cannot|anything\sbut|all\sbut|everything\sexcept|none)\b|不[是为选]?|并非|既不",
    re.IGNORECASE,
)
_NO_TURN = re.compile(r"(?:anything|all)\sbut\b|none\b", re.IGNORECASE)
_TURN = re.compile(
    r"\b(?:but|rather|so)\b(?:\sit)?(?:\sis\b)?|[;,]\sit(?:['’]s|\sis)\b|(?:而|[，,])[是为选]", re.IGNORECASE
)
_NEGATED = re.compile(
    r"\b(?:not|no|neither|nor|never|without|except|than|instead\sof|unlike|against|exclude|rule\sout)\b|不[是为选]|并非|非",
    re.IGNORECASE,
)
_AND = (
    r";(?=\s?\(?[A-Z]\)?\s?(?:[.;]|$))|and/or\b|,\s?(?:and|or)\b|,|&|\+|/"
    r"|、|和|与|及|或者|或是|或|and\b|or\b|as\swell\sas\b"
)
_BETWEEN = re.compile(rf"[)\].}}]{{0,3}}\s?(?:{_AND})[\s(\[]{{0,3}}(?:options?\s)?", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"\bor\b|或", re.IGNORECASE)
_EITHER = re.compile(r"[\s(]{0,3}either\b", re.IGNORECASE)

_CJK = "\u3400-\u9fff"
_FOLLOWS = re.compile(
    rf"\s?(?:$|[)\]}}]|[.,:;!/&](?![^\W{_CJK}])|[…。！？；，、]|[/+&,、，]\s?\(?[A-Za-z]\b|[({{\[]|[-–—→]\s|[{_CJK}]"
    r"|(?i:because|since|as|for|given|due|based|which|in|on|and|or|not|but|rather|instead|over|is|are|was|were|would|has"
    r"|daily|explanation|rationale|reason|confidence)\b(?!-))"
)  # scoped (?i:): ignoring case in a pattern with the range of Chinese characters takes 20 ms to compile
_TEXT_FOLLOWS = re.compile(rf"(?!\s?(?i:in|(?:,\s?)?(?:and|or))\b)(?:{_FOLLOWS.pattern})|\s\d")
_POLAR_FOLLOWS = re.compile(r"\s?(?:$|[.,;:!)…。，；！]|\(|[-–—]\s|because\b)", re.IGNORECASE)
_CORRECTED = re.compile(
    r"(?:\s?\([^()]{0,40}\))?(?:\s?(?:->|→)\s?|\s(?:and/)?or\b[\s,]{1,2}(?:[a-z]{2,12}[\s,]{1,2}){0,3})|\s?[(,.…]{1,3}\s?(?:(?:no|or|wait|sorry|rather|actually|perhaps|possibly)\b[\s,]{0,3}){1,3}(?:option\s)?",
    re.IGNORECASE,
)
# What stands after an option and takes it back: "B is wrong", "B (incorrect)", "B only if she is pregnant", B错.
_DISMISSED = re.compile(
    r"[)\].]{0,2}\s?(?:\([^()]{0,80}\)\s)?(?:(?:is|are|was|were|seems|can\sbe|could\sbe)\s(?:(?:also|clearly|therefore|both)\s)?(?:not|wrong|incorrect"
    r"|false|unlikely|excluded|eliminated|less|ruled\sout|out|second|neither|tempting)\b|(?:isn['’]t|aren['’]t|cannot|can['’]t)\b"
    r"|(?:项|选项)?(?:是|都|均)?(?:错|不正确|不对|不是|不选|(?:的)?可能))"
    r"|[)\].]{0,2}\s?[(:,–—-]{1,2}\s?(?:which\sis\s)?(?:clearly\s)?(?:(?:wrong|incorrect|false|contraindicated|unlikely|excluded"
    r"|not\s(?:sure|correct|right|certain|indicated))\b|no[.!]?$)"
    r"|\s(?:only\s)?(?:if|unless|when)\b",
    re.IGNORECASE,
)
# After a letter without a cue before it: "B. The pulse is high" answers, "E. coli grows" does not.
_BARE_FOLLOWS = re.compile(
    r"\s?[.!)\]:。，、]{0,2}\s?$|;|\s?[,;—–-]?\s?(?:because|since)\b"
    r"|[.)]{1,2}\s(?:The|This|It|In|Because|Given|Since|Based|Explanation|Reason|Rationale|As|He|She|Patient|According|Although"
    r"|While|These|There|We|Option)\b"
)
_WORDED_FOLLOWS = re.compile(r"\s?\(|\s(?:rather\sthan|instead\sof)\b|\s?[.!。)](?:\s|$)|\s?[,;—–-]\s|[,，]")
_CLAUSE = re.compile(r"[,;:.，]\s?|\b(?:so|therefore|thus|hence|that|and|option|choice)\s", re.IGNORECASE)
_SET = re.compile(  # "ACD", "acd" at the end, "A C D"
    rf"[A-Z]{{2,26}}(?={_FOLLOWS.pattern})|[a-z]{{2,26}}(?=\s?[.)]?$)|[A-Z](?:\s[A-Z]){{1,25}}(?=\s?(?:$|[.,;)\]}}。，；]))"
)
_GOES_ON = re.compile(r"['’.][^\W\d]|\.\d|\.\s[a-z]")  # "A's", "C. difficile"
_GOLD_SEPARATORS = re.compile(r"[\s,;/&+、，；和]{1,4}|\band\b")
_APPOSED = re.compile(r"(?:,\s(?:option\s)?|\s?[(\[](?:option\s|选项)?)(?P<letter>[A-Z])[)\]]?[.!。]?$", re.IGNORECASE)
_TAIL = re.compile(
    r"(?:\b(?:so|thus|hence|therefore)\b[,:]?(?:\soption)?|(?<=\w\w\w)\s(?:->|→|=>))\s?\(?(?P<letter>[A-Z])\)?[.!。]?$"
)
_WORD_ENDS = re.compile(r"(?!\w|[-.,/]\w)")
_OTHER_WORD = re.compile(r"[\s,/.:]{1,3}(?:yes|no|maybe)\b(?=\s?(?:$|[.,!]))", re.IGNORECASE)
_NAME = re.compile(
    r"(?:hepatitis|vitamin|type|class|group|grade|stage|influenza|factor|protein|point|table|Child-Pugh)[,\s]*$",
    re.IGNORECASE,
)
_OTHER_LETTER = re.compile(r"[B-HJ-Z]\b(?!\s(?:is|are|was|were|can)\b)")
_SET_OFF = re.compile(r"\s?(?:\(|,\soption\s)(?:option\s)?([A-Z])\b\)?", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")
_LABEL = re.compile(r"(?P<letter>[A-Z])[.):]{1,2}\s?(?=\w)")
_SEPARATORS = re.compile(r"[).\]:,、．\s–—(\[-]{0,6}")
_PART = re.compile(rf"[^\W{_CJK}]|-")
_LISTED = re.compile(r"\s*(?:[-*•>]\s+|\d{1,2}[.)]\s+)?")
_SECOND = re.compile(
    r"[)\]]?\s(?:is|are|was|were|has|have|can|acts?|would)\b(?!\s(?:also|too|correct|right|true|both))", re.IGNORECASE
)
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


class _Items(NamedTuple):
    """Letters that are listed (or UNSURE), where the list ends, and whether an option's text stands in it."""

    letters: str
    end: int
    worded: bool


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
        lines = [line for line in place.text.strip("\n").split("\n", 8)[:8] if line.strip()]
        if not lines:
            return None
        if place.subject:
            return self.subject(place.text)
        listed = self.listed(place.text) if len(lines) > 1 else None
        if place.whole:
            return listed if len(lines) > 1 else self.bare(plain(lines[0]))
        return listed or self.stated(plain(lines[0]))

    def listed(self, text: str) -> str | None:
        """The letters of lines that each hold an item and nothing else, up to an empty line."""
        letters = ""
        block = text.strip("\n").split("\n\n")[0]
        for line in block.split("\n"):
            start = _LISTED.match(line)
            line = plain(line[start.end() if start else 0 :])
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
        either = _EITHER.match(text)
        position = self.start(text, either.end() if either else 0)
        if _NOT.match(text, position) and not self.option_at(text, position):
            turn = None if _NO_TURN.match(text, position) else _TURN.search(text, position)
            return self.stated(text[turn.end() :]) if turn else None
        found = self.items(text, position)
        if found is not None:
            return UNSURE if either else found.letters
        sentence = first_sentence(text)
        return self.contained(sentence) or self.apposed(sentence) or self.tail(sentence)

    def items(self, text: str, position: int) -> _Items | None:
        """The letters listed at `position`."""
        letters, unsure, worded, end = "", False, False, position
        while len(letters) <= len(self.table):
            item = self.item(text, position)
            if item is None or (letters and _SECOND.match(text, item[1])):
                break
            letters, end = letters + item[0], item[1]
            worded = worded or end > position + len(item[0])
            between = _BETWEEN.match(text, end)
            if not between:
                break
            position = between.end()
            if _OTHER_LETTER.match(text, position) and self.item(text, position) is None:
                return None  # "B and T cells"
            if _ALTERNATIVE.search(between.group()) and re.match(r"\w", text[position:]):
                unsure = True
        if not letters or _DISMISSED.match(text, end):
            return None
        other = _CORRECTED.match(text, end)
        unsure = unsure or UNSURE in letters or bool(other and self.item(text, other.end()))
        return _Items(UNSURE if unsure else letters, end, worded)

    def item(self, text: str, position: int) -> tuple[str, int] | None:
        """The letter or letters named at `position` and where they end; None where no option is named."""
        at = self.option_at(text, position)
        if at is not None:
            option, end = at
            set_off = _SET_OFF.match(text, end)
            if set_off and set_off[1].upper() in self.table:
                return (option if set_off[1].upper() == option else UNSURE), set_off.end()
            return option, end
        label = _LABEL.match(text, position)
        if label and label["letter"] not in self.table:
            return self.option_at(text, label.end())  # "D. maybe", where the options end with C
        several = _SET.match(text, position)
        letters = _set_of(several.group().replace(" ", "").upper(), self.table) if several else None
        if several and letters:
            return letters, several.end()
        letter, after = text[position : position + 1].upper(), position + 1
        if letter in self.table:
            own = self.own_text(text, after, letter)
            if own is None:
                return UNSURE, after
            if own > after or (_FOLLOWS.match(text, after) and not _GOES_ON.match(text, after)):
                return letter, own
        return None

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
        """Whether an option's text can end here."""
        follows = _POLAR_FOLLOWS if phrase in _POLAR else _TEXT_FOLLOWS
        return bool(follows.match(text, end)) or self.listed_after(text, end)

    def listed_after(self, text: str, end: int) -> bool:
        """Whether "and" or the like and another item follow."""
        between = _BETWEEN.match(text, end)
        return bool(between and self.item(text, between.end()))

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
        before = sentence[:start].rstrip(" (*")
        first = sentence[start : start + 1]
        named = not before or first.isupper() or not first.isalpha() or _CLOSED.search(before)
        taken_back = _NEGATED.search(before) or _DISMISSED.match(sentence, end)
        return self.phrases[lowered[start:end]] if named and not taken_back else None

    def apposed(self, sentence: str) -> str | None:
        """The letter set off at the end of the sentence: "the beta blocker (B)", "a beta blocker, B"."""
        sentence = sentence.rstrip(". ")
        found = _APPOSED.search(sentence[-80:])
        if found and _NAME.search(sentence[-80:], 0, found.start()):
            return None  # "hepatitis (B)"
        letter = found["letter"].upper() if found else ""
        return letter if letter in self.table and not _NEGATED.search(sentence) else None

    def tail(self, line: str) -> str | None:
        """The letter at the end of "..., so B", "... is wrong → B"."""
        found = _TAIL.search(line[-80:])
        return found["letter"] if found and found["letter"] in self.table else None

    def bare(self, line: str) -> str | None:
        """The answer of a line that is an answer by itself; a reason or another sentence may follow it."""
        bullet = _BULLET.match(line)
        line = line[bullet.end() if bullet else 0 :]
        position = self.start(line)
        if _HEDGED.search(line, 0, position):
            return self.tail(line)
        if _NOT.match(line, position) and not self.option_at(line, position):
            return self.stated(line) if _TURN.search(line) else None
        found = self.items(line, position)
        if found is None:
            sentence = first_sentence(line)
            return self.tail(line) or (self.apposed(line) if sentence == line.rstrip(".!。") else None)
        if _POLAR & self.phrases.keys() and _OTHER_WORD.match(line, found.end):
            return UNSURE
        rest = line[found.end :]
        follows = _BARE_FOLLOWS.match(rest) or (found.worded and _WORDED_FOLLOWS.match(rest))
        return found.letters if follows or self.resembled(rest) == found.letters else None

    def resembled(self, words: str) -> str | None:
        """The option that the words after a label are, misspelt or shortened ("D. Somatostatin secretion" for excessive
        somatostatin secretion); None where they are like another one too, or a sentence."""
        label = _SEPARATORS.match(words)
        if not label or not label.group().strip() or not words[label.end() :][:1].isupper():
            return None
        words = words[label.end() :][:200].lower().rstrip(" .")
        likeness = {
            letter: SequenceMatcher(None, words, option[:200].lower(), autojunk=False).ratio()
            for letter, option in self.table.items()
        }
        best = max(likeness, key=likeness.__getitem__)
        second = max((ratio for letter, ratio in likeness.items() if letter != best), default=0.0)
        option = self.table[best]
        alike = likeness[best] >= max(0.6, second + 0.05) and _DIGITS.findall(words) == _DIGITS.findall(option)
        return best if alike and len(words.split()) <= len(option.split()) else None

    def subject(self, text: str) -> str | None:
        """What "is correct" is said of: the items that end the text, after a clause of something else or none."""
        text = plain(text)
        for start in [0, *(clause.end() for clause in _CLAUSE.finditer(text))]:
            found = self.items(text, self.start(text, start))
            if found and not text[found.end :].strip(" ,.)]"):
                return found.letters
        return None


@lru_cache(maxsize=256)
def _reading(options: tuple[tuple[str, str], ...]) -> _Reading:
    table = {letter: " ".join(plain(option).rstrip(". ").split()) for letter, option in options}
    return _Reading(table or dict.fromkeys(_DEFAULT_LETTERS, ""))
