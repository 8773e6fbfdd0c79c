"""One training, from rows to a finished folder: what `policy` and `prm` share. Under torchrun and `accelerate
launch` process 0 alone reads the rows and writes. Nothing here prints: progress goes through `say`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from .. import __version__
from ..console import clock
from ..cost import Meter
from ..engines import resolve_policy
from ..errors import UsageError
from ..models import (
    CARD,
    Device,
    Dtype,
    adapter_base,
    context_length,
    count_parameters,
    first_line,
    load_config,
    load_model,
    load_tokenizer,
    quiet_loading,
    read_json,
)
from . import folder
from .config import TrainingConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

DEFAULT_MAX_LENGTH = 4096
CHECKPOINTING_FROM = 1_000_000_000  # parameters, on a GPU
SAY_EVERY = 10.0  # seconds


@dataclass
class Training:
    """A training; a subclass is a method, `run` does it. `kind` is what medsss.json says of the model, `shown` names
    what the trainer logs beside the loss. `base` is the folder or hub name of `config.policy`."""

    kind: ClassVar[Mapping[str, str]]
    shown: ClassVar[Mapping[str, str]] = {}

    config: TrainingConfig
    source: folder.Source
    say: folder.Say = lambda _: None
    on_bad: folder.OnBad = lambda *_: None
    counts: folder.Counts = field(default_factory=folder.Counts)
    base: str = field(init=False)
    tokenizer: PreTrainedTokenizerBase = field(init=False)

    def rows(self) -> Iterable[folder.Row]:
        """What the source holds, as token ids."""
        raise NotImplementedError

    def arguments(self, **given: Any) -> TrainingArguments:
        """The trainer's arguments: these, and the method's own."""
        raise NotImplementedError

    def trainer(self, model: Any, arguments: Any, dataset: Dataset) -> Trainer:
        """The trainer, with the rows in the order in which they are taken."""
        raise NotImplementedError

    def for_trl(self, model: Any, arguments: Any, dataset: Dataset, copies: int = 1) -> dict[str, Any]:
        """What TRL's trainers take, with the rows in our order."""
        return {
            "model": model,
            "args": arguments,
            "train_dataset": folder.in_order(dataset, self.config, copies),
            "processing_class": self.tokenizer,
            "peft_config": lora_config(self.config, "CAUSAL_LM"),
        }

    def run(self) -> dict[str, Any]:
        """Train, or go on, or find that all is done; `folder` tells the life of the output. Raises UsageError for
        anything that the user has to put right.

        The summary: `rows` were trained on, `dropped` were longer than the maximum, `bad` could not be used.
        `loss_first` is the loss of the first update, `loss_last` the mean over those that were logged last; `metrics`
        is what is `shown` beside it, as last logged, `metrics_first` as first. `resumed_from` is the step that the run
        went on from."""
        os.environ |= {
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TQDM_DISABLE": "1",
        }  # the libraries look when they are imported
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import datasets

        datasets.disable_progress_bars()
        self.base, out = resolve_policy(self.config.policy), Path(self.config.output)
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet_loading())
            if is_main_process():
                stack.enter_context(folder.opened(out, self.base, restart=self.config.restart))
            else:
                self.say = lambda _: None
            return self._run(out)

    def _run(self, out: Path) -> dict[str, Any]:
        from accelerate import PartialState  # type: ignore[import-untyped]

        config, meter, work = self.config, Meter(), out / folder.WORK
        state = PartialState(cpu=precision(config).use_cpu)
        self.tokenizer = load_tokenizer(self.base)
        if state.is_main_process:
            context = context_length(load_config(self.base)) or math.inf
            if (config.max_length or 0) > context:  # positions would be made up
                raise UsageError(
                    f"--max-length {config.max_length} is more than the model's context of {context} tokens"
                )
            max_length = config.max_length or int(min(DEFAULT_MAX_LENGTH, context))
            folder.store_rows(self.rows(), self.counts, work / "data", max_length, self.say)
            run = {**config.identity(), **self.kind, "max_length": max_length, "lr": config.rate()}
            run |= {"processes": folder.processes(), "base": fingerprint(self.base), "data": self.counts.hash}
            folder.begin(out, run)
        state.wait_for_everyone()
        if (card := read_json(out / CARD)) is not None:
            state.wait_for_everyone()
            if state.is_main_process:
                shutil.rmtree(work, ignore_errors=True)
            self.say(f"{out} is complete: the same training has finished before (--restart trains anew)")
            return {**card["summary"], "finished_before": True}

        dataset, self.counts = folder.load_rows(work / "data")
        resume = folder.last_checkpoint(work)
        trainer = self._trainer(dataset)
        self.say(
            f"{self.kind['method']}: {self.counts.rows} rows, {self.counts.tokens} tokens, "
            f"{count_parameters(load_config(self.base)) / 1e6:.1f} M parameters, "
            f"{'LoRA' if config.lora else 'full'}, lr {config.rate():g}"
            + (f", going on from step {folder.step_of(resume)}" if resume else "")
        )
        started = time.monotonic()
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except ValueError as error:
            if trainer.state.global_step:
                raise
            raise UsageError(f"the trainer refuses this: {error}") from None
        seconds = round(time.monotonic() - started, 2)
        state.wait_for_everyone()
        self._save(trainer, work / "model")
        summary = self._summary(trainer, seconds, resume)
        if state.is_main_process:
            card = {**self.kind, "base": self.base, "data": asdict(self.counts), "options": asdict(config)}
            card |= {"versions": versions(), "summary": summary, "run": read_json(work / "run.json")}
            card["cost"] = meter.spent()
            folder.publish(out, work / "model", card)
        state.wait_for_everyone()
        return summary

    def _summary(self, trainer: Trainer, seconds: float, resume: Path | None) -> dict[str, Any]:
        logged = [entry for entry in trainer.state.log_history if "loss" in entry] or [{}]
        first, last = logged[0], logged[-1]
        found: dict[str, Any] = {"out": self.config.output, "kind": self.kind["kind"], "method": self.kind["method"]}
        found |= {name: getattr(self.counts, name) for name in ("rows", "dropped", "bad")}
        found |= {"steps": trainer.state.global_step, "epochs": self.config.epochs}
        found |= {"loss_first": first.get("loss"), "loss_last": last.get("loss"), "seconds": seconds}
        found |= {"resumed_from": folder.step_of(resume), "finished_before": False}
        return found | {"metrics": self._metrics(last), "metrics_first": self._metrics(first)}

    def _trainer(self, dataset: Dataset) -> Trainer:
        """The trainer with its model. The arguments come first: under DeepSpeed and FSDP they decide how it is
        loaded."""
        from transformers import PrinterCallback, set_seed

        set_seed(self.config.seed)
        numbers = precision(self.config)
        arguments = self._arguments(numbers)
        model = load_model(self.base, dtype=numbers.weights, head="steps" if self.kind["kind"] == "prm" else "causal")
        model.config.use_cache = False
        try:
            trainer = self.trainer(model, arguments, dataset)
        except (ValueError, NotImplementedError) as error:
            raise UsageError(f"the trainer refuses these options: {error}") from None
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(self._progress())
        return trainer

    def _arguments(self, numbers: Precision) -> TrainingArguments:
        """The trainer's arguments; `free` ones a user may say by --trainer-arg, `ours` not. Raises UsageError."""
        config = self.config
        large = not numbers.use_cpu and count_parameters(load_config(self.base)) > CHECKPOINTING_FROM
        free: dict[str, Any] = {"bf16": numbers.autocast, "gradient_checkpointing": large, "logging_steps": 10}
        free |= {"save_steps": 500, "save_total_limit": 2, "report_to": "none", "run_name": Path(config.output).name}
        ours: dict[str, Any] = {"output_dir": str(Path(config.output) / folder.WORK), "seed": config.seed}
        ours |= {"per_device_train_batch_size": config.batch_size, "gradient_accumulation_steps": config.accumulation}
        # The order of the rows holds all epochs.
        ours |= {"num_train_epochs": 1, "train_sampling_strategy": "sequential", "learning_rate": config.rate()}
        ours |= {"use_cpu": numbers.use_cpu, "dataloader_pin_memory": not numbers.use_cpu}
        ours |= {"remove_unused_columns": False, "ddp_find_unused_parameters": False}
        ours |= {"logging_first_step": True, "disable_tqdm": True}
        free |= config.arguments()
        if twice := sorted(free.keys() & ours.keys()):
            raise UsageError(f"--trainer-arg {twice[0]}: medsss sets this itself", hint="see --help for the options")
        try:
            return self.arguments(**free, **ours)
        except (TypeError, ValueError, ImportError) as error:
            raise UsageError(f"the trainer refuses these options: {first_line(error)}") from None

    def _metrics(self, entry: Mapping[str, Any]) -> dict[str, float]:
        """What is shown of an entry of the trainer's log."""
        return {short: round(float(entry[key]), 5) for key, short in self.shown.items() if entry.get(key) is not None}

    def _progress(self) -> Any:
        """A callback that has the last step logged too, and says a plain line now and then: step, loss, what the method
        reports, time left."""
        from transformers import TrainerCallback

        training = self

        class Lines(TrainerCallback):  # type: ignore[misc,unused-ignore]
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.started, self.from_step, self.said = time.monotonic(), state.global_step, 0.0

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_log |= state.global_step >= state.max_steps

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                now, left = time.monotonic(), state.max_steps - state.global_step
                if "loss" not in (logs or ()) or (left and now - self.said < SAY_EVERY):
                    return
                self.said = now
                each = (now - self.started) / max(state.global_step - self.from_step, 1)
                shown = {"loss": float(logs["loss"]), **training._metrics(logs), "lr": logs.get("learning_rate", 0.0)}
                words = " ".join(f"{name} {value:{'.4g' if value < 1000 else '.0f'}}" for name, value in shown.items())
                training.say(f"step {state.global_step}/{state.max_steps} {words}, {clock(left * each)} left")

        return Lines()

    def _save(self, trainer: Trainer, staged: Path) -> None:
        """Write the trained model, the tokenizer and the generation settings of its base to `staged`, safetensors only,
        in the type that the base has on disk. All processes must call it (sharded weights are gathered); process 0
        writes."""
        import torch
        from transformers import GenerationConfig
        from transformers.utils.hub import cached_file

        lora, merge = self.config.lora, self.config.merge
        sharded = (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled) and not lora
        if is_main_process():
            shutil.rmtree(staged, ignore_errors=True)
        if sharded:
            trainer.save_model(str(staged))
        if not is_main_process():
            return
        if not sharded:
            model = trainer.accelerator.unwrap_model(trainer.model)
            if lora and merge:
                model = model.merge_and_unload()
            if merge or not lora:
                stored = getattr(load_config(self.base), "dtype", None)
                model.to(stored if isinstance(stored, torch.dtype) else torch.float32)
                if getattr(model, "generation_config", None) is not None:
                    # A base's own settings can be such that transformers refuses to save them; the file itself is
                    # copied below.
                    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
            model.save_pretrained(str(staged))
        for unwanted in ("training_args.bin", "README.md", "generation_config.json"):
            (staged / unwanted).unlink(missing_ok=True)
        load_tokenizer(self.base).save_pretrained(str(staged))  # a fresh one: trainers set the padding token of theirs
        with contextlib.suppress(OSError):  # a base without such settings
            settings = cached_file(adapter_base(self.base), "generation_config.json")
            shutil.copyfile(str(settings), staged / "generation_config.json")


def is_main_process() -> bool:
    """Whether this is process 0 of all machines (torchrun and accelerate say it in RANK)."""
    return int(os.environ.get("RANK", "0")) == 0


class Precision(NamedTuple):
    """Whether to stay on the CPU, whether to compute in bfloat16 under autocast, and the type of the loaded weights."""

    use_cpu: bool
    autocast: bool
    weights: Any


def precision(config: TrainingConfig) -> Precision:
    """float32 on the CPU. On a GPU bfloat16 arithmetic, with float32 weights for a full training (updates at
    learning rates of 1e-6 are lost in bfloat16 weights) and bfloat16 ones under LoRA (they are frozen). `dtype`
    overrides."""
    import torch

    use_cpu = config.device is Device.CPU or not torch.cuda.is_available()
    if config.device is Device.CUDA and use_cpu:
        raise UsageError("--device cuda: no GPU is visible")
    if config.dtype is not Dtype.AUTO:
        return Precision(use_cpu, False, getattr(torch, config.dtype))
    return Precision(use_cpu, not use_cpu, torch.bfloat16 if config.lora and not use_cpu else torch.float32)


def fingerprint(path: str) -> str:
    """A short hash that tells two models of one name apart: file names, sizes, and the ends of the weight files."""
    if not Path(path).is_dir():
        return path
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(Path(path).iterdir()):
        if file.suffix in {".safetensors", ".bin"} or file.name == "config.json":
            size = file.stat().st_size
            digest.update(f"{file.name}\0{size}\0".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(1 << 20))
                stream.seek(max(0, size - (1 << 20)))
                digest.update(stream.read())
    return digest.hexdigest()


def lora_config(config: TrainingConfig, task: str, **more: Any) -> Any:
    """peft's settings of the adapter, None for a full training."""
    from peft import LoraConfig

    if not config.lora:
        return None
    more |= {"r": config.lora_rank, "lora_alpha": config.lora_alpha}
    return LoraConfig(task_type=task, lora_dropout=0.0, target_modules="all-linear", **more)


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    names = ("torch", "transformers", "trl", "peft", "accelerate")
    return {"medsss": __version__} | {name: importlib.metadata.version(name) for name in names}
