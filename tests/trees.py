"""Small trees, and answers to a question of three options, for the tests of labelling and of evaluation."""

from __future__ import annotations

from typing import Any

from medsss_cli.records import Tree, parse

ROOT = "Let's break down this problem step by step."


def node(parent: int, depth: int, action: str, text: str, value: float, verdict: str | None = None) -> dict[str, Any]:
    return {"parent": parent, "depth": depth, "action": action, "text": text, "value": value, "verdict": verdict}


def nodes() -> list[dict[str, Any]]:
    """Two branches. 1 leads to a right answer (3) and a wrong one (4); 2 to a wrong one (5), then by way of a
    Reflect (6) to a right one (7) and to a Reason (8) that was never finished.

        0 .5 - 1 .9 - 3 1.0 right
             |      - 4 0.0 wrong
             - 2 .1 - 5 0.0 wrong - 6 .6 - 7 1.0 right
                    - 8 .3
    """
    return [
        node(-1, 0, "root", ROOT, 0.5),
        node(0, 1, "reason", "The drug slows the heart.", 0.9),
        node(0, 1, "reason", "The drug thins the blood.", 0.1),
        node(1, 2, "finish", "So it is a beta blocker. The answer is B.", 1.0, "correct"),
        node(1, 2, "finish", "So it is a diuretic. The answer is A.", 0.0, "wrong"),
        node(2, 2, "finish", "So it is heparin. The answer is A.", 0.0, "wrong"),
        node(5, 3, "reflect", "But wait, the pulse fell.", 0.6),
        node(6, 4, "finish", "It slows the heart. The answer is B.", 1.0, "correct"),
        node(2, 2, "reason", "It is given by mouth.", 0.3),
    ]


def record(id: str = "q1", **changes: Any) -> dict[str, Any]:
    """A tree record as `medsss search` writes it."""
    return {
        "id": id,
        "question": "Which drug?",
        "answer": "B",
        "options": {"A": "Furosemide", "B": "Metoprolol"},
        "dataset": "clinic",
        "task": "choice",
        "meta": {},
        "nodes": nodes(),
        "stats": {},
        "config": {},
    } | changes


def tree(**changes: Any) -> Tree:
    return parse(Tree, record(**changes))


def asked(id: str, **more: Any) -> dict[str, Any]:
    """A problem whose right answer is B."""
    options = {"A": "Furosemide", "B": "Metoprolol", "C": "Heparin"}
    return {
        "id": id,
        "question": "Which?",
        "answer": "B",
        "options": options,
        "dataset": "clinic",
        "task": "choice",
    } | more


def response(answer: str | None, **more: Any) -> dict[str, Any]:
    verdict = "no_answer" if answer is None else "correct" if answer == "B" else "wrong"
    said = f"The answer is {answer}." if answer else "Hm."
    return {"text": said, "answer": answer, "verdict": verdict, "tokens": 10} | more


def samples(id: str, answers: str, **more: Any) -> dict[str, Any]:
    """ "BA-" is a right, a wrong and no answer."""
    responses = [response(None if letter == "-" else letter) for letter in answers]
    return asked(id, responses=responses, pass_rate=answers.count("B") / len(answers), **more)
