"""What writes the rollouts for TRL's asynchronous trainer: ``vllm serve``, or an engine that is handed in.

* server         ``vllm serve`` with arrol's scheduler and worker class; decisions are made there
* two-phase      a server without them: one call per probe, log-probabilities as features
* own engine     any :class:`arrol.protocols.Engine`, such as a ``LocalPolicy``
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, Protocol

from arrol.configs.host import HostConfig
from arrol.engines.vllm.phases import TwoPhaseSampler
from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.sampler import LlmSampler
from arrol.engines.vllm.served import ServedLlm
from arrol.errors import ConfigError
from arrol.integrations.memory import HostMemory
from arrol.integrations.trl.engines import AnyController
from arrol.integrations.trl.rules import refuse_remote, replaces_advantages
from arrol.protocols import Engine, More, TrainingController
from arrol.pruning.auto import Thinning
from arrol.pruning.controller import PruningController
from arrol.quality.features import FeatureLayout
from arrol.types import Completion, GroupRequest, SamplingParams

if TYPE_CHECKING:
    from trl.experimental.async_grpo import AsyncGRPOConfig

EngineFactory = Callable[[FeatureLayout], Engine]
"""Layout of the probes in, engine out."""


class FlowingEngine(Protocol[AnyController]):
    """An engine that takes later waves, and the kind of controller that it works with."""

    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: AnyController | None = None,
        more: More | None = None,
    ) -> list[list[Completion]]: ...


class Rollouts(Protocol):
    """Writes rollouts; ``controller`` knows the decisions."""

    @property
    def controller(self) -> TrainingController: ...

    def write(self, requests: Sequence[GroupRequest], more: More) -> None:
        """Write all requests and the ones that ``more`` returns; ``more`` is called with each rollout that ends."""


class EngineRollouts(Generic[AnyController]):
    """An engine with its controller and settings."""

    def __init__(
        self, engine: FlowingEngine[AnyController], controller: AnyController, params: SamplingParams, seed: int
    ) -> None:
        self._engine, self.controller, self._params, self._seed = engine, controller, params, seed

    def write(self, requests: Sequence[GroupRequest], more: More) -> None:
        self._engine.generate(requests, self._params, seed=self._seed, controller=self.controller, more=more)


def connect(
    args: AsyncGRPOConfig,
    config: HostConfig,
    memory: HostMemory,
    params: SamplingParams,
    *,
    engine: EngineFactory | None,
    two_phase: bool,
) -> Rollouts:
    """The engine of these settings; ConfigError for a server that does not answer."""
    if engine is None and not two_phase:
        refuse_remote(config, "two_phase = True")
        remote = RemoteController(config.pruning, seed=args.seed)
        return EngineRollouts(LlmSampler(_server(args), memory.estimator), remote, params, args.seed)
    thinning = Thinning(pruned=config.thinning if replaces_advantages(config) else 0.0)
    local = PruningController(config.pruning, memory.estimator, seed=args.seed, thinning=thinning)
    if engine is not None:
        return EngineRollouts(engine(memory.layout), local, params, args.seed)
    return EngineRollouts(TwoPhaseSampler(_server(args), memory.layout), local, params, args.seed)


def _server(args: AsyncGRPOConfig) -> ServedLlm:
    """The server, after TRL's first transfer of weights: an adapter of TRL's would be listed by now."""
    llm = ServedLlm(args.vllm_server_base_url)
    if llm.adapters:
        raise ConfigError(
            f"vllm server = {args.vllm_server_base_url!r}: serves the LoRA adapter {llm.adapters[0]!r}, and rollouts "
            "would be written by the base model; start it without --enable-lora, so that TRL sends merged weights"
        )
    return llm
