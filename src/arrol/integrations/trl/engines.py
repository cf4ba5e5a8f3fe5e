"""Which engine writes the rollouts for TRL: the embedded one, or the vLLM that TRL has started.

* without vLLM   the embedded engine over the trainer's own model
* colocate       TRL's ``LLM``, built with arrol's scheduler and worker (:func:`vllm_with_our_classes`), one per process
* server         ``vllm serve`` with arrol's classes; the main process sends the requests of all ranks, as TRL does
* two-phase      colocate or server without arrol's classes: one call per probe, log-probabilities as features
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import numpy as np

from arrol.configs.base import validate
from arrol.configs.host import HostConfig
from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.engines.vllm.phases import TwoPhaseSampler
from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.sampler import LlmLike, LlmSampler, settings_of
from arrol.engines.vllm.served import ServedLlm
from arrol.errors import ConfigError, NonFiniteError
from arrol.integrations.memory import HostMemory
from arrol.integrations.trl.host import TrainerLike, policy_of, require_whole_layers, sampling_params, vllm_options
from arrol.integrations.trl.rules import CacheGib
from arrol.protocols import Controller, Saved, TrainingController
from arrol.pruning.auto import Thinning
from arrol.pruning.controller import PruningController
from arrol.quality.features import FeatureLayout
from arrol.types import (
    Completion,
    Contribution,
    FinishReason,
    GroupRequest,
    RolloutGroup,
    RolloutId,
    SamplingParams,
    State,
)

if TYPE_CHECKING:
    from trl import GRPOConfig

Signals = Mapping[RolloutId, np.ndarray]
AnyController = TypeVar("AnyController", bound=TrainingController, contravariant=True)


class Sampler(Saved, Protocol):
    """Requests in, finished groups with their decisions out."""

    def sample(self, requests: Sequence[GroupRequest], *, prune: bool) -> list[RolloutGroup]: ...

    @property
    def signals(self) -> Signals:
        """What rule ``auto`` has seen here at probes of the last batch."""

    def learn(
        self, groups: Sequence[RolloutGroup], contributions: Sequence[Contribution], signals: Sequence[Signals]
    ) -> dict[str, float]:
        """The verified groups of all ranks, what became of each and the signals of all ranks; metrics of ``auto``."""


class HostedEngine(Protocol[AnyController]):
    """An engine and the kind of controller that it works with."""

    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: AnyController | None = None,
    ) -> list[list[Completion]]: ...


def build_sampler(
    trainer: TrainerLike,
    config: HostConfig,
    memory: HostMemory,
    *,
    cache_gib: CacheGib,
    two_phase: bool,
    thinning: float,
) -> Sampler:
    """The sampler of TRL's own choice of engine; ``thinning`` is the share of the lottery in batches with stops."""
    local = PruningController(
        config.pruning, memory.estimator, seed=trainer.args.seed, thinning=Thinning(pruned=thinning)
    )
    if not trainer.use_vllm:
        return EngineSampler(PolicyEngine(trainer, memory.layout, cache_gib), local, trainer)
    args, is_colocated = trainer.args, trainer.args.vllm_mode == "colocate"
    if not is_colocated and not trainer.accelerator.is_main_process:
        return ServerSampler(None, trainer)
    url = args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"
    llm = LlmWithOptions(trainer.vllm_generation.llm if is_colocated else ServedLlm(url), vllm_options(args))
    if two_phase:
        sampler: Sampler = EngineSampler(TwoPhaseSampler(llm, memory.layout), local, trainer)
    else:
        remote = RemoteController(config.pruning, seed=args.seed)
        sampler = EngineSampler(LlmSampler(llm, memory.estimator), remote, trainer)
    return sampler if is_colocated else ServerSampler(sampler, trainer)


class LlmWithOptions:
    """A vLLM whose requests carry more fields of vLLM's SamplingParams; an :class:`LlmLike`."""

    def __init__(self, llm: LlmLike, options: Mapping[str, object]) -> None:
        self._llm, self._options = llm, options

    def settings(self, fields: Mapping[str, object]) -> object:
        """Settings of one request."""
        return settings_of(self._llm, {**fields, **self._options})

    def generate(self, prompts: Any, settings: Any, /, *, use_tqdm: bool) -> Sequence[Any]:
        return self._llm.generate(prompts, settings, use_tqdm=use_tqdm)

    def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> Sequence[Any]:
        return self._llm.collective_rpc(method, args=args)


class EngineSampler(Generic[AnyController]):
    """An engine and its controller, both of this process."""

    def __init__(self, engine: HostedEngine[AnyController], controller: AnyController, trainer: TrainerLike) -> None:
        self._engine, self._controller = engine, controller
        self._auto = controller.auto if isinstance(controller, PruningController) else None
        self._params, self._seed = sampling_params(trainer), trainer.args.seed

    def sample(self, requests: Sequence[GroupRequest], *, prune: bool) -> list[RolloutGroup]:
        controller = self._controller if prune else None
        written = self._engine.generate(requests, self._params, seed=self._seed, controller=controller)
        return [
            RolloutGroup.of(
                request, completions, controller.decisions(request.step, request.group) if controller else ()
            )
            for request, completions in zip(requests, written, strict=True)
        ]

    @property
    def signals(self) -> Signals:
        return self._auto.signals if self._auto else {}

    def learn(
        self, groups: Sequence[RolloutGroup], contributions: Sequence[Contribution], signals: Sequence[Signals]
    ) -> dict[str, float]:
        for seen in signals:
            if self._auto:
                self._auto.hear(seen)
        self._controller.learn(groups, contributions)
        return self._controller.metrics()

    def save(self) -> State:
        return {"controller": self._controller.save()}

    def load(self, state: State) -> None:
        self._controller.load(cast(State, state["controller"]))


class ServerSampler:
    """Sends the requests of all ranks from the main process, which alone holds ``inner``."""

    def __init__(self, inner: Sampler | None, trainer: TrainerLike) -> None:
        self._inner, self._accelerator = inner, trainer.accelerator

    def sample(self, requests: Sequence[GroupRequest], *, prune: bool) -> list[RolloutGroup]:
        from accelerate.utils import broadcast_object_list, gather_object

        count, rank = self._accelerator.num_processes, self._accelerator.process_index
        asked = gather_object(list(requests)) if count > 1 else requests
        answer = [self._inner.sample(asked, prune=prune) if self._inner else []]
        if count > 1:
            broadcast_object_list(answer, from_process=0)
        return answer[0][rank * len(requests) :][: len(requests)]

    @property
    def signals(self) -> Signals:
        return self._inner.signals if self._inner is not None else {}

    def learn(
        self, groups: Sequence[RolloutGroup], contributions: Sequence[Contribution], signals: Sequence[Signals]
    ) -> dict[str, float]:
        return self._inner.learn(groups, contributions, signals) if self._inner is not None else {}

    def save(self) -> State:
        assert self._inner is not None, "the main process saves"
        return self._inner.save()

    def load(self, state: State) -> None:
        if self._inner is not None:
            self._inner.load(state)


class PolicyEngine:
    """The embedded engine over the model that TRL trains, unwrapped and under TRL's precision for each call."""

    def __init__(self, trainer: TrainerLike, layout: FeatureLayout, cache_gib: CacheGib) -> None:
        require_whole_layers(trainer)
        self._trainer, self._layout, self._cache_gib = trainer, layout, cache_gib
        self._engine: EmbeddedEngine | None = None

    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: Controller | None = None,
    ) -> list[list[Completion]]:
        from trl.models import unwrap_model_for_generation

        trainer = self._trainer
        gather = trainer.args.ds3_gather_for_generation
        with (
            unwrap_model_for_generation(
                trainer.model_wrapped, trainer.accelerator, gather_deepspeed3_params=gather
            ) as model,
            trainer.accelerator.autocast(),
        ):
            if self._engine is None:
                policy = policy_of(model)
                config = {
                    "dtype": str(policy.dtype).removeprefix("torch."),
                    "max_rows": trainer.args.generation_batch_size // trainer.accelerator.num_processes,
                    "cache_gib": self._cache_gib,
                }
                self._engine = EmbeddedEngine(policy, validate(EngineConfig, config), self._layout)
            written = self._engine.generate(requests, params, seed=seed, controller=controller)
        if all(each.finish_reason is FinishReason.ERROR for completions in written for each in completions):
            raise NonFiniteError(
                "policy: the logits of every rollout are not finite; resume from an earlier checkpoint, with a lower "
                "learning_rate or max_grad_norm"
            )
        return written


@contextmanager
def vllm_with_our_classes(args: GRPOConfig, *, two_phase: bool) -> Iterator[None]:
    """While TRL builds its colocated ``LLM``, give it arrol's scheduler and worker: no argument of TRL names them."""
    if two_phase or not (args.use_vllm and args.vllm_mode == "colocate"):
        yield
        return
    from trl.generation import vllm_generation

    original = getattr(vllm_generation, "LLM", None)
    if original is None:
        raise ConfigError(
            "vllm_mode = 'colocate': vLLM is not installed, or this TRL builds it elsewhere; "
            "run: pip install '.[vllm]' in a checkout of arrol, or set vllm_two_phase = True"
        )
    ours: dict[str, object] = {
        "scheduler_cls": "arrol.engines.vllm.PruningScheduler",
        "worker_cls": "arrol.engines.vllm.PruningWorker",
    }
    if args.use_cpu:  # no graphs; vLLM 0.32 crashes there when a prompt with a seed of its own is fed in chunks
        ours |= {"enforce_eager": True, "enable_chunked_prefill": False}
    vllm_generation.LLM = functools.partial(original, **ours)
    try:
        yield
    finally:
        vllm_generation.LLM = original
