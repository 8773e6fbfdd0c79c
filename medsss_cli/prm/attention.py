"""Run a token classifier over packs: attention in which a token sees its own ancestors alone.

A function of ours stands in place of the model's attention (transformers' AttentionInterface): each block of
queries against the gathered keys of its ancestors; sliding windows are kept, in depth. A model that this does not
fit (encoders, state-space models, positions made from the mask) is run answer by answer; a comparison with its
own numbers decides (`open_tree`), not a list of names.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..models import first_line, quiet_loading
from .packing import Ints, Packed, blocks, pack

if TYPE_CHECKING:
    from torch import Tensor

NAME = "medsss_tree"
_NOT_KNOWN = ("softcap", "s_aux", "position_bias", "sinks")  # what some models add to attention and ours has not

# What gathering a key costs and what a call costs, in units of one query that meets one key. Measured on a CPU, flat
# around the optimum; on a GPU a call waits as long as some 200,000 such pairs take.
_COSTS = {"cpu": (64.0, 20_000.0), "cuda": (64.0, 200_000.0)}
_PIECE = 64

# How far a pack may be from single sequences, relative to the largest number of the last layer.
_NEAR = {"float64": 1e-8, "float32": 1e-3, "bfloat16": 0.15, "float16": 0.05}
_LONG_WINDOW = 512  # a longer sliding window is not tried out; that it was asked for is checked


class Batch(NamedTuple):
    """Sequences of token ids as keyword arguments of a model. `places[s]` tells where the tokens of sequence s stand in
    what the model gives, its rows one after the other; `tokens` are computed, padding not counted."""

    inputs: dict[str, Any]
    places: list[Ints]
    tokens: int


def batch(sequences: Sequence[Sequence[int]], *, packed: bool, device: str = "cpu") -> Batch:
    """One pack, for a model that takes it, or a padded row for each sequence (id 0, masked). Tensors are on the CPU,
    made for use on `device`."""
    import torch

    if packed:
        trie = pack(sequences)
        tree = Tree.of(trie, device)
        inputs = {
            "input_ids": torch.from_numpy(trie.ids)[None],
            "position_ids": tree.positions[None],
            # A mask of four dimensions is passed on as it is, so that none is built; `attend` does not look at it.
            "attention_mask": torch.zeros(1, 1, 1, 1),
            "tree": tree,
        }
        return Batch(inputs, trie.paths, len(trie))
    longest = max(map(len, sequences))
    lengths = torch.tensor([[len(ids)] for ids in sequences])
    inputs = {
        "input_ids": torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in sequences]),
        "attention_mask": (torch.arange(longest)[None] < lengths).long(),
    }
    places = [row * longest + np.arange(len(ids)) for row, ids in enumerate(sequences)]
    return Batch(inputs, places, sum(map(len, sequences)))


@dataclass
class Tree:
    """A pack as attention takes it: on a device, with the masks of its blocks made once for all layers.

    Block b has `queries[b]` consecutive queries and `counts[b]` keys; `keys` holds the packed indices of the keys
    of all blocks, one after the other. `windows` collects the sliding windows that layers asked for.
    """

    queries: list[int]
    counts: list[int]
    keys: Tensor
    positions: Tensor
    ends: Tensor
    windows: set[int] = field(default_factory=set)
    _masks: dict[tuple[Any, int | None], list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, packed: Packed, device: str = "cpu", piece: int = _PIECE) -> Tree:
        """`device` is where it will be used, "cpu" or "cuda"; the tensors are on the CPU until `to`. A small `piece`
        cuts into the smallest blocks there are, for tests."""
        import torch

        per_key, per_block = _COSTS.get(device, _COSTS["cuda"]) if piece >= _PIECE else (0.0, 0.0)
        found = blocks(packed, per_key=per_key, per_block=per_block, piece=piece)
        return cls(
            [block.end - block.begin for block in found],
            [len(block.keys) for block in found],
            torch.from_numpy(np.concatenate([block.keys for block in found])),
            torch.from_numpy(packed.positions),
            torch.from_numpy(packed.ends),
        )

    def to(self, device: Any, non_blocking: bool = False) -> Tree:
        """Itself on another device; accelerate moves batches by this."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking) for name in ("keys", "positions", "ends")
        }
        return Tree(self.queries, self.counts, **moved, windows=self.windows)

    def masks(self, dtype: Any, window: int | None) -> list[Tensor]:
        """For each block an additive mask [queries, keys]: 0 where the key is an ancestor at most `window` - 1 before
        the query, or the query itself; else -inf."""
        import torch

        if (made := self._masks.get((dtype, window))) is not None:
            return made
        made = self._masks[dtype, window] = []
        begin = 0
        for queries, keys in zip(self.queries, torch.split(self.keys, self.counts), strict=True):
            query = torch.arange(begin, begin + queries, device=keys.device)[:, None]
            seen = (keys <= query) & (query < self.ends[keys])
            if window is not None:
                seen &= self.positions[query] - self.positions[keys] < window
            mask = torch.zeros(seen.shape, dtype=dtype, device=keys.device)
            made.append(mask.masked_fill_(~seen, -torch.inf))
            begin += queries
        return made


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    tree: Tree | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: query [1, H, N, D], key and value [1, K, N, D] -> [1, N, H, D]. Without a
    `tree` it is transformers' own sdpa. Raises NotImplementedError for attention with parts that it does not know."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if tree is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, sliding_window=sliding_window, **more
        )
    if strange := [name for name in _NOT_KNOWN if more.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(strange)}")
    if sliding_window is not None:
        tree.windows.add(sliding_window)
    functional = torch.nn.functional
    heads, total = query.shape[1], query.shape[2]
    kept = key.shape[1]
    group = heads // kept
    # Rows of all heads side by side: a gathered key is one piece of memory, and its gradient is added row by row.
    rows = [
        torch.split(functional.embedding(tree.keys, part[0].transpose(0, 1).reshape(total, -1)), tree.counts)
        for part in (key, value)
    ]
    # Heads that share their keys stand in one row as further queries, so that no key is copied for them.
    queries = torch.split(query[0].view(kept, group, total, -1), tree.queries, dim=2)
    out = []
    for asked, keys, values, mask in zip(queries, *rows, tree.masks(query.dtype, sliding_window), strict=True):
        count = asked.shape[2]
        mixed = functional.scaled_dot_product_attention(
            asked.reshape(1, kept, group * count, -1),
            keys.view(len(keys), kept, -1).transpose(0, 1)[None],
            values.view(len(values), kept, -1).transpose(0, 1)[None],
            attn_mask=mask.repeat(group, 1) if group > 1 else mask,
            dropout_p=dropout,
            scale=scaling,
        )
        out.append(mixed.view(kept, group, count, -1).permute(2, 0, 1, 3).reshape(count, heads, -1))
    return torch.cat(out)[None], None


def open_tree(model: Any) -> str:
    """Make `model` (not yet wrapped by an adapter) ready for packs. Returns "", or why it takes none; then it is
    left as it was.

    Three short sequences are run one by one and as a pack, and the last layer's numbers are compared, also with
    what plain causal attention makes of the same pack: a model whose numbers hardly depend on the mask would
    agree with anything.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # where there is no tree
    usual, training = model.config._attn_implementation, model.training
    model.eval()
    with quiet_loading():
        try:
            with torch.no_grad():
                why = _why_not(model, usual)
        except (TypeError, ValueError, RuntimeError, NotImplementedError, LookupError, AttributeError) as error:
            why = f"{type(error).__name__}: {first_line(error)}"
        model.set_attn_implementation(usual if why else NAME)
    model.train(training)
    return why


def _why_not(model: Any, usual: str) -> str:
    """What speaks against packs; "" if nothing does."""
    import torch

    config = model.config.get_text_config()
    window = _window(config)
    sequences = _sample(int(getattr(config, "vocab_size", 100)), window)
    packed = pack(sequences)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")

    def run(how: str, **given: Any) -> Tensor:
        model.set_attn_implementation(how)
        moved = {name: value.to(model.device) for name, value in given.items()}
        found: Tensor = model.base_model(**moved, use_cache=False)[0][0]
        return found.double().cpu()

    given, tree = batch(sequences, packed=True).inputs, Tree.of(packed, piece=3).to(model.device)
    ours = run(NAME, **given | {"tree": tree})
    if window is not None and tree.windows != {window}:
        return f"a sliding window of {window} tokens that its attention is not told of"
    alone = [run(usual, input_ids=torch.tensor([sequence])) for sequence in sequences]
    plain = torch.ones(1, len(packed), dtype=torch.long)
    wrong = run(usual, input_ids=given["input_ids"], position_ids=given["position_ids"], attention_mask=plain)
    largest = max(float(rows.abs().max()) for rows in alone) or 1.0
    apart, contrast = (
        max(float((rows[path] - true).abs().max()) for path, true in zip(packed.paths, alone, strict=True)) / largest
        for rows in (ours, wrong)
    )
    if not apart <= _NEAR.get(dtype, 0.0):  # also true of nan
        return f"packed and single sequences differ by {apart:.2g}"
    if apart > contrast / 4:
        return f"packed and single sequences differ by {apart:.2g}, a wrong mask by {contrast:.2g}"
    return ""


def _window(config: Any) -> int | None:
    """The sliding window of a model that has one in use."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not isinstance(window, int) or getattr(config, "use_sliding_window", True) is False:
        return None
    return None if kinds is not None and "sliding_attention" not in kinds else window


def _sample(vocabulary: int, window: int | None) -> list[list[int]]:
    """Three sequences that part twice, longer than a window that is not too long."""
    draw = random.Random(0)
    first, *others = draw.sample(range(vocabulary), 4)  # what follows a branch is never the same

    def ids(begin: int, count: int) -> list[int]:
        return [begin, *(draw.randrange(vocabulary) for _ in range(count - 1))]

    asked = ids(first, 6 + (window if window is not None and window <= _LONG_WINDOW else 0))
    common = asked + ids(others[0], 4)
    return [common + ids(others[0], 3), common + ids(others[1], 5), asked + ids(others[2], 4)]
