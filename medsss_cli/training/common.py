"""What both trainings share: options, the output folder and its resumption, the rows on disk, loading and saving
models.

The life of an output folder OUT:

    OUT/.training/run.json        what the run is: options, base, hash of the data; written before the first step
    OUT/.training/data/           the rows as token ids (Arrow, memory-mapped)
    OUT/.training/checkpoint-N/   the Trainer's checkpoints
    OUT/...                       the model, moved here in one go when it is whole
    OUT/medsss.json               what it was made of; written last, so its presence means that the model is complete

The same command given again goes on from the last whole checkpoint, or reports that all is done. Another
configuration is refused with the difference. A folder that holds something else is never touched.

Under torchrun and `accelerate launch` process 0 alone reads the rows and writes; the others wait and map its file.
Nothing here prints: progress goes through the `say` that the caller passes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import random
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import __version__
from ..errors import UsageError
from ..models import (
    CARD,
    adapter_base,
    context_length,
    first_line,
    load_model,
    load_tokenizer,
    quiet_loading,
    read_json,
)
from ..stream.jsonl import guarded_stdout

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

Say = Callable[[str], None]
WORK = ".training"
KEPT = {WORK, "runs"}  # what `publish` leaves in place beside the model: our work folder and TensorBoard's
DEFAULT_MAX_LENGTH = 4096
NAMED = 1000  # how many rows that were too long are named in medsss.json; all are counted
LORA_FACTOR = 10  # a rank-limited update wants about ten times the learning rate of a full one


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What both trainings take. Everything up to `trust_remote_code` changes the result and is part of the run's
    identity.

    `batch_size` is per process; `batch_size * accumulation * processes` rows make one update. `learning_rate` None is
    the method's default. `max_length` None is the model's context, at most 4096 tokens; longer rows are left out,
    counted and named. `device` and `dtype` "auto": a GPU where there is one; see `precision`.
    """

    policy: str
    out: str
    batch_size: int = 8
    accumulation: int = 4
    max_length: int | None = None
    learning_rate: float | None = None
    epochs: float = 1.0
    warmup: float = 0.03
    scheduler: str = "cosine"
    weight_decay: float = 0.0
    seed: int = 0
    lora: bool = False
    lora_rank: int = 32
    lora_alpha: int = 64
    merge: bool = True
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    # What follows changes how a run goes, not what comes out.
    gradient_checkpointing: bool | None = None
    save_steps: int = 500
    log_steps: int = 10
    report_to: str = "none"
    restart: bool = False

    HOW = frozenset({"out", "gradient_checkpointing", "save_steps", "log_steps", "report_to", "restart", "policy"})

    def identity(self) -> dict[str, Any]:
        """The options that the result depends on."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in self.HOW}


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """How a training went. `loss_first` is the loss of the first update, `loss_last` the mean over the last logged
    ones.

    `rows` were trained on; `dropped` were longer than the maximum; `bad` could not be used. `resumed_from` is the
    step that the run went on from, 0 for a fresh one; `finished_before` says that nothing was left to do.
    """

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


# --- the output folder -----------------------------------------------------------------------------------------------


def is_main_process() -> bool:
    """Whether this is process 0 of all machines (torchrun and accelerate say it in RANK)."""
    return int(os.environ.get("RANK", "0")) == 0


def rows_per_update(options: TrainingOptions) -> int:
    """How many rows make one update, over all processes."""
    return options.batch_size * options.accumulation * int(os.environ.get("WORLD_SIZE", "1"))


def check_out(out: Path, policy: str, *, restart: bool) -> None:
    """Refuse an output folder that is not ours or is the policy's own; with `restart`, forget what an earlier run left.

    Called before anything slow, in process 0.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; the output is a folder", hint="name another with -o")
    if out.exists() and Path(policy).exists() and out.samefile(policy):
        raise UsageError(f"the output {out} is the policy itself", hint="name another folder with -o")
    ours = (out / CARD).exists() or (out / WORK).exists()
    if out.exists() and any(out.iterdir()) and not ours:
        raise UsageError(
            f"{out} exists and was not written by medsss", hint="name another folder with -o, or remove this one"
        )
    if restart:
        shutil.rmtree(out / WORK, ignore_errors=True)
        (out / CARD).unlink(missing_ok=True)
    (out / WORK).mkdir(parents=True, exist_ok=True)  # by which the folder is known as ours


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object so that a reader finds all of it or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two flat objects, "seed: 0 -> 1, lora: ..."; empty if nothing does."""
    keys = sorted(old.keys() | new.keys())
    return ", ".join(f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key))


def refuse_other_run(out: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise UsageError if the run that `out` holds is not the one that is asked for."""
    if changed := difference(old, new):
        raise UsageError(
            f"{out} holds a training with another configuration ({changed})",
            hint="give --restart to train anew, or name another folder with -o",
        )


def last_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint that is whole. The Trainer writes trainer_state.json last, so a run that was killed while
    writing leaves one without it."""
    found = []
    for folder in work.glob("checkpoint-*"):
        step = folder.name.removeprefix("checkpoint-")
        if step.isdigit() and read_json(folder / "trainer_state.json") is not None:
            found.append((int(step), folder))
    return max(found)[1] if found else None


def publish(staged: Path, out: Path, card: Mapping[str, Any]) -> None:
    """Put the finished model in place of whatever the folder held, its card last, then forget the work folder.

    A crash in between leaves the folder without a card and with its checkpoints: the same command repairs it.
    """
    (out / CARD).unlink(missing_ok=True)
    for old in out.iterdir():
        if old.name not in KEPT:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    os.umask(mask := os.umask(0))
    for new in staged.iterdir():
        if new.is_file():
            new.chmod(0o666 & ~mask)  # safetensors writes for the owner alone, and a model is made to be shared
        new.replace(out / new.name)
    write_json(out / CARD, card)
    shutil.rmtree(out / WORK, ignore_errors=True)


# --- rows ------------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row as token ids: `columns` for the trainer, `length` of its longest sequence, `id` for messages."""

    id: str
    length: int
    columns: dict[str, list[int] | list[float]]


@dataclass
class Stored:
    """Rows on disk. `lengths` runs beside them. `hash` covers ids, columns and order; `too_long` names what was left
    out."""

    lengths: Sequence[int]
    hash: str
    too_long: list[str]
    dropped: int
    bad: int
    notes: dict[str, Any]

    @property
    def rows(self) -> int:
        return len(self.lengths)


def store_rows(
    rows: Iterable[Row], folder: Path, columns: Mapping[str, str], max_length: int, counts: Counts, say: Say
) -> Stored:
    """Write rows to `folder` as Arrow, one at a time. `columns` gives the type of the elements of each column.

    Raises UsageError where no row is left: an empty input must never end as an untrained model.
    """
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    digest = hashlib.blake2b(digest_size=16)
    lengths = array("i")
    too_long: list[str] = []
    dropped = 0
    features = Features({name: List(Value(kind)) for name, kind in columns.items()})
    with ArrowWriter(path=str(folder / "rows.arrow"), features=features) as writer:
        for row in rows:
            if row.length > max_length:
                dropped += 1
                if len(too_long) < NAMED:
                    too_long.append(row.id)
                continue
            digest.update(repr([row.columns[name] for name in columns]).encode())
            lengths.append(row.length)
            writer.write({name: row.columns[name] for name in columns})
        if lengths:
            writer.finalize()
    if dropped:
        shown = ", ".join(too_long[:5]) + (", ..." if dropped > 5 else "")
        say(f"{dropped} rows are longer than {max_length} tokens and are left out: {shown}")
    if not lengths:
        why = "the input holds none that can be trained on"
        if dropped or counts.bad:
            why += f" ({counts.bad} unusable records, {dropped} longer than {max_length} tokens)"
        raise UsageError(f"no rows: {why}", hint="no model was written")
    stored = Stored(lengths, digest.hexdigest(), too_long, dropped, counts.bad, counts.notes)
    write_json(folder / "stored.json", dataclasses.asdict(stored) | {"lengths": lengths.tolist()})
    return stored


@dataclass
class Counts:
    """What the reader of the rows counted, filled while they are read."""

    bad: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


def load_rows(folder: Path) -> tuple[Dataset, Stored]:
    """The rows that `store_rows` wrote, mapped into memory."""
    from datasets import Dataset

    plain = read_json(folder / "stored.json")
    if plain is None:
        raise UsageError(f"the stored rows in {folder} cannot be read", hint="give --restart")
    return Dataset.from_file(str(folder / "rows.arrow")), Stored(**plain)


class GroupedSampler:
    """An order of rows in which a batch holds rows of about equal length, so that little is padded.

    The rows are shuffled, cut into chunks of 50 batches, sorted by length within each, and the batches are shuffled.
    The batch with the longest row comes first: what does not fit into memory fails at once. The order depends on
    (seed, epoch) alone, on every process and after a resumption. The last batch may be short.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths = lengths
        self.batch = batch
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        draw = random.Random(f"{self.seed}/{self.epoch}")
        order = list(range(len(self.lengths)))
        draw.shuffle(order)
        rest = len(order) % self.batch
        short = order[len(order) - rest :]
        order = order[: len(order) - rest]
        batches = []
        for start in range(0, len(order), 50 * self.batch):
            chunk = sorted(order[start : start + 50 * self.batch], key=self.lengths.__getitem__)
            batches += [chunk[at : at + self.batch] for at in range(0, len(chunk), self.batch)]
        draw.shuffle(batches)
        if batches:
            longest = max(range(len(batches)), key=lambda at: self.lengths[batches[at][-1]])
            batches[0], batches[longest] = batches[longest], batches[0]
        for batch in batches:
            yield from batch
        yield from short


def grouped(trainer: Any, sampler: GroupedSampler) -> Any:
    """The trainer class with rows in the sampler's order, and without TRL's model card: medsss.json says it."""

    class Grouped(trainer):  # type: ignore[misc,unused-ignore]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return sampler

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """Nothing."""

    return Grouped


# --- libraries, kept quiet -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep other people's words off stdout, and their progress bars and telemetry off altogether.

    Whatever is written to file descriptor 1 inside goes to stderr, C code and subprocesses included: stdout carries our
    summary alone. Warnings that concern the libraries' own defaults are silenced; errors are not.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with guarded_stdout():
        import datasets

        datasets.disable_progress_bars()
        with quiet_loading():
            yield


def check_reporter(report_to: str) -> None:
    """Raise UsageError if the tracker that is asked for is unknown or not installed."""
    from importlib.util import find_spec

    modules = {"none": "json", "wandb": "wandb", "tensorboard": "tensorboard"}
    if report_to not in modules:
        raise UsageError(f"--report-to {report_to} is unknown", hint=f"one of {', '.join(modules)}")
    if find_spec(modules[report_to]) is None:
        raise UsageError(f"--report-to {report_to} needs its package", hint=f"pip install {modules[report_to]}")


def progress_callback(say: Say, every_seconds: float = 10.0) -> TrainerCallback:
    """A callback that says a plain line now and then: step, loss, what the method reports, time left."""
    from transformers import TrainerCallback as Base

    class Lines(Base):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            self.started = time.monotonic()
            self.from_step = 0
            self.last_said = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started, self.from_step = time.monotonic(), state.global_step

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
            now = time.monotonic()
            if logs is None or "loss" not in logs or not state.is_world_process_zero:
                return
            if state.global_step < state.max_steps and now - self.last_said < every_seconds:
                return
            self.last_said = now
            done = state.global_step - self.from_step
            left = (now - self.started) / max(done, 1) * (state.max_steps - state.global_step)
            extra = "".join(f" {short} {float(logs[key]):.3g}" for key, short in SHOWN.items() if key in logs)
            rate = done / max(now - self.started, 1e-9)
            say(
                f"step {state.global_step}/{state.max_steps} loss {float(logs['loss']):.4f}{extra} "
                f"lr {float(logs.get('learning_rate', 0.0)):.2g} {rate:.2f} steps/s, {clock(left)} left"
            )

    return Lines()


SHOWN = {"rewards/margins": "margin", "rewards/accuracies": "accuracy", "logps/chosen": "logp-chosen"}


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


# --- models ----------------------------------------------------------------------------------------------------------


class Precision(NamedTuple):
    """Whether to stay on the CPU, whether to compute in bfloat16 under autocast, and the type of the loaded weights."""

    use_cpu: bool
    autocast: bool
    weights: Any


def precision(options: TrainingOptions) -> Precision:
    """float32 on the CPU. On a GPU bfloat16 arithmetic, with float32 weights for a full training (updates at learning
    rates of 1e-6 are lost in bfloat16 weights) and bfloat16 weights under LoRA (they are frozen). `dtype` overrides."""
    import torch

    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if options.dtype not in {"auto", *names}:
        raise UsageError(f"--dtype {options.dtype} is not for training", hint="auto, float32 or bfloat16")
    use_cpu = options.device == "cpu" or not torch.cuda.is_available()
    if options.device == "cuda" and use_cpu:
        raise UsageError("--device cuda: no GPU is visible")
    if options.dtype != "auto":
        return Precision(use_cpu, False, names[options.dtype])
    if use_cpu:
        return Precision(True, False, torch.float32)
    return Precision(False, True, torch.bfloat16 if options.lora else torch.float32)


def choose_max_length(asked: int | None, config: Any) -> int:
    """The longest row that is trained on. A `--max-length` beyond the context is refused: positions would be made
    up."""
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


def save_model(trainer: Trainer, options: TrainingOptions, base: str, staged: Path) -> None:
    """Write the trained model, the tokenizer and the generation settings of its base to `staged`, safetensors only.

    All processes must call it (sharded weights are gathered); process 0 writes. The weights are saved in the type
    that the base has on disk, so that a bfloat16 model stays one.
    """
    import torch
    from transformers import AutoConfig, GenerationConfig
    from transformers.utils.hub import cached_file

    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if sharded and not options.lora:
        trainer.save_model(str(staged))
    if not is_main_process():
        return
    staged.mkdir(parents=True, exist_ok=True)
    if not sharded or options.lora:
        model = trainer.accelerator.unwrap_model(trainer.model)
        if options.lora and options.merge:
            model = model.merge_and_unload()
        if not options.lora or options.merge:
            config = AutoConfig.from_pretrained(adapter_base(base), trust_remote_code=options.trust_remote_code)
            stored = getattr(config, "dtype", None)
            model.to(stored if isinstance(stored, torch.dtype) else torch.float32)
            if getattr(model, "generation_config", None) is not None:
                # A base's own settings can be such that transformers refuses to save them; the file itself is copied
                # below.
                model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        model.save_pretrained(str(staged))
    for unwanted in ("training_args.bin", "README.md", "generation_config.json"):
        (staged / unwanted).unlink(missing_ok=True)
    # A fresh tokenizer: trainers set the padding token of theirs.
    load_tokenizer(base, trust_remote_code=options.trust_remote_code).save_pretrained(str(staged))
    settings = cached_file(adapter_base(base), "generation_config.json", _raise_exceptions_for_missing_entries=False)
    if settings is not None:
        shutil.copyfile(settings, staged / "generation_config.json")


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"medsss": __version__}
    for name in ("torch", "transformers", "trl", "peft", "accelerate"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


# --- one training, from rows to folder -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What makes one training differ from another.

    `read(tokenizer, base, counts)` gives the rows as ids; `columns` their types. `build(model, tokenizer, dataset,
    stored, arguments, callbacks)` makes the trainer from keyword arguments that every kind of TrainingArguments
    takes. `card` goes into medsss.json and, with the options, is the identity of the run.
    """

    kind: str
    method: str
    head: str
    learning_rate: float
    columns: Mapping[str, str]
    read: Callable[[PreTrainedTokenizerBase, str, Counts], Iterable[Row]]
    build: Callable[..., Trainer]
    card: Mapping[str, Any] = field(default_factory=dict)


def run_training(options: TrainingOptions, recipe: Recipe, say: Say) -> TrainingSummary:
    """Train, or go on, or find that all is done. The rows are read by process 0 alone; see the module's head for the
    folder's life. Raises UsageError for anything that the user has to put right."""
    out = Path(options.out)
    work = out / WORK
    from ..engines import resolve_policy

    base = resolve_policy(options.policy)
    check_reporter(options.report_to)
    if is_main_process():
        check_out(out, base, restart=options.restart)
    try:
        with quiet_libraries():
            return _train(options, recipe, base, out, work, say)
    except UsageError:
        # Nothing has been trained: leave nothing of ours behind.
        if is_main_process() and not (work / "run.json").exists():
            shutil.rmtree(work, ignore_errors=True)
            with contextlib.suppress(OSError):
                out.rmdir()
        raise


def _train(options: TrainingOptions, recipe: Recipe, base: str, out: Path, work: Path, say: Say) -> TrainingSummary:
    from accelerate import PartialState  # type: ignore[import-untyped]
    from transformers import AutoConfig, PrinterCallback, set_seed

    weights = precision(options)
    state = PartialState(cpu=weights.use_cpu)
    tokenizer = load_tokenizer(base, trust_remote_code=options.trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(adapter_base(base), trust_remote_code=options.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UsageError(f"no model can be loaded from {base}: {first_line(error)}") from None
    max_length = choose_max_length(options.max_length, config)

    if state.is_main_process:
        counts = Counts()
        rows = recipe.read(tokenizer, base, counts)
        stored = store_rows(rows, work / "data", recipe.columns, max_length, counts, say)
        learning_rate = options.learning_rate if options.learning_rate is not None else recipe.learning_rate
        run = options.identity() | {
            "kind": recipe.kind,
            "method": recipe.method,
            **recipe.card,
            "max_length": max_length,
            "learning_rate": learning_rate,
            "base": fingerprint(base),
            "data": stored.hash,
            "processes": state.num_processes,
        }
        done = read_json(out / CARD)
        begun = read_json(work / "run.json")
        if done is not None:
            refuse_other_run(out, done.get("run", {}), run)
        elif begun is not None:
            refuse_other_run(out, begun, run)
        write_json(work / "run.json", run)
    state.wait_for_everyone()

    dataset, stored = load_rows(work / "data")
    run = read_json(work / "run.json") or {}
    card = read_json(out / CARD)
    if card is not None:
        state.wait_for_everyone()
        if state.is_main_process:
            shutil.rmtree(work, ignore_errors=True)
        say(f"{out} is complete: the same training has finished before (--restart trains anew)")
        return TrainingSummary(**card["summary"] | {"finished_before": True})
    resume = last_checkpoint(work)

    set_seed(options.seed)
    model = load_model(base, dtype=weights.weights, head=recipe.head, trust_remote_code=options.trust_remote_code)
    model.config.use_cache = False
    size = sum(parameter.numel() for parameter in model.parameters())
    checkpointing = options.gradient_checkpointing
    if checkpointing is None:
        checkpointing = not weights.use_cpu and size > 1_000_000_000
    arguments: dict[str, Any] = {
        "output_dir": str(work),
        "per_device_train_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.accumulation,
        "num_train_epochs": options.epochs,
        "learning_rate": run["learning_rate"],
        "lr_scheduler_type": options.scheduler,
        "warmup_steps": options.warmup,
        "weight_decay": options.weight_decay,
        "seed": options.seed,
        "data_seed": options.seed,
        "use_cpu": weights.use_cpu,
        "bf16": weights.autocast,
        "gradient_checkpointing": checkpointing,
        "save_steps": options.save_steps,
        "save_strategy": "steps" if options.save_steps > 0 else "no",
        "save_total_limit": 2,
        "logging_steps": options.log_steps,
        "logging_first_step": True,
        "report_to": options.report_to,
        "run_name": out.name,
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": not weights.use_cpu,
        "ddp_find_unused_parameters": False,
    }
    if options.report_to == "tensorboard":
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(out / "runs"))
    trainer = recipe.build(model, tokenizer, dataset, stored, arguments, [progress_callback(say)])
    trainer.remove_callback(PrinterCallback)
    say(
        f"{recipe.method}: {stored.rows} rows, {sum(stored.lengths)} tokens, {size / 1e6:.1f} M parameters, "
        f"{'LoRA' if options.lora else 'full'}, lr {run['learning_rate']:g}"
        + (f", going on from step {resume.name.removeprefix('checkpoint-')}" if resume else "")
    )
    started = time.monotonic()
    result = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = time.monotonic() - started

    state.wait_for_everyone()
    save_model(trainer, options, base, work / "model")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    last = next((entry for entry in reversed(trainer.state.log_history) if "loss" in entry), {})
    summary = TrainingSummary(
        out=str(out),
        kind=recipe.kind,
        method=recipe.method,
        rows=stored.rows,
        dropped=stored.dropped,
        bad=stored.bad,
        steps=result.global_step,
        epochs=options.epochs,
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses else None,
        seconds=round(seconds, 2),
        resumed_from=int(resume.name.removeprefix("checkpoint-")) if resume else 0,
        metrics={name: round(float(last[key]), 5) for key, name in SHOWN.items() if key in last},
    )
    if state.is_main_process:
        data = {key: value for key, value in dataclasses.asdict(stored).items() if key != "lengths"}
        publish(
            work / "model",
            out,
            {
                "kind": recipe.kind,
                "method": recipe.method,
                **recipe.card,
                "base": base,
                "data": data | {"rows": stored.rows, "tokens": sum(stored.lengths)},
                "options": dataclasses.asdict(options),
                "versions": versions(),
                "summary": dataclasses.asdict(summary),
                "run": run,
            },
        )
    state.wait_for_everyone()
    return summary
