"""train-policy: what the rows become as ids, the losses by hand, what a policy learns and must not learn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from helpers import run_medsss, to_lines
from tiny_models import make_tiny_model, make_tiny_tokenizer

from medsss_cli.engines.rendering import render
from medsss_cli.errors import UsageError
from medsss_cli.records import Message
from medsss_cli.requests import Prompt
from medsss_cli.steps import ROOT_TEXT, join_steps
from medsss_cli.stream.jsonl import Where

QUESTION = "A patient of 70 kg needs 25 mg/kg. Which dose is right?"
ANSWER = join_steps([ROOT_TEXT, "25 times 70 is 1750.", "The answer is C."])
PARTIAL = join_steps([ROOT_TEXT, "25 times 70 is 1750."])
WRONG = join_steps([ROOT_TEXT, "25 plus 70 is 95."])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"), spread=0.1)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def sft(text: str = ANSWER, i: int = 0, question: str = QUESTION) -> dict[str, Any]:
    return {
        "id": f"s{i}",
        "question": question,
        "answer": "C",
        "prompt": [turn("user", question)],
        "completion": [turn("assistant", text)],
        "min_value": 1.0,
    }


def pair(chosen: str, rejected: str, kind: str, i: int = 0) -> dict[str, Any]:
    return {
        "id": f"d{i}",
        "question": QUESTION,
        "answer": "C",
        "prompt": [turn("user", QUESTION)],
        "chosen": [turn("assistant", chosen)],
        "rejected": [turn("assistant", rejected)],
        "margin": 0.9,
        "kind": kind,
    }


def placed(records: list[dict[str, Any]]) -> list[tuple[Where, dict[str, Any]]]:
    return [(Where("test", i + 1), record) for i, record in enumerate(records)]


def options(base: Path, out: Path, method: str = "sft", trainer: tuple[str, ...] = (), **more: Any) -> Any:
    from medsss_cli.models import Device
    from medsss_cli.training.config import Method, PolicyConfig

    given = {"batch_size": 8, "accumulation": 1, "lr": 3e-3, "device": Device.CPU}
    arguments = ("logging_steps=1", *trainer)
    return PolicyConfig(
        policy=str(base), output=str(out), method=Method(method), trainer_args=arguments, **{**given, **more}
    )


def log_probabilities(folder: Path, prompt: list[int], ids: list[int]) -> Any:
    """log p of each of `ids` after `prompt`, and the log probabilities over what follows the last."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    rows = torch.arange(len(prompt) - 1, len(prompt) + len(ids) - 1)
    return logits[rows, torch.tensor(ids)], logits[-1]


# --- rows to ids ---


def read(tokenizer: Any, records: list[dict[str, Any]], kind: str) -> list[Any]:
    from medsss_cli.training.policy import preference_rows, sft_rows, turn_end
    from medsss_cli.training.rows import Counts

    end = turn_end(tokenizer, {tokenizer.eos_token_id})
    reader = sft_rows if kind == "sft" else preference_rows
    return list(reader(placed(records), tokenizer, end, Counts()))


def test_the_prompt_is_what_an_engine_asks_and_the_turn_is_closed_once(tmp_path: Path) -> None:
    """The template writes "<|end|>\\n" after an answer: the loss covers <|end|>, where a policy stops, no more."""
    tokenizer = make_tiny_tokenizer(tmp_path)
    (row,) = read(tokenizer, [sft()], "sft")
    asked = render(tokenizer, Prompt((Message("user", QUESTION),)))
    answer = [*tokenizer.encode(ANSWER, add_special_tokens=False), tokenizer.eos_token_id]
    assert row.columns["input_ids"] == asked + answer
    assert row.columns["labels"] == [-100] * len(asked) + answer


def test_a_template_without_an_end_of_turn_gets_the_eos(tmp_path: Path) -> None:
    plain = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
    tokenizer = make_tiny_tokenizer(tmp_path, chat_template=plain)
    (row,) = read(tokenizer, [sft()], "sft")
    assert row.columns["labels"][-1] == tokenizer.eos_token_id


def test_only_a_finished_answer_is_closed(tmp_path: Path) -> None:
    """Rule (a) compares beginnings of answers. They stay open, unless the last step states the answer."""
    tokenizer = make_tiny_tokenizer(tmp_path)
    eos = tokenizer.eos_token_id
    step, finish, whole = read(
        tokenizer, [pair(PARTIAL, WRONG, "step"), pair(ANSWER, WRONG, "step"), pair(ANSWER, WRONG, "trajectory")], "dpo"
    )
    assert eos not in step.columns["chosen_ids"] + step.columns["rejected_ids"]
    assert tokenizer.decode(step.columns["chosen_ids"]) == PARTIAL
    assert finish.columns["chosen_ids"][-1] == eos
    assert eos not in finish.columns["rejected_ids"]
    assert [whole.columns[side][-1] for side in ("chosen_ids", "rejected_ids")] == [eos, eos]


def test_an_open_turn_ends_with_the_token_that_running_text_has(tmp_path: Path) -> None:
    """Llama 3 cuts ".\\n\\n" as one token. A step that ended with "." alone would be trained on a token that the policy
    never writes there, and that never leads to another step."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\w+| ?[^\s\w]+[\n]*|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([ANSWER] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", clean_up_tokenization_spaces=False)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<|end|>' }}{% endfor %}"
    (row,) = read(tokenizer, [pair(PARTIAL, WRONG, "step")], "dpo")
    chosen = row.columns["chosen_ids"]
    assert tokenizer.decode(chosen[-1:]) == ".\n\n"
    assert tokenizer.decode(chosen) == PARTIAL + "\n\n"
    closed = tokenizer.encode(ANSWER, add_special_tokens=False)
    assert closed[: len(chosen)] == chosen


# --- losses ---


def test_the_sft_loss_is_that_of_the_completion_alone(base: Path, tmp_path: Path) -> None:
    """Against a plain forward: the mean of -log p over the completions' tokens, in one batch and under accumulation."""
    from transformers import AutoTokenizer

    from medsss_cli.training.policy import train_policy

    records = [sft(), sft(PARTIAL, 1, "Another question, much longer than the first one, to be padded?")]
    tokenizer = AutoTokenizer.from_pretrained(base)
    total, count = 0.0, 0
    for row in read(tokenizer, records, "sft"):
        start = row.columns["labels"].count(-100)
        ids = row.columns["input_ids"]
        scores, _ = log_probabilities(base, ids[:start], ids[start:])
        total, count = total - float(scores.sum()), count + len(scores)
    for name, batch, accumulation in (("one", 2, 1), ("two", 1, 2)):
        given = options(base, tmp_path / name, batch_size=batch, accumulation=accumulation)
        summary = train_policy(given, placed(records))
        assert summary.steps == 1
        assert summary.loss_first == pytest.approx(total / count, rel=1e-4)


def test_the_dpo_loss_by_hand(base: Path, tmp_path: Path) -> None:
    """Before the first update policy and reference are one, so the loss is -log sigmoid(0) = ln 2, whatever beta is.
    `sft_weight` adds its share of the chosen one's nll; under LoRA the reference is the model without its adapter."""
    from transformers import AutoTokenizer

    from medsss_cli.training.policy import train_policy

    records = [pair(ANSWER, WRONG, "trajectory")]
    (row,) = read(AutoTokenizer.from_pretrained(base), records, "dpo")
    scores, _ = log_probabilities(base, row.columns["prompt_ids"], row.columns["chosen_ids"])
    nll = -float(scores.mean())
    for name, more, expected in (
        ("plain", {}, math.log(2)),
        ("sft", {"sft_weight": 0.5}, math.log(2) + 0.5 * nll),
        ("lora", {"lora": True}, math.log(2)),
    ):
        summary = train_policy(options(base, tmp_path / name, "dpo", **more), placed(records))
        assert summary.loss_first == pytest.approx(expected, rel=1e-4), name


# --- what is learnt ---


def test_sft_teaches_a_text_and_where_it_ends(base: Path, tmp_path: Path) -> None:
    """After 60 updates the model writes the text by itself and stops, through plain transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from medsss_cli.training.policy import train_policy

    out = tmp_path / "out"
    given = options(
        base, out, epochs=60.0, lr=1e-2, batch_size=4, trainer=("lr_scheduler_type=constant", "logging_steps=10")
    )
    summary = train_policy(given, placed([sft(i=i) for i in range(4)]))
    assert summary.steps == 60
    assert summary.loss_first is not None
    assert summary.loss_last is not None
    assert summary.loss_last < 0.1 < summary.loss_first

    tokenizer = AutoTokenizer.from_pretrained(out)
    chat = tokenizer.apply_chat_template([turn("user", QUESTION)], add_generation_prompt=True, return_tensors="pt")
    ids = chat["input_ids"] if hasattr(chat, "keys") else chat
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
    by the chat template, as TRL would have it, the end of turn would be one of the tokens that are made likelier.)"""
    from transformers import AutoTokenizer

    from medsss_cli.training.policy import train_policy

    tokenizer = AutoTokenizer.from_pretrained(base)
    records = [pair(PARTIAL, WRONG, "step", i) for i in range(8)]
    row = read(tokenizer, records[:1], "dpo")[0]
    prompt, chosen, rejected = (row.columns[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))

    def look(folder: Path) -> tuple[float, float]:
        good, after = log_probabilities(folder, prompt, chosen)
        poor, _ = log_probabilities(folder, prompt, rejected)
        return float(good.sum() - poor.sum()), float(after[tokenizer.eos_token_id])

    out = tmp_path / "out"
    summary = train_policy(options(base, out, "dpo", epochs=10.0, lr=1e-3), placed(records))
    margin_before, stop_before = look(base)
    margin, stop = look(out)
    assert margin > margin_before + 1.0
    assert stop < stop_before + 0.1
    assert summary.metrics["margin"] > 0.1
    assert summary.metrics["accuracy"] == 1.0
    assert summary.loss_last is not None
    assert summary.loss_last < math.log(2)


def test_an_adapter_is_merged_left_or_trained_on(base: Path, tmp_path: Path) -> None:
    """LoRA's folder gives the same model merged and on its base, and is a policy for the next training, a PRM's too."""
    from medsss_cli.models import Device, load_model
    from medsss_cli.prm.config import PrmConfig
    from medsss_cli.prm.scorer import open_prm
    from medsss_cli.training.config import PrmTrainingConfig
    from medsss_cli.training.policy import train_policy
    from medsss_cli.training.prm import train_prm

    records = placed([sft(i=i) for i in range(4)])
    for name, merge in (("whole", True), ("adapter", False)):
        train_policy(options(base, tmp_path / name, lora=True, merge=merge, epochs=3.0), records)
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    import torch

    ids = torch.tensor([[5, 6, 7, 8]])
    logits = [
        load_model(str(tmp_path / name), dtype=torch.float32, head="causal")(input_ids=ids).logits
        for name in (
            "whole",
            "adapter",
        )
    ]
    assert torch.allclose(logits[0], logits[1], atol=1e-4)

    pairs = placed([pair(PARTIAL, WRONG, "step")])
    summary = train_policy(options(tmp_path / "adapter", tmp_path / "next", "dpo", lora=True), pairs)
    assert summary.loss_first == pytest.approx(math.log(2), rel=1e-4)
    row = {"prompt": "Q?", "completions": [ROOT_TEXT, "a"], "labels": [None, 1.0]}
    prm = str(tmp_path / "prm")
    train_prm(PrmTrainingConfig(policy=str(tmp_path / "adapter"), output=prm, device=Device.CPU), placed([row]))
    open_prm(PrmConfig(prm=prm, prm_device="cpu"))


# --- what is refused ---


def test_what_cannot_be_trained_on(base: Path, tmp_path: Path) -> None:
    from medsss_cli.training.policy import train_policy

    long = sft("word " * 600, 9)
    two_turns = sft() | {"completion": [turn("assistant", "a"), turn("user", "b")]}
    bare = {"prompt": [turn("user", "Q?")], "completion": [turn("assistant", "The answer is B.")]}
    bad: list[str] = []
    given = placed([sft(), long, two_turns, sft(" "), bare, pair(ANSWER, WRONG, "step")])
    summary = train_policy(options(base, tmp_path / "out"), given, on_bad=lambda where, what: bad.append(what))
    assert (summary.rows, summary.dropped, summary.bad) == (2, 1, 3)
    assert "one assistant turn" in bad[0]
    assert "is empty" in bad[1]
    assert "not a sft record" in bad[2]
    with pytest.raises(UsageError, match="no rows"):
        train_policy(options(base, tmp_path / "none", "dpo"), placed([sft(), pair(ANSWER, ANSWER, "step")]))
    pairs = placed([pair(ANSWER, WRONG, "step")])
    for trainer, what in (
        ("loss_type=nonsense", "Unknown loss type"),
        ("nonsense=1", "nonsense"),
        ("report_to=nonsense", "nonsense"),
        ("learning_rate=1", "medsss sets this itself"),
    ):
        with pytest.raises(UsageError, match=what):
            train_policy(options(base, tmp_path / "none", "dpo", (trainer,)), pairs)
    assert not (tmp_path / "none").exists()


# --- rewards ---


def test_a_right_answer_is_rewarded_and_every_prompt_is_that_of_an_engine(base: Path, tmp_path: Path) -> None:
    """Of any record the problem is taken; wrong, unreadable and empty answers are worth 0. An update of 8 answers takes
    2 problems at 4 answers each, so 5 problems are filled up to 6 with one of the next epoch."""
    from medsss_cli.training.config import Method, PolicyConfig
    from medsss_cli.training.grpo import problem_rows, reward
    from medsss_cli.training.rows import Counts, in_order

    problem = {"id": "q", "question": QUESTION, "options": {"A": "95 mg", "C": "1750 mg"}, "answer": "C"}
    tree = problem | {"nodes": [{"parent": -1, "depth": 0, "action": "root", "text": ROOT_TEXT}]}
    config = PolicyConfig(
        method=Method.GRPO, output="x", generations=4, batch_size=4, accumulation=2, max_tokens=50, max_length=300
    )
    tokenizer, bad = make_tiny_tokenizer(tmp_path), []
    given = placed([problem, tree, {"prompt": "Q?", "completions": ["a"], "labels": [1.0]}])
    rows = list(problem_rows(config, given, tokenizer, Counts(), lambda where, what: bad.append(f"{where}: {what}")))
    asked = render(tokenizer, Prompt((Message("user", QUESTION + "\nA. 95 mg\nC. 1750 mg"),)))
    assert [(row.id, row.columns["prompt"], row.length) for row in rows] == [("q", asked, len(asked) + 50)] * 2
    assert len(bad) == 1
    assert bad[0].startswith("test:3")
    texts = [ANSWER, WRONG, "The answer is A.", "", "Step 1: So C.\n\nStep 2: The answer is (C)."]
    assert reward(texts, [rows[0].columns["problem"]] * len(texts)) == [1.0, 0.0, 0.0, 0.0, 1.0]

    from datasets import Dataset

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
    assert "stdin:9" in ran.stderr
    assert "step 4/4 loss" in ran.stderr
    assert "zero-variance" in ran.stderr
    assert "vLLM" not in ran.stderr
    card = json.loads((out / "medsss.json").read_text())
    assert (card["kind"], card["method"], card["options"]["generations"]) == ("policy", "grpo", 8)
    drawn = run_medsss(["sample", "-n", "1", "--max-tokens", "8", "--policy", out], problems.splitlines()[0]).ok()
    assert len(drawn.records[0]["responses"]) == 1


@pytest.mark.parametrize(
    ("method", "args", "what"),
    [
        ("sft", ["--generations", "4"], "--generations is not for --method sft"),
        ("sft", ["--beta", ".2"], "--beta is not for --method sft"),
        ("dpo", ["--max-tokens", "100"], "--max-tokens is not for --method dpo"),
        ("grpo", ["--sft-weight", "1"], "--sft-weight is not for --method grpo"),
        ("grpo", ["--beta", ".1"], "needs --lora"),
        ("grpo", ["--generations", "7"], "do not make whole groups of --generations 7"),
    ],
)
def test_an_option_of_another_method_is_refused(method: str, args: list[str], what: str, tmp_path: Path) -> None:
    ran = run_medsss(["train-policy", "--method", method, "-o", tmp_path / "out", *args], "")
    assert ran.rc == 2
    assert what in ran.stderr
    assert not (tmp_path / "out").exists()


# --- the command ---


def test_the_command_writes_one_line(base: Path, tmp_path: Path) -> None:
    """A pipe with a broken line: named, counted, status 1; an empty one: status 2 and no folder."""
    lines = to_lines(pair(PARTIAL, WRONG, "step", i) for i in range(4)) + "[1]\n"
    args = ["train-policy", "--method", "dpo", "--policy", base]
    ran = run_medsss([*args, "-o", tmp_path / "out", "--lr", "1e-3"], lines)
    assert ran.rc == 1, ran.stderr
    (summary,) = ran.records
    assert (summary["rows"], summary["bad"], summary["method"], summary["steps"]) == (4, 1, "dpo", 1)
    assert summary["loss_first"] == pytest.approx(math.log(2), rel=1e-3)
    assert "stdin:5: expected a JSON object" in ran.stderr
    assert "\r" not in ran.stderr

    ran = run_medsss([*args, "-o", tmp_path / "none"], "")
    assert (ran.rc, ran.stdout) == (2, "")
    assert "no rows" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "none").exists()


def test_the_last_step_is_in_the_summary(base: Path, tmp_path: Path) -> None:
    """A run that was shorter than `logging_steps` told its first step as its last one: a loss of ln 2 and no margin."""
    from medsss_cli.training.policy import train_policy

    records = placed([pair(PARTIAL, WRONG, "step", i) for i in range(8)])
    given = options(base, tmp_path / "out", "dpo", ("logging_steps=100",), epochs=6.0, lr=1e-3)
    summary = train_policy(given, records)
    assert summary.steps == 6
    assert summary.loss_first == pytest.approx(math.log(2), rel=1e-4)
    assert summary.loss_last is not None
    assert summary.loss_last < math.log(2) - 0.01
    assert summary.metrics["margin"] > 0


def test_corrections_train_as_in_medcriticals_second_stage(base: Path, tmp_path: Path) -> None:
    """From answers with their corrections to an adapter; whole answers are closed."""
    responses = [
        {"text": WRONG, "verdict": "wrong"},
        {"text": ANSWER, "verdict": "correct", "corrects": 0},
    ]
    samples = {"question": QUESTION, "answer": "C", "task": "text", "responses": responses, "pass_rate": 0.0}
    pairs = run_medsss(["label", "--to", "preference"], to_lines({"id": f"c{i}", **samples} for i in range(2))).ok()
    args = ["train-policy", "--policy", base, "--device", "cpu", "--method", "dpo", "-o", tmp_path / "out"]
    args += ["--lora", "--lora-rank", "8", "--lora-alpha", "16", "--beta", "0.3", "--lr", "1e-5"]
    ran = run_medsss(args, pairs.stdout).ok()
    assert ran.records[0]["rows"] == 2
    card = json.loads((tmp_path / "out" / "medsss.json").read_text())
    wanted = {"lora": True, "lora_rank": 8, "lora_alpha": 16, "lr": 1e-5, "beta": 0.3}
    assert {name: card["options"][name] for name in wanted} == wanted
    assert card["data"]["notes"] == {"kinds": {"correction": 2}, "open_turns": 0}
