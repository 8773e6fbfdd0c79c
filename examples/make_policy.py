"""Make the smallest policy of a real architecture that can take part in the loop on real questions.

    python examples/make_policy.py questions.jsonl -o out/tiny-policy
    POOL=questions.jsonl TEST=held-out.jsonl POLICY=out/tiny-policy examples/evolve.sh

It is a Qwen2 of some hundred thousand weights with a ChatML template and a byte-level tokenizer trained on the file. It
knows no medicine: a minute of training teaches it the form alone ("Step 1: ... The answer is C."), with letters at
random and every sixth answer broken off without one. So what it scores on real questions is chance, and what a run with
it shows is that questions, tokenizer, template and unparsed answers pass through every command and are counted. With
`--steps 0` the weights are random and it writes noise.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from medsss_cli.problems import to_problem
from medsss_cli.prompts import question_text
from medsss_cli.records import Problem
from medsss_cli.steps import ROOT_TEXT, join_steps
from medsss_cli.stream.jsonl import read_objects

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONTEXT = 4096


def answers(problem: Problem, rng: random.Random) -> str:
    """An answer in form: two or three steps of words from the question, then a letter at random, or nothing."""
    words = problem.question.split()
    steps = [ROOT_TEXT]
    for _ in range(rng.randint(2, 3)):
        at = rng.randrange(max(1, len(words) - 8))
        steps.append(f"The case says {' '.join(words[at : at + 6])}.")
    if rng.random() < 5 / 6:
        steps[-1] += f" The answer is {rng.choice(sorted(problem.options or {'yes': ''}))}."
    return join_steps(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a tiny policy that answers in form, at random.")
    parser.add_argument("questions", help="problems in any layout that medsss reads")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=300, help="training steps; 0 leaves the weights random")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    def complain(where: object, what: str) -> None:
        sys.exit(f"{where}: {what}")

    problems = [to_problem(row, where) for where, row in read_objects([options.questions], on_bad=complain)]
    texts = [question_text(problem) for problem in problems]
    rng = random.Random(options.seed)

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts + [answers(problem, rng) for problem in problems], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
        model_max_length=CONTEXT,
    )

    torch.manual_seed(options.seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ends)

    def chats() -> Iterator[tuple[list[int], int]]:
        """Token ids of a chat, and how many of them are the prompt."""
        for problem in itertools.cycle(problems):
            prompt = [{"role": "user", "content": question_text(problem)}]
            asked = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            ids = tokenizer.encode(asked, add_special_tokens=False)
            said = tokenizer.encode(answers(problem, rng) + "<|im_end|>", add_special_tokens=False)
            yield ids + said, len(ids)

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    stream = chats()
    for step in range(1, options.steps + 1):
        rows = [next(stream) for _ in range(8)]
        width = max(len(ids) for ids, _ in rows)
        ids_BT = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows])
        labels_BT = torch.tensor([[-100] * n + ids[n:] + [-100] * (width - len(ids)) for ids, n in rows])
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step} of {options.steps}, loss {loss.item():.3f}", file=sys.stderr)
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    print(f"{sum(p.numel() for p in model.parameters()):,} weights in {options.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
