"""Which verified rollouts of a group train, and with which factor on their weight. Pure numpy.

* ``pods``      arXiv 2504.13818: the subset of largest reward variance, which is always the i highest and m - i lowest;
                with 0/1 rewards the most balanced one. Advantages are computed on the subset.
* ``cppo``      arXiv 2503.22342: the largest |advantage|, advantages from the full group and not re-normalised, so
                the gradient is biased. Deviation: freed places are not filled with other prompts; ask for more prompts.
* ``balanced``  half right, half wrong as far as there are (Reinforce-Ada, arXiv 2510.04996); advantages from all.
* ``rejected``  AERO (arXiv 2602.14338): all of the rarer kind, ``ratio`` times as many of the other. Baselines:
                ``kept`` (kept rollouts; another objective), ``all`` (every verified one), ``corrected`` (the same, and
                each of the m kept of x has weight x / m, which is unbiased for the full group's gradient).

Ties and random choices are broken by a keyed permutation, never by order of arrival. Legend: ``G`` rollouts of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from arrol.algorithms.advantages import GroupSignal

SELECTION_STREAM = 4
"""Second word of the key of every random choice here."""


@dataclass(frozen=True)
class Selection:
    """What trains of one group."""

    train_G: np.ndarray
    """bool ``[G]``."""
    factor_G: np.ndarray
    """float64 ``[G]``: factor on the weight of each rollout that trains."""
    baseline: Literal["all", "kept"] = "all"
    """Mean and spread from every verified rollout, or from those that train."""
    is_whole: bool = False
    """The weights add up to the whole group, or it has no signal: its effective rollouts stay."""
    reason: str = ""
    """Why the others do not train; empty when all train."""


def whole(count: int) -> Selection:
    """All rollouts train."""
    return Selection(np.ones(count, bool), np.ones(count), is_whole=True)


def empty(count: int, reason: str) -> Selection:
    """No rollout trains; ``reason`` is logged."""
    return Selection(np.zeros(count, bool), np.ones(count), reason=reason)


def dead(count: int) -> Selection:
    """A group whose rewards are all equal, as the loss of the full group sees it: no signal, whole in denominators."""
    return Selection(np.zeros(count, bool), np.ones(count), is_whole=True, reason="uniform")


def selected(signal: GroupSignal, selection: Selection) -> GroupSignal:
    """The signal of a group with advantages and weights of 0 for rollouts that do not train."""
    advantage_G = np.where(selection.train_G, signal.advantage_G, 0.0)
    weight_G = np.where(selection.train_G, signal.weight_G * selection.factor_G, 0.0)
    effective_rollouts = signal.effective_rollouts if selection.is_whole else float(weight_G.sum())
    return signal._replace(advantage_G=advantage_G, weight_G=weight_G, effective_rollouts=effective_rollouts)


def pods(reward_G: np.ndarray, train_size: int, key: Sequence[int]) -> Selection:
    """``reward_G`` is NaN where nothing was verified."""
    order = _shuffled(reward_G, key)
    order = order[np.argsort(reward_G[order], kind="stable")]
    if len(order) <= train_size:
        return Selection(~np.isnan(reward_G), np.ones(len(reward_G)), "kept")
    sorted_N = reward_G[order]
    variances = [
        np.concatenate([sorted_N[:low], sorted_N[len(sorted_N) - (train_size - low) :]]).var()
        for low in range(train_size + 1)
    ]
    low = int(np.argmax(np.round(variances, 12)))  # rounding decides between no ties
    chosen = np.concatenate([order[:low], order[len(order) - (train_size - low) :]])
    return Selection(_mask(chosen, len(reward_G)), np.ones(len(reward_G)), "kept", reason="surplus")


def cppo(reward_G: np.ndarray, train_size: int, key: Sequence[int]) -> Selection:
    """``reward_G`` is NaN where nothing was verified."""
    order = _shuffled(reward_G, key)
    size_N = np.abs(reward_G[order] - reward_G[order].mean()) if len(order) else np.zeros(0)
    chosen = order[np.argsort(-np.round(size_N, 12), kind="stable")][:train_size]
    return Selection(_mask(chosen, len(reward_G)), np.ones(len(reward_G)), reason="surplus")


def balanced(right_G: np.ndarray, wrong_G: np.ndarray, size: int, key: Sequence[int]) -> Selection:
    """At most ``size``: half of each kind, places that one kind leaves go to the other."""
    right, wrong = _shuffled_rows(right_G, [*key, 0]), _shuffled_rows(wrong_G, [*key, 1])
    num_right = min(len(right), max(size // 2, size - len(wrong)))
    chosen = np.concatenate([right[:num_right], wrong[: size - num_right]])
    return Selection(_mask(chosen, len(right_G)), np.ones(len(right_G)), reason="surplus")


def rejected(
    rare_G: np.ndarray,
    common_G: np.ndarray,
    keep: int,
    baseline: Literal["kept", "all", "corrected"],
    key: Sequence[int],
) -> Selection:
    """All of the rare kind and ``keep`` of the common one, chosen uniformly; bool ``[G]`` each."""
    common = _shuffled_rows(common_G, key)
    kept = common[: min(keep, len(common))]
    factor_G = np.ones(len(rare_G))
    if baseline == "corrected" and len(kept):
        factor_G[kept] = len(common) / len(kept)
    return Selection(
        rare_G | _mask(kept, len(rare_G)),
        factor_G,
        "kept" if baseline == "kept" else "all",
        is_whole=baseline == "corrected",
        reason="rejected",
    )


def _shuffled(reward_G: np.ndarray, key: Sequence[int]) -> np.ndarray:
    return _shuffled_rows(~np.isnan(reward_G), key)


def _shuffled_rows(mask_G: np.ndarray, key: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(list(key)).permutation(np.flatnonzero(mask_G))


def _mask(rows: np.ndarray, count: int) -> np.ndarray:
    mask_G = np.zeros(count, bool)
    mask_G[rows.astype(int)] = True
    return mask_G
