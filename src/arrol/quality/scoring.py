"""Scores and qualities of candidates at their probes. Numpy only.

Legend: ``C`` candidates, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from arrol.protocols import Estimator
from arrol.types import ProbeEvent


def scores_and_qualities(events: Sequence[ProbeEvent], estimator: Estimator) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores and calibrated qualities, both float64 ``[C]``, with one estimator call per probe.

    The score is the event's own, else that of its features. Both are NaN where an event has neither; the quality is
    NaN where the score is not finite.
    """
    score_C = np.array([np.nan if event.score is None else event.score for event in events], float)
    quality_C = np.full(len(events), np.nan)
    for probe in sorted({event.probe for event in events}):
        rows = [c for c, event in enumerate(events) if event.probe == probe]
        features = {c: found for c in rows if events[c].score is None and (found := events[c].features_F) is not None}
        if features:
            score_C[[*features]] = estimator.scores(np.stack([*features.values()]), probe)
        known = [c for c in rows if np.isfinite(score_C[c])]
        if known:
            quality_C[known] = estimator.quality(score_C[known], probe)
    return score_C, quality_C
