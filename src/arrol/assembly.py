"""Builds the objects of a run from its config; the only module that branches on a config's tag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arrol.algorithms.allocation.allocator import Allocator
from arrol.algorithms.allocation.rule import StepShape
from arrol.algorithms.thinning import thinning_share
from arrol.configs.method import AutoRule
from arrol.configs.run import (
    EngineConfig,
    RunConfig,
    VllmEngineConfig,
)
from arrol.configs.task import (
    ArithmeticTaskConfig,
    CountdownTaskConfig,
    DatasetTaskConfig,
    RewardFields,
    SearchTaskConfig,
    TaskConfig,
    require_written,
)
from arrol.engines.vllm.remote import RemoteController
from arrol.protocols import Task
from arrol.pruning.auto import Thinning
from arrol.pruning.controller import PruningController
from arrol.quality.estimator import QualityEstimator
from arrol.quality.features import FeatureLayout
from arrol.types import SamplingParams

if TYPE_CHECKING:
    from arrol.engines.embedded.engine import EmbeddedEngine
    from arrol.engines.vllm.engine import VllmEngine


def build_task(config: TaskConfig, tokenizer: Any, *, seed: int) -> Task:
    """The task with its verifier."""
    if isinstance(config, ArithmeticTaskConfig):
        from arrol.tasks.arithmetic import ArithmeticTask

        return ArithmeticTask(tokenizer, seed=seed, **config.model_dump(exclude={"name"}))
    if isinstance(config, CountdownTaskConfig):
        from arrol.tasks.countdown import CountdownTask

        return CountdownTask(tokenizer, seed=seed, **config.model_dump(exclude={"name"}))
    if isinstance(config, SearchTaskConfig):
        from arrol.tasks.search import SearchTask

        return SearchTask(tokenizer, seed=seed, **config.model_dump(exclude={"name"}))
    require_written(config)
    assert isinstance(config, DatasetTaskConfig), config
    from arrol.tasks.dataset import DatasetTask
    from arrol.verifiers.judge import RewardJudge

    fields = config.model_dump(exclude={"name", *RewardFields.model_fields})
    return DatasetTask(tokenizer, seed=seed, reward=RewardJudge.of(config), **fields)


def task_alphabet(config: TaskConfig) -> str:
    """Characters of a synthetic task."""
    from arrol.tasks.arithmetic import ArithmeticTask
    from arrol.tasks.countdown import CountdownTask
    from arrol.tasks.search import SearchTask

    return {task.name: task.alphabet for task in (ArithmeticTask, CountdownTask, SearchTask)}[config.name]


def build_layout(config: RunConfig, model: Any) -> FeatureLayout:
    """Order and size of the probe's features for this model."""
    return FeatureLayout(config.quality.features, int(model.config.get_text_config().hidden_size))


def build_engine(
    config: RunConfig, model: Any, estimator: QualityEstimator | None = None, *, tokenizer: Any = None
) -> EmbeddedEngine | VllmEngine:
    """The engine of the config; vLLM computes scores itself, so it needs the estimator.

    Stop strings need the ``tokenizer``.
    """
    if isinstance(config.engine, EngineConfig):
        from arrol.engines.embedded.engine import EmbeddedEngine

        layout = build_layout(config, model)
        return EmbeddedEngine(model, config.engine, layout, shows_ends=config.quality.judge_ends, tokenizer=tokenizer)
    from arrol.engines.vllm.engine import VllmEngine

    return VllmEngine(model, config.engine, config.sampling, estimator=estimator)


def build_estimator(config: RunConfig, model: Any) -> QualityEstimator:
    return QualityEstimator(config.quality, build_layout(config, model), config.pruning.probe_tokens, seed=config.seed)


def build_controller(config: RunConfig, estimator: QualityEstimator) -> PruningController | RemoteController:
    """The controller; with vLLM, one that keeps the decisions of its scheduler."""
    if isinstance(config.engine, VllmEngineConfig):
        return RemoteController(config.pruning, seed=config.seed)
    return PruningController(config.pruning, estimator, seed=config.seed, thinning=build_thinning(config))


def build_thinning(config: RunConfig) -> Thinning:
    """The lottery before the update, in steps without stops and in steps with them; rule ``auto`` chooses it unless it
    is off or set for every step."""
    algorithm = config.algorithm
    if isinstance(config.pruning, AutoRule) and algorithm.thins == "pruned":
        return Thinning(is_chosen=bool(algorithm.thinning) and not algorithm.kl_coef)
    kept, pruned = (thinning_share(algorithm, is_pruned=is_pruned) for is_pruned in (False, True))
    return Thinning(kept, pruned)


def build_allocator(config: RunConfig) -> Allocator:
    """The allocator: rollouts per prompt, and which of them train."""
    return Allocator(
        config.allocation,
        StepShape(config.training.prompts_per_step, config.training.group_size),
        seed=config.seed,
        max_completion_tokens=config.sampling.max_completion_tokens,
        correction=config.algorithm.correction,
    )


def build_sampling(
    config: RunConfig, stop_token_ids: tuple[int, ...], *, temperature: float | None = None
) -> SamplingParams:
    """Sampling of training; with a temperature, of evaluation (without top-k and top-p)."""
    sampling = config.sampling
    if temperature is not None:
        return SamplingParams(
            sampling.max_completion_tokens, temperature, stop_token_ids=stop_token_ids, stop=sampling.stop
        )
    return SamplingParams(
        sampling.max_completion_tokens,
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
        stop_token_ids,
        sampling.stop,
    )
