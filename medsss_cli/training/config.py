"""What a training can be told: the options of `train-policy` and `train-prm`. Nothing heavy is imported here.

The learning rates are the papers'. Under LoRA a policy's are ten times as high, since those for all weights would
hardly move an adapter; the reward model's is the paper's for LoRA, and a tenth of it is used for all weights.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from ..errors import UsageError
from ..models import Device, Dtype
from ..prompts import Prompting
from ..settings import Opt, check


class Method(StrEnum):
    """What the rows are and how they are used."""

    SFT = "sft"
    DPO = "dpo"
    GRPO = "grpo"


class Packing(StrEnum):
    """Whether trajectories with the same prompt share the computation of their beginnings."""

    TREE = "tree"
    PATH = "path"


# Arguments of the trainer that change how a run goes, not what comes out.
HOW = {"gradient_checkpointing", "save_steps", "save_strategy", "save_total_limit", "logging_steps", "report_to"}
HOW |= {"run_name", "dataloader_num_workers", "optim_target_modules", "torch_empty_cache_steps", "project"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """What both trainings take. `batch_size` is per process: batch_size x accumulation x processes rows make an update.
    `max_length` None is the model's context, at most 4096 tokens. `lr` None: see the module."""

    GROUP: ClassVar[str] = "Training"
    DEFAULTS: ClassVar[dict[str, Any]] = {"lr_scheduler_type": "cosine", "warmup_steps": 0.03, "weight_decay": 0.0}

    inputs: Annotated[
        tuple[str, ...],
        Opt("Files of records, also .gz and .zst; `-` or nothing is stdin.", argument=True, metavar="INPUT..."),
    ] = ()
    policy: Annotated[str, Opt("A model folder, a hub name, or builtin:clinic.", metavar="MODEL", group="")] = (
        "builtin:clinic"
    )
    output: Annotated[str, Opt("Where the model goes.", ("--output", "-o"), metavar="FOLDER", group="")]
    restart: Annotated[bool, Opt("Train anew, even if FOLDER holds a training of other settings.", group="")] = False

    lora: Annotated[bool, Opt("A LoRA adapter, or all weights.", ("--lora/--full",))] = False
    lora_rank: Annotated[int, Opt("Rank of the adapter.", least=1, metavar="R")] = 32
    lora_alpha: Annotated[int, Opt("Its scale is A / R.", least=1, metavar="A")] = 64
    merge: Annotated[bool, Opt("With --lora: a whole model, or the adapter.", ("--merge/--no-merge",))] = True
    lr: Annotated[float | None, Opt("Learning rate.", least=0, metavar="R")] = None
    epochs: Annotated[float, Opt("Passes over the rows.", above=0, metavar="E")] = 1.0
    batch_size: Annotated[int, Opt("Rows at once, per process.", least=1, metavar="N")] = 8
    accumulation: Annotated[int, Opt("Batches to an update.", least=1, metavar="N")] = 4
    max_length: Annotated[
        int | None, Opt("Longer rows are left out and named. Default: at most 4096 tokens.", least=1, metavar="N")
    ] = None
    seed: Annotated[int, Opt("Of the adapter, the head and the order of rows.", metavar="S")] = 0
    device: Annotated[Device, Opt("Where it runs.")] = Device.AUTO
    dtype: Annotated[
        Dtype, Opt("Type of the weights; auto: float32, but bfloat16 for the base of an adapter on a GPU.")
    ] = Dtype.AUTO
    trainer_args: Annotated[
        tuple[str, ...],
        Opt("Any other argument of the trainer (report_to=wandb).", ("--trainer-arg", "-A"), metavar="KEY=VALUE"),
    ] = ()

    def __post_init__(self) -> None:
        check(self)
        self.arguments()

    def rate(self) -> float:
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """`DEFAULTS` and what `trainer_args` says, each value as JSON where it is such, else as text."""
        found = dict(self.DEFAULTS)
        for given in self.trainer_args:
            key, equals, value = given.partition("=")
            if not equals or not key.isidentifier():
                raise UsageError(f"--trainer-arg {given}: not of the form KEY=VALUE")
            try:
                found[key] = json.loads(value)
            except ValueError:
                found[key] = value
        return found

    def identity(self) -> dict[str, Any]:
        """What the result depends on, beside base and data."""
        own = asdict(self) | {key: value for key, value in self.arguments().items() if key not in HOW}
        apart = ("policy", "output", "restart", "trainer_args", "inputs")
        return {name: value for name, value in own.items() if name not in apart}


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig(TrainingConfig):
    """The paper trains all weights. `ONLY` tells the options that not every method looks at."""

    LR: ClassVar[dict[Method, float]] = {Method.SFT: 1e-6, Method.DPO: 5e-7, Method.GRPO: 1e-6}
    ONLY: ClassVar[dict[str, tuple[Method, ...]]] = {
        "beta": (Method.DPO, Method.GRPO),
        "sft_weight": (Method.DPO,),
        "generations": (Method.GRPO,),
        "max_tokens": (Method.GRPO,),
        "prompting": (Method.GRPO,),
    }

    method: Annotated[
        Method, Opt("sft reads sft records, dpo preference records, grpo problems (any record).", group="")
    ] = Method.SFT
    lr: Annotated[
        float | None,
        Opt("Learning rate.", least=0, metavar="R", shown="sft and grpo 1e-6, dpo 5e-7; with --lora ten times that"),
    ] = None
    beta: Annotated[
        float | None,
        Opt("dpo, grpo: how close to stay; grpo wants --lora for it.", least=0, metavar="B", shown="dpo .1, grpo 0"),
    ] = None
    sft_weight: Annotated[float, Opt("dpo: add W times the sft loss of the chosen.", least=0, metavar="W")] = 0.0
    generations: Annotated[int, Opt("grpo: answers to a problem.", least=2, metavar="N")] = 8
    max_tokens: Annotated[int, Opt("grpo: most tokens in one answer.", least=1, metavar="N")] = 512
    prompting: Annotated[
        Prompting, Opt('grpo: native: the policy writes "Step k: ..." by itself; instruct: it is told how.')
    ] = Prompting.NATIVE

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        if self.method is Method.GRPO and self.closeness and not self.lora:
            raise UsageError("--method grpo with --beta needs --lora: what it stays close to is the model without it")

    @property
    def closeness(self) -> float:
        """`beta`, or what the method takes for it."""
        return self.beta if self.beta is not None else 0.0 if self.method is Method.GRPO else 0.1

    def rate(self) -> float:
        return self.lr if self.lr is not None else self.LR[self.method] * (10 if self.lora else 1)

    def identity(self) -> dict[str, Any]:
        found = TrainingConfig.identity(self) | {"beta": self.closeness}
        new = ("generations", "max_tokens", "prompting")  # runs of older versions do not tell them
        return {name: value for name, value in found.items() if name not in new or self.method is Method.GRPO}


@dataclass(frozen=True, kw_only=True, slots=True)
class PrmTrainingConfig(TrainingConfig):
    """The paper's settings: LoRA of rank 32, alpha 64, two epochs, weight decay .01."""

    DEFAULTS: ClassVar[dict[str, Any]] = {**TrainingConfig.DEFAULTS, "weight_decay": 0.01}

    lora: Annotated[bool, Opt("A LoRA adapter and the head, or all weights.", ("--lora/--full",))] = True
    lr: Annotated[float | None, Opt("Learning rate.", least=0, metavar="R", shown="5e-5; with --full 5e-6")] = None
    epochs: Annotated[float, Opt("Passes over the rows.", above=0, metavar="E")] = 2.0
    packing: Annotated[
        Packing,
        Opt("tree: what trajectories of one prompt share is computed once; path: a sequence for each. Same loss."),
    ] = Packing.TREE

    def rate(self) -> float:
        return self.lr if self.lr is not None else (5e-5 if self.lora else 5e-6)
