"""The engine on transformers' own `generate`: requests that wait are put together by length, one batch at a time.

What a completion says depends on its prompt, its sampling and its index alone: each draws with random numbers of its
own (`sampling.py`). A prompt is computed once for its n completions, all but its last token; then `generate` writes
pieces of `_PIECE` tokens, after which rows that have ended leave the batch. It is right and short, not the fastest:
vLLM is for speed.

Models whose cache cannot be cut by rows (state spaces) get batches of equal prompt lengths, written in one piece.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import EngineError
from ..models import context_length
from ..requests import Completion, derive_seed
from .base import Asked, EngineConfig, LocalEngine, running
from .loading import load_policy, plain_config
from .rendering import Speller, end_tokens, first_stop
from .sampling import draw

if TYPE_CHECKING:
    from torch import Tensor

_PIECE = 16  # tokens between two looks at which rows have ended
_COMPANY = 0.002  # seconds that a batch waits for requests that are about to come
_SWITCH = 2e-4  # seconds, for sys.setswitchinterval
_PROMPT_TOKENS = 1 << 17  # of a batch, so that keys, values and activations fit
_PATIENCE = 1.5  # seconds that the end waits for the model to come to the next token


@dataclass(slots=True, eq=False)
class _Row:
    """One completion on its way: the tokens that are written, and their log-probabilities. `siblings` are the rows of
    its request."""

    asked: Asked
    index: int
    prompt: tuple[int, ...]
    siblings: list[_Row]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    done: Completion | None = None

    @property
    def over(self) -> bool:
        return self.done is not None or self.asked.future.done()


class HfEngine(LocalEngine):
    """See the module. `slots` is how many rows run at once."""

    name = "hf"

    def __init__(self, config: EngineConfig) -> None:
        super().__init__()
        self.model, self.tokenizer = load_policy(config)
        self.context: int = _pick_context(self.model.config, config.max_context, self.warnings)
        vocabulary = int(self.model.get_output_embeddings().weight.shape[0])
        ends = end_tokens(self.tokenizer, self.model.generation_config, self.model.config)
        self.ends = {id for id in ends if 0 <= id < vocabulary}
        # A folder's generation_config may ask for penalties and top-k: the sampling of a request says all there is.
        self.model.generation_config = plain_config()
        self.spell = Speller(self.tokenizer)
        self._cuttable = _cuttable(self.model)
        # On a CPU more rows stop paying once matrix products are efficient; those of large models take much memory.
        millions = sum(each.numel() for each in self.model.parameters()) / 1e6
        on_cpu = next(rows for most, rows in ((4, 256), (50, 128), (1000, 32), (math.inf, 8)) if millions < most)
        on_gpu = 256 if millions < 1000 else 64
        self.slots = config.batch_size or (on_gpu if self.model.device.type == "cuda" else on_cpu)
        self.concurrency = max(8, self.slots // 2)

    def serve(self) -> None:
        # This thread gives the interpreter lock away at every tensor operation and waits to get it back while other
        # code runs: at the usual 5 ms a step of 200 operations could take a second.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(min(interval, _SWITCH))
        waiting: list[_Row] = []
        while not self.closed:
            waiting = [row for row in waiting if not row.over]
            for asked in self.arrived(wait=not waiting, company=_COMPANY):
                rows: list[_Row] = []
                rows += [_Row(asked, index, tuple(asked.ids), rows) for index in range(asked.n)]
                waiting += rows
            if waiting and not self.closed:
                self._run(self._batch(waiting))
        sys.setswitchinterval(interval)

    def _batch(self, waiting: Sequence[_Row]) -> list[_Row]:
        """Rows of equal temperature and top-p, prompts of like length, the longest waiting among them, as many as fit.
        Choices of one token go before all else, since much waits for them."""
        first = min(waiting, key=lambda row: row.asked.limit > 1)

        def kind(row: _Row) -> tuple[object, ...]:
            sampling, length = row.asked.sampling, 0 if self._cuttable else len(row.prompt)
            return sampling.temperature, sampling.top_p, row.asked.limit == 1, length

        alike = [row for row in waiting if kind(row) == kind(first)]
        alike.sort(key=lambda row: (len(row.prompt), row.prompt))
        begin = max(0, min(alike.index(first), len(alike) - self.slots))
        batch = alike[begin : begin + self.slots]
        while len(batch) > 1 and len(batch) * max(len(row.prompt) for row in batch) > _PROMPT_TOKENS:
            batch.remove(batch[0] if batch[-1] is first else batch[-1])
        return batch

    def _run(self, rows: list[_Row]) -> None:
        """Finish all `rows`. Where memory runs out, one half after the other, from the beginning: the draws are seeded,
        so they come out the same."""
        import torch

        try:
            with torch.inference_mode():
                self._generate(rows)
            return
        except Exception as error:  # whatever a model can raise: those who wait must hear of it
            rows = [row for row in rows if not row.over]
            if len(rows) < 2 or "memory" not in f"{type(error)} {error}".lower():
                for row in rows:
                    row.asked.fail(f"the model failed: {type(error).__name__}: {error}")
                return
        # Only here the error is gone, and with it what it held of the memory.
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        for row in rows:
            row.ids, row.logprobs = [], []
        self._run(rows[: len(rows) // 2])
        self._run(rows[len(rows) // 2 :])

    def _generate(self, rows: list[_Row]) -> None:
        import torch
        from transformers import DynamicCache

        device = self.model.device
        places: dict[tuple[int, ...], int] = {}
        which = torch.tensor([places.setdefault(row.prompt, len(places)) for row in rows], device=device)
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
            most = max(row.asked.limit - len(row.ids) for row in rows)
            drawing = _Draw(self, rows)
            written = self._generated(ids, mask, cache, min(most, _PIECE) if cache else most, drawing)
            new = written[:, ids.shape[1] :]
            for row, tokens, logprobs in zip(
                rows, new.tolist(), torch.stack(drawing.logprobs, 1).tolist(), strict=True
            ):
                self._add(row, tokens, logprobs)
            ids, mask = written, torch.cat([mask, torch.ones_like(new)], 1)
            stay = [number for number, row in enumerate(rows) if not row.over]
            if len(stay) < len(rows):
                rows = [rows[number] for number in stay]
                kept = torch.tensor(stay, dtype=torch.long, device=device)
                ids, mask = ids[kept], mask[kept]
                if cache and rows:
                    cache.batch_select_indices(kept)

    def _generated(self, ids: Tensor, mask: Tensor, cache: Any, most: int, drawing: _Draw | None = None) -> Tensor:
        """`ids` with at most `most` more tokens."""
        settings: dict[str, Any] = {"max_new_tokens": most, "do_sample": False, "pad_token_id": 0}
        return self.model.generate(  # type: ignore[no-any-return]
            ids,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=plain_config(**settings, eos_token_id=sorted(self.ends) if drawing else None),
            logits_processor=[drawing] if drawing else [],
        )

    def _add(self, row: _Row, new: Sequence[int], logprobs: Sequence[float]) -> None:
        """Add a piece to a row, and finish the row if that ends it."""
        asked, before = row.asked, len(row.ids)
        for id in new[: asked.limit - before]:
            row.ids.append(id)
            if id in self.ends:
                break
        row.logprobs += logprobs[: len(row.ids) - before]
        if not all(map(math.isfinite, row.logprobs)):
            asked.fail("the model's logits are not numbers")
            return
        text, reason, stop = self.read(asked, row.ids)
        if stop is not None:  # only the tokens count up to that with which a stop string is whole
            while first_stop(self.spell(row.ids[:-1]), asked.sampling.stop):
                row.ids.pop()
            text, reason, stop = self.read(asked, row.ids)
        if reason is None:
            return
        logprob = math.fsum(row.logprobs[: len(row.ids)])
        row.done = Completion(text, reason, len(row.ids), len(row.prompt), stop, round(logprob, 4))
        done = [each.done for each in row.siblings if each.done]
        if len(done) == asked.n:
            asked.settle(done)


class _Draw:
    """A logits processor: draws the token of each row and leaves `generate` no other choice."""

    def __init__(self, engine: HfEngine, rows: Sequence[_Row]) -> None:
        import torch

        self.engine, self.rows = engine, rows
        self.written = len(rows[0].ids)
        self._sampling = rows[0].asked.sampling
        seeds = [derive_seed(row.asked.sampling.seed, row.index) for row in rows]
        self._seeds = torch.tensor(seeds, dtype=torch.long, device=engine.model.device)
        self._words = [(number, row.asked.words) for number, row in enumerate(rows) if row.asked.words]
        self.logprobs: list[Tensor] = []

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        if self.engine.closed:
            raise EngineError("the engine is closed")  # nobody waits for the rest of the piece
        free = scores.clone() if self._words else scores
        for number, words in self._words:
            free[number] = -torch.inf
            free[number, words] = scores[number, words]
        tokens = draw(free, self._sampling.temperature, self._sampling.top_p, self._seeds, self.written)[:, None]
        self.logprobs.append((scores.gather(1, tokens) - scores.logsumexp(-1, keepdim=True)).squeeze(1))
        self.written += 1
        return free.fill_(-torch.inf).scatter_(1, tokens, 0)


# What is known of a model


def _cuttable(model: Any) -> bool:
    """Whether rows may be padded on the left and leave: all layers of the model's cache keep keys and values."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    if getattr(model, "_is_stateful", False):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _pick_context(config: Any, wanted: int | None, warnings: list[str]) -> int:
    """The longest prompt with its completion. Positions that depend on the longest row of a batch would make results
    depend on it, too: there the context ends where that begins, unless another one is wanted."""
    most = context_length(config)
    if wanted is not None and most is not None and wanted > most:
        warnings.append(f"--max-context {wanted} is more than the model was made for ({most})")
    rope = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        most = rope.get("original_max_position_embeddings") or most
    return wanted or most or 32768


def open_hf(config: EngineConfig) -> contextlib.AbstractAsyncContextManager[HfEngine]:
    """Load the policy of `config` and serve it until the block ends. Raises UsageError where it cannot be loaded."""
    return running(lambda: HfEngine(config), patience=_PATIENCE)
