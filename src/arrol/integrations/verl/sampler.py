"""``arrol/*`` beside verl's own metrics, and which rows train: ``trainer.v1.sampler.custom_sampler.{path,name}``.

A sampler chooses rows when their rewards are known and before anything is computed from them, so a rule that lets part
of a group train has its say here, and what is left out costs nothing more.

For the metrics it is the least invasive way that verl 0.9 has. What a sampler returns beside its batch is merged into
the metrics of the step and goes to every logger of ``trainer.logger``; no other public hook of the driver returns
metrics while it trains (a checkpoint callback returns nothing, metrics of agent loops are dropped by the V1 trainer, a
second logger would open a second run). verl leaves ``algorithm.filter_groups`` and ``sync_refill_failed_groups`` to a
custom sampler, and this one does neither, so together with them the manager refuses it and the helper leaves it out.
"""

from __future__ import annotations

from typing import Any

import ray
import transfer_queue
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from arrol.integrations.verl.checkpoint import find_service

PREFIX = "arrol/"
TICKET = "arrol"
"""Field in which each trajectory carries the address of its group."""


class MetricsReplayBuffer(ReplayBuffer):
    """verl's sampler; the service learns from the step as soon as it has been sampled."""

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        service = find_service() if partition_id == "train" else None
        if service is not None:
            learnt = dict(ray.get(service.settle.remote()))
            if ray.get(service.selects.remote()):
                whole = batch
                batch = trained_rows(service, whole, global_steps)
                learnt["allocation/dropped/surplus"] = float(len(whole.keys) - len(batch.keys))
            metrics = {**metrics, **{PREFIX + key: value for key, value in learnt.items()}}
        return batch, metrics


def trained_rows(service: Any, batch: KVBatchMeta, step: int) -> KVBatchMeta:
    """The rows that the rule lets train; the others leave verl's storage."""
    data = transfer_queue.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=["rm_scores", TICKET]
    )
    rows = [
        (int(getattr(ticket, "data", ticket)["group"]), int(key.rsplit("_", 2)[1]), float(score.sum()))
        for key, score, ticket in zip(batch.keys, list(data["rm_scores"]), list(data[TICKET]), strict=True)
    ]
    trains = ray.get(service.kept.remote(step, rows))
    left_out = [key for key, kept in zip(batch.keys, trains, strict=True) if not kept]
    if left_out:
        transfer_queue.kv_clear(keys=left_out, partition_id=batch.partition_id)
    kept = [place for place, kept in enumerate(trains) if kept]
    return KVBatchMeta(
        partition_id=batch.partition_id,
        keys=[batch.keys[place] for place in kept],
        tags=[batch.tags[place] for place in kept],
    )
