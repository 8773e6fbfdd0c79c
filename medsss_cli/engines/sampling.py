"""Draw the next token of every row of a batch at once, each row by its own temperature, top-p and random numbers.

A completion's random numbers are its own: a Philox stream keyed by `derive_seed(sampling.seed, j)` gives one uniform
per token, whatever the other rows are. What is drawn is therefore the same alone and in a batch, as far as the model's
logits are: they differ in the last bits between batch shapes, which at float32 moves a draw once in very many tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..requests import derive_seed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

BLOCK = 64  # uniforms are drawn in blocks: the stream is the same, and memory does not depend on max_tokens
_BELOW_ONE = 1.0 - 2.0**-32


def generator(seed: int, index: int) -> np.random.Generator:
    """The random stream of completion `index` of a request with `seed`."""
    import numpy as np

    return np.random.Generator(np.random.Philox(key=derive_seed(seed, index)))


def draw(logits_BV: Tensor, temperature: NDArray[Any], top_p: NDArray[Any], uniform: NDArray[Any]) -> NDArray[Any]:
    """The next token id of every row: [B]; -1 where the logits are not numbers.

    `temperature`, `top_p` and `uniform` (in [0, 1)) are [B]. Temperature 0 takes the largest logit, of equals the
    lowest id. Otherwise log-probabilities are divided by the temperature, cut to the smallest set of likeliest tokens
    that holds top_p of the mass (never empty; of equals the lowest id goes first), and the uniform picks by inverse
    CDF over token ids.
    """
    import torch

    logits = logits_BV.float()
    device = logits.device
    greedy = temperature <= 0
    if greedy.all():
        return _argmax(logits).cpu().numpy()
    warm = torch.from_numpy(temperature.clip(min=1e-6)).to(device, torch.float32)
    logits_warm = logits if (temperature == 1.0).all() else logits / warm[:, None]
    probs = torch.softmax(logits_warm, dim=-1)
    cut = (top_p < 1.0) & ~greedy
    if cut.any():
        rows = torch.from_numpy(cut.nonzero()[0]).to(device)
        bound = torch.from_numpy(top_p[cut]).to(device, torch.float32)
        probs[rows] = _nucleus(probs[rows], bound)
    # Doubles: a float32 running sum over 150,000 tokens loses more than the differences that it should resolve.
    cdf = probs.cumsum(dim=-1, dtype=torch.float64)
    total = cdf[:, -1:]
    target = torch.from_numpy(uniform.clip(max=_BELOW_ONE)).to(device)[:, None] * total
    token = torch.searchsorted(cdf, target, right=True).squeeze(1).clamp_(max=logits.shape[1] - 1)
    token = torch.where(torch.isfinite(total[:, 0]), token, -1)
    if greedy.any():
        token = torch.where(torch.from_numpy(greedy).to(device), _argmax(logits), token)
    return token.cpu().numpy()


def _argmax(logits_BV: Tensor) -> Tensor:
    import torch

    best, token = logits_BV.max(dim=-1)
    return torch.where(torch.isnan(best), -1, token)


def _nucleus(probs_BV: Tensor, top_p: Tensor) -> Tensor:
    """`probs_BV` with zeros outside each row's nucleus; a token is in it if the likelier ones hold less than top_p."""
    import torch

    ordered, index = probs_BV.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    keep = before < top_p[:, None]
    keep[:, 0] = True
    return torch.zeros_like(probs_BV).scatter_(1, index, ordered * keep)
