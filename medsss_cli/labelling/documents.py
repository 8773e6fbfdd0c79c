"""The documents that a record carries: `meta.documents` (where a `documents` field of any layout ends up), or Med-PRM's
`related_docs`. A list of texts, or of objects with `text` and maybe `title`. A judge and Med-PRM's reward model read
them."""

from __future__ import annotations

from ..records import Problem


def documents_of(problem: Problem) -> tuple[str, ...]:
    """The texts of the documents, each with its title in front; what is no document is passed over."""
    found = problem.meta.get("documents") or problem.meta.get("related_docs")
    texts = (_text(each) for each in found) if isinstance(found, list) else ()
    return tuple(text for text in texts if text is not None)


def _text(item: object) -> str | None:
    if isinstance(item, str):
        return item
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        return None
    title = item.get("title")
    return f"{title}\n{item['text']}" if isinstance(title, str) and title else item["text"]
