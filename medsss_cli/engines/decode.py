"""The arithmetic of continuous batching over a transformers model: prefill prompts, keep rows' keys and values, step.

A row is one completion under way. The active rows are the first B of a preallocated block per layer
([rows, heads, capacity, head size]); a step writes each row's new key and value at that row's own position and hands
the model the slice up to the longest row, with a mask. Nothing is concatenated and nothing is copied between steps.

Prompts are computed once each and kept: their keys and values are copied to every row that continues them, and a later
prompt that begins with the same tokens (the next node of a tree) computes only its new part.

Llama and its kin run through `lean.py`, all others through the model's own forward pass.

This is right for models whose layers are all plain full attention and which take explicit positions and a 4D mask.
`Decoder.open` tries it against the model's own forward pass and returns None where the two differ; `generate.py` serves
the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from .lean import Lean

ATTENTION = "medsss_grouped"
_BLOCK = 16  # tokens: how finely shared beginnings of prompts are looked up
_MIN_CAPACITY = 128


@dataclass(slots=True, eq=False)
class PromptState:
    """A computed prompt: its ids, and per layer its keys and values [heads, length, head size]."""

    ids: list[int]
    keys: list[Tensor]
    values: list[Tensor]
    blocks: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the keys and values."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of one layer: heads that keep keys and values, and the sizes of a key and of a value."""

    heads: int
    key: int
    value: int


class _Layer:
    """What transformers' Cache expects of a layer, as far as a forward pass with explicit positions and mask asks."""

    is_sliding = False
    is_compileable = False
    is_croppable = False
    supports_early_init = False
    is_initialized = True

    def __init__(self) -> None:
        self.seen = 0

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        return -1


class _PromptLayer(_Layer):
    """One prefill: keeps the new keys and values, and shows the model those of the known beginnings before them."""

    def __init__(self, known: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        self.known = known
        self.seen = 0 if known is None else int(known[0].shape[2])
        self.fresh: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        import torch

        self.fresh = (keys, values)
        if self.known is None:
            return keys, values
        return torch.cat([self.known[0], keys], dim=2), torch.cat([self.known[1], values], dim=2)


class _RowLayer(_Layer):
    """The rows' keys and values of one layer: written at `where`, shown up to `shown` = (rows, length)."""

    def __init__(self, shape: _Shape, rows: int, capacity: int, dtype: Any, device: Any) -> None:
        import torch

        super().__init__()
        self.shape = shape
        # Zeros, not garbage: what the mask hides must still be a number.
        self.keys = torch.zeros(rows, shape.heads, capacity, shape.key, dtype=dtype, device=device)
        self.values = torch.zeros(rows, shape.heads, capacity, shape.value, dtype=dtype, device=device)
        self._flat_keys = self.keys.view(-1, shape.key)
        self._flat_values = self.values.view(-1, shape.value)
        self.where: Tensor | None = None
        self.shown = (0, 0)

    def write(self, where: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put one key and value per row and head at the places `where` [rows * heads]."""
        self._flat_keys.index_copy_(0, where, keys.reshape(-1, self.shape.key))
        self._flat_values.index_copy_(0, where, values.reshape(-1, self.shape.value))

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        rows, length = self.shown
        assert self.where is not None
        self.write(self.where, keys, values)
        return self.keys[:rows, :, :length], self.values[:rows, :, :length]


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **rest: Any,
) -> tuple[Tensor, None]:
    """transformers' sdpa attention, without copying keys and values once per query head in single-token steps.

    Shapes: query [B, Q, 1, D]; key, value [B, K, L, D] with Q a multiple of K. The Q / K query heads that share a key
    head are given to sdpa as if they were so many query positions of it.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, length, size = query.shape
    kept = key.shape[1]
    special = rest.get("position_bias") is not None or rest.get("cache") is not None
    if length != 1 or heads == kept or attention_mask is None or attention_mask.shape[1] != 1 or special:
        out: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **rest
        )
        return out
    mixed = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, kept, heads // kept, size), key, value, attn_mask=attention_mask, scale=scaling
    )
    return mixed.reshape(rows, 1, heads, value.shape[-1]), None


class Decoder:
    """Rows of one model. `rows` is how many there may be; their capacity in tokens grows by doubling."""

    def __init__(self, model: Any, shapes: list[_Shape], rows: int, context: int, store_bytes: int) -> None:
        import torch

        self._torch = torch
        self.model = model
        self.shapes = shapes
        self.rows = rows
        self.context = context
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._hidden = float(torch.finfo(self.dtype).min)
        self.capacity = 0
        self._layers: list[_RowLayer] = []
        self._cache: Any = None
        self.lean: Lean | None = None
        self._mask: Tensor | None = None
        self._store: OrderedDict[int, PromptState] = OrderedDict()  # by id(): the same prompt is found by its blocks
        self._by_block: dict[int, PromptState] = {}
        self._store_bytes = store_bytes
        self._stored = 0
        heads = sorted({shape.heads for shape in shapes})
        self._heads = {count: torch.arange(count, device=self.device) for count in heads}
        self._row_numbers = torch.arange(rows, device=self.device)

    @classmethod
    def open(cls, model: Any, *, rows: int, context: int, store_bytes: int) -> Decoder | None:
        """A decoder for `model`; None where its layers are not plain full attention or a trial gives other logits."""
        import torch
        from transformers import AttentionInterface
        from transformers.cache_utils import DynamicCache, DynamicLayer

        from .lean import Lean

        try:
            if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers):
                return None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
        if getattr(model, "_is_stateful", False) or model.config.is_encoder_decoder:
            return None
        used = getattr(model.config, "_attn_implementation", None)
        if used not in ("sdpa", "eager"):
            return None
        device = model.device
        with torch.inference_mode():
            vocabulary = model.get_input_embeddings().weight.shape[0]
            ids = torch.randint(vocabulary, (2, 11), generator=torch.Generator().manual_seed(0)).to(device)
            cache: Any = DynamicCache(config=model.config)
            try:
                model(input_ids=ids[:, :9], past_key_values=cache, use_cache=True)
                own = [
                    model(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits[:, -1]
                    for i in (9, 10)
                ]
                shapes = [
                    _Shape(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in cache.layers
                ]
            except (AttributeError, TypeError, ValueError, IndexError):
                return None
            AttentionInterface.register(ATTENTION, grouped_attention)
            for attention in ("lean", ATTENTION, used) if used == "sdpa" else (used,):
                try:
                    decoder = cls(model, shapes, rows, context, store_bytes)
                    if attention == "lean":
                        decoder.lean = Lean.of(model)
                        if decoder.lean is None:
                            continue
                    else:
                        model.set_attn_implementation(attention)
                    if decoder._agrees(ids.tolist(), own):
                        decoder.clear()
                        return decoder
                except torch.OutOfMemoryError:
                    raise
                except (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError):
                    pass
            model.set_attn_implementation(used)
        return None

    def _agrees(self, ids: list[list[int]], own: list[Tensor]) -> bool:
        """Whether prompts of 6 and 9 tokens, the second on the stored beginning of a third, and steps to 11 tokens give
        the logits that the model's own cache gives."""
        import numpy as np

        torch = self._torch
        first, second = ids
        first_state = self.prefill([first[:8]])[0][0]
        # A shared beginning shorter than a block is not looked up, so it is put in by hand.
        second_state = self._forward_prompts([(second[:6], None, 0)])[0][0]
        states, _ = self._forward_prompts([(first[:9], first_state, 5), (second[:9], second_state, 6)])
        self.reserve(16)
        for row, state in enumerate(states):
            self.start([row], state)
        tolerance = 2e-3 if self.dtype == torch.float32 else 0.08
        for at, expected in zip((9, 10), own, strict=True):
            tokens = np.array([first[at], second[at]])
            got = self.step(tokens, np.array([at, at]))
            gap = (got.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-9)
            if not bool(gap <= tolerance):
                return False
        return True

    # Prompts

    def lookup(self, ids: list[int]) -> tuple[PromptState | None, int]:
        """The stored prompt with the longest common beginning, and its length in tokens (0 below one block)."""
        found = None
        for key in _block_keys(ids):
            state = self._by_block.get(key)
            if state is None:
                break
            found = state
        if found is None:
            return None, 0
        common = 0
        for ours, theirs in zip(ids, found.ids, strict=False):
            if ours != theirs:
                break
            common += 1
        if id(found) in self._store:
            self._store.move_to_end(id(found))
        return found, common

    def prefill(self, prompts: Sequence[list[int]]) -> tuple[list[PromptState], Tensor]:
        """Compute `prompts` in one padded pass and store them; their last tokens' logits are [prompts, vocabulary]."""
        plans = []
        for ids in prompts:
            state, common = self.lookup(ids)
            # The last token is always computed: its logits are what the caller wants.
            plans.append((ids, state, min(common, len(ids) - 1)))
        states, logits = self._forward_prompts(plans)
        for place, (ids, known, common) in enumerate(plans):
            if known is not None and common == len(ids) - 1 and known.ids == ids:
                states[place] = known  # the very prompt again (rollouts after a step)
            else:
                self._remember(states[place])
        return states, logits

    def cost(self, ids: list[int]) -> int:
        """How many tokens of `ids` a prefill would compute now."""
        return max(len(ids) - self.lookup(ids)[1], 1)

    def _forward_prompts(
        self, plans: Sequence[tuple[list[int], PromptState | None, int]]
    ) -> tuple[list[PromptState], Tensor]:
        """The pass over (ids, a state, how many of its first tokens to take over).

        The new tokens of all prompts are padded on the left to one width, so that every last token stands in the last
        column; the known beginnings are padded on the right in front of them. Queries [R, new], keys [R, known + new].
        """
        import numpy as np
        from transformers.cache_utils import Cache

        if self.lean is not None:
            return self._pack_prompts(self.lean, plans)
        torch = self._torch
        count = len(plans)
        known = max(common for _, _, common in plans)
        new = max(len(ids) - common for ids, _, common in plans)
        tokens = np.zeros((count, new), dtype=np.int64)
        positions = np.zeros((count, new), dtype=np.int64)
        starts = np.zeros((count, 1, 1), dtype=np.int64)
        commons = np.zeros((count, 1, 1), dtype=np.int64)
        for row, (ids, _, common) in enumerate(plans):
            pad = new - (len(ids) - common)
            tokens[row, pad:] = ids[common:]
            positions[row, pad:] = np.arange(common, len(ids))
            starts[row], commons[row] = pad, common
        query = np.arange(new)[:, None]
        column = np.arange(new)[None, :]
        # Padding attends to itself alone: a row of nothing but hidden keys would not be a number.
        fresh = (column <= query) & ((column >= starts) | (column == query))
        before = (np.arange(known) < commons) & np.ones((1, new, 1), dtype=np.bool_)
        allowed = torch.from_numpy(np.concatenate([before, fresh], axis=2)).to(self.device)[:, None]
        mask = torch.zeros(allowed.shape, dtype=self.dtype, device=self.device).masked_fill_(~allowed, self._hidden)
        layers: list[_PromptLayer] = []
        for number, shape in enumerate(self.shapes):
            pair = None
            if known:
                keys = torch.zeros(count, shape.heads, known, shape.key, dtype=self.dtype, device=self.device)
                values = torch.zeros(count, shape.heads, known, shape.value, dtype=self.dtype, device=self.device)
                for row, (_, state, common) in enumerate(plans):
                    if common and state is not None:
                        keys[row, :, :common] = state.keys[number][:, :common]
                        values[row, :, :common] = state.values[number][:, :common]
                pair = (keys, values)
            layers.append(_PromptLayer(pair))
        out = self.model(
            input_ids=torch.from_numpy(tokens).to(self.device),
            position_ids=torch.from_numpy(positions).to(self.device),
            attention_mask=mask,
            past_key_values=Cache(layers=_as_layers(layers)),
            use_cache=True,
            logits_to_keep=1,
        )
        states = []
        for row, (ids, _, common) in enumerate(plans):
            pad = new - (len(ids) - common)
            keys_of, values_of = [], []
            for layer in layers:
                assert layer.fresh is not None
                fresh_keys, fresh_values = (t[row, :, pad:] for t in layer.fresh)
                if common:
                    assert layer.known is not None
                    fresh_keys = torch.cat([layer.known[0][row, :, :common], fresh_keys], dim=1)
                    fresh_values = torch.cat([layer.known[1][row, :, :common], fresh_values], dim=1)
                else:
                    # A view would keep the whole batch alive as long as the prompt.
                    fresh_keys, fresh_values = fresh_keys.contiguous(), fresh_values.contiguous()
                    if count > 1:
                        fresh_keys, fresh_values = _owned(fresh_keys), _owned(fresh_values)
                keys_of.append(fresh_keys)
                values_of.append(fresh_values)
            states.append(PromptState(list(ids), keys_of, values_of))
        return states, out.logits[:, -1]

    def _pack_prompts(
        self, lean: Lean, plans: Sequence[tuple[list[int], PromptState | None, int]]
    ) -> tuple[list[PromptState], Tensor]:
        """The same without padding: the new tokens of all prompts stand in one row, each attends within its prompt."""
        import numpy as np

        torch = self._torch
        lengths = [len(ids) - common for ids, _, common in plans]
        ends = np.cumsum(lengths)
        tokens = np.concatenate([np.array(ids[common:], dtype=np.int64) for ids, _, common in plans])
        positions = np.concatenate([np.arange(common, len(ids)) for ids, _, common in plans])
        spans = list(zip((ends - lengths).tolist(), ends.tolist(), plans, strict=True))
        # A query sees the known tokens and the new ones up to its own. sdpa's own causal mask knows no offset.
        masks = [
            None
            if not common or len(ids) - common == 1
            else torch.ones(len(ids) - common, len(ids), dtype=torch.bool, device=self.device).tril_(common)
            for ids, _, common in plans
        ]
        keys_PL: list[list[Tensor]] = [[] for _ in plans]
        values_PL: list[list[Tensor]] = [[] for _ in plans]
        grouped = lean.heads != lean.kept

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            mixed = torch.empty_like(query)
            for place, (begin, end, (_, state, common)) in enumerate(spans):
                # Contiguous copies: a view would keep the whole batch alive as long as the prompt.
                keys = key[begin:end].transpose(0, 1)
                values = value[begin:end].transpose(0, 1)
                if common and state is not None:
                    keys = torch.cat([state.keys[layer][:, :common], keys], dim=1)
                    values = torch.cat([state.values[layer][:, :common], values], dim=1)
                else:
                    keys = keys.clone(memory_format=torch.contiguous_format)
                    values = values.clone(memory_format=torch.contiguous_format)
                keys_PL[place].append(keys)
                values_PL[place].append(values)
                mixed[begin:end] = torch.nn.functional.scaled_dot_product_attention(
                    query[begin:end].transpose(0, 1)[None],
                    keys[None],
                    values[None],
                    attn_mask=masks[place],
                    is_causal=not common,
                    scale=lean.scale,
                    enable_gqa=grouped,
                )[0].transpose(0, 1)
            whole: Tensor = mixed.view(mixed.shape[0], -1)
            return whole

        lean.reach(int(positions.max()) + 1)
        logits = lean(
            torch.from_numpy(tokens).to(self.device),
            torch.from_numpy(positions).to(self.device),
            attend,
            torch.from_numpy(ends - 1).to(self.device),
        )
        states = [PromptState(list(ids), keys_PL[place], values_PL[place]) for place, (ids, _, _) in enumerate(plans)]
        return states, logits

    def _remember(self, state: PromptState) -> None:
        """Keep a prompt for later ones, the least recently used going first when the store is full."""
        size = state.size
        if size > self._store_bytes:
            return
        state.blocks = list(_block_keys(state.ids))
        self._store[id(state)] = state
        self._stored += size
        for key in state.blocks:
            self._by_block[key] = state
        while self._stored > self._store_bytes:
            _, old = self._store.popitem(last=False)
            self._stored -= old.size
            for key in old.blocks:
                if self._by_block.get(key) is old:
                    del self._by_block[key]

    # Rows

    def reserve(self, length: int) -> None:
        """Room for rows of `length` tokens: doubles the capacity as often as that takes, keeping what is there."""
        if length <= self.capacity:
            return
        capacity = max(self.capacity, _MIN_CAPACITY)
        while capacity < length:
            capacity *= 2
        capacity = max(min(capacity, -(-self.context // 8) * 8), length)
        self._allocate(self.rows, capacity)

    def bytes_per_token(self) -> int:
        """Keys and values of one token of one row."""
        width = sum(shape.heads * (shape.key + shape.value) for shape in self.shapes)
        return width * self._torch.finfo(self.dtype).bits // 8

    def resize(self, rows: int) -> None:
        """Another number of rows; what they held is lost."""
        self.rows = rows
        self.clear()

    def clear(self) -> None:
        """Forget all rows and prompts, and give their memory back."""
        self._layers, self._cache, self._mask, self.capacity = [], None, None, 0
        self._store.clear()
        self._by_block.clear()
        self._stored = 0

    def _allocate(self, rows: int, capacity: int) -> None:
        from transformers.cache_utils import Cache

        torch = self._torch
        old_mask = self._mask
        self._mask = torch.full((rows, capacity), self._hidden, dtype=self.dtype, device=self.device)
        if old_mask is not None:
            self._mask[:, : self.capacity] = old_mask
        for number, shape in enumerate(self.shapes):
            layer = _RowLayer(shape, rows, capacity, self.dtype, self.device)
            if number < len(self._layers):
                # Layer by layer, so that only one layer is there twice.
                old = self._layers[number]
                layer.keys[:, :, : self.capacity] = old.keys
                layer.values[:, :, : self.capacity] = old.values
                self._layers[number] = layer
            else:
                self._layers.append(layer)
        self._cache = Cache(layers=_as_layers(self._layers))
        self.capacity = capacity

    def start(self, rows: Sequence[int], state: PromptState) -> None:
        """Let `rows` continue the prompt `state`: its keys and values are copied to each of them."""
        length = len(state.ids)
        assert length <= self.capacity
        assert self._mask is not None
        # One slice where the rows lie side by side, as they mostly do: an index list costs several times the copy.
        side_by_side = rows[-1] - rows[0] + 1 == len(rows)
        at: Any = slice(rows[0], rows[-1] + 1) if side_by_side else self._torch.tensor(rows, device=self.device)
        for layer, keys, values in zip(self._layers, state.keys, state.values, strict=True):
            layer.keys[at, :, :length] = keys
            layer.values[at, :, :length] = values
        self._mask[at, :length] = 0.0
        self._mask[at, length:] = self._hidden

    def move(self, source: int, target: int, length: int) -> None:
        """Row `target` becomes what row `source` was; the first `length` tokens are meant."""
        assert self._mask is not None
        for layer in self._layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]
        self._mask[target] = self._mask[source]

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> Tensor:
        """One token for each of the first len(tokens) rows, at `positions`; the next token's logits [B, vocabulary]."""
        torch = self._torch
        rows = len(tokens)
        length = int(positions.max()) + 1
        if self.device.type == "cuda":
            length = min(-(-length // 8) * 8, self.capacity)  # the memory-efficient kernels want multiples of 8
        ids = torch.from_numpy(tokens).to(self.device)[:, None]
        at = torch.from_numpy(positions).to(self.device)
        numbers = self._row_numbers[:rows]
        assert self._mask is not None
        self._mask.view(-1)[numbers * self.capacity + at] = 0.0
        where = {
            count: (((numbers * count)[:, None] + heads) * self.capacity + at[:, None]).view(-1)
            for count, heads in self._heads.items()
        }
        if self.lean is not None:
            return self._step_lean(self.lean, ids[:, 0], at, where[self.lean.kept], length)
        for layer in self._layers:
            layer.where = where[layer.shape.heads]
            layer.shown = (rows, length)
            layer.seen = length - 1
        out = self.model(
            input_ids=ids,
            position_ids=at[:, None],
            attention_mask=self._mask[:rows, None, None, :length],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def _step_lean(self, lean: Lean, ids: Tensor, at: Tensor, where: Tensor, length: int) -> Tensor:
        """`step` for a lean model, over the first `length` places of each row."""
        torch = self._torch
        rows = len(ids)
        heads, kept, size = lean.heads, lean.kept, lean.size
        assert self._mask is not None
        mask = self._mask[:rows, None, None, :length]
        # On a CPU two batched products beat sdpa, whose blocks are made for many queries. In half precision they would
        # round the scores.
        by_hand = self.device.type == "cpu" and self.dtype == torch.float32
        if by_hand:
            mask = mask.expand(-1, kept, 1, -1).reshape(rows * kept, 1, length)

        def attend(number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            layer = self._layers[number]
            layer.write(where, key, value)
            keys, values = layer.keys[:rows, :, :length], layer.values[:rows, :, :length]
            # Query heads that share a key head are so many query positions of it.
            query = query.reshape(rows, kept, heads // kept, size)
            if by_hand:
                keys, values = keys.flatten(0, 1), values.flatten(0, 1)
                scores = torch.baddbmm(mask, query.flatten(0, 1), keys.transpose(1, 2), alpha=lean.scale)
                mixed = torch.bmm(torch.softmax(scores, dim=-1), values)
            else:
                mixed = torch.nn.functional.scaled_dot_product_attention(
                    query, keys, values, attn_mask=mask, scale=lean.scale
                )
            flat: Tensor = mixed.reshape(rows, heads * size)
            return flat

        lean.reach(self.capacity)
        logits: Tensor = lean(ids, at, attend)
        return logits


def _owned(tensor: Tensor) -> Tensor:
    """`tensor` with memory of its own, also where it was a contiguous part of a larger one."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size() else tensor


def _block_keys(ids: list[int]) -> list[int]:
    """A key for every beginning of 16, 32, ... tokens. Two beginnings with one key are told apart by comparing ids."""
    keys = []
    key = 0
    for end in range(_BLOCK, len(ids) + 1, _BLOCK):
        key = hash((key, *ids[end - _BLOCK : end]))
        keys.append(key)
    return keys


def _as_layers(layers: Sequence[_Layer]) -> Any:
    """Our layers where transformers' types ask for its own: Cache calls nothing that `_Layer` does not have."""
    return list(layers)
