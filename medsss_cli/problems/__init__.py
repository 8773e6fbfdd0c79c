"""Public data as problems, recognised row by row.

layouts.py has a line or a function for each layout, rows.py what they share and `--map`, options.py reads options,
authors_trees.py the authors' tree files, sources.py the places where rows come from (files, the hub);
contamination.py and curriculum.py choose among problems.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ..answers import Extract, check_gold, judge
from ..errors import BadRecord
from ..labelling.trajectories import check_tree
from ..records import Prm, Problem, Response, Samples, Tree, Verdict, parse, pass_rate, problem_fields
from .layouts import LAYOUTS, named, read_row, trees
from .rows import FieldMap, Row

if TYPE_CHECKING:
    from ..stream.jsonl import Where

_WRITTEN_ANSWERS = ("response", "output")


def to_record(obj: dict[str, Any], where: Where, fields: FieldMap | None = None) -> Problem:
    """What `load` writes for a row: its problem, or the tree or prm record that it stands for. With `fields` it is read
    as they say, whatever its keys look like. Raises BadRecord, with the id, as `to_problem` does."""
    record = read_row(obj, where) if fields is None else named(fields.read, Row(obj, where))
    if not isinstance(record, Prm):
        check_gold(record)
    return record


def to_problem(obj: dict[str, Any], where: Where) -> Problem:
    """The problem within a record of any layout that we know; what else a record of ours holds (responses, nodes) is
    left out.

    Raises BadRecord where the layout is unknown (with the keys found), a field is missing or of the wrong type, or the
    gold answer cannot be read.
    """
    record = to_record(obj, where)
    if isinstance(record, Prm):
        raise BadRecord("a ProcessBench record has steps and their labels, but no gold answer: no problem to solve")
    return Problem(**problem_fields(record)) if isinstance(record, Tree) else record


def is_tree(obj: dict[str, Any]) -> bool:
    """Whether an object is a tree: one that `search` wrote, or the authors'."""
    return "nodes" in obj or LAYOUTS["trees"].fits(obj)


def to_tree(obj: dict[str, Any], where: Where) -> Tree:
    """A tree that `search` wrote, or a row of the authors' tree files. Raises BadRecord for anything else, and where
    the nodes are no tree."""
    if "nodes" in obj:
        tree = parse(Tree, obj)
        check_tree(tree)
        return tree
    if not is_tree(obj):
        raise BadRecord(
            f"no tree: found the keys {', '.join(map(str, obj))}, but neither `nodes` (medsss search writes them) nor "
            "`pos` and `neg` (the authors' tree files)"
        )
    return named(trees, Row(obj, where))


def to_prm(obj: dict[str, Any], where: Where) -> Prm:
    """A trajectory with labelled steps: one of our own prm records, a bare row of TRL's stepwise layout (prompt,
    completions, labels), which gets a name from its place, or one of ProcessBench, whose steps before the first error
    are labelled 1, the first error 0, the rest not at all.

    Raises BadRecord for anything else, and where labels do not run beside the steps or leave [0, 1].
    """
    if not {"prompt", "completions", "labels"} <= obj.keys():
        record = read_row(obj, where)
        if not isinstance(record, Prm):
            raise BadRecord(f"{record.id}: no steps with labels here")
        return record
    labels = obj["labels"]
    if isinstance(labels, list):  # TRL's own data sets have true and false
        labels = [float(label) if isinstance(label, bool) else label for label in labels]
    bare: dict[str, Any] = {"id": str(where), "question": obj["prompt"], "answer": "", "values": []}
    record = parse(Prm, bare | obj | {"labels": labels})
    if len(record.labels) != len(record.completions):
        raise BadRecord(f"record {record.id} has {len(record.completions)} steps and {len(record.labels)} labels")
    outside = [label for label in record.labels if label is not None and not 0.0 <= label <= 1.0]
    if outside:
        raise BadRecord(f"record {record.id} has the label {outside[0]}, outside [0, 1]")
    return record


def to_samples(obj: dict[str, Any], where: Where, *, rejudge: Extract | None = None) -> Samples:
    """The problem within a record together with its responses: `responses` (objects, or plain strings), the candidates
    of a scored record, or the string (or list of strings) in `response` or `output`.

    A response without a verdict is judged here; with `rejudge` every one, by these readers. `pass_rate` is taken anew
    from the verdicts. Raises BadRecord where there are no responses, and as `to_problem` does.
    """
    field = next((name for name in ("responses", "candidates", *_WRITTEN_ANSWERS) if name in obj), None)
    if field is None:
        raise BadRecord(
            f"no responses: found the keys {', '.join(obj)}, none of responses, candidates, response, output"
        )
    problem = to_problem({key: value for key, value in obj.items() if key not in _WRITTEN_ANSWERS}, where)
    items = [obj[field]] if isinstance(obj[field], str) else obj[field]
    if not isinstance(items, list) or not items:
        raise BadRecord(f"{problem.id}: `{field}` must be a text or a list that is not empty")
    responses = [_response(problem, item, field, rejudge) for item in items]
    for response in responses:
        if isinstance(response.corrects, int) and not 0 <= response.corrects < len(responses):
            raise BadRecord(f"{problem.id}: a response corrects number {response.corrects}, of {len(responses)}")
    return Samples(**problem_fields(problem), responses=responses, pass_rate=pass_rate(responses))


def _response(problem: Problem, item: object, field: str, rejudge: Extract | None) -> Response:
    found = {"text": item} if isinstance(item, str) else item
    if not isinstance(found, dict) or not isinstance(found.get("text"), str):
        raise BadRecord(f"{problem.id}: an entry of `{field}` must be a text, or an object with `text`")
    try:  # a field that is null is one that is not there
        response = msgspec.convert({key: value for key, value in found.items() if value is not None}, Response)
    except msgspec.ValidationError as error:
        raise BadRecord(f"{problem.id}: an entry of `{field}` cannot be used: {error}") from None
    if rejudge is None and response.verdict is not Verdict.NOT_JUDGED:
        return response
    judgement = judge(problem, response.text, rejudge or Extract.FLEXIBLE)
    return msgspec.structs.replace(response, answer=judgement.answer, verdict=judgement.verdict, form=judgement.how)


def without_corrections(obj: dict[str, Any]) -> dict[str, Any]:
    """A record less the corrections among its responses: which answers these were made of only the gold answer tells,
    so they neither count in a measure nor stand for selection."""
    written = obj.get("responses")
    if not isinstance(written, list):
        return obj
    return obj | {"responses": [each for each in written if not isinstance(each, dict) or each.get("corrects") is None]}
