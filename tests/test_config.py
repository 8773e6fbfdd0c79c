"""Options from `--config FILE` and from MEDSSS_* variables: which of them counts, and what a slip of the pen gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from helpers import Ran, clean_env, read_jsonl
from trees import record as tree_record

Medsss = Callable[..., Ran]


def toml(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def runs(argvs: Sequence[Sequence[object]], folder: Path) -> list[tuple[int, str]]:
    """Exit status and stderr of each command line, all run in one process: starting Python is most of such a run."""
    probe = (
        "import contextlib, io, json, sys\n"
        "from medsss_cli.app import run\n"
        "ended = []\n"
        "for argv in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said:\n"
        "        status = run(argv)\n"
        "    ended.append([status, said.getvalue()])\n"
        "print(json.dumps(ended))\n"
    )
    lines = json.dumps([[str(arg) for arg in argv] for argv in argvs])
    done = subprocess.run(
        [sys.executable, "-c", probe, lines], capture_output=True, text=True, env=clean_env(), cwd=folder, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [(status, said) for status, said in json.loads(done.stdout)]


def test_command_line_before_environment_before_file_before_default(medsss: Medsss, tmp_path: Path) -> None:
    """The file says all five, the environment three, the command line one; `solutions` is left to its default."""
    path = toml(
        tmp_path,
        'count = 9\nseed = 1\n[clinic]\nseed = 2\nkind = ["qsofa", "curb_65"]\nsplit = "test"\noutput = "file.jsonl"\n',
    )
    env = {"MEDSSS_SEED": "3", "MEDSSS_COUNT": "5", "MEDSSS_CLINIC_COUNT": "4", "MEDSSS_OUTPUT": "variable.jsonl"}
    medsss(["clinic", "--config", path, "-o", "line.jsonl"], env=env, cwd=tmp_path).ok()
    written = ["--split", "test", "--kind", "qsofa", "--kind", "curb_65"]
    assert read_jsonl(tmp_path / "line.jsonl") == medsss(["clinic", "-n", 4, "--seed", 3, *written]).ok().records
    assert sorted(os.listdir(tmp_path)) == ["line.jsonl", "run.toml"]
    # The command's own table comes before the top level, and a variable can name the file.
    medsss(["clinic"], env={"MEDSSS_CONFIG": "run.toml"}, cwd=tmp_path).ok()
    assert read_jsonl(tmp_path / "file.jsonl") == medsss(["clinic", "-n", 9, "--seed", 2, *written]).ok().records


def test_one_file_holds_the_whole_loop(medsss: Medsss, tmp_path: Path) -> None:
    """Inputs, a required option, a flag with an opposite, dashes or underscores; what is of other commands is left to
    them. Paths are as the shell's."""
    (tmp_path / "trees.jsonl").write_text(json.dumps(tree_record(id="t0")) + "\n")
    path = toml(
        tmp_path,
        'policy = "P0"\nquiet = true\n'
        '[label]\ninputs = ["trees.jsonl"]\nto = "sft"\nno-reflect = true\nmax_per_problem = 1\n'
        "[train_prm]\nfull = true\n[search]\nmax-nodes = 3\n",
    )
    ran = medsss(["label", "--config", path], cwd=tmp_path).ok()
    direct = medsss(["label", "--to", "sft", "--no-reflect", "--max-per-problem", 1, "-q", tmp_path / "trees.jsonl"])
    assert ran.records == direct.ok().records
    assert len(ran.records) == 1
    assert ran.stderr == ""


def test_a_slip_in_the_file_is_named_with_file_and_key(tmp_path: Path) -> None:
    wrong = {
        "max-node = 3": ["max-node is no option of any command", "did you mean max-nodes"],
        "[search]\nto = 'sft'": ["search.to is no option of `medsss search`"],
        "[serch]\nseed = 1": ["[serch] names no command", "did you mean search?"],
        "limit = '3'": ["limit = '3': wants a whole number"],
        "limit = true": ["limit = true: wants a whole number"],
        "limit = -3": ["limit: -3 is not in the range x>=0"],
        "top-p = 'much'": ["top-p = 'much': wants a number"],
        "strict = 1": ["strict = 1: wants true or false"],
        "device = 'gpu'": ["device: 'gpu' is not one of"],
        "policy = ['a', 'b']": ["policy = ['a', 'b']: wants text in quotes"],
        "base-url = ['http://a', 3]": ["base-url = ['http://a', 3]: wants a list of text"],
        "max-context = 5\nmax-model-len = 6": ["max-context and max-model-len say the same option"],
        "seed = 1\nseed = 2": ["not TOML"],
        "seed 1": ["not TOML", "line 1"],
        "config = 'other.toml'": ["config is no option of any command"],
        "seed = \udcff": ["not UTF-8"],
        f"policy = {'[' * 5000}": ["nested too deeply"],
    }
    argvs = []
    for number, text in enumerate(wrong):
        (tmp_path / f"{number}.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
        argvs.append(["search", "--config", f"{number}.toml"])
    argvs.append(["search", "--config", "gone.toml"])
    *ended, gone = runs(argvs, tmp_path)
    for number, ((status, said), expected) in enumerate(zip(ended, wrong.values(), strict=True)):
        assert status == 2, said
        assert said.startswith(f"medsss: {number}.toml: "), said
        for part in expected:
            assert part in said
    assert gone == (2, "medsss: cannot read --config gone.toml: No such file or directory\n")


def test_variables_are_lists_and_flags_too(medsss: Medsss) -> None:
    env = {"MEDSSS_KIND": "qsofa curb_65", "MEDSSS_SOLUTIONS": "yes", "MEDSSS_N": "3", "MEDSSS_SPLIT": ""}
    records = medsss(["clinic"], env=env).ok().records
    assert records == medsss(["clinic", "-n", 3, "--kind", "qsofa", "--kind", "curb_65", "--solutions"]).ok().records


def test_a_variable_that_names_no_option_does_not_pass_silently(medsss: Medsss) -> None:
    """A day-long search with another seed than meant: MEDSSS_SED is a slip; MEDSSS_UCB_C is of another command."""
    env = {"MEDSSS_SED": "3", "MEDSSS_UCB_C": "1", "MEDSSS_TRAIN_PRM_LR": "1", "MEDSSS_LIMIT": "2"}
    ran = medsss(["label", "--to", "sft"], stdin="", env=env).ok()
    warnings = [line for line in ran.stderr.splitlines() if "MEDSSS" in line]
    assert warnings == [
        "medsss: warning: MEDSSS_SED in the environment names no option; did you mean MEDSSS_SEED?",
    ]
    assert medsss(["label", "--to", "sft", "-q"], stdin="", env=env).ok().stderr == ""
    bad = medsss(["label", "--to", "sft"], env={"MEDSSS_LIMIT": "few"})
    assert bad.rc == 2
    assert "'--limit': 'few' is not a valid int range. (from MEDSSS_LIMIT)" in bad.stderr


def test_verbose_says_where_each_option_came_from(medsss: Medsss, tmp_path: Path) -> None:
    path = toml(tmp_path, 'to = "sft"\n')
    ran = medsss(["label", "-v", "--config", path, "--limit", 1], stdin="", env={"MEDSSS_MIN_VALUE": "0.5"}).ok()
    said = ran.stderr.splitlines()
    assert said[0].startswith("medsss: label: medsss ")
    assert f"medsss:   from {path}: --to sft" in said
    assert "medsss:   from MEDSSS_MIN_VALUE: --min-value 0.5" in said
    assert "medsss:   from command line: --limit 1, --verbose" in said
    both = medsss(["label", "--to", "sft", "-q", "-v"], stdin="")
    assert (both.rc, both.stderr) == (2, "medsss: -q and -v exclude each other\n")
