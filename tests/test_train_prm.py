"""train-prm: the loss against numbers worked by hand, what it learns, what it leaves out."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from helpers import clean_env, run_medsss, to_lines
from tiny_models import make_tiny_tokenizer
from training import near, train, weights_of

from medsss_cli.errors import EngineError, UsageError
from medsss_cli.records import Problem
from medsss_cli.steps import ROOT_TEXT
from medsss_cli.training.config import Packing

GOOD = "The mean arterial pressure is 93 mmHg."
BAD = "The anion gap is 12 mmol/L."


def record(i: int, question: int | None = None) -> dict[str, Any]:
    """Two scored steps, each right or wrong as the bits of i say; the label is 1 where the step is GOOD."""
    steps = [GOOD if i >> bit & 1 else BAD for bit in range(2)]
    asked = f"Case {i if question is None else question}?"
    labels = [None, *(float(step == GOOD) for step in steps)]
    fields = {"id": f"p{i}", "question": asked, "answer": "B", "values": [0.5] * 3, "meta": {"labels": "hard"}}
    return fields | {"prompt": asked, "completions": [ROOT_TEXT, *steps], "labels": labels}


def tree_rows(n: int) -> list[dict[str, Any]]:
    """Four trajectories to a question, which stand apart: GOOD and BAD in each order, with soft labels that differ
    where trajectories share a step."""
    given = [record(i // (n // 4), question=i % (n // 4)) for i in range(n)]
    for i, data in enumerate(given):
        data["labels"][1] = (data["labels"][1] + 0.1 * (i // (n // 4))) / 1.3
    return given


def opened(out: Path) -> Any:
    from medsss_cli.prm.config import PrmConfig
    from medsss_cli.prm.scorer import open_prm

    return open_prm(PrmConfig(prm=str(out), prm_device="cpu"))


def asked(case: object) -> Problem:
    return Problem(id="x", question=f"Case {case}?", answer="B")


def test_the_loss_by_hand() -> None:
    """Logits (0, ln 3) are p_right = 3/4. Labels 1, 0 and .5 cost ln 4/3, ln 4 and their mean; a place without a
    label costs nothing, whatever its logits; a second label at the last place costs ln 4/3 there, too."""
    import torch

    from medsss_cli.training.prm import step_loss

    logits = torch.tensor([[[0.0, math.log(3)]] * 3 + [[50.0, -50.0]]], requires_grad=True)
    one, zero = math.log(4 / 3), math.log(4)
    loss = step_loss(logits, torch.tensor([[0, 1], [1, 0], [2, 0.5], [2, 1]], dtype=torch.float64))
    assert loss.item() == pytest.approx(one + zero + (one + zero) / 2 + one, rel=1e-6)
    loss.backward()
    # The slope in the right logit is p - y: 3/4 - 1, 3/4, 1/4 + (3/4 - 1).
    assert logits.grad is not None
    assert logits.grad[0, :, 1].tolist() == pytest.approx([-1 / 4, 3 / 4, 0.0, 0.0], abs=1e-6)


def test_neither_accumulation_nor_packing_changes_an_update(base: Path, tmp_path: Path) -> None:
    """One update from 16 trajectories of 4 questions, of unequal length and with unequal numbers of labels: path by
    path at once and 4 times 4 (the loss that transformers brings gives four times as much there), as tries, and as
    tries that --max-length splits. One loss, the same weights, and nothing is left out of a trie that is too long."""
    given = tree_rows(16)
    for place, data in enumerate(given):
        if place % 3 == 0:
            data["labels"][2] = None
        if place // 4 == 2:
            data["completions"][1] += " The systolic pressure is 120."
    losses, weights, said = [], [], []
    for batch, packing, more in (
        (16, Packing.PATH, {}),
        (4, Packing.PATH, {}),
        (16, Packing.TREE, {}),
        (8, Packing.TREE, {"max_length": 120}),
    ):
        out = tmp_path / f"{packing}-{batch}"
        sizes = {"batch_size": batch, "accumulation": 16 // batch, "epochs": 1.0}
        summary = train("prm", base, out, given, say=said.append, packing=packing, **sizes, **more)
        assert (summary.rows, summary.dropped, summary.steps) == (16, 0, 1)
        losses.append(summary.loss_first)
        weights.append(weights_of(out))
    packed = [line.split(",")[0] for line in said if line.startswith("packed")]
    assert packed == ["packed: 16 rows in 4 tries", "packed: 16 rows in 8 tries"]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)
    # Adam divides by the size of the gradient, so its first step tells the sign; the loss above tells the size.
    for others in weights[1:]:
        assert near(weights[0], others, 2e-4)


def test_a_model_that_takes_no_packs_is_trained_by_paths_and_told(tmp_path: Path) -> None:
    """Bloom makes its positions from the mask. Its packs would be wrong, so it must get none, in scoring as well."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    bloom, out = tmp_path / "bloom", tmp_path / "out"
    size = len(make_tiny_tokenizer(bloom))
    torch.manual_seed(0)
    config = AutoConfig.for_model("bloom", vocab_size=size, hidden_size=16, n_layer=1, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(bloom)
    said: list[str] = []
    summary = train("prm", bloom, out, tree_rows(8), epochs=1.0, say=said.append)
    assert (summary.rows, summary.steps) == (8, 1)
    assert any("BloomForTokenClassification takes no packs, so it is trained path by path" in line for line in said)
    scorer = opened(out)
    assert scorer.unpacked
    (scores,) = scorer.score(asked(1), [[ROOT_TEXT, GOOD, BAD]])
    assert len(scores) == 2


def test_it_learns_what_separates_steps_and_a_scorer_reads_it(base: Path, tmp_path: Path) -> None:
    """The program: after four passes over 64 rows right and wrong steps do not overlap, on questions that were not
    trained on; a broken line is named and counted; the folder loads by transformers alone, and the scorer gives the
    probabilities that it computes."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    from medsss_cli.prm.layout import encode

    out = tmp_path / "prm"
    sizes = ["--lr", "3e-3", "--epochs", "4", "--accumulation", "1", "--device", "cpu", "-A", "logging_steps=1"]
    command = ["train-prm", "--full", "--policy", base, "-o", out, *sizes]
    ran = run_medsss(command, to_lines(record(i) for i in range(64)) + "[1]\n")
    assert (ran.rc, "stdin:65: expected a JSON object" in ran.stderr) == (1, True)
    for noise in ("\r", "Loading weights", "Traceback"):
        assert noise not in ran.stderr
    assert "step 32/32 loss" in ran.stderr
    (summary,) = ran.records
    assert summary["loss_first"] > 0.6
    assert summary["loss_last"] < 0.3
    assert [summary[name] for name in ("rows", "steps", "dropped", "bad")] == [64, 32, 0, 1]

    scorer = opened(out)
    by_label: dict[float, list[float]] = {0.0: [], 1.0: []}
    for data in map(record, range(100, 108)):
        (scores,) = scorer.score(Problem(id="x", question=data["question"], answer="B"), [data["completions"]])
        for score, label in zip(scores, data["labels"][1:], strict=True):
            by_label[label].append(score)
    assert min(by_label[1.0]) > max(by_label[0.0])  # an AUROC of 1

    model = AutoModelForTokenClassification.from_pretrained(out).eval()
    assert model.config.id2label == {0: "wrong", 1: "right"}
    encoded = encode(AutoTokenizer.from_pretrained(out), "Case 1?", [ROOT_TEXT, GOOD, BAD])
    with torch.no_grad():
        p = model(input_ids=torch.tensor([encoded.ids])).logits.softmax(-1)[0, encoded.readouts, 1]
    (scores,) = scorer.score(asked(1), [[ROOT_TEXT, GOOD, BAD]])
    assert scores == pytest.approx(p[1:].tolist(), abs=1e-6)

    card = json.loads((out / "medsss.json").read_text())
    assert (card["kind"], card["convention"], card["data"]["rows"]) == ("prm", "medsss", 64)
    assert card["data"]["notes"]["labelled_steps"] == 128
    assert not (out / ".training").exists()
    assert not list(out.glob("*.bin"))


def test_packed_scores_are_those_of_single_sequences(base: Path, tmp_path: Path) -> None:
    """Candidates as a pack, one of them twice, score what each does in a padded batch; what they share goes through the
    model once. Then a device that holds no more than 150 tokens: the budget is halved until they fit, no score is lost,
    and one sequence that does not fit alone is an error and no score. An adapter that was left alone scores as one
    that was merged."""
    import torch

    out, adapter = tmp_path / "prm", tmp_path / "adapter"
    train("prm", base, out, tree_rows(16), lora=True)
    train("prm", base, adapter, tree_rows(16), lora=True, merge=False)
    assert not (adapter / "model.safetensors").exists()
    answers = [[ROOT_TEXT, *[GOOD if i >> bit & 1 else BAD for bit in range(3)]] for i in range(8)]
    items = [(asked(1), [*answers, answers[0]]), (asked(2), answers[::-1])]
    packed, padded, small = opened(out), opened(out), opened(out)
    padded.unpacked = "as if"
    expected = [list(chain.from_iterable(padded.score(*item))) for item in items]

    def agrees(scorer: Any, most: float) -> bool:
        found = [list(chain.from_iterable(scorer.score(*item))) for item in items]
        return all(one == pytest.approx(other, rel=most) for one, other in zip(found, expected, strict=True))

    assert agrees(packed, 1e-5)
    assert agrees(opened(adapter), 1e-4)
    assert packed.path_tokens == padded.tokens
    assert packed.tokens < packed.path_tokens / 2.5
    assert (packed.scored, packed.batch_tokens) == (17, 16384)

    limit = 150

    def full(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].numel() > limit:
            raise torch.OutOfMemoryError("out of memory")

    small.model.register_forward_pre_hook(full, with_kwargs=True)
    assert agrees(small, 1e-5)
    assert 75 <= small.batch_tokens <= limit
    limit = 20
    with pytest.raises(EngineError, match="with one sequence of"):
        small.score(*items[0])


def test_what_cannot_be_trained_on_is_counted_and_named(base: Path, tmp_path: Path) -> None:
    """Too long, labels that do not fit or are none; a bare row of TRL's is trained on."""
    long, odd, outside, empty = (record(i) for i in range(1, 5))
    long["completions"][1] = "word " * 600
    odd["labels"], outside["labels"], empty["labels"] = [None], [None, 1.5, 0.0], [None, None, None]
    bare = {"prompt": "Case 9?", "completions": [ROOT_TEXT, GOOD, BAD], "labels": [None, True, False]}
    bad: list[str] = []
    said: list[str] = []
    told: dict[str, Any] = {"say": said.append, "on_bad": lambda where, what: bad.append(f"{where} {what}")}
    summary = train("prm", base, tmp_path / "out", [*map(record, range(4)), long, odd, outside, empty, bare], **told)
    assert (summary.rows, summary.dropped, summary.bad) == (5, 1, 2)
    assert any("longer than 512 tokens" in line and "p1" in line for line in said)
    assert "test:6 record p2 has 3 steps and 1 labels" in bad[0]
    assert "outside [0, 1]" in bad[1]
    data = json.loads((tmp_path / "out" / "medsss.json").read_text())["data"]
    assert (data["too_long"], data["notes"]["unlabelled"]) == (["p1"], 1)
    for more, what in (({}, "no rows"), ({"max_length": 1024}, "context of 512")):
        with pytest.raises(UsageError, match=what):
            train("prm", base, tmp_path / "none", [], **more)
    assert not (tmp_path / "none").exists()


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
        lines = to_lines([*tree_rows(12), record(99)]).encode()
        done = subprocess.run([str(part) for part in command], input=lines, capture_output=True, env=clean_env())
        assert done.returncode == 0, done.stderr.decode()
        (line,) = done.stdout.splitlines()
        summaries.append(json.loads(line))
    one, two = summaries
    assert (one["rows"], one["steps"]) == (two["rows"], two["steps"]) == (13, 6)
    assert two["loss_first"] == pytest.approx(one["loss_first"], rel=1e-5)
    assert two["loss_last"] == pytest.approx(one["loss_last"], rel=1e-3)
    assert near(weights_of(tmp_path / "out1"), weights_of(tmp_path / "out2"), 1e-3)


def test_the_order_of_rows_is_a_permutation_that_groups_lengths() -> None:
    """Little is padded, another seed is another order, and the longest comes first: it fails early or never."""
    from medsss_cli.training.folder import grouped_order

    lengths = [(7 * i) % 101 for i in range(1003)]
    order = grouped_order(lengths, 10, random.Random(0))
    assert sorted(order) == list(range(1003))
    assert order != grouped_order(lengths, 10, random.Random(1))
    batches = [[lengths[i] for i in order[at : at + 10]] for at in range(0, 1000, 10)]
    assert max(batches[0]) == max(max(batch) for batch in batches)
    padding = sum(10 * max(batch) - sum(batch) for batch in batches)
    assert padding < 0.1 * sum(lengths)
    assert len(grouped_order([3, 1, 2], 10, random.Random(0))) == 3
