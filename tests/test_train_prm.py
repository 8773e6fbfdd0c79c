"""train-prm: the loss against numbers worked by hand, what it learns, what it refuses, and how it goes on."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import clean_env, run_medsss, to_lines
from tiny_models import make_tiny_model

from medsss_cli.errors import UsageError
from medsss_cli.records import Problem
from medsss_cli.steps import ROOT_TEXT, join_steps
from medsss_cli.stream.jsonl import Where

GOOD = "The mean arterial pressure is 93 mmHg."
BAD = "The anion gap is 12 mmol/L."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"), spread=0.05)


def record(i: int) -> dict[str, Any]:
    """Two scored steps, each right or wrong as the bits of i say; the label is 1 where the step is GOOD."""
    steps = [GOOD if i >> bit & 1 else BAD for bit in range(2)]
    labels = [None, *(float(step == GOOD) for step in steps)]
    return {
        "id": f"p{i}",
        "question": f"Case {i}?",
        "answer": "B",
        "prompt": f"Case {i}?",
        "completions": [ROOT_TEXT, *steps],
        "labels": labels,
        "values": [0.5, 0.5, 0.5],
        "meta": {"labels": "hard"},
    }


def tree_rows(n: int) -> list[tuple[Where, dict[str, Any]]]:
    """As `rows`, four trajectories to a question, which stand apart: GOOD and BAD in each order, with soft labels that
    differ where trajectories share a step."""
    given = []
    for i in range(n):
        question, variant = i % (n // 4), i // (n // 4)
        data = record(variant) | {"id": f"q{question}", "prompt": f"Case {question}?", "question": f"Case {question}?"}
        data["labels"][1] = (data["labels"][1] + 0.1 * variant) / 1.3
        given.append((Where("test", i + 1), data))
    return given


def rows(n: int) -> list[tuple[Where, dict[str, Any]]]:
    return [(Where("test", i + 1), record(i)) for i in range(n)]


def options(base: Path, out: Path, *, save_steps: int = 500, **more: Any) -> Any:
    from medsss_cli.models import Device
    from medsss_cli.training.config import PrmTrainingConfig

    given = {"batch_size": 8, "accumulation": 1, "lr": 3e-3, "lora": False, "epochs": 4.0, "device": Device.CPU}
    trainer = ("logging_steps=1", f"save_steps={save_steps}")
    return PrmTrainingConfig(policy=str(base), output=str(out), trainer_args=trainer, **{**given, **more})


def opened(out: Path, **more: Any) -> Any:
    from medsss_cli.prm.config import PrmConfig
    from medsss_cli.prm.scorer import open_prm

    return open_prm(PrmConfig(prm=str(out), prm_device="cpu", **more))


def scores_of(scorer: Any, problem: Problem, texts: list[str]) -> list[list[float]]:
    from medsss_cli.prm.layout import answer_steps

    found: list[list[float]] = scorer.score(problem, [answer_steps(text) for text in texts])
    return found


def test_the_loss_by_hand() -> None:
    """Logits (0, ln 3) are p_right = 3/4. Labels 1, 0 and .5 cost ln 4/3, ln 4 and their mean; the position without a
    label costs nothing, whatever its logits. Two trajectories through one token, labels 1 and 0, cost ln 4/3 + ln 4."""
    import torch

    from medsss_cli.training.prm import step_loss, weigh

    logits = torch.tensor([[[0.0, math.log(3)]] * 3 + [[50.0, -50.0]]], requires_grad=True)
    one, zero = math.log(4 / 3), math.log(4)
    loss = step_loss(logits, torch.from_numpy(weigh([([0, 1, 2], [1.0, 0.0, 0.5])], 4, 3))[None])
    assert loss.item() == pytest.approx((one + zero + (one + zero) / 2) / 3, rel=1e-6)
    loss.backward()
    # The slope in the right logit is p - y over the number of steps: (3/4 - 1)/3, 3/4/3, 1/4/3.
    assert logits.grad is not None
    assert logits.grad[0, :, 1].tolist() == pytest.approx([-1 / 12, 3 / 12, 1 / 12, 0.0], abs=1e-6)
    shared = step_loss(logits, torch.from_numpy(weigh([([1], [1.0]), ([1], [0.0])], 4, 2))[None])
    assert shared.item() == pytest.approx((one + zero) / 2, rel=1e-6)


def test_accumulation_changes_nothing(base: Path, tmp_path: Path) -> None:
    """One update from 8 rows at once and from 4 times 2, of unequal length and with unequal numbers of labels. The loss
    that transformers brings gives four times as much here."""
    from medsss_cli.training.prm import train_prm

    given = rows(8)
    for place, (_, data) in enumerate(given):
        if place % 3 == 0:
            data["labels"][2] = None
        if place % 4 == 0:
            data["completions"][1] += " The systolic pressure is 120." * 3
    weights, losses = [], []
    for name, batch, accumulation in (("one", 8, 1), ("four", 2, 4)):
        out = tmp_path / name
        summary = train_prm(options(base, out, batch_size=batch, accumulation=accumulation, epochs=1.0), given)
        assert summary.steps == 1
        losses.append(summary.loss_first)
        weights.append(weights_of(out))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # Adam divides by the size of the gradient, so its first step tells the sign; the loss above tells the size.
    for key, value in weights[0].items():
        assert (value - weights[1][key]).abs().max() < 2e-4, key


def test_packed_tries_train_what_paths_do(base: Path, tmp_path: Path) -> None:
    """One update from 16 trajectories of 4 questions, as tries, as tries that --max-length splits, and path by path:
    one loss and the same weights. Nothing is left out of a trie that is too long."""
    from medsss_cli.training.config import Packing
    from medsss_cli.training.prm import train_prm

    losses, weights, said = [], [], []
    for name, more in (
        ("path", {"packing": Packing.PATH}),
        ("tree", {}),
        ("split", {"max_length": 120, "accumulation": 2}),
    ):
        out = tmp_path / name
        batch = 16 // more.get("accumulation", 1)
        given = options(base, out, epochs=1.0, **{"batch_size": batch, **more})
        summary = train_prm(given, tree_rows(16), say=said.append)
        assert (summary.rows, summary.dropped, summary.steps) == (16, 0, 1)
        losses.append(summary.loss_first)
        weights.append(weights_of(out))
    whole, split = (line for line in said if line.startswith("packed"))
    assert "16 rows in 4 tries" in whole
    assert "16 rows in 8 tries" in split
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)
    for key, value in weights[0].items():
        for others in weights[1:]:
            assert (value - others[key]).abs().max() < 2e-4, key  # see above: Adam's first step is a sign


def test_a_model_that_takes_no_packs_is_trained_by_paths_and_told(tmp_path: Path) -> None:
    """Bloom makes its positions from the mask. Its packs would be wrong, so it must get none, in scoring as well."""
    import torch
    from tiny_models import make_tiny_tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    from medsss_cli.training.prm import train_prm

    bloom, out = tmp_path / "bloom", tmp_path / "out"
    size = len(make_tiny_tokenizer(bloom))
    torch.manual_seed(0)
    config = AutoConfig.for_model("bloom", vocab_size=size, hidden_size=16, n_layer=1, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(bloom)
    said: list[str] = []
    summary = train_prm(options(bloom, out, epochs=1.0), tree_rows(8), say=said.append)
    assert (summary.rows, summary.steps) == (8, 1)
    assert any("BloomForTokenClassification takes no packs, so it is trained path by path" in line for line in said)
    scorer = opened(out)
    assert scorer.unpacked
    (scores,) = scores_of(scorer, Problem(id="x", question="Case 1?", answer="B"), [join_steps([ROOT_TEXT, GOOD, BAD])])
    assert len(scores) == 2


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def test_it_learns_what_separates_steps_and_a_scorer_reads_it(base: Path, tmp_path: Path) -> None:
    """After four passes over 64 rows right and wrong steps do not overlap, on questions that were not trained on; the
    folder loads by transformers alone, and the scorer gives the probabilities that it computes."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    from medsss_cli.prm.layout import encode
    from medsss_cli.training.prm import train_prm

    out = tmp_path / "prm"
    summary = train_prm(options(base, out), rows(64))
    assert summary.loss_first is not None
    assert summary.loss_last is not None
    assert summary.loss_first > 0.6
    assert summary.loss_last < 0.3
    assert (summary.rows, summary.steps, summary.dropped, summary.bad) == (64, 32, 0, 0)

    scorer = opened(out)
    right, wrong = [], []
    for i in range(100, 108):
        data = record(i)
        problem = Problem(id=data["id"], question=data["question"], answer="B")
        (scores,) = scores_of(scorer, problem, [join_steps(data["completions"])])
        assert len(scores) == 2
        for score, label in zip(scores, data["labels"][1:], strict=True):
            (right if label else wrong).append(score)
    assert min(right) > max(wrong)  # an AUROC of 1

    model = AutoModelForTokenClassification.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model.config.id2label == {0: "wrong", 1: "right"}
    steps = [ROOT_TEXT, GOOD, BAD]
    encoded = encode(tokenizer, "Case 1?", steps)
    with torch.no_grad():
        p = model(input_ids=torch.tensor([encoded.ids])).logits.softmax(-1)[0, encoded.readouts, 1]
    (scores,) = scores_of(scorer, Problem(id="x", question="Case 1?", answer="B"), [join_steps(steps)])
    assert scores == pytest.approx(p[1:].tolist(), abs=1e-6)

    card = json.loads((out / "medsss.json").read_text())
    assert card["kind"] == "prm"
    assert card["convention"] == "medsss"
    assert card["data"]["rows"] == 64
    assert card["data"]["notes"]["label_kinds"] == {"hard": 64}
    assert card["data"]["notes"]["labelled_steps"] == 128
    assert not (out / ".training").exists()
    assert not list(out.glob("*.bin"))


def test_packed_scores_are_those_of_single_sequences(base: Path, tmp_path: Path) -> None:
    """Candidates as a pack, one of them twice, score what each does in a padded batch; what they share goes through the
    model once. Then a device that holds no more than 150 tokens: the budget is halved until they fit, no score is lost,
    and one sequence that does not fit alone is an error and no score."""
    import torch

    from medsss_cli.errors import EngineError
    from medsss_cli.training.prm import train_prm

    out = tmp_path / "prm"
    train_prm(options(base, out, epochs=2.0), tree_rows(16))
    problems = [Problem(id=name, question=f"Case {name}?", answer="B") for name in "12"]
    texts = [join_steps([ROOT_TEXT, *[GOOD if i >> bit & 1 else BAD for bit in range(3)]]) for i in range(8)]
    items = [(problems[0], [*texts, texts[0]]), (problems[1], texts[::-1])]
    packed, padded = opened(out), opened(out)
    padded.unpacked = "as if"
    expected = [scores_of(padded, *item) for item in items]
    for some, others in zip([scores_of(packed, *item) for item in items], expected, strict=True):
        for steps, others_steps in zip(some, others, strict=True):
            assert steps == pytest.approx(others_steps, rel=1e-5)
    assert packed.path_tokens == padded.tokens
    assert packed.tokens < packed.path_tokens / 2.5
    assert (packed.scored, packed.batch_tokens) == (17, 16384)

    small = opened(out)
    limit = 150

    def full(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].numel() > limit:
            raise torch.OutOfMemoryError("out of memory")

    small.model.register_forward_pre_hook(full, with_kwargs=True)
    for some, others in zip([scores_of(small, *item) for item in items], expected, strict=True):
        for steps, others_steps in zip(some, others, strict=True):
            assert steps == pytest.approx(others_steps, rel=1e-5)
    assert 75 <= small.batch_tokens <= limit
    limit = 20
    with pytest.raises(EngineError, match="with one sequence of"):
        scores_of(small, *items[0])


def test_lora_is_merged_or_left(base: Path, tmp_path: Path) -> None:
    """Both folders score the same; the adapter's own folder holds no whole model."""
    from medsss_cli.training.prm import train_prm

    whole, adapter = tmp_path / "whole", tmp_path / "adapter"
    for out, merge in ((whole, True), (adapter, False)):
        train_prm(options(base, out, lora=True, merge=merge, epochs=2.0), rows(16))
    assert (whole / "model.safetensors").exists()
    assert not (adapter / "model.safetensors").exists()
    problem, text = Problem(id="x", question="Case 1?", answer="B"), join_steps([ROOT_TEXT, GOOD, BAD])
    scores = [scores_of(opened(out), problem, [text])[0] for out in (whole, adapter)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_what_cannot_be_trained_on_is_counted_and_named(base: Path, tmp_path: Path) -> None:
    from medsss_cli.training.prm import train_prm

    long, odd, outside, empty = (record(i) for i in range(1, 5))
    long["completions"][1] = "word " * 600
    odd["labels"] = [None]
    outside["labels"] = [None, 1.5, 0.0]
    empty["labels"] = [None, None, None]
    bare = {"prompt": "Case 9?", "completions": [ROOT_TEXT, GOOD, BAD], "labels": [None, True, False]}
    given = [*rows(4), *((Where("f", i), data) for i, data in enumerate([long, odd, outside, empty, bare]))]
    bad: list[str] = []
    said: list[str] = []
    out = tmp_path / "out"
    summary = train_prm(
        options(base, out), given, say=said.append, on_bad=lambda where, what: bad.append(f"{where} {what}")
    )
    assert (summary.rows, summary.dropped, summary.bad) == (5, 1, 2)
    assert any("longer than 512 tokens" in line and "p1" in line for line in said)
    assert "f:1" in bad[0]
    assert "3 steps and 1 labels" in bad[0]
    assert "outside [0, 1]" in bad[1]
    card = json.loads((out / "medsss.json").read_text())
    assert card["data"]["too_long"] == ["p1"]
    assert card["data"]["notes"]["unlabelled"] == 1

    with pytest.raises(UsageError, match="no rows"):
        train_prm(options(base, tmp_path / "none"), [])
    assert not (tmp_path / "none").exists()
    with pytest.raises(UsageError, match="context of 512"):
        train_prm(options(base, tmp_path / "none", max_length=1024), rows(4))
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not written by medsss"):
        train_prm(options(base, strange), rows(4))
    with pytest.raises(UsageError, match="is the policy itself"):
        train_prm(options(base, base), rows(4))


def test_the_command(base: Path, tmp_path: Path) -> None:
    """A broken line among good ones: it is named, the rest is trained on, the status is 1, and stdout has one line."""
    lines = to_lines(record(i) for i in range(8)) + "{broken\n"
    args = ["train-prm", "--policy", base, "-o", tmp_path / "out", "--full", "--lr", "1e-3", "-A", "logging_steps=1"]
    ran = run_medsss(args, lines)
    assert ran.rc == 1, ran.stderr
    (summary,) = ran.records
    assert (summary["rows"], summary["bad"], summary["kind"]) == (8, 1, "prm")
    assert "stdin:9: not JSON" in ran.stderr
    assert "step 2/2 loss" in ran.stderr
    assert "\r" not in ran.stderr
    assert "Loading weights" not in ran.stderr


@pytest.mark.slow
def test_two_processes_train_what_one_does(base: Path, tmp_path: Path) -> None:
    """torchrun, two processes over gloo, half the batch each: the same updates from the same packed rows, stdin read
    once. Three questions of four trajectories and one row of its own: an update of one trie leaves a process without
    rows, and it must neither be waited for nor count."""
    args = ["-m", "medsss_cli.app", "train-prm", "--policy", base, "--full", "--lr", "1e-3", "--epochs", "2"]
    args += ["--accumulation", "1", "--device", "cpu", "-A", "logging_steps=1"]
    summaries = []
    for processes, batch in ((1, 4), (2, 2)):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
        command = [*launch, *args, "--batch-size", batch, "-o", tmp_path / f"out{processes}"]
        lines = to_lines([*(data for _, data in tree_rows(12)), record(99)]).encode()
        done = subprocess.run([str(part) for part in command], input=lines, capture_output=True, env=clean_env())
        assert done.returncode == 0, done.stderr.decode()
        (line,) = done.stdout.splitlines()
        summaries.append(json.loads(line))
    one, two = summaries
    assert (one["rows"], one["steps"]) == (two["rows"], two["steps"]) == (13, 6)
    assert two["loss_first"] == pytest.approx(one["loss_first"], rel=1e-5)
    assert two["loss_last"] == pytest.approx(one["loss_last"], rel=1e-3)
    expected = weights_of(tmp_path / "out1")
    for key, value in weights_of(tmp_path / "out2").items():
        assert (value - expected[key]).abs().max() < 1e-3, key


def test_usage_errors_come_at_once(base: Path, tmp_path: Path) -> None:
    """None of these waits for torch."""
    for args, what in (
        (["missing.jsonl"], "cannot read missing.jsonl"),
        (["--policy", tmp_path / "no-model"], "no policy folder"),
    ):
        ran = run_medsss(["train-prm", "-o", tmp_path / "out", *args], timeout=20)
        assert ran.rc == 2
        assert what in ran.stderr
        assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()


def test_the_order_of_rows_is_a_permutation_that_groups_lengths() -> None:
    from medsss_cli.training.rows import grouped_order

    lengths = [(7 * i) % 101 for i in range(1003)]
    order = grouped_order(lengths, 10, random.Random(0))
    assert sorted(order) == list(range(1003))
    assert order != grouped_order(lengths, 10, random.Random(1))
    batches = [[lengths[i] for i in order[at : at + 10]] for at in range(0, 1000, 10)]
    assert max(batches[0]) == max(max(batch) for batch in batches)
    padding = sum(10 * max(batch) - sum(batch) for batch in batches)
    assert padding < 0.1 * sum(lengths)
    assert grouped_order([3, 1, 2], 10, random.Random(0)) != []
