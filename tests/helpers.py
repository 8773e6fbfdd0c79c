"""What tests share: the real program as a subprocess, and files of JSON lines. `from helpers import run_medsss`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warm import run_warm

from medsss_cli.engines import EngineConfig, open_engine
from medsss_cli.records import Message
from medsss_cli.requests import Prompt, Sampling


@dataclass(frozen=True)
class Ran:
    """What a run of the program gave: its exit status, and both streams as text."""

    rc: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """stdout as JSON lines."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def ok(self) -> Ran:
        """Itself, after a check that the run ended with 0."""
        assert self.rc == 0, f"exit status {self.rc}\n{self.stderr}"
        return self


def program(*args: object) -> list[str]:
    """The command line that runs `medsss` with these arguments from this checkout."""
    return [sys.executable, "-m", "medsss_cli.app", *(str(arg) for arg in args)]


def clean_env(**more: str) -> dict[str, str]:
    """The environment of a run: nothing of the user's own settings, no network for the hub, one thread."""
    keep = ("PATH", "HOME", "TMPDIR", "LANG", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
    env = {name: os.environ[name] for name in keep if name in os.environ}
    return env | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "COLUMNS": "100",
        **more,
    }


def run_medsss(
    args: Sequence[object],
    stdin: str | bytes | Path | None = None,
    *,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 240,
    fresh: bool = False,
) -> Ran:
    """Run the program to its end. `stdin` is text, bytes, a file, or None for empty input; `fresh` is a process from
    scratch, where others are forked from a warm one (warm.py)."""
    data = stdin.read_bytes() if isinstance(stdin, Path) else stdin.encode() if isinstance(stdin, str) else stdin or b""
    environment = clean_env(**(env or {}))
    if fresh or any(not name.startswith("MEDSSS") for name in env or {}):
        done = subprocess.run(
            program(*args), input=data, capture_output=True, env=environment, cwd=cwd, timeout=timeout
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
    argv = [str(arg) for arg in args]
    status, out, err = run_warm(argv, data, environment, cwd or Path.cwd(), timeout)
    return Ran(status, out.decode(), err.decode())


def on_a_terminal(*args: object, columns: int = 80, **env: str) -> Ran:
    """A run whose stdin and stdout are a terminal of so many columns."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environ = clean_env(**{"TERM": "xterm-256color", **env})
    del environ["COLUMNS"]
    child = subprocess.Popen(program(*args), stdout=its, stderr=subprocess.PIPE, stdin=its, env=environ)
    os.close(its)
    out = b""
    with contextlib.suppress(OSError):  # Linux ends a terminal with EIO
        while block := os.read(ours, 65536):
            out += block
    os.close(ours)
    assert child.stderr is not None
    error = child.stderr.read().decode()
    return Ran(child.wait(60), out.decode().replace("\r\n", "\n"), error)


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write the records as JSON lines; returns the path."""
    path.write_text(to_lines(records), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a plain file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def to_lines(records: Iterable[dict[str, Any]]) -> str:
    """The records as text, to hand to stdin."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def layout_rows() -> dict[str, dict[str, Any]]:
    """The example row of each layout by its name, as docs/layouts.md shows it."""
    page = (Path(__file__).parents[1] / "docs" / "layouts.md").read_text(encoding="utf-8")
    return {name: json.loads(row) for name, row in re.findall(r"^### (\w+)\n.*?```json\n(.*?)\n```", page, re.M | re.S)}


def problem(i: int) -> dict[str, Any]:
    """The i-th of problems that are equal but for their number."""
    return {
        "id": f"p{i}",
        "question": f"Problem {i}: is a potassium of 6.1 high?",
        "options": {"A": "No", "B": "Yes"},
        "answer": "B",
        "dataset": "made",
        "task": "choice",
        "meta": {"number": i},
    }


def ask(text: str, prefix: str = "") -> Prompt:
    """A question of one turn, and how its answer begins."""
    return Prompt((Message("user", text),), prefix)


def served(config: EngineConfig, requests: Sequence[tuple[Prompt, Sampling, int]]) -> list[Any]:
    """All requests at once on a fresh engine; the completions of each, or its exception."""

    async def main() -> list[Any]:
        async with open_engine(config) as engine:
            return await asyncio.gather(*(engine.complete(*each) for each in requests), return_exceptions=True)

    return asyncio.run(main())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
