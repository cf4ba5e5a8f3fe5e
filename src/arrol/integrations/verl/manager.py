"""The driver's side: the one class that a user names.

It checks the whole config at start, starts the service as a Ray actor on the driver's node, loads the head of the
checkpoint that verl resumes from, and writes a ticket into every row of a training batch. Validation is never pruned;
verl does not tell an agent loop that it validates, so the manager chooses the loop. An allocation rule sets each row's
number of rollouts. With rule ``never`` and no allocation rule verl runs as it does without arrol.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import ray
from omegaconf import DictConfig, OmegaConf
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tensordict import NonTensorData, TensorDict
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.utils import tensordict_utils
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.fs import copy_to_local
from verl.utils.ray_utils import auto_await

from arrol.algorithms.allocation.rule import StepShape
from arrol.errors import ConfigError, DataError
from arrol.integrations.records import gold_answer
from arrol.integrations.verl.agent_loop import register_in_worker
from arrol.integrations.verl.batch import Batch, MiniBatches, at
from arrol.integrations.verl.checkpoint import checkpoint_head
from arrol.integrations.verl.derive import CALLBACK, check, notes
from arrol.integrations.verl.options import NAME, VerlOptions
from arrol.integrations.verl.plan import RecordPlan, record_plan
from arrol.integrations.verl.recorded import AskedPrompt
from arrol.integrations.verl.refusals import AGENT_LOOP
from arrol.integrations.verl.remote import ACTOR_NAME, RemoteService
from arrol.integrations.verl.sampler import MetricsReplayBuffer, StepSizes
from arrol.integrations.verl.service import PruningService

logger = logging.getLogger(__name__)

ROLLOUTS = "__rollout_n__"
"""verl's column for a row's own number of rollouts."""
MAX_WAITING = 100_000
"""Rollouts that may wait for a decision at a time."""


class AgentLoopManager(AgentLoopManagerTQ):
    """verl's manager, with pruning of training prompts."""

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
        self._options = check(plain)
        super().__init__(config, *args, **kwargs)
        self._service: RemoteService | None = None
        if not self._options.is_active:
            return
        plan = plan_of(config, plain, self._options)
        self._service = start_service(self._options, plain, stop_token_ids(config), plan)
        MetricsReplayBuffer.keeps_records = plan is not None
        batch = Batch.of(plain, self._options)
        MetricsReplayBuffer.step_sizes = StepSizes(config, MiniBatches.of(plain, batch))
        for note in notes(plain):
            logger.warning("arrol: %s", note)
        if config.trainer.save_freq > 0 and at(plain, CALLBACK) is None:
            logger.warning("arrol: %s is not set, so the head will not be saved with the checkpoints", CALLBACK)
        restore(self._service, config)
        if plan is not None and MetricsReplayBuffer.step_sizes.is_last(plan.step):
            ray.get(self._service.nothing_left.remote())

    @classmethod
    @auto_await
    async def create(cls, *args: Any, **kwargs: Any) -> AgentLoopManager:
        """verl's own, with our agent loop registered in each worker."""
        manager = await super().create(*args, **kwargs)
        await asyncio.gather(*(worker.__ray_call__.remote(register_in_worker) for worker in manager.agent_loop_workers))
        return manager

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Dispatch a batch; rows of training prompts get a ticket and the agent loop that prunes."""
        validates = "validate" in prompts and bool(prompts["validate"])
        if self._service is not None and validates:
            self._service.evaluating.remote(int(prompts["global_steps"]))
        elif self._service is not None:
            self._add_tickets(prompts, self._service)
        super().generate_sequences(prompts)

    def _add_tickets(self, prompts: TensorDict, service: RemoteService) -> None:
        names = set(_column(prompts, "agent_name")) - {AGENT_LOOP}
        if names:
            raise DataError(
                f"agent_name = {sorted(map(str, names))}: only {AGENT_LOOP} can be pruned; drop this column of the data"
            )
        sizes = _column(prompts, ROLLOUTS) or [self.rollout_config.n] * len(prompts)
        keys = [prompt_key(messages) for messages in _column(prompts, "raw_prompt")]
        sizes_of = [(key, int(size)) for key, size in zip(keys, sizes, strict=True)]
        tickets = ray.get(service.begin.remote(int(prompts["global_steps"]), sizes_of, asked_prompts(prompts)))
        tensordict_utils.assign_non_tensor_stack(prompts, NAME, tickets)
        if self._options.has_allocation:
            tensordict_utils.assign_non_tensor_stack(prompts, ROLLOUTS, [ticket["size"] for ticket in tickets])
        prompts["agent_name"] = NonTensorData(NAME)


def start_service(
    options: VerlOptions, config: Mapping[str, Any], stop_token_ids: list[int], plan: RecordPlan | None
) -> RemoteService:
    """The actor, on this node, so that its files and its memory are the driver's."""
    batch = Batch.of(config, options)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(PruningService).options(
        name=ACTOR_NAME, num_cpus=0, max_concurrency=MAX_WAITING, scheduling_strategy=here
    )
    seed, shape = int(at(config, "actor_rollout_ref.rollout.seed", 0)), StepShape(batch.prompts, batch.group_size)
    try:
        started = actor.remote(options, seed=seed, shape=shape, stop_token_ids=stop_token_ids, plan=plan)
        return cast(RemoteService, started)
    except ValueError as error:
        raise ConfigError(
            f"ray_kwargs.ray_init.namespace: another run of this Ray namespace owns {ACTOR_NAME} ({error}); "
            "give each run its own namespace"
        ) from None


def plan_of(config: DictConfig, plain: Mapping[str, Any], options: VerlOptions) -> RecordPlan | None:
    """What the run's record needs to know; None where none is kept."""
    folder, model = resumed_folder(config), config.actor_rollout_ref.model
    step = 0 if folder is None else int(folder.name.rpartition("_")[2])
    tokenizer = copy_to_local(model.get("tokenizer_path") or model.path)
    return record_plan(plain, options, step=step, tokenizer=tokenizer, base=Path.cwd(), gpu=gpus())


def gpus() -> str:
    """Kinds of accelerators in Ray's cluster, and their number; empty where it names none."""
    found = ray.cluster_resources()
    kinds = sorted(name.partition(":")[2] for name in found if name.startswith("accelerator_type:"))
    return f"{found.get('GPU', 0):g} {'/'.join(kinds)}" if kinds else ""


def asked_prompts(prompts: TensorDict) -> list[AskedPrompt]:
    """What a batch says of each prompt, for the record."""
    rows = _column(prompts, "reward_model") or [None] * len(prompts)
    told = zip(_column(prompts, "uid"), _column(prompts, "raw_prompt"), rows, strict=True)
    return [
        AskedPrompt(str(uid), prompt_text(messages), gold_answer({"reward_model": row})) for uid, messages, row in told
    ]


def prompt_text(messages: Iterable[object]) -> str:
    """The texts of chat messages, one below the other; what is no text (images) is left out."""
    contents = [each.get("content") for each in messages if isinstance(each, Mapping)]
    return "\n".join(content for content in contents if isinstance(content, str))


def restore(service: RemoteService, config: DictConfig) -> None:
    """Load the head of the checkpoint that verl resumes from."""
    folder = resumed_folder(config)
    if folder is None:
        return
    state = checkpoint_head(folder)
    if state is not None:
        ray.get(service.load.remote(state))
    logger.warning(
        "arrol: %s: %s", folder.name, "no head found, starting a new one" if state is None else "head loaded"
    )


def resumed_folder(config: DictConfig) -> Path | None:
    """``global_step_N`` as verl finds it; None when it starts from the beginning."""
    trainer = config.trainer
    if trainer.resume_mode == "auto":
        found = find_latest_ckpt_path(os.path.abspath(trainer.default_local_dir))
    else:
        found = trainer.resume_from_path if trainer.resume_mode == "resume_path" else None
    return None if found is None else Path(found)


def stop_token_ids(config: DictConfig) -> list[int]:
    """Ids that end a response: those of the tokenizer and of the generation config."""
    if config.actor_rollout_ref.rollout.get("ignore_eos"):
        return []
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    generation = {} if model.generation_config is None else model.generation_config.to_dict()
    ids = generation.get("eos_token_id")
    found = [model.tokenizer.eos_token_id, *(ids if isinstance(ids, list) else [ids])]
    return sorted({int(token_id) for token_id in found if token_id is not None})


def prompt_key(messages: Iterable[object]) -> str:
    """Stable name of a prompt across epochs and restarts; what is no text (images) counts by its description."""
    text = json.dumps(messages if isinstance(messages, list) else list(messages), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _column(prompts: TensorDict, name: str) -> list[Any]:
    """Values of a column that is not a tensor, one per row; empty when there is none."""
    if name not in prompts:
        return []
    values = prompts[name]
    return list(values) if len(values) == len(prompts) and not isinstance(values, str) else [values] * len(prompts)
