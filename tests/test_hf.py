"""The hf engine on tiny random models: what it returns is what the model alone would have written."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import ask, clean_env, problem, program, served, to_lines
from tiny_models import make_tiny_adapter, make_tiny_model, make_tiny_reward, make_tiny_tokenizer

from medsss_cli.engines import EngineConfig, open_engine, resolve_policy
from medsss_cli.engines.rendering import render
from medsss_cli.errors import EngineError, UsageError
from medsss_cli.requests import FinishReason, Prompt, Sampling


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a tiny model of an architecture, made once."""
    made: dict[str, Path] = {}

    def make(arch: str = "llama") -> str:
        if arch not in made:
            made[arch] = make_tiny_model(tmp_path_factory.mktemp(arch), arch)
        return str(made[arch])

    return make


def serve(folder: str, requests: Sequence[tuple[Prompt, Sampling, int]], **spec: Any) -> list[Any]:
    return served(EngineConfig(engine="hf", policy=folder, **spec), requests)


def mixed_requests(count: int) -> list[tuple[Prompt, Sampling, int]]:
    draw = random.Random(5)
    requests = []
    for number in range(count):
        words = " ".join(str(draw.randrange(1000)) for _ in range(draw.randrange(1, 40)))
        stop = ((), ("e",), ("\n", "Step"))[number % 3]
        sampling = Sampling(
            temperature=(1.0, 0.7, 0.0, 1.3)[number % 4],
            top_p=(1.0, 0.8)[number // 2 % 2],
            max_tokens=draw.randrange(1, 30),
            stop=stop,
            seed=number,
        )
        requests.append((ask(words, "Step 1:" if number % 5 == 0 else ""), sampling, 1 + number % 3))
    return requests


def test_a_completion_does_not_depend_on_its_company(folder: Any) -> None:
    """With sliding windows as well; plain attention: test_engines.py."""
    requests = mixed_requests(40)

    async def one_by_one() -> list[Any]:
        async with open_engine(EngineConfig(engine="hf", policy=folder("gemma3"))) as engine:
            return [await engine.complete(*each) for each in requests]

    alone = asyncio.run(one_by_one())
    order = random.Random(1).sample(range(40), 40)
    assert serve(folder("gemma3"), [requests[i] for i in order], batch_size=7) == [alone[i] for i in order]
    reasons = {completion.finish_reason for completions in alone for completion in completions}
    assert reasons >= {FinishReason.STOP, FinishReason.LENGTH}


@pytest.mark.parametrize("arch", ["llama", "gpt2", "mistral-sliding", "gemma3", "mamba2"])
def test_greedy_equals_generate(folder: Any, arch: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder(arch), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder(arch))
    prompts = [ask("a"), ask("What is the anion gap of 140, 100 and 24?"), ask("Which?\nA. x\nB. y", "Step 0: Let's")]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([render(tokenizer, prompt)])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        written = [id for id in out[0, ids.shape[1] :].tolist() if id not in tokenizer.all_special_ids]
        expected.append(tokenizer.decode(written, clean_up_tokenization_spaces=False))
    served = serve(folder(arch), [(prompt, Sampling(temperature=0, max_tokens=24), 2) for prompt in prompts])
    assert [[completion.text for completion in pair] for pair in served] == [[text, text] for text in expected]


def test_end_of_turn_ends_and_is_counted_but_not_written(tmp_path: Path) -> None:
    """Every token that may end a turn does: the tokenizer's, the model's list, and what the template writes last."""
    from transformers import AutoModelForCausalLM

    make_tiny_model(tmp_path, spread=0.02)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model.generation_config.eos_token_id = [4]
    model.save_pretrained(tmp_path)
    [completions] = serve(str(tmp_path), [(ask("x"), Sampling(max_tokens=500, seed=1), 60)])
    ended = [c for c in completions if c.finish_reason is FinishReason.EOS]
    assert len(ended) > 30  # nearly flat logits over 400 tokens, two of which end: half are over within 140 tokens
    assert all("<|" not in c.text for c in ended)
    lengths = sorted(c.tokens for c in ended)
    assert lengths[len(lengths) // 2] < 250


def test_out_of_memory_halves_that_batch_and_changes_nothing(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from medsss_cli.engines.hf import HfEngine

    requests = mixed_requests(20)
    expected = serve(folder(), requests)
    write = HfEngine._generated

    def tight(self: Any, ids: Any, *given: Any) -> Any:
        if len(ids) > 5:
            raise MemoryError("no room")
        return write(self, ids, *given)

    monkeypatch.setattr(HfEngine, "_generated", tight)
    assert serve(folder(), requests, batch_size=32) == expected


def test_a_fault_of_the_model_reaches_those_who_wait(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_engine(EngineConfig(engine="hf", policy=folder())) as engine:
            with monkeypatch.context() as patch:
                patch.setattr(engine.model, "generate", lambda *_, **__: 1 / 0)  # type: ignore[attr-defined]
                with pytest.raises(EngineError, match="ZeroDivisionError"):
                    await engine.complete(ask("x"), Sampling(max_tokens=5), 1)
            assert len(await engine.complete(ask("x"), Sampling(max_tokens=5), 2)) == 2

    asyncio.run(main())


def test_draws_on_a_large_vocabulary_do_not_depend_on_the_batch() -> None:
    """Inverse CDF over token ids gave other tokens where a sum was rounded otherwise: 3 of 32 completions of SmolLM2
    differed between batches of 32 and of 5. Here: random logits over its 49,152 tokens, computed in both shapes."""
    import torch

    from medsss_cli.engines.sampling import draw

    random = torch.Generator().manual_seed(0)
    states = torch.randn(300, 576, generator=random)
    weights = torch.randn(49152, 576, generator=random) * 0.25 / 576**0.5
    sharp = torch.rand(300, 1, generator=random) * 60
    seeds = torch.arange(300) * 7919

    def tokens(batch: int) -> torch.Tensor:
        parts = [slice(i, i + batch) for i in range(0, 300, batch)]
        return torch.cat([draw((states[p] @ weights.T) * sharp[p], 1.0, 0.95, seeds[p], 3) for p in parts])

    assert int((tokens(32) != tokens(5)).sum()) <= 1


def test_the_race_draws_from_the_nucleus_by_its_probabilities() -> None:
    import torch

    from medsss_cli.engines.sampling import draw

    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01])).expand(20000, 5)
    tokens = draw(logits, 1.0, 0.9, torch.arange(20000) * 104729, 0).tolist()
    shares = [tokens.count(token) / 20000 for token in range(5)]
    assert shares == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0, 0], abs=0.012)
    hot = draw(logits, 2.0, 1.0, torch.arange(20000) * 104729, 1).tolist()
    roots = [p**0.5 for p in (0.5, 0.3, 0.15, 0.04, 0.01)]
    assert [hot.count(t) / 20000 for t in range(5)] == pytest.approx([r / sum(roots) for r in roots], abs=0.012)


def test_a_template_that_is_missing_or_tells_the_date(tmp_path: Path) -> None:
    """Templates of Llama 3.2 and SmolLM3 write the date: the same question gave another prompt the next day. A policy
    without a template is refused, as training refuses it."""
    for template, shown in (
        ("{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}|", "26 Jul 2024|"),
        ("{% set today = strftime_now('%Y-%m-%d') %}{{ today }}|", "2024-07-26|"),
    ):
        tokenizer = make_tiny_tokenizer(tmp_path / "tokenizer", chat_template=template)
        assert tokenizer.decode(render(tokenizer, ask("x", "p"))) == shown + "p"
    with pytest.raises(UsageError, match="no chat template"):
        serve(str(make_tiny_model(tmp_path / "model", chat_template=None)), [])


def test_a_row_whose_logits_are_no_numbers_fails_alone(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in one row made the others of its batch pass over their end of turn."""
    from medsss_cli.engines.hf import _Draw

    requests = mixed_requests(12)
    expected = serve(folder(), requests)
    call = _Draw.__call__

    def poisoned(self: Any, ids: Any, scores: Any) -> Any:
        for number, row in enumerate(self.rows):
            if row.asked.sampling.seed == 7 and self.written == 1:
                scores[number] = float("nan")
        return call(self, ids, scores)

    monkeypatch.setattr(_Draw, "__call__", poisoned)
    served = serve(folder(), requests)
    assert "logits are not numbers" in str(served[7])
    assert [each for i, each in enumerate(served) if i != 7] == [each for i, each in enumerate(expected) if i != 7]


def test_a_folder_that_is_no_policy_is_a_user_error_that_says_why(tmp_path: Path) -> None:
    """Weights that are cut short or of another shape ended in a traceback."""
    (tmp_path / "empty").mkdir()
    cut, other = (make_tiny_model(tmp_path / name) for name in ("cut", "other"))
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    make_tiny_reward(tmp_path / "reward")
    for name, what in (
        ("gone", "no policy folder"),
        ("empty", "not a model folder"),
        ("cut", "cannot load the weights"),
        ("other", r"mlp.down_proj.weight has the shape \(32, 64\), and config.json asks for \(32, 48\)"),
        ("reward", "lm_head"),
    ):
        with pytest.raises(UsageError, match=what) as caught:
            serve(str(tmp_path / name), [])
        assert caught.value.hint
        assert "\n" not in str(caught.value)


def test_a_revision_pins_a_hub_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, **given: Any) -> str:
        asked.append((name, given["revision"], "*.safetensors" in given["ignore_patterns"]))
        return "/cache/there"

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve_policy("owner/name@v1.2") == "/cache/there"
    assert resolve_policy("owner/name@v1.2", weights=False) == "/cache/there"
    assert resolve_policy("owner/name") == "owner/name"
    assert asked == [("owner/name", "v1.2", False), ("owner/name", "v1.2", True)]


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_while_a_model_loads(tmp_path: Path, interrupts: int) -> None:
    """One Ctrl-C was followed by 13 seconds without a word; a second one said "interrupted" and changed nothing. By the
    processor's time, which other programs do not change, the imports are not waited for."""
    problems = tmp_path / "problems.jsonl"
    problems.write_text(to_lines([problem(1)]))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        program("sample", problems, "--device", "cpu"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_env()
    )
    assert process.stderr is not None
    assert b"engine hf" in process.stderr.readline()
    until_now = psutil.Process(process.pid).cpu_times()
    for _ in range(interrupts):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)  # or the two are one
    _, told = process.communicate()
    assert process.returncode in (130, -signal.SIGINT)  # the latter where the second met Python on its way out
    assert b"Traceback" not in told
    whole = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = whole.ru_utime + whole.ru_stime - before.ru_utime - before.ru_stime
    assert spent - until_now.user - until_now.system < 4


def test_an_adapter_folder_is_loaded_on_its_base(folder: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make_tiny_adapter(folder(), tmp_path / "adapter").merge_and_unload().save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(folder()).save_pretrained(tmp_path / "merged")
    request = [(ask("x"), Sampling(temperature=0, max_tokens=20), 1)]
    adapter = serve(str(tmp_path / "adapter"), request)
    assert adapter == serve(str(tmp_path / "merged"), request)
    assert adapter != serve(folder(), request)
    assert adapter == serve(folder(), request, adapter=str(tmp_path / "adapter"))
    with pytest.raises(UsageError, match=r"adapter_config\.json"):
        serve(folder(), request, adapter=str(tmp_path / "merged"))
    with pytest.raises(UsageError, match="does not fit"):
        serve("builtin:clinic", request, adapter=str(tmp_path / "adapter"))


def test_a_closed_engine_says_so(folder: Any) -> None:
    async def main() -> None:
        async with open_engine(EngineConfig(engine="hf", policy=folder())) as engine:
            waiting = asyncio.ensure_future(engine.complete(ask("x"), Sampling(max_tokens=400), 2))
            await asyncio.sleep(0.05)
        with pytest.raises(EngineError, match="closed"):
            await waiting
        with pytest.raises(EngineError, match="closed"):
            await engine.complete(ask("x"), Sampling(), 1)

    asyncio.run(main())


@pytest.mark.gpu
def test_on_a_gpu(folder: Any) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    requests = mixed_requests(40)
    assert serve(folder(), requests, device="cuda", dtype="float32") == serve(folder(), requests, device="cpu")
