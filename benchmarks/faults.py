"""Whether a server that fails loses anything: `python benchmarks/faults.py --requests 10000`.

`medsss sample` asks for one answer to each problem through two proxies (tests/faulty_server.py) before one real vLLM
server that is started here. The proxies answer --share of the requests with 429, 500, 503, a reset, a cut body, half a
body or garbage, drawn at random. A request that fails nine times in a row fails its record; the same command line is
run again until none has. Then every problem must have its record, once, with an answer that the server gave; without
faults the same problems are sampled again, and the answers are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from faulty_server import FaultyServer, at_random
from search_throughput import server

from medsss_cli.engines import resolve_policy
from medsss_cli.errors import MedsssError


def medsss(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medsss_cli.app", *map(str, arguments)]
    return subprocess.run(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(resolve_policy("builtin:clinic"))
    known = ({"id": str(folder), "max_model_len": 2048},)
    with tempfile.TemporaryDirectory() as scratch, server("builtin:clinic") as url:
        problems, broken, whole = (Path(scratch) / name for name in ("problems.jsonl", "broken.jsonl", "whole.jsonl"))
        medsss("clinic", "-n", str(given.requests), "--seed", str(given.seed), "-o", problems)
        sample = ("sample", problems, "--engine", "http", "-n", "1", "--max-tokens", str(given.max_tokens))
        proxies = [
            FaultyServer(folder, upstream=url, faults=at_random(given.share, seed=given.seed + i), models=known)
            for i in range(2)
        ]
        started = time.monotonic()
        with proxies[0], proxies[1]:
            runs = [medsss(*sample, *(f"--base-url={proxy.url}" for proxy in proxies), "-o", broken)]
            failed = given.requests - len(records(broken))
            while runs[-1].returncode == 1 and len(runs) < 5:
                runs.append(medsss(*sample, *(f"--base-url={proxy.url}" for proxy in proxies), "-o", broken))
        seconds = time.monotonic() - started
        plain = medsss(*sample, "--base-url", url, "-o", whole)
        if plain.returncode:
            raise MedsssError(f"the run without faults failed: {plain.stderr[-500:]}")
        ids = Counter(record["id"] for record in records(broken))
        texts = {record["id"]: record["responses"][0]["text"] for record in records(whole)}
        asked = sum(len(proxy.requests) for proxy in proxies)
        answered = sum(proxy.answered for proxy in proxies)
        print(
            json.dumps(
                {
                    "problems": given.requests,
                    "exit status of each run": [ran.returncode for ran in runs],
                    "failed in the first": failed,
                    "requests that reached the proxies": asked,
                    "answered": answered,
                    "failed by a fault": asked - answered,
                    "lost": len(texts.keys() - ids.keys()),
                    "twice": sum(count > 1 for count in ids.values()),
                    "other text than without faults": sum(
                        record["responses"][0]["text"] != texts[record["id"]] for record in records(broken)
                    ),
                    "seconds": round(seconds),
                },
                indent=2,
            )
        )
        print(runs[0].stderr[-1500:])


if __name__ == "__main__":
    main()
