"""Records as one page: HTML, style, script and data in one file that asks no network for anything.

The records go in as JSON in a data block, in which no `<` is left, so nothing in a record can end the block; the script
puts texts on the page as text only. The content security policy allows this style and this script alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib import resources
from typing import Any

import orjson

from .. import __version__
from ..records import Preference, Problem, Samples, Scored, Sft, Tree, dump
from .model import best_and_worst, paths, states, steps_of, votes, written

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src {style_hash}; \
script-src {script_hash}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title} · medsss</title>
<style>{style}</style>
</head>
<body>
<div id="app"></div>
<noscript><p>This page shows its records with a script of its own, and scripts are switched off.</p></noscript>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def page(records: Sequence[Problem], *, title: str, more: bool = False) -> str:
    """The page of these records. `more` says that the input held others."""
    folder = resources.files(__package__)
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    shown = [_plain(record) for record in records]
    data = orjson.dumps({"title": title, "version": __version__, "more": more, "records": shown}, default=list).decode()
    return _PAGE.format(
        style_hash=_hash(style),
        script_hash=_hash(script),
        title=html.escape(title),
        style=style,
        script=script,
        # These characters stand in strings only, and mean the same escaped.
        data=data.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}),
    )


def _hash(text: str) -> str:
    """The source expression that allows an inline element of just this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _plain(record: Problem) -> dict[str, Any]:
    """The record as page.js reads it: its fields, `kind`, and what `model` makes of them."""
    plain = dump(record) | {"kind": type(record).__name__.lower(), "options": list((record.options or {}).items())}
    for unseen in ("meta", "stats", "config"):
        plain.pop(unseen, None)
    match record:
        case Tree():
            found = paths(record)
            shown = [{"nodes": path.nodes, "correct": path.correct, "labels": path.labels} for path in found]
            plain |= {"states": states(record), "paths": shown}
            plain["ends"] = [path.nodes[-1] for path in best_and_worst(found)]
        case Samples() | Scored():
            answers = plain.pop("responses" if isinstance(record, Samples) else "candidates")
            plain["answers"] = [
                each | {"steps": steps_of(each.pop("text"), each.get("step_scores", ()))} for each in answers
            ]
            plain["votes"] = [vote._asdict() for vote in votes(record)]
        case Sft():
            plain["steps"] = written(record.completion)
        case Preference():
            plain |= {"chosen": written(record.chosen), "rejected": written(record.rejected), "rule": record.kind}
    return plain
