"""Draw the next token of every row of a batch at once, each row by random numbers of its own.

Exponential race: token v wins whose p_v / e_v is largest, with e_v exponential; that is a draw from p. The e_v of a row
are a hash of the row's seed, the step and v, so they depend neither on the batch nor on which tokens are looked at. Two
computations of p that differ in their last bits give the same winner unless two tokens are level to that many digits.
(Inverse CDF over token ids is not like that: a rounded sum shifts the border of every later token, and on 49,152 tokens
one draw in 500 changed.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_FIRST = 32  # tokens among which a nucleus is looked for at first; then 16 times as many, then all
# SplitMix64 (Steele, Lea and Flood, 2014), its constants as signed 64-bit numbers.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def draw(scores_BV: Tensor, temperature: float, top_p: float, seeds_B: Tensor, step: int) -> Tensor:
    """The next token id of every row, [B], from logits in float32. `seeds_B` are 64-bit integers, `step` counts the
    tokens of a completion. Temperature 0 takes the largest logit; else the race is run among the smallest set of
    likeliest tokens that hold `top_p` of the mass (never empty). Rows whose logits are not numbers get some token."""
    if temperature == 0:
        return scores_BV.argmax(-1)
    scores = scores_BV if temperature == 1 else scores_BV / temperature
    return _race(scores, scores.logsumexp(-1, keepdim=True), top_p, seeds_B, step, _FIRST)


def _race(scores_BV: Tensor, totals_B1: Tensor, top_p: float, seeds_B: Tensor, step: int, most: int) -> Tensor:
    """The winners among at most `most` tokens of each row, or among more where these do not hold the nucleus."""
    import torch

    size = scores_BV.shape[1]
    if top_p == 1:
        tokens_1V = torch.arange(size, device=scores_BV.device)[None]
        chances = (scores_BV - totals_B1).exp_() / exponentials(seeds_B, step, tokens_1V)
        return chances.argmax(-1)
    values_BK, tokens_BK = scores_BV.topk(min(most, size))
    chances = (values_BK - totals_B1).exp_()
    up_to = chances.cumsum(-1)
    outside = up_to - chances >= top_p
    outside[:, 0] = False
    chances = chances.masked_fill_(outside, 0) / exponentials(seeds_B, step, tokens_BK)
    winners = tokens_BK.gather(1, chances.argmax(-1, keepdim=True)).squeeze(1)
    short = (up_to[:, -1] < top_p).nonzero().squeeze(1)
    if most < size and len(short):
        winners[short] = _race(scores_BV[short], totals_B1[short], top_p, seeds_B[short], step, 16 * most)
    return winners


def exponentials(seeds_B: Tensor, step: int, tokens_BK: Tensor) -> Tensor:
    """An exponential random number for every token of every row, [B, K] in float32: a function of seed, step, token."""
    starts_B1 = _mix(seeds_B + _wrap((step + 1) * _GAMMA))[:, None]
    bits = _mix(starts_B1 + (tokens_BK + 1) * _GAMMA)
    uniform = ((bits >> 11) & (2**53 - 1)).double().add_(0.5).mul_(2.0**-53)
    return uniform.neg_().log1p_().neg_().float()


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finalizer: 64 bits, each of which depends on all bits of the input."""
    bits = (bits ^ ((bits >> 30) & (2**34 - 1))) * _MIX_1
    bits = (bits ^ ((bits >> 27) & (2**37 - 1))) * _MIX_2
    return bits ^ ((bits >> 31) & (2**33 - 1))


def _wrap(number: int) -> int:
    """`number` as a signed 64-bit integer."""
    return (number + 2**63) % 2**64 - 2**63
