"""Records as text for a terminal or a pipe.

Every line is cut to the width here, so that nothing is left for the terminal to wrap. What a record says goes through
`clean` and is never read as markup: no record can move the cursor, change a colour or write a line of its own.

Colour is for one thing: what became of a step or an answer (✓ ✗ ? · ↺ ○). Values and labels are plain numbers, for a
label of 1 on the way to a wrong answer is nothing green.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile, zip_longest
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..console import printable
from ..prompts import question_text
from ..records import Action, Candidate, Message, Preference, Prm, Problem, Samples, Scored, Sft, Tree, Verdict
from .model import OPEN, REFLECT, Step, answers_of, best_and_worst, contrast, paths, states, steps_of, votes, written

_OPTION, _IN_TREE, _WHOLE = 3, 2, 40
"""Lines of an option, of a step in a tree, of a step that is shown whole; with `full` there is no such limit."""
_GUIDES = 16
"""Cells of a tree's guides. Below level 8 a step goes no further to the right: the number before it tells its level."""

_OTHER_SPACE = re.compile(r"[^\S\n]")
_BARS = "▁▂▃▄▅▆▇█"
_MARKS = {
    Verdict.CORRECT: ("✓", "bold green"),
    Verdict.WRONG: ("✗", "bold red"),
    Verdict.NO_ANSWER: ("?", "bold yellow"),
    Verdict.NOT_JUDGED: ("·", "dim"),
    REFLECT: ("↺", "bold magenta"),
    OPEN: ("○", "dim"),
    "": ("", ""),
}
_LEGEND = "✓ correct  ✗ wrong  ? no answer  · not judged  ↺ reflect  ○ left open"
_TO_THE_LEFT = ("", "state", "answer")
"""Heads of columns that stand to the left; the other columns but the last are numbers, to the right."""


class Look(NamedTuple):
    """How to draw: the width in cells; `full` leaves no text out."""

    width: int = 80
    full: bool = False


class Row(NamedTuple):
    """A row of a table: its cells, and the text of the last column, which wraps: its first line goes after `guide`, the
    others after `under`, as wide."""

    cells: Sequence[str | Text]
    text: str
    guide: str = ""
    under: str = ""
    style: str = ""


def show(record: Problem, console: Console, *, full: bool = False) -> None:
    """Print a record, as wide as the console."""
    for line in draw(record, Look(console.width, full)):
        line.truncate(console.width)
        line.rstrip()
        console.print(line, no_wrap=True, markup=False, highlight=False, emoji=False)


def draw(record: Problem, look: Look) -> Iterator[Text]:
    """The lines of a record."""
    yield from _heading(record, look)
    match record:
        case Tree():
            yield from _tree(record, look)
        case Samples() | Scored():
            yield from _answers(record, look)
        case Prm():
            yield from _title(f"trajectory of {len(record.completions)} steps", look)
            steps = enumerate(zip_longest(record.completions, record.labels, record.values))
            rows = [Row([str(k), _label(label), _share(value)], text or "") for k, (text, label, value) in steps]
            yield from _table(("step", "label", "value", ""), rows, look, _WHOLE)
        case Sft():
            yield from _title(f"answer to learn, smallest value {record.min_value:.2f}", look)
            yield from _turns(record.prompt, record, look)
            yield from _steps(written(record.completion), look)
        case Preference():
            yield from _preference(record, look)


# Text


def clean(text: str) -> str:
    """`text` with control characters made visible; every white space but line feeds is a blank."""
    return printable(_OTHER_SPACE.sub(" ", text.replace("\r\n", "\n")))


def one_line(text: str, width: int) -> str:
    """The text on one line of at most `width` cells, with an ellipsis where it was cut."""
    return wrap(" ".join(clean(text[: 8 * width]).split()), width, most=1)[0]


def wrap(text: str, width: int, most: int | None = None) -> list[str]:
    """The text in lines of at most `width` cells, one or more; words that are longer are cut. Of more than `most` lines
    the first are kept, the last of them with an ellipsis."""
    kept = text if most is None else text[: 4 * most * width]
    lines = Text(clean(kept).strip("\n")).wrap(Console(width=width, file=io.StringIO()), width, overflow="fold")
    found = [line.plain.rstrip() for line in lines] or [""]
    if most is not None and (len(found) > most or len(kept) < len(text)):
        last = Text(found[:most][-1])
        last.truncate(width - 1)
        found[most - 1 :] = [last.plain.rstrip() + "…"]
    return found


def _table(heads: Sequence[str], rows: Sequence[Row], look: Look, most: int | None) -> Iterator[Text]:
    """Lines of a table, its heads over their columns; the last column takes the width that is left."""
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row.cells] for row in rows]
    widths = [max(cell_len(head), *(row[i].cell_len for row in cells), 0) for i, head in enumerate(heads[:-1])]
    lefts = [head in _TO_THE_LEFT for head in heads]

    def line(cells: Sequence[Text], last: Text) -> Text:
        for cell, width, left in zip(cells, widths, lefts, strict=False):
            cell.align("left" if left else "right", width)
        return Text("  ").join([*cells, last])

    if any(heads):
        yield line([Text(head, "dim") for head in heads[:-1]], Text(heads[-1], "dim"))
    lead = sum(widths) + 2 * len(widths)
    for row, own in zip(rows, cells, strict=True):
        room = max(look.width - lead - cell_len(row.guide), 8)
        first, *further = wrap(row.text, room, None if look.full else most)
        yield line(own, Text.assemble((row.guide, "dim"), (first, row.style)))
        for more in further:
            yield Text.assemble(" " * lead, (row.under, "dim"), (more, row.style))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _label(value: float | None) -> str:
    """A label: 0 and 1 as they are, a share with two digits."""
    return f"{value:.0f}" if value in (0.0, 1.0) else _share(value)


def _bar(value: float, before: str = "") -> str:
    return before + _BARS[min(int(max(value, 0.0) * len(_BARS)), len(_BARS) - 1)]


def _state(state: str, answer: str | None = None, width: int = 12) -> Text:
    """The mark, and the answer in the mark's colour."""
    mark, style = _MARKS[state]
    return Text(mark if answer is None else f"{mark} {one_line(answer, width)}", style)


def _title(text: str, look: Look, note: str = "") -> Iterator[Text]:
    yield Text()
    yield Text(one_line(text, look.width), "bold")
    for line in wrap(note, look.width) if note else ():
        yield Text(line, "dim")


# Records


def _heading(record: Problem, look: Look) -> Iterator[Text]:
    """Id, data set and task; the question; the options, the right one marked."""
    kind = type(record).__name__.lower()
    yield Text(one_line(f"━━ {kind} {record.id}", look.width), "bold cyan")
    yield Text(one_line(f"{record.dataset} · {record.task} · gold {record.answer}", look.width), "dim")
    yield Text()
    yield from _table([""], [Row([], record.question)], look, _WHOLE)
    if question_text(record) == record.question.strip():
        return
    rows = []
    for letter, text in (record.options or {}).items():
        right = letter in record.answer
        style = "green" if right else ""
        rows.append(Row([Text(f"{'▸' if right else ' '} {one_line(letter, 8)}", style)], text, style=style))
    yield from _table(["", ""], rows, look, _OPTION)


def _tree(tree: Tree, look: Look) -> Iterator[Text]:
    found = paths(tree)
    finishes = [node.verdict for node in tree.nodes if node.action is Action.FINISH]
    counts = [f"{finishes.count(v)} {v.replace('_', ' ')}" for v in Verdict if v in finishes]
    yield from _title(f"tree: nodes {len(tree.nodes)}, answers {len(finishes)}", look, ", ".join(counts))
    rated = any(node.rollout_value is not None for node in tree.nodes)
    visited = any(node.visits for node in tree.nodes)
    state = states(tree)
    rows = []
    for index, guide, under in _walk(tree):
        node = tree.nodes[index]
        cells: list[str | Text] = [_bar(node.value, f"{node.value:.2f}")]
        cells += [*([_share(node.rollout_value)] if rated else []), *([str(node.visits)] if visited else [])]
        cells.append(_state(state[index], node.answer, look.width // 8))
        text = node.text if look.full else " ".join(node.text.split())
        number = f"{node.depth} "
        rows.append(Row(cells, text, guide + number, under + " " * len(number)))
    heads = ["value", *(["roll"] if rated else []), *(["visits"] if visited else []), "state", "step"]
    yield from _table(heads, rows, look, _IN_TREE)
    yield Text(one_line(_LEGEND, look.width), "dim")
    for path, name in zip(best_and_worst(found), ("best", "worst"), strict=False):
        verdict = "correct" if path.correct else "wrong"
        title = f"{name} trajectory: {verdict}, smallest value {path.min_value:.2f}"
        yield from _title(title, look, f"nodes {' '.join(map(str, path.nodes))}")
        rows = []
        for index, label, value in zip(path.nodes, path.labels, path.values, strict=True):
            cells = [str(tree.nodes[index].depth), _label(label), _share(value), _state(state[index])]
            rows.append(Row(cells, tree.nodes[index].text))
        yield from _table(["step", "label", "value", "", ""], rows, look, _WHOLE)
    if not found:
        yield from _title("no trajectory: no answer was judged", look)


def _walk(tree: Tree) -> Iterator[tuple[int, str, str]]:
    """The nodes depth first, each with the guides before its first line and before the others."""
    children: list[list[int]] = [[] for _ in tree.nodes]
    for index, node in enumerate(tree.nodes[1:], start=1):
        children[node.parent].append(index)
    stack = [(0, "", "")]
    while stack:
        index, guide, under = stack.pop()
        yield index, guide, under
        for child in reversed(children[index]):
            last = child == children[index][-1]
            before = under[:_GUIDES]
            stack.append((child, before + ("└╴" if last else "├╴"), before + ("  " if last else "│ ")))


def _answers(record: Samples | Scored, look: Look) -> Iterator[Text]:
    """All answers, a line each; how often each was given; two of them whole."""
    answers = answers_of(record)
    selected = record.selected if isinstance(record, Scored) else None
    if isinstance(record, Scored):
        yield from _title(f"{len(answers)} candidates, selected by {record.strategy}", look)
    else:
        right = sum(each.verdict is Verdict.CORRECT for each in answers)
        yield from _title(f"{len(answers)} answers, {right} correct: pass rate {record.pass_rate:.2f}", look)
    rows = []
    for number, each in enumerate(answers):
        state = _state(each.verdict, each.answer, 16)
        if isinstance(each, Candidate):
            bars = "".join(map(_bar, each.step_scores))
            rows.append(Row([f"{'▸ ' if number == selected else ''}{number}", _share(each.score), state], bars))
        else:
            last = steps_of(each.text)[-1].text if each.text.strip() else "(empty)"
            rows.append(Row([str(number), state], ("(cut off) " if each.finish_reason == "length" else "") + last))
    scored = selected is not None
    heads = ["#", "score", "answer", "scores of its steps"] if scored else ["#", "answer", "last step"]
    yield from _table(heads, rows, look, 1)
    yield Text()
    counted = []
    for vote in votes(record):
        sums = [_share(vote.total), _share(vote.best)] if scored else []
        counted.append(Row([str(vote.n), *sums, _state(vote.verdict)], vote.answer or "(none)"))
    yield from _table(["votes", *(["sum", "best"] if scored else []), "", "answer"], counted, look, 1)
    for number in range(len(answers)) if look.full else contrast(record):
        each = answers[number]
        verdict, scores = each.verdict.replace("_", " "), each.step_scores if isinstance(each, Candidate) else []
        if isinstance(each, Candidate):
            chosen = ", selected" if number == selected else ""
            yield from _title(f"candidate {number}{chosen}: {verdict}, score {each.score:.2f}", look)
        else:
            yield from _title(f"answer {number}: {verdict}, {each.tokens} tokens", look)
        yield from _steps(steps_of(each.text, scores), look)


def _steps(steps: Sequence[Step], look: Look) -> Iterator[Text]:
    scored = any(step.score is not None for step in steps)
    rows = []
    for step in steps:
        score = "" if step.score is None else _bar(step.score, f"{step.score:.2f}")
        rows.append(Row([str(step.number), *([score] if scored else [])], step.text))
    yield from _table(["step", *(["score"] if scored else []), ""], rows, look, _WHOLE)


def _preference(record: Preference, look: Look) -> Iterator[Text]:
    """What both begin with is shown once."""
    yield from _title(f"preference: {record.kind}, margin {record.margin:.2f}", look)
    yield from _turns(record.prompt, record, look)
    chosen, rejected = written(record.chosen), written(record.rejected)
    shared = len([*takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False))])
    for name, style, steps in (
        ("both", "dim", chosen[:shared]),
        ("✓ chosen", "bold green", chosen[shared:]),
        ("✗ rejected", "bold red", rejected[shared:]),
    ):
        if steps:
            yield Text(name, style)
            yield from _table(["", ""], [Row([f"{step.number:>4}"], step.text) for step in steps], look, _WHOLE)


def _turns(prompt: Sequence[Message], record: Problem, look: Look) -> Iterator[Text]:
    """The turns of the prompt, unless it is the question alone, which stands above."""
    if [turn.content for turn in prompt] != [question_text(record)]:
        rows = [Row([Text(f"{one_line(turn.role, 12)}:", "bold")], turn.content, style="dim") for turn in prompt]
        yield from _table(["", ""], rows, look, _WHOLE)
