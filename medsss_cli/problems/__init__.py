"""Public data layouts as problems, recognised record by record. layouts.py has one entry for each, benchmarks.py the
benchmarks of the paper, sources.py the places where records come from (files, folders, the hub).

An id that is a number, or none at all, gets the file's stem before it ("MedQA-7"), so that ids of several files stay
unique. A record that names no dataset gets the file's stem. Fields that are not ours are kept under `meta`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ..answers import Extract, check_gold, judge
from ..errors import BadRecord, UsageError
from ..records import Prm, Problem, Response, Samples, Verdict, parse, pass_rate, problem_fields
from ._fields import split_options
from .layouts import LAYOUTS, Layout, detect

if TYPE_CHECKING:
    from ..stream.jsonl import Where

__all__ = [
    "LAYOUTS",
    "Layout",
    "detect",
    "known_layouts",
    "split_options",
    "to_prm",
    "to_problem",
    "to_samples",
    "without_corrections",
]

_WRITTEN_ANSWERS = ("response", "output")


def to_problem(obj: dict[str, Any], where: Where, layout: str | None = None) -> Problem:
    """The problem within a record of any layout that we know; what else a record of ours holds (responses, nodes) is
    left out. With `layout` the record is read as that one, whatever its keys look like.

    Raises BadRecord where the layout is unknown (with the keys found), a field is missing or of the wrong type, or
    the gold answer cannot be read; UsageError where `layout` names none, or the whole file needs something else.
    """
    chosen = _layout(obj, layout)
    if chosen.name == "processbench":
        raise BadRecord("a ProcessBench record has steps and their labels, but no gold answer: no problem to solve")
    problem = chosen.read(obj, where)
    check_gold(problem)
    return problem


def to_prm(obj: dict[str, Any], where: Where, layout: str | None = None) -> Prm:
    """A trajectory with labelled steps: one of our own prm records, a bare row of TRL's stepwise layout (prompt,
    completions, labels), which gets a name from its place, or one of ProcessBench, whose steps before the first error
    are labelled 1, the first error 0, the rest not at all.

    Raises BadRecord for anything else, and where labels do not run beside the steps or leave [0, 1].
    """
    if layout is None and {"prompt", "completions", "labels"} <= obj.keys():
        return _stepwise(obj, where)
    record = _layout(obj, layout).read(obj, where)
    if not isinstance(record, Prm):
        raise BadRecord(f"{record.id}: no steps with labels here")
    return record


def _stepwise(data: dict[str, Any], where: Where) -> Prm:
    """A row of TRL's stepwise layout; ours has more fields."""
    labels = data.get("labels")
    if isinstance(labels, list):
        # TRL's own data sets have true and false.
        data = data | {"labels": [float(label) if isinstance(label, bool) else label for label in labels]}
    defaults: dict[str, Any] = {"id": f"{where}", "question": data.get("prompt"), "answer": "", "values": []}
    record = parse(Prm, {**defaults, **data})
    if len(record.labels) != len(record.completions):
        raise BadRecord(f"record {record.id} has {len(record.completions)} steps and {len(record.labels)} labels")
    for label in record.labels:
        if label is not None and not 0.0 <= label <= 1.0:
            raise BadRecord(f"record {record.id} has the label {label}, outside [0, 1]")
    return record


def to_samples(
    obj: dict[str, Any],
    where: Where,
    *,
    rejudge: bool = False,
    extract: Extract = Extract.FLEXIBLE,
    layout: str | None = None,
) -> Samples:
    """The problem within a record together with its responses.

    Read as responses: `responses` (objects, or plain strings), the candidates of a scored record, or the string (or
    list of strings) in `response` or `output`. A response without a verdict is judged here by `extract`, with
    `rejudge` every one. `pass_rate` is taken anew from the verdicts. Raises BadRecord where there are no responses, or
    for what `to_problem` raises.
    """
    field = next((name for name in ("responses", "candidates", *_WRITTEN_ANSWERS) if name in obj), None)
    if field is None:
        raise BadRecord(
            f"no responses: found the keys {', '.join(obj)}, none of responses, candidates, response, output"
        )
    problem = to_problem({key: value for key, value in obj.items() if key not in _WRITTEN_ANSWERS}, where, layout)
    written = obj[field]
    items = [written] if isinstance(written, str) else written
    if not isinstance(items, list) or not items:
        raise BadRecord(f"{problem.id}: `{field}` must be a text or a list that is not empty")
    responses = [_response(problem, item, field, rejudge, extract) for item in items]
    for response in responses:
        if isinstance(response.corrects, int) and not 0 <= response.corrects < len(responses):
            raise BadRecord(f"{problem.id}: a response corrects number {response.corrects}, of {len(responses)}")
    return Samples(**problem_fields(problem), responses=responses, pass_rate=pass_rate(responses))


def without_corrections(obj: dict[str, Any]) -> dict[str, Any]:
    """A record less the corrections among its responses: which answers these were made of only the gold answer tells,
    so they neither count in a measure nor stand for selection."""
    written = obj.get("responses")
    if not isinstance(written, list) or not any(isinstance(item, dict) and "corrects" in item for item in written):
        return obj
    own = [item for item in written if not isinstance(item, dict) or item.get("corrects") is None]
    return obj | {"responses": own}


def known_layouts() -> str:
    """The layouts and the keys that they need, for messages."""
    ours_first = sorted(LAYOUTS.values(), key=lambda layout: layout.name != "medsss")
    return "; ".join(f"{layout.name} ({', '.join(layout.needs)})" for layout in ours_first)


def _layout(obj: dict[str, Any], name: str | None) -> Layout:
    if name is None:
        found = detect(obj)
        if found is None:
            raise BadRecord(f"unknown layout: found the keys {', '.join(obj) or '(none)'}; known: {known_layouts()}")
        return found
    if name not in LAYOUTS:
        raise UsageError(f"there is no layout {name!r}", hint=f"known: {', '.join(LAYOUTS)}")
    missing = LAYOUTS[name].missing(obj)
    if missing:
        raise BadRecord(
            f"not in the layout {name}: it needs {', '.join(missing)}; found the keys {', '.join(obj) or '(none)'}"
        )
    return LAYOUTS[name]


def _response(problem: Problem, item: object, field: str, rejudge: bool, extract: Extract) -> Response:
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        raise BadRecord(f"{problem.id}: an entry of `{field}` must be a text, or an object with `text`")
    # A field that is null is one that is not there.
    given = {key: value for key, value in item.items() if key in Response.__struct_fields__ and value is not None}
    try:
        response = msgspec.convert(given, Response)
    except msgspec.ValidationError as error:
        raise BadRecord(f"{problem.id}: an entry of `{field}` cannot be used: {error}") from None
    if not rejudge and response.verdict is not Verdict.NOT_JUDGED:
        return response
    judgement = judge(problem, response.text, extract)
    return msgspec.structs.replace(response, answer=judgement.answer, verdict=judgement.verdict, form=judgement.how)
