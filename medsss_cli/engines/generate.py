"""Completions from transformers' own `generate`, for models whose cache `decode.Decoder` does not know.

The model does everything its own way (its cache class, positions, masks); a logits processor draws the tokens with the
engine's sampler and each completion's own random numbers, and a stopping criterion ends the batch, when its last row
has ended, which is what makes it slower. Prompts of unequal length are padded on the left where all layers are
attention, full or sliding; a state-space layer would see the padding, so there only equal lengths go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .hf import HfEngine, Row


def run_batch(engine: HfEngine, rows: Sequence[Row]) -> None:
    """Finish all `rows`; raises what the model raises."""
    if pads(engine.model):
        _generate(engine, rows)
        return
    by_length: dict[int, list[Row]] = {}
    for row in rows:
        by_length.setdefault(len(row.job.ids), []).append(row)
    for group in by_length.values():
        _generate(engine, group)


def pads(model: Any) -> bool:
    """Whether padding on the left leaves the model's answers alone: all its layers keep keys and values."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    if getattr(model, "_is_stateful", False):
        return False
    try:
        layers = DynamicCache(config=model.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _generate(engine: HfEngine, rows: Sequence[Row]) -> None:
    import numpy as np
    import torch
    from transformers import LogitsProcessorList, StoppingCriteriaList

    from .sampling import BLOCK, draw

    device = engine.model.device
    width = max(len(row.job.ids) for row in rows)
    prompts = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        prompts[number, width - len(row.job.ids) :] = row.job.ids
        mask[number, width - len(row.job.ids) :] = 1
    temperature = np.array([row.job.sampling.temperature for row in rows], dtype=np.float64)
    top_p = np.array([row.job.sampling.top_p for row in rows], dtype=np.float64)
    written: list[list[int]] = [[] for _ in rows]
    ended = np.zeros(len(rows), dtype=np.bool_)

    def choose(_: Tensor, scores: Tensor) -> Tensor:
        step = max(map(len, written))
        if step == 0:
            tokens = engine._draw_first(rows, scores, range(len(rows)))
        else:
            if step % BLOCK == 0:
                for row in rows:
                    row.uniforms = row.random.random(BLOCK)
            # A row that has ended may hold fewer numbers than this step asks for; what it draws is not looked at.
            at = step % BLOCK
            uniform = np.array([row.uniforms[at] if at < len(row.uniforms) else 0.0 for row in rows])
            tokens = draw(scores, temperature, top_p, uniform)
        for number, row in enumerate(rows):
            if ended[number]:
                written[number].append(0)
                continue
            token = int(tokens[number])
            written[number].append(token)
            row.first = token
            if step == 0:
                ended[number] = engine._ended_at_once(row)
            elif token < 0:
                raise FloatingPointError("the model's logits are not numbers")
            else:
                ended[number] = row.job.dropped or engine._check(row, written[number], token, step + 1)
        chosen = torch.from_numpy(tokens.clip(min=0)).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def stop(ids: Tensor, _: Any, **__: Any) -> Tensor:
        return torch.full((ids.shape[0],), bool(ended.all()), device=ids.device)

    engine.model.generate(
        torch.from_numpy(prompts).to(device),
        attention_mask=torch.from_numpy(mask).to(device),
        generation_config=plain_config(
            max_new_tokens=max(row.job.limit for row in rows), do_sample=False, pad_token_id=0
        ),
        logits_processor=LogitsProcessorList([choose]),
        stopping_criteria=StoppingCriteriaList([stop]),
    )


def plain_config(**settings: Any) -> Any:
    """A GenerationConfig of these settings alone."""
    import transformers

    make: Any = transformers.GenerationConfig
    return make(**settings)
