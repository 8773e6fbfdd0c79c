"""Open a reward model and score the steps of answers with it. What the scores select is for `selection` to say.

The answers of a problem run as packs, in which every token that they share is computed once, or as padded batches
where the model takes no packs; both under a budget of tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EngineError, UsageError
from ..models import RIGHT, Dtype, context_length, first_line, load_tokenizer, quiet_loading
from ..records import Problem
from .attention import batch, open_tree
from .config import Format, PrmConfig
from .layout import Encoded
from .loading import find_format, load, local_folder
from .others import check_tokens, lay_out
from .packing import split

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
    numbers = config.prm_dtype
    if numbers is Dtype.AUTO:
        numbers = Dtype.FLOAT32 if device == "cpu" else Dtype.BFLOAT16
    with quiet_loading():
        path = local_folder(config.prm or "")
        chat = format not in {Format.MATH_SHEPHERD, Format.SKYWORK, Format.TRL}
        tokenizer = load_tokenizer(path, chat=chat)
        check_tokens(format, tokenizer)
        model, head = load(path, format, tokenizer, getattr(torch, numbers))
    model = model.to(device).eval()
    if head is not None:
        head = head.to(device).eval()
    return Scorer(model, head, tokenizer, format, config.batch_tokens, context_length(model.config), open_tree(model))


@dataclass
class Scorer:
    """An open reward model. `score` is for one thread at a time; `values` waits for a thread of its own.

    `head` makes two logits of the model's last layer, None where the model gives them. `batch_tokens` bounds the tokens
    of one forward and is halved when memory runs out. `unpacked` says why the model takes no packs, "" where it does.
    `scored` answers were scored, `too_long` had more tokens than the model's `context`; `tokens` went through the model
    (padding not counted), `path_tokens` would have without packs.
    """

    model: Any
    head: Any
    tokenizer: PreTrainedTokenizerBase
    format: Format
    batch_tokens: int
    context: int | None
    unpacked: str
    scored: int = 0
    too_long: int = 0
    tokens: int = 0
    path_tokens: int = 0
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "prm"))

    def score(self, problem: Problem, answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """P(right) in [0, 1] of every step of each answer: [answer][step], step 0 left out.

        An answer is its bare steps, step 0 first (`steps.answer_steps`). One without steps gets []; so does one
        that is longer than the context with its question: half an answer must not be scored as a whole one.
        Raises EngineError where one sequence alone is too much for the device's memory.
        """
        import torch

        rows = [lay_out(self.format, self.tokenizer, problem, steps) if steps else Encoded([], []) for steps in answers]
        fits = [self.context is None or len(row.ids) <= self.context for row in rows]
        self.too_long += fits.count(False)
        self.scored += fits.count(True)
        scores: list[list[float]] = [[] for _ in rows]
        todo = [index for index, row in enumerate(rows) if row.readouts and fits[index]]
        while todo:
            now = self._next(rows, todo)
            try:
                found, what = self._forward([rows[index] for index in now]), ""
            except torch.OutOfMemoryError as error:
                found, what = None, first_line(error)
            # Outside the handler: there the error still holds the tensors that the failed pass has made.
            if found is None:
                if len(now) == 1:
                    raise EngineError(
                        f"memory ran out with one sequence of {len(rows[now[0]].ids)} tokens: {what}",
                        hint="give --prm-dtype bfloat16, or another --prm-device",
                    )
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                self.batch_tokens //= 2
                continue
            for index, values in zip(now, found, strict=True):
                scores[index] = values
            todo = [index for index in todo if index not in now]
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
        what = "1 candidate is" if self.too_long == 1 else f"{self.too_long} candidates are"
        return [f"{what} longer than the reward model's context: no step scores, score 0"] if self.too_long else []

    def _next(self, rows: Sequence[Encoded], todo: Sequence[int]) -> list[int]:
        """Some of the rows, by number, that fit the budget together; a row over the budget goes alone."""
        if not self.unpacked:
            return [todo[member] for member in split([rows[row].ids for row in todo], self.batch_tokens)[0].members]
        longest_first = sorted(todo, key=lambda row: -len(rows[row].ids))
        return longest_first[: max(1, self.batch_tokens // len(rows[longest_first[0]].ids))]

    def _forward(self, rows: Sequence[Encoded]) -> list[list[float]]:
        """P(right) at the read-outs of rows of token ids, [row][read-out], by one forward of the model."""
        import torch

        device = self.model.device
        made = batch([row.ids for row in rows], packed=not self.unpacked, device=device.type)
        places = np.concatenate([where[row.readouts] for where, row in zip(made.places, rows, strict=True)])
        with torch.inference_mode():
            last = self.model(**{name: value.to(device) for name, value in made.inputs.items()}, use_cache=False)[0]
            last = last.flatten(0, 1)[torch.from_numpy(places).to(device)]
            logits = last if self.head is None else self.head(last.to(next(self.head.parameters()).dtype))
            right = logits.float().softmax(-1)[:, RIGHT].cpu()
        self.tokens += made.tokens
        self.path_tokens += sum(len(row.ids) for row in rows)
        return [part.tolist() for part in right.split([len(row.readouts) for row in rows])]
