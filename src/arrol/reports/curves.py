"""Arrays of a run's metrics, for tables and plots.

1. Time is training without evaluation.
2. Numbers of the rule and the head leave the warm-up steps out, unless the run ended within them.

Legend: ``T`` steps, ``E`` evaluations of a run, ``R`` runs of an arm, ``N`` rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from arrol.records.schema import RolloutRecord, StepRecord
from arrol.records.store import Run, success_of
from arrol.stats import wilson_interval

BASELINES = ("trl", "verl", "grpo", "never")
"""Names of the arm that others are compared with: a host alone, or an unpruned arm."""
PHASES = ("generate", "verify", "estimate", "learn", "other")
CERTAIN_REASONS = ("", "warmup", "rule_never", "no_score", "rescue", "outcome")
"""Reasons of decisions without a draw."""


@dataclass(frozen=True)
class EvalCurve:
    """Accuracy of one run against what it had cost by then; NaN costs where no step recorded them."""

    steps_E: np.ndarray
    accuracy_E: np.ndarray
    train_s_E: np.ndarray
    tokens_E: np.ndarray
    flops_E: np.ndarray


def runs_by_arm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs grouped by arm, the unpruned one first, the others in the order they were started; seeds ascend."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.run.started_at, run.run.arm)):
        groups.setdefault(run.run.arm, []).append(run)
    first = next((arm for arm in BASELINES if arm in groups), None)
    if first is None:
        unpruned = (arm for arm, members in groups.items() if arm != "small_group" and rule_of(members[0]) == "never")
        first = next(unpruned, None)
    order = sorted(groups, key=lambda arm: arm != first)
    return {arm: sorted(groups[arm], key=lambda run: run.run.seed) for arm in order}


def rule_of(run: Run) -> str:
    """Survival rule of the run's config, empty where it names none."""
    return str(run.run.section("pruning").get("rule", ""))


def ran_without_head(run: Run) -> bool:
    """An ``oracle`` run with correction ``doubly_robust`` whose decisions carried no score, so that it ran as ``ipw``.

    A published record has no rollouts to show that; there the old name of the config's key tells, ``estimator`` instead
    of ``correction``: the trainer of that time took the scores from every oracle run.
    """
    algorithm = run.run.section("algorithm")
    if rule_of(run) != "oracle" or not algorithm:
        return False
    if algorithm.get("correction", algorithm.get("estimator")) != "doubly_robust":
        return False
    drawn = [row for row in run.rollouts if row.reason == "outcome"]
    return all(math.isnan(row.score) for row in drawn) if drawn else "correction" not in algorithm


def step_seconds(step: StepRecord) -> float:
    """Wall time of a training step without evaluation; the sum of its phases where the whole was not recorded."""
    phases = [step.metrics.get(f"time/{phase}_s", math.nan) for phase in ("generate", "verify", "estimate", "learn")]
    total = step.metrics.get("time/step_s", math.nan)
    return float(np.nansum(phases)) if math.isnan(total) and not np.isnan(phases).all() else total


def step_metric(key: str) -> Callable[[StepRecord], float]:
    """Reads one metric of a step, NaN where it was not recorded."""
    return lambda step: step.metrics.get(key, math.nan)


def warmup_steps(run: Run) -> int:
    """Warm-up steps of the run's rule, 0 where its config does not say."""
    steps = run.run.section("pruning").get("warmup_steps", 0)
    return steps if isinstance(steps, int) else 0


def after_warmup(run: Run) -> list[StepRecord]:
    """Steps after the warm-up; all steps when the run ended within it."""
    warmup = warmup_steps(run)
    return [step for step in run.steps if step.step > warmup] or list(run.steps)


def rollouts_after_warmup(run: Run) -> list[RolloutRecord]:
    """Rollouts of those steps."""
    warmup = warmup_steps(run)
    return [row for row in run.rollouts if row.step > warmup] or list(run.rollouts)


def eval_curve(run: Run) -> EvalCurve:
    """The run's evaluations with the training time, the generated tokens and the compute they had cost."""
    steps_E = np.array([record.step for record in run.evals], int)
    return EvalCurve(
        steps_E=steps_E,
        accuracy_E=np.array([record.accuracy for record in run.evals], float),
        train_s_E=cost_until(run, step_seconds, steps_E),
        tokens_E=cost_until(run, step_metric("tokens/generated"), steps_E),
        flops_E=cost_until(run, step_metric("compute/flops"), steps_E),
    )


def cost_to_target(cost_E: np.ndarray, accuracy_E: np.ndarray, target: float) -> float:
    """Cost at which the accuracy first reaches the target; inf when it never does, NaN when the costs are unknown."""
    if not cost_E.size or np.isnan(cost_E).any():
        return math.nan
    reached = np.flatnonzero(accuracy_E >= target)
    if not reached.size:
        return math.inf
    at = int(reached[0])
    if at == 0:
        return float(cost_E[0])
    share = (target - accuracy_E[at - 1]) / (accuracy_E[at] - accuracy_E[at - 1])
    return float(cost_E[at - 1] + share * (cost_E[at] - cost_E[at - 1]))


def cost_until(run: Run, cost: Callable[[StepRecord], float], steps_E: np.ndarray) -> np.ndarray:
    """Summed cost of the steps up to each of ``steps_E``; NaN everywhere when no step recorded it."""
    costs = np.array([cost(step) for step in run.steps], float)
    if not costs.size or np.isnan(costs).all():
        return np.full(steps_E.shape, math.nan)
    total = np.concatenate([[0.0], np.nancumsum(costs)])
    return total[np.searchsorted([step.step for step in run.steps], steps_E, side="right")]


def aligned(runs: Sequence[Run], key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps ``[T]`` and the metric ``[R, T]``, NaN where a run lacks it; None when no run has it."""
    found = [
        {step.step: value for step in run.steps if not math.isnan(value := step.metrics.get(key, math.nan))}
        for run in runs
    ]
    steps = sorted(set().union(*found))
    if not steps:
        return None
    values_RT = np.array([[row.get(step, math.nan) for step in steps] for row in found if row])
    return np.array(steps, float), values_RT


def mean_evals(runs: Sequence[Run], costs: Sequence[str] = ("train_s_E", "tokens_E")) -> tuple[np.ndarray, ...] | None:
    """Steps, costs (means over seeds) and accuracies ``[R, E]`` at the evaluations that all seeds share."""
    curves = [curve for curve in map(eval_curve, runs) if curve.steps_E.size > 1] or [
        curve for curve in map(eval_curve, runs) if curve.steps_E.size
    ]
    return mean_curve(curves, costs) if curves else None


def mean_curve(curves: Sequence[EvalCurve], costs: Sequence[str]) -> tuple[np.ndarray, ...]:
    """The same of curves; ``costs`` names their fields."""
    shared = sorted(set.intersection(*(set(curve.steps_E.tolist()) for curve in curves)))
    rows = [np.searchsorted(curve.steps_E, shared) for curve in curves]
    *spent, accuracy_RE = (
        np.array([getattr(curve, column)[row] for curve, row in zip(curves, rows, strict=True)])
        for column in (*costs, "accuracy_E")
    )
    return np.array(shared, float), *(cost_RE.mean(0) for cost_RE in spent), accuracy_RE


def mean_rewards(runs: Sequence[Run]) -> tuple[np.ndarray, ...] | None:
    """Steps, seconds and tokens (means over seeds) and smoothed success shares ``[R, T]``."""
    found = aligned(runs, "rollout/success_frac_before")
    if found is None:
        return None
    steps_T, values_RT = found
    costs = []
    for cost in (step_seconds, step_metric("tokens/generated")):
        per_run = [{step.step: cost(step) for step in run.steps} for run in runs]
        table_RT = np.array([[row.get(int(step), math.nan) for step in steps_T] for row in per_run])
        mean_T = column_mean(table_RT)
        costs.append(mean_T if np.isnan(mean_T).all() else np.nancumsum(mean_T))
    return steps_T, *costs, np.array([smoothed(row) for row in values_RT])


def smoothed(values_T: np.ndarray) -> np.ndarray:
    """Centred moving average over about a twelfth of the steps; NaN stays NaN."""
    reach = len(values_T) // 25
    known = ~np.isnan(values_T)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values_T, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    low = np.maximum(np.arange(len(values_T)) - reach, 0)
    high = np.minimum(np.arange(len(values_T)) + reach + 1, len(values_T))
    means = (sums[high] - sums[low]) / np.maximum(counts[high] - counts[low], 1)
    return np.where(known, means, np.nan)


def column_mean(values_RT: np.ndarray) -> np.ndarray:
    """Mean over runs, NaN where no run has a value (without numpy's warning)."""
    count = (~np.isnan(values_RT)).sum(axis=0)
    return np.where(count > 0, np.nansum(values_RT, axis=0) / np.maximum(count, 1), np.nan)


def reliability_table(runs: Sequence[Run], num_bins: int = 10) -> list[dict[str, float]]:
    """Bins of predicted quality with the weighted share that ended right; empty bins left out.

    A survivor has weight ``1/survival``; where the outcome decided (``oracle``) every rollout was verified, so each has
    weight 1. Intervals are Wilson's at the effective number ``(sum w)^2 / sum w^2``.
    """
    judged = [
        (row.quality, right, 1.0 if row.reason == "outcome" else 1 / row.survival)
        for run in runs
        for row in rollouts_after_warmup(run)
        if row.reward is not None and row.survival > 0
        for success in [success_of(run.run, row)]
        for right in [row.reward if success is None else success]
        if math.isfinite(row.quality + right)
    ]
    if not judged:
        return []
    quality_N, right_N, weight_N = np.array(judged, float).T
    bin_N = np.clip((quality_N * num_bins).astype(int), 0, num_bins - 1)
    rows = []
    for index in np.unique(bin_N):
        here = bin_N == index
        weight, right = weight_N[here], float(np.average(right_N[here], weights=weight_N[here]))
        effective = weight.sum() ** 2 / np.square(weight).sum()
        low, high = wilson_interval(min(max(right, 0.0), 1.0) * effective, effective)
        quality = float(np.average(quality_N[here], weights=weight))
        rows.append({"quality": quality, "right": right, "low": low, "high": high, "weight": float(weight.sum())})
    return rows


def phase_means(runs: Sequence[Run]) -> dict[str, float]:
    """Mean seconds per step of each phase, 0 where unknown; ``other`` is what the phases leave of the step."""
    steps = [step for run in runs for step in run.steps]
    table = [[step.metrics.get(f"time/{phase}_s", math.nan) for phase in PHASES[:-1]] for step in steps]
    table = [[*row, step_seconds(step)] for row, step in zip(table, steps, strict=True)]
    *phases, whole = np.nan_to_num(column_mean(np.array(table or [[math.nan] * len(PHASES)], float))).tolist()
    return dict(zip(PHASES, [*phases, max(0.0, whole - math.fsum(phases))], strict=True))


def was_at_risk(row: RolloutRecord) -> bool:
    """The draw, or the floor of survivors, decided about this rollout."""
    return math.isfinite(row.survival) and row.reason not in CERTAIN_REASONS
