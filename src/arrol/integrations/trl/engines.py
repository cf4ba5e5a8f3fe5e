"""Who writes the rollouts for TRL: the embedded engine, or the vLLM that TRL has started.

A sampler hands out whole groups with their decisions; the controller and the head stand behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

from arrol.configs.host import HostConfig
from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.errors import ConfigError
from arrol.integrations.memory import HostMemory
from arrol.pruning.controller import PruningController
from arrol.types import Completion, GroupRequest, Rollout, RolloutGroup, SamplingParams, State


class Sampler(Protocol):
    """Groups to rollouts; :class:`arrol.protocols.Stateful` but for metrics."""

    def pruned(self, requests: Sequence[GroupRequest], trainer: Any) -> list[RolloutGroup]: ...
    def plain(self, requests: Sequence[GroupRequest], trainer: Any) -> list[list[Completion]]: ...
    def save(self) -> State: ...
    def load(self, state: State) -> None: ...


def build_sampler(
    trainer: Any, config: HostConfig, memory: HostMemory, *, decode_rows: int, two_phase: bool
) -> Sampler:
    """By TRL's own choice of engine."""
    if not trainer.use_vllm:
        return EmbeddedSampler(trainer, config, memory, decode_rows=decode_rows)
    raise NotImplementedError


class EmbeddedSampler:
    """Our own decode loop over the trainer's model."""

    def __init__(self, trainer: Any, config: HostConfig, memory: HostMemory, *, decode_rows: int) -> None:
        if trainer.is_fsdp_enabled:
            raise ConfigError(
                "fsdp: the embedded engine needs whole layers on each process; set use_vllm=True, or rule = 'never'"
            )
        self._controller = PruningController(config.pruning, memory.estimator, seed=trainer.args.seed)
        self._memory, self._rows = memory, decode_rows
        self._engine: EmbeddedEngine | None = None

    def pruned(self, requests: Sequence[GroupRequest], trainer: Any) -> list[RolloutGroup]:
        return with_decisions(requests, self._generate(requests, trainer, self._controller), self._controller)

    def plain(self, requests: Sequence[GroupRequest], trainer: Any) -> list[list[Completion]]:
        return self._generate(requests, trainer, None)

    def save(self) -> State:
        return {"controller": self._controller.save()}

    def load(self, state: State) -> None:
        self._controller.load(state["controller"])  # type: ignore[arg-type]

    def _generate(
        self, requests: Sequence[GroupRequest], trainer: Any, controller: PruningController | None
    ) -> list[list[Completion]]:
        from trl.models import unwrap_model_for_generation

        with unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
        ) as model:
            if self._engine is None:
                model = model.get_base_model() if hasattr(model, "get_base_model") else model  # adapters lie inside it
                dtype = str(model.dtype).removeprefix("torch.")
                config = EngineConfig.model_validate({"max_rows": self._rows, "dtype": dtype})
                self._engine = EmbeddedEngine(model, config, self._memory.layout)
            with nullcontext():
                return self._engine.generate(
                    requests, sampling_params(trainer), seed=trainer.args.seed, controller=controller
                )


def sampling_params(trainer: Any) -> SamplingParams:
    """TRL's settings in our words; ConfigError for those that the embedded engine does not know."""
    args = trainer.args
    for name, neutral in (
        ("min_p", (None, 0.0)),
        ("repetition_penalty", (None, 1.0)),
        ("generation_kwargs", (None, {})),
    ):
        if getattr(args, name, None) not in neutral:
            raise ConfigError(
                f"{name} = {getattr(args, name)!r}: the embedded engine samples by temperature, top_p and top_k only; "
                "leave it out, or set use_vllm=True"
            )
    return SamplingParams(
        trainer.max_completion_length,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=max(args.top_k or 0, 0),
        stop_token_ids=stop_token_ids(trainer),
    )


def stop_token_ids(trainer: Any) -> tuple[int, ...]:
    """TRL 1.13 and newer keep several; before, there is the tokenizer's one."""
    ids = getattr(trainer, "eos_token_ids", None)
    return tuple(ids) if ids else (trainer.processing_class.eos_token_id,)


def with_decisions(
    requests: Sequence[GroupRequest], written: Sequence[Sequence[Completion]], controller: Any
) -> list[RolloutGroup]:
    """Completions beside what was decided about them."""
    groups = []
    for request, completions in zip(requests, written, strict=True):
        decisions = {d.rollout_id: d for d in controller.decisions(request.step, request.group)}
        rollouts = [
            Rollout(rollout_id, completion, decisions.get(rollout_id))
            for rollout_id, completion in zip(request.rollout_ids, completions, strict=True)
        ]
        groups.append(RolloutGroup(request.prompt, rollouts))
    return groups
