"""Who writes the rollouts for TRL: the embedded engine, or the vLLM that TRL has started.

* without vLLM   our own decode loop over the trainer's model
* colocate       TRL's ``LLM``, built with our scheduler and worker (:func:`vllm_with_our_classes`), one per process
* server         ``vllm serve`` with our classes; the main process asks for all ranks, as TRL does
* two-phase      colocate or a server without our classes: several calls, log-probabilities alone

A sampler hands out whole groups with their decisions; the controller and the head stand behind it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from arrol.configs.base import validate
from arrol.configs.host import HostConfig
from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.engines.vllm.phases import TwoPhaseSampler
from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.sampler import LlmSampler
from arrol.engines.vllm.served import ServedLlm
from arrol.errors import ConfigError
from arrol.integrations.memory import HostMemory
from arrol.pruning.controller import PruningController
from arrol.types import Completion, GroupRequest, RolloutGroup, SamplingParams, State


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
    if trainer.args.vllm_mode == "colocate":
        return VllmSampler(trainer, config, memory, trainer.vllm_generation.llm, two_phase=two_phase)
    return ServerSampler(trainer, config, memory, two_phase=two_phase)


class _OwnSampler:
    """A sampler whose controller lives in this process."""

    _controller: PruningController | RemoteController

    def pruned(self, requests: Sequence[GroupRequest], trainer: Any) -> list[RolloutGroup]:
        written = self._generate(requests, trainer, self._controller)
        return [
            RolloutGroup.of(request, completions, self._controller.decisions(request.step, request.group))
            for request, completions in zip(requests, written, strict=True)
        ]

    def plain(self, requests: Sequence[GroupRequest], trainer: Any) -> list[list[Completion]]:
        return self._generate(requests, trainer, None)

    def save(self) -> State:
        return {"controller": self._controller.save()}

    def load(self, state: State) -> None:
        self._controller.load(state["controller"])  # type: ignore[arg-type]

    def _generate(self, requests: Sequence[GroupRequest], trainer: Any, controller: Any) -> list[list[Completion]]:
        raise NotImplementedError


class EmbeddedSampler(_OwnSampler):
    """Our own decode loop over the trainer's model."""

    def __init__(self, trainer: Any, config: HostConfig, memory: HostMemory, *, decode_rows: int) -> None:
        if trainer.is_fsdp_enabled:
            raise ConfigError(
                "fsdp: the embedded engine needs whole layers on each process; set use_vllm=True, or rule = 'never'"
            )
        self._controller = PruningController(config.pruning, memory.estimator, seed=trainer.args.seed)
        self._memory, self._rows = memory, decode_rows
        self._engine: EmbeddedEngine | None = None

    def _generate(self, requests: Sequence[GroupRequest], trainer: Any, controller: Any) -> list[list[Completion]]:
        from trl.models import unwrap_model_for_generation

        with unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
        ) as model:
            if self._engine is None:
                model = model.get_base_model() if hasattr(model, "get_base_model") else model  # adapters lie inside it
                dtype = str(model.dtype).removeprefix("torch.")
                config = validate(EngineConfig, {"max_rows": self._rows, "dtype": dtype})
                self._engine = EmbeddedEngine(model, config, self._memory.layout)
            return self._engine.generate(
                requests, sampling_params(trainer), seed=trainer.args.seed, controller=controller
            )


class VllmSampler(_OwnSampler):
    """A vLLM of our own process, or a server as seen from one process."""

    def __init__(self, trainer: Any, config: HostConfig, memory: HostMemory, llm: Any, *, two_phase: bool) -> None:
        seed = trainer.args.seed
        self._engine: Any
        if two_phase:
            self._engine = TwoPhaseSampler(llm, memory.layout)
            self._controller = PruningController(config.pruning, memory.estimator, seed=seed)
        else:
            self._engine = LlmSampler(llm, memory.estimator)
            self._controller = RemoteController(config.pruning, seed=seed)

    def _generate(self, requests: Sequence[GroupRequest], trainer: Any, controller: Any) -> list[list[Completion]]:
        return self._engine.generate(requests, sampling_params(trainer), seed=trainer.args.seed, controller=controller)


class ServerSampler:
    """The main process asks a server on behalf of all, so groups, head and features have one owner."""

    def __init__(self, trainer: Any, config: HostConfig, memory: HostMemory, *, two_phase: bool) -> None:
        self._inner: VllmSampler | None = None
        if trainer.accelerator.is_main_process:
            args = trainer.args
            url = args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"
            self._inner = VllmSampler(trainer, config, memory, ServedLlm(url), two_phase=two_phase)

    def pruned(self, requests: Sequence[GroupRequest], trainer: Any) -> list[RolloutGroup]:
        return _on_main(requests, trainer, self._inner.pruned if self._inner else None)

    def plain(self, requests: Sequence[GroupRequest], trainer: Any) -> list[list[Completion]]:
        return _on_main(requests, trainer, self._inner.plain if self._inner else None)

    def save(self) -> State:
        assert self._inner is not None, "the main process saves"
        return self._inner.save()

    def load(self, state: State) -> None:
        if self._inner is not None:
            self._inner.load(state)


def _on_main(requests: Sequence[GroupRequest], trainer: Any, generate: Any) -> Any:
    """Requests of all ranks to the main process, each rank's part of the answers back."""
    from accelerate.utils import broadcast_object_list, gather_object

    if trainer.accelerator.num_processes == 1:
        return generate(requests, trainer)
    everyone = gather_object(list(requests))
    answers: list[Any] = [None] * len(everyone) if generate is None else generate(everyone, trainer)
    broadcast_object_list(answers, from_process=0)
    first = trainer.accelerator.process_index * len(requests)
    return answers[first : first + len(requests)]


@contextmanager
def vllm_with_our_classes(args: Any) -> Iterator[None]:
    """While TRL builds its colocated ``LLM``: scheduler and worker cannot be named there, so its name is borrowed."""
    if not (args.use_vllm and args.vllm_mode == "colocate") or args.vllm_two_phase:
        yield
        return
    from trl.generation import vllm_generation

    original = getattr(vllm_generation, "LLM", None)
    if original is None:
        raise ConfigError(
            "vllm_mode = 'colocate': vLLM is not installed, or this TRL builds it elsewhere; "
            "install arrol[vllm], or set vllm_two_phase = True"
        )
    ours: dict[str, Any] = {
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
