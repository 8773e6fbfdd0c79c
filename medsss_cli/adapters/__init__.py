"""Public data layouts as problems, recognised record by record.

Read now: our own records of any kind, the layout of the authors' evaluation files, and MedQA's own:

    {"id": 7,"conversations": [{"from": "human", "value": "Which?\\nA. Aspirin\\nB. Heparin"}], "eval": {"answer": "B"}}
    {"question": "Which drug?", "options": {"A": "Aspirin", "B": "Heparin"}, "answer_idx": "B", "answer": "Heparin"}

An id that is a number, or none at all, gets the file's stem before it ("MedQA-7"), so that ids of several files stay
unique. A record that names no dataset gets the file's stem. Fields that are not ours are kept under `meta`.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ..answers import check_gold, judge
from ..answers.choice import gold_letters
from ..errors import BadRecord
from ..records import (
    Preference,
    Prm,
    Problem,
    Response,
    Samples,
    Scored,
    Sft,
    Task,
    Tree,
    Verdict,
    parse,
    problem_fields,
)

if TYPE_CHECKING:
    from ..jsonl import Where

__all__ = ["LAYOUTS", "split_options", "to_problem", "to_samples"]

LAYOUTS = {
    "medsss": "question, answer (and id, options, dataset, task), any record that medsss writes",
    "authors": "conversations, eval or answer_idx: the MedS3 authors' evaluation files",
    "medqa": "question, options, answer_idx",
}

# The field that tells one of our records from a bare problem, and the record whose fields are then ours, not the
# user's.
_OWN_RECORDS: dict[str, type[Problem]] = {
    "nodes": Tree,
    "responses": Samples,
    "candidates": Scored,
    "completion": Sft,
    "chosen": Preference,
    "completions": Prm,
}
_WRITTEN_ANSWERS = ("response", "output")

_OPTION = re.compile(r"\s{0,8}[(\[]?([A-Z])[.):\]、．]\s{0,8}(?=\S)")
_ANSWER_PROMPT = re.compile(r"\s*(?:the\s)?answer\s?(?:is)?\s?:?\s*$", re.IGNORECASE)
_SUFFIXES = {".json", ".jsonl", ".ndjson", ".gz", ".zst"}


def to_problem(obj: dict[str, Any], where: Where) -> Problem:
    """The problem within a record of any layout that we know; what else a record of ours holds (responses, nodes) is
    left out.

    Raises BadRecord where the layout is unknown (with the keys found), a field is missing or of the wrong type, or
    the gold answer cannot be read.
    """
    if "conversations" in obj and ("eval" in obj or "answer_idx" in obj):
        problem = _from_authors(obj, where)
    elif "question" in obj and "answer_idx" in obj and isinstance(obj.get("options"), dict) and "task" not in obj:
        problem = _from_medqa(obj, where)
    elif "question" in obj and "answer" in obj:
        problem = _from_own(obj, where)
    else:
        known = "; ".join(f"{name} ({keys})" for name, keys in LAYOUTS.items())
        raise BadRecord(f"unknown layout: found the keys {', '.join(obj) or '(none)'}; known: {known}")
    check_gold(problem)
    return problem


def to_samples(obj: dict[str, Any], where: Where, *, rejudge: bool = False) -> Samples:
    """The problem within a record together with its responses.

    Read as responses: `responses` (objects, or plain strings), the candidates of a scored record, or the string (or
    list of strings) in `response` or `output`. A response without a verdict is judged here, with `rejudge` every
    one. `pass_rate` is taken anew from the verdicts. Raises BadRecord where there are no responses, or for what
    `to_problem` raises.
    """
    field = next((name for name in ("responses", "candidates", *_WRITTEN_ANSWERS) if name in obj), None)
    if field is None:
        raise BadRecord(
            f"no responses: found the keys {', '.join(obj)}, none of responses, candidates, response, output"
        )
    problem = to_problem({key: value for key, value in obj.items() if key not in _WRITTEN_ANSWERS}, where)
    written = obj[field]
    items = [written] if isinstance(written, str) else written
    if not isinstance(items, list) or not items:
        raise BadRecord(f"{problem.id}: `{field}` must be a text or a list that is not empty")
    responses = [_response(problem, item, field, rejudge) for item in items]
    correct = sum(response.verdict is Verdict.CORRECT for response in responses)
    return Samples(**problem_fields(problem), responses=responses, pass_rate=correct / len(responses))


def split_options(question: str) -> tuple[str, dict[str, str] | None]:
    """The stem of a question and the options of its last lines ("A. ...", "(B) ...", in order from A, two or more).

    A line between two options continues the one before it. Lines after the last option that hold no letter or digit
    (a stray quote), or only "Answer:", are dropped. Without options, the question as it is and None.
    """
    lines = question.rstrip().split("\n")
    while lines and (not any(c.isalnum() for c in lines[-1]) or _ANSWER_PROMPT.fullmatch(lines[-1])):
        lines.pop()
    marks = [_OPTION.match(line) for line in lines]
    starts = [index for index, mark in enumerate(marks) if mark and mark[1] == "A"]
    if not starts:
        return question, None
    options: dict[str, str] = {}
    letter = "A"
    for line, mark in zip(lines[starts[-1] :], marks[starts[-1] :], strict=True):
        expected = chr(ord("A") + len(options))
        if mark and mark[1] == expected:
            letter = expected
            options[letter] = line[mark.end() :].strip()
        elif line.strip():
            options[letter] += f" {line.strip()}"
    if len(options) < 2:
        return question, None
    return "\n".join(lines[: starts[-1]]).rstrip(), options


def _from_own(obj: dict[str, Any], where: Where) -> Problem:
    ours = next((kind for field, kind in _OWN_RECORDS.items() if field in obj), None)
    drop = set(ours.__struct_fields__) - set(Problem.__struct_fields__) if ours else set()
    data = {key: value for key, value in obj.items() if key not in drop}
    data["id"] = _id(obj, where)
    if isinstance(data["answer"], (int, float)) and not isinstance(data["answer"], bool):
        data["answer"] = str(data["answer"])
    if data.get("dataset") is None:
        data["dataset"] = _dataset(where)
    if "task" not in data:
        options = data.get("options")
        letters = (
            gold_letters(data["answer"], options)
            if isinstance(options, dict) and isinstance(data["answer"], str)
            else None
        )
        data["task"] = (Task.CHOICE if letters else Task.TEXT).value
    return parse(Problem, data)


def _from_medqa(obj: dict[str, Any], where: Where) -> Problem:
    data = {key: value for key, value in obj.items() if key not in {"answer", "answer_idx"}}
    meta = data.setdefault("meta", {})
    if "answer" in obj and isinstance(meta, dict):
        data["meta"] = meta | {"answer_text": obj["answer"]}
    data |= {"id": _id(obj, where), "answer": obj["answer_idx"], "task": Task.CHOICE.value}
    data.setdefault("dataset", _dataset(where))
    return parse(Problem, data)


def _from_authors(obj: dict[str, Any], where: Where) -> Problem:
    name = _id(obj, where)
    turns = obj["conversations"]
    human = next(
        (turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") in {"human", "user"})
        if isinstance(turns, list)
        else iter(()),
        None,
    )
    if not isinstance(human, str):
        raise BadRecord(f"{name}: `conversations` holds no turn {{from: human, value: text}}")
    judged = obj.get("eval")
    gold = judged.get("answer") if isinstance(judged, dict) else None
    gold = obj.get("answer_idx") if gold is None else gold
    if not isinstance(gold, str):
        raise BadRecord(f"{name}: no gold answer (a text) in `eval.answer` or `answer_idx`")
    stem, options = split_options(human)
    letters = gold_letters(gold, options) if options else None
    if options and letters is None:
        letters = next((letter for letter, text in options.items() if text.casefold() == gold.strip().casefold()), None)
    if options is None and re.fullmatch(r"\s*[A-Z]\s*", gold):
        raise BadRecord(
            f"{name}: the gold answer is the letter {gold!r}, but the question ends with no options (lines 'A. ...')"
        )
    rest = {
        key: value
        for key, value in obj.items()
        if key not in {"id", "conversations", "eval", "answer_idx", "dataset", "meta"}
    }
    extra = {key: value for key, value in judged.items() if key != "answer"} if isinstance(judged, dict) else {}
    meta = obj.get("meta")
    return parse(
        Problem,
        {
            "id": name,
            "question": stem,
            "answer": letters or gold,
            "options": options,
            "dataset": obj.get("dataset") or obj.get("original_dataset") or _dataset(where),
            "task": (Task.CHOICE if options else Task.TEXT).value,
            "meta": rest | extra | (meta if isinstance(meta, dict) else {}),
        },
    )


def _response(problem: Problem, item: object, field: str, rejudge: bool) -> Response:
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        raise BadRecord(f"{problem.id}: an entry of `{field}` must be a text, or an object with `text`")
    text: str = item["text"]
    try:
        verdict = Verdict(item.get("verdict") or Verdict.NOT_JUDGED)
    except ValueError:
        raise BadRecord(f"{problem.id}: unknown verdict {item['verdict']!r}") from None
    answer = item.get("answer")
    if rejudge or verdict is Verdict.NOT_JUDGED:
        judgement = judge(problem, text)
        answer, verdict = judgement.answer, judgement.verdict
    tokens, finish = item.get("tokens", 0), item.get("finish_reason", "stop")
    if not (answer is None or isinstance(answer, str)) or not isinstance(tokens, int) or not isinstance(finish, str):
        raise BadRecord(f"{problem.id}: an entry of `{field}` has an answer, tokens or finish_reason of the wrong type")
    return Response(text=text, answer=answer, verdict=verdict, finish_reason=finish, tokens=tokens)


def _id(obj: dict[str, Any], where: Where) -> str:
    name = obj.get("id")
    if isinstance(name, str) and name:
        return name
    if isinstance(name, int) and not isinstance(name, bool):
        return f"{_stem(where)}-{name}"
    if name is None or name == "":
        return f"{_stem(where)}-{where.line}"
    raise BadRecord(f"`id` must be a text or a whole number, got {type(name).__name__}")


def _dataset(where: Where) -> str:
    stem = _stem(where)
    return "unknown" if stem == "stdin" else stem


def _stem(where: Where) -> str:
    """The file's name without folder and endings; "stdin" for a pipe."""
    path = PurePath(where.source)
    while path.suffix in _SUFFIXES:
        path = path.with_suffix("")
    return "stdin" if path.name in {"-", "<stdin>", "stdin", ""} else path.name
