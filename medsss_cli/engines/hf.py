"""The engine on transformers: one worker thread owns the model, any number of coroutines await completions.

Completions of all requests share the batch (`decode.Decoder`): one that ends leaves at once, the next one enters at the
next step, and nothing waits for the slowest. A prompt is computed once for its n completions. Models with another cache
than plain full attention (sliding windows, state spaces) are served by `generate.py`, slower and just as right.

What a completion says depends on its prompt, its sampling and its index alone: it draws with random numbers of its own
(`sampling.py`). The logits themselves differ in their last bits with the shape of the batch, as on any engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import EngineError, MedsssError
from ..requests import Completion, FinishReason, Prompt, Sampling
from .base import EngineSpec, Usage, check_request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from .decode import Decoder, PromptState
    from .loading import Loaded

_PATIENCE = 8  # steps that a waiting prompt lets pass for company before it is computed
_SWITCH = 2e-4  # seconds, for sys.setswitchinterval; see HfEngine.start


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way. `todo` lists the completions that have not begun, `done` those that ended, by index."""

    ids: list[int]
    sampling: Sampling
    n: int
    limit: int
    words: list[int]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Completion]]
    todo: list[int] = field(default_factory=list)
    done: dict[int, Completion] = field(default_factory=dict)
    dropped: bool = False


@dataclass(slots=True, eq=False)
class Row:
    """One completion on its way, with its random stream and, once its prompt is computed, its first token."""

    job: Job
    index: int
    random: np.random.Generator
    uniforms: NDArray[Any]
    state: PromptState | None = None
    first: int = -1


class _Slots:
    """What is known of the active rows, as arrays over row numbers, so that a step costs no Python per row."""

    def __init__(self, count: int) -> None:
        import numpy as np

        from .sampling import BLOCK

        self.rows: list[Row] = []
        self.every = np.arange(count)
        self.token = np.zeros(count, dtype=np.int64)
        self.position = np.zeros(count, dtype=np.int64)  # where `token` will stand
        self.step = np.zeros(count, dtype=np.int64)  # tokens written so far
        self.limit = np.zeros(count, dtype=np.int64)
        self.temperature = np.ones(count)
        self.top_p = np.ones(count)
        self.stops = np.zeros(count, dtype=np.int64)  # which line of the enders table
        self.uniforms = np.zeros((count, BLOCK))
        self.out = np.zeros((count, 256), dtype=np.int64)
        self._arrays = ("token", "position", "step", "limit", "temperature", "top_p", "stops", "uniforms", "out")

    def widen(self, length: int) -> None:
        """Room for completions of `length` tokens."""
        import numpy as np

        if length > self.out.shape[1]:
            wider = np.zeros((self.out.shape[0], max(length, 2 * self.out.shape[1])), dtype=np.int64)
            wider[:, : self.out.shape[1]] = self.out
            self.out = wider

    def move(self, source: int, target: int) -> None:
        """Row `target` becomes what row `source` was."""
        for name in self._arrays:
            array = getattr(self, name)
            array[target] = array[source]
        self.rows[target] = self.rows[source]


class HfEngine:
    """See the module. Opened by `open_hf`; `warnings` are for the user, `slots` is how many rows run at once."""

    name = "hf"

    def __init__(self, loaded: Loaded, *, batch_size: int | None = None, max_context: int | None = None) -> None:
        import numpy as np

        from .rendering import end_tokens
        from .text import Detokenizer

        self._loaded = loaded
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.usage = Usage()
        self.warnings = list(loaded.warnings)
        self.context = self._pick_context(max_context)
        self.vocabulary = int(self.model.get_output_embeddings().weight.shape[0])
        self._eos = np.zeros(self.vocabulary, dtype=np.bool_)
        ends = end_tokens(self.tokenizer, getattr(self.model, "generation_config", None), self.model.config)
        self._eos[sorted(id for id in ends if 0 <= id < self.vocabulary)] = True
        self._detokenizer = Detokenizer(self.tokenizer, self.vocabulary)
        self._stop_sets: dict[tuple[str, ...], int] = {(): 0}
        self._enders = np.zeros((1, self.vocabulary), dtype=np.bool_)
        self._forget_generation_defaults()
        self.slots = batch_size or self._pick_rows()
        self.concurrency = max(8, self.slots // 2)
        self._prompt_tokens = 2048 if loaded.device.type == "cpu" else 8192
        self._decoder = self._open_decoder()
        self._active = _Slots(self.slots)
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._quick: deque[Job] = deque()  # jobs of one token: they need no row
        self._ready: deque[Row] = deque()  # prompt computed, first token drawn, no row yet
        self._resolved: list[tuple[Job, MedsssError | None]] = []
        self._patience = 0
        self._drops = threading.Event()
        self._open = False
        self._thread: threading.Thread | None = None
        self._interval = 0.0

    @property
    def continuous(self) -> bool:
        """Whether rows enter and leave at every step; False for models that transformers' own generate serves."""
        return self._decoder is not None

    # Opening

    def _pick_context(self, wanted: int | None) -> int:
        config = self.model.config.get_text_config(decoder=True)
        most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
        if isinstance(rope, dict) and rope.get("rope_type") in ("dynamic", "longrope") and most is not None:
            # These turn all positions of a batch by its longest row: results would depend on the company.
            original = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            if original and original < most and wanted is None:
                self.warnings.append(
                    f"context limited to {original} of {most} tokens: beyond it, {rope['rope_type']} positions make a "
                    "row depend on the others of its batch (--max-context lifts the limit)"
                )
                return int(original)
        if most is None:
            return wanted or 32768
        if wanted is not None and wanted > most:
            self.warnings.append(f"--max-context {wanted} is more than the model was made for ({most})")
        return wanted or int(most)

    def _forget_generation_defaults(self) -> None:
        """A folder's generation_config may ask for penalties and top-k: the sampling of a request says all there is."""
        from .generate import plain_config

        self.model.generation_config = plain_config()

    def _bytes_free(self) -> int:
        import os

        import torch

        if self._loaded.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._loaded.device)[0])
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            return 4 << 30

    def _token_bytes(self) -> int:
        """An upper guess of keys and values per token, before the first forward pass tells."""
        config = self.model.config.get_text_config(decoder=True)
        layers = getattr(config, "num_hidden_layers", 1) or 1
        hidden = getattr(config, "hidden_size", 1) or 1
        heads = getattr(config, "num_attention_heads", 1) or 1
        kept = getattr(config, "num_key_value_heads", heads) or heads
        size = getattr(config, "head_dim", None) or hidden // heads
        return int(2 * layers * kept * size * self._loaded.dtype.itemsize)

    def _pick_rows(self) -> int:
        """How many rows by default. On a CPU more rows stop paying once matrix products are efficient
        (docs/engines.md); on a GPU what half of the free memory holds at 2,048 tokens a row, at most 256."""
        if self._loaded.device.type == "cpu":
            parameters = sum(p.numel() for p in self.model.parameters())
            return 256 if parameters < 4_000_000 else 128 if parameters < 50_000_000 else 32
        row = self._token_bytes() * min(self.context, 2048)
        return max(4, min(256, self._bytes_free() // 2 // row))

    def _open_decoder(self) -> Decoder | None:
        from .decode import Decoder

        free = self._bytes_free()
        self._row_bytes = int(free * (0.8 if self._loaded.device.type == "cuda" else 0.5))
        return Decoder.open(
            self.model,
            rows=self.slots,
            context=self.context,
            store_bytes=min(free // 10, 8 << 30 if self._loaded.device.type == "cuda" else 1 << 30),
        )

    def start(self) -> None:
        """Start the worker thread."""
        self._open = True
        # The worker gives the interpreter lock away at every tensor operation and waits to get it back while other code
        # runs: at the usual 5 ms a step of 200 operations could take a second.
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(min(self._interval, _SWITCH))
        self._thread = threading.Thread(target=self._work, name="medsss-hf", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Stop the worker after the step it is in; whoever still waits gets an EngineError."""
        if not self._open:
            return
        self._open = False
        self._inbox.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        sys.setswitchinterval(self._interval)

    # Asking

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        """n completions of `prompt`. See engines/base.py. Raises EngineError for a prompt that leaves no room in the
        context; `max_tokens` is cut to the room that there is."""
        job = self._job(prompt, sampling, n)
        if n == 0:
            return []
        if not self._open:
            raise EngineError("the engine is closed")
        self._inbox.put(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            job.dropped = True
            self._drops.set()
            raise

    def _job(self, prompt: Prompt, sampling: Sampling, n: int) -> Job:
        from .rendering import first_tokens, render

        check_request(sampling, n)
        ids = render(self.tokenizer, prompt)
        if not ids:
            raise EngineError("the prompt has no tokens")
        if len(ids) >= self.context:
            raise EngineError(
                f"the prompt has {len(ids)} tokens and the context holds {self.context}: no room for an answer",
                hint="--max-context N raises the limit, where the model can take it",
            )
        words = first_tokens(self.tokenizer, prompt, sampling.allowed_tokens) if sampling.allowed_tokens else []
        limit = 1 if words else min(sampling.max_tokens, self.context - len(ids))
        loop = asyncio.get_running_loop()
        return Job(ids, sampling, n, limit, words, loop, loop.create_future(), todo=list(range(n)))

    # The worker

    def _work(self) -> None:
        import torch

        with torch.inference_mode():
            while self._take():
                try:
                    self._drop_cancelled()
                    if self._decoder is None:
                        self._generate_round()
                    else:
                        self._round(self._decoder)
                except Exception as error:  # whatever a model can raise: those who wait must hear of it
                    self._recover(error)
                self._resolve()
        self._fail(self._all_jobs(), EngineError("the engine was closed while the request was running"))
        self._resolve()

    def _take(self) -> bool:
        """Move what came in to the waiting lines; blocks while there is nothing to do. False when the engine closes."""
        idle = not (self._waiting or self._quick or self._ready or self._active.rows)
        while True:
            try:
                job = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if job is None:
                return False
            (self._quick if job.limit == 1 else self._waiting).append(job)
            idle = False

    def _drop_cancelled(self) -> None:
        if not self._drops.is_set():
            return
        self._drops.clear()
        self._waiting = deque(job for job in self._waiting if not job.dropped)
        self._quick = deque(job for job in self._quick if not job.dropped)
        self._ready = deque(row for row in self._ready if not row.job.dropped)
        gone = [number for number, row in enumerate(self._active.rows) if row.job.dropped]
        self._leave(gone)

    def _round(self, decoder: Decoder) -> None:
        """Compute prompts if it is time, let ready rows in, and write one token of every active row."""
        active = self._active
        free = self.slots - len(active.rows) - len(self._ready)
        if self._quick or (self._waiting and free > 0):
            self._patience += 1
            # Prompts are computed in company: a pass over one short prompt costs half as much as one over twenty.
            if not active.rows or free >= max(1, self.slots // 8) or self._patience > _PATIENCE:
                self._patience = 0
                self._prefill(decoder, free)
        while self._ready and len(active.rows) < self.slots:
            self._enter(decoder)
        if active.rows:
            self._step(decoder)

    def _prefill(self, decoder: Decoder, free: int) -> None:
        """Compute waiting prompts up to the token budget, and draw the first token of each of their completions."""
        jobs: list[tuple[int, Job]] = []
        budget = self._prompt_tokens
        for line in (self._quick, self._waiting):
            while line and budget > 0 and (line is self._quick or free > 0):
                job = line.popleft()
                cost = decoder.cost(job.ids)
                if jobs and cost > budget:
                    line.appendleft(job)
                    break
                jobs.append((cost, job))
                budget -= cost
                free -= 0 if line is self._quick else len(job.todo)
        self._computing = [job for _, job in jobs]
        # Alike lengths go together, so that little of a padded batch is padding.
        jobs.sort(key=lambda pair: -pair[0])
        while jobs:
            width = jobs[0][0]
            group = [job for cost, job in jobs if decoder.lean is not None or cost >= 0.6 * width - 8]
            jobs = jobs[len(group) :]
            self._prefill_group(decoder, group)
        self._computing = []

    _computing: Sequence[Job] = ()

    def _prefill_group(self, decoder: Decoder, jobs: Sequence[Job]) -> None:
        prompts: dict[tuple[int, ...], int] = {}
        places = [prompts.setdefault(tuple(job.ids), len(prompts)) for job in jobs]
        states, logits = decoder.prefill([list(ids) for ids in prompts])
        self.usage.prompt_tokens += sum(map(len, prompts))
        rows: list[Row] = []
        sources: list[int] = []
        for job, place in zip(jobs, places, strict=True):
            for index in job.todo:
                rows.append(self._new_row(job, index, states[place]))
                sources.append(place)
            job.todo = []
        for row, token in zip(rows, self._draw_first(rows, logits, sources), strict=True):
            row.first = int(token)
            if not self._ended_at_once(row):
                self._ready.append(row)

    def _new_row(self, job: Job, index: int, state: PromptState | None = None) -> Row:
        from .sampling import BLOCK, generator

        random = generator(job.sampling.seed, index)
        return Row(job, index, random, random.random(min(BLOCK, job.limit)), state)

    def _draw_first(self, rows: Sequence[Row], logits: Tensor, sources: Sequence[int]) -> NDArray[Any]:
        """First tokens of `rows`, whose prompts' logits are the lines `sources` of `logits`: [rows]."""
        import numpy as np

        from .sampling import draw

        temperature = np.array([row.job.sampling.temperature for row in rows], dtype=np.float64)
        top_p = np.array([row.job.sampling.top_p for row in rows], dtype=np.float64)
        uniform = np.array([row.uniforms[0] for row in rows])
        tokens = np.zeros(len(rows), dtype=np.int64)
        free = np.array([number for number, row in enumerate(rows) if not row.job.words], dtype=np.int64)
        source = np.array(sources, dtype=np.int64)
        if len(free):
            tokens[free] = draw(logits[source[free]], temperature[free], top_p[free], uniform[free])
        for number, row in enumerate(rows):
            if row.job.words:
                one = slice(number, number + 1)
                allowed = logits[sources[number]][row.job.words][None]
                tokens[one] = draw(allowed, temperature[one], top_p[one], uniform[one])
        return tokens

    def _ended_at_once(self, row: Row) -> bool:
        """Finish `row` if its first token ends it."""
        job, token = row.job, row.first
        if token < 0:
            self._fail([job], EngineError("the model's logits are not numbers"))
            return True
        if job.dropped or job.future.done():
            return True
        if job.words:
            self._finish(row, [], FinishReason.STOP, tokens=1, text=job.sampling.allowed_tokens[token])
            return True
        return self._check(row, [token], token, 1)

    def _check(self, row: Row, ids: Iterable[int], token: int, count: int) -> bool:
        """Finish `row` if `token`, the last of its `count` tokens `ids`, ends it: end of turn, stop string, length."""
        job = row.job
        written: list[int] | None = None
        if self._eos[token]:
            self._finish(row, [int(id) for id in ids][:-1], FinishReason.EOS, tokens=count)
            return True
        stop = job.sampling.stop
        if stop and self._detokenizer.enders(stop)[token]:
            written = [int(id) for id in ids]
            found = self._detokenizer.find_stop(written, stop)
            if found is not None:
                self._finish(row, written, FinishReason.STOP, tokens=count, text=found[0], stop=found[1])
                return True
        if count >= job.limit:
            self._finish(row, written or [int(id) for id in ids], FinishReason.LENGTH, tokens=count)
            return True
        return False

    def _stop_set(self, stop: tuple[str, ...]) -> int:
        """The line of the enders table for these stop strings."""
        import numpy as np

        number = self._stop_sets.get(stop)
        if number is None:
            number = self._stop_sets[stop] = len(self._stop_sets)
            self._enders = np.concatenate([self._enders, self._detokenizer.enders(stop)[None]])
        return number

    def _enter(self, decoder: Decoder) -> None:
        """Give the next ready rows of one prompt their places in the batch."""
        active = self._active
        state = self._ready[0].state
        assert state is not None
        at: list[int] = []
        length = len(state.ids)
        self._reserve(decoder, length + 1)
        while self._ready and self._ready[0].state is state and len(active.rows) < self.slots:
            row = self._ready.popleft()
            number = len(active.rows)
            active.rows.append(row)
            at.append(number)
            sampling = row.job.sampling
            active.token[number] = row.first
            active.position[number] = length
            active.step[number] = 1
            active.limit[number] = row.job.limit
            active.temperature[number] = sampling.temperature
            active.top_p[number] = sampling.top_p
            active.stops[number] = self._stop_set(sampling.stop)
            active.uniforms[number, : len(row.uniforms)] = row.uniforms
            active.out[number, 0] = row.first
        if at:
            decoder.start(at, state)

    def _reserve(self, decoder: Decoder, length: int) -> None:
        """Room for rows of `length` tokens. Raises MemoryError where the rows would outgrow what they may take."""
        if length <= decoder.capacity:
            return
        if decoder.rows * length * decoder.bytes_per_token() > self._row_bytes and decoder.rows > 1:
            raise MemoryError("the rows' keys and values outgrow their share of the memory")
        decoder.reserve(length)

    def _step(self, decoder: Decoder) -> None:
        from .sampling import BLOCK, draw

        active = self._active
        count = len(active.rows)
        now = slice(count)
        every = active.every[now]
        self._reserve(decoder, int(active.position[now].max()) + 1)
        logits = decoder.step(active.token[now], active.position[now])
        step = active.step[now]
        for number in (step % BLOCK == 0).nonzero()[0]:
            active.uniforms[number] = active.rows[number].random.random(BLOCK)
        uniform = active.uniforms[every, step % BLOCK]
        tokens = draw(logits, active.temperature[now], active.top_p[now], uniform)
        active.widen(int(step.max()) + 1)
        active.out[every, step] = tokens
        active.token[now] = tokens
        active.position[now] += 1
        step += 1
        if tokens.min() < 0:
            self._fail(
                [active.rows[number].job for number in (tokens < 0).nonzero()[0]],
                EngineError("the model's logits are not numbers"),
            )
            self._drop_cancelled()
            return
        look = self._eos[tokens] | (step >= active.limit[now]) | self._enders[active.stops[now], tokens]
        gone = []
        for number in look.nonzero()[0]:
            written = int(step[number])
            ids = active.out[number, :written].tolist()
            if self._check(active.rows[number], ids, int(tokens[number]), written):
                gone.append(int(number))
        self._leave(gone)

    def _leave(self, gone: Sequence[int]) -> None:
        """Take the rows numbered `gone` (ascending) out; the last rows move into the holes."""
        active = self._active
        for number in reversed(gone):
            last = len(active.rows) - 1
            if number != last:
                if self._decoder is not None:
                    self._decoder.move(last, number, int(active.position[last]))
                active.move(last, number)
            active.rows.pop()

    def _finish(
        self,
        row: Row,
        ids: list[int],
        reason: FinishReason,
        *,
        tokens: int,
        text: str | None = None,
        stop: str | None = None,
    ) -> None:
        job = row.job
        if text is None:
            text = self._detokenizer.text(ids)
        job.done[row.index] = Completion(text, reason, tokens, len(job.ids), stop)
        self.usage.completions += 1
        self.usage.tokens += tokens
        if len(job.done) == job.n:
            self.usage.requests += 1
            self._resolved.append((job, None))

    # Other architectures

    def _generate_round(self) -> None:
        """Serve waiting jobs with transformers' own generate, as many completions as there are slots."""
        from .generate import run_batch

        jobs: list[Job] = []
        rows: list[Row] = []
        for line in (self._quick, self._waiting):
            while line and (not rows or len(rows) + len(line[0].todo) <= self.slots):
                job = line.popleft()
                jobs.append(job)
                rows += [self._new_row(job, index) for index in job.todo]
        self._computing = jobs
        for job in jobs:
            self.usage.prompt_tokens += len(job.ids)
        for begin in range(0, len(rows), self.slots):
            run_batch(self, rows[begin : begin + self.slots])
        self._computing = []

    # Faults

    def _all_jobs(self) -> list[Job]:
        """Every job that is not resolved, those under way first."""
        found: dict[int, Job] = {}
        while True:
            try:
                job = self._inbox.get(block=False)
            except queue.Empty:
                break
            if job is not None:
                self._waiting.append(job)
        for job in [*self._in_flight(), *self._quick, *self._waiting]:
            found[id(job)] = job
        self._quick.clear()
        self._waiting.clear()
        self._clear_rows()
        return list(found.values())

    def _in_flight(self) -> list[Job]:
        """Jobs with a prompt or a row under way."""
        jobs = [row.job for row in self._active.rows] + [row.job for row in self._ready] + list(self._computing)
        return list({id(job): job for job in jobs}.values())

    def _clear_rows(self) -> None:
        self._active = _Slots(self.slots)
        self._ready.clear()
        self._computing = ()

    def _recover(self, error: Exception) -> None:
        """After an exception in the worker. Out of memory: halve the batch and begin what was under way again (the
        draws are seeded, so it comes out the same). Anything else: an EngineError to those whose work it was."""
        jobs = self._in_flight()
        rows = len(self._active.rows)
        self._clear_rows()
        if self._decoder is not None:
            self._decoder.clear()
        if _out_of_memory(error) and (self.slots > 1 or self._prompt_tokens > 256):
            self.slots = max(1, min(self.slots, rows or self.slots) // 2)
            self._prompt_tokens = max(256, self._prompt_tokens // 2)
            self.warnings.append(f"out of memory: going on with {self.slots} rows at once")
            if self._decoder is not None:
                self._decoder.resize(self.slots)
            self._clear_rows()
            _empty_cache(self._loaded.device)
            for job in reversed(jobs):
                if not job.dropped and not job.future.done():
                    job.todo = [index for index in range(job.n) if index not in job.done]
                    (self._quick if job.limit == 1 else self._waiting).appendleft(job)
            return
        what = "out of memory, even with one row" if _out_of_memory(error) else f"{type(error).__name__}: {error}"
        self._fail(jobs, EngineError(f"the model failed: {what}"))

    def _fail(self, jobs: Iterable[Job], error: EngineError) -> None:
        for job in jobs:
            if not job.dropped:
                self._resolved.append((job, error))
                job.dropped = True
                self._drops.set()

    def _resolve(self) -> None:
        """Hand results over to the event loops that wait, one call per loop."""
        if not self._resolved:
            return
        by_loop: dict[int, list[tuple[Job, MedsssError | None]]] = {}
        for job, error in self._resolved:
            by_loop.setdefault(id(job.loop), []).append((job, error))
        self._resolved = []
        for batch in by_loop.values():
            with contextlib.suppress(RuntimeError):  # a loop that was closed waits for nothing
                batch[0][0].loop.call_soon_threadsafe(_hand_over, batch)


def _hand_over(batch: Sequence[tuple[Job, MedsssError | None]]) -> None:
    for job, error in batch:
        if job.future.done():
            continue
        if error is None:
            job.future.set_result([job.done[index] for index in range(job.n)])
        else:
            job.future.set_exception(error)


def _out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("allocate memory" in text or "out of memory" in text)


def _empty_cache(device: Any) -> None:
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextlib.asynccontextmanager
async def open_hf(spec: EngineSpec) -> AsyncIterator[HfEngine]:
    """Load the policy of `spec` and serve it until the block ends. Raises UsageError where it cannot be loaded."""

    def load() -> HfEngine:
        from .loading import load_policy

        loaded = load_policy(
            spec.policy,
            adapter=spec.adapter,
            device=spec.device,
            dtype=spec.dtype,
            trust_remote_code=spec.trust_remote_code,
        )
        return HfEngine(loaded, batch_size=spec.batch_size, max_context=spec.max_context)

    engine = await asyncio.to_thread(load)
    engine.start()
    try:
        yield engine
    finally:
        await engine.close()
