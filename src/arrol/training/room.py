"""Plans of runs, evaluations and warm starts beside the memory of the machine: what surely fails is refused at once.

Nothing is allocated and nothing written; :mod:`arrol.training.footprint` has the formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch

from arrol.configs.allocation import UniformAllocation
from arrol.configs.run import RunConfig
from arrol.configs.sft import SftConfig
from arrol.training.footprint import (
    COMPLETION_BYTES,
    MOMENTS,
    Cause,
    Plan,
    adapter_weights,
    footprint,
    longest_row,
    require_room,
)
from arrol.training.model_files import Shape
from arrol.training.model_shapes import FLOAT_BYTES
from arrol.training.policy import laid_out

AT_UPDATE = FLOAT_BYTES + MOMENTS
SMALLER, LIMIT = "take a smaller model", "sampling.max_completion_tokens"
LEARNER, ROW = "its weights, gradients and AdamW's moments", "the keys and values of one rollout"


def require_run_room(config: RunConfig, device: torch.device, *, room: int | None = None) -> None:
    """ConfigError where ``arrol train`` would surely run out of memory; ``room`` bytes in place of the machine's."""
    model, shapes = laid_out(config.model)
    weights, training, evaluation = num_weights(shapes), config.training, config.evaluation
    keeps_reference = bool(config.algorithm.kl_coef) and config.lora is None
    row = longest_row(model, config.sampling.max_completion_tokens)
    rollouts = training.prompts_per_step * training.group_size
    if not isinstance(config.allocation, UniformAllocation):  # other rules choose how many
        rollouts = 0
    judged = evaluation.num_prompts * evaluation.samples_per_prompt
    causes = _causes(config, LEARNER, SMALLER if config.lora else f"{SMALLER}, or train adapters with --lora.r 16")
    if keeps_reference:
        causes["copies"] = Cause(
            "algorithm.kl_coef", config.algorithm.kl_coef, "the weights of the reference", "set it to 0"
        )
    sizes = {f"training.{name}": getattr(training, name) for name in ("group_size", "prompts_per_step")}
    causes["results"] = _counted("the completions of a step", sizes)
    if judged > rollouts:
        causes["results"] = _judged(config)
    plan = Plan(
        trained=weights if config.lora is None else adapter_weights(shapes, config.lora, model),
        held=MOMENTS if training.steps > 1 else 0,
        at_update=AT_UPDATE,
        copies=_engine_copy(config) + FLOAT_BYTES * keeps_reference,
        row_tokens=row if config.engine.name == "embedded" else 0,
        row_bytes=_row_bytes(config),
        update_tokens=row,
        predicted_tokens=row - 1,
        update_bytes=2 if training.bf16 else FLOAT_BYTES,
        recomputes=training.gradient_checkpointing,
        results=COMPLETION_BYTES * max(rollouts, judged),
    )
    require_room(footprint(model, weights, plan), causes, device, room=room)


def require_eval_room(config: RunConfig, policy: str, device: torch.device, *, room: int | None = None) -> None:
    """The same for completions of the held-out prompts by ``policy``."""
    model, shapes = laid_out(policy)
    named = config.model_copy(update={"model": policy})
    causes = _causes(named, "its weights", SMALLER) | {"results": _judged(config)}
    plan = Plan(
        copies=_engine_copy(config),
        row_tokens=longest_row(model, config.sampling.max_completion_tokens) if config.engine.name == "embedded" else 0,
        row_bytes=_row_bytes(config),
        results=COMPLETION_BYTES * config.evaluation.num_prompts * config.evaluation.samples_per_prompt,
    )
    require_room(footprint(model, num_weights(shapes), plan), causes, device, room=room)


def require_sft_room(
    config: SftConfig,
    laid: tuple[Any, Mapping[str, Shape]],
    device: torch.device,
    *,
    length: int,
    samples: int,
    room: int | None = None,
) -> None:
    """The same for a warm start of a laid-out model; ``length`` tokens of the first demonstration, ``samples`` of each
    held-out prompt."""
    model, shapes = laid
    weights = num_weights(shapes)
    if config.model is None:
        source = Cause("shape.hidden_size", config.shape.hidden_size, LEARNER, "lower it")
    else:
        source = Cause("model", config.model, LEARNER, SMALLER)
    causes = {
        "model": source,
        "row": Cause("max_completion_tokens", config.max_completion_tokens, ROW, scales=True),
        "update": Cause("batch_size", config.batch_size, "the activations of a step", scales=True),
        "logits": Cause("batch_size", config.batch_size, "the logits of a step", scales=True),
        "results": _counted("the completions of the evaluation", {"eval_prompts": config.eval_prompts}),
    }
    plan = Plan(
        trained=weights if config.lora is None else adapter_weights(shapes, config.lora, model),
        held=MOMENTS if config.steps > 1 else 0,
        at_update=AT_UPDATE,
        row_tokens=longest_row(model, config.max_completion_tokens),
        update_tokens=config.batch_size * length,
        predicted_tokens=config.batch_size,
        update_bytes=2 if config.bf16 else FLOAT_BYTES,
        recomputes=config.gradient_checkpointing,
        results=COMPLETION_BYTES * config.eval_prompts * samples,
    )
    require_room(footprint(model, weights, plan), causes, device, room=room)


def num_weights(shapes: Mapping[str, Shape]) -> int:
    """Numbers in all weights."""
    return sum(map(prod, shapes.values()))


def _causes(config: RunConfig, what: str, remedy: str) -> dict[str, Cause]:
    """Fields behind the parts that every command of a run's config has."""
    limit, less = config.sampling.max_completion_tokens, ", or set training.gradient_checkpointing = true"
    return {
        "model": Cause("model", config.model, what, remedy),
        "copies": Cause("engine.dtype", str(config.engine.dtype), "weights for generation", "set it to 'float32'"),
        "row": Cause(LIMIT, limit, ROW, scales=True),
        "update": Cause(
            LIMIT,
            limit,
            "the activations of one rollout's update",
            "" if config.training.gradient_checkpointing else less,
            scales=True,
        ),
        "logits": Cause(LIMIT, limit, "the logits of one rollout's update", scales=True),
    }


def _counted(what: str, factors: Mapping[str, int]) -> Cause:
    """The larger of the fields whose product is the number of completions."""
    field = max(factors, key=lambda name: factors[name])
    return Cause(field, factors[field], what, scales=True, on_host=True)


def _judged(config: RunConfig) -> Cause:
    names = ("num_prompts", "samples_per_prompt")
    factors = {f"evaluation.{name}": getattr(config.evaluation, name) for name in names}
    return _counted("the completions of an evaluation", factors)


def _engine_copy(config: RunConfig) -> int:
    """Bytes of each weight in a copy of the embedded engine's."""
    return 2 if config.engine.name == "embedded" and config.engine.dtype != "float32" else 0


def _row_bytes(config: RunConfig) -> int:
    return 2 if config.engine.dtype != "float32" else FLOAT_BYTES
