"""Runs of the real program that do not wait for imports: a warm process has the modules, and forks for each run.

A run is a process of its own, with its own pipes, working folder, environment and exit status; it only starts where
`python -m medsss_cli.app` would be after its imports. What a test says about the start itself (what is imported, what
the interpreter or a library reads from the environment) takes a process from scratch: `run_medsss(..., fresh=True)`.

    python warm.py serve SOCKET MODULE...        the warm process; it ends with its parent
    python warm.py call LIGHT HEAVY ARG...       `medsss ARG...` on this process's descriptors, for shell scripts
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

LIGHT = ["numpy", "orjson", "msgspec", "medsss_cli.app"]
LIGHT += [
    f"medsss_cli.commands.{name}" for name in ("clinic", "eval", "label", "load", "report", "sample", "search", "view")
]
HEAVY = [*LIGHT, *(f"medsss_cli.commands.{name}" for name in ("bon", "train_policy", "train_prm"))]
HEAVY += ["torch", "transformers"]
HEAVY += ["transformers.models.llama.modeling_llama", "transformers.models.qwen2.modeling_qwen2", "datasets", "peft"]
HEAVY += ["trl.trainer.sft_trainer", "trl.trainer.dpo_trainer"]


@cache
def warm(heavy: bool) -> str:
    """The socket of the warm process, which is started when it is first asked for and ends with this one."""
    folder = tempfile.mkdtemp(prefix="medsss-warm-")
    path = f"{folder}/socket"
    from helpers import clean_env

    command = [sys.executable, __file__, "serve", path, *(HEAVY if heavy else LIGHT)]
    process = subprocess.Popen(
        command, env=clean_env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    def end(owner: int = os.getpid()) -> None:
        if os.getpid() == owner:
            process.kill()
            process.wait()
            os.unlink(path)
            os.rmdir(folder)

    atexit.register(end)
    return path


def is_heavy(argv: list[str]) -> bool:
    """Whether a command line opens a model."""
    return bool(argv) and (argv[0].startswith("train-") or bool({"--policy", "--prm"} & {*argv}))


def forked(
    argv: list[str], fds: list[int], env: dict[str, str], cwd: Path, path: str, started: Callable[[int], None]
) -> int:
    """Run the program on these descriptors; `started` gets its process id. Returns its exit status, which is negative
    where a signal ended it."""
    request = json.dumps({"argv": argv, "env": env, "cwd": str(cwd)}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [len(request).to_bytes(4, "big")], fds)
        connection.sendall(request)
        started(int(_receive(connection, 16)))
        return int(_receive(connection, 16))


def run_warm(argv: list[str], data: bytes, env: dict[str, str], cwd: Path, timeout: float) -> tuple[int, bytes, bytes]:
    """Exit status, stdout and stderr of a run that reads `data`."""
    pipes = [os.pipe() for _ in range(3)]
    (stdin, feed), (read_out, stdout), (read_err, stderr) = pipes
    outputs: dict[int, bytes] = {}

    def read(fd: int) -> None:
        with open(fd, "rb") as file:
            outputs[fd] = file.read()

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), open(feed, "wb") as file:
            file.write(data)

    threads = [threading.Thread(target=read, args=(fd,)) for fd in (read_out, read_err)]
    threads.append(threading.Thread(target=write))
    killers: list[threading.Timer] = []

    def started(pid: int) -> None:
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        for thread in threads:
            thread.start()
        killers.append(threading.Timer(timeout, os.kill, (pid, signal.SIGKILL)))
        killers[0].start()

    status = forked(argv, [stdin, stdout, stderr], env, cwd, warm(is_heavy(argv)), started)
    killers[0].cancel()
    for thread in threads:
        thread.join()
    return status, outputs[read_out], outputs[read_err]


def put_medsss(folder: Path, heavy: bool = False) -> None:
    """A `medsss` in this folder, for the PATH of shell scripts; `heavy`: all runs come from the process with torch."""
    folder.mkdir(exist_ok=True)
    command = f'exec "{sys.executable}" -S "{__file__}" call "{warm(heavy)}" "{warm(True)}" "$@"'
    (folder / "medsss").write_text(f"#!/bin/sh\n{command}\n")
    (folder / "medsss").chmod(0o755)


def _receive(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(size, socket.MSG_WAITALL)
    assert len(data) == size, "the warm process is gone"
    return data


def _serve(path: str, modules: list[str]) -> list[str]:
    """Answer requests for as long as the parent lives. Returns in a forked run alone, with its arguments."""
    for name in modules:
        __import__(name)
    threads = {Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")}
    assert len(threads - {"jemalloc_bg_thd"}) == 1, f"a process with threads must not fork: {threads}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    gc.collect()
    gc.freeze()  # what a run collects is its own garbage
    os.write(1, b"ready\n")
    parent = os.getppid()
    while True:
        listener.settimeout(1)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if os.getppid() != parent:
                os._exit(0)
            continue
        if os.fork():
            connection.close()
            continue
        listener.close()
        connection.settimeout(None)
        size, fds, _, _ = socket.recv_fds(connection, 4, 3)
        request = json.loads(_receive(connection, int.from_bytes(size, "big")))
        child = os.fork()
        if not child:
            connection.close()
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
                os.close(fd)
            os.environ.clear()
            os.environ.update(request["env"])
            os.chdir(request["cwd"])
            if request["argv"][:1] == ["echo"]:  # stream_program.py
                __import__("stream_program").enter(sys.modules["stream_program"])
            return ["medsss", *request["argv"]]
        for fd in fds:
            os.close(fd)
        connection.sendall(f"{child:16}".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(f"{status:16}".encode())
        os._exit(0)


def _main(what: str, *args: str) -> None:
    if what == "call":
        light, heavy, *argv = args
        path = heavy if is_heavy(argv) else light
        status = forked(argv, [0, 1, 2], dict(os.environ), Path.cwd(), path, lambda _: None)
        os._exit(status if status >= 0 else 128 - status)
    sys.path.insert(0, os.getcwd())  # as after `python -m`
    sys.argv = _serve(args[0], list(args[1:]))
    try:
        sys.modules["medsss_cli.app"].main()
    except SystemExit as end:
        # As the interpreter does, but for taking its modules apart: with torch in it that is a second and a half.
        status = end.code
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        try:
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
        except (OSError, ValueError):
            status = 120
        os._exit(status)  # type: ignore[arg-type]


if __name__ == "__main__":
    _main(*sys.argv[1:])
