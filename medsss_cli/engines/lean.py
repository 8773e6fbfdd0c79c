"""The forward pass of Llama and its nearest kin, written out flat: for small models, where calls cost more than sums.

transformers' own modules spend some milliseconds a pass on calls, whatever the batch; a model of a million parameters
computes dozens of rows in that time. Here a layer is a dozen tensor operations on [tokens, width], with the three
projections into attention fused into one, and the two into the feed-forward part. Tokens of unequal prompts stand side
by side without padding; what is special about attention is a function that the caller passes in.

`Lean.of` gives None for every model that it does not know, and `Decoder.open` compares with the model's own logits
before it trusts this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

KNOWN = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # the others turn positions by the longest row of a batch

Attend = Callable[[int, "Tensor", "Tensor", "Tensor"], "Tensor"]
"""(layer, query [N, Q, D], key [N, K, D], value [N, K, D]) -> [N, Q * D]"""


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one layer, as the operations want them: `into` is [q + k + v, width], `out` is transposed."""

    norm: Tensor
    into: Tensor
    into_bias: Tensor | None
    head_norm: Tensor | None  # [Q + K, D], where queries and keys are normalised
    out: Tensor
    out_bias: Tensor | None
    forward_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Lean:
    """See the module. `scale` is attention's; `heads` and `kept` count query heads and key heads of size `size`."""

    def __init__(self, model: Any) -> None:
        import torch

        self._torch = torch
        inner, config = model.model, model.config
        first = inner.layers[0].self_attn
        self.size = int(first.head_dim)
        self.heads = int(config.num_attention_heads)
        self.kept = int(config.num_key_value_heads)
        self.scale = float(first.scaling)
        self._eps = float(config.rms_norm_eps)
        self._width = int(config.hidden_size)
        self._embedding = inner.embed_tokens.weight
        self._norm = inner.norm.weight
        self._head = model.lm_head.weight
        self._rotary = inner.rotary_emb
        self._cos: Tensor | None = None
        self._sin: Tensor | None = None
        self._layers = [self._layer(layer) for layer in inner.layers]

    @classmethod
    def of(cls, model: Any) -> Lean | None:
        """`model` as a lean one; None where it is none of the known or has other parts than plain linear ones."""
        import torch

        config = model.config
        rope = getattr(config, "rope_parameters", None) or {}
        if type(model).__name__ not in KNOWN or not type(model).__module__.startswith("transformers."):
            return None
        if getattr(config, "hidden_act", None) != "silu" or rope.get("rope_type", "default") not in _STATIC_ROPE:
            return None
        parts = [part for part in model.model.layers.modules() if hasattr(part, "weight")]
        others = [part for part in parts if not type(part).__name__.endswith("RMSNorm")] + [model.lm_head]
        if {type(part) for part in others} != {torch.nn.Linear} or model.lm_head.bias is not None:
            return None
        return cls(model)

    def _layer(self, layer: Any) -> _Layer:
        torch = self._torch
        attention, mlp = layer.self_attn, layer.mlp
        into = _fuse([attention.q_proj, attention.k_proj, attention.v_proj])
        biases = [part.bias for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        head_norm = None
        if hasattr(attention, "q_norm"):
            head_norm = torch.cat(
                [
                    attention.q_norm.weight.expand(self.heads, self.size),
                    attention.k_norm.weight.expand(self.kept, self.size),
                ]
            )
        if any(part.bias is not None for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)):
            raise TypeError("a feed-forward part with biases")
        return _Layer(
            norm=layer.input_layernorm.weight,
            into=into,
            into_bias=None if biases[0] is None else torch.cat(biases),
            head_norm=head_norm,
            out=attention.o_proj.weight.t(),
            out_bias=attention.o_proj.bias,
            forward_norm=layer.post_attention_layernorm.weight,
            gate_up=_fuse([mlp.gate_proj, mlp.up_proj]),
            down=mlp.down_proj.weight.t(),
        )

    def reach(self, length: int) -> None:
        """Make the tables of rotations long enough for positions below `length`."""
        torch = self._torch
        if self._cos is not None and length <= self._cos.shape[0]:
            return
        size = max(256, 2 * length)
        positions = torch.arange(size, device=self._embedding.device)[None]
        cos, sin = self._rotary(self._embedding[:1], position_ids=positions)
        # x * cos + (-x2, x1) * sin, with the sign moved into the table: then (x2, x1) is a plain roll.
        half = self.size // 2
        self._cos = cos[0][:, None].contiguous()
        self._sin = torch.cat([-sin[0][:, :half], sin[0][:, half:]], dim=-1)[:, None].contiguous()

    def __call__(self, ids: Tensor, positions: Tensor, attend: Attend, last: Tensor | None = None) -> Tensor:
        """Logits [N, vocabulary] of N tokens at `positions` [N], or of those numbered `last` alone. `reach` must
        have been called for the largest position."""
        torch = self._torch
        normal, linear = torch.nn.functional.rms_norm, torch.nn.functional.linear
        width, eps = (self._width,), self._eps
        turned, half = self.heads + self.kept, self.size // 2
        assert self._cos is not None
        assert self._sin is not None
        cos, sin = self._cos[positions], self._sin[positions]
        x = self._embedding[ids]
        count = x.shape[0]
        for number, layer in enumerate(self._layers):
            qkv = linear(normal(x, width, layer.norm, eps), layer.into, layer.into_bias)
            qkv = qkv.view(count, turned + self.kept, self.size)
            qk = qkv[:, :turned]
            if layer.head_norm is not None:
                qk = normal(qk, (self.size,), None, eps) * layer.head_norm
            qk = torch.addcmul(qk * cos, qk.roll(half, -1), sin)
            mixed = attend(number, qk[:, : self.heads], qk[:, self.heads :], qkv[:, turned:])
            x = torch.addmm(x, mixed, layer.out)
            if layer.out_bias is not None:
                x += layer.out_bias
            gate, up = linear(normal(x, width, layer.forward_norm, eps), layer.gate_up).chunk(2, dim=-1)
            x = torch.addmm(x, torch.nn.functional.silu(gate).mul_(up), layer.down)
        if last is not None:
            x = x[last]
        logits: Tensor = linear(normal(x, width, self._norm, eps), self._head)
        return logits


def _fuse(parts: list[Any]) -> Tensor:
    """The weights of linear layers in one block. The layers' own weights become views of it: no second copy stays."""
    import torch

    block = torch.cat([part.weight.data for part in parts])
    begin = 0
    for part in parts:
        end = begin + part.weight.shape[0]
        part.weight.data = block[begin:end]
        begin = end
    return block
