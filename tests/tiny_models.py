"""Tiny random models with real tokenizers and chat templates, made on the spot: no download, a few hundred kilobytes.

`make_tiny_model(folder)` writes a folder that `--policy` takes as it is. The weights are random (seeded), so the text
is noise; the machinery around it (template, special tokens, cache, sampling, stop strings) is what the tests look at.
This module holds no tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)

SPECIAL = ("<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")

_CORPUS = (
    "Let's break down this problem step by step.",
    "Step 0: Step 1: Step 2: Step 3: Step 4: Step 5: Step 6: Step 7: Step 8: Step 9: Step 10:",
    "A patient of 70 kg needs 25 mg/kg. Which dose is right?\nA. 12 mg\nB. 84 mmHg\nC. 1750 mg\nD. none",
    "The answer is A. The answer is B. The answer is C. The answer is D. The answer is 12.5.",
    "Write one more step or finish now? Reply Reason or Finish. Reason Finish But wait, the sodium is 140 mmol/L.",
    "anion gap = sodium - chloride - bicarbonate; mean arterial pressure = (systolic + 2 * diastolic) / 3",
    "\n\nStep 1: The systolic pressure is 120.\n\nStep 2: Therefore the mean is 93. The answer is B.",
)


def make_tiny_tokenizer(folder: str | Path, *, vocab_size: int = 400, chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """A byte-level BPE tokenizer of at most `vocab_size` entries in `folder`: BOS `<s>`, EOS `<|end|>`, pad `<pad>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_CORPUS * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def make_tiny_model(
    folder: str | Path,
    arch: str = "llama",
    *,
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vocab_size: int = 400,
    context: int = 512,
    spread: float = 0.25,
    chat_template: str | None = CHAT_TEMPLATE,
) -> Path:
    """A random causal LM with its tokenizer in `folder` (created); returns the folder.

    `arch` is one of llama, qwen2, gpt2 (full attention), mistral-sliding, gemma3, mamba2 (caches that are not
    plain full attention; window 8). `spread` is the standard deviation of the weights: larger makes sharper choices.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tiny_tokenizer(folder, vocab_size=vocab_size, chat_template=chat_template)
    size: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "initializer_range": spread,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    attention = {
        "intermediate_size": 2 * hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
    }
    match arch:
        case "llama" | "qwen2":
            config = AutoConfig.for_model(arch, **size, **attention)
        case "gpt2":
            config = AutoConfig.for_model("gpt2", **size, n_head=heads, n_positions=context)
        case "mistral-sliding":
            config = AutoConfig.for_model("mistral", **size, **attention, sliding_window=8)
        case "gemma3":
            types = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)]
            config = AutoConfig.for_model(
                "gemma3_text", **size, **attention, head_dim=hidden // heads, sliding_window=8, layer_types=types
            )
        case "mamba2":
            config = AutoConfig.for_model(
                "mamba2", **size, num_heads=heads, head_dim=2 * hidden // heads, state_size=8, n_groups=1
            )
        case _:
            raise ValueError(f"no tiny model of architecture {arch!r}")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(str(folder))
    return folder


def make_tiny_reward(folder: str | Path, **shape: Any) -> Path:
    """A random model that puts two classes on each token, as `make_tiny_model` makes it; returns the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForTokenClassification

    made = make_tiny_model(folder, **shape)
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(made, num_labels=2)
    AutoModelForTokenClassification.from_config(config).save_pretrained(made)
    return made


def make_tiny_adapter(base: str | Path, folder: str | Path, *, seed: int = 0) -> Any:
    """A LoRA adapter in `folder` whose random weights change what the tiny model says; returns the adapted model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
    adapted.save_pretrained(folder)
    return adapted
