"""A real pretrained model on each engine: `python benchmarks/real_model.py MODEL PROBLEMS`.

MODEL is the folder that examples/make_smollm2.py writes, PROBLEMS a benchmark file. Each engine draws answers, grows
trees and has a reward model score its answers, with the same options in float32; for http a vLLM server is started
here. The reward model is MODEL with a head of random numbers: what its scores say means nothing, what they cost does.

Seconds and processor seconds are those of the whole program, loading included (and of the server, while the program
runs); tokens per second are the program's own figures, which begin when the model is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from search_throughput import server


def random_head(policy: str, folder: Path) -> None:
    """A reward model with the policy's body."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    torch.manual_seed(0)
    AutoModelForTokenClassification.from_pretrained(policy, num_labels=2, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(policy).save_pretrained(folder)


def processor_seconds() -> float:
    """Of all programs that were started here."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return ended.ru_utime + ended.ru_stime + float(sum(each.user + each.system for each in running))


def medsss(engine: str, out: Path, command: str, *arguments: object) -> dict[str, Any]:
    """Run a command to its end; a row of the table."""
    program = [sys.executable, "-m", "medsss_cli.app", command, *map(str, arguments), "--restart", "-o", str(out)]
    start, spent = time.perf_counter(), processor_seconds()
    ran = subprocess.run(program, text=True, capture_output=True, check=False)
    row: dict[str, Any] = {"engine": engine, "command": command, "exit": ran.returncode}
    row |= {"seconds": round(time.perf_counter() - start), "processor s": round(processor_seconds() - spent)}
    if found := re.search(r"(\d+) tokens at (\d+)/s", ran.stderr):
        row |= {"tokens": int(found[1]), "tokens/s": int(found[2])}
    if ran.returncode:
        print(ran.stderr[-2000:], file=sys.stderr)
    told = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []
    verdicts = [
        each["verdict"]
        for record in told
        for each in record.get("responses") or record.get("candidates") or record["nodes"]
        if each["verdict"]
    ]
    return row | {"correct": verdicts.count("correct"), "no answer": verdicts.count("no_answer"), "of": len(verdicts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("problems")
    parser.add_argument("--engine", action="append", choices=["hf", "vllm", "http"])
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--out", type=Path, help="keep the records in this folder")
    given = parser.parse_args()
    common = ["--limit", given.limit, "--policy", given.model, "--prompting", "instruct", "--seed", 0]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        out = given.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        reward = Path(scratch) / "reward"
        random_head(given.model, reward)
        for engine in given.engine or ("vllm", "http", "hf"):
            how = ["--engine", engine, "--max-context", 2048]
            if engine == "vllm":
                how += ["-E", "kv_cache_memory_bytes=1073741824"]
            if engine == "http":
                how += ["--base-url", stack.enter_context(server(given.model))]
            drawn, trees, scored = (out / f"{engine}-{name}.jsonl" for name in ("samples", "trees", "scored"))
            sampling = ["-n", 2, "--max-tokens", 128]
            search = ["--max-nodes", 6, "--children", 2, "--rollouts", 2, "--min-rollouts", 1, "--max-tokens", 96]
            for out_file, command, *arguments in (
                (drawn, "sample", given.problems, *common, *how, *sampling),
                (trees, "search", given.problems, *common, *how, *search),
                (scored, "bon", drawn, "--prm", reward, "--prm-format", "medsss"),
            ):
                print(json.dumps(medsss(engine, out_file, command, *arguments)), flush=True)


if __name__ == "__main__":
    main()
