"""What a host has learned from outcomes: quality head with calibration, prompt history, token totals.

TRL and verl feed it with verified groups and save it beside their checkpoints as ``arrol_head.json`` and
``arrol_head.safetensors``. The policy's own folder stays a plain Hugging Face model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import safetensors

from arrol.configs.host import HostConfig
from arrol.errors import CheckpointError
from arrol.pruning.ledger import Ledger, sampling_metrics, survivor_metrics
from arrol.quality.buffer import PromptHistory
from arrol.quality.estimator import QualityEstimator
from arrol.quality.features import FeatureLayout
from arrol.records.state import read_state, write_state
from arrol.types import RolloutGroup, State

HEAD_FILE = "arrol_head"


class HostMemory:
    """All that learns in a host except controller and allocation rule; a :class:`arrol.protocols.Stateful`."""

    def __init__(self, config: HostConfig, hidden_size: int, *, seed: int) -> None:
        self.layout = FeatureLayout(config.quality.features, hidden_size)
        self.probe_tokens = config.pruning.probe_tokens
        self.estimator = QualityEstimator(config.quality, self.layout, self.probe_tokens, seed=seed)
        self._allocation = config.allocation
        self.history = PromptHistory(config.allocation.posterior.discount)
        self.ledger = Ledger()
        self.step = 0
        """Batches of rollouts begun so far; part of every rollout's id."""
        self._metrics: dict[str, float] = {}

    def learn(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Metrics of one batch, judged before it is learned from; finished rollouts carry rewards of 0 or 1."""
        self._metrics = {
            **sampling_metrics(groups),
            **self.ledger.generated(groups),
            **survivor_metrics(groups),
            **self.estimator.learn(groups),
        }
        self.history.learn(
            groups,
            use_quality=self._allocation.pruned_counts == "quality",
            count_truncated=self._allocation.count_truncated,
        )
        return self._metrics

    def metrics(self) -> dict[str, float]:
        """Metrics of the last batch."""
        return dict(self._metrics)

    def save(self) -> State:
        return {
            "layout": {"features": list(self.layout.names), "hidden_size": self.layout.hidden_size},
            "probe_tokens": list(self.probe_tokens),
            "step": self.step,
            "estimator": self.estimator.save(),
            "history": self.history.save(),
            "ledger": self.ledger.save(),
        }

    def load(self, state: State) -> None:
        """CheckpointError when the head has another shape. A state without probes, from before they were chosen, has no
        head: this one's stays."""
        mine, has_head = self.save(), bool(state["probe_tokens"])
        for field in ("layout", "probe_tokens") if has_head else ("layout",):
            if state[field] != mine[field]:
                raise CheckpointError(
                    f"{field} = {mine[field]!r}: the checkpoint's head was trained with {state[field]!r}; "
                    f"set that value, or delete the two {HEAD_FILE} files to start a new head"
                )
        self.step = int(cast(int, state["step"]))
        if self.has_probes_of(state):
            self.estimator.load(cast(State, state["estimator"]))
        self.history.load(cast(State, state["history"]))
        self.ledger.load(cast(State, state["ledger"]))

    def has_probes_of(self, state: State) -> bool:
        """A saved state has the same probes, so that its head and its controller fit."""
        return state["probe_tokens"] == list(self.probe_tokens)


def write_head(folder: Path, state: State) -> None:
    """Save into a host's checkpoint folder; CheckpointError when the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_state(folder, HEAD_FILE, state)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"folder = {folder.name!r}: the head could not be saved ({error}); free disk space and save again"
        ) from None


def read_head(folder: Path) -> State | None:
    """What :func:`write_head` saved; None without a head, CheckpointError for a damaged one or for half of one."""
    if not any((folder / f"{HEAD_FILE}{suffix}").is_file() for suffix in (".json", ".safetensors")):
        return None
    try:
        return read_state(folder, HEAD_FILE)
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"folder = {folder.name!r}: {HEAD_FILE} is damaged ({type(error).__name__}); "
            f"delete its two {HEAD_FILE} files to start a new head"
        ) from None
