"""How well the search keeps an engine busy: `python benchmarks/search_throughput.py --engine hf|vllm|http`.

Trees are grown (a) one at a time and (b) with 32 in flight, the same ones but for --one N, with which (a) grows the
first N; then (c) the very requests of (b) are asked again, all at once, with nothing between them to wait for: what the
engine gives when it never lacks work. Each phase has a fresh engine, or for http a server whose prefix cache is
emptied, so that no phase finds the prompts of another in store. The trees of (a) are compared with those of (b). (c)
shares beginnings as (b) does: it is the highest rate at which these requests can be served, whoever asks. For http
without --base-url a vLLM server is started here.

At last (d) the trees of (b) are grown once more from the replies that (b) got: what the search itself costs.

Seconds are wall time; `cpu` is the processor time of this process, which another program on the machine moves less;
with vllm and http it is what our own side costs, `cpu_us_per_request` the same per request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from medsss_cli.clinic.problems import problems
from medsss_cli.engines import Engine, EngineConfig, open_engine
from medsss_cli.records import Message, Problem, Tree
from medsss_cli.requests import Completion, Prompt, Sampling
from medsss_cli.search.config import SearchConfig
from medsss_cli.search.driver import grow


class Listening:
    """An engine that remembers what it was asked."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.concurrency = engine.name, engine.concurrency
        self.tokens = self.prompt_tokens = 0
        self._engine = engine
        self.asked: list[tuple[Prompt, Sampling, int]] = []
        self.replies: dict[tuple[Prompt, Sampling, int], list[Completion]] = {}
        self._changes = [(time.perf_counter(), 0)]  # when how many completions more were wanted

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        request = (prompt, sampling, n)
        self.asked.append(request)
        self._changes.append((time.perf_counter(), n))
        self.replies[request] = reply = await self._engine.complete(*request)
        self._changes.append((time.perf_counter(), -n))
        self.tokens += sum(each.tokens for each in reply)
        self.prompt_tokens += reply[0].prompt_tokens
        return reply

    def in_flight(self, since: float, parts: int = 10) -> list[int]:
        """The completions in flight, on the mean of each of so many equal parts of the time since then."""
        width = (time.perf_counter() - since) / parts
        found = [0.0] * parts
        wanted = 0
        for (at, more), (until, _) in zip(self._changes, [*self._changes[1:], (since + parts * width, 0)], strict=True):
            wanted += more
            for part in range(parts):
                begin = since + part * width
                found[part] += wanted * max(0.0, min(until, begin + width) - max(at, begin)) / width
        return [round(each) for each in found]


class Replay:
    """An engine that costs nothing: it gives the replies that another one gave."""

    name = "replay"

    def __init__(self, heard: Listening) -> None:
        self.concurrency = heard.concurrency
        self._replies = heard.replies

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        return self._replies[prompt, sampling, n]


@dataclass
class Phase:
    """What one phase took: wall and processor seconds, and generated tokens."""

    seconds: float
    cpu: float
    tokens: int
    prompt_tokens: int
    requests: int
    in_flight: list[int]
    result: Any

    def report(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 2),
            "cpu": round(self.cpu, 2),
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "tokens_per_s": round(self.tokens / self.seconds),
            "tokens_per_cpu_s": round(self.tokens / self.cpu),
            "requests": self.requests,
            "cpu_us_per_request": round(self.cpu / max(self.requests, 1) * 1e6),
            "completions in flight, by tenths of the time": self.in_flight,
        }


async def phase(spec: EngineConfig, work: Callable[[Listening], Awaitable[Any]]) -> tuple[Phase, Listening]:
    """Do `work` on a fresh engine; opening it is not counted."""
    async with open_engine(spec) as opened:
        engine = Listening(opened)
        await opened.complete(Prompt((Message("user", "warm"),)), Sampling(max_tokens=2))
        start, cpu = time.perf_counter(), time.process_time()
        result = await work(engine)
        took = (time.perf_counter() - start, time.process_time() - cpu)
        return Phase(
            *took, engine.tokens, engine.prompt_tokens, len(engine.asked), engine.in_flight(start), result
        ), engine


async def trees(chosen: list[Problem], config: SearchConfig, engine: Engine, in_flight: int) -> list[Tree]:
    gate = asyncio.Semaphore(in_flight)

    async def one(problem: Problem) -> Tree:
        async with gate:
            return await grow(problem, config, engine)

    return list(await asyncio.gather(*(one(problem) for problem in chosen)))


@contextlib.contextmanager
def server(policy: str) -> Iterator[str]:
    """A vLLM server on loopback for as long as the context lasts; its base URL."""
    from medsss_cli.engines import resolve_policy

    port = 18733
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve_policy(policy)]
    program += ["--port", str(port), "--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "256"]
    program += ["--enforce-eager", "--block-size", "32", "--no-enable-chunked-prefill", "--disable-log-stats"]
    program += ["--max-num-batched-tokens", "8192", "--kv-cache-memory-bytes", str(1 << 30)]
    settings = {"VLLM_SERVER_DEV_MODE": "1", "TORCH_COMPILE_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with tempfile.TemporaryFile() as log:
        running = subprocess.Popen(program, stdout=log, stderr=log, env=os.environ | settings)
        try:
            while True:
                if running.poll() is not None:
                    log.seek(0)
                    raise SystemExit(log.read().decode(errors="replace")[-3000:])
                with contextlib.suppress(urllib.error.URLError, OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                    break
                time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            running.terminate()
            running.wait()


def forget(base_urls: tuple[str, ...]) -> None:
    """Empty the prefix caches of vLLM servers in development mode; others keep theirs."""
    for url in base_urls:
        with contextlib.suppress(urllib.error.URLError, OSError):
            request = urllib.request.Request(url.removesuffix("/v1") + "/reset_prefix_cache", method="POST")
            urllib.request.urlopen(request, timeout=10).close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="hf", choices=["hf", "vllm", "http"])
    parser.add_argument("--base-url", action="append", default=[])
    parser.add_argument("--policy", default="builtin:clinic")
    parser.add_argument("--trees", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--one", type=int, help="how many of the trees to grow one at a time; default: all")
    parser.add_argument("--max-nodes", type=int, default=60)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if given.engine == "http" and not given.base_url:
            given.base_url.append(stack.enter_context(server(given.policy)))
        await measure(given)


async def measure(given: argparse.Namespace) -> None:
    """The three phases, printed as JSON."""
    spec = EngineConfig(
        engine=given.engine,
        policy=given.policy,
        device=given.device,
        dtype=given.dtype,
        batch_size=given.batch_size,
        max_context=2048 if given.engine == "vllm" else None,
        engine_args=("kv_cache_memory_bytes=1073741824",) if given.engine == "vllm" else (),
        base_url=tuple(given.base_url),
    )
    config = SearchConfig(
        max_nodes=given.max_nodes, max_tokens=given.max_tokens, max_step_tokens=given.max_tokens, seed=given.seed
    )
    chosen = list(problems(given.trees, seed=given.seed))

    one, _ = await phase(spec, lambda engine: trees(chosen[: given.one], config, engine, 1))
    forget(spec.base_url)
    many, engine = await phase(spec, lambda engine: trees(chosen, config, engine, given.in_flight))
    asked = engine.asked
    forget(spec.base_url)
    raw, _ = await phase(spec, lambda engine: asyncio.gather(*(engine.complete(*request) for request in asked)))

    start = time.process_time()
    await trees(chosen, config, Replay(engine), given.in_flight)
    driver = (time.process_time() - start) / len(asked)

    differ = sum(a.nodes != b.nodes for a, b in zip(one.result, many.result, strict=False))
    rate = {name: it.tokens / it.seconds for name, it in (("one", one), ("many", many), ("raw", raw))}
    print(
        json.dumps(
            {
                "engine": given.engine,
                "a: one tree at a time": one.report(),
                f"b: {given.in_flight} trees in flight": many.report(),
                "c: the requests of b, all at once": raw.report(),
                "d: the search alone, us per request": round(driver * 1e6),
                "trees": given.trees,
                "trees that differ between a and b": differ,
                "b / a": round(rate["many"] / rate["one"], 2),
                "b / c": round(rate["many"] / rate["raw"], 3),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
