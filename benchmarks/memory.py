"""How much memory a training takes: the formula that docs/gpu.md uses, and a run on this machine to hold it against.

    python benchmarks/memory.py                          # the table for an 8B on a GPU, by the formula alone
    python benchmarks/memory.py --measure path/to/model  # peak memory of each training on the CPU, beside the formula

The formula counts, in bytes, for P weights of which p are trained, batches of B rows of T tokens (DPO: 2 B rows), L
layers of width h with feed-forward width f, and a vocabulary of V:

    weights        P x (2 for a LoRA base on a GPU, else 4)
    trained        p x (4 gradient + 8 Adam), and for LoRA 4 for the adapter itself
    kept           L B T h a, the input of each layer (gradient checkpointing, above 1e9 weights on a GPU), a bytes a
                   number; without checkpointing L B T (8 h + 3 f) a
    layer          2 B T (8 h + 3 f) a: one layer that is computed again, and its gradient
    logits         B T V (a + 4 + 4): in the type of the model, in float32, and their gradient; none for a reward model

a is 2 under bfloat16 arithmetic, 4 on the CPU. It leaves out what the libraries take themselves (about 1 GB on a GPU).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

GB = 1e9


@dataclass(frozen=True)
class Shape:
    """A Llama-like model: weights, layers, width, feed-forward width, width of keys and values, vocabulary."""

    weights: float
    layers: int
    width: int
    feed_forward: int
    kv_width: int
    vocabulary: int

    def lora(self, rank: int) -> float:
        """Weights of an adapter on every linear layer but the head."""
        h, f, kv = self.width, self.feed_forward, self.kv_width
        return rank * self.layers * (2 * (h + h) + 2 * (h + kv) + 3 * (h + f))


LLAMA_8B = Shape(8.03e9, 32, 4096, 14336, 1024, 128256)


@dataclass(frozen=True)
class Training:
    """One way to train. `rows` is the batch, `logits` whether the loss looks at the vocabulary."""

    name: str
    rank: int | None
    rows: int
    length: int
    logits: bool
    on_gpu: bool

    def bytes(self, shape: Shape) -> dict[str, float]:
        """The terms of the formula."""
        a = 2 if self.on_gpu else 4
        tokens = self.rows * self.length
        layer = tokens * (8 * shape.width + 3 * shape.feed_forward) * a
        checkpointed = shape.weights > 1e9 and self.on_gpu
        trained = shape.weights if self.rank is None else shape.lora(self.rank)
        return {
            "weights": shape.weights * (2 if self.rank is not None and self.on_gpu else 4),
            "trained": trained * (12 if self.rank is None else 16),
            "kept": shape.layers * (tokens * shape.width * a if checkpointed else layer),
            "layer": 2 * layer,
            "logits": tokens * shape.vocabulary * (a + 8) if self.logits else 0.0,
        }


def ways(rows: int, length: int, *, on_gpu: bool) -> list[Training]:
    """What train-policy and train-prm do; DPO's rows are pairs."""
    return [
        Training("sft --lora", 32, rows, length, True, on_gpu),
        Training("sft --full", None, rows, length, True, on_gpu),
        Training("dpo --lora", 32, 2 * rows, length, True, on_gpu),
        Training("dpo --full", None, 2 * rows, length, True, on_gpu),
        Training("prm --lora", 32, rows, length, False, on_gpu),
        Training("prm --full", None, rows, length, False, on_gpu),
    ]


def table(shape: Shape, rows: int, length: int, *, on_gpu: bool) -> None:
    print(f"{rows} rows of {length} tokens; GB by the formula\n")
    print("| training | weights | gradients, Adam | activations | logits | in all |\n|---|---|---|---|---|---|")
    for way in ways(rows, length, on_gpu=on_gpu):
        b = {name: value / GB for name, value in way.bytes(shape).items()}
        total = sum(b.values())
        kept = b["kept"] + b["layer"]
        print(
            f"| {way.name} | {b['weights']:.1f} | {b['trained']:.1f} | {kept:.1f} | {b['logits']:.1f} | {total:.0f} |"
        )


def shape_of(folder: str) -> Shape:
    """The shape that a model folder's config tells."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    weights = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())
    head = config.hidden_size // config.num_attention_heads
    return Shape(
        weights,
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        head * config.num_key_value_heads,
        config.vocab_size,
    )


def peak(args: list[str]) -> float:
    """Peak resident memory of a run of the program, in bytes: of a process that runs it alone."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)\n"
        "assert done.returncode == 0, done.stderr[-3000:]\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True, check=True)
    return float(ran.stdout) * 1024


def measure(folder: str, rows: int) -> None:
    """Every training for two updates on rows that the clinic's policy makes, beside the formula."""
    run = [sys.executable, "-m", "medsss_cli.app"]
    shape = shape_of(folder)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)

        def medsss(*args: object) -> None:
            subprocess.run([*run, *map(str, args), "-q"], check=True, stderr=subprocess.DEVNULL)

        subprocess.run([*run, "clinic", "-n", "24", "-o", str(work / "p.jsonl")], check=True)
        medsss("search", work / "p.jsonl", "--max-nodes", 20, "--max-tokens", 160, "-o", work / "t.jsonl")
        files = {"sft": "sft", "dpo": "preference", "prm": "prm"}
        for to in files.values():
            medsss("label", work / "t.jsonl", "--to", to, "-o", work / f"{to}.jsonl")
        print("| training | tokens a batch | measured, GB | libraries alone | formula |\n|---|---|---|---|---|")
        base = peak([sys.executable, "-c", "import torch, transformers, trl, peft, datasets"])
        length = 200
        for way in ways(rows, length, on_gpu=False):
            method, how = way.name.split()
            command = ["train-prm"] if method == "prm" else ["train-policy", "--method", method]
            out = work / way.name.replace(" ", "")
            sizes = f"--batch-size {rows} --accumulation 1 --max-length {length} --limit {2 * rows}".split()
            rows_file = str(work / f"{files[method]}.jsonl")
            spent = peak([*run, *command, rows_file, "--policy", folder, how, "-o", str(out), "-q", *sizes])
            said = sum(way.bytes(shape).values())
            print(f"| {way.name} | {way.rows * way.length} | {spent / GB:.2f} | {base / GB:.2f} | {said / GB:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--measure", metavar="FOLDER")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.rows)
    else:
        table(LLAMA_8B, args.rows, args.length, on_gpu=True)


if __name__ == "__main__":
    main()
