"""Options from `--config FILE` and from MEDSSS_* variables: which of them counts, and what a slip of the pen gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import read_jsonl, run_medsss
from trees import record as tree_record


def toml(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def test_command_line_before_environment_before_file_before_default(tmp_path: Path) -> None:
    """The file says all five, the environment three, the command line one; `solutions` is left to its default."""
    path = toml(
        tmp_path,
        'count = 9\nseed = 1\n[clinic]\nseed = 2\nkind = ["qsofa", "curb_65"]\nsplit = "test"\noutput = "file.jsonl"\n',
    )
    env = {"MEDSSS_SEED": "3", "MEDSSS_COUNT": "5", "MEDSSS_CLINIC_COUNT": "4", "MEDSSS_OUTPUT": "variable.jsonl"}
    run_medsss(["clinic", "--config", path, "-o", "line.jsonl"], env=env, cwd=tmp_path).ok()
    written = ["--split", "test", "--kind", "qsofa", "--kind", "curb_65"]
    assert read_jsonl(tmp_path / "line.jsonl") == run_medsss(["clinic", "-n", 4, "--seed", 3, *written]).ok().records
    # The command's own table comes before the top level, and a variable can name the file.
    run_medsss(["clinic"], env={"MEDSSS_CONFIG": "run.toml"}, cwd=tmp_path).ok()
    assert read_jsonl(tmp_path / "file.jsonl") == run_medsss(["clinic", "-n", 9, "--seed", 2, *written]).ok().records


def test_one_file_holds_the_whole_loop(tmp_path: Path) -> None:
    """Inputs, a required option, dashes or underscores, a flag named by its opposite; what is of other commands is
    left to them."""
    (tmp_path / "trees.jsonl").write_text(json.dumps(tree_record(id="t0")) + "\n")
    path = toml(
        tmp_path,
        'policy = "P0"\nquiet = true\n'
        '[label]\ninputs = ["trees.jsonl"]\nto = "sft"\nno-reflect = true\nmax_per_problem = 1\n'
        "[train_prm]\nfull = true\n[search]\nmax-nodes = 3\n",
    )
    ran = run_medsss(["label", "--config", path], cwd=tmp_path).ok()
    direct = run_medsss(
        ["label", "--to", "sft", "--no-reflect", "--max-per-problem", 1, "-q", tmp_path / "trees.jsonl"]
    )
    assert ran.records == direct.ok().records
    assert len(ran.records) == 1
    assert ran.stderr == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max-node = 3", ["max-node is no option", "did you mean max_nodes?"]),
        ("[search]\nto = 'sft'", ["[search] to is no option"]),
        ("[serch]\nseed = 1", ["[serch] names no command", "did you mean search?"]),
        ("limit = 'few'", ["'--limit': 'few' is not a valid int", "(from run.toml)"]),
        ("top-p = 'much'", ["'--top-p': 'much' is not a valid float", "(from run.toml)"]),
        ("strict = 1", ["strict = 1", "true or false"]),
        ("device = 'gpu'", ["'--device': 'gpu' is not one of", "(from run.toml)"]),
        ("policy = ['a', 'b']", ["policy = ['a', 'b']", "one value, no list"]),
        ("base-url = 'http://a'", ["base-url = 'http://a'", "a list"]),
        ("config = 'other.toml'", ["config is no option"]),
        ("seed = 1\nseed = 2", ["not TOML"]),
        ("seed 1", ["not TOML", "line 1"]),
        ("seed = \udcff", ["not TOML"]),
        (f"policy = {'[' * 5000}", ["not TOML"]),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_a_slip_in_the_file_is_named_and_nothing_runs(tmp_path: Path, text: str, said: list[str]) -> None:
    toml(tmp_path, text)
    ran = run_medsss(["search", "--config", "run.toml"], cwd=tmp_path)
    assert (ran.rc, ran.stdout) == (2, "")
    assert "run.toml" in ran.stderr
    for part in said:
        assert part in ran.stderr


def test_a_file_that_is_not_there() -> None:
    ran = run_medsss(["search", "--config", "gone.toml"])
    assert (ran.rc, ran.stderr) == (2, "medsss: cannot read --config gone.toml: No such file or directory\n")


def test_variables_are_lists_and_flags_too() -> None:
    env = {"MEDSSS_KIND": "qsofa curb_65", "MEDSSS_SOLUTIONS": "yes", "MEDSSS_N": "3", "MEDSSS_SPLIT": ""}
    records = run_medsss(["clinic"], env=env).ok().records
    assert (
        records == run_medsss(["clinic", "-n", 3, "--kind", "qsofa", "--kind", "curb_65", "--solutions"]).ok().records
    )


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"MEDSSS_LABEL_LIMT": "3"}, ["MEDSSS_LABEL_LIMT names no option", "did you mean MEDSSS_LABEL_LIMIT?"]),
        ({"MEDSSS_LIMIT": "few"}, ["'--limit': 'few' is not a valid int", "(from MEDSSS_LIMIT)"]),
        # One for another command is no slip here.
        ({"MEDSSS_SEARCH_UCB_C": "1", "MEDSSS_TRAIN_PRM_LR": "1", "MEDSSS_LIMIT": "2"}, []),
    ],
)
def test_a_misspelt_variable_does_not_pass_silently(env: dict[str, str], said: list[str]) -> None:
    """A day-long search with another seed than meant."""
    ran = run_medsss(["label", "--to", "sft"], env=env)
    assert ran.rc == (2 if said else 0)
    assert [part for part in said if part not in ran.stderr] == []
    assert ("MEDSSS" in ran.stderr) == bool(said)
