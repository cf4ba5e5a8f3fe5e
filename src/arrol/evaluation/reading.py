"""A forward pass over finished completions: token confidences for DeepConf and features for the quality head.

It scores completions of any engine or file for votes. Confidences use the model's own top-k log-probabilities, before
temperature and top-p (arXiv 2508.15260: k = 20); log-probabilities of the sampled tokens are at ``temperature``, as an
engine records them. Features equal those of an engine at a probe (``quality.features``): at length L, L completion
tokens were fed. At the end L is one less than the length, since the last token is never fed.

Legend: ``C`` completions, ``T`` completion tokens, ``D`` hidden size, ``V`` vocabulary, ``W`` columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from arrol.engines.embedded.support import logits_of
from arrol.quality.features import END, FeatureLayout, logprob_statistics

BATCH_TOKENS = 16384
"""Padded tokens per forward pass."""
LOGIT_CHUNK = 2**24
"""Logits held at a time."""


@dataclass(frozen=True)
class CompletionStatistics:
    """Per-token values of one completion, and its features."""

    logprob_T: np.ndarray
    """float32: log-probability of each token at the sampling temperature."""
    confidence_T: np.ndarray
    """float32: minus the mean log-probability of the k likeliest tokens; high for a peaked distribution."""
    features_at: dict[int, np.ndarray]
    """Length or ``END`` -> float32 ``[F]``; only lengths below the completion's."""


@torch.no_grad()
def read_completions(
    model: Any,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    layout: FeatureLayout | None = None,
    lengths: Sequence[int] = (END,),
    temperature: float = 1.0,
    top_k: int = 20,
) -> list[CompletionStatistics]:
    """One per pair (prompt ids, completion ids), in order; empty arrays for an empty completion."""
    order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
    found: dict[int, CompletionStatistics] = {}
    while order:
        longest = max(1, sum(map(len, pairs[order[0]])))
        chunk = [order.pop(0) for _ in range(min(len(order), max(1, BATCH_TOKENS // longest)))]
        hidden_CWD = _hidden(model, [[*pairs[i][0], *pairs[i][1]] for i in chunk])
        for row, i in enumerate(chunk):
            prompt, completion = pairs[i]
            # The state before the first completion token, and after each token that was fed.
            hidden_TD = hidden_CWD[row, len(prompt) - 1 : len(prompt) - 1 + len(completion)]
            logprob_T, confidence_T = _tokens(model, hidden_TD, completion, temperature, top_k)
            features = {} if layout is None else _features(hidden_TD, logprob_T, layout, lengths)
            found[i] = CompletionStatistics(logprob_T, confidence_T, features)
    return [found[i] for i in range(len(pairs))]


def _hidden(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Last hidden states ``[C, W, D]`` of right-padded rows; causal attention never reads the padding."""
    ids_CW = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, ids in enumerate(rows):
        ids_CW[row, : len(ids)] = torch.tensor(ids)
    return model.base_model(input_ids=ids_CW.to(model.device), use_cache=False).last_hidden_state


def _tokens(
    model: Any, hidden_TD: torch.Tensor, completion: Sequence[int], temperature: float, top_k: int
) -> tuple[np.ndarray, np.ndarray]:
    chunk = max(1, LOGIT_CHUNK // int(model.config.get_text_config().vocab_size))
    target_T = torch.tensor(list(completion), dtype=torch.long, device=hidden_TD.device)
    logprobs, confidences = [], []
    for hidden, target in zip(hidden_TD.split(chunk), target_T.split(chunk), strict=True):
        logit_TV = logits_of(model, hidden).float()
        logprob_TV = (logit_TV / (temperature or 1.0)).log_softmax(-1)
        logprobs.append(logprob_TV.gather(1, target[:, None]).squeeze(1))
        likeliest = logit_TV.log_softmax(-1).topk(min(top_k, logit_TV.shape[1]), dim=-1).values
        confidences.append(-likeliest.mean(-1))
    if not logprobs:
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    return torch.cat(logprobs).cpu().numpy(), torch.cat(confidences).cpu().numpy()


def _features(
    hidden_TD: torch.Tensor, logprob_T: np.ndarray, layout: FeatureLayout, lengths: Sequence[int]
) -> dict[int, np.ndarray]:
    fed_TD = hidden_TD[1:].float().cpu().numpy()
    found = {}
    for length in lengths:
        fed = len(fed_TD) if length == END else length
        if 0 < fed <= len(fed_TD):
            mean_CD, statistics_C3 = fed_TD[:fed].mean(0, keepdims=True), logprob_statistics(logprob_T[None, :fed])
            found[length] = layout.assemble(fed_TD[fed - 1 : fed], mean_CD, statistics_C3)[0]
    return found
