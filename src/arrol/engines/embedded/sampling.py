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


def token_uniforms(seed: int, rollout_id: RolloutId, count: int) -> np.ndarray:
    """The first ``count`` uniform numbers of a rollout, float64 in [0, 1)."""
    return np.random.default_rng([seed, TOKEN_STREAM, *rollout_id]).random(count)


def sample(
    logits_SV: torch.Tensor, uniform_S: torch.Tensor, params: SamplingParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sampled ids, long ``[S]``, and their log-probabilities, float32 ``[S]``."""
    logits_SV = logits_SV.float()
    if params.temperature == 0:
        token_S = logits_SV.argmax(-1)
        return token_S, _gather(logits_SV.log_softmax(-1), token_S)
    logprob_SV = (logits_SV / params.temperature).log_softmax(-1)
    if params.top_k <= 0 and params.top_p >= 1:
        token_S = _invert(logprob_SV.exp(), uniform_S)
        return token_S, _gather(logprob_SV, token_S)
    sorted_SV, order_SV = logprob_SV.exp().sort(dim=-1, descending=True, stable=True)
    if params.top_k > 0:
        sorted_SV[:, params.top_k :] = 0.0
        sorted_SV = sorted_SV / sorted_SV.sum(-1, keepdim=True)
    kept_SV = (sorted_SV.cumsum(-1) - sorted_SV) < params.top_p  # the first token always stays
    place_S = torch.minimum(_invert(sorted_SV * kept_SV, uniform_S), kept_SV.sum(-1) - 1)
    token_S = _gather(order_SV, place_S)
    return token_S, _gather(logprob_SV, token_S)


def _invert(mass_SV: torch.Tensor, uniform_S: torch.Tensor) -> torch.Tensor:
    """First index whose cumulative mass exceeds uniform times the total; double precision, so large vocabularies keep
    their tail.
    """
    total_SV = mass_SV.double().cumsum(-1)
    target_S1 = (uniform_S.double() * total_SV[:, -1])[:, None]
    return torch.searchsorted(total_SV, target_S1, right=True).squeeze(1).clamp(max=mass_SV.shape[1] - 1)


def _gather(values_SV: torch.Tensor, index_S: torch.Tensor) -> torch.Tensor:
    return values_SV.gather(-1, index_S[:, None]).squeeze(1)
