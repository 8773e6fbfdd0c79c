"""What the tests of trainings share: rows, options for tiny models on the CPU, and `train`. No tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from medsss_cli.steps import ROOT_TEXT, join_steps
from medsss_cli.stream.jsonl import Where

QUESTION = "A patient of 70 kg needs 25 mg/kg. Which dose is right?"
ANSWER = join_steps([ROOT_TEXT, "25 times 70 is 1750.", "The answer is C."])
PARTIAL = join_steps([ROOT_TEXT, "25 times 70 is 1750."])
WRONG = join_steps([ROOT_TEXT, "25 plus 70 is 95."])


def turn(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def sft(text: str = ANSWER, i: int = 0, question: str = QUESTION) -> dict[str, Any]:
    fields = {"id": f"s{i}", "question": question, "answer": "C", "min_value": 1.0}
    return fields | {"prompt": turn("user", question), "completion": turn("assistant", text)}


def pair(chosen: str, rejected: str, kind: str = "trajectory", i: int = 0) -> dict[str, Any]:
    fields = {"id": f"d{i}", "question": QUESTION, "answer": "C", "margin": 0.9, "kind": kind}
    texts = {"chosen": turn("assistant", chosen), "rejected": turn("assistant", rejected)}
    return fields | {"prompt": turn("user", QUESTION)} | texts


def placed(records: Iterable[dict[str, Any]]) -> list[tuple[Where, dict[str, Any]]]:
    return [(Where("test", i), record) for i, record in enumerate(records, 1)]


def training(kind: str, base: str | Path, out: str | Path, records: Iterable[dict[str, Any]], **more: Any) -> Any:
    """A training on the CPU in this process. `kind` is sft, dpo, grpo or prm; `say` and `on_bad` are passed on,
    `trainer` are further --trainer-arg, `more` options."""
    from medsss_cli.models import Device
    from medsss_cli.training.config import Method, PolicyConfig, PrmTrainingConfig
    from medsss_cli.training.policy import POLICY_TRAININGS
    from medsss_cli.training.prm import PrmTraining

    told = {name: more.pop(name) for name in ("say", "on_bad") if name in more}
    arguments = ("logging_steps=1", *more.pop("trainer", ()))
    given: dict[str, Any] = {"policy": str(base), "output": str(out), "trainer_args": arguments, "device": Device.CPU}
    given |= {"batch_size": 8, "accumulation": 1, "lr": 3e-3} | more
    if kind == "prm":
        return PrmTraining(PrmTrainingConfig(**{"lora": False} | given), placed(records), **told)
    method = Method(kind)
    return POLICY_TRAININGS[method](PolicyConfig(method=method, **given), placed(records), **told)


def train(*given: Any, **more: Any) -> SimpleNamespace:
    """The summary of a `training` that has run."""
    return SimpleNamespace(**training(*given, **more).run())


def rows_of(kind: str, tokenizer: Any, records: Iterable[dict[str, Any]], **more: Any) -> list[Any]:
    """What a training makes of records, as ids."""
    made = training(kind, "none", "none", records, **more)
    made.tokenizer, made.base = tokenizer, "/no/such/folder"
    return list(made.rows())


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def near(some: dict[str, Any], others: dict[str, Any], most: float) -> bool:
    """Whether two models' weights are as near as this."""
    return all(bool((value - others[key]).abs().max() <= most) for key, value in some.items())
