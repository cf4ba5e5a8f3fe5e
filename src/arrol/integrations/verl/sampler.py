"""``arrol/*`` among verl's metrics, which rows train, and mini-batches that fit them, in verl's custom sampler.

verl merges what a sampler returns beside its batch into the metrics of the step. A sampler runs when rewards are known
and before anything is computed from the rows, so rows that do not train cost nothing more. verl reads the size of a
mini-batch from its config right after. A custom sampler has to filter groups and refill failed ones itself: this one
does it as verl's own, with what the helper writes under ``trainer.v1.sampler.sampler_kwargs``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import ray
import transfer_queue
from omegaconf import DictConfig, OmegaConf
from tensordict import NonTensorData
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from arrol.errors import DataError
from arrol.integrations.verl.batch import MiniBatches, total_steps
from arrol.integrations.verl.checkpoint import coming_checkpoint, find_service, write_ahead
from arrol.integrations.verl.options import NAME
from arrol.integrations.verl.remote import RemoteService

FILTERS = ("filter_groups_metric", "max_inflight_gen_batches", "sync_refill_failed_groups", "train_batch_size")
"""Arguments of verl's sampler that verl does not give to a custom one."""

logger = logging.getLogger(__name__)

SYNTHETIC_SHARE = 0.1
"""Share of synthetic rows above which there is a warning, once."""


class StepSizes:
    """Sets verl's ``ppo_mini_batch_size`` for each step, in the config that its trainer reads; knows what follows."""

    def __init__(self, config: DictConfig, mini_batches: MiniBatches) -> None:
        self._config, self._mini_batches = config, mini_batches
        self._has_warned = False

    def is_last(self, step: int) -> bool:
        """Whether verl ends with this step; False where its config does not say."""
        return 0 < total_steps(self._config) <= step

    def coming_checkpoint(self, step: int) -> Path | None:
        """Folder that verl writes after this step with the head in it."""
        return coming_checkpoint(self._config, step)

    def fit(self, rows: int) -> dict[str, float]:
        """Set the size for so many rows; returns metrics."""
        for path, size in zip(self._mini_batches.paths, self._mini_batches.sizes(rows), strict=True):
            OmegaConf.update(self._config, path, size)
        metrics = self._mini_batches.metrics(rows)
        synthetic = int(metrics["batch/synthetic_rows"])
        if synthetic > SYNTHETIC_SHARE * rows and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "arrol: verl adds %d synthetic rows to the %d of this step; fewer updates per step (a larger "
                "ppo_mini_batch_size) or more prompts make them rare", synthetic, rows,
            )  # fmt: skip
        return metrics


class MetricsReplayBuffer(ReplayBuffer):
    """verl's sampler; the service learns from each training step when it is sampled."""

    step_sizes: ClassVar[StepSizes | None] = None
    """Set by the manager, which verl creates later in the same process."""
    keeps_records: ClassVar[bool] = False
    """Set likewise: the service records the run."""

    def __init__(self, *, sampler_kwargs: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(sampler_kwargs=sampler_kwargs, **{**kwargs, **filters(sampler_kwargs)})

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        if partition_id == "val" and self.keeps_records:
            record_validation(batch, global_steps)
        service = find_service() if partition_id == "train" else None
        if service is None:
            return batch, metrics
        learnt = ray.get(service.settle.remote())
        is_last = self.step_sizes is not None and self.step_sizes.is_last(global_steps)
        if is_last:
            ray.get(service.log_end.remote())
        checkpoint = self.step_sizes.coming_checkpoint(global_steps) if self.step_sizes is not None else None
        if checkpoint is not None:
            write_ahead(checkpoint, ray.get(service.save.remote()))
        if ray.get(service.has_selection.remote()):
            batch = trained_rows(service, batch, global_steps)
        if self.step_sizes is not None:
            learnt |= self.step_sizes.fit(len(batch))
        if self.keeps_records:
            service.sampled.remote([row_of(key) for key in batch.keys], learnt)
        if self.keeps_records and is_last:
            ray.get(service.recorded.remote())  # verl may end the actor without a word
        return batch, {**metrics, **{f"{NAME}/{key}": value for key, value in learnt.items()}}


def record_validation(batch: KVBatchMeta, step: int) -> None:
    """Tell the service the scores of a batch of validation; none where verl computes rewards later."""
    service = find_service()
    fields = ["rm_scores", "responses"]
    data = transfer_queue.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    if service is None or "rm_scores" not in data:
        return
    scores, lengths = data["rm_scores"].sum(dim=1).tolist(), data["responses"].offsets().diff().tolist()
    uids = [row_of(key)[0] for key in batch.keys]
    ray.get(service.evaluated.remote(step, list(zip(uids, scores, lengths, strict=True))))


def row_of(key: str) -> tuple[str, int]:
    """uid and rollout of a row of verl's storage: its key is uid, rollout and output."""
    uid, rollout, _ = key.rsplit("_", 2)
    return uid, int(rollout)


def filters(sampler_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of verl's sampler for group filtering and refills; it dispatches one prompt at a time then."""
    found = {name: sampler_kwargs[name] for name in FILTERS if name in sampler_kwargs}
    return {**found, "gen_batch_size": 1} if found else {}


def trained_rows(service: RemoteService, batch: KVBatchMeta, step: int) -> KVBatchMeta:
    """The rows that train by the allocation rule; the others leave verl's storage."""
    partition = batch.partition_id
    data = transfer_queue.kv_batch_get(keys=batch.keys, partition_id=partition, select_fields=[NAME])
    tickets = [ticket.data if isinstance(ticket, NonTensorData) else ticket for ticket in data[NAME]]
    rows = [(ticket["group"], row_of(key)[1]) for ticket, key in zip(tickets, batch.keys, strict=True)]
    trains = ray.get(service.kept.remote(step, rows))
    left_out = [key for key, train in zip(batch.keys, trains, strict=True) if not train]
    if left_out:
        transfer_queue.kv_clear(keys=left_out, partition_id=partition)
    kept = [place for place, train in enumerate(trains) if train]
    if not kept:
        raise DataError(f"rewards: none of the {len(rows)} rows of step {step} can train; correct the reward function")
    keys, tags = [batch.keys[place] for place in kept], [batch.tags[place] for place in kept]
    return KVBatchMeta(partition_id=partition, keys=keys, tags=tags)
