"""How much memory a training takes: the formula that docs/gpu.md uses, and a run on this machine to hold it against.

    python benchmarks/memory.py                          # the table for an 8B on a GPU, by the formula alone
    python benchmarks/memory.py --measure path/to/model  # peak memory of each training on the CPU, beside the formula

The formula counts, in bytes, for P weights of which p are trained, a batch of N tokens (rows x length; DPO's rows are
two), L layers of width h with feed-forward width f and keys of width kv, rank r, and a vocabulary of V:

    weights   4 P; of a LoRA base on a GPU 2 P. A full training on a GPU has 2 P more: the bfloat16 copies of autocast
    trained   p (4 gradient + 8 Adam), and for LoRA 4 p for the adapter itself
    kept      L N k, where a layer keeps k bytes a token for the way back (tests/test_memory.py counts them):
                  CPU, full   32 h + 16 f + 8 kv          CPU, LoRA   24 h + 16 f + 8 kv + 28 r
                  GPU, full   30 h +  8 f + 4 kv          GPU, LoRA   24 h +  8 f + 4 kv + 14 r
              With gradient checkpointing (above 1e9 weights on a GPU) a layer keeps its input alone, 4 h or 2 h; one
              layer is then computed again, with its gradient: 2 N k
    logits    none at once: TRL makes tiles of 4096 tokens x 32768 words; on the CPU each with three more of its size.
              In a full training the gradient of the head, 4 V h. A reward model has none of both

It leaves out what the libraries take themselves (about 1 GB on a GPU).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    def layer(self, shape: Shape) -> float:
        """Bytes a token that a layer keeps for the way back."""
        h, f, kv, rank = shape.width, shape.feed_forward, shape.kv_width, self.rank or 0
        if self.on_gpu:
            return (30 if self.rank is None else 24) * h + 8 * f + 4 * kv + 14 * rank
        return (32 if self.rank is None else 24) * h + 16 * f + 8 * kv + 28 * rank

    def bytes(self, shape: Shape) -> dict[str, float]:
        """The terms of the formula."""
        full, tokens = self.rank is None, self.rows * self.length
        trained = shape.weights if self.rank is None else shape.lora(self.rank)
        kept = shape.layers * tokens * self.layer(shape)
        if shape.weights > 1e9 and self.on_gpu:
            kept = tokens * (shape.layers * shape.width * (4 if full else 2) + 2 * self.layer(shape))
        tile = min(tokens, 4096) * min(shape.vocabulary, 32768) * (2 if self.on_gpu else 16)
        head = 4 * shape.vocabulary * shape.width if full else 0
        return {
            "weights": shape.weights * ((6 if full else 2) if self.on_gpu else 4),
            "trained": trained * (12 if full else 16),
            "kept": kept,
            "logits": tile + head if self.logits else 0.0,
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
        parts = " | ".join(f"{b[name]:.1f}" for name in ("weights", "trained", "kept", "logits"))
        print(f"| {way.name} | {parts} | {total:.0f} |")


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
    """Peak resident memory of a run of the program, in bytes: of a process that runs it alone, whose allocator gives
    back at once what is freed."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)\n"
        "assert done.returncode == 0, done.stderr[-3000:]\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    ran = subprocess.run([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True, check=True, env=env)
    return float(ran.stdout) * 1024


def rows_of(method: str, count: int, length: int, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Rows of about `length` tokens, which share nothing."""
    ids = tokenizer.encode(" The pain began after supper and the lungs were clear.", add_special_tokens=False)

    def text(tokens: int) -> str:
        return str(tokenizer.decode((ids * (tokens // len(ids) + 1))[:tokens]))

    def turn(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    frame = len(tokenizer.apply_chat_template(turn("user", "Case 10?"), add_generation_prompt=True)["input_ids"])
    for i in range(count):
        asked, answer = f"Case {10 + i}?", text(length - frame - 4)
        if method == "sft":
            yield {"prompt": turn("user", asked), "completion": turn("assistant", answer)}
        elif method == "dpo":
            pair = {"chosen": turn("assistant", answer), "rejected": turn("assistant", "No." + answer)}
            yield {"prompt": turn("user", asked), **pair}
        else:
            yield {"prompt": asked, "completions": ["Let us see.", answer], "labels": [None, i % 2]}


def measure(folder: str, rows: int, length: int) -> None:
    """Every training for two updates on rows of about this length, beside the formula; what the libraries take is seen
    in a training of the clinic's policy, which is small."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    shape = shape_of(folder)

    def spent(way: Training, policy: str, rows: int) -> float:
        method, how = way.name.split()
        command = ["train-prm"] if method == "prm" else ["train-policy", "--method", method]
        sizes = f"--batch-size {rows} --accumulation 1 --max-length 2048 --device cpu -q".split()
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, "rows.jsonl")
            file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(method, 2 * rows, length, tokenizer)))
            run = [sys.executable, "-m", "medsss_cli.app", *command, str(file), "--policy", policy, how, *sizes]
            return peak([*run, "-o", str(Path(scratch, "out"))])

    trainings = ways(rows, length, on_gpu=False)
    base = spent(trainings[0], "builtin:clinic", 1)
    print(f"{rows} rows of {length} tokens; {base / GB:.2f} GB are the libraries', which the formula leaves out\n")
    print("| training | measured, GB | less the libraries | formula |\n|---|---|---|---|")
    for way in trainings:
        found, said = spent(way, folder, rows), sum(way.bytes(shape).values())
        print(f"| {way.name} | {found / GB:.2f} | {(found - base) / GB:.2f} | {said / GB:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--measure", metavar="FOLDER")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.rows, args.length)
    else:
        table(LLAMA_8B, args.rows, args.length, on_gpu=True)


if __name__ == "__main__":
    main()
