"""`medsss load`: sources of every kind, parts of them, and what is kept out of a pool."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import layout_rows, read_jsonl, run_medsss, to_lines, write_jsonl

from medsss_cli.problems.contamination import COMMON, Contamination
from medsss_cli.records import Problem, Task

ROWS = layout_rows()


def question(number: int, dataset: str = "pool", **more: Any) -> dict[str, Any]:
    return {
        "id": f"{dataset}-q{number}",
        "question": f"Case {number}: which drug?",
        "options": {"A": "Heparin", "B": "Aspirin"},
        "answer": "B",
        "task": "choice",
        "dataset": dataset,
        **more,
    }


def ids(records: list[dict[str, Any]]) -> list[str]:
    return [record["id"] for record in records]


# Sources


def test_every_format_gives_the_same_problem(tmp_path: Path) -> None:
    """Nobody wants to convert files by hand before the first run."""
    import pyarrow
    import pyarrow.parquet

    row = ROWS["medcalc"]
    write_jsonl(tmp_path / "a.jsonl", [row])
    (tmp_path / "b.json").write_text(json.dumps([row], indent=1))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(to_lines([row]).encode()))
    for name, mark in (("d.csv", ","), ("e.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, row, delimiter=mark)
            writer.writeheader()
            writer.writerow(row)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "f.parquet")
    for path in sorted(tmp_path.iterdir()):
        (record,) = run_medsss(["load", path]).ok().records
        assert (record["id"], record["answer"]) == (f"{path.name[0]}-6", "80.0 ± 4"), path
        assert (record["dataset"], record["task"]) == (path.name[0], "number")
        assert record["meta"]["Calculator Name"] == "Mean Arterial Pressure"
    once = run_medsss(["load"], to_lines([ROWS["medqa"]])).ok()
    assert (once.records[0]["id"], once.records[0]["dataset"]) == ("stdin-1", "unknown")
    assert run_medsss(["load"], once.stdout).ok().stdout == once.stdout


def test_files_that_are_one_object(tmp_path: Path) -> None:
    """PubMedQA, HuatuoGPT-o1, MIRAGE, and one row on several lines."""
    pubmedqa = {"21": {"QUESTION": "Does it?", "CONTEXTS": ["One."], "final_decision": "yes"}}
    mirage = {"medqa": {"0001": {"question": "?", "options": {"A": "x", "B": "y"}, "answer": "A"}}}
    huatuo = {"MedQA_test": [ROWS["medqa"]], "MMLU": [ROWS["medqa"]]}
    for name, content in enumerate((pubmedqa, huatuo, mirage, ROWS["medqa"])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content, indent=1))
    records = run_medsss(["load", *(tmp_path / f"{name}.json" for name in range(4))]).ok().records
    assert [(record["id"], record["dataset"], record["answer"]) for record in records] == [
        ("21", "0", "A"), ("MedQA_test-1", "MedQA_test", "B"), ("MMLU-1", "MMLU", "B"), ("medqa-0001", "medqa", "A"),
        ("3-1", "3", "B"),
    ]  # fmt: skip


def test_a_map_reads_tables(tmp_path: Path) -> None:
    """An empty cell among the options is none."""
    (tmp_path / "mine.csv").write_text('stem,one,two,three,key\n"Which, first?",x,,y,1\n')
    named = ["--map", "question=stem", "--map", "options=one,two,three", "--map", "answer=key:1"]
    (record,) = run_medsss(["load", tmp_path / "mine.csv", *named]).ok().records
    assert (record["question"], record["answer"], record["dataset"]) == ("Which, first?", "A", "mine")
    assert record["options"] == {"A": "x", "C": "y"}
    ran = run_medsss(["load", tmp_path / "mine.csv", "--map", "question=stm", "--map", "answer=key"])
    assert (ran.rc, ran.stdout) == (1, "")
    assert "mine.csv:2: mine-2: there is no field `stm`: no stm in stem, one, two, three, key" in ran.stderr


def test_two_files_of_one_name(tmp_path: Path) -> None:
    """Made-up ids of two files must not collide: the second file would vanish as duplicates."""
    files = [tmp_path / "a" / "test.jsonl", tmp_path / "b" / "test.json"]
    for file in files:
        file.parent.mkdir()
        write_jsonl(file, [ROWS["medqa"]])
    records = run_medsss(["load", *files]).ok().records
    assert [(record["id"], record["dataset"]) for record in records] == [("a-test-1", "test"), ("b-test-1", "test")]
    ran = run_medsss(["load", tmp_path])
    assert (ran.rc, "name the files in it" in ran.stderr) == (2, True)


@pytest.mark.model
def test_the_hub_through_datasets(tmp_path: Path) -> None:
    """The real library on a local folder: config and split, what a wrong split says, and a name that is not there."""
    folder = tmp_path / "set"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [ROWS["medqa"] | {"id": "t"}])
    write_jsonl(folder / "validation.jsonl", [ROWS["medqa"] | {"id": "v"}])
    home = {"HF_HOME": str(tmp_path / "home")}
    ran = run_medsss(["load", f"hf:{folder}:validation", "hf:nobody/nothing:test@main"], env=home)
    (record,) = ran.records
    assert (ran.rc, record["id"], record["answer"], record["dataset"]) == (2, "v", "B", "set")
    assert "cannot load hf:nobody/nothing:test@main" in ran.stderr
    assert "needs the hub" in ran.stderr
    assert "Traceback" not in ran.stderr
    ran = run_medsss(["load", f"hf:{folder}", "-o", tmp_path / "out"], env=home)
    assert (ran.rc, "has the splits train, validation" in ran.stderr, (tmp_path / "out").exists()) == (2, True, False)


# Parts


def test_parts_and_a_shuffle(tmp_path: Path) -> None:
    """A sample must be the same tomorrow, on a file sorted another way: seed and ids alone decide."""
    rows = [question(n) for n in range(40)]
    pool, out = write_jsonl(tmp_path / "pool.jsonl", rows), tmp_path / "out.jsonl"
    assert ids(run_medsss(["load", pool, "--limit", 2]).ok().records) == ["pool-q0", "pool-q1"]
    counted = run_medsss(["load", pool, "--limit", 0, "-o", out]).ok()
    assert (counted.stdout, out.exists(), "load: 40 read, 0 written" in counted.stderr) == ("", False, True)
    assert run_medsss(["load", pool, "-o", out]).ok().stdout == ""
    assert ids(read_jsonl(out)) == ids(rows)
    turned = write_jsonl(tmp_path / "turned.jsonl", rows[::-1])
    args = ["--shuffle", "--seed", 7]
    whole = run_medsss(["load", pool, *args]).ok().records
    assert sorted(ids(whole)) == sorted(ids(rows))
    assert ids(whole) != ids(rows)
    assert run_medsss(["load", turned, *args, "--limit", 9]).ok().records == whole[:9]
    assert run_medsss(["load", pool, "--shuffle", "--seed", 8]).ok().records != whole


# Bad input


def test_bad_rows_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    good = question(1)
    pool = tmp_path / "pool.jsonl"
    bad: list[tuple[Any, str]] = [
        (question(2, answer="D"), ":2: pool-q2: the gold answer 'D' is not one of the options A, B"),
        (good, ":3: the id 'pool-q1' came before"),
        ({"foo": 1, "bar": 2}, ":4: unknown layout: found the keys foo, bar; medsss load --map"),
        (question(5, options={}), ":5: pool-q5: the gold answer"),
        (ROWS["medqa"] | {"id": "m", "options": {"A": "x"}}, ":6: m: fewer than two options in `options`"),
        (question(7, task="number", answer="many"), ":7: pool-q7: the gold answer 'many' is not a number"),
    ]
    pool.write_text(to_lines([good, *(row for row, _ in bad)]) + "{broken\n" + to_lines([question(9)]))
    errors = tmp_path / "errors.jsonl"
    ran = run_medsss(["load", pool, "--errors", errors])
    assert (ran.rc, ids(ran.records)) == (1, ["pool-q1", "pool-q9"])
    for _, message in bad:
        assert f"{pool}{message}" in ran.stderr
    assert f"{pool}:8: not JSON" in ran.stderr
    assert "load: 2 read, 2 written, 7 bad lines" in ran.stderr
    assert "load: 0 read, 0 written" in run_medsss(["load", "/dev/null"]).ok().stderr
    assert [record["stage"] for record in read_jsonl(errors)] == ["read"] * 7
    strict = run_medsss(["load", pool, "--strict"])
    assert (strict.rc, ids(strict.records)) == (1, ["pool-q1"])


def test_tables_that_are_broken(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("question,answer\n?,aorta\n?\n?,vein\n")
    ran = run_medsss(["load", table])
    assert (ran.rc, len(ran.records)) == (1, 2)
    assert f"{table}:3: 1 cells where the first line has 2" in ran.stderr
    table.write_bytes(b"question,answer\n\xff\xfe,a\n")
    assert "reading stops here: 'utf-8' codec can't decode" in run_medsss(["load", table]).stderr
    (tmp_path / "t.parquet").write_text("no")
    ran = run_medsss(["load", tmp_path / "t.parquet"])
    assert (ran.rc, "as parquet" in ran.stderr, "Traceback" in ran.stderr) == (2, True, False)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--map", "quest=q"], "--map quest=q: expected NAME=FIELD"),
        (["--seed", "1", "{pool}"], "--seed belongs to --shuffle"),
        (["--ngram", "1", "{pool}"], "--ngram belongs to --exclude"),
        (["no/such.jsonl"], "cannot read no/such.jsonl"),
        (["hf:a:b:c:d"], "hf:NAME[[:CONFIG]:SPLIT]"),
        (["{pool}", "--exclude", "/dev/null"], "no problem in /dev/null"),
        (["/dev/null", "--shuffle"], "there is no record to shuffle"),
    ],
)
def test_wrong_usage(tmp_path: Path, args: list[str], message: str) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", [question(1)])
    ran = run_medsss(["load", *(arg.replace("{pool}", str(pool)) for arg in args)])
    assert (ran.rc, ran.stdout) == (2, "")
    assert message in ran.stderr


# Contamination


VIGNETTE = (
    "A 31-year-old woman comes to the clinic because of a burning pain in both feet that has grown worse for six weeks "
    "and keeps her awake at night. Which of the following is the cause?"
)


def test_a_pool_without_its_test_set(tmp_path: Path) -> None:
    """A pool that holds the test set makes every later number a lie; what goes and why must be said."""
    test = write_jsonl(tmp_path / "test.jsonl", [question(1, "test", question=VIGNETTE), question(2, "test")])
    rows = [
        question(1, question=VIGNETTE.upper()),
        question(2, question="Seen elsewhere: " + VIGNETTE.replace("31", "32").replace("the cause?", "to be done?")),
        question(3, question="Case 2: which drug", options={"A": "Aspirin", "B": "Heparin"}),
        question(4, question="A man of 60 has gout. Which enzyme is inhibited by the usual drug?"),
    ]
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    ran = run_medsss(["load", pool, "--exclude", test]).ok()
    assert ids(ran.records) == ["pool-q4"]
    lines = ran.stderr.splitlines()
    assert f"{pool}:1: pool-q1 dropped (equal): {test}:1 (test-q1): the same question and options" in lines
    assert any(
        line.startswith(f'{pool}:2: pool-q2 dropped (ngram): {test}:1 (test-q1): "year old woman comes to')
        for line in lines
    )
    assert f"{pool}:3: pool-q3 dropped (equal): {test}:2 (test-q2): the same question and options" in lines
    assert "medsss: load: 3 dropped for their overlap with the test set (2 equal, 1 ngram)" in lines
    assert ids(run_medsss(["load", pool, "--exclude", test, "--ngram", 40]).ok().records) == ["pool-q2", "pool-q4"]
    many = write_jsonl(tmp_path / "many.jsonl", [question(n) for n in range(30)])
    ran = run_medsss(["load", many, "--exclude", many]).ok()
    assert (ran.stdout, ran.stderr.count(" dropped (equal)")) == ("", 20)
    assert "30 dropped for their overlap with the test set (30 equal); 10 of them not shown" in ran.stderr


def problem(text: str, options: dict[str, str] | None = None) -> Problem:
    return Problem(id="p", question=text, answer="A", options=options, task=Task.CHOICE if options else Task.TEXT)


WORDS = [f"word{chr(97 + n)}" for n in range(20)]
TASK = "In this task you get a sentence and a drug name and must name the dose in words"
TRUE = "Which statement is true?"
IRON, ZINC = "Iron is stored as ferritin", "Zinc is toxic"
CHEST = "患者男性六十岁，突发胸痛两小时，心电图示ST段抬高，首选治疗是什么？"


@pytest.mark.parametrize(
    ("held", "asked", "rule"),
    [
        # Twelve words are no overlap, and thirteen are.
        ([problem(" ".join(WORDS))], problem(f"other {' '.join(WORDS[3:15])} end"), None),
        ([problem(" ".join(WORDS))], problem(f"other {' '.join(WORDS[3:16])} end"), "ngram"),
        # The instructions of a task stand in all its problems; they would drop every other set with that task.
        ([problem(f"{TASK}: drug{chr(97 + n)}") for n in range(COMMON + 1)], problem(f"{TASK}: digoxin"), None),
        ([problem(f"{TASK}: druga")], problem(f"{TASK}: digoxin"), "ngram"),
        # "Which statement is true?" is a thousand questions: it needs its options too.
        ([problem(TRUE, {"A": IRON, "B": ZINC})], problem(TRUE, {"A": "Veins have valves", "B": "No"}), None),
        ([problem(TRUE, {"A": IRON, "B": ZINC})], problem(TRUE, {"A": ZINC, "B": IRON}), "equal"),
        # Chinese runs are of characters.
        ([problem(CHEST)], problem("某日，患者男性六十岁，突发胸痛两小时，应做何检查？"), "ngram"),
        ([problem(CHEST)], problem("患者女性，发热三天，咳嗽，应做何检查？"), None),
        ([problem(CHEST)], problem("..."), None),
    ],
)  # fmt: skip
def test_what_is_an_overlap(held: list[Problem], asked: Problem, rule: str | None) -> None:
    index = Contamination()
    for number, each in enumerate(held):
        index.add(each, f"test:{number}")
    found = index.overlap(asked)
    assert (found and found[0]) == rule
    if found and "wordd" in asked.question:
        assert found[1] == f'test:0 (p): "{" ".join(WORDS[3:16])}"'
