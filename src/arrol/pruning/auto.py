"""Rule ``auto``: whether stopping pays, at which probe and how many, from the run's own outcomes. Numpy only.

Survivors of the last ``RECENT_STEPS`` steps are remembered, each counted 1/survival. With squared contributions m and
survivals p that some probe and scale c would have given (``moments.py``: p = clip(c sqrt(E[m | probe] / cost still to
come), min_survival, 1)), the merit of stopping beside keeping everything is

    sum m C(1) / (sum m / p C(p)),      C(p) = cost before the probe + sum p x cost still to come

The spread of gradients between prompts is left out, which makes the estimate cautious: noise within prompts is taken
for all the noise there is. The noise that stopped siblings add to a baseline is left out too, which is not. p of a
group comes from curves that were fitted without it (two halves). The best choice by the lower end of a jackknife
interval over groups counts; while that end is below ``MIN_MERIT``, or fewer than ``MIN_GROUPS`` groups are known, all
are kept.

Nothing is stopped in order to learn: where all are kept every outcome is seen, and elsewhere survivors, weighted, show
what every probe and scale would have done. Legend: ``N`` survivors, ``K`` probes, ``C`` candidates, ``M`` groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from arrol.configs.method import AutoRule
from arrol.pruning.moments import Curve, fit
from arrol.pruning.survival import Candidates, candidate_weight
from arrol.types import Contribution, RolloutGroup, RolloutId, State

RECENT_STEPS = 16
"""Steps that are remembered: the policy moves on."""
SHRINKAGE = 4.0
"""Pseudo-rollouts by which a prompt's history pulls its group's mean quality in the signal."""
MIN_MERIT = 1.02
"""All are kept while the lower end of the merit is below it."""
MIN_GROUPS = 64
"""Groups with candidates that must be known before it stops any."""
STANDARD_ERRORS = 1.645
"""Of the lower end: one-sided, 95 %."""
QUANTILES = np.arange(0.1, 1.01, 0.1)
"""Scales that are tried: candidates above this quantile of the size survive for certain."""
FRACTIONS = (0.7, 0.5, 0.35, 0.25)
"""Further scales, as fractions of the last of these."""
STEP, GROUP, WEIGHT, SQUARED, TOKENS, TRAINED, SIGNAL = range(7)
"""Columns of the memory; signals of the probes from ``SIGNAL`` on, NaN where the rollout was no candidate."""


class Choice(NamedTuple):
    """What is done until the next step has been learnt from."""

    probe: int | None = None
    """None: all are kept."""
    scale: float = 0.0
    keep: float = 1.0
    """Expected share of the candidates that survive."""
    merit: float = float("nan")
    """Of the best probe and scale, also where it is not used."""
    low: float = float("nan")


class AutoChoice:
    """What is known, and the choice that follows; the controller asks it."""

    def __init__(self, config: AutoRule) -> None:
        self._config = config
        self._memory = np.zeros((0, SIGNAL + len(config.probe_tokens)))
        self._signals: dict[RolloutId, np.ndarray] = {}
        """Of candidates whose outcome is not known yet, float64 ``[K]``."""
        self._curve: Curve | None = None
        self.choice = Choice()

    def note(self, ids: Sequence[RolloutId], probe: int, candidates: Candidates) -> None:
        """Candidates at a probe, before they are drawn."""
        for rollout_id, signal in zip(ids, _signal(candidates), strict=True):
            blank_K = np.full(len(self._config.probe_tokens), np.nan)
            self._signals.setdefault(rollout_id, blank_K)[probe] = signal

    def stops_at(self, probe: int) -> bool:
        return self.choice.probe == probe

    def survival(self, candidates: Candidates) -> np.ndarray:
        """float64 ``[C]``, of candidates at the probe that was chosen."""
        assert self._curve is not None
        return np.clip(self.choice.scale * self._curve.size(_signal(candidates)), self._config.min_survival, 1.0)

    def learn(self, groups: Sequence[RolloutGroup], contributions: Sequence[Contribution]) -> None:
        """The groups of one step, and what their rollouts contributed; then choose anew."""
        rows, blank_K = [], np.full(len(self._config.probe_tokens), np.nan)
        for number, (group, contribution) in enumerate(zip(groups, contributions, strict=True)):
            for rollout, squared, trains in zip(group.rollouts, *contribution, strict=True):
                if rollout.survived:
                    tokens = rollout.completion.num_tokens
                    signal_K = self._signals.get(rollout.rollout_id, blank_K)
                    step = rollout.rollout_id.step
                    rows.append([step, number, 1 / rollout.survival, squared, tokens, trains * tokens, *signal_K])
        self._signals = {}
        if rows:
            self._memory = np.concatenate([self._memory, np.array(rows, float)])
            oldest = self._memory[-1, STEP] - RECENT_STEPS
            self._memory = self._memory[self._memory[:, STEP] > oldest]
        self._choose()

    def _choose(self) -> None:
        self.choice, self._curve = Choice(), None
        tried = [one for probe in range(len(self._config.probe_tokens)) if (one := self._best_at(probe))]
        if not tried:
            return
        best = max(tried, key=lambda one: one.low)
        if best.low < MIN_MERIT:
            self.choice = Choice(merit=best.merit, low=best.low)
            return
        rows = np.isfinite(self._memory[:, SIGNAL + cast(int, best.probe)])
        self.choice, self._curve = best, self._fitted(cast(int, best.probe), rows)

    def _fitted(self, probe: int, rows_N: np.ndarray) -> Curve:
        part = self._memory[rows_N]
        after_N = self._costs(probe, part)[1]
        return fit(part[:, SIGNAL + probe], part[:, SQUARED], after_N, part[:, WEIGHT])

    def _costs(self, probe: int, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cost up to the probe and after it, float64 ``[N]``; all of it is before where there was no candidate."""
        is_candidate_N = np.isfinite(memory[:, SIGNAL + probe])
        whole_N = self._config.generated_price * memory[:, TOKENS] + self._config.trained_price * memory[:, TRAINED]
        start = self._config.generated_price * self._config.probe_tokens[probe]
        before_N = np.where(is_candidate_N, np.minimum(start, whole_N), whole_N)
        return before_N, whole_N - before_N

    def _best_at(self, probe: int) -> Choice | None:
        """The best scale at a probe; None where too little is known."""
        memory, weight_N = self._memory, self._memory[:, WEIGHT]
        is_candidate_N = np.isfinite(memory[:, SIGNAL + probe])
        _, group_N = np.unique(memory[:, [STEP, GROUP]], axis=0, return_inverse=True)
        group_N = group_N.reshape(-1)
        if len(np.unique(group_N[is_candidate_N])) < MIN_GROUPS or not (weight_N * memory[:, SQUARED]).sum():
            return None
        half_N = group_N % 2
        size_N = np.full(len(memory), np.inf)
        for half in (0, 1):
            curve = self._fitted(probe, is_candidate_N & (half_N != half))
            judged_N = is_candidate_N & (half_N == half)
            size_N[judged_N] = curve.size(memory[judged_N, SIGNAL + probe])
        before_N, after_N = self._costs(probe, memory)
        best = None
        for scale in _scales(size_N[is_candidate_N]):
            survival_N = np.where(is_candidate_N, np.clip(scale * size_N, self._config.min_survival, 1.0), 1.0)
            keep = float(np.average(survival_N[is_candidate_N], weights=weight_N[is_candidate_N]))
            if keep < self._config.keep_ratio:
                continue
            merit, error = _merit(
                group_N, weight_N, memory[:, SQUARED], survival_N, before_N + after_N, before_N + survival_N * after_N
            )
            low = merit * float(np.exp(-STANDARD_ERRORS * error))
            if best is None or low > best.low:
                best = Choice(probe, scale, keep, merit, low)
        return best

    def save(self) -> State:
        """The memory; the choice follows from it."""
        return {"memory": self._memory}

    def load(self, state: State) -> None:
        self._memory = np.asarray(state["memory"], float).reshape(-1, self._memory.shape[1])
        self._signals = {}
        self._choose()

    def metrics(self) -> dict[str, float]:
        """The choice for the next step, and why."""
        probe, tokens = self.choice.probe, self._config.probe_tokens
        return {
            "pruning/auto/groups": float(len(np.unique(self._memory[:, [STEP, GROUP]], axis=0))),
            "pruning/auto/probe_tokens": 0.0 if probe is None else float(tokens[probe]),
            "pruning/auto/keep": self.choice.keep,
            "pruning/auto/merit": self.choice.merit,
            "pruning/auto/merit_low": self.choice.low,
        }


def _merit(
    group_N: np.ndarray,
    weight_N: np.ndarray,
    squared_N: np.ndarray,
    survival_N: np.ndarray,
    whole_N: np.ndarray,
    cost_N: np.ndarray,
) -> tuple[float, float]:
    """Merit beside keeping all, and the standard error of its logarithm (jackknife over groups, first order)."""
    columns = (squared_N, squared_N / survival_N, whole_N, cost_N)
    full_M, noise_M, whole_M, cost_M = (np.bincount(group_N, weight_N * column) for column in columns)
    full, noise, whole, cost = (float(column.sum()) for column in (full_M, noise_M, whole_M, cost_M))
    change_M = full_M / full + whole_M / whole - noise_M / noise - cost_M / cost
    return full * whole / (noise * cost), float(np.sqrt((change_M**2).sum()))


def _signal(candidates: Candidates) -> np.ndarray:
    """float64 ``[C]``: squared advantage that quality and success rate predict."""
    return candidate_weight(candidates, SHRINKAGE) ** 2


def _scales(size_C: np.ndarray) -> list[float]:
    """Scales to try, the largest first; without a scale that keeps all."""
    largest = float(size_C.max())
    if not largest:
        return []
    tops = np.unique(np.maximum(np.quantile(size_C, QUANTILES), 1e-12 * largest))
    return [*(1 / tops).tolist(), *(fraction / largest for fraction in FRACTIONS)]
