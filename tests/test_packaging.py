"""What is installed: every folder is a package of the wheel, and the wheel runs outside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from helpers import clean_env

ROOT = Path(__file__).parent.parent


def test_packages_are_the_folders() -> None:
    """A folder that the list forgets is missing from the wheel, and no editable install shows it."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {".".join(init.parent.relative_to(ROOT).parts) for init in (ROOT / "medsss_cli").rglob("__init__.py")}
    modules = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "medsss_cli").rglob("*.py")}
    assert modules == folders, "a folder with modules has no __init__.py"
    assert set(setuptools["packages"]) == folders | {"medsss_cli.commands"}
    assert setuptools["package-dir"] == {"medsss_cli.commands": "commands"}
    assert not [path for path in (ROOT / "commands").rglob("__init__.py") if path.parent != ROOT / "commands"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built out of tree: a `build` folder left in it would lend its old files."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
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


def test_the_wheel_holds_everything(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "medsss_cli").rglob("*.py")}
    modules |= {f"medsss_cli/{path.relative_to(ROOT)}" for path in (ROOT / "commands").glob("*.py")}
    assert modules <= names
    assert "medsss_cli/py.typed" in names
    policy = {name for name in names if name.startswith("medsss_cli/clinic/policy/")}
    assert any(name.endswith(".safetensors") for name in policy), "the clinic's policy is not in the wheel"
    assert {"medsss_cli/clinic/policy/config.json", "medsss_cli/clinic/policy/tokenizer.json"} <= policy
    assert not [name for name in names if name.startswith(("commands/", "tests/", "benchmarks/"))]


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
            ["bash", "-o", "pipefail", "-c", command],
            cwd=outside,
            env=env,
            capture_output=True,
            text=True,
            timeout=240,
        )

    found = shell("python -c 'import medsss_cli, medsss_cli.commands as c; print(medsss_cli.__file__, c.__file__)'")
    assert all(path.startswith(str(site)) for path in found.stdout.split()), found
    assert str(home / "bin" / "medsss") in shell("command -v medsss").stdout
    done = shell("medsss clinic -n 3 --seed 1 | medsss sample -n 2 | medsss eval")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")


def test_the_page_on_records_names_every_field() -> None:
    from medsss_cli import records

    page = (ROOT / "docs" / "records.md").read_text()
    sections = {part.split("\n", 1)[0]: part for part in page.split("\n## ")}
    kinds = {
        "problem": [records.Problem],
        "samples": [records.Samples, records.Response],
        "tree": [records.Tree, records.Node],
        "sft": [records.Sft],
        "preference": [records.Preference],
        "prm": [records.Prm],
        "scored": [records.Scored, records.Candidate],
        "error": [records.ErrorRecord],
    }
    for name, structs in kinds.items():
        for struct in structs:
            fields = set(struct.__struct_fields__)
            if struct is not records.Problem and issubclass(struct, records.Problem):
                fields -= set(records.Problem.__struct_fields__)
            assert {field for field in fields if f"`{field}`" not in sections[name]} == set(), name
    for enum in (records.Task, records.Verdict, records.Action):
        assert all(f"`{member}`" in page for member in enum)
