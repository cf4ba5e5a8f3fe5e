"""QualityEstimator: features, head and calibration behind one call; one head and one table per probe, and for ends.

Three consumers: the survival rules (prune), the doubly robust baseline (train) and the vote (test time).
It learns after every step from finished candidates, and is judged on each step's candidates before it has learnt from
them.
Legend: ``C`` candidates, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from arrol.configs.method import QualityConfig
from arrol.quality import diagnostics
from arrol.quality.buffer import ProbeBuffer
from arrol.quality.calibration import Calibration
from arrol.quality.features import END, FeatureLayout
from arrol.quality.head import QualityHead, refit
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.types import RolloutGroup, State


class QualityEstimator:
    """Implements :class:`arrol.protocols.Estimator`."""

    def __init__(self, config: QualityConfig, layout: FeatureLayout, probe_tokens: Sequence[int], *, seed: int) -> None:
        self._config, self._layout, self._seed = config, layout, seed
        self.probe_tokens = (*probe_tokens, END) if config.judge_ends else tuple(probe_tokens)
        self.version = 0
        size = layout.num_features
        self._heads = [QualityHead(size, config.hidden_size, seed + j) for j in range(len(self.probe_tokens))]
        self._optimizers = [
            torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
            for head in self._heads
        ]
        self._buffers = [ProbeBuffer(config.buffer_size, size) for _ in self.probe_tokens]
        self._calibrations = [Calibration(config) for _ in self.probe_tokens]
        self._metrics: dict[str, float] = {}

    def scores(self, features_CF: np.ndarray, probe: int) -> np.ndarray:
        """float64 ``[C]``: logits of a probe's head."""
        assert features_CF.shape == (len(features_CF), self._layout.num_features), features_CF.shape
        return self._heads[probe].scores(features_CF)

    def quality(self, score_C: np.ndarray, probe: int) -> np.ndarray:
        """float64 ``[C]`` in [0, 1]."""
        return self._calibrations[probe].quality(np.asarray(score_C, float))

    def learn(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Judge, then learn from, the verified rollouts of one step; returns the metrics of this step."""
        self._metrics = {}
        for probe, length in enumerate(self.probe_tokens):
            name = "end" if length == END else f"probe_{length}"
            self._learn_probe(groups, probe, length, prefix="" if probe == 0 else f"{name}/")
        self.version += 1
        return self._metrics

    def _learn_probe(self, groups: Sequence[RolloutGroup], probe: int, length: int, prefix: str) -> None:
        rows = [
            (number, rollout)
            for number, group in enumerate(groups)
            for rollout in group.rollouts
            if rollout.label is not None and length in rollout.completion.features_at
        ]
        if rows:
            features_CF = np.stack([rollout.completion.features_at[length] for _, rollout in rows])
            label_C = np.array([cast(float, rollout.label) for _, rollout in rows])
            inverse_C = 1.0 / np.array([rollout.survival for _, rollout in rows])
            score_C = self.scores(features_CF, probe)
            self._judge(
                prefix, score_C, self.quality(score_C, probe), label_C, inverse_C, np.array([n for n, _ in rows])
            )
            weight_C = inverse_C if self._config.weight_labels else np.ones(len(rows))
            self._buffers[probe].push(features_CF, label_C, weight_C, score_C, self.version)
        buffer = self._buffers[probe]
        seed = (self._seed * 1_000_003 + self.version * 101 + probe) % 2**63
        self._metrics[f"quality/{prefix}head_loss"] = refit(
            self._heads[probe], self._optimizers[probe], buffer, self._config, seed
        )
        self._calibrations[probe].refit(buffer.score_N, buffer.label_N, buffer.weight_N)

    def _judge(
        self,
        prefix: str,
        score_C: np.ndarray,
        quality_C: np.ndarray,
        label_C: np.ndarray,
        weight_C: np.ndarray,
        group_C: np.ndarray,
    ) -> None:
        known = np.isfinite(score_C)
        score_C, quality_C, label_C = score_C[known], quality_C[known], label_C[known]
        weight_C, group_C = weight_C[known], group_C[known]
        self._metrics |= {
            f"quality/{prefix}auroc_pooled": diagnostics.auroc(score_C, label_C, weight_C),
            f"quality/{prefix}auroc_within_prompt": diagnostics.auroc_within(score_C, label_C, group_C, weight_C),
            f"quality/{prefix}brier": diagnostics.brier(quality_C, label_C, weight_C),
            f"quality/{prefix}ece": diagnostics.expected_calibration_error(quality_C, label_C, weight_C),
        }

    def save(self) -> State:
        """Heads, optimisers, buffers and tables, as arrays and JSON values."""
        return {
            "version": self.version,
            "probes": {
                str(probe): {
                    "head": {key: value.numpy().copy() for key, value in head.state_dict().items()},
                    "optimizer": _optimizer_state(optimizer),
                    "buffer": buffer.save(),
                    "calibration": calibration.save(),
                }
                for probe, (head, optimizer, buffer, calibration) in enumerate(
                    zip(self._heads, self._optimizers, self._buffers, self._calibrations, strict=True)
                )
            },
        }

    def load(self, state: State) -> None:
        self.version = int(cast(int, state["version"]))
        for key, saved in cast(dict[str, dict[str, State]], state["probes"]).items():
            probe = int(key)
            tensors = {name: torch.from_numpy(np.array(value)) for name, value in saved["head"].items()}
            self._heads[probe].load_state_dict(tensors)
            _load_optimizer_state(self._optimizers[probe], saved["optimizer"])
            self._buffers[probe].load(saved["buffer"])
            self._calibrations[probe].load(saved["calibration"])

    def snapshot(self) -> EstimatorSnapshot:
        """What is known now, for a host in another process."""
        return EstimatorSnapshot(self._layout, self.probe_tokens, self._heads, self._calibrations, version=self.version)

    def metrics(self) -> dict[str, float]:
        """Measures of the last step that it learnt from."""
        return dict(self._metrics)


def _optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """AdamW's moments as arrays; its settings come from the config."""
    return {
        str(number): {name: value.numpy().copy() for name, value in moments.items()}
        for number, moments in optimizer.state_dict()["state"].items()
    }


def _load_optimizer_state(optimizer: torch.optim.Optimizer, state: State) -> None:
    moments = {
        int(number): {name: torch.from_numpy(np.array(value)) for name, value in cast(dict, values).items()}
        for number, values in state.items()
    }
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
