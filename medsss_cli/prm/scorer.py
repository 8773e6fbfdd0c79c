"""Open a reward model and score the steps of answers with it. What the scores select is for `selection` to say.

The answers of a problem run as packs, in which every token that they share is computed once, or as padded batches
where the model takes no packs; both under a budget of tokens.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EngineError, UsageError
from ..models import RIGHT, Dtype, context_length, first_line, load_tokenizer, quiet_loading
from ..records import Problem
from .attention import open_tree, pack_inputs, padded_inputs
from .config import Format, PrmConfig
from .layout import Encoded
from .loading import find_format, load, local_folder
from .others import asked, check_tokens, lay_out
from .packing import pack, split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def open_prm(config: PrmConfig) -> Scorer:
    """The reward model that `config` names: its format is found, its tokenizer checked, its weights loaded, and packs
    are tried out. Raises UsageError where there is none, or it cannot be read."""
    import torch

    format = find_format(config)
    device = config.prm_device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"no GPU is visible for the PRM (--prm-device {device})")
    numbers = {Dtype.FLOAT32: torch.float32, Dtype.BFLOAT16: torch.bfloat16, Dtype.FLOAT16: torch.float16}
    dtype = numbers.get(config.prm_dtype, torch.float32 if device == "cpu" else torch.bfloat16)
    with quiet_loading():
        path = local_folder(config.prm or "")
        chat = format not in {Format.MATH_SHEPHERD, Format.SKYWORK, Format.TRL}
        tokenizer = load_tokenizer(path, chat=chat)
        check_tokens(format, tokenizer)
        model, head = load(path, format, tokenizer, dtype)
    head = head if head is None else head.to(device).eval()
    return Scorer(model.to(device).eval(), tokenizer, format, head=head, batch_tokens=config.batch_tokens)


class Scorer:
    """An open reward model. `score` is for one thread at a time; `values` waits for a thread of its own.

    `batch_tokens` bounds the tokens of one forward and is halved when memory runs out. `unpacked` says why the
    model takes no packs, "" where it does. `scored` answers were scored, `too_long` had more tokens than the
    model's `context`; `tokens` went through the model (padding not counted), `path_tokens` would have without
    packs.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        format: Format = Format.MEDSSS,
        *,
        head: Any = None,
        batch_tokens: int = PrmConfig().batch_tokens,
    ) -> None:
        self.model, self.tokenizer, self.format, self.head = model, tokenizer, format, head
        self.batch_tokens = batch_tokens
        self.context = context_length(model.config)
        self.unpacked = open_tree(model)
        self.scored = self.too_long = self.tokens = self.path_tokens = 0
        self._thread = ThreadPoolExecutor(1, "prm")

    def score(self, problem: Problem, answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """P(right) in [0, 1] of every step of each answer: [answer][step], step 0 left out.

        An answer is its bare steps, step 0 first (`steps.answer_steps`). One without steps gets []; so does one
        that is longer than the context with its question: half an answer must not be scored as a whole one.
        Raises EngineError where one sequence alone is too much for the device's memory.
        """
        given = asked(self.format, problem)
        rows = [lay_out(self.format, self.tokenizer, given, steps) if steps else Encoded([], []) for steps in answers]
        fits = [self.context is None or len(row.ids) <= self.context for row in rows]
        self.too_long += fits.count(False)
        self.scored += fits.count(True)
        todo = [index for index, row in enumerate(rows) if row.readouts and fits[index]]
        scores: list[list[float]] = [[] for _ in rows]
        for index, values in zip(todo, self._run([rows[index] for index in todo]), strict=True):
            scores[index] = values
        return scores

    async def values(self, problem: Problem, answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """`score`, while the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.score, problem, answers)

    def notes(self) -> list[str]:
        """What it has to tell at the end of a run, a line each."""
        lines = [f"scored {self.scored} candidates, {self.tokens} tokens of {self.path_tokens}"]
        if self.unpacked:
            lines.append(f"the reward model takes no packs, so what answers share is computed again: {self.unpacked}")
        return lines

    def warnings(self) -> list[str]:
        """What must not be passed over, a line each."""
        if not self.too_long:
            return []
        what = "1 candidate is" if self.too_long == 1 else f"{self.too_long} candidates are"
        return [f"{what} longer than the reward model's context: no step scores, score 0"]

    def _run(self, rows: Sequence[Encoded]) -> list[list[float]]:
        """Scores at the read-outs of rows, [row][read-out], in batches under the budget."""
        import torch

        scores: list[list[float]] = [[] for _ in rows]
        pending = deque(self._batches(rows, range(len(rows))))
        while pending:
            batch = pending.popleft()
            chosen = [rows[index] for index in batch]
            try:
                found = self._forward(chosen)
            except torch.OutOfMemoryError as error:
                what, found = first_line(error), None
            # Outside the handler: there the error still holds the tensors that the failed pass has made.
            if found is None:
                if len(batch) == 1:
                    raise EngineError(
                        f"memory ran out with one sequence of {len(chosen[0].ids)} tokens: {what}",
                        hint="give --prm-dtype bfloat16, or another --prm-device",
                    )
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                self.batch_tokens //= 2
                left = [*batch, *(index for other in pending for index in other)]
                pending = deque(self._batches(rows, left))
                continue
            self.path_tokens += sum(len(row.ids) for row in chosen)
            for index, values in zip(batch, found, strict=True):
                scores[index] = values
        return scores

    def _batches(self, rows: Sequence[Encoded], chosen: Sequence[int]) -> list[list[int]]:
        """The chosen rows, by number, in batches that fit the budget; a row over the budget goes alone."""
        if not self.unpacked:
            parts = split([rows[index].ids for index in chosen], self.batch_tokens)
            return [[chosen[member] for member in part.members] for part in parts]
        found: list[list[int]] = []
        longest = 0
        for index in sorted(chosen, key=lambda index: -len(rows[index].ids)):
            if not found or (len(found[-1]) + 1) * longest > self.batch_tokens:
                found.append([])
                longest = len(rows[index].ids)
            found[-1].append(index)
        return found

    def _forward(self, rows: Sequence[Encoded]) -> list[list[float]]:
        """P(right) at the read-outs of rows of token ids, [row][read-out], by one forward of the model: over one pack,
        or over a padded batch of a row for each."""
        import torch

        counts = [len(row.readouts) for row in rows]
        if self.unpacked:
            given = padded_inputs([row.ids for row in rows])
            at = np.repeat(np.arange(len(rows)), counts), np.concatenate([row.readouts for row in rows])
            tokens = sum(len(row.ids) for row in rows)
        else:
            packed = pack([row.ids for row in rows])
            given = pack_inputs(packed, self.model.device.type)
            places = np.concatenate([path[row.readouts] for path, row in zip(packed.paths, rows, strict=True)])
            at = np.zeros_like(places), places
            tokens = len(packed)
        device = self.model.device
        chosen = tuple(torch.from_numpy(index).to(device) for index in at)
        with torch.inference_mode():
            last = self.model(**{name: value.to(device) for name, value in given.items()}, use_cache=False)[0][chosen]
            logits = last if self.head is None else self.head(last.to(next(self.head.parameters()).dtype))
            right = logits.float().softmax(-1)[:, RIGHT].cpu()
        self.tokens += tokens
        return [part.tolist() for part in right.split(counts)]
