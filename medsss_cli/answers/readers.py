"""Where a written answer states its answer: an ordered table of small readers. docs/answers.md shows what each reads.

All read one normalised text (`normalised`): no markup, plain ASCII marks, and what a box, a tag or JSON holds between
marks of its own. A *place* begins after a cue ("the answer is"), ends before one ("is correct"), or is a line. A place
is passed over where its sentence asserts nothing (`asserted`: a condition, a denial, a question), and counts as
doubtful where the next sentence takes it back. What stands at a place is read by choice.py, number.py and text.py.
Every quantifier is bounded, and of each reader the last 64 places are kept, so that no input is slow: a policy in a
loop writes "The answer is The answer is ..." to the end of its budget.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import NamedTuple


def cue(pattern: str) -> re.Pattern[str]:
    """A pattern in either case."""
    return re.compile(pattern, re.IGNORECASE)


UNSURE = "?"
"""What is read at a place that names several answers, or takes its answer back: then there is no answer."""

MOST_PLACES = 64
LONGEST = 400


class Place(NamedTuple):
    """A place where an answer stands.

    `text` is what stands there, at most 400 normalised characters; `at` where it begins; `whole`, that it must be an
    answer by itself; `subject`, that it must end with the answer; `stated`, that it overrides weak places; `withdrawn`,
    that it is taken back in the next sentence; `early`, that sentences follow which conclude nothing.
    """

    text: str
    at: int
    whole: bool = False
    subject: bool = False
    stated: bool = True
    withdrawn: bool = False
    early: bool = False


Reader = Callable[[str], list[Place]]


# One way of writing an answer

_TAG = cue(r"<((?:final_?)?answer|choice)(?:\s[^<>\n]{0,40})?>([^<]{0,400})</\1>")
_JSON = re.compile(
    r"""["'](?:final_?|correct_?|best_?)?(?:answer|choice|option)(?:_?(?:choice|letter|option|s))?["']\s{0,4}:\s{0,4}"""
    r"""(?:"((?:[^"\\\n]|\\.){1,400})"|'([^'\n]{1,400})'|\[([^\[\]\n]{1,200})\]|(-?[\d.]{1,30})(?=[\s,}]))""",
    re.IGNORECASE,
)
_BRACES = re.compile(r"\\[dt]?frac\s?\{(\d{1,9})\}\s?\{(\d{1,9})\}|\^\s?\{([-+−]?\d{1,3})\}")
_WRAPPED = re.compile(
    r"\\(?:(f?boxed)|text|mathrm|mathit|mathbf|mathsf)(?:bf|rm|it|sf|tt|sl|sc|normal)?\s?\{([^{}]{0,400})\}"
)
_MARKUP = re.compile(
    r"\\[()\[\],;! ]|\\(?=%)|[_`$\"“”‘✅✔]|(?<!\d)\*|\*(?!\d)|</?(?:b|i|em|strong)>"
    r"|(?<!\w)['’](?=\w)|(?<=[A-Za-z])['’](?!\w)"
)
_SPACES = re.compile(r"[^\S\n]+")
_GROUPED = re.compile(r"(?<=\d)(?:[\u00a0\u2009\u202f]|\{,\}|\\[,;: ])(?=\d{3}(?!\d))")
_JOINED = cue(r"⟫([\s.,]{0,4}\b(?:or|and)\b\s?|\s?[或和]\s?|[ ,;]{0,4})⟪boxed ")
# Full-width forms of Chinese text, as ASCII. Those that end a sentence stay: ASCII ones need a space after them.
_NARROW = {0xFF00 + code - 0x20: code for code in (*range(0x30, 0x3A), *range(0x41, 0x5B), *range(0x61, 0x7B))} | {
    ord(wide): narrow for wide, narrow in zip("（）：，．【】％－＝＋／", "():,.[]%-=+/", strict=True)
}


def normalised(text: str) -> str:
    """What all readers read: `plain` text without the thought, what a box, a tag or JSON holds as "⟪boxed B⟫"."""
    text = _TAG.sub(r"⟦tag \2⟧", after_thought(text))
    text = _JSON.sub(lambda found: f"⟦json {found[found.lastindex or 0]}⟧".replace("\\\\", "\\"), text)
    return _JOINED.sub(r"\1", plain(text))


def plain(text: str) -> str:
    """`text` without bold, quotes and LaTeX wrapping, full-width forms as ASCII, spaces as single ones. Thin spaces
    that group digits become commas."""
    text = _GROUPED.sub(",", text.translate(_NARROW))
    if "\\" in text or "^" in text:
        text = _BRACES.sub(lambda found: f"^{found[3]}" if found[3] else f" {found[1]}/{found[2]}", text)
        for _ in range(3):
            text = _WRAPPED.sub(lambda found: f"⟪boxed {found[2]}⟫" if found[1] else found[2], text)
    return _SPACES.sub(" ", _MARKUP.sub("", text)).strip()


_SENTENCE_BREAK = re.compile(r"(?<=[.!?;…])[\s)]{0,4}\s(?=[^a-z\s])|[\n。！？；]|\.\.\.\s?|;\s")
_SENTENCE_END = re.compile(r"(?<!\b\w)[.!?;…](?=\s|$)|(?<=\.\.)\.|[。！？；]|\n")


_QUESTION = re.compile(r"(?<!\w[.!])[.!?;](?=\s|$)|[。！？；\n]|吗")


def first_sentence(text: str) -> str:
    """`text` up to the first end of a sentence."""
    end = _SENTENCE_END.search(text)
    return text[: end.start()] if end else text


def after_thought(text: str) -> str:
    """`text` without the model's thought: what stands after the last `</think>`, up to a thought that is cut off."""
    for name in ("think", "thinking"):
        text = text.rpartition(f"</{name}>")[2].partition(f"<{name}>")[0]
    return text


# What makes a statement none: said of another case, by others, as a question, or taken back

_ELSEWHERE = cue(  # of the whole sentence: another case, another time, other people
    r"\b(?:if|unless|(?<!question )(?<!question of )whether|suppose|assuming|(?<!is )(?<!['’]s )why|mistake"
    r"|tempt\w{0,5}|initially|originally|at first|I first|(?:I|he|she|we|one) thought"
    r"|(?:one|which|any|each) of the (?:following|options)|(?:one|you|some|others?|many|most|people|students?"
    r"|examiners?) (?:\w{1,12} )?(?:may|might|could|would|will|say|thinks?|choose|wants?)|not (?:sure|certain)"
    r"|un(?:sure|certain|clear)|(?<!no )(?<!without )(?<!a )doubt)\b"
    r"|如果|假如|若是|很多|有人|有些|为什么|不认为|不确定|是否|难道"
)
_ON_THE_OTHER_HAND = cue(r"\b(?:but|however|so|therefore|thus|hence)\b[^.]{0,60}$|但|所以|因此")
_NEW_CLAUSE = re.compile(
    r"[.!?;:。！？；，,\n](?=\s|[\u3400-\u9fff]|$)|\b(?i:so|therefore|thus|hence|but|because|although)\b|所以|因此|但"
)
_DENIED = cue(  # of the clause
    r"\b(?:not|cannot|never|nobody|hardly|unlikely|could|might|may|perhaps|maybe|possibly)\b|n['’]t\b|不|非|可能(?=是|选)"
    r"|\b(?:wrong|incorrect|second(?:[ -]best)?|other|another|alternative|worst|least(?: \w{1,12})?|next|previous"
    r"|false|his|her|their|your|student['’]s|whose) $"
)
_WITHDRAWN = cue(
    r"(?:[^\n]{0,120}?[.!?…]\s{0,2})?[^\w]{0,8}(?:(?:but|no|wait|hmm|oh|sorry|actually|hold on)\b[\s,.!…]{0,4}){0,4}"
    r"(?:(?:that|this|it)(?:['’]s| is| was| must be)|is) (?:clearly |definitely )?"
    r"(?:wrong|incorrect|not (?:right|correct)|a mistake|tempting|not the answer)(?! (?:to|that|for)\b)"
    r"|[^\n]{0,120}?(?:\b(?:am|['’]m|be|are) (?:not (?:\w{1,12} |100 ?% )?(?:sure|certain|confident)|unsure|uncertain"
    r"|guessing)\b|\bnot (?:\w{1,12} )?(?:sure|certain) (?:about|of)\b|\bI (?:don['’]t|do not) know\b"
    r"|\b(?:just|only|but|is|it['’]s|though) (?:a|my) (?:\w{1,10} )?guess\b|\bcould be wrong\b"
    r"|不(?:太|大|能|敢)?(?:确定|肯定))"
)


def asserted(text: str, start: int, end: int) -> bool:
    """Whether the words of the sentence before `start` let what follows it (to `end`) be an assertion: no condition,
    no denial ("I don't think the answer is"), nobody else's opinion, no question."""
    sentence = _SENTENCE_BREAK.split(text[max(start - 160, 0) : start] + "X")[-1][:-1]
    if _DENIED.search(_NEW_CLAUSE.split(sentence)[-1]):
        return False
    elsewhere = _ELSEWHERE.search(sentence)
    if elsewhere and not _ON_THE_OTHER_HAND.search(sentence, elsewhere.end()):
        return False
    stop = _QUESTION.search(text, end, end + LONGEST)
    return not (stop and stop.group() in "?？吗")


def _withdrawn(text: str, end: int) -> bool:
    """Whether the statement that begins at `end` is taken back or doubted: "The answer is B. No, that is wrong.", "The
    answer is B, but I'm not sure."."""
    return bool(_WITHDRAWN.match(text, end, end + LONGEST))


_NOT = cue(r"(?:not|neither|never|unlikely|cannot|anything but|all but|everything except|none)\b|不[是为选]?|并非|既不")
_INSTEAD = cue(
    r"(?<!anything )(?<!all )\b(?:but|rather|so)\b(?: it)?(?: is\b)?|[;,] it(?:['’]s| is)\b|(?:而|[，,])[是为选]"
)


def instead(text: str) -> str | None:
    """What a text says that begins with a denial: "B" of "not A but B", nothing of "not A"; None without a denial."""
    if not _NOT.match(text):
        return None
    turn = _INSTEAD.search(text)
    return text[turn.end() :].strip() if turn else ""


# The readers


def _last_of(cue: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The last 64 matches, in order."""
    return list(deque(cue.finditer(text), maxlen=MOST_PLACES))


_INSIDE = cue(r"(?P<denied>\bnot[\s:]{0,4})?[⟪⟦](?P<kind>boxed|tag|json) (?P<text>[^⟪⟫⟦⟧]{0,400})[⟫⟧]")
_CUT = cue(r"[⟪⟦]|\\f?boxed|<(?:final_)?answer")


def _inside(text: str, kind: str) -> list[Place]:
    return [
        Place(found["text"], found.start("text"), withdrawn=_withdrawn(text, found.end()))
        for found in _last_of(_INSIDE, text)
        if found["kind"] == kind and not found["denied"]
    ]


def boxed(text: str) -> list[Place]:
    """`\\boxed{X}`; two that are joined by "or" are one place, of two answers. A box that is not closed is none."""
    return _inside(text, "boxed")


def tag(text: str) -> list[Place]:
    """`<answer>X</answer>`, `<final_answer>X</final_answer>`; one that is not closed is cut off."""
    return _inside(text, "tag")


def json(text: str) -> list[Place]:
    """`{"answer": "X"}`, `{"answer_choice": "X"}`, `{"answer": ["X", "Y"]}`, in a longer text too."""
    return _inside(text, "json")


_ANSWER = cue(
    r"(?:(?:答案|正确的?选项|(?:合适|最佳|正确|恰当)的?(?:选择|选项|答案)|结果)\]?\s?"
    r"(?:(?:应该|应当|大约|约)?[是为选]|应[是为选]|(?=不[是为选]|并非|:|[(\[]{0,3}[A-Z]))"
    r"|(?:故|因此|所以|因而|综上所述|综上|本题|此题|我|应该|应当|应),?(?:本题|此题|正确|答案)?(?:应该|应当|应)?选(?!项)"
    r"|(?:应该是|应为)(?=\s?\(?[A-Z])|(?<![\u3400-\u9fff])选(?=择?[:\s]{0,2}[(\[]?[A-Z](?!项)))(?:择|项)?[:\s]{0,6}"
    r"|\b(?:answers?|ans(?=\s?[:.=]|[\s-]\(?[A-Z]\b)|(?:correct|best|right|final|my)\s(?:option|choice|selection)s?)"
    r"(?:\s(?:choice|option)\b)?(?:\s(?:to|for|of|in|here)\b[^.:\n]{0,160}?|,\s[^.,:\n]{0,60},)?[)\s]{0,3}"
    r"(?:\b(?:is|are|would be|should be|must be|will be|has to be)\b[:\s]{0,6}|[:=]\s{0,6}|(?<=\bans)[.\s-]\s{0,3}"
    r"|(?<=[ \t])[-–—]\s{1,3}|(?<=nswer\n)\s{0,3}|(?<=nswer\n\n))"
)
_CHOICE = cue(
    r"\b(?:I|we|you)(?: (?:can|would|will|should|must|therefore|thus|(?:would )?(?:have|need) to)|['’](?:d|ll))?"
    r"(?: am going| go(?= with))? ?(?:choose|pick|select|say|recommend|opt for|with|go with)\b"
    r"(?! (?:the )?(?:between|one|from))"
    r"|(?:^|(?<=[.!?:\n]\s)|\n)(?:choose|pick|select|go with)\b(?= (?:the )?(?:(?:option|choice|answer) )?\(?[A-Z]\b)"
    r"|\bI (?:think|believe) (?:that )?it is\b|\bI am going with\b"
    r"|(?:^|\n)[\s#>]{0,6}(?:(?:selected )?(?:choice|option|answer)|conclusion|selection|(?:my )?pick"
    r"|(?:most likely |final )?diagnosis|(?:final )?decision|result) ?:"
    r"|(?:^|\n)#{3,4}\s(?=\(?[A-Z\d.-]{1,12}[).]{0,3}\s*$)"
)


def statement(text: str, *cues: re.Pattern[str]) -> list[Place]:
    """ "The answer is X", "**Answer:** X", "Final answer: X", "I choose X", 答案是X, 故选X. One that is hedged, denied
    or a question is passed over; so is one in a word ("<answer>")."""
    places: list[Place] = []
    for found in (found for cue in cues or (_ANSWER, _CHOICE) for found in _last_of(cue, text)):
        start, end = found.span()
        if asserted(text, start, end):
            dash = "—" if found.group().rstrip()[-1:] in {"-", "–", "—"} else ""  # "Answer - 2": a dash or a minus?
            places.append(Place(dash + text[end : end + LONGEST], end, withdrawn=_withdrawn(text, end)))
    return sorted(places, key=lambda place: place.at)


_MOST = "most (?:likely|appropriate|probable|suitable)"
_RIGHT = cue(
    r"\s(?:is|are|must be|would be|seems) (?:(?:therefore|thus|clearly|both|also|indeed|hence|all) )?"
    r"(?:(?:the|our|my|a) )?(?:(?:correct|right)(?=\s?(?:[.;,!)\n]|$|(?:because|since|as|here)\b))"
    rf"|(?:single |only )?(?:(?:best|better|correct|right|{_MOST}) )?"
    r"(?:answers?|choices?|options?|one(?! (?:of|possible|option|choice)\b))\b"
    rf"|{_MOST}(?=\s?(?:[.;]|$|\n))"
    rf"|(?:{_MOST}|best) (?:[\w-]{{1,20}} ){{1,3}}(?=(?:for|in) this (?:patient|case|man|woman|child|setting)\b)"
    rf"|(?:{_MOST}|best|first-line|preferred) (?:cause|organism|pathogen|diagnosis|agent|explanation|treatment|therapy"
    r"|drug|test|next step|step|management|initial \w{1,12})\b"
    r"|(?:drug|treatment|test|agent) of choice\b(?! for (?!this)))"
    r"|(?:选项|项)?(?:是|都|均)?(?:正确|对的|最佳|最合适|最恰当|最符合题意)"
)
_TURN = cue(
    r"\b(?:actually|(?<!all )(?<!anything )(?<!everything )but|however|wait|no|rather|instead|correction)\b[,:]?"
)
_ONLY_IF = cue(r"[\s,]{0,2}(?:in (?!this|our|the given|(?:the |his |her )?management\b)|only|if|unless|when|of many)")


def correct(text: str) -> list[Place]:
    """What "is correct", "is the best choice" or 正确 is said of: "Option B (Metoprolol)"."""
    places: list[Place] = []
    for found in _last_of(_RIGHT, text):
        if _ONLY_IF.match(text, found.end()):
            continue
        before = text[max(found.start() - 200, 0) : found.start()]
        sentence = _SENTENCE_BREAK.split(before)[-1]
        subject = _TURN.split(sentence)[-1]
        at = found.start() - len(subject)
        lead = re.match(r"(?:.{0,160}[,;:]\s|.{0,160}\b(?:so|therefore|thus|hence|that)\b)?[\s(]*", subject)
        if not asserted(text, at + (lead.end() if lead else 0), found.end()):
            continue
        turned = subject != sentence
        places.append(Place(subject, at, subject=True, stated=turned, withdrawn=_withdrawn(text, found.end())))
    return [*places, *_marked(text)]


_MARK = cue(
    r"(?:^|\n)[\s#>-]{0,6}(?:\d{1,2}\. )?(?:option )?\(?(?P<letter>[A-Z])[.):][^\n]{0,120}?[-–—:→|]\s{1,4}"
    r"(?:(?:this|it) is )?(?:the )?(?:(?P<right>(?:correct|right|best)(?: (?:answer|choice|option))?)"
    r"|(?:incorrect|wrong|not (?:correct|right)))(?=\s?(?:[.,;:!)|–—]|\n|$|because\b))"
)


def _marked(text: str) -> list[Place]:
    """The options that a list marks: "A. Aspirin - incorrect", a line for each. Where more are called correct than not,
    the question may have asked for the wrong one."""
    marks = _last_of(_MARK, text)
    right = [mark["letter"] for mark in marks if mark["right"]]
    if not 0 < len(right) <= len(marks) - len(right):
        return []
    return [Place(", ".join(right), marks[0].start(), whole=True, stated=False)]


_LISTED = re.compile(r"\W{0,6}(?:[A-Z][.):、]|[a-z][.)]\s)")


def lines_of(text: str) -> list[str]:
    """The lines that hold a letter or a digit."""
    return [line for line in text.split("\n") if any(c.isalnum() for c in line)]


def first_line(text: str) -> list[Place]:
    """The first line with a word on it; all lines where it begins a list ("B. ...", "D. ...")."""
    lines = lines_of(text[:4_000])
    if _both_listed(lines[:2]):
        return [Place(text.strip()[:LONGEST], 0, whole=True, stated=False)]
    if len(lines) > 1 and re.search("[=≈]", lines[0]):
        return []
    return [Place(line[:LONGEST], 0, whole=True, stated=False) for line in lines[:1] if not _CUT.search(line)]


_CONCLUSION = re.compile(
    r"(?:^|(?<=[\s(,;，]))(?:(?P<finding>(?:the|a|her|his) (?:[\w-]{1,20} ){0,3}?(?:most|best|correct|right|first-line"
    r"|underlying|causative|likely|first(?= step))\b[^.:;=\n]{0,60}? (?:is|are|would be|should be)"
    r"|the (?:appropriate |maintenance |recommended |correct ){0,2}(?:diagnosis|dose|organism|pathogen|cause|agent"
    r"|treatment of choice|drug of choice|statement|claim|conclusion|next step) is(?: to(?= \w))?"
    r"|(?:首选|最可能的?|最佳的?)[\u3400-\u9fff]{0,8}[是为])"
    r"|is (?:most )?consistent with|(?:the (?:\w{1,12} ){0,2}\w{1,12}|this|that|it) (?:corresponds to|matches"
    r"|points to)|(?:this|that|it) (?:must be|is)(?: a case of)?|it['’]s|that['’]s"
    r"|(?:strongly|clearly) (?:suggests?|indicates?)(?! that)|(?:that|this|which) leaves(?: us with)?"
    r"|(?:he|she|(?:the|this) patient) (?:(?:most likely|probably|likely) has|needs|requires"
    r"|should (?:be (?:started on|given|treated with)|receive|undergo))(?! ?\d)"
    r"|(?:so(?! (?:is|are|was|does|do)\b)|thus|hence|therefore)(?=[\s,(])|(?<=\w\w\w\s)(?:→|->|=>)"
    r")[\s,]{0,2}(?:(?:therefore|thus|most likely|likely|probably|clearly|hence|indeed)\s){0,2}",
    re.IGNORECASE | re.MULTILINE,
)
_HOWEVER = re.compile(r",\s(?:but|although)\s(?!not)")
_NOT_FINAL = cue(r"\b(?:least|second|less|other|another|alternative|worst|next most|current|previous)\b")


_TURNED = cue(r"(?:[.!?…]\s{1,2}|\n)(?:but|however|wait|actually|hmm|no|on the (?:other|second))\b")
_LAST_BREAK = re.compile(rf"(?<!\b[A-Z]\.)(?:{_SENTENCE_BREAK.pattern})|\n")  # none after "consistent with B."


def conclusion(text: str) -> list[Place]:
    """What the last sentence concludes: "The most likely organism is X", "This is X", "so X". Without that, what is
    found to be the most likely (or the best, or the diagnosis) in a sentence before."""
    tail = text[-4_000:].rstrip("。！？； \n")
    offset = len(text) - len(text[-4_000:])
    last = max((end.end() for end in _LAST_BREAK.finditer(tail)), default=0)
    if _CUT.search(tail, last):
        return []
    for found in reversed(_last_of(_CONCLUSION, tail)):
        start, stop = found.start() + offset, found.end() + offset
        rest = text[stop : stop + LONGEST].partition("\n")[0]
        early = found.start() < last
        if early and (not found["finding"] or _TURNED.search(text, stop)):
            continue
        if not _NOT_FINAL.search(found.group()) and not _HOWEVER.search(rest) and asserted(text, start, stop):
            return [Place(rest, stop, stated=False, withdrawn=_withdrawn(text, stop), early=early)]
    return []


_REMARK = cue(r"\s*(?:this|that|it)(?: (?:value|result))? (?:is|lies|falls) (?:with)?in the (?:\w{1,12} )?range\b")


def last_line(text: str) -> list[Place]:
    """The last line with a word on it, but for a remark on a number ("This is within the normal range")."""
    lines = lines_of(text[-4_000:])
    if len(lines) > 1 and _REMARK.match(lines[-1]):
        lines = lines[:-1]
    if not lines or _CUT.search(lines[-1]) or _both_listed(lines[-2:]):
        return []
    return [Place(lines[-1][-LONGEST:], text.rfind(lines[-1]), whole=True, stated=False)]


def _both_listed(lines: list[str]) -> bool:
    """Whether the two lines are items of a list."""
    return len(lines) == 2 and all(_LISTED.match(line) for line in lines)


READERS: dict[str, Reader] = {
    reader.__name__: reader
    for reader in (boxed, tag, json, statement, correct, first_line, conclusion, last_line)
}  # fmt: skip


# What follows "the answer is" where nothing is stated yet.
_NOTHING = cue(
    r"(?:not|neither|never|unclear|unknown|uncertain|found|given|obtained|computed|calculated|determined|based"
    r"|one\sof|to\sbe|that|what|which|therefore\snot)\b|不[是为选]|并非"
)


def states_answer(text: str) -> bool:
    """Whether the step says its answer ("The answer is B"), readable or not. "The answer is not A" does not."""
    text = normalised(text)
    places = [*boxed(text), *tag(text), *json(text), *statement(text, _ANSWER)]
    lines = (place.text.lstrip().partition("\n")[0] for place in places)
    return any(any(c.isalnum() for c in line) and not _NOTHING.match(line.lstrip("( ")) for line in lines)
