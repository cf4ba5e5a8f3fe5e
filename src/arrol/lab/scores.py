"""Predicted quality of every rollout at every length, by heads that never saw its prompt. Numpy only.

A logistic regression on standardised features, one per length and fold; folds are made of whole prompts, so the
prediction of a prompt's rollouts knows nothing of that prompt. Legend: ``C`` records, as in :mod:`arrol.lab.pool`.
"""

from __future__ import annotations

import numpy as np

from arrol.lab.pool import Pool
from arrol.quality.diagnostics import auroc, auroc_within

FOLDS = 4
SPREAD = 3.0
"""Standard deviation of a logit before anything is learnt; every feature has its share of the variance."""
ROUNDS = 30
"""Newton steps at most, each halved until it lowers the loss: with a few right records among many features whole steps
diverge."""
MIN_RECORDS = 16
"""Right and wrong records, each, below which a length has no head."""


def crossfit_quality(pool: Pool, *, seed: int = 0) -> np.ndarray:
    """float32 ``[P, N, K]`` in (0, 1); NaN where a rollout ended before the length, or has no reward."""
    quality_PNK = np.full((*pool.reward_PN.shape, len(pool.probe_tokens)), np.nan, np.float32)
    if not pool.has_features:
        return quality_PNK
    fold_P = np.random.default_rng(seed).permutation(pool.num_prompts) % min(FOLDS, pool.num_prompts)
    for k in range(len(pool.probe_tokens)):
        features_PNF = pool.features_PNKF[:, :, k].astype(np.float32)
        is_read_PN = np.isfinite(features_PNF).all(-1) & pool.is_known_PN
        for fold in range(int(fold_P.max()) + 1):
            learns_PN = is_read_PN & (fold_P != fold)[:, None] & ~np.isnan(pool.label_PN)
            judged_PN = is_read_PN & (fold_P == fold)[:, None]
            label_C = pool.label_PN[learns_PN]
            prior = (label_C.sum() + 1) / (len(label_C) + 2)
            if min(label_C.sum(), len(label_C) - label_C.sum()) < MIN_RECORDS:
                quality_PNK[judged_PN, k] = prior
                continue
            quality_PNK[judged_PN, k] = logistic(features_PNF[learns_PN], label_C, features_PNF[judged_PN])
    return quality_PNK


def logistic(features_CF: np.ndarray, label_C: np.ndarray, judged_CF: np.ndarray) -> np.ndarray:
    """float64 in (0, 1): what a ridge logistic regression on the first two says of the third."""
    mean_F, scale_F = features_CF.mean(0), features_CF.std(0) + 1e-4
    design_CF = np.c_[np.clip((features_CF - mean_F) / scale_F, -10, 10), np.ones(len(features_CF))]
    penalty_F = np.r_[np.full(features_CF.shape[1], features_CF.shape[1] / SPREAD**2), 1e-6]

    def loss(weight_F: np.ndarray) -> float:
        logit_C = design_CF @ weight_F
        return float(np.logaddexp(0, logit_C).sum() - label_C @ logit_C + penalty_F @ weight_F**2 / 2)

    weight_F = np.zeros(design_CF.shape[1])
    weight_F[-1] = np.log(label_C.mean() / (1 - label_C.mean()))
    least = loss(weight_F)
    for _ in range(ROUNDS):
        rate_C = _sigmoid(design_CF @ weight_F)
        slope_C = np.maximum(rate_C * (1 - rate_C), 1e-4)
        hessian = (design_CF * slope_C[:, None]).T @ design_CF + np.diag(penalty_F)
        step_F = np.linalg.solve(hessian, design_CF.T @ (label_C - rate_C) - penalty_F * weight_F)
        while loss(weight_F + step_F) > least and np.abs(step_F).max() > 1e-6:
            step_F /= 2
        weight_F = weight_F + step_F
        least, before = loss(weight_F), least
        if before - least < 1e-6 * before:
            break
    judged = np.c_[np.clip((judged_CF - mean_F) / scale_F, -10, 10), np.ones(len(judged_CF))]
    return _sigmoid(judged @ weight_F)


def auroc_by_length(pool: Pool) -> list[dict[str, float]]:
    """Per probe length: share of the longest completion, share of rollouts that reach it, AUROC within prompts and
    pooled; NaN where too few rollouts were right or wrong for a head."""
    group_PN = np.broadcast_to(np.arange(pool.num_prompts)[:, None], pool.reward_PN.shape)
    longest = float(pool.length_PN.max())
    rows = []
    for k, tokens in enumerate(pool.probe_tokens):
        known_PN = np.isfinite(pool.quality_PNK[:, :, k]) & pool.is_known_PN
        labelled_PN = known_PN & ~np.isnan(pool.label_PN)
        score, label = pool.quality_PNK[:, :, k][labelled_PN], pool.label_PN[labelled_PN]
        group = group_PN[labelled_PN]
        has_head = len(np.unique(np.c_[group, score], axis=0)) > len(np.unique(group))  # else equal within each prompt
        rows.append(
            {
                "tokens": float(tokens),
                "length_share": tokens / longest,
                "reached": float(known_PN.sum() / max(pool.is_known_PN.sum(), 1)),
                "auroc_within": auroc_within(score, label, group) if has_head else np.nan,
                "auroc_pooled": auroc(score, label) if has_head else np.nan,
            }
        )
    return rows


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * np.clip(logit, -30, 30)))
