"""train-policy: what the rows become as ids, the losses by hand, what a policy learns and must not learn."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import problem, run_medsss, to_lines
from tiny_models import make_tiny_tokenizer
from training import ANSWER, PARTIAL, QUESTION, WRONG, pair, rows_of, sft, train, training, turn

from medsss_cli.engines.rendering import render
from medsss_cli.errors import UsageError
from medsss_cli.records import Message
from medsss_cli.requests import Prompt
from medsss_cli.steps import ROOT_TEXT


def log_probabilities(folder: Path, prompt: list[int], ids: list[int]) -> Any:
    """log p of each of `ids` after `prompt`, and the log probabilities over what follows the last."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    rows = torch.arange(len(prompt) - 1, len(prompt) + len(ids) - 1)
    return logits[rows, torch.tensor(ids)], logits[-1]


def test_the_prompt_is_what_an_engine_asks_and_the_turn_is_closed_once(tmp_path: Path) -> None:
    """The template writes "<|end|>\\n" after an answer: the loss covers <|end|>, where a policy stops, no more. A
    template without an end of turn gets the tokenizer's."""
    tokenizer = make_tiny_tokenizer(tmp_path)
    (row,) = rows_of("sft", tokenizer, [sft()])
    asked = render(tokenizer, Prompt((Message("user", QUESTION),)))
    answer = [*tokenizer.encode(ANSWER, add_special_tokens=False), tokenizer.eos_token_id]
    assert row.columns == {"input_ids": asked + answer, "labels": [-100] * len(asked) + answer}
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
    (row,) = rows_of("sft", tokenizer, [sft()])
    assert row.columns["labels"][-1] == tokenizer.eos_token_id


def test_only_a_finished_answer_is_closed(tmp_path: Path) -> None:
    """Rule (a) compares beginnings of answers. They stay open, unless the last step states the answer."""
    tokenizer = make_tiny_tokenizer(tmp_path)
    eos = tokenizer.eos_token_id
    pairs = [pair(PARTIAL, WRONG, "step"), pair(ANSWER, WRONG, "step"), pair(ANSWER, WRONG, "trajectory")]
    step, finish, whole = (row.columns for row in rows_of("dpo", tokenizer, pairs))
    assert eos not in step["chosen_ids"] + step["rejected_ids"] + finish["rejected_ids"]
    assert tokenizer.decode(step["chosen_ids"]) == PARTIAL
    assert finish["chosen_ids"][-1] == whole["chosen_ids"][-1] == whole["rejected_ids"][-1] == eos


def test_an_open_turn_ends_with_the_token_that_running_text_has() -> None:
    """Llama 3 cuts ".\\n\\n" as one token. A step that ended with "." alone would be trained on a token that the policy
    never writes there, and that never leads to another step."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\s\w]+[\n]*|\s+"), "isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([words, bytewise])
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    given = {"special_tokens": ["<|end|>"], "initial_alphabet": alphabet, "show_progress": False}
    core.train_from_iterator([ANSWER] * 20, trainers.BpeTrainer(vocab_size=400, **given))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", clean_up_tokenization_spaces=False)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<|end|>' }}{% endfor %}"
    (row,) = rows_of("dpo", tokenizer, [pair(PARTIAL, WRONG, "step")])
    chosen = row.columns["chosen_ids"]
    assert tokenizer.decode(chosen) == PARTIAL + "\n\n"
    assert tokenizer.decode(chosen[-1:]) == ".\n\n"
    assert tokenizer.encode(ANSWER, add_special_tokens=False)[: len(chosen)] == chosen


def test_the_sft_loss_is_that_of_the_completion_alone(base: Path, tmp_path: Path) -> None:
    """Against a plain forward: the mean of -log p over the completions' tokens, in one batch and under accumulation."""
    from transformers import AutoTokenizer

    records = [sft(), sft(PARTIAL, 1, "Another question, much longer than the first one, to be padded?")]
    total, count = 0.0, 0
    for row in rows_of("sft", AutoTokenizer.from_pretrained(base), records):
        start, ids = row.columns["labels"].count(-100), row.columns["input_ids"]
        scores, _ = log_probabilities(base, ids[:start], ids[start:])
        total, count = total - float(scores.sum()), count + len(scores)
    for name, batch, accumulation in (("one", 2, 1), ("two", 1, 2)):
        summary = train("sft", base, tmp_path / name, records, batch_size=batch, accumulation=accumulation)
        assert summary.steps == 1
        assert summary.loss_first == pytest.approx(total / count, rel=1e-4)


def test_the_dpo_loss_by_hand(base: Path, tmp_path: Path) -> None:
    """Before the first update policy and reference are one, so the loss is -log sigmoid(0) = ln 2, whatever beta is.
    `sft_weight` adds its share of the chosen one's nll."""
    from transformers import AutoTokenizer

    records = [pair(ANSWER, WRONG)]
    (row,) = rows_of("dpo", AutoTokenizer.from_pretrained(base), records)
    scores, _ = log_probabilities(base, row.columns["prompt_ids"], row.columns["chosen_ids"])
    for name, more, expected in (
        ("sft", {"sft_weight": 0.5}, math.log(2) - 0.5 * float(scores.mean())),
        ("lora", {"lora": True, "beta": 0.3}, math.log(2)),
    ):
        summary = train("dpo", base, tmp_path / name, records, **more)
        assert summary.loss_first == pytest.approx(expected, rel=1e-4), name


def test_sft_teaches_a_text_and_where_it_ends(base: Path, tmp_path: Path) -> None:
    """After 60 updates the model writes the text by itself and stops, through plain transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    constant = ("lr_scheduler_type=constant", "logging_steps=10")
    records = [sft(i=i) for i in range(4)]
    summary = train("sft", base, out, records, epochs=60.0, lr=1e-2, batch_size=4, trainer=constant)
    assert summary.steps == 60
    assert summary.loss_last < 0.1 < summary.loss_first

    tokenizer = AutoTokenizer.from_pretrained(out)
    chat = tokenizer.apply_chat_template(turn("user", QUESTION), add_generation_prompt=True, return_tensors="pt")
    ids = chat["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(out)
    written = model.generate(ids, max_new_tokens=200, do_sample=False)[0, ids.shape[1] :].tolist()
    assert written[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(written, skip_special_tokens=True) == ANSWER
    for name in ("generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    card = json.loads((out / "medsss.json").read_text())
    assert (card["kind"], card["method"], card["data"]["rows"]) == ("policy", "sft", 4)
    assert not list(out.glob("*.bin"))


def test_dpo_raises_the_margin_and_does_not_teach_to_stop_after_a_step(base: Path, tmp_path: Path) -> None:
    """Pairs of steps: chosen gains on rejected, and an end of turn after the chosen step becomes no likelier. (Rendered
    by the chat template, as TRL would have it, the end of turn would be one of the tokens that are made likelier.) The
    summary tells the last step, though the run is shorter than `logging_steps`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    records = [pair(PARTIAL, WRONG, "step", i) for i in range(8)]
    row = rows_of("dpo", tokenizer, records)[0].columns

    def look(folder: Path) -> tuple[float, float]:
        good, after = log_probabilities(folder, row["prompt_ids"], row["chosen_ids"])
        poor, _ = log_probabilities(folder, row["prompt_ids"], row["rejected_ids"])
        return float(good.sum() - poor.sum()), float(after[tokenizer.eos_token_id])

    out = tmp_path / "out"
    summary = train("dpo", base, out, records, epochs=10.0, lr=1e-3, trainer=("logging_steps=100",))
    margin_before, stop_before = look(base)
    margin, stop = look(out)
    assert margin > margin_before + 1.0
    assert stop < stop_before + 0.1
    assert summary.metrics["margin"] > 0.05
    assert summary.metrics["accuracy"] > 0.8
    assert summary.loss_first == pytest.approx(math.log(2), rel=1e-4)
    assert summary.loss_last < math.log(2) - 0.01


def test_an_adapter_is_merged_left_or_trained_on(base: Path, tmp_path: Path) -> None:
    """LoRA's folder gives the same model merged and on its base, and is a policy for the next training, a PRM's too."""
    import torch

    from medsss_cli.models import load_model
    from medsss_cli.prm.config import PrmConfig
    from medsss_cli.prm.scorer import open_prm

    for name, merge in (("whole", True), ("adapter", False)):
        train("sft", base, tmp_path / name, [sft(i=i) for i in range(4)], lora=True, merge=merge, epochs=3.0)
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    models = [load_model(str(tmp_path / name), dtype=torch.float32, head="causal") for name in ("whole", "adapter")]
    whole, adapter = (model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits for model in models)
    assert torch.allclose(whole, adapter, atol=1e-4)

    summary = train("dpo", tmp_path / "adapter", tmp_path / "next", [pair(PARTIAL, WRONG, "step")], lora=True)
    assert summary.loss_first == pytest.approx(math.log(2), rel=1e-4)
    row = {"prompt": "Q?", "completions": [ROOT_TEXT, "a"], "labels": [None, 1.0]}
    train("prm", tmp_path / "adapter", tmp_path / "prm", [row], lora=True)
    open_prm(PrmConfig(prm=str(tmp_path / "prm"), prm_device="cpu"))


def test_a_right_answer_is_rewarded_and_the_prompt_is_that_of_an_engine(tmp_path: Path) -> None:
    """Of any record the problem is taken; wrong, unreadable and empty answers are worth 0. An update of 8 answers takes
    2 problems at 4 answers each, so 5 problems are filled up to 6 with one of the next epoch."""
    from datasets import Dataset

    from medsss_cli.training.folder import in_order
    from medsss_cli.training.policy import reward

    asked_for = {"id": "q", "question": QUESTION, "options": {"A": "95 mg", "C": "1750 mg"}, "answer": "C"}
    tree = asked_for | {"nodes": [{"parent": -1, "depth": 0, "action": "root", "text": ROOT_TEXT}]}
    tokenizer, more = make_tiny_tokenizer(tmp_path), {"generations": 4, "max_tokens": 50}
    rows = rows_of("grpo", tokenizer, [asked_for, tree], **more)
    asked = render(tokenizer, Prompt((Message("user", QUESTION + "\nA. 95 mg\nC. 1750 mg"),)))
    assert [(row.id, row.columns["prompt"], row.length) for row in rows] == [("q", asked, len(asked) + 50)] * 2
    texts = [ANSWER, WRONG, "The answer is A.", "", "Step 1: So C.\n\nStep 2: The answer is (C)."]
    assert reward(texts, [rows[0].columns["problem"]] * len(texts)) == [1.0, 0.0, 0.0, 0.0, 1.0]

    config = training("grpo", "x", "x", [], **more).config
    order = in_order(Dataset.from_dict({"length": [9, 8, 7, 6, 5]}), config, copies=4)["length"]
    assert len(order) == 6
    assert sorted(order[:5]) == [5, 6, 7, 8, 9]


def test_rewards_train_a_policy(tmp_path: Path) -> None:
    """The program itself on clinic problems and a line that is none: named, counted, the rest trained on. The line of
    progress and the summary tell reward, groups that teach nothing, length and tokens; the folder is a policy."""
    problems = run_medsss(["clinic", "-n", "8"]).ok().stdout + to_lines([{"prompt": "Q?", "completion": "a"}])
    out = tmp_path / "out"
    args = ["train-policy", "--method", "grpo", "--lr", "5e-4", "--batch-size", "16", "--accumulation", "1"]
    ran = run_medsss([*args, "--max-tokens", "48", "--lora", "--beta", ".01", "-o", out], problems)
    assert ran.rc == 1, ran.stderr
    (summary,) = ran.records
    assert (summary["method"], summary["rows"], summary["bad"], summary["steps"]) == ("grpo", 8, 1, 4)
    for metrics in (summary["metrics"], summary["metrics_first"]):
        assert 0 <= metrics["reward"] <= 1
        assert 0 <= metrics["zero-variance"] <= 1
        assert 0 < metrics["length"] <= 48
    assert 4 * 16 <= summary["metrics"]["tokens"] <= 4 * 16 * 48
    for words in ("stdin:9", "step 4/4 loss", "zero-variance"):
        assert words in ran.stderr
    for noise in ("vLLM", "\r", "Loading weights", "Traceback"):
        assert noise not in ran.stderr
    card = json.loads((out / "medsss.json").read_text())
    assert (card["kind"], card["method"], card["options"]["generations"]) == ("policy", "grpo", 8)
    drawn = run_medsss(["sample", "-n", "1", "--max-tokens", "8", "--policy", out], problems.splitlines()[0]).ok()
    assert len(drawn.records[0]["responses"]) == 1


@pytest.mark.parametrize(
    ("method", "args", "what"),
    [
        ("sft", ["--generations", "4"], "--generations is not for --method sft"),
        ("dpo", ["--max-tokens", "100"], "--max-tokens is not for --method dpo"),
        ("grpo", ["--sft-weight", "1"], "--sft-weight is not for --method grpo"),
        ("grpo", ["--beta", ".1"], "needs --lora"),
        ("sft", [], "no rows"),
        ("sft", ["missing.jsonl"], "cannot read missing.jsonl"),
        ("sft", ["--policy", "no/such/policy/folder"], "no policy"),
    ],
)
def test_a_usage_error_touches_nothing(method: str, args: list[str], what: str, tmp_path: Path) -> None:
    ran = run_medsss(["train-policy", "--method", method, "-o", tmp_path / "out", *args], "")
    assert (ran.rc, ran.stdout) == (2, "")
    assert what in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_trained_on(base: Path, tmp_path: Path) -> None:
    """Rows that are none are named and counted, the rest is trained on; what a trainer does not know leaves nothing."""
    long = sft("word " * 600, 9)
    two_turns = sft() | {"completion": [*turn("assistant", "a"), *turn("user", "b")]}
    bare = {"prompt": turn("user", "Q?"), "completion": turn("assistant", "The answer is B.")}
    bad: list[str] = []
    given = [sft(), long, two_turns, sft(" "), bare, pair(ANSWER, WRONG, "step")]
    summary = train("sft", base, tmp_path / "out", given, on_bad=lambda where, what: bad.append(f"{where} {what}"))
    assert (summary.rows, summary.dropped, summary.bad) == (2, 1, 3)
    for what, words in zip(bad, ("test:3 .*one assistant turn", "not empty", "not a sft record"), strict=True):
        assert re.search(words, what)
    with pytest.raises(UsageError, match="no rows"):
        train("dpo", base, tmp_path / "none", [sft(), pair(ANSWER, ANSWER, "step")])
    with pytest.raises(UsageError, match="divisible"):
        train("grpo", base, tmp_path / "none", [problem(1)], generations=7, max_tokens=9)
    for trainer, what in (
        ("loss_type=nonsense", "Unknown loss type"),
        ("nonsense=1", "nonsense"),
        ("report_to=nonsense", "nonsense"),
        ("learning_rate=1", "medsss sets this itself"),
    ):
        with pytest.raises(UsageError, match=what):
            train("dpo", base, tmp_path / "none", [pair(ANSWER, WRONG, "step")], trainer=(trainer,))
    assert not (tmp_path / "none").exists()
