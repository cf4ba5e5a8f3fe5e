"""Rule ``auto``: whether stopping pays, at which probe and how many, from the run's own outcomes. Numpy only.

Survivors of the last ``RECENT_STEPS`` steps are remembered, each counted 1/survival: squared advantage a, a stand-in s
for the squared size of the gradient, lengths. For survivals p that some probe and scale c would have given
(``moments.py``: p = clip(c sqrt(E[a s | probe] / cost still to come), min_survival, 1), or p = c for all), a group of G
would have added the noise

    V(p) = sum s / (p t) (a + b),      b = sum a (1/p - 1) / (G (G - 1))

b is what stopped siblings add to a baseline, t the probability of training in the lottery before the update
(``algorithms/thinning.py``). The merit of stopping beside keeping all is

    (S + V(1)) C(1) / ((S + V(p)) C(p)),      S = V(1) (G - 1) / noise_ratio^2

V and C of keeping all have the lottery of steps without stops, if any. S is the spread of gradients between prompts,
``noise_ratio`` = sigma_w / sigma_b as ``arrol advise`` measures it; without it S = 0, which is cautious. C counts
tokens written, tokens trained (a survivor below the mean trains where a sibling above it survived), and decode steps in
which at least one rollout of the step would still have run. p of a group comes from curves that were fitted without it
(two halves). The best choice by the lower end of a jackknife interval over groups counts, that of unequal survival
divided by ``UNLIKE_MARGIN``. While that is below ``MIN_MERIT``, or fewer than ``MIN_GROUPS`` groups are known, all are
kept. All of this describes correction ``ipw``: under ``doubly_robust`` groups of equal rewards train too.

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
"""Groups that must be known before it stops any, and groups with candidates before these survive unequally."""
UNLIKE_MARGIN = 1.05
"""What unequal survival must look better by than equal survival: the best of many curves looks better than it is."""
STANDARD_ERRORS = 1.645
"""Of the lower end: one-sided, 95 %."""
QUANTILES = np.arange(0.1, 1.01, 0.1)
"""Scales that are tried: candidates above this quantile of the size survive for certain."""
FRACTIONS = (0.7, 0.5, 0.35, 0.25)
"""Further scales, as fractions of the last of these."""
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Survivals that are tried for all candidates alike."""
TINY = 1e-12
STEP, GROUP, WEIGHT, ADVANTAGE, SIZE, TOKENS, SIGNAL = range(7)
"""Columns of the memory; signals of the probes from ``SIGNAL`` on, NaN where the rollout was no candidate."""


class Choice(NamedTuple):
    """What is done until the next step has been learnt from."""

    probe: int | None = None
    """None: all are kept."""
    scale: float = 0.0
    """Of the curve, or the survival of all alike."""
    is_alike: bool = False
    """All candidates survive with the same probability."""
    keep: float = 1.0
    """Expected share of the candidates that survive."""
    merit: float = float("nan")
    """Of the best probe and scale, also where it is not used."""
    low: float = float("nan")


class Thinning(NamedTuple):
    """Share of the lottery before the update, see :func:`arrol.algorithms.thinning.training_probability`; 0: none."""

    kept: float = 0.0
    """In steps without stops."""
    pruned: float = 0.0
    """In steps with stops."""


class AutoChoice:
    """What is known, and the choice that follows; the controller asks it."""

    def __init__(self, config: AutoRule, thinning: Thinning | None = None) -> None:
        self._config, self._thinning = config, thinning or Thinning()
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
        if self.choice.is_alike:
            return np.full(len(candidates.quality_C), max(self.choice.scale, self._config.min_survival))
        assert self._curve is not None
        return np.clip(self.choice.scale * self._curve.size(_signal(candidates)), self._config.min_survival, 1.0)

    def learn(self, groups: Sequence[RolloutGroup], contributions: Sequence[Contribution]) -> None:
        """The groups of one step, and what their rollouts contributed; then choose anew."""
        rows, blank_K = [], np.full(len(self._config.probe_tokens), np.nan)
        for number, (group, contribution) in enumerate(zip(groups, contributions, strict=True)):
            for rollout, advantage, size in zip(group.rollouts, *contribution, strict=True):
                if rollout.survived:
                    tokens = rollout.completion.num_tokens
                    signal_K = self._signals.get(rollout.rollout_id, blank_K)
                    step = rollout.rollout_id.step
                    rows.append([step, number, 1 / rollout.survival, advantage, size, tokens, *signal_K])
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
        best = max(tried, key=_lead)
        if _lead(best) < MIN_MERIT:
            self.choice = Choice(merit=best.merit, low=best.low)
            return
        rows = np.isfinite(self._memory[:, SIGNAL + cast(int, best.probe)])
        self.choice, self._curve = best, self._fitted(cast(int, best.probe), rows)

    def _fitted(self, probe: int, rows_N: np.ndarray) -> Curve:
        part = self._memory[rows_N]
        after_N = self._costs(probe, part)[1]
        squared_N = part[:, ADVANTAGE] ** 2 * part[:, SIZE]
        return fit(part[:, SIGNAL + probe], squared_N, after_N, part[:, WEIGHT])

    def _costs(self, probe: int, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cost up to the probe and after it, float64 ``[N]``; all of it is before where there was no candidate.

        Decode steps are shared equally by the rollouts that run in them.
        """
        is_candidate_N = np.isfinite(memory[:, SIGNAL + probe])
        start = float(self._config.probe_tokens[probe])
        generated, step = self._config.generated_price, self._config.step_price
        whole_N = generated * memory[:, TOKENS]
        whole_N = whole_N + self._config.trained_price * memory[:, TOKENS] * (memory[:, ADVANTAGE] != 0)
        before_N = np.minimum(generated * start, whole_N)
        if step:
            whole_N = whole_N + step * _step_shares(memory, np.inf)
            before_N = before_N + step * _step_shares(memory, start)
        before_N = np.where(is_candidate_N, before_N, whole_N)
        return before_N, whole_N - before_N

    def _best_at(self, probe: int) -> Choice | None:
        """The best scale at a probe; None where too little is known."""
        memory = self._memory
        is_candidate_N = np.isfinite(memory[:, SIGNAL + probe])
        group_N = np.unique(memory[:, [STEP, GROUP]], axis=0, return_inverse=True)[1].reshape(-1)
        if group_N.max(initial=-1) + 1 < MIN_GROUPS or not memory[is_candidate_N, ADVANTAGE].any():
            return None
        tried = [(share, True, np.full(len(memory), share)) for share in SHARES]
        if len(np.unique(group_N[is_candidate_N])) >= MIN_GROUPS:
            size_N = self._sizes(probe, group_N % 2)
            tried += [(scale, False, scale * size_N) for scale in _scales(size_N[is_candidate_N])]
        found = [
            one for one in (self._judged(probe, group_N, *t) for t in tried) if one.keep >= self._config.keep_ratio
        ]
        return max(found, key=_lead, default=None)

    def _sizes(self, probe: int, half_N: np.ndarray) -> np.ndarray:
        """float64 ``[N]``: what survival is proportional to, from the curve of the other half of the groups."""
        is_candidate_N = np.isfinite(self._memory[:, SIGNAL + probe])
        size_N = np.full(len(half_N), np.inf)
        for half in (0, 1):
            curve = self._fitted(probe, is_candidate_N & (half_N != half))
            judged_N = is_candidate_N & (half_N == half)
            size_N[judged_N] = curve.size(self._memory[judged_N, SIGNAL + probe])
        return size_N

    def _judged(self, probe: int, group_N: np.ndarray, scale: float, is_alike: bool, wanted_N: np.ndarray) -> Choice:
        """Merit of a survival beside keeping all, over what is remembered."""
        memory, weight_N = self._memory, self._memory[:, WEIGHT]
        is_candidate_N = np.isfinite(memory[:, SIGNAL + probe])
        survival_N = np.where(is_candidate_N, np.clip(wanted_N, self._config.min_survival, 1.0), 1.0)
        keep = float(np.average(survival_N[is_candidate_N], weights=weight_N[is_candidate_N]))
        noise_M, cost_M = self._outlook(probe, group_N, survival_N, self._thinning.pruned)
        full_M, whole_M = self._outlook(probe, group_N, np.ones(len(memory)), self._thinning.kept)
        if ratio := self._config.noise_ratio:
            plain_M = self._outlook(probe, group_N, np.ones(len(memory)), 0.0)[0]
            spread_M = plain_M * max(float(weight_N.sum()) / len(plain_M) - 1, 1.0) / ratio**2
            noise_M, full_M = noise_M + spread_M, full_M + spread_M
        merit, error = _merit(full_M, whole_M, noise_M, cost_M)
        return Choice(probe, scale, is_alike, keep, merit, merit * float(np.exp(-STANDARD_ERRORS * error)))

    def _outlook(
        self, probe: int, group_N: np.ndarray, survival_N: np.ndarray, share: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Noise and expected cost of each group, float64 ``[M]``, with a lottery of ``share`` before the update."""
        memory, weight_N, advantage_N = self._memory, self._memory[:, WEIGHT], self._memory[:, ADVANTAGE]
        count_M = np.maximum(np.bincount(group_N, weight_N), 2.0)
        lost_M = np.bincount(group_N, weight_N * advantage_N**2 * (1 / survival_N - 1))
        squared_N = advantage_N**2 + (lost_M / (count_M * (count_M - 1)))[group_N]
        rms = np.sqrt(np.average(squared_N / survival_N, weights=weight_N) / np.average(survival_N, weights=weight_N))
        trains_N = np.ones(len(memory))
        if share:
            trains_N = np.minimum(1.0, np.sqrt(squared_N) / survival_N / (share * rms))
        noise_N = memory[:, SIZE] * squared_N / (survival_N * np.maximum(trains_N, TINY))
        tokens_N = trains_N * survival_N * _may_train(group_N, weight_N, advantage_N, survival_N)
        cost_M = self._generation(probe, group_N, survival_N)
        cost_M += self._config.trained_price * np.bincount(group_N, weight_N * memory[:, TOKENS] * tokens_N)
        return np.bincount(group_N, weight_N * noise_N), cost_M

    def _generation(self, probe: int, group_N: np.ndarray, survival_N: np.ndarray) -> np.ndarray:
        """float64 ``[M]``: expected cost of writing each group; a step's decode steps are shared by its groups."""
        memory, config = self._memory, self._config
        start = float(config.probe_tokens[probe])
        written_N = memory[:, TOKENS] - (1 - survival_N) * np.maximum(memory[:, TOKENS] - start, 0)
        cost_M = config.generated_price * np.bincount(group_N, memory[:, WEIGHT] * written_N)
        if config.step_price:
            step_M = np.zeros(len(cost_M))
            step_M[group_N] = memory[:, STEP]
            for step in np.unique(step_M):
                rows_N = memory[:, STEP] == step
                tokens_N = np.where(survival_N < 1, np.maximum(memory[:, TOKENS], start), memory[:, TOKENS])
                steps = _decode_steps(tokens_N[rows_N], survival_N[rows_N], memory[rows_N, WEIGHT], start)
                cost_M[step_M == step] += config.step_price * steps / (step_M == step).sum()
        return cost_M

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


def _may_train(
    group_N: np.ndarray, weight_N: np.ndarray, advantage_N: np.ndarray, survival_N: np.ndarray
) -> np.ndarray:
    """float64 ``[N]``: probability that a survivor's advantage is not 0.

    One below the mean has no advantage where every sibling above the mean was stopped.
    """
    with np.errstate(divide="ignore"):
        gone_N = np.where(advantage_N > 0, weight_N * np.log1p(-survival_N), 0.0)
    gone_M = np.exp(np.bincount(group_N, gone_N))
    return np.where(advantage_N < 0, 1 - gone_M[group_N], advantage_N > 0)


def _decode_steps(tokens_N: np.ndarray, survival_N: np.ndarray, weight_N: np.ndarray, start: float) -> float:
    """Expected decode steps of one step, whose rollouts survive ``start`` tokens independently."""
    order = np.argsort(-tokens_N, kind="stable")
    tokens_N, stays_N = tokens_N[order], survival_N[order]
    with np.errstate(divide="ignore"):
        runs_N = 1 - np.exp(np.cumsum(weight_N[order] * np.log1p(-stays_N)))
    beyond_N = np.maximum(tokens_N, start)
    drops_N = beyond_N - np.append(beyond_N[1:], start)
    return float(min(tokens_N[0], start) + (runs_N * drops_N).sum())


def _step_shares(memory: np.ndarray, until: float) -> np.ndarray:
    """float64 ``[N]``: each rollout's share of its step's decode steps up to ``until``."""
    share_N = np.zeros(len(memory))
    for step in np.unique(memory[:, STEP]):
        rows = np.flatnonzero(memory[:, STEP] == step)
        rows = rows[np.argsort(memory[rows, TOKENS], kind="stable")]
        tokens_N = np.minimum(memory[rows, TOKENS], until)
        running_N = np.cumsum(memory[rows, WEIGHT][::-1])[::-1]
        share_N[rows] = np.cumsum(np.diff(tokens_N, prepend=0.0) / running_N)
    return share_N


def _lead(choice: Choice) -> float:
    """What choices are compared by."""
    return choice.low if choice.is_alike else choice.low / UNLIKE_MARGIN


def _merit(full_M: np.ndarray, whole_M: np.ndarray, noise_M: np.ndarray, cost_M: np.ndarray) -> tuple[float, float]:
    """Merit beside keeping all, and the standard error of its logarithm (jackknife over groups, first order)."""
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
