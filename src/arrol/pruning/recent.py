"""Candidates of earlier steps, per probe: the population behind constants that no sibling tells. Numpy only.

Legend: ``B`` recent candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from arrol.pruning.survival import Candidates
from arrol.pruning.waves import GroupState, Waiting
from arrol.types import RolloutId, State

RECENT_SIZE = 1024
"""Candidates remembered per probe as the population behind buffer-level constants."""
QUALITY, CONFIDENCE, HISTORY, PREVIOUS = range(4)
"""Columns of the buffer: quality, mean log-probability, the prompt's success rate (NaN where unknown), survival before
the probe."""


class RecentCandidates:
    """The buffers of all probes; candidates of the running step join when the next one begins."""

    def __init__(self, num_probes: int) -> None:
        self._rows = [np.zeros((0, 4)) for _ in range(num_probes)]
        """Candidates of earlier steps ``[B, 4]``, oldest first."""
        self._newest: list[dict[RolloutId, tuple[float, ...]]] = [{} for _ in range(num_probes)]

    def at(self, probe: int) -> np.ndarray:
        """float64 ``[B, 4]``, of earlier steps."""
        return self._rows[probe]

    def add(self, rollout_id: RolloutId, probe: int, row: tuple[float, ...]) -> None:
        """A candidate of this step."""
        self._newest[probe][rollout_id] = row

    def begin_step(self) -> None:
        self._rows, self._newest = self._joined(), [{} for _ in self._rows]

    def close(self, rollout_ids: Sequence[RolloutId]) -> None:
        """Candidates of a group that is over join at once."""
        for probe, newest in enumerate(self._newest):
            rows = [newest.pop(rollout_id) for rollout_id in rollout_ids if rollout_id in newest]
            if rows:
                self._rows[probe] = np.concatenate([self._rows[probe], np.array(rows)])[-RECENT_SIZE:]

    def candidates(
        self, pool: Sequence[tuple[Waiting, GroupState]], probe: int, siblings_known: bool, *, exact_count: bool
    ) -> Candidates:
        """What a rule sees of a pool; ``exact_count`` hides thresholds that come from others."""
        recent = self._rows[probe]
        rates = [np.nan if group.success_rate is None else group.success_rate for _, group in pool]
        return Candidates(
            quality_C=np.array([waiting.quality for waiting, _ in pool]),
            group_C=np.array([waiting.rollout_id.group for waiting, _ in pool]),
            siblings_known=siblings_known,
            history_C=np.array(rates),
            confidence_C=np.array([waiting.confidence for waiting, _ in pool]),
            recent_quality_B=recent[:, QUALITY],
            recent_confidence_B=recent[: 0 if exact_count else None, CONFIDENCE],
            recent_history_B=recent[:, HISTORY],
        )

    def population(self, candidates: Candidates, probe: int) -> Candidates:
        """The recent candidates in place of the given ones."""
        recent = self._rows[probe]
        return replace(
            candidates,
            quality_C=recent[:, QUALITY],
            group_C=np.zeros(len(recent), int),
            history_C=recent[:, HISTORY],
            confidence_C=recent[:, CONFIDENCE],
        )

    def save(self) -> State:
        return {str(probe): rows for probe, rows in enumerate(self._joined())}

    def load(self, state: State) -> None:
        assert len(state) == len(self._rows), (len(state), len(self._rows))
        self._rows = [np.asarray(cast(np.ndarray, state[str(k)]), float).reshape(-1, 4) for k in range(len(state))]
        self._newest = [{} for _ in self._rows]

    def _joined(self) -> list[np.ndarray]:
        """The newest candidates ``[B, 4]``, this step's included, in the order of their ids."""
        return [
            np.concatenate([rows, np.array([row for _, row in sorted(newest.items())]).reshape(-1, 4)])[-RECENT_SIZE:]
            for rows, newest in zip(self._rows, self._newest, strict=True)
        ]
