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
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import EngineError
from ..requests import Completion, FinishReason, derive_seed
from .base import Asked, EngineConfig, ModelEngine, Worker, settle
from .loading import load_policy, plain_config
from .rendering import Speller, end_tokens, first_stop
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
    """A request, and its completions so far, by their index. A job whose future is done needs no rows any more."""

    asked: Asked
    ids: tuple[int, ...]
    future: Future[list[Completion]] = field(default_factory=Future)
    done: dict[int, Completion] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Row:
    """One completion on its way: the tokens that are written, and their log-probabilities."""

    job: _Job
    index: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    over: bool = False

    @property
    def order(self) -> tuple[int, tuple[int, ...]]:
        return len(self.job.ids), self.job.ids


class HfEngine(ModelEngine):
    """See the module. `slots` is how many rows run at once."""

    name = "hf"

    def __init__(self, config: EngineConfig) -> None:
        super().__init__()
        self.model, self.tokenizer = load_policy(config)
        self.context: int = _pick_context(self.model.config, config.max_context, self.warnings)
        vocabulary = int(self.model.get_output_embeddings().weight.shape[0])
        ends = end_tokens(self.tokenizer, self.model.generation_config, self.model.config)
        self._ends = {id for id in ends if 0 <= id < vocabulary}
        # A folder's generation_config may ask for penalties and top-k: the sampling of a request says all there is.
        self.model.generation_config = plain_config()
        self._spell = Speller(self.tokenizer)
        self._cuttable = _cuttable(self.model)
        self._token_bytes = _token_bytes(self.model)
        # On a CPU more rows stop paying once matrix products are efficient.
        weights = sum(each.numel() for each in self.model.parameters())
        small = self.model.device.type == "cuda" or weights < 4_000_000
        self.slots = config.batch_size or (256 if small else 128 if weights < 50_000_000 else 32)
        self.concurrency = max(8, self.slots // 2)
        self._waiting: list[_Row] = []
        self._news = asyncio.Event()

    # The side of those who ask

    async def _write(self, asked: Asked) -> list[Completion]:
        job = _Job(asked, tuple(asked.ids))
        self._waiting += [_Row(job, index) for index in range(asked.n)]
        self._news.set()
        return await asyncio.wrap_future(job.future)

    async def serve(self, worker: Worker) -> None:
        """Run batch after batch on the worker, until the engine is closed."""
        while not self.closed:
            await self._news.wait()
            await asyncio.sleep(_COMPANY)
            batch = self._take()
            if batch and not self.closed:
                await worker.do(partial(self._run, batch))
            else:
                self._news.clear()

    def _take(self) -> list[_Row]:
        """The next batch: rows of equal temperature and top-p, prompts of like length, the longest waiting among them,
        as many as fit. Choices of one token go before all else, since much waits for them."""
        self._waiting = [row for row in self._waiting if not row.job.future.done()]
        if not self._waiting:
            return []
        first = min(self._waiting, key=lambda row: row.job.asked.limit > 1)

        def kind(row: _Row) -> tuple[object, ...]:
            asked = row.job.asked
            length = 0 if self._cuttable else len(asked.ids)
            return asked.sampling.temperature, asked.sampling.top_p, asked.limit == 1, length

        alike = sorted((row for row in self._waiting if kind(row) == kind(first)), key=lambda row: row.order)
        begin = max(0, min(alike.index(first), len(alike) - self.slots))
        batch = alike[begin : begin + self.slots]
        room = 0.6 * _bytes_free(self.model.device)
        while len(batch) > 1 and not self._fits(batch, room):
            batch.remove(batch[0] if batch[-1] is first else batch[-1])
        taken = set(batch)
        self._waiting = [row for row in self._waiting if row not in taken]
        return batch

    def _fits(self, batch: Sequence[_Row], room: float) -> bool:
        """Whether the activations of the prompts are few enough, and keys and values fit into so many bytes."""
        prompts = {row.job.ids for row in batch}
        longest = max(len(row.job.ids) + row.job.asked.limit for row in batch)
        return (
            len(prompts) * max(map(len, prompts)) <= _PROMPT_TOKENS and len(batch) * longest * self._token_bytes <= room
        )

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
            if len(left) < 2 or not _out_of_memory(error):
                for row in left:
                    settle(row.job.future, None, EngineError(f"the model failed: {type(error).__name__}: {error}"))
                return
        # Only here the error is gone, and with it what it held of the memory.
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        again = [_Row(row.job, row.index) for row in left]
        self._run(again[: len(again) // 2])
        self._run(again[len(again) // 2 :])

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
                self._generated(ids[:, :-1], mask[:, :-1], cache, 1)
                cache.batch_select_indices(which)
        ids, mask = ids[which], mask[which]
        while rows and not self.closed:
            most = max(row.job.asked.limit - len(row.ids) for row in rows)
            drawing = _Draw(rows, device)
            written = self._generated(ids, mask, cache, min(most, _PIECE) if cache else most, drawing)
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

    def _generated(self, ids: Tensor, mask: Tensor, cache: Any, most: int, drawing: _Draw | None = None) -> Tensor:
        """`ids` with at most `most` more tokens; every row is over when the engine closes."""
        import torch

        def closed(ids: Tensor, *_: Any, **__: Any) -> Tensor:
            return torch.full((len(ids),), self.closed, device=ids.device)

        settings: dict[str, Any] = {"max_new_tokens": most, "do_sample": False, "pad_token_id": 0}
        return self.model.generate(  # type: ignore[no-any-return]
            ids,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=plain_config(**settings, eos_token_id=sorted(self._ends) if drawing else None),
            logits_processor=[drawing] if drawing else [],
            stopping_criteria=[closed],
        )

    def _ended(self, row: _Row, new: Sequence[int], logprobs: Sequence[float]) -> bool:
        """Add the piece `new` to a row, and finish it if that ends it."""
        job, asked, stop = row.job, row.job.asked, row.job.asked.sampling.stop
        before = len(row.ids)
        row.over = True
        if job.future.done():
            return True
        new = new[: asked.limit - before]
        end = next((place for place, id in enumerate(new) if id in self._ends and not asked.words), None)
        row.ids += new if end is None else new[: end + 1]
        row.logprobs += logprobs[: len(row.ids) - before]
        if not all(map(math.isfinite, row.logprobs[before:])):
            settle(job.future, None, EngineError("the model's logits are not numbers"))
        elif asked.words:
            self._finish(row, asked.sampling.allowed_tokens[asked.words.index(row.ids[0])], FinishReason.STOP)
        elif first_stop(text := self._spell(row.ids if end is None else row.ids[:-1]), stop):
            # Only the tokens count up to that with which a stop string is whole.
            spelled = ((count, self._spell(row.ids[:count])) for count in range(before + 1, len(row.ids) + 1))
            count, found = next((count, found) for count, text in spelled if (found := first_stop(text, stop)))
            del row.ids[count:], row.logprobs[count:]
            self._finish(row, found[0], FinishReason.STOP, found[1])
        elif end is not None:
            self._finish(row, text, FinishReason.EOS)
        elif len(row.ids) == asked.limit:
            self._finish(row, text, FinishReason.LENGTH)
        else:
            row.over = False
        return row.over

    def _finish(self, row: _Row, text: str, reason: FinishReason, stop: str | None = None) -> None:
        job = row.job
        logprob = round(math.fsum(row.logprobs), 4)
        job.done[row.index] = Completion(text, reason, len(row.ids), len(job.ids), stop, logprob)
        if len(job.done) == job.asked.n:
            settle(job.future, [job.done[index] for index in range(job.asked.n)])


class _Draw:
    """A logits processor: draws the token of each row and leaves `generate` no other choice."""

    def __init__(self, rows: Sequence[_Row], device: Any) -> None:
        import torch

        self.rows = rows
        self.written = 0  # tokens of this piece
        sampling = rows[0].job.asked.sampling
        self._temperature, self._top_p = sampling.temperature, sampling.top_p
        self._begin = len(rows[0].ids)
        seeds = [derive_seed(row.job.asked.sampling.seed, row.index) for row in rows]
        self._seeds = torch.tensor(seeds, dtype=torch.long, device=device)
        self._words = [(number, row.job.asked.words) for number, row in enumerate(rows) if row.job.asked.words]
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
    import torch

    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for the next batch
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    return int(import_module("psutil").virtual_memory().available)  # it comes with accelerate, and has no types


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
        engine = await worker.do(lambda: HfEngine(config))
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
