"""The public layouts, each with an example row written by us, in the exact field names of the files.

A layout knows its keys (`needs`), whether a record of it can be told from others by its keys alone (`detected`), and
how its rows become problems. The order of `LAYOUTS` is the order of detection, our own records last. What a layout does
not use goes to `meta`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..answers.choice import gold_letters
from ..errors import BadRecord, UsageError
from ..records import Preference, Prm, Problem, Samples, Scored, Sft, Task, Tree, parse
from ..steps import ROOT_TEXT
from ._fields import LETTERS, dataset_name, letter_of, options_of, record_id, split_options, stem, text_of

if TYPE_CHECKING:
    from ..stream.jsonl import Where

Reader = Callable[[dict[str, Any], "Where"], Problem]


@dataclass(frozen=True)
class Layout:
    """`needs` are the keys that a row must have; one written "a|b" is met by either. `example` is one row. `detected`
    says whether rows are recognised without `--layout`."""

    name: str
    title: str
    needs: tuple[str, ...]
    read: Reader
    example: dict[str, Any]
    detected: bool = True

    def missing(self, obj: dict[str, Any]) -> list[str]:
        """The keys of `needs` that the row does not have."""
        return [need for need in self.needs if not any(key in obj for key in need.split("|"))]


# Our own records

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


def _own(obj: dict[str, Any], where: Where) -> Problem:
    ours = next((kind for field, kind in _OWN_RECORDS.items() if field in obj), None)
    drop = set(ours.__struct_fields__) - set(Problem.__struct_fields__) if ours else set()
    data = {key: value for key, value in obj.items() if key not in drop}
    data["id"] = record_id(obj, where)
    if isinstance(data["answer"], (int, float)) and not isinstance(data["answer"], bool):
        data["answer"] = str(data["answer"])
    if data.get("dataset") is None:
        data["dataset"] = dataset_name(where)
    if "task" not in data:
        data |= _guessed(data)
    return parse(Problem, data)


def _guessed(data: dict[str, Any]) -> dict[str, Any]:
    """`task`, and `answer`, `options`, `question` where they follow: a letter needs options, in `options` or in the
    last lines of the question; the text of an option is its letter."""
    name, answer, options = data["id"], data["answer"], data.get("options")
    if not isinstance(answer, str):
        return {"task": Task.TEXT.value}
    if isinstance(options, dict) and options:
        letters = gold_letters(answer, options)
        wanted = answer.strip().casefold()
        letters = letters or next((k for k, text in options.items() if str(text).strip().casefold() == wanted), None)
        if letters is None and re.fullmatch(r"\s*\(?[A-Z][).]?\s*", answer):
            raise BadRecord(f"{name}: the gold answer {answer!r} is not one of the options {', '.join(options)}")
        return {"task": Task.CHOICE.value, "answer": letters} if letters else {"task": Task.TEXT.value}
    if re.fullmatch(r"\s*[A-Z]\s*", answer):
        question, found = split_options(data["question"]) if isinstance(data["question"], str) else ("", None)
        if found is None:
            raise BadRecord(
                f"{name}: the gold answer is the letter {answer!r}, but there are no options, neither in `options` nor "
                "as the last lines of the question (`task: text` says that it is a text)"
            )
        return {"task": Task.CHOICE.value, "question": question, "options": found}
    return {"task": Task.TEXT.value}


# Choice


def _authors(obj: dict[str, Any], where: Where) -> Problem:
    name = record_id(obj, where)
    turns = obj["conversations"]
    human = next(
        (turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") in ("human", "user"))
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
    question, options = split_options(human)
    letters = gold_letters(gold, options) if options else None
    if options and letters is None:
        letters = next((letter for letter, text in options.items() if text.casefold() == gold.strip().casefold()), None)
    if options is None and re.fullmatch(r"\s*[A-Z]\s*", gold):
        raise BadRecord(
            f"{name}: the gold answer is the letter {gold!r}, but the question ends with no options (lines 'A. ...')"
        )
    extra = {key: value for key, value in judged.items() if key != "answer"} if isinstance(judged, dict) else {}
    return _problem(
        obj,
        where,
        used={"conversations", "eval", "answer_idx"},
        name=name,
        question=question,
        answer=letters or gold,
        options=options,
        dataset=obj.get("dataset") or obj.get("original_dataset"),
        extra=extra,
    )


def _medqa(obj: dict[str, Any], where: Where) -> Problem:
    data = {key: value for key, value in obj.items() if key not in {"answer", "answer_idx"}}
    name = record_id(obj, where)
    meta = data.setdefault("meta", {})
    if "answer" in obj and isinstance(meta, dict):
        data["meta"] = meta | {"answer_text": obj["answer"]}
    if not obj["options"]:
        raise BadRecord(f"{name}: `options` is empty")
    data |= {"id": name, "answer": obj["answer_idx"], "task": Task.CHOICE.value}
    data["options"] = options_of(obj["options"], name)
    if not isinstance(data.get("dataset"), str):
        data["dataset"] = dataset_name(where)
    return parse(Problem, data)


def _medmcqa(base: int) -> Reader:
    def read(obj: dict[str, Any], where: Where) -> Problem:
        name = record_id(obj, where)
        options = {
            letter: str(text).strip()
            for letter, text in zip("ABCD", (obj[f"op{c}"] for c in "abcd"), strict=True)
            if text is not None and str(text).strip()
        }
        if len(options) < 2:
            raise BadRecord(f"{name}: fewer than two options in `opa` to `opd`")
        gold = str(obj["cop"]).strip()
        if gold == "-1" or gold == "":
            raise BadRecord(f"{name}: `cop` is {obj['cop']!r}: this split has no gold answers; take validation")
        if base == 0 and gold == "4":
            # Every other answer of this file is one letter off, so the run must not go on.
            raise UsageError(
                f"{where}: {name}: `cop` is 4, so this file counts its options from 1, not from 0 as the hub's does",
                hint="--layout medmcqa-1",
            )
        letters = "ABCD"
        answer = gold.upper()
        if gold.isdecimal():
            if not 0 <= int(gold) - base < 4:
                raise BadRecord(f"{name}: `cop` is {gold}, expected {base} to {base + 3}")
            answer = letters[int(gold) - base]
        return _problem(
            obj,
            where,
            used={"question", "opa", "opb", "opc", "opd", "cop"},
            name=name,
            question=text_of(obj, "question", name),
            answer=answer,
            options=options,
        )

    return read


_YES_NO_MAYBE = {"A": "yes", "B": "no", "C": "maybe"}


def _pubmedqa(obj: dict[str, Any], where: Where) -> Problem:
    keyed = "QUESTION" in obj
    name = record_id(obj, where, "pubid" if "pubid" in obj else "id")
    question = text_of(obj, "QUESTION" if keyed else "question", name)
    context = obj.get("CONTEXTS") if keyed else obj.get("context")
    if isinstance(context, dict):
        context = context.get("contexts")
    if isinstance(context, str):
        context = [context]
    abstract = "\n".join(str(part) for part in context) if isinstance(context, list) else ""
    return _problem(
        obj,
        where,
        used={"QUESTION", "CONTEXTS", "question", "context", "final_decision", "pubid"},
        name=name,
        question=f"Abstract: {abstract}\nQuestion: {question}" if abstract else question,
        answer=letter_of(obj["final_decision"], _YES_NO_MAYBE, name, "final_decision"),
        options=dict(_YES_NO_MAYBE),
    )


def _choices(question: str, options: str, answer: str) -> Callable[[dict[str, Any], Where], Problem]:
    """The reader of a layout that is a question, its options and the right letter, under these keys."""

    def read(obj: dict[str, Any], where: Where) -> Problem:
        name = record_id(obj, where)
        found = options_of(obj[options], name, options)
        return _problem(
            obj,
            where,
            used={question, options, answer},
            name=name,
            question=text_of(obj, question, name),
            answer=letter_of(obj[answer], found, name, answer),
            options=found,
        )

    return read


def _mmlu_pro(obj: dict[str, Any], where: Where) -> Problem:
    name = record_id(obj, where, "question_id" if "question_id" in obj else "id")
    # A list filled up with "N/A" has fewer real options; they stand last, so no letter moves.
    listed = obj["options"]
    while isinstance(listed, list) and listed and listed[-1] == "N/A":
        listed = listed[:-1]
    options = options_of(listed, name)
    field = "answer" if obj.get("answer") is not None else "answer_index"
    return _problem(
        obj,
        where,
        used={"question", "options", "answer", "answer_index", "question_id"},
        name=name,
        question=text_of(obj, "question", name),
        answer=letter_of(obj.get(field), options, name, field),
        options=options,
    )


def _openlifescience(obj: dict[str, Any], where: Where) -> Problem:
    name = record_id(obj, where)
    data = obj["data"]
    if not isinstance(data, dict) or not {"Question", "Options"} <= data.keys():
        raise BadRecord(f"{name}: `data` must be an object with Question, Options and Correct Option")
    options = options_of(data["Options"], name, "data.Options")
    field = "Correct Option" if data.get("Correct Option") else "Correct Answer"
    used = {"Question", "Options", "Correct Option", "Correct Answer"}
    return _problem(
        obj,
        where,
        used={"data"},
        name=name,
        question=text_of(data, "Question", name),
        answer=letter_of(data.get(field), options, name, f"data.{field}"),
        options=options,
        extra={key: value for key, value in data.items() if key not in used},
    )


_VERACITY = ("false", "mixture", "true", "unproven")  # the numbers of the hub's labels


def _pubhealth(obj: dict[str, Any], where: Where) -> Problem:
    name = record_id(obj, where, "claim_id" if "claim_id" in obj else "id")
    label = str(obj["label"]).strip().lower()
    if label.isdecimal() and int(label) < len(_VERACITY):
        label = _VERACITY[int(label)]
    if label not in _VERACITY:
        raise BadRecord(f"{name}: `label` is {obj['label']!r}, expected one of {', '.join(_VERACITY)} (or 0 to 3)")
    options = {"A": "true", "B": "false", "C": "mixture", "D": "unproven"}
    evidence = next(
        (obj[key] for key in ("explanation", "main_text") if isinstance(obj.get(key), str) and obj[key]), ""
    )
    claim = text_of(obj, "claim", name)
    return _problem(
        obj,
        where,
        used={"claim_id", "claim", "label", "explanation"},
        name=name,
        question="Judge the claim by the text.\nClaim: " + claim + (f"\nText: {evidence}" if evidence else ""),
        answer=next(letter for letter, text in options.items() if text == label),
        options=options,
    )


_ENTITY = re.compile(r"\s*(@entity\d{1,6})\b")


def _biomrc(obj: dict[str, Any], where: Where) -> Problem:
    name = record_id(obj, where)
    listed = obj["entities_list"]
    if not isinstance(listed, list) or not listed:
        raise BadRecord(f"{name}: `entities_list` must be a list that is not empty")
    entities: dict[str, str] = {}
    for item in listed:
        mark = _ENTITY.match(str(item))
        if mark is None:
            raise BadRecord(f"{name}: an entry of `entities_list` does not begin with @entity and a number: {item!r}")
        entities.setdefault(mark[1], " ".join(str(item).split()))
    gold = _ENTITY.match(str(obj["answer"]))
    if gold is None or gold[1] not in entities:
        raise BadRecord(f"{name}: the gold answer {obj['answer']!r} is not one of the entities")
    question = (
        f"{text_of(obj, 'abstract', name)}\nWhich entity belongs in place of XXXX in the title?\n"
        f"Title: {text_of(obj, 'title', name)}"
    )
    used = {"abstract", "title", "entities_list", "answer"}
    if len(entities) > len(LETTERS):
        # More entities than letters: the answer is the entity's own name.
        listing = "\n".join(entities.values())
        return _problem(
            obj, where, used=used, name=name, question=f"{question}\nEntities:\n{listing}", answer=gold[1], options=None
        )
    options = dict(zip(LETTERS, entities.values(), strict=False))
    return _problem(
        obj,
        where,
        used=used,
        name=name,
        question=question,
        answer=LETTERS[list(entities).index(gold[1])],
        options=options,
    )


# Text


def _bioasq(obj: dict[str, Any], where: Where) -> Problem:
    name = record_id(obj, where)
    kind = obj["type"]
    question = text_of(obj, "body", name)
    exact = obj.get("exact_answer")
    used = {"body", "exact_answer"}
    if kind == "yesno":
        options = {"A": "yes", "B": "no"}
        return _problem(
            obj,
            where,
            used=used,
            name=name,
            question=question,
            options=options,
            answer=letter_of(exact, options, name, "exact_answer"),
        )
    if kind == "factoid":
        while isinstance(exact, list) and exact:
            exact = exact[0]
        if not isinstance(exact, str) or not exact.strip():
            raise BadRecord(f"{name}: no gold answer in `exact_answer`")
        return _problem(
            obj,
            where,
            used=used,
            name=name,
            question=question,
            answer=exact.strip(),
            options=None,
            extra={"exact_answer": obj["exact_answer"]},
        )
    raise BadRecord(f"{name}: a BioASQ question of type {kind!r} has no single answer (yesno and factoid have)")


_EVIDENCE = re.compile(r"E_\d{1,6}(?:_@_[\w.]{1,20})?")


def _ddxplus(obj: dict[str, Any], where: Where) -> Problem:
    name = record_id(obj, where)
    known = _evidences(where)
    codes = _EVIDENCE.findall(str(obj["EVIDENCES"]))
    if not codes:
        raise BadRecord(f"{name}: `EVIDENCES` holds no code such as E_48 or E_54_@_V_161")
    first = _evidence(str(obj.get("INITIAL_EVIDENCE") or codes[0]), known, name)
    sex = {"M": "man", "F": "woman"}.get(str(obj.get("SEX")), "patient")
    findings = "\n".join(f"- {_evidence(code, known, name)}" for code in codes)
    return _problem(
        obj,
        where,
        used={"AGE", "SEX", "EVIDENCES", "INITIAL_EVIDENCE", "PATHOLOGY"},
        name=name,
        question=f"A {obj.get('AGE', '?')}-year-old {sex} was asked these questions, the first of them on arrival: "
        f"{first}\n{findings}\nWhat is the most likely diagnosis?",
        answer=text_of(obj, "PATHOLOGY", name),
        options=None,
    )


def _evidences(where: Where) -> dict[str, Any]:
    """The questions behind the codes: release_evidences.json, which the data set ships beside its patients."""
    import orjson

    folder = Path(where.source).parent
    path = folder / "release_evidences.json"
    key = str(path)
    if key not in _EVIDENCE_FILES:
        try:
            found = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise UsageError(
                f"{where}: DDXPlus names its findings by codes, and {path} cannot be read: {error}",
                hint="put the data set's release_evidences.json beside the patients' file",
            ) from None
        _EVIDENCE_FILES[key] = found if isinstance(found, dict) else {}
    return _EVIDENCE_FILES[key]


_EVIDENCE_FILES: dict[str, dict[str, Any]] = {}


def _evidence(code: str, known: dict[str, Any], name: str) -> str:
    base, _, value = code.partition("_@_")
    entry = known.get(base)
    if not isinstance(entry, dict) or not isinstance(entry.get("question_en"), str):
        raise BadRecord(f"{name}: the code {base} is not in release_evidences.json")
    if not value:
        return f"{entry['question_en']} Yes."
    meaning = entry.get("value_meaning")
    meaning = meaning.get(value) if isinstance(meaning, dict) else None
    said = meaning.get("en") if isinstance(meaning, dict) else value
    return f"{entry['question_en']} {said}."


def _huatuo(obj: dict[str, Any], where: Where) -> Problem:
    name = record_id(obj, where)
    question, answer = "Open-ended Verifiable Question", "Ground-True Answer"
    return _problem(
        obj,
        where,
        used={question, answer},
        name=name,
        question=text_of(obj, question, name),
        answer=text_of(obj, answer, name),
        options=None,
    )


def _medsins(obj: dict[str, Any], where: Where) -> Problem:
    name = record_id(obj, where)
    definition, output = obj["definition"], obj["output"]
    definition = definition[0] if isinstance(definition, list) and definition else definition
    output = output[0] if isinstance(output, list) and output else output
    if not isinstance(definition, str) or not isinstance(output, str) or not output.strip():
        raise BadRecord(f"{name}: `definition` and `output` must be texts (or lists that begin with one)")
    question, options = split_options(f"{definition.strip()}\n{text_of(obj, 'input', name)}")
    letters = gold_letters(output, options) if options else None
    return _problem(
        obj,
        where,
        used={"definition", "input", "output"},
        name=name,
        question=question if letters else f"{definition.strip()}\n{obj['input']}",
        answer=letters or output.strip(),
        options=options if letters else None,
    )


# Steps


def _processbench(obj: dict[str, Any], where: Where) -> Problem:
    name = record_id(obj, where)
    steps, label = obj["steps"], obj["label"]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise BadRecord(f"{name}: `steps` must be a list of texts that is not empty")
    if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < len(steps):
        raise BadRecord(f"{name}: `label` must be the number of a step (0 to {len(steps) - 1}) or -1, got {label!r}")
    right = [1.0 if label < 0 or number < label else 0.0 for number in range(len(steps))]
    # What follows the first error is not labelled in this data.
    labels = [None, *(mark if label < 0 or number <= label else None for number, mark in enumerate(right))]
    question = text_of(obj, "problem", name)
    rest = {key: value for key, value in obj.items() if key not in {"id", "problem", "steps"}}
    return Prm(
        id=name,
        question=question,
        answer="",
        dataset=stem(where),
        task=Task.TEXT,
        meta=rest,
        prompt=question,
        completions=[ROOT_TEXT, *steps],
        labels=labels,
        values=[1.0, *right],
    )


def _problem(
    obj: dict[str, Any],
    where: Where,
    *,
    used: set[str],
    name: str,
    question: str,
    answer: str,
    options: dict[str, str] | None,
    dataset: object = None,
    extra: dict[str, Any] | None = None,
) -> Problem:
    """The problem, with what the layout did not use under `meta`."""
    rest = {key: value for key, value in obj.items() if key not in used | {"id", "dataset", "meta"}}
    meta = obj.get("meta")
    named = dataset or obj.get("dataset")
    return parse(
        Problem,
        {
            "id": name,
            "question": question,
            "answer": answer,
            "options": options,
            "dataset": named if isinstance(named, str) and named else dataset_name(where),
            "task": (Task.CHOICE if options else Task.TEXT).value,
            "meta": rest | (extra or {}) | (meta if isinstance(meta, dict) else {}),
        },
    )


_ASPIRIN = {"A": "Heparin", "B": "Aspirin", "C": "Both of them", "D": "Neither of them"}

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "authors",
            "the MedS3 authors' evaluation files",
            ("conversations", "eval|answer_idx"),
            _authors,
            {
                "id": 7,
                "conversations": [{"from": "human", "value": "Which drug first?\nA. Heparin\nB. Aspirin"}],
                "eval": {"answer": "B"},
            },
        ),
        Layout(
            "medmcqa",
            "MedMCQA as on the hub: `cop` counts from 0",
            ("question", "opa", "opb", "opc", "opd", "cop"),
            _medmcqa(0),
            {
                "id": "5f1c",
                "question": "Which drug first?",
                "opa": "Heparin",
                "opb": "Aspirin",
                "opc": "Both of them",
                "opd": "Neither of them",
                "cop": 1,
                "choice_type": "single",
                "exp": "It is given at once.",
                "subject_name": "Medicine",
                "topic_name": None,
            },
        ),
        Layout(
            "medmcqa-1",
            "MedMCQA's original files: `cop` counts from 1; only with --layout",
            ("question", "opa", "opb", "opc", "opd", "cop"),
            _medmcqa(1),
            {
                "id": "5f1c",
                "question": "Which drug first?",
                "opa": "Heparin",
                "opb": "Aspirin",
                "opc": "Both of them",
                "opd": "Neither of them",
                "cop": 2,
                "choice_type": "single",
                "exp": "It is given at once.",
                "subject_name": "Medicine",
                "topic_name": None,
            },
            detected=False,
        ),
        Layout(
            "pubmedqa",
            "PubMedQA, from the hub or its own keyed file",
            ("question|QUESTION", "final_decision"),
            _pubmedqa,
            {
                "pubid": 123,
                "question": "Does rest help after a sprain?",
                "context": {"contexts": ["Forty patients rested, forty did not."], "labels": ["METHODS"]},
                "long_answer": "Rest made no difference.",
                "final_decision": "no",
            },
        ),
        Layout(
            "mmlu",
            "MMLU: a list of choices and the position of the right one",
            ("question", "choices", "answer"),
            _choices("question", "choices", "answer"),
            {
                "question": "Which drug first?",
                "subject": "clinical_knowledge",
                "choices": list(_ASPIRIN.values()),
                "answer": 1,
            },
        ),
        Layout(
            "bioasq",
            "BioASQ task B: yesno and factoid questions",
            ("body", "type", "exact_answer"),
            _bioasq,
            {
                "id": "5c0e",
                "type": "yesno",
                "body": "Is aspirin an anticoagulant?",
                "exact_answer": "no",
                "ideal_answer": ["It acts on platelets."],
                "snippets": [],
            },
        ),
        Layout(
            "pubhealth",
            "PubHealth, also called health_fact",
            ("claim", "label"),
            _pubhealth,
            {
                "claim_id": "15661",
                "claim": "Garlic cures influenza.",
                "explanation": "No trial has shown it.",
                "main_text": "...",
                "label": 0,
                "subjects": "Health News",
            },
        ),
        Layout(
            "biomrc",
            "BioMRC: the entity that a title leaves out",
            ("abstract", "title", "entities_list", "answer"),
            _biomrc,
            {
                "abstract": "@entity1 was given to @entity2 with angina.",
                "title": "XXXX in angina",
                "entities_list": ["@entity1 :: ['aspirin']", "@entity2 :: ['patients']"],
                "answer": "@entity1 :: ['aspirin']",
            },
        ),
        Layout(
            "ddxplus",
            "DDXPlus patients, with release_evidences.json beside them",
            ("PATHOLOGY", "EVIDENCES"),
            _ddxplus,
            {
                "AGE": 41,
                "SEX": "F",
                "PATHOLOGY": "Bronchitis",
                "EVIDENCES": "['E_201', 'E_54_@_V_161']",
                "INITIAL_EVIDENCE": "E_201",
                "DIFFERENTIAL_DIAGNOSIS": "[['Bronchitis', 0.4]]",
            },
        ),
        Layout(
            "cmexam",
            "CMExam: Chinese, one or several letters",
            ("Question", "Options", "Answer"),
            _choices("Question", "Options", "Answer"),
            {
                "Question": "下列哪些药物可抑制血小板聚集？",
                "Options": "A 阿司匹林\nB 氯吡格雷\nC 肝素\nD 替格瑞洛\nE 华法林",
                "Answer": "ABD",
                "Explanation": "肝素与华法林是抗凝药。",
            },
        ),
        Layout(
            "cmb",
            "CMB-Exam: Chinese, options under `option`",
            ("question", "option", "answer"),
            _choices("question", "option", "answer"),
            {
                "question": "首选药物是？",
                "option": {"A": "肝素", "B": "阿司匹林"},
                "answer": "B",
                "question_type": "单项选择题",
            },
        ),
        Layout(
            "openlifescience",
            "the openlifescienceai sets on the hub",
            ("data",),
            _openlifescience,
            {
                "id": "8a1f",
                "data": {
                    "Question": "Which drug first?",
                    "Options": _ASPIRIN,
                    "Correct Answer": "Aspirin",
                    "Correct Option": "B",
                },
                "subject_name": None,
            },
        ),
        Layout(
            "huatuo",
            "HuatuoGPT-o1's verifiable problems (its evaluation files are `medqa`)",
            ("Open-ended Verifiable Question", "Ground-True Answer"),
            _huatuo,
            {"Open-ended Verifiable Question": "Which drug is given first?", "Ground-True Answer": "Aspirin"},
        ),
        Layout(
            "medsins",
            "MedS-Ins and MedS-Bench: a definition, an input, an output",
            ("definition", "input", "output"),
            _medsins,
            {
                "definition": "Name the dose of the drug that the sentence states.",
                "input": "Sentence: 81 mg of aspirin were given.\nDrug: aspirin",
                "output": ["81 mg"],
            },
        ),
        Layout(
            "processbench",
            "ProcessBench: steps and the first that is wrong (prm records)",
            ("problem", "steps", "label"),
            _processbench,
            {
                "id": "gsm8k-0",
                "generator": "some-model",
                "problem": "30 mL/kg for 64 kg?",
                "steps": ["30 x 64 = 1820.", "So 1820 mL."],
                "final_answer_correct": False,
                "label": 0,
            },
        ),
        Layout(
            "medqa",
            "MedQA, and the evaluation files of HuatuoGPT-o1",
            ("question", "options", "answer_idx"),
            _medqa,
            {
                "question": "Which drug first?",
                "options": _ASPIRIN,
                "answer_idx": "B",
                "answer": "Aspirin",
                "meta_info": "step1",
            },
        ),
        Layout(
            "mmlu-pro",
            "MMLU-Pro: a list of up to ten options",
            ("question", "options", "answer|answer_index"),
            _mmlu_pro,
            {
                "question_id": 70,
                "question": "Which drug first?",
                "options": list(_ASPIRIN.values()),
                "answer": "B",
                "answer_index": 1,
                "category": "health",
            },
        ),
        Layout(
            "medsss",
            "any record that medsss writes; also MIRAGE's rows",
            ("question", "answer"),
            _own,
            {"id": "q1", "question": "Which drug first?", "options": _ASPIRIN, "answer": "B", "task": "choice"},
        ),
    )
}


def detect(obj: dict[str, Any]) -> Layout | None:
    """The layout that the keys of a row say, None for an unknown one. A row with `task` is one of ours."""
    if "task" in obj and "question" in obj and "answer" in obj:
        return LAYOUTS["medsss"]
    for layout in LAYOUTS.values():
        if not layout.detected or layout.missing(obj):
            continue
        match layout.name:
            case "medqa" if not isinstance(obj["options"], dict):
                continue
            case "mmlu-pro" if not isinstance(obj["options"], list):
                continue
            case "openlifescience" if not isinstance(obj["data"], dict):
                continue
            case _:
                return layout
    return None
