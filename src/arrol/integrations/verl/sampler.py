"""``arrol/*`` beside verl's own metrics: ``trainer.v1.sampler.custom_sampler.{path,name}``.

The least invasive way that verl 0.9 has. What a sampler returns beside its batch is merged into the metrics of the step
and goes to every logger of ``trainer.logger``; no other public hook of the driver returns metrics while it trains (a
checkpoint callback returns nothing, metrics of agent loops are dropped by the V1 trainer, a second logger would open a
second run). verl leaves ``algorithm.filter_groups`` and ``sync_refill_failed_groups`` to a custom sampler, and this one
does neither, so together with them the manager refuses it and the helper leaves it out.
"""

from __future__ import annotations

from typing import Any

import ray
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from arrol.integrations.verl.checkpoint import find_service

PREFIX = "arrol/"


class MetricsReplayBuffer(ReplayBuffer):
    """verl's sampler; the service learns from the step as soon as it has been sampled."""

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        service = find_service() if partition_id == "train" else None
        if service is not None:
            learnt = ray.get(service.settle.remote())
            metrics = {**metrics, **{PREFIX + key: value for key, value in learnt.items()}}
        return batch, metrics
