"""Rule ``auto``: whether stopping pays, at which probe and how many, from the run's own outcomes. Numpy only.

Survivors of the last ``RECENT_STEPS`` steps are remembered, each counted 1/survival. For survivals p that some probe
and scale c would have given (``moments.py``: p = clip(c sqrt(E[squared contribution | probe] / cost still to come),
min_survival, 1), or p = c for all) ``outlook.py`` says what noise V and cost C they would have had. The merit of
stopping relative to keeping all is

    (S + V(1)) C(1) / ((S + V(p)) C(p)),      S = V(1) (G - 1) / noise_ratio^2

S is the spread of gradients between prompts, ``noise_ratio`` = sigma_w / sigma_b as ``arrol advise`` measures it;
without it S = 0, which is cautious. p of a group comes from curves that were fitted without it (two halves). The best
choice by the lower end of a jackknife interval over groups counts, that of unequal survival divided by
``UNLIKE_MARGIN``. While that is below ``MIN_MERIT``, or fewer than ``MIN_GROUPS`` groups are known, all are kept.

The lottery before the update (``algorithms/thinning.py``) is chosen the same way, before any stop: the share of largest
merit relative to no lottery, in all steps. Stops are compared with keeping all under the same lottery.

Nothing is stopped in order to learn: where all are kept every outcome is seen, and elsewhere survivors, weighted, show
what every probe and scale would have done. All of this describes correction ``ipw``: under ``doubly_robust`` groups of
equal rewards train too. Legend: ``N`` survivors, ``K`` probes, ``C`` candidates, ``M`` groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np

from arrol.configs.method import AutoRule
from arrol.pruning.moments import Curve, fit
from arrol.pruning.outlook import Outlook, Past, Prices, costs, outlook
from arrol.pruning.survival import Candidates, candidate_weight
from arrol.types import Contribution, RolloutGroup, RolloutId, State

RECENT_STEPS = 16
"""Steps that are remembered, more where they have fewer than ``MIN_GROUPS`` groups: the policy moves on."""
SHRINKAGE = 4.0
"""Pseudo-rollouts by which a prompt's history pulls its group's mean quality in the signal."""
MIN_MERIT = 1.02
"""All are kept while the lower end of the merit is below it."""
MIN_GROUPS = 64
"""Groups that must be known before it stops any, and groups with candidates before these survive unequally."""
UNLIKE_MARGIN = 1.05
"""What unequal survival must look better by than equal survival: the best of many curves looks better than it is."""
STANDARD_ERRORS = 1.645
"""Standard errors between a merit and its lower end: one-sided, 95 %."""
QUANTILES = np.arange(0.1, 1.01, 0.1)
"""Scales that are tried: candidates above this quantile of the size survive for certain."""
FRACTIONS = (0.7, 0.5, 0.35, 0.25)
"""Further scales, as fractions of the last of these."""
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Survivals that are tried for all candidates alike."""
LOTTERIES = (0.25, 0.5, 1.0)
"""Shares of the lottery before the update that are tried."""
STEP, GROUP, WEIGHT, ADVANTAGE, SIZE, TOKENS, SIGNAL = range(7)
"""Columns of the memory; signals of the probes from ``SIGNAL`` on, NaN where the rollout was no candidate."""


class Choice(NamedTuple):
    """What is done until the next step has been learnt from."""

    probe: int | None = None
    """None: all are kept."""
    scale: float = 0.0
    """Scale of the curve, or the survival of all alike."""
    is_alike: bool = False
    """All candidates survive with the same probability."""
    keep: float = 1.0
    """Expected share of the candidates that survive."""
    merit: float = float("nan")
    """Merit of the best probe and scale, also where it is not used."""
    low: float = float("nan")
    lottery: float = 0.0
    """Share of the lottery before the update; 0: none."""
    lottery_merit: float = float("nan")
    """Merit of the best share, also where it is not used."""


class Thinning(NamedTuple):
    """Share of the lottery before the update, see :func:`arrol.algorithms.thinning.training_probability`; 0: none."""

    kept: float = 0.0
    """In steps without stops."""
    pruned: float = 0.0
    """In steps with stops."""
    is_chosen: bool = False
    """The rule chooses one share for all steps instead."""


class _Tried(NamedTuple):
    """A survival that might be given."""

    probe: int
    scale: float
    """Of the curve, or the survival of all alike."""
    survival_N: np.ndarray
    """Before bounds, float64."""
    unknown_N: np.ndarray | None = None
    """What may be missing in the squared contribution that the curve has seen, float64; None: all survive alike."""


class _Beside(NamedTuple):
    """What stopping is compared with."""

    kept: Outlook
    """Outlook of keeping all, with the lottery before the update."""
    spread_M: np.ndarray
    """The spread between prompts as a part of each group, float64 ``[M]``."""
    thinning: float
    """Share of the lottery in steps with stops."""


class AutoChoice:
    """What is known, and the choice that follows; the controller asks it."""

    def __init__(self, config: AutoRule, thinning: Thinning | None = None) -> None:
        self._config, self._thinning = config, thinning or Thinning()
        self._prices = Prices(config.generated_price, config.trained_price, config.step_price)
        self._memory = np.zeros((0, SIGNAL + len(config.probe_tokens)))
        self._signals: dict[RolloutId, np.ndarray] = {}
        """Signals of candidates whose outcome is not known yet, float64 ``[K]``."""
        self._curve: Curve | None = None
        self.choice = Choice()

    def note(self, ids: Sequence[RolloutId], probe: int, candidates: Candidates) -> None:
        """Candidates at a probe, before they are drawn."""
        for rollout_id, signal in zip(ids, _signal(candidates), strict=True):
            blank_K = np.full(len(self._config.probe_tokens), np.nan)
            self._signals.setdefault(rollout_id, blank_K)[probe] = signal

    @property
    def signals(self) -> Mapping[RolloutId, np.ndarray]:
        """float64 ``[K]`` of each candidate since the last step was learnt from; NaN where it reached no probe."""
        return self._signals

    def hear(self, signals: Mapping[RolloutId, np.ndarray]) -> None:
        """Candidates whose probes another process has seen."""
        self._signals.update(signals)

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
            self._memory = self._memory[self._memory[:, STEP] >= self._first_step()]
        self._choose()

    def _first_step(self) -> float:
        """The oldest step that is remembered: ``RECENT_STEPS`` steps, more where these have too few groups."""
        groups = np.unique(self._memory[:, [STEP, GROUP]], axis=0)
        enough = groups[-MIN_GROUPS:, 0].min()
        return float(min(groups[-1, 0] - RECENT_STEPS + 1, enough))

    def _choose(self) -> None:
        self.choice, self._curve = Choice(), None
        past = self._past(self._memory)
        if past.group_N.max(initial=-1) + 1 < MIN_GROUPS or not past.advantage_N.any():
            return
        spread_M = self._spread(past)
        thinning, lottery_merit = self._lottery(past, spread_M)
        kept = outlook(past, np.ones(len(past.weight_N)), 0.0, self._prices, thinning.kept)
        beside = _Beside(kept, spread_M, thinning.pruned)
        found = [one for probe in range(len(self._config.probe_tokens)) for one in self._tried(past, probe)]
        judged = [self._judged(past, one, beside) for one in found]
        best = max((one for one in judged if one.keep >= self._config.keep_ratio), key=_lead, default=None)
        if best is not None and _lead(best) >= MIN_MERIT:
            self.choice, probe = best, cast(int, best.probe)
            self._curve = self._fitted(probe, self._is_candidate(probe))
        elif best is not None:
            self.choice = best._replace(probe=None, scale=0.0, keep=1.0)
        if thinning.is_chosen:
            self.choice = self.choice._replace(lottery=thinning.kept, lottery_merit=lottery_merit)

    def _lottery(self, past: Past, spread_M: np.ndarray) -> tuple[Thinning, float]:
        """The shares in force; where they are chosen here, the best one, and its merit relative to no lottery."""
        if not self._thinning.is_chosen:
            return self._thinning, float("nan")
        everyone_N = np.ones(len(past.weight_N))
        plain = outlook(past, everyone_N, 0.0, self._prices, 0.0)
        judged = []
        for share in LOTTERIES:
            found = outlook(past, everyone_N, 0.0, self._prices, share)
            merit, error = _merited(plain, found, spread_M)
            judged.append((merit * float(np.exp(-STANDARD_ERRORS * error)), merit, share))
        low, merit, share = max(judged)
        share = share if low >= MIN_MERIT else 0.0
        return Thinning(share, share, is_chosen=True), merit

    def _past(self, memory: np.ndarray) -> Past:
        group_N = np.unique(memory[:, [STEP, GROUP]], axis=0, return_inverse=True)[1].reshape(-1)
        columns = (memory[:, column] for column in (WEIGHT, ADVANTAGE, SIZE, TOKENS))
        return Past(memory[:, STEP], group_N, *columns)

    def _is_candidate(self, probe: int) -> np.ndarray:
        return np.isfinite(self._memory[:, SIGNAL + probe])

    def _spread(self, past: Past) -> np.ndarray:
        """The spread between prompts as a part of each group, float64 ``[M]``."""
        noise_M = outlook(past, np.ones(len(past.weight_N)), 0.0, self._prices, 0.0).noise_M
        if not self._config.noise_ratio:
            return np.zeros(len(noise_M))
        group_size = float(past.weight_N.sum()) / len(noise_M)
        return noise_M * max(group_size - 1, 1.0) / self._config.noise_ratio**2

    def _tried(self, past: Past, probe: int) -> Iterator[_Tried]:
        is_candidate_N = self._is_candidate(probe)
        if not is_candidate_N.any():
            return
        for share in SHARES:
            yield _Tried(probe, share, np.full(len(is_candidate_N), share))
        if len(np.unique(past.group_N[is_candidate_N])) < MIN_GROUPS:
            return
        size_N, half_N = np.full(len(is_candidate_N), np.inf), past.group_N % 2
        unknown_N = np.zeros(len(is_candidate_N))
        for half in (0, 1):
            curve = self._fitted(probe, is_candidate_N & (half_N != half))
            judged_N = is_candidate_N & (half_N == half)
            signal_C = self._memory[judged_N, SIGNAL + probe]
            size_N[judged_N], unknown_N[judged_N] = curve.size(signal_C), curve.unknown(signal_C)
        for scale in _scales(size_N[is_candidate_N]):
            yield _Tried(probe, scale, scale * size_N, unknown_N)

    def _fitted(self, probe: int, rows_N: np.ndarray) -> Curve:
        part = self._memory[rows_N]
        past = self._past(part)
        after_N = costs(past, float(self._config.probe_tokens[probe]), self._prices)[1]
        return fit(part[:, SIGNAL + probe], past.advantage_N**2 * past.size_N, after_N, past.weight_N)

    def _judged(self, past: Past, tried: _Tried, beside: _Beside) -> Choice:
        """Merit of a survival relative to keeping all, over what is remembered.

        Rollouts that contribute rarely, and then much, may be missing in it. So where some survive less often than
        others, the noise holds what may be missing, with their weights.
        """
        is_candidate_N = self._is_candidate(tried.probe)
        survival_N = np.where(is_candidate_N, np.clip(tried.survival_N, self._config.min_survival, 1.0), 1.0)
        keep = float(np.average(survival_N[is_candidate_N], weights=past.weight_N[is_candidate_N]))
        start = float(self._config.probe_tokens[tried.probe])
        found = outlook(past, survival_N, start, self._prices, beside.thinning)
        if tried.unknown_N is not None:
            unknown_N = past.weight_N * tried.unknown_N * (1 / survival_N - 1)
            found = found._replace(noise_M=found.noise_M + np.bincount(past.group_N, unknown_N))
        merit, error = _merited(beside.kept, found, beside.spread_M)
        low = merit * float(np.exp(-STANDARD_ERRORS * error))
        return Choice(tried.probe, tried.scale, tried.unknown_N is None, keep, merit, low)

    @property
    def thinning(self) -> float | None:
        """Share of the lottery in the next step; None where the config says it."""
        return self.choice.lottery if self._thinning.is_chosen else None

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
            **(
                {"pruning/auto/lottery": self.choice.lottery, "pruning/auto/lottery_merit": self.choice.lottery_merit}
                if self._thinning.is_chosen
                else {}
            ),
        }


def _lead(choice: Choice) -> float:
    """What choices are compared by."""
    return choice.low if choice.is_alike else choice.low / UNLIKE_MARGIN


def _merited(kept: Outlook, found: Outlook, spread_M: np.ndarray) -> tuple[float, float]:
    """Merit relative to keeping all, and the standard error of its logarithm (jackknife over groups, first order)."""
    columns = kept.noise_M + spread_M, found.noise_M + spread_M, kept.cost_M, found.cost_M
    full, noise, whole, cost = (float(column.sum()) for column in columns)
    change_M = columns[0] / full + columns[2] / whole - columns[1] / noise - columns[3] / cost
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
