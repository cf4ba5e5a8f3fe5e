"""The driver's side: the one class that a user names.

It checks the whole config at start, starts the service as a Ray actor beside the driver, gives it the head that lies
beside the checkpoint that verl resumes from, and writes an address into every row of a training batch. Validation is
left alone: verl does not tell an agent loop that it validates, so the choice is made here. An allocation rule that says
which prompts are asked, or how often, speaks through each row's ``__rollout_n__``. With rule ``never`` and no
allocation rule nothing of this happens, and verl runs as it does alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
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
from verl.utils.ray_utils import auto_await

from arrol.algorithms.allocation.rule import StepShape
from arrol.errors import ConfigError, DataError
from arrol.integrations.memory import read_head
from arrol.integrations.verl.agent_loop import AGENT_NAME, TICKET, register_in_worker
from arrol.integrations.verl.derive import AGENT_LOOP, CALLBACK, Batch, check, notes
from arrol.integrations.verl.options import VerlOptions
from arrol.integrations.verl.service import ACTOR_NAME, PruningService

logger = logging.getLogger(__name__)

ROLLOUTS = "__rollout_n__"
"""Column in which a row may say how often it is to be sampled; verl takes it from there."""
MAX_QUESTIONS = 100_000
"""Rollouts that may wait for an answer at a time."""


class AgentLoopManager(AgentLoopManagerTQ):
    """verl's manager, with pruning of training prompts."""

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
        self._options = check(plain)
        super().__init__(config, *args, **kwargs)
        self._seed = int(config.actor_rollout_ref.rollout.get("seed") or 0)
        self._service: Any = start_service(self._options, self._seed, plain) if self._options.acts else None
        if self._service is None:
            return
        self._stop_token_ids = stop_token_ids(config)
        for note in notes(plain):
            logger.warning("arrol: %s", note)
        if config.trainer.save_freq > 0 and plain["trainer"].get(CALLBACK.rpartition(".")[2]) is None:
            logger.warning("arrol: %s is not set, so the head will not be saved with the checkpoints", CALLBACK)
        restore(self._service, config)

    @classmethod
    @auto_await
    async def create(cls, *args: Any, **kwargs: Any) -> AgentLoopManager:
        """verl's own, and then the agent loop is made known in each worker."""
        manager = await super().create(*args, **kwargs)
        await asyncio.gather(*(worker.__ray_call__.remote(register_in_worker) for worker in manager.agent_loop_workers))
        return manager

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Dispatch a batch; rows of training prompts get an address and the agent loop that can be stopped."""
        validates = "validate" in prompts and bool(prompts["validate"])
        if self._service is not None and not validates:
            self._address(prompts)
        super().generate_sequences(prompts)

    def _address(self, prompts: TensorDict) -> None:
        names = set(_column(prompts, "agent_name")) - {AGENT_LOOP}
        if names:
            raise DataError(
                f"agent_name = {sorted(map(str, names))}: the data name agent loops of their own, which cannot be "
                f"pruned; drop that column, or train without {AGENT_NAME}"
            )
        sizes = _column(prompts, ROLLOUTS) or [self.rollout_config.n] * len(prompts)
        keys = [prompt_key(messages) for messages in _column(prompts, "raw_prompt")]
        begun = self._service.begin.remote(int(prompts["global_steps"]), list(zip(keys, map(int, sizes), strict=True)))
        shared, tickets = {"stop_token_ids": self._stop_token_ids, "seed": self._seed}, ray.get(begun)
        tensordict_utils.assign_non_tensor_stack(prompts, TICKET, [{**ticket, **shared} for ticket in tickets])
        if self._options.allocates:
            tensordict_utils.assign_non_tensor_stack(prompts, ROLLOUTS, [ticket["size"] for ticket in tickets])
        prompts["agent_name"] = NonTensorData(AGENT_NAME)


def start_service(options: VerlOptions, seed: int, config: dict[str, Any]) -> Any:
    """The actor, on this node, so that its files and its memory are the driver's."""
    batch = Batch.of(config, options)
    shape = StepShape(batch.prompts, batch.group_size)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(PruningService).options(
        name=ACTOR_NAME, num_cpus=0, max_concurrency=MAX_QUESTIONS, scheduling_strategy=here
    )
    try:
        return actor.remote(options, seed=seed, shape=shape)
    except ValueError as error:
        raise ConfigError(
            f"{ACTOR_NAME}: another run of this Ray namespace has taken the name ({error}); "
            "give each run a namespace of its own (ray_kwargs.ray_init.namespace)"
        ) from None


def restore(service: Any, config: DictConfig) -> None:
    """Load the head beside the checkpoint that verl resumes from."""
    folder = resumed_folder(config)
    if folder is None:
        return
    state = read_head(folder)
    if state is None:
        logger.warning("arrol: no head in %s, so a new one begins", folder.name)
        return
    ray.get(service.load.remote(state))
    logger.warning("arrol: head of %s loaded", folder.name)


def resumed_folder(config: DictConfig) -> Path | None:
    """``global_step_N`` as verl finds it; None when it begins anew."""
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
    of_config = getattr(model.generation_config, "eos_token_id", None)
    ids = [model.tokenizer.eos_token_id, *(of_config if isinstance(of_config, list) else [of_config])]
    return sorted({int(token_id) for token_id in ids if token_id is not None})


def prompt_key(messages: Any) -> str:
    """Stable name of a prompt across epochs and restarts; what is no text (images) counts by its description."""
    text = json.dumps(messages if isinstance(messages, list) else list(messages), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _column(prompts: TensorDict, name: str) -> list[Any]:
    """Values of a column that is not a tensor, one per row; empty when there is none."""
    if name not in prompts:
        return []
    values = prompts[name]
    return list(values) if len(values) == len(prompts) and not isinstance(values, str) else [values] * len(prompts)
