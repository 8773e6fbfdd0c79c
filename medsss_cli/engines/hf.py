"""The engine on transformers' own `generate`: requests that wait are put together by length, one batch at a time.

What a completion says depends on its prompt, its sampling and its index alone: each draws with random numbers of its
own (`sampling.py`). A prompt is computed once for its n completions, all but its last token; then `generate` writes
pieces of `_PIECE` tokens, after which rows that have ended leave the batch. It is right and short, not the fastest:
vLLM is for speed.

Models whose cache cannot be cut by rows (state spaces) get batches of equal prompt lengths, written in one piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import EngineError
from ..requests import Completion, FinishReason, Prompt, Sampling, Usage, derive_seed
from .base import EngineConfig, Worker, check_request, room, settle
from .loading import Loaded, load_policy, plain_config
from .rendering import Speller, end_tokens, first_stop, first_tokens, render
from .sampling import draw

if TYPE_CHECKING:
    from torch import Tensor

_PIECE = 16  # tokens between two looks at which rows have ended
_COMPANY = 0.002  # seconds that a batch waits for requests that are about to come
_SWITCH = 2e-4  # seconds, for sys.setswitchinterval
_PATIENCE = 1.5  # seconds that the end waits for the model to come to the next token
_PROMPT_TOKENS = 1 << 15  # of the distinct prompts of a batch, so that their activations fit


@dataclass(slots=True, eq=False)
class _Job:
    """One request: its prompt, the most tokens of a completion, first tokens of the allowed words, what is done."""

    ids: tuple[int, ...]
    sampling: Sampling
    n: int
    limit: int
    words: list[int]
    future: asyncio.Future[list[Completion]]
    done: dict[int, Completion] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Row:
    """One completion on its way: the tokens that are written, and their log-probabilities."""

    job: _Job
    index: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    over: bool = False


class HfEngine:
    """See the module. Opened by `open_hf`; `warnings` are for the user, `slots` is how many rows run at once."""

    name = "hf"

    def __init__(self, loaded: Loaded, config: EngineConfig) -> None:
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.usage = Usage()
        self.warnings = list(loaded.warnings)
        self.context = _pick_context(self.model.config, config.max_context, self.warnings)
        vocabulary = int(self.model.get_output_embeddings().weight.shape[0])
        ends = end_tokens(self.tokenizer, self.model.generation_config, self.model.config)
        self._ends = {id for id in ends if 0 <= id < vocabulary}
        # A folder's generation_config may ask for penalties and top-k: the sampling of a request says all there is.
        self.model.generation_config = plain_config()
        self._spell = Speller(self.tokenizer)
        self._cuttable = _cuttable(self.model)
        self._token_bytes = _token_bytes(self.model)
        self.slots = config.batch_size or self._pick_slots()
        self.concurrency = config.concurrency or max(8, self.slots // 2)
        self._waiting: list[_Row] = []
        self._open: set[_Job] = set()
        self._news = asyncio.Event()
        self._closed = False

    def _pick_slots(self) -> int:
        """On a CPU more rows stop paying once matrix products are efficient (docs/engines.md); on a GPU what half of
        the free memory holds at 2,048 tokens a row, at most 256."""
        if self.model.device.type == "cpu":
            parameters = sum(each.numel() for each in self.model.parameters())
            return 256 if parameters < 4_000_000 else 128 if parameters < 50_000_000 else 32
        row = self._token_bytes * min(self.context, 2048)
        return max(4, min(256, _bytes_free(self.model.device) // 2 // row))

    # The side of those who ask

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        """n completions of `prompt`. See engines/base.py. Raises EngineError for a prompt that leaves no room in the
        context; `max_tokens` is cut to the room that there is."""
        check_request(sampling, n)
        if self._closed:
            raise EngineError("the engine is closed")
        ids = render(self.tokenizer, prompt)
        limit = room(ids, sampling, self.context)
        words = first_tokens(self.tokenizer, prompt, sampling.allowed_tokens) if sampling.allowed_tokens else []
        if n == 0:
            return []
        job = _Job(tuple(ids), sampling, n, limit, words, asyncio.get_running_loop().create_future())
        self._waiting += [_Row(job, index) for index in range(n)]
        self._open.add(job)
        self._news.set()
        try:
            done = await job.future
        finally:
            self._open.discard(job)  # a cancelled future is done, too: its rows leave
        self.usage.add(len(ids), done)
        return done

    async def serve(self, worker: Worker) -> None:
        """Run batch after batch on the worker, until the engine is closed."""
        while not self._closed:
            await self._news.wait()
            await asyncio.sleep(_COMPANY)
            batch = self._take()
            if batch and not self._closed:
                await worker.do(partial(self._run, batch))
            else:
                self._news.clear()

    def close(self) -> None:
        """The batch under way ends at its next token; whoever still waits gets an EngineError."""
        self._closed = True
        self._news.set()
        for job in self._open:
            settle(job.future, None, EngineError("the engine was closed while the request was running"))

    def _take(self) -> list[_Row]:
        """The next batch: rows of equal temperature and top-p, prompts of like length, the longest waiting among them.
        Choices of one token go before all else, since much waits for them."""
        self._waiting = [row for row in self._waiting if not row.job.future.done()]
        if not self._waiting:
            return []
        first = min(self._waiting, key=lambda row: row.job.limit > 1)

        def kind(row: _Row) -> tuple[object, ...]:
            sampling = row.job.sampling
            length = 0 if self._cuttable else len(row.job.ids)
            return sampling.temperature, sampling.top_p, row.job.limit == 1, length

        alike = sorted((row for row in self._waiting if kind(row) == kind(first)), key=_by_length)
        begin = max(0, min(alike.index(first), len(alike) - self.slots))
        batch = alike[begin : begin + self.slots]
        while len(batch) > 1 and not self._fits(batch):
            batch.remove(batch[0] if batch[-1] is first else batch[-1])
        taken = set(batch)
        self._waiting = [row for row in self._waiting if row not in taken]
        return batch

    def _fits(self, batch: Sequence[_Row]) -> bool:
        """Whether keys, values and activations of the batch fit into the memory, as far as one can tell."""
        prompts = {row.job.ids for row in batch}
        longest = max(len(row.job.ids) + row.job.limit for row in batch)
        return len(prompts) * max(map(len, prompts)) <= _PROMPT_TOKENS and len(
            batch
        ) * longest * self._token_bytes <= 0.6 * _bytes_free(self.model.device)

    # The side of the model

    def _run(self, rows: list[_Row]) -> None:
        """Finish all `rows`. Where memory runs out, one half after the other, from the beginning: the draws are seeded,
        so they come out the same."""
        import torch

        try:
            with torch.inference_mode():
                self._generate(rows)
            return
        except Exception as error:  # whatever a model can raise: those who wait must hear of it
            left = [row for row in rows if not row.over]
            if not _out_of_memory(error):
                told = f"the model failed: {type(error).__name__}: {error}"
            elif len(left) == 1:
                told = "the model failed: out of memory, even with one row"
            else:
                told = None
        if told is not None:
            for row in left:
                settle(row.job.future, None, EngineError(told))
            return
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        for row in left:
            row.ids.clear()
            row.logprobs.clear()
        half = len(left) // 2
        self._run(left[:half])
        self._run(left[half:])

    def _generate(self, rows: list[_Row]) -> None:
        import torch
        from transformers import DynamicCache

        device = self.model.device
        places: dict[tuple[int, ...], int] = {}
        which = torch.tensor([places.setdefault(row.job.ids, len(places)) for row in rows], device=device)
        width = max(map(len, places))
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in places], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in places], device=device)
        cache = None
        if self._cuttable:
            cache = DynamicCache(config=self.model.config)
            if width > 1:  # the last token is computed with each completion, which gives the first draw its logits
                self._write(ids[:, :-1], mask[:, :-1], cache, 1)
                cache.batch_select_indices(which)
        ids, mask = ids[which], mask[which]
        while rows and not self._closed:
            most = max(row.job.limit - len(row.ids) for row in rows)
            drawing = _Draw(rows, device)
            written = self._write(ids, mask, cache, min(most, _PIECE) if cache else most, drawing, self._halted)
            new = written[:, ids.shape[1] :]
            logprobs = torch.stack(drawing.logprobs, 1).tolist()
            stay = [
                number
                for number, row in enumerate(rows)
                if not self._ended(row, new[number].tolist(), logprobs[number])
            ]
            ids, mask = written, torch.cat([mask, torch.ones_like(new)], 1)
            if len(stay) < len(rows):
                rows = [rows[number] for number in stay]
                kept = torch.tensor(stay, dtype=torch.long, device=device)
                ids, mask = ids[kept], mask[kept]
                if cache and rows:
                    cache.batch_select_indices(kept)

    def _write(
        self, ids: Tensor, mask: Tensor, cache: Any, most: int, drawing: _Draw | None = None, halted: Any = None
    ) -> Tensor:
        """`ids` with at most `most` more tokens."""
        settings: dict[str, Any] = {"max_new_tokens": most, "do_sample": False, "pad_token_id": 0}
        if drawing is not None:
            settings["eos_token_id"] = sorted(self._ends) or None
        return self.model.generate(  # type: ignore[no-any-return]
            ids,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=plain_config(**settings),
            logits_processor=[] if drawing is None else [drawing],
            stopping_criteria=[] if halted is None else [halted],
        )

    def _halted(self, ids: Tensor, _: Any, **__: Any) -> Tensor:
        """For `generate`: every row is over when the engine closes."""
        import torch

        return torch.full((ids.shape[0],), self._closed, device=ids.device)

    def _ended(self, row: _Row, new: Sequence[int], logprobs: Sequence[float]) -> bool:
        """Add the piece `new` to a row, and finish it if that ends it."""
        job, sampling = row.job, row.job.sampling
        before = len(row.ids)
        row.over = True
        if job.future.done():
            return True
        new = new[: job.limit - before]
        end = next((place for place, id in enumerate(new) if id in self._ends and not job.words), None)
        row.ids += new if end is None else new[: end + 1]
        row.logprobs += logprobs[: len(row.ids) - before]
        if not all(map(math.isfinite, row.logprobs[before:])):
            settle(job.future, None, EngineError("the model's logits are not numbers"))
            return True
        if job.words:
            word = sampling.allowed_tokens[job.words.index(row.ids[0])]
            self._finish(row, word, FinishReason.STOP)
            return True
        text = self._spell(row.ids if end is None else row.ids[:-1])
        if first_stop(text, sampling.stop):
            # The first token with which a stop string is whole.
            low, high = before + 1, len(row.ids)
            while low < high:
                middle = (low + high) // 2
                if first_stop(self._spell(row.ids[:middle]), sampling.stop):
                    high = middle
                else:
                    low = middle + 1
            found = first_stop(self._spell(row.ids[:low]), sampling.stop)
            assert found is not None
            del row.ids[low:], row.logprobs[low:]
            self._finish(row, found[0], FinishReason.STOP, found[1])
        elif end is not None:
            self._finish(row, text, FinishReason.EOS)
        elif len(row.ids) == job.limit:
            self._finish(row, text, FinishReason.LENGTH)
        else:
            row.over = False
        return row.over

    def _finish(self, row: _Row, text: str, reason: FinishReason, stop: str | None = None) -> None:
        job = row.job
        job.done[row.index] = Completion(
            text, reason, len(row.ids), len(job.ids), stop, round(math.fsum(row.logprobs), 4)
        )
        if len(job.done) == job.n:
            settle(job.future, [job.done[index] for index in range(job.n)])


class _Draw:
    """A logits processor: draws the token of each row and leaves `generate` no other choice."""

    def __init__(self, rows: Sequence[_Row], device: Any) -> None:
        import torch

        self.rows = rows
        self.written = 0  # tokens of this piece
        sampling = rows[0].job.sampling
        self._temperature, self._top_p = sampling.temperature, sampling.top_p
        self._begin = len(rows[0].ids)
        seeds = [derive_seed(row.job.sampling.seed, row.index) for row in rows]
        self._seeds = torch.tensor(seeds, dtype=torch.long, device=device)
        self._words = [(number, row.job.words) for number, row in enumerate(rows) if row.job.words]
        self.logprobs: list[Tensor] = []

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        free = scores
        for number, words in self._words:
            free = scores.clone() if free is scores else free
            free[number] = -torch.inf
            free[number, words] = scores[number, words]
        tokens = draw(free, self._temperature, self._top_p, self._seeds, self._begin + self.written)[:, None]
        self.logprobs.append((scores.gather(1, tokens) - scores.logsumexp(-1, keepdim=True)).squeeze(1))
        self.written += 1
        return free.fill_(-torch.inf).scatter_(1, tokens, 0)


def _by_length(row: _Row) -> tuple[int, tuple[int, ...]]:
    return len(row.job.ids), row.job.ids


# What is known of a model


def _cuttable(model: Any) -> bool:
    """Whether rows may be padded on the left and leave: all layers of the model's cache keep keys and values."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    if getattr(model, "_is_stateful", False):
        return False
    try:
        layers = DynamicCache(config=model.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _pick_context(config: Any, wanted: int | None, warnings: list[str]) -> int:
    """The longest prompt with its completion. Some positions depend on the longest row of a batch; results must not, so
    there the context ends where that begins."""
    text = config.get_text_config(decoder=True)
    most = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if most is None:
        return wanted or 32768
    rope = getattr(text, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None)
    if wanted is None and original and original < most and rope.get("rope_type") in ("dynamic", "longrope"):
        warnings.append(
            f"context limited to {original} of {most} tokens: beyond it, {rope['rope_type']} positions make a row "
            "depend on the others of its batch (--max-context lifts the limit)"
        )
        return int(original)
    if wanted is not None and wanted > most:
        warnings.append(f"--max-context {wanted} is more than the model was made for ({most})")
    return wanted or int(most)


def _token_bytes(model: Any) -> int:
    """An upper guess of the bytes of keys and values per token."""
    config = model.config.get_text_config(decoder=True)
    layers = getattr(config, "num_hidden_layers", 1) or 1
    heads = getattr(config, "num_attention_heads", 1) or 1
    kept = getattr(config, "num_key_value_heads", heads) or heads
    size = getattr(config, "head_dim", None) or (getattr(config, "hidden_size", 1) or 1) // heads
    return int(2 * layers * kept * size * model.dtype.itemsize)


def _bytes_free(device: Any) -> int:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 << 30


def _out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("allocate memory" in text or "out of memory" in text)


@contextlib.asynccontextmanager
async def open_hf(config: EngineConfig) -> AsyncIterator[HfEngine]:
    """Load the policy of `config` and serve it until the block ends. Raises UsageError where it cannot be loaded."""
    worker = Worker()
    try:
        engine = await worker.do(lambda: HfEngine(load_policy(config), config))
        serving = asyncio.create_task(engine.serve(worker))
        # The worker gives the interpreter lock away at every tensor operation and waits to get it back while other code
        # runs: at the usual 5 ms a step of 200 operations could take a second.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(min(interval, _SWITCH))
        try:
            yield engine
        finally:
            sys.setswitchinterval(interval)
            engine.close()
            await asyncio.wait([serving], timeout=_PATIENCE)
            serving.cancel()
    finally:
        worker.close()
