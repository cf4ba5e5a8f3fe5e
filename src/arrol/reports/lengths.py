"""Reward against length: whether long completions earn more, and what a length limit or a late stop would cut off.

Legend: ``R`` rollouts with a reward, ``B`` classes of length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from arrol.records.store import Run
from arrol.reports.panels import add_legend, new_panels
from arrol.reports.styles import arm_styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 8
FEWEST_ROLLOUTS = 8
"""Of a class."""


def reward_by_length(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean tokens and mean reward ``[B]`` of classes of about equal size, shortest first; None with fewer than two.

    A survivor counts 1/survival, so the stopped rollouts, which have no reward, are stood for.
    """
    rows = [row for run in runs for row in run.rollouts if row.reward is not None and np.isfinite(row.reward)]
    tokens_R = np.array([row.completion_tokens for row in rows], float)
    reward_R, weight_R = np.array([row.reward for row in rows], float), np.array([1 / row.survival for row in rows])
    count = min(MOST_CLASSES, len(rows) // FEWEST_ROLLOUTS)
    if count < 2 or len(set(tokens_R.tolist())) < 2:
        return None
    edges = np.unique(np.quantile(tokens_R, np.linspace(0, 1, count + 1)[1:-1]))
    class_R = np.searchsorted(edges, tokens_R)  # equal lengths are never divided
    kinds = np.unique(class_R)
    means = [np.average((tokens_R, reward_R), axis=1, weights=weight_R * (class_R == kind)) for kind in kinds]
    tokens_B, reward_B = np.array(means).T
    return (tokens_B, reward_B) if len(kinds) > 1 else None


def reward_length(arms: Mapping[str, Sequence[Run]]) -> Figure | None:
    """Mean reward by length of the completion, over all steps; one line per arm."""
    tables = {arm: found for arm, runs in arms.items() if (found := reward_by_length(runs)) is not None}
    if not tables:
        return None
    figure, (axes,) = new_panels(1, 1, 3.2)
    styles = arm_styles(arms)
    for arm, (tokens_B, reward_B) in tables.items():
        style = styles[arm]
        axes.plot(tokens_B, reward_B, color=style.colour, linestyle=style.line, marker=style.marker)
    axes.set(xlabel="completion length (tokens)", ylabel="mean reward")
    add_legend(figure, [styles[arm] for arm in tables])
    return figure
