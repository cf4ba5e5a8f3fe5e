"""Why a run inside a host learns nothing: the findings of :mod:`arrol.records.diagnosis`, in the host's own words.

A host's groups carry labels as rewards; what trains are the totals, so spread and dead groups are counted from these.
Legend: ``G`` rollouts of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from arrol.records.diagnosis import FindingWatch, final_findings

READ = ("rollout/finish/stop", "rollout/finish/length", "rollout/success_frac_before", "quality/head_loss")
"""Metrics of a host that the findings read as they are."""


class HostDiagnosis:
    """Says each finding once while it trains, when five steps in a row show it, and again at the end."""

    def __init__(self, advice: Mapping[str, str]) -> None:
        """``advice``: kind of finding -> likely causes and next step, with the names of the host's arguments."""
        self._advice, self._watch = advice, FindingWatch(advice)
        self._steps: list[dict[str, float]] = []

    def look(
        self, metrics: Mapping[str, float], totals: Sequence[np.ndarray], *, has_signal: bool = False
    ) -> list[str]:
        """Lines to log after a batch.

        ``totals``: float ``[G]`` per group, what trains, NaN without a reward. ``has_signal``: rollouts of groups with
        equal rewards train too.
        """
        step = {key: float(metrics[key]) for key in READ if key in metrics}
        step |= reward_metrics(totals)
        if step["rollout/dead_group_frac"] == 1 and not has_signal:
            step["tokens/trained"] = 0.0
        self._steps.append(step)
        return self._watch.look(step)

    def at_end(self) -> list[str]:
        """Lines to log when training ends; empty for a run that learned."""
        return [finding.text for finding in final_findings(self._steps, self._advice)]


def reward_metrics(totals: Sequence[np.ndarray]) -> dict[str, float]:
    """Mean and spread of what trains, share of rewarded rollouts and of dead groups; NaN where no rollout has one."""
    known = [total_G[~np.isnan(total_G)] for total_G in totals]
    flat, count = np.concatenate(known), sum(len(total_G) for total_G in totals)
    return {
        "reward/mean": float(flat.mean()) if len(flat) else float("nan"),
        "rollout/reward_std": float(flat.std()) if len(flat) else float("nan"),
        "rollout/survivors_frac": len(flat) / count,
        "rollout/dead_group_frac": float(np.mean([not len(each) or each.min() == each.max() for each in known])),
    }
