"""Temperature, top-k, top-p, and one random stream per rollout.

A token is drawn by inverting the cumulative distribution at a uniform number. Token n of rollout r uses number n of a
generator keyed by (seed, r), so stopping a sibling, refilling a row or restarting a run changes no token, except by
float noise: another batch size may use another matrix kernel, and a token flips when its number lies on a boundary.

Top-p acts on what top-k left, renormalised, as in transformers and vLLM. Log-probabilities are those before top-k and
top-p, which the learner can recompute. Legend: ``S`` rows, ``V`` vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch

from arrol.types import RolloutId, SamplingParams

TOKEN_STREAM = 0
"""Second word of the key; the pruning lottery has streams of its own."""
BLOCK = 256
"""Neighbours in the vocabulary whose mass is summed before the search."""


def token_uniforms(seed: int, rollout_id: RolloutId, count: int) -> np.ndarray:
    """The first ``count`` uniform numbers of a rollout, float64 in [0, 1)."""
    return np.random.default_rng([seed, TOKEN_STREAM, *rollout_id]).random(count)


def sample(
    logits_SV: torch.Tensor, uniform_S: torch.Tensor, params: SamplingParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sampled ids, long ``[S]``, and their log-probabilities, float32 ``[S]``: NaN where logits are NaN or infinite."""
    logits_SV = logits_SV.float()
    if params.temperature == 0:
        token_S = logits_SV.argmax(-1)
        return token_S, _gather(logits_SV.log_softmax(-1), token_S)
    if params.temperature != 1:
        logits_SV = logits_SV / params.temperature
    most_S1 = logits_SV.amax(-1, keepdim=True)
    mass_SV = (logits_SV - most_S1).exp_()
    sums_SB = _block_sums(mass_SV)
    total_S = sums_SB.sum(-1)
    if params.top_k <= 0 and params.top_p >= 1:
        token_S = _invert(mass_SV, sums_SB, uniform_S)
    else:
        sorted_SV, order_SV = (mass_SV / total_S[:, None]).float().sort(dim=-1, descending=True, stable=True)
        if params.top_k > 0:
            sorted_SV[:, params.top_k :] = 0.0
            sorted_SV = sorted_SV / sorted_SV.sum(-1, keepdim=True)
        kept_SV = (sorted_SV.cumsum(-1) - sorted_SV) < params.top_p  # the first token always stays
        last_S = (kept_SV.sum(-1) - 1).clamp(min=0)  # NaN keeps none
        sorted_SV *= kept_SV
        place_S = torch.minimum(_invert(sorted_SV, _block_sums(sorted_SV), uniform_S), last_S)
        token_S = _gather(order_SV, place_S)
    return token_S, _gather(logits_SV, token_S) - most_S1.squeeze(1) - total_S.log().float()


def _invert(mass_SV: torch.Tensor, sums_SB: torch.Tensor, uniform_S: torch.Tensor) -> torch.Tensor:
    """First index whose cumulative mass exceeds uniform times the total, in double precision.

    Two searches, for the block and inside it: a tenth of the time of one cumulative sum over the vocabulary.
    """
    ends_SB = sums_SB.cumsum(-1)
    target_S1 = (uniform_S.double() * ends_SB[:, -1])[:, None]
    block_S1 = torch.searchsorted(ends_SB, target_S1, right=True).clamp(max=ends_SB.shape[1] - 1)
    before_S1 = torch.where(block_S1 > 0, ends_SB.gather(-1, (block_S1 - 1).clamp(min=0)), 0.0)
    columns_SC = (block_S1 * BLOCK + torch.arange(BLOCK, device=mass_SV.device)).clamp(max=mass_SV.shape[1] - 1)
    inside_SC = mass_SV.gather(-1, columns_SC).double().cumsum(-1)
    place_S1 = torch.searchsorted(inside_SC, target_S1 - before_S1, right=True).clamp(max=BLOCK - 1)
    return columns_SC.gather(-1, place_S1).squeeze(1)


def _block_sums(mass_SV: torch.Tensor) -> torch.Tensor:
    """float64 ``[S, B]``: sums of ``BLOCK`` neighbours, the last block may be shorter."""
    whole = mass_SV.shape[1] // BLOCK * BLOCK
    blocks_SB = mass_SV[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1, dtype=torch.float64)
    rest_S1 = mass_SV[:, whole:].sum(-1, keepdim=True, dtype=torch.float64)
    return torch.cat([blocks_SB, rest_S1], dim=1)


def _gather(values_SV: torch.Tensor, index_S: torch.Tensor) -> torch.Tensor:
    return values_SV.gather(-1, index_S[:, None]).squeeze(1)
