"""What packing gains: `python benchmarks/prm_packing.py`, on the machine at hand.

The same rows go through the same model (a) path by path, sorted by length, in padded batches of the size that scores
fastest here, and (b) as packs; training is forward, backward and the update, scoring is forward alone. Two sets of
rows: `tree`, the trajectories of one search of the paper's shape (60 nodes, 3 children a node, steps of about 60
tokens, a prompt of 300), and `best-of-32`, 32 answers of 5 such steps that share nothing but prompt and step 0.

Both ways run in turns in one process, so that what else the machine does falls on both; the medians of the pairs'
ratios are given, of wall and of processor time. Peak memory is that of a process of its own for each way: what its
resident set grows by from the loaded model (on a GPU what torch allocates). The losses of both ways are compared.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medsss_cli.prm.packing import pack

MODELS = {"small": (256, 4), "wider": (512, 4)}  # width, layers
VOCABULARY = 1000


def search_rows(seed: int, nodes: int = 60, children: int = 3, step: int = 60, prompt: int = 300) -> list[Any]:
    """The root-to-leaf paths of a tree that grows at leaves drawn at random, as rows of `train-prm`."""
    draw = random.Random(seed)
    parents = [-1]
    while len(parents) < nodes:
        leaf = draw.choice(sorted(set(range(len(parents))) - set(parents)))
        parents += [leaf] * min(children, nodes - len(parents))
    return rows_of(draw, parents, step, prompt)


def candidate_rows(seed: int, count: int = 32, steps: int = 5, step: int = 60, prompt: int = 300) -> list[Any]:
    """Paths that part after step 0 and never meet again."""
    parents = [-1]
    for _ in range(count):
        parents.append(0)
        parents += range(len(parents) - 1, len(parents) + steps - 2)
    return rows_of(random.Random(seed), parents, step, prompt)


def rows_of(draw: random.Random, parents: Sequence[int], step: int, prompt: int) -> list[Any]:
    texts = [[draw.randrange(VOCABULARY) for _ in range(max(5, round(draw.gauss(step, step / 4))))] for _ in parents]
    asked = [draw.randrange(VOCABULARY) for _ in range(prompt)]
    values = [draw.random() for _ in parents]
    rows = []
    for leaf in sorted(set(range(len(parents))) - set(parents)):
        path = [leaf]
        while parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        ids, readouts, labels = list(asked), [], []
        for node in path[::-1]:
            ids += texts[node]
            readouts.append(len(ids) - 1)
            labels.append(values[node])
        rows.append({"input_ids": ids, "readouts": readouts[1:], "labels": labels[1:]})
    return rows


SHAPES: dict[str, Callable[[int], list[Any]]] = {"tree": search_rows, "best-of-32": candidate_rows}


def open_model(size: str, device: str, dtype: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForTokenClassification

    width, layers = MODELS[size]
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=round(2.75 * width),
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=4096,
        classifier_dropout=0.0,
        use_cache=False,
    )
    model: Any = AutoModelForTokenClassification.from_config(config)  # type: ignore[no-untyped-call]
    return model.to(device, getattr(torch, dtype))


class Bench:
    """A model, rows, and the two ways to run them. `run` gives the loss per labelled step."""

    def __init__(self, size: str, shape: str, task: str, device: str, dtype: str) -> None:
        import torch

        from medsss_cli.prm.attention import open_tree

        self.torch, self.device, self.task = torch, device, task
        self.rows = sorted(SHAPES[shape](1), key=lambda row: -len(row["input_ids"]))
        self.model = open_model(size, device, dtype)
        self.usual = self.model.config._attn_implementation
        assert open_tree(self.model) == ""
        self.ours = self.model.config._attn_implementation
        self.model.train(task == "training")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)
        self.steps = sum(len(row["labels"]) for row in self.rows)

    def run(self, batch: int | None) -> float:
        """Padded batches of `batch` rows; None for one pack. The making of batches is part of the work."""
        from contextlib import nullcontext

        from medsss_cli.training.prm import collate, step_loss

        self.model.set_attn_implementation(self.ours if batch is None else self.usual)
        total = 0.0
        size = batch or len(self.rows)
        with self.torch.inference_mode() if self.task == "scoring" else nullcontext():
            for at in range(0, len(self.rows), size):
                rows = self.rows[at : at + size]
                made = collate(rows, batch is None, self.device)
                given = {name: value.to(self.device) for name, value in made.items()}
                labels = given.pop("labels")
                loss: Any = step_loss(self.model(**given).logits, labels) / self.steps
                if self.task == "training":
                    loss.backward()
                total += loss.item()
        if self.task == "training":
            self.optimizer.step()
            self.optimizer.zero_grad()
        return total


def timed(work: Callable[[], float]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds, and what the work gives."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def peak(given: argparse.Namespace, size: str, shape: str, task: str, batch: int | None) -> float:
    """MB that one way needs beyond the loaded model, in a process of its own."""
    command = [sys.executable, __file__, "--peak", size, shape, task, str(batch or 0)]
    command += ["--device", given.device, "--dtype", given.dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def peak_here(size: str, shape: str, task: str, batch: int | None, device: str, dtype: str) -> float:
    bench = Bench(size, shape, task, device, dtype)
    cuda = bench.torch.cuda if device == "cuda" else None
    # A short run first: what a first pass loads, and the optimizer's state, belong to neither way.
    rows, bench.rows = bench.rows, [{"input_ids": [1, 2], "readouts": [1], "labels": [1.0]}]
    bench.run(batch)
    bench.rows = rows
    if cuda is not None:
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        bench.run(batch)
        return float(cuda.max_memory_allocated() - before) / 1e6
    # Not getrusage: its peak is handed down from the process that started this one.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_peak()
    bench.run(batch)
    return resident_peak() - before


def resident_peak() -> float:
    """The largest resident set since it was last reset, in MB; Linux alone tells."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8], help="of path batches; the best counts")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--tasks", nargs="+", choices=["training", "scoring"], default=["training", "scoring"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--skip-peak", action="store_true", help="time alone")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        size, shape, task, batch = given.peak
        print(peak_here(size, shape, task, int(batch) or None, given.device, given.dtype))
        return

    for size in given.models:
        for shape in given.shapes:
            for task in given.tasks:
                print(json.dumps(compare(given, size, shape, task)), flush=True)


def compare(given: argparse.Namespace, size: str, shape: str, task: str) -> dict[str, Any]:
    """One line of the table."""
    bench = Bench(size, shape, "scoring", given.device, given.dtype)
    trial = {batch: timed(partial(bench.run, batch))[1] for batch in given.batches if len(given.batches) > 1}
    best = min(trial, key=lambda batch: trial[batch]) if trial else given.batches[0]
    if task == "training":
        bench = Bench(size, shape, task, given.device, given.dtype)
    bench.run(None)
    pairs = [(timed(lambda: bench.run(best)), timed(lambda: bench.run(None))) for _ in range(given.pairs)]
    paths = sum(len(row["input_ids"]) for row in bench.rows)
    packed = len(pack([row["input_ids"] for row in bench.rows]))
    memory = [] if given.skip_peak else [peak(given, size, shape, task, batch) for batch in (best, None)]
    return {
        "model": size,
        "shape": shape,
        "task": task,
        "tokens": [paths, packed],
        "token_ratio": round(paths / packed, 2),
        "path_batch": best,
        "wall_s": [round(statistics.median(pair[way][0] for pair in pairs), 2) for way in (0, 1)],
        "cpu_s": [round(statistics.median(pair[way][1] for pair in pairs), 2) for way in (0, 1)],
        "wall_ratio": round(statistics.median(a[0] / b[0] for a, b in pairs), 2),
        "cpu_ratio": round(statistics.median(a[1] / b[1] for a, b in pairs), 2),
        "peak_mb": [round(value) for value in memory],
        "loss_differs": f"{max(abs(a[2] - b[2]) / a[2] for a, b in pairs):.1e}",
    }


if __name__ == "__main__":
    main()
