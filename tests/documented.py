"""Run the command lines that the documents show: `Console` has a `medsss` on its PATH, and `examples` reads a page.

A page of documents runs some forty commands, and half of them would import torch, transformers and TRL, five to ten
seconds each. So one process imports these once, and `medsss` on the PATH is a few lines that hand their descriptors,
folder, arguments and environment to it; it forks, and the child is the program: `app.run`, its own pipes, its own exit
status.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from helpers import clean_env

ROOT = Path(__file__).parent.parent

_CLIENT = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(call).to_bytes(8, "big")], [0, 1, 2])
server.sendall(call)
status = server.recv(1)
os._exit(status[0] if status else 1)
"""


class Console:
    """Runs command lines in `folder` as a shell does, with `medsss` from this checkout. A context manager."""

    def __init__(self, scratch: Path) -> None:
        self.bin = scratch / "bin"
        self.bin.mkdir(parents=True)
        address = str(scratch / "s")
        (self.bin / "medsss").write_text(_CLIENT.format(python=sys.executable, address=address))
        (self.bin / "medsss").chmod(0o755)
        self.env = clean_env()
        self.env["PATH"] = f"{self.bin}{os.pathsep}{self.env['PATH']}"
        self._server = subprocess.Popen(
            [sys.executable, __file__, address], env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n"

    def __enter__(self) -> Console:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._server.kill()
        self._server.communicate()

    def run(self, command: str, folder: Path, env: dict[str, str] | None = None, timeout: float = 120) -> Any:
        """The finished process of one command line; stdout and stderr are one text, as on a terminal."""
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=folder,
            env=self.env | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )


@dataclass
class Example:
    """A command line of a page and what the page shows under it: [] where it shows nothing."""

    command: str
    shown: list[str]

    def check(self, status: int, output: str) -> None:
        """A line `...` stands for any lines, and `...` within a line for any text. Where nothing is shown, anything
        may have been written."""
        assert status == 0, f"exit status {status} of: {self.command}\n{output}"
        if self.shown:
            pattern = "\n".join(r"(?:.*\n)*?.*" if line.strip() == "..." else _pattern(line) for line in self.shown)
            assert re.fullmatch(pattern, output.rstrip("\n")), f"$ {self.command}\n{output}\nbut the page shows\n" + (
                "\n".join(self.shown)
            )


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.rstrip().split("...")) + " *"


def examples(text: str) -> list[Example]:
    """The commands of a page's ```console blocks: lines after `$ `, gone on with after a backslash."""
    found: list[Example] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Example(line[2:], []))
            elif found[-1].command.endswith("\\"):
                found[-1].command = found[-1].command[:-1] + line.strip()
            else:
                found[-1].shown.append(line)
    return found


def _serve(address: str) -> None:
    """Import what the commands import, then fork a child for each call."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer, Trainer  # noqa: F401
    from trl import DPOTrainer, SFTTrainer  # noqa: F401

    from medsss_cli import app  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen(64)
    os.write(1, b"ready\n")
    while True:
        client, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _child(client)
        client.close()


def _child(client: socket.socket) -> None:
    from medsss_cli import app

    head, fds, *_ = socket.recv_fds(client, 8, 3)
    with client.makefile("rb", buffering=0) as stream:
        call = b""
        while len(call) < int.from_bytes(head, "big"):
            call += stream.read(65536) or b""
    argv, folder, environment = json.loads(call)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["medsss", *argv]
    status = 1
    try:
        status = app.run(argv)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        # What waits for the end of a pipe must see it before the client reports the end of the program.
        for number in range(3):
            os.close(number)
        client.sendall(bytes([status]))
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
