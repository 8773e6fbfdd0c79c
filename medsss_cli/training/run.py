"""One training, from rows to a finished folder: what `policy` and `prm` share. Under torchrun and `accelerate launch`
process 0 alone reads the rows and writes. Nothing here prints: progress goes through `say`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import __version__
from ..console import clock
from ..cost import Meter, gpus
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
from .config import TrainingConfig
from .folder import WORK, begin, close_folder, last_checkpoint, open_folder, publish, step_of
from .rows import Counts, Row, Say, load_rows, processes, store_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

DEFAULT_MAX_LENGTH = 4096
CHECKPOINTING_FROM = 1_000_000_000  # parameters, on a GPU


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """How a training went. `loss_first` is the loss of the first update, `loss_last` the mean over those that were
    logged last; `metrics` is what the method reports beside it, as last logged, `metrics_first` as first. `rows`
    were trained on; `dropped` were longer than the maximum; `bad` could not be used. `resumed_from` is the step
    that the run went on from."""

    out: str
    kind: str
    method: str
    rows: int
    dropped: int
    bad: int
    steps: int
    epochs: float
    loss_first: float | None
    loss_last: float | None
    seconds: float
    resumed_from: int = 0
    finished_before: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    metrics_first: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What makes one training differ from another: `read(tokenizer, base, counts)` gives the rows, `columns` their
    types (`rows.store_rows`), `arguments` the trainer's arguments from keywords that every kind takes,
    `build(arguments, model, tokenizer, dataset)` the trainer. `shown` names what the trainer logs beside the loss."""

    method: str
    columns: Mapping[str, str]
    read: Callable[[PreTrainedTokenizerBase, str, Counts], Iterable[Row]]
    arguments: Callable[..., TrainingArguments]
    build: Callable[[TrainingArguments, Any, PreTrainedTokenizerBase, Dataset], Trainer]
    shown: Mapping[str, str] = field(default_factory=dict)

    @property
    def card(self) -> dict[str, str]:
        """What it is, for medsss.json."""
        if self.method == "prm":
            return {"kind": "prm", "method": "prm", "convention": "medsss"}
        return {"kind": "policy", "method": self.method}

    def metrics(self, entry: Mapping[str, Any]) -> dict[str, float]:
        """What is shown of an entry of the trainer's log."""
        return {short: round(float(entry[key]), 5) for key, short in self.shown.items() if entry.get(key) is not None}


def run_training(config: TrainingConfig, recipe: Recipe, say: Say) -> TrainingSummary:
    """Train, or go on, or find that all is done; `folder` tells the life of the output. Raises UsageError for anything
    that the user has to put right."""
    out = Path(config.output)
    base = resolve_policy(config.policy)
    fresh = is_main_process() and open_folder(out, base, restart=config.restart)
    try:
        with quiet_libraries():
            return _train(config, recipe, base, out, say)
    except UsageError:
        if fresh:
            close_folder(out)
        raise


def _train(config: TrainingConfig, recipe: Recipe, base: str, out: Path, say: Say) -> TrainingSummary:
    from accelerate import PartialState  # type: ignore[import-untyped]

    meter = Meter()
    state = PartialState(cpu=precision(config).use_cpu)
    tokenizer = load_tokenizer(base)
    if state.is_main_process:
        _store(config, recipe, base, out, tokenizer, say)
    state.wait_for_everyone()
    card = read_json(out / CARD)
    if card is not None:
        state.wait_for_everyone()
        if state.is_main_process:
            shutil.rmtree(out / WORK, ignore_errors=True)
        say(f"{out} is complete: the same training has finished before (--restart trains anew)")
        return TrainingSummary(**card["summary"] | {"finished_before": True})

    dataset, counts = load_rows(out / WORK / "data")
    resume = last_checkpoint(out / WORK)
    trainer = _make_trainer(config, recipe, base, tokenizer, dataset, say)
    say(
        f"{recipe.method}: {counts.rows} rows, {counts.tokens} tokens, "
        f"{count_parameters(load_config(base)) / 1e6:.1f} M parameters, "
        f"{'LoRA' if config.lora else 'full'}, lr {config.rate():g}"
        + (f", going on from step {step_of(resume)}" if resume else "")
    )
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except ValueError as error:
        if trainer.state.global_step:
            raise
        raise UsageError(f"the trainer refuses this: {error}") from None
    summary = _summary(config, recipe, counts, trainer, time.monotonic() - started, resume)
    state.wait_for_everyone()
    save_model(trainer, config, base, out / WORK / "model")
    if state.is_main_process:
        card = {
            **recipe.card,
            "base": base,
            "data": dataclasses.asdict(counts),
            "options": dataclasses.asdict(config),
            "versions": versions(),
            "summary": dataclasses.asdict(summary),
            "cost": {"seconds": meter.seconds, "cpu_seconds": meter.cpu_seconds, "gpus": gpus()},
            "run": read_json(out / WORK / "run.json"),
        }
        publish(out, out / WORK / "model", card)
    state.wait_for_everyone()
    return summary


def _store(
    config: TrainingConfig, recipe: Recipe, base: str, out: Path, tokenizer: PreTrainedTokenizerBase, say: Say
) -> None:
    """Write the rows and what the run is. Process 0 alone does it."""
    counts = Counts()
    max_length = choose_max_length(config.max_length, load_config(base))
    store_rows(recipe.read(tokenizer, base, counts), recipe.columns, counts, out / WORK / "data", max_length, say)
    run = config.identity() | recipe.card | {"max_length": max_length, "lr": config.rate(), "processes": processes()}
    begin(out, run | {"base": fingerprint(base), "data": counts.hash})


def _make_trainer(
    config: TrainingConfig,
    recipe: Recipe,
    base: str,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    say: Say,
) -> Trainer:
    """The trainer with its model. The arguments come first: under DeepSpeed and FSDP they decide how it is loaded."""
    from transformers import PrinterCallback, set_seed

    set_seed(config.seed)
    numbers = precision(config)
    arguments = _arguments(
        config, recipe, numbers, checkpointing=count_parameters(load_config(base)) > CHECKPOINTING_FROM
    )
    model = load_model(base, dtype=numbers.weights, head="steps" if recipe.method == "prm" else "causal")
    model.config.use_cache = False
    try:
        trainer = recipe.build(arguments, model, tokenizer, dataset)
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"the trainer refuses these options: {error}") from None
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(progress_callback(say, recipe))
    return trainer


def _summary(
    config: TrainingConfig, recipe: Recipe, counts: Counts, trainer: Trainer, seconds: float, resume: Path | None
) -> TrainingSummary:
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    first, last = (logged[0], logged[-1]) if logged else ({}, {})
    return TrainingSummary(
        out=config.output,
        kind=recipe.card["kind"],
        method=recipe.method,
        rows=counts.rows,
        dropped=counts.dropped,
        bad=counts.bad,
        steps=trainer.state.global_step,
        epochs=config.epochs,
        loss_first=first.get("loss"),
        loss_last=last.get("loss"),
        seconds=round(seconds, 2),
        resumed_from=step_of(resume) if resume else 0,
        metrics=recipe.metrics(last),
        metrics_first=recipe.metrics(first),
    )


def _arguments(config: TrainingConfig, recipe: Recipe, numbers: Precision, *, checkpointing: bool) -> TrainingArguments:
    """The trainer's arguments; `free` ones a user may say by --trainer-arg, `ours` not. Raises UsageError."""
    free: dict[str, Any] = {
        "bf16": numbers.autocast,
        "gradient_checkpointing": not numbers.use_cpu and checkpointing,
        "save_steps": 500,
        "save_total_limit": 2,
        "logging_steps": 10,
        "report_to": "none",
        "run_name": Path(config.output).name,
    }
    ours: dict[str, Any] = {
        "output_dir": str(Path(config.output) / WORK),
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "num_train_epochs": 1,  # the order of the rows holds all epochs
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "learning_rate": config.rate(),
        "seed": config.seed,
        "use_cpu": numbers.use_cpu,
        "logging_first_step": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": not numbers.use_cpu,
        "ddp_find_unused_parameters": False,
    }
    free |= config.arguments()
    if twice := sorted(free.keys() & ours.keys()):
        raise UsageError(f"--trainer-arg {twice[0]}: medsss sets this itself", hint="see --help for the options")
    try:
        return recipe.arguments(**free, **ours)
    except (TypeError, ValueError, ImportError) as error:
        raise UsageError(f"the trainer refuses these options: {first_line(error)}") from None


# --- the process, the libraries, the model ---------------------------------------------------------------------------


def is_main_process() -> bool:
    """Whether this is process 0 of all machines (torchrun and accelerate say it in RANK)."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars, no remarks and no telemetry of other people's libraries."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets

    datasets.disable_progress_bars()
    with quiet_loading():
        yield


def progress_callback(say: Say, recipe: Recipe, every_seconds: float = 10.0) -> Any:
    """A callback that has the last step logged too, and says a plain line now and then: step, loss, what the method
    reports, time left."""
    from transformers import TrainerCallback

    class Lines(TrainerCallback):  # type: ignore[misc,unused-ignore]
        started = last_said = 0.0
        from_step = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started, self.from_step = time.monotonic(), state.global_step

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_log |= state.global_step >= state.max_steps

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
            now = time.monotonic()
            if logs is None or "loss" not in logs or not state.is_world_process_zero:
                return
            if state.global_step < state.max_steps and now - self.last_said < every_seconds:
                return
            self.last_said = now
            rate = (state.global_step - self.from_step) / max(now - self.started, 1e-9)
            left = round((state.max_steps - state.global_step) / max(rate, 1e-9))
            extra = "".join(
                f" {short} {value:.3g}" if abs(value) < 1000 else f" {short} {value:.0f}"
                for short, value in recipe.metrics(logs).items()
            )
            say(
                f"step {state.global_step}/{state.max_steps} loss {float(logs['loss']):.4f}{extra} "
                f"lr {float(logs.get('learning_rate', 0.0)):.2g} {rate:.2f} steps/s, "
                f"{clock(left)} left"
            )

    return Lines()


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
    if use_cpu:
        return Precision(True, False, torch.float32)
    return Precision(False, True, torch.bfloat16 if config.lora else torch.float32)


def choose_max_length(asked: int | None, config: Any) -> int:
    """The longest row that is trained on. Raises UsageError beyond the context: positions would be made up."""
    context = context_length(config)
    if asked is None:
        return min(DEFAULT_MAX_LENGTH, context or DEFAULT_MAX_LENGTH)
    if context is not None and asked > context:
        raise UsageError(f"--max-length {asked} is more than the model's context of {context} tokens")
    return asked


def fingerprint(path: str) -> str:
    """A short hash that tells two models of one name apart: file names, sizes, and the ends of the weight files."""
    folder = Path(path)
    digest = hashlib.blake2b(digest_size=8)
    if not folder.is_dir():
        return path
    for file in sorted(folder.iterdir()):
        if file.suffix not in {".safetensors", ".bin"} and file.name != "config.json":
            continue
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
    return LoraConfig(
        task_type=task,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        **more,
    )


def save_model(trainer: Trainer, config: TrainingConfig, base: str, staged: Path) -> None:
    """Write the trained model, the tokenizer and the generation settings of its base to `staged`, safetensors only,
    in the type that the base has on disk. All processes must call it (sharded weights are gathered); process 0
    writes."""
    import torch
    from transformers import GenerationConfig
    from transformers.utils.hub import cached_file

    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if is_main_process():
        shutil.rmtree(staged, ignore_errors=True)
    if sharded and not config.lora:
        trainer.save_model(str(staged))
    if not is_main_process():
        return
    staged.mkdir(parents=True, exist_ok=True)
    if not sharded or config.lora:
        model = trainer.accelerator.unwrap_model(trainer.model)
        if config.lora and config.merge:
            model = model.merge_and_unload()
        if not config.lora or config.merge:
            stored = getattr(load_config(base), "dtype", None)
            model.to(stored if isinstance(stored, torch.dtype) else torch.float32)
            if getattr(model, "generation_config", None) is not None:
                # A base's own settings can be such that transformers refuses to save them; the file itself is copied
                # below.
                model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        model.save_pretrained(str(staged))
    for unwanted in ("training_args.bin", "README.md", "generation_config.json"):
        (staged / unwanted).unlink(missing_ok=True)
    load_tokenizer(base).save_pretrained(str(staged))  # a fresh one: trainers set the padding token of theirs
    with contextlib.suppress(OSError):  # a base without such settings
        settings = cached_file(adapter_base(base), "generation_config.json")
        shutil.copyfile(str(settings), staged / "generation_config.json")


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"medsss": __version__}
    for name in ("torch", "transformers", "trl", "peft", "accelerate"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
