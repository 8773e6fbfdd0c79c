"""The shipped policy: transformers loads it, its tokenizer loses nothing, and it is as good as it should be."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from helpers import run_medsss, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

import medsss_cli.clinic
from medsss_cli.clinic.corpus import chats
from medsss_cli.clinic.problems import Split, applicable_slips, problems, write_steps
from medsss_cli.clinic.train import build_tokenizer, encode
from medsss_cli.prompts import CHOICES, question_text
from medsss_cli.records import dump
from medsss_cli.steps import SEPARATOR, join_steps, mark

FOLDER = Path(medsss_cli.clinic.__file__).parent / "policy"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


def test_folder_is_complete_and_small() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "medsss.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8_000_000
    card = json.loads((FOLDER / "medsss.json").read_text())
    assert card["command"].startswith("python -m medsss_cli.clinic.train ")
    assert {"step", "torch", "transformers", "tokens"} <= set(card)


def test_it_is_a_plain_llama(model: Any) -> None:
    assert type(model).__name__ == "LlamaForCausalLM"
    assert 1_000_000 <= sum(p.numel() for p in model.parameters()) <= 2_000_000
    assert model.config.max_position_embeddings >= 1024
    assert model.config.head_dim in (32, 64)


def test_special_tokens(tokenizer: Any, model: Any) -> None:
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer.bos_token is None
    assert tokenizer.encode("Step 1:") == tokenizer.encode("Step 1:", add_special_tokens=False)
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    reason, finish = (tokenizer.encode(word)[0] for word in CHOICES)
    assert reason != finish
    assert len(tokenizer) == model.config.vocab_size


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_comes_back(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_numbers_are_read_digit_by_digit(tokenizer: Any) -> None:
    assert tokenizer.tokenize("140 - 2.34") == ["1", "4", "0", "Ġ-", "Ġ2", ".", "3", "4"]


def test_chat_template_writes_what_training_wrote(tokenizer: Any) -> None:
    for chat in islice(chats(1), 60):
        turns = [{"role": m.role, "content": m.content} for m in chat]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        assert tokenizer.encode(text, add_special_tokens=False) == encode(tokenizer, chat)[0]
        opened = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
        assert text == opened + turns[-1]["content"] + "<|end|>"
    with pytest.raises(Exception, match="roles are"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_template_marks_the_assistant_for_trl(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "Step 1: c"}]
    out = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, keep in zip(out["input_ids"], out["assistant_masks"], strict=True) if keep]
    assert tokenizer.decode(marked) == "Step 1: c<|end|>"


def test_text_may_be_cut_where_search_and_prm_cut_it(tokenizer: Any) -> None:
    for p in problems(68, seed=4):
        for slip in (None, *applicable_slips(p)):
            steps = write_steps(p, slip)
            whole = join_steps(steps)
            ids = tokenizer.encode(whole)
            parts = [f"{mark(k)} {step}" + (SEPARATOR if k < len(steps) - 1 else "") for k, step in enumerate(steps)]
            assert [i for part in parts for i in tokenizer.encode(part)] == ids
            for k in range(1, len(steps)):
                prefix = join_steps(steps[:k]) + SEPARATOR + mark(k)
                assert tokenizer.encode(prefix) + tokenizer.encode(whole[len(prefix) :]) == ids
        prefix = "Step 4: But wait,"
        assert tokenizer.encode(prefix + " the") == tokenizer.encode(prefix) + tokenizer.encode(" the")
        assert len(tokenizer.encode(question_text(p))) < 90


def test_a_tokenizer_is_the_same_for_the_same_seed() -> None:
    assert build_tokenizer(3, documents=300).get_vocab() == build_tokenizer(3, documents=300).get_vocab()


def test_it_is_half_right_ends_its_answers_and_differs_in_what_it_draws(tmp_path: Path) -> None:
    """Bounds that are wide for 102 problems (docs/clinic.md has what was measured on more)."""
    asked = write_jsonl(tmp_path / "p.jsonl", [dump(p) for p in problems(102, seed=21, split=Split.TEST)])
    greedy = tmp_path / "g.jsonl"
    run_medsss(["sample", asked, "--greedy", "--max-tokens", 160, "-q", "-o", greedy]).ok()
    found = json.loads(run_medsss(["clinic", "--check", greedy]).ok().stdout)["all"]
    assert 0.30 < found["answer_right"] / 102 < 0.65
    steps = {name: found.get(f"steps_{name}", 0) for name in ("right", "wrong", "unreadable")}
    assert steps["unreadable"] / sum(steps.values()) < 0.05
    assert steps["wrong"] > 40
    args = ["sample", asked, "--limit", 17, "-n", 8, "--max-tokens", 160, "-q"]
    drawn = run_medsss(args).ok().records
    assert sum(len({each["text"] for each in record["responses"]}) > 1 for record in drawn) >= 13
