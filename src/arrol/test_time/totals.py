"""Totals of many votes at once: weights per candidate in, totals per class and winners out. Pure numpy.

Tie rule, ours: larger count, then larger single weight, then lower index of the first voter. Totals within
``TIE_TOLERANCE`` of each other, relatively, are tied, since 1/3 + 2/3 is 1 on paper. Where all weights are 0 the
majority decides.

Legend: ``S`` votes, ``N`` candidates of each, ``M`` answer classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TIE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class VoteTotals:
    """Totals and counts per class ``0 .. M - 1``; a candidate with class -1 or a NaN weight has no vote."""

    class_SN: np.ndarray
    weight_SN: np.ndarray
    """0 where there is no vote."""
    total_SM: np.ndarray
    count_SM: np.ndarray

    @classmethod
    def of(cls, class_SN: np.ndarray, weight_SN: np.ndarray | None, num_classes: int) -> VoteTotals:
        """Count the votes; weights of None are ones, in less time."""
        num_subsets = len(class_SN)
        voteless_SN = class_SN < 0 if weight_SN is None else (class_SN < 0) | np.isnan(weight_SN)
        # One more column takes the candidates without a vote.
        column_SN = np.where(voteless_SN, num_classes, class_SN)
        cell = (np.arange(num_subsets)[:, None] * (num_classes + 1) + column_SN).ravel()
        shape = (num_subsets, num_classes + 1)
        size = num_subsets * (num_classes + 1)
        count_SM = np.bincount(cell, minlength=size).reshape(shape)[:, :-1]
        if weight_SN is None:
            return cls(column_SN, (~voteless_SN).astype(float), count_SM.astype(float), count_SM)
        weight_SN = np.where(voteless_SN, 0.0, weight_SN)
        total_SM = np.bincount(cell, weight_SN.ravel(), minlength=size).reshape(shape)[:, :-1]
        return cls(column_SN, weight_SN, total_SM, count_SM)

    @property
    def value_SM(self) -> np.ndarray:
        """The totals, or the counts where all weights are 0."""
        is_silent_S = self.total_SM.max(-1, keepdims=True, initial=0.0) == 0
        return np.where(is_silent_S, self.count_SM, self.total_SM) if is_silent_S.any() else self.total_SM

    @property
    def leaders_SM(self) -> np.ndarray:
        """bool: classes with a vote and the largest value."""
        value_SM = self.value_SM
        most = value_SM.max(-1, keepdims=True, initial=0.0)
        return (self.count_SM > 0) & (value_SM >= most * (1 - TIE_TOLERANCE))

    def winners(self) -> np.ndarray:
        """int ``[S]``: the class that wins by the tie rule; -1 without any vote."""
        leaders_SM = self.leaders_SM
        tied = np.flatnonzero(leaders_SM.sum(-1) > 1)
        if tied.size:
            leaders_SM[tied] = self._decided(tied, leaders_SM[tied])
        if not leaders_SM.shape[1]:
            return np.full(len(leaders_SM), -1)
        return np.where(leaders_SM.any(-1), leaders_SM.argmax(-1), -1)

    def _decided(self, rows: np.ndarray, leaders: np.ndarray) -> np.ndarray:
        """One leader per row, by the tie rule."""
        class_SN, weight_SN, num_classes = self.class_SN[rows], self.weight_SN[rows], leaders.shape[1]
        cell = (np.arange(len(rows))[:, None], class_SN)
        single = np.zeros((len(rows), num_classes + 1))
        np.maximum.at(single, cell, weight_SN)
        first = np.full((len(rows), num_classes + 1), class_SN.shape[1])
        np.minimum.at(first, cell, np.broadcast_to(np.arange(class_SN.shape[1]), class_SN.shape))
        for value in (self.count_SM[rows].astype(float), single[:, :-1], -first[:, :-1].astype(float)):
            among = np.where(leaders, value, -np.inf)
            most = among.max(-1, keepdims=True)
            leaders = leaders & (among >= most - TIE_TOLERANCE * np.abs(most))
        return leaders
