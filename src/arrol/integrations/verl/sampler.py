"""``arrol/*`` beside verl's metrics, and which rows train: ``trainer.v1.sampler.custom_sampler.{path,name}``.

verl merges what a sampler returns beside its batch into the metrics of the step. A sampler runs when rewards are known
and before anything is computed from the rows, so rows that do not train cost nothing more. A custom sampler replaces
verl's ``algorithm.filter_groups`` and ``sync_refill_failed_groups``; this one does neither, so the manager refuses the
combination and the helper leaves this sampler out.
"""

from __future__ import annotations

from typing import Any

import ray
import transfer_queue
from tensordict import NonTensorData
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from arrol.integrations.verl.checkpoint import find_service
from arrol.integrations.verl.options import NAME
from arrol.integrations.verl.service import RemoteService


class MetricsReplayBuffer(ReplayBuffer):
    """verl's sampler; the service learns from each training step when it is sampled."""

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        service = find_service() if partition_id == "train" else None
        if service is None:
            return batch, metrics
        learnt = ray.get(service.settle.remote())
        if ray.get(service.has_selection.remote()):
            batch = trained_rows(service, batch, global_steps)
        return batch, {**metrics, **{f"{NAME}/{key}": value for key, value in learnt.items()}}


def trained_rows(service: RemoteService, batch: KVBatchMeta, step: int) -> KVBatchMeta:
    """The rows that train by the allocation rule; the others leave verl's storage."""
    partition = batch.partition_id
    data = transfer_queue.kv_batch_get(keys=batch.keys, partition_id=partition, select_fields=[NAME])
    tickets = [ticket.data if isinstance(ticket, NonTensorData) else ticket for ticket in data[NAME]]
    indices = [int(key.rsplit("_", 2)[1]) for key in batch.keys]  # uid, rollout, output
    rows = [(ticket["group"], index) for ticket, index in zip(tickets, indices, strict=True)]
    trains = ray.get(service.kept.remote(step, rows))
    left_out = [key for key, train in zip(batch.keys, trains, strict=True) if not train]
    if left_out:
        transfer_queue.kv_clear(keys=left_out, partition_id=partition)
    kept = [place for place, train in enumerate(trains) if train]
    keys, tags = [batch.keys[place] for place in kept], [batch.tags[place] for place in kept]
    return KVBatchMeta(partition_id=partition, keys=keys, tags=tags)
