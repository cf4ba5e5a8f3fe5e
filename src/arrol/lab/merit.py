"""Judges designs on a pool: merit, error, bias and cost of each, with intervals over prompts.

A design is a change of a run's config. Whole groups are judged in closed form (:mod:`arrol.lab.moments`); every other
design by steps of training on the pool (:mod:`arrol.lab.replay`), for each visit of a prompt:

    e = sum_j factor_j S_j / c      the estimate, c the scale of the design's gradient
    f = sample covariance           what the same rollouts say when all of them run and train
    V = mean |e - g|^2 + lottery    lottery: sum_j factor_j^2 (1/pi_j - 1) |S_j|^2 / c^2, exact

c is the regression of e on f. Where group sizes do not depend on the visit's outcomes, V(n) is known exactly for f, so
only the difference is averaged over visits, which takes most of the noise away. The error of a biased design holds the
bias of each prompt; ``bias`` is the part that more prompts do not average out, as a share of the gradient.

All designs fill a step with as many rollouts, so a design with small groups asks more prompts.
Legend: as in :mod:`arrol.lab.pool`, and ``V`` visits, ``B`` resampled sets of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from arrol.algorithms.allocation.allocator import RULES
from arrol.algorithms.thinning import thinning_share
from arrol.configs.allocation import UniformAllocation
from arrol.configs.base import merge, validate
from arrol.configs.method import AutoRule, DrGrpoConfig, NeverRule
from arrol.configs.run import EngineConfig, RunConfig
from arrol.errors import DataError
from arrol.lab.costs import CostModel, Counts
from arrol.lab.moments import TINY, Moments, expected_counts, merit
from arrol.lab.pool import Pool
from arrol.lab.replay import Visit, replay
from arrol.pruning.auto import MIN_GROUPS, RECENT_STEPS
from arrol.pruning.survival import Survival

RESAMPLES = 400
PARTS = 16
"""Parts of the visits whose means are compared to find a bias."""
CHANCE, FLIPS = 0.002, 5_000
"""A bias is reported where chance finds one as large less often than CHANCE: some forty designs are judged at once."""


@dataclass(frozen=True)
class Design:
    """A way to spend a step: a change of the config, such as ``{"training": {"group_size": 8}}``."""

    name: str
    change: Mapping[str, Any] = field(default_factory=dict)
    survival: Survival | None = None
    """Your own rule in place of the config's: candidates in, survival out."""


@dataclass(frozen=True)
class Judgement:
    """What a design does on a pool, before any cost model."""

    name: str
    group_size: float
    """Mean rollouts per prompt."""
    error_P: np.ndarray
    """Mean squared error of each prompt's estimate, in units of the gradient."""
    counts_P: Counts
    """Arrays ``[P]``: expected counts of a visit."""
    bias: float = 0.0
    """Length of the mean error of a step, as a share of the gradient's; 0 in closed form, NaN where the pool's gradient
    is not above its noise."""
    is_biased: bool = False
    """The bias is more than the noise of the replay."""
    kept: float = 1.0
    """Share of the rollouts that were not stopped."""
    trained: float = 1.0
    """Share of the generated tokens that train."""


@dataclass(frozen=True)
class Merit:
    """A design under a cost model, relative to a reference."""

    name: str
    merit: float
    """Ratio to the reference's."""
    low: float
    high: float
    """Ends of its 95% interval over prompts."""
    cost: float
    """Cost of a prompt, in the model's unit."""
    error: float


def base_config(config: RunConfig) -> RunConfig:
    """The config on which designs are judged: nothing stopped, whole groups, advantages not divided by a spread.

    Division by the spread weights prompts by 1/sqrt(p(1-p)), another objective; the comparison is one of noise. A
    replay needs no engine, so the limits of the config's engine leave no design out.
    """
    plain = {"pruning": NeverRule(), "allocation": UniformAllocation(), "algorithm": DrGrpoConfig()}
    return config.model_copy(update={**plain, "engine": EngineConfig()})


def design_config(base: RunConfig, design: Design) -> RunConfig:
    """The config of a design; its step holds as many rollouts as the base's.

    A section in which the design names another rule or algorithm has that one's defaults, not the base's values.
    """
    values = base.model_dump(mode="json")
    for name, changed in design.change.items():
        tag = {"pruning": "rule", "allocation": "rule", "algorithm": "name"}.get(name)
        if tag in changed and changed[tag] != values[name][tag]:
            values[name] = {}
    config = validate(RunConfig, merge(values, design.change))
    rows = base.training.prompts_per_step * base.training.group_size
    prompts = max(1, round(rows / config.training.group_size))
    return config.model_copy(update={"training": config.training.model_copy(update={"prompts_per_step": prompts})})


def judge(pool: Pool, design: Design, base: RunConfig, *, visits: int = 64, seed: int = 0) -> Judgement:
    """One design; ``visits`` of each prompt on average where it is replayed."""
    if not (np.nanstd(pool.reward_PN, axis=1) > 0).any():
        raise DataError("pool: the rewards of every prompt are equal, so no gradient exists; collect other prompts")
    if not pool.has_gradients:
        raise DataError("pool: has no gradients, so no design can be judged on it; collect it with sketch_size above 0")
    config, moments = design_config(base, design), Moments.of(pool)
    size, per_step = config.training.group_size, config.training.prompts_per_step
    if _is_whole(config) and not design.survival:
        generated_P, trained_P, longest = expected_counts(pool, size, per_step)
        counts = Counts(
            generated_P, np.full(pool.num_prompts, longest / per_step), np.zeros(pool.num_prompts), trained_P
        )
        share = float(trained_P.sum() / generated_P.sum())
        return Judgement(design.name, size, moments.error_P(size), counts, trained=share)
    first = -(-pool.num_prompts // per_step)  # an epoch in which histories fill
    if isinstance(config.pruning, AutoRule):
        first += max(RECENT_STEPS, -(-MIN_GROUPS // per_step))
    steps = first + max(1, round(visits * pool.num_prompts / per_step))
    seen = [visit for step in _steps(pool, config, design, steps, seed)[first:] for visit in step]
    is_single_wave = RULES[config.allocation.rule](config.allocation, None).is_single_wave  # type: ignore[arg-type]
    return _replayed(design.name, pool, moments, seen, is_single_wave)


def _steps(pool: Pool, config: RunConfig, design: Design, steps: int, seed: int) -> list[list[Visit]]:
    return list(replay(pool, config, steps=steps, seed=seed, survival=design.survival))


def _is_whole(config: RunConfig) -> bool:
    """Every rollout of a group runs to its end and trains with the same weight."""
    plain = isinstance(config.pruning, NeverRule) and config.allocation.rule == "uniform"
    return plain and not thinning_share(config.algorithm, is_pruned=False)


def _replayed(name: str, pool: Pool, moments: Moments, visits: Sequence[Visit], is_single_wave: bool) -> Judgement:
    estimate_VD, full_VD, lottery_V = (
        np.array(rows) for rows in zip(*(_estimates(pool, v) for v in visits), strict=True)
    )
    scale = float((estimate_VD * full_VD).sum() / max((full_VD**2).sum(), TINY)) or 1.0
    prompt_V = np.array([visit.prompt for visit in visits])
    size_V = np.array([len(visit.rollout_R) for visit in visits])
    gradient_VD = moments.gradient_PD[prompt_V]
    wrong_VD = estimate_VD / scale - gradient_VD
    error_V = (wrong_VD**2).sum(1) + lottery_V / scale**2
    drift_VD = wrong_VD
    if is_single_wave:
        known_V = size_V >= 2
        exact_V = np.array([moments.error_P(size)[prompt] for size, prompt in zip(size_V, prompt_V, strict=True)])
        noise_VD = full_VD - gradient_VD
        error_V = np.where(known_V, error_V - (noise_VD**2).sum(1) + exact_V, error_V)
        drift_VD = np.where(known_V[:, None], wrong_VD - noise_VD, wrong_VD)
    counts = [np.array([getattr(v.counts, field) for v in visits], float) for field in Counts._fields]
    generated, trained = counts[0].sum(), counts[3].sum()
    return Judgement(
        name,
        float(size_V.mean()),
        _means(error_V, prompt_V, pool.num_prompts),
        Counts(*(_means(column, prompt_V, pool.num_prompts) for column in counts)),
        *_relative_bias(drift_VD, moments),
        float(np.mean([(visit.is_kept_R).mean() for visit in visits])),
        float(trained / generated),
    )


def _estimates(pool: Pool, visit: Visit) -> tuple[np.ndarray, np.ndarray, float]:
    """Estimate, what all rollouts say, and the lottery's share of the squared error; see the module."""
    sketch_RD = pool.sketch_PND[visit.prompt, visit.rollout_R].astype(float)
    reward_R = pool.reward_PN[visit.prompt, visit.rollout_R].astype(float)
    centred_R = (reward_R - reward_R.mean()) / max(len(reward_R) - 1, 1)
    risk_R = np.where(visit.factor_R != 0, 1 / np.maximum(visit.trains_R, 1e-12) - 1, 0.0)
    lottery = float((visit.factor_R**2 * risk_R * (sketch_RD**2).sum(1)).sum())
    return visit.factor_R @ sketch_RD, centred_R @ sketch_RD, lottery


def _means(value_V: np.ndarray, prompt_V: np.ndarray, count: int) -> np.ndarray:
    """Mean over the visits of each prompt; over all where a prompt was not visited."""
    visits_P = np.bincount(prompt_V, minlength=count)
    sums_P = np.bincount(prompt_V, value_V, count)
    return np.where(visits_P > 0, sums_P / np.maximum(visits_P, 1), value_V.mean())


def _relative_bias(drift_VD: np.ndarray, moments: Moments) -> tuple[float, bool]:
    """Length of the mean drift relative to that of the mean gradient, and whether it is above its noise.

    The squared length is the mean inner product of PARTS means of different visits, which holds no noise of its own.
    Chance is what the same means give when their signs are drawn, which needs no law of large numbers: a few visits
    with large weights decide the length.
    """
    gradient_D = moments.gradient_PD.mean(0)
    noise = (moments.between + float(moments.error_P(moments.count_P.astype(float)).mean())) / len(moments.gradient_PD)
    signal = float(gradient_D @ gradient_D) - noise
    parts = np.array([part.mean(0) for part in np.array_split(drift_VD, min(PARTS, len(drift_VD)))])
    products = parts @ parts.T
    np.fill_diagonal(products, 0.0)
    pairs = len(parts) * (len(parts) - 1)
    squared = float(products.sum()) / pairs
    sign_FK = np.random.default_rng(0).choice((-1.0, 1.0), (FLIPS, len(parts)))
    chance = float(np.quantile(((sign_FK @ products) * sign_FK).sum(1) / pairs, 1 - CHANCE))
    is_biased = squared > chance + 1e-12 * float(gradient_D @ gradient_D)
    return (float(np.sqrt(max(squared, 0.0) / signal)) if signal > 0 else float("nan")), is_biased


def merits(
    judgements: Sequence[Judgement], moments: Moments, model: CostModel, *, reference: int = 0, seed: int = 0
) -> list[Merit]:
    """Every design relative to the one at ``reference``, with intervals over resampled prompts (paired)."""
    count = len(moments.count_P)
    draws_BP = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    between_B = np.array([moments.part(draw_P).between for draw_P in draws_BP])
    whole, resampled = [], []
    for one in judgements:
        cost_P = model.cost(one.counts_P)
        whole.append(merit(moments.between, one.error_P.mean(), cost_P.mean()))
        resampled.append(merit(between_B, one.error_P[draws_BP].mean(1), cost_P[draws_BP].mean(1)))
    rows = []
    for one, value, values_B in zip(judgements, whole, resampled, strict=True):
        low, high = np.quantile(values_B / resampled[reference], (0.025, 0.975))
        cost = float(model.cost(one.counts_P).mean())
        rows.append(
            Merit(one.name, float(value / whole[reference]), float(low), float(high), cost, float(one.error_P.mean()))
        )
    return rows
