"""The benchmarks of the paper (its eleven, and CMExam): where each comes from, how it is asked and judged.

A table, no code. `size` is the number of test problems where we know it from the files themselves or their authors,
None where we do not. Seven of the paper's sets are in the authors' repository (github.com/pixas/MedSSS,
`evaluation_data`), in the layout `authors`; the others they name but do not publish there.
"""

from __future__ import annotations

from typing import NamedTuple

from ..records import Task

LETTERS_RULE = "the set of letters is the gold one; an option's text counts as its letter"
TEXT_RULE = "equals the gold phrase, or holds it in whole words that are not negated"

_LISTED = "question, then one option a line"


class Benchmark(NamedTuple):
    """One benchmark. `layouts` its files come in, the usual one first; `hub` is "NAME[:CONFIG]" of a public copy, with
    `split` the part that is measured on; `prompt` what the question consists of; `rule` when an answer is right."""

    name: str
    layouts: tuple[str, ...]
    hub: str | None
    split: str
    task: Task
    size: int | None
    prompt: str
    rule: str
    note: str = ""


BENCHMARKS = (
    Benchmark(
        "MedQA",
        ("authors", "medqa", "openlifescience"),
        "GBaker/MedQA-USMLE-4-options",
        "test",
        Task.CHOICE,
        1273,
        _LISTED,
        LETTERS_RULE,
        "the authors' file has five options, the hub's copy four",
    ),
    Benchmark(
        "MedMCQA",
        ("medmcqa", "authors", "medmcqa-1"),
        "openlifescienceai/medmcqa",
        "validation",
        Task.CHOICE,
        4183,
        _LISTED,
        LETTERS_RULE,
        "the test split has no gold answers",
    ),
    Benchmark(
        "PubMedQA",
        ("pubmedqa", "authors"),
        "qiaojin/PubMedQA:pqa_labeled",
        "train",
        Task.CHOICE,
        500,
        "abstract where the row has one, then the question; A yes, B no, C maybe",
        LETTERS_RULE,
        "500 in the authors' file, which leaves the abstract out; the hub has all 1000 labelled ones",
    ),
    Benchmark(
        "BioASQ",
        ("authors", "bioasq"),
        None,
        "test",
        Task.CHOICE,
        618,
        "question; A yes, B no",
        LETTERS_RULE,
        "618 in the authors' file, yesno alone; factoid questions of the original are read as text",
    ),
    Benchmark(
        "MMLU-medical",
        ("mmlu", "authors", "mmlu-pro"),
        "cais/mmlu",
        "test",
        Task.CHOICE,
        1561,
        _LISTED,
        LETTERS_RULE,
        "1561 in the authors' file; on the hub one config a subject, such as cais/mmlu:clinical_knowledge",
    ),
    Benchmark(
        "PubHealth",
        ("authors", "pubhealth"),
        "ImperialCollegeLondon/health_fact",
        "test",
        Task.CHOICE,
        1231,
        "claim and text; A true, B false, C mixture (the original layout adds D unproven)",
        LETTERS_RULE,
        "1231 in the authors' file",
    ),
    Benchmark(
        "BioMRC",
        ("biomrc", "authors"),
        "nlpaueb/biomrc",
        "test",
        Task.CHOICE,
        None,
        "abstract, title with a gap, one entity a line",
        LETTERS_RULE,
        "with more than 26 entities the answer is a text, the entity's name",
    ),
    Benchmark(
        "HealthFact",
        ("authors", "medsins", "pubhealth"),
        None,
        "test",
        Task.TEXT,
        None,
        "task definition, then the input",
        TEXT_RULE,
    ),
    Benchmark(
        "DrugDose",
        ("authors", "medsins"),
        None,
        "test",
        Task.TEXT,
        23,
        "task definition, sentence, drug",
        TEXT_RULE,
    ),
    Benchmark(
        "DDXPlus",
        ("authors", "medsins", "ddxplus"),
        "aai530-group6/ddxplus",
        "test",
        Task.TEXT,
        None,
        "age, sex, questions with their answers; which diagnosis",
        TEXT_RULE,
        "the original names findings by code: release_evidences.json must stand beside its files, so not from the hub",
    ),
    Benchmark(
        "SEER",
        ("authors", "medsins"),
        None,
        "test",
        Task.TEXT,
        None,
        "task definition, then the input",
        TEXT_RULE,
    ),
    Benchmark(
        "CMExam",
        ("cmexam",),
        "fzkuji/CMExam",
        "test",
        Task.CHOICE,
        6811,
        _LISTED + ", in Chinese",
        LETTERS_RULE + "; answers may have several letters",
    ),
)


def benchmark(name: str) -> Benchmark | None:
    """The benchmark of that name, case and hyphens apart."""
    wanted = name.casefold().replace("-", "")
    return next((entry for entry in BENCHMARKS if entry.name.casefold().replace("-", "") == wanted), None)
