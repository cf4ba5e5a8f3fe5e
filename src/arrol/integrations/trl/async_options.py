"""Options of the worker for TRL's asynchronous trainer, and what of ``AsyncGRPOConfig`` it cannot do. No torch.

Options are those of :func:`arrol.integrations.trl.pruned_rollout` and every allocation rule with all its fields: the
worker draws its prompts itself and hears rewards while it samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING

from pydantic import Field

from arrol.algorithms.allocation.allocator import uses_belief
from arrol.algorithms.allocation.rule import StepShape
from arrol.configs.allocation import require_possible
from arrol.configs.base import StrictModel, validate
from arrol.configs.host import HostConfig, parse_host
from arrol.configs.method import OracleRule
from arrol.errors import ConfigError
from arrol.integrations.trl.rules import refuse_probes
from arrol.integrations.warmup import LATEST_PROBE, without_probes

if TYPE_CHECKING:
    from trl.experimental.async_grpo import AsyncGRPOConfig

HERE = {
    "training.group_size": "num_generations",
    "training.prompts_per_step": "prompts_per_batch",
    "sampling.max_completion_tokens": "max_completion_length",
}
"""Field of arrol's own trainer -> field here, in messages about sizes."""


FIRST_TRL = (1, 16)


class WorkerOptions(StrictModel):
    """Options of the worker alone."""

    prompts_per_batch: int = Field(0, ge=0)
    """Prompts that a batch of the worker begins with; 0: as many whole groups as an optimizer step has samples."""
    success_reward: str | None = None
    """Reward function that says whether an answer is right: the head's label. Required with several functions."""
    two_phase: bool = False
    """One call per probe to a vLLM that was started without arrol's classes; needs the feature ``logprobs`` alone."""


def parse_options(args: AsyncGRPOConfig, given: Mapping[str, object]) -> tuple[HostConfig, WorkerOptions]:
    """Checked options; ConfigError names the first that is wrong."""
    own = {name: value for name, value in given.items() if name in WorkerOptions.model_fields}
    worker = validate(WorkerOptions, own)
    half = [min(LATEST_PROBE, max(1, args.max_completion_length // 2))]
    config = parse_host({"probe_tokens": half, **{name: given[name] for name in given.keys() - own.keys()}})
    _require_supported(args)
    _require_possible(args, config)
    prompts, group_size = shape_of(args, worker)
    try:
        require_possible(config.allocation, group_size, prompts, args.max_completion_length)
    except ValueError as error:
        message = str(error)
        for theirs, ours in HERE.items():
            message = message.replace(theirs, ours)
        raise ConfigError(message) from None
    return config if "probe_tokens" in given else without_probes(config), worker


def require_trl() -> None:
    """ConfigError before TRL 1.16, whose trainer asks its worker for less."""
    version = metadata.version("trl")
    if tuple(int(part) for part in version.split(".")[:2]) < FIRST_TRL:
        raise ConfigError(f"trl = {version}: AsyncGRPOTrainer takes this worker from 1.16; install trl>=1.16")


def samples_per_step(args: AsyncGRPOConfig) -> int:
    """Samples of an optimizer step, over all processes; with a token budget it is TRL's own estimate."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


def shape_of(args: AsyncGRPOConfig, worker: WorkerOptions) -> StepShape:
    """Prompts and rollouts of a batch before an allocation rule changes them."""
    prompts = worker.prompts_per_batch or max(1, samples_per_step(args) // args.num_generations)
    return StepShape(prompts, args.num_generations)


def _require_supported(args: AsyncGRPOConfig) -> None:
    for name, value, unset in (
        ("min_p", args.min_p, (None, 0.0)),
        ("repetition_penalty", args.repetition_penalty, (None, 1.0)),
        ("max_tool_calling_iterations", args.max_tool_calling_iterations, (None,)),
    ):
        if value not in unset:
            raise ConfigError(
                f"{name} = {value!r}: a rollout is one turn, sampled by temperature, top_p and top_k only; leave it out"
            )


def _require_possible(args: AsyncGRPOConfig, config: HostConfig) -> None:
    rule, longest = config.pruning, args.max_completion_length
    if isinstance(rule, OracleRule):
        raise ConfigError("rule = 'oracle': decides after verification, which only arrol train can; use another")
    if config.algorithm == "mc_grpo" and uses_belief(config.allocation):
        raise ConfigError(
            "algorithm = 'mc_grpo': the posterior is a baseline already; set 'grpo', or "
            "allocation.posterior.used_for = 'nothing'"
        )
    refuse_probes(rule, longest, args.num_generations)
