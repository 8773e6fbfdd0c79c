"""Make the two policies that the package ships, the clinic's: the first and, with `--level 2`, the second.

    python examples/make_clinic_policy.py --out DIR

A tokenizer and a Llama of about 1.4 M parameters, trained on `clinic_corpus.chats` by a plain loop on the CPU; the
second goes on from the first. Both are left mid-trained on purpose: the corpus holds a documented share of typical
mistakes (`kinds.py`), and the training is short. They are test beds and know no medicine beyond the clinic's problems.

The result depends on the options and the versions of torch and numpy, not on the clock; the sums' order, and so the
last digits, on the processor. A checkpoint is measured like any policy:

    medsss clinic -n 200 --seed 999 | medsss sample --policy DIR/step-250 --greedy | medsss eval
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from itertools import islice
from math import cos, pi
from pathlib import Path
from random import Random
from typing import Any

from clinic_corpus import chats

import medsss_cli.clinic
from medsss_cli.records import Message

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('roles are system, user and assistant') }}"
    "{%- endif %}"
    "{{- '<|' + message['role'] + '|>' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '<|end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|end|>' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
PAD, END = "<|pad|>", "<|end|>"
SPECIAL = [PAD, END, "<|system|>", "<|user|>", "<|assistant|>"]
# Words and single digits with the space before them, runs of line breaks, other signs. Text may be cut after "Step 3:"
# or after the blank line between steps and tokenised in parts: the ids are those of the whole.
CUTS = r" ?\p{L}+| ?\p{N}|\n+| ?[^\s\p{L}\p{N}]+|\s"
CONTEXT = 2048
FIRST = Path(medsss_cli.clinic.__file__).parent / "policy"
# Three of four tokens are words that are nearly certain; the sums are what takes long to learn.
DIGIT_WEIGHT = 1.5
WARM = 60  # steps until the learning rate is whole


def build_tokenizer(seed: int, documents: int = 6000, size: int = 1000) -> Any:
    """A byte-level BPE of at most `size` tokens, trained on the first chats; any text comes back unchanged."""
    import transformers
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    make: Any = transformers.PreTrainedTokenizerFast
    core = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(CUTS), "isolated"), bytes_])
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (message.content for chat in islice(chats(seed), documents) for message in chat)
    core.train_from_iterator(texts, trainer)
    return make(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
        padding_side="left",
    )


def build_model(vocabulary: int, tokenizer: Any, seed: int) -> Any:
    """A fresh LlamaForCausalLM: width 160, four layers, five heads of 32 (a size that vLLM has kernels for)."""
    import torch
    import transformers

    library: Any = transformers
    torch.manual_seed(seed)
    config = library.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
    )
    model = library.LlamaForCausalLM(config)
    model.generation_config = library.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def encode(tokenizer: Any, chat: list[Message]) -> tuple[list[int], list[bool]]:
    """Token ids of a chat and, for each, whether it counts in the loss: what the assistant says, and its last end.

    The end of an earlier turn is no example: before a choice turn it breaks a solution off.
    """
    ids: list[int] = []
    counts: list[bool] = []
    for i, message in enumerate(chat):
        body = tokenizer.encode(message.content, add_special_tokens=False)
        ids += [tokenizer.convert_tokens_to_ids(f"<|{message.role}|>"), *body, tokenizer.eos_token_id]
        said = message.role == "assistant"
        counts += [False, *[said] * len(body), said and i == len(chat) - 1]
    return ids, counts


def batches(tokenizer: Any, stream: Iterator[list[Message]], seed: int, size: int) -> Iterator[tuple[Any, Any]]:
    """Right-padded (ids, counts) tensors of `size` chats of similar length, without end."""
    import torch

    rng = Random(seed)
    while True:
        rows = sorted((encode(tokenizer, chat) for chat in islice(stream, 16 * size)), key=lambda row: len(row[0]))
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            ids_BT = torch.full((size, width), tokenizer.pad_token_id)
            counts_BT = torch.zeros((size, width), dtype=torch.bool)
            for i, (ids, counts) in enumerate(group):
                ids_BT[i, : len(ids)] = torch.tensor(ids)
                counts_BT[i, : len(ids)] = torch.tensor(counts)
            yield ids_BT, counts_BT


def train(out: Path, *, level: int, seed: int, steps: int, batch: int, rate: float, every: int, drills: float) -> None:
    """Trains, prints progress on stderr, and saves a loadable policy in out/step-N every `every` steps and at the end,
    with `medsss.json` beside it."""
    import torch
    import transformers

    torch.set_num_threads(1)
    started = time.monotonic()
    if level == 1:
        tokenizer = build_tokenizer(seed)
        model = build_model(len(tokenizer), tokenizer, seed)
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(FIRST)
        model = transformers.AutoModelForCausalLM.from_pretrained(FIRST)
    size = sum(p.numel() for p in model.parameters())
    print(f"{size:,} parameters, {len(tokenizer)} tokens", file=sys.stderr)
    adam = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    digits = torch.tensor([piece.removeprefix("Ġ").isdecimal() for piece in pieces])
    made_by = f"--level {level} --seed {seed} --steps {steps} --batch {batch} --rate {rate} --drills {drills}"
    tokens = 0
    stream = batches(tokenizer, chats(seed, drills, level), seed, batch)
    for step in range(1, steps + 1):
        ids_BT, counts_BT = next(stream)
        states = model.model(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
        keep = counts_BT[:, 1:]
        wanted = ids_BT[:, 1:][keep]
        losses = torch.nn.functional.cross_entropy(model.lm_head(states[keep]), wanted, reduction="none")
        loss: Any = (losses * (1.0 + (DIGIT_WEIGHT - 1) * digits[wanted])).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scale = min(step / WARM, 0.05 + 0.95 * 0.5 * (1 + cos(pi * step / steps)))
        for group in adam.param_groups:
            group["lr"] = rate * scale
        adam.step()
        model.zero_grad(set_to_none=True)
        tokens += ids_BT.numel()
        spent = round(time.monotonic() - started)
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f} tokens {tokens:,} seconds {spent}", file=sys.stderr, flush=True)
        if step % every == 0 or step == steps:
            folder = out / f"step-{step}"
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            # safetensors writes for the owner alone, and this goes into a package
            (folder / "model.safetensors").chmod(0o644)
            card = {
                "command": f"python examples/make_clinic_policy.py {made_by}",
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
                "parameters": size,
                "step": step,
                "tokens": tokens,
                "chats": step * batch,
                "seconds": spent,
            }
            (folder / "medsss.json").write_text(json.dumps(card, indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make a policy of the clinic.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--level", type=int, choices=[1, 2], default=1, help="2 goes on from the shipped policy of 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0.002)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--drills", type=float, default=0.4, help="share of drills (sums) at first")
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
