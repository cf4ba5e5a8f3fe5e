"""Collects a pool: samples a policy with its own engine, verifies, and sketches every rollout's gradient.

Prompts are done in blocks; each finished block is a file beside the pool, so an interrupted collection goes on where it
stopped. A rollout's tokens depend on the seed and its place, never on the block. Legend: as in :mod:`arrol.lab.pool`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arrol import assembly
from arrol.configs.run import RunConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.engines.stops import completion_text
from arrol.errors import ConfigError
from arrol.lab.pool import SUFFIX, Pool
from arrol.lab.scores import crossfit_quality
from arrol.lab.sketch import GradientSketch
from arrol.protocols import Controller, PendingVerdict, Task
from arrol.quality.features import FeatureLayout
from arrol.training.footprint import Cause, Plan, footprint, longest_row, require_room
from arrol.training.model_shapes import FLOAT_BYTES
from arrol.training.policy import laid_out, stop_token_ids
from arrol.training.room import LIMIT, ROW, num_weights
from arrol.types import Completion, FinishReason, GroupRequest, Prompt, PruningDecision, RolloutId, Verdict
from arrol.verifiers.tally import RewardTally

LOOKS = 12
"""Probe lengths, evenly spaced up to the length limit."""


@dataclass(frozen=True)
class PoolPlan:
    """How much to collect."""

    prompts: int = 64
    """Training prompts from the beginning of the data, at least 2."""
    rollouts: int = 96
    """Rollouts of each, at least 2."""
    sketch_size: int = 512
    """Numbers of a gradient's sketch; 0 leaves gradients out."""
    parameters: tuple[str, ...] = ()
    """Patterns of the parameters whose gradient is sketched; empty takes all."""
    probe_tokens: tuple[int, ...] = ()
    """Lengths at which features are read; empty spreads LOOKS of them over the length limit."""
    block: int = 8
    """Prompts of a block."""

    def __post_init__(self) -> None:
        for name, least in (("prompts", 2), ("rollouts", 2), ("sketch_size", 0), ("block", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}: give at least {least}")


class _Watch(Controller):
    """Stops none; it has the probes at which features are read."""

    probe_tokens: tuple[int, ...] = ()

    def __init__(self, probe_tokens: tuple[int, ...]) -> None:
        self.probe_tokens = probe_tokens

    def open(self, step: int, group: int, size: int, success_rate: float | None = None, *, prune: bool = True) -> None:
        pass

    def decisions(self, step: int, group: int) -> list[PruningDecision]:
        return []

    def decision(self, rollout_id: RolloutId) -> PruningDecision | None:
        return None


class Collector:
    """Collects blocks of one policy."""

    def __init__(self, config: RunConfig, model: Any, tokenizer: Any, task: Task, plan: PoolPlan) -> None:
        self._config, self._tokenizer, self._task = config, tokenizer, task
        self.plan = replace(plan, probe_tokens=read_lengths(config, plan))
        self._layout = assembly.build_layout(config, model)
        engine = config.engine
        if engine.name != "embedded":
            raise ConfigError(f"engine.name = {engine.name!r}: a pool is sampled by the embedded engine; leave it out")
        self._engine = EmbeddedEngine(model, engine, self._layout, tokenizer=tokenizer)
        self._sampling = assembly.build_sampling(config, stop_token_ids(model, tokenizer))
        self._sketch = None
        if plan.sketch_size:
            temperature = config.sampling.temperature
            self._sketch = GradientSketch(
                model, plan.sketch_size, seed=config.seed, only=plan.parameters, temperature=temperature
            )
        self.seconds = {"generate_s": 0.0, "verify_s": 0.0, "gradient_s": 0.0}

    def block(self, first: int, count: int) -> Pool:
        """The pool of ``count`` training prompts from position ``first``."""
        prompts = [self._task.train_prompt(first + number) for number in range(count)]
        started = time.process_time()
        requests = [GroupRequest(1, first + n, prompt, self.plan.rollouts) for n, prompt in enumerate(prompts)]
        watch = _Watch(self.plan.probe_tokens)
        groups = self._engine.generate(requests, self._sampling, seed=self._config.seed, controller=watch)
        self._lap("generate_s", started)
        started = time.process_time()
        verdicts_PN = self._verdicts(prompts, groups)
        reward_PN = np.array([[verdict.reward for verdict in row] for row in verdicts_PN], np.float32)
        self._lap("verify_s", started)
        started = time.process_time()
        sketch_PND = np.zeros((count, self.plan.rollouts, self.plan.sketch_size), np.float32)
        if self._sketch:
            # As the learner computes it.
            with torch.autocast(self._engine.device.type, torch.bfloat16, enabled=self._config.training.bf16):
                sketch_PND[:] = [
                    [self._sketch(prompt.token_ids, completion.token_ids)[0] for completion in group]
                    for prompt, group in zip(prompts, groups, strict=True)
                ]
        self._lap("gradient_s", started)
        rollouts = [completion for group in groups for completion in group]
        shape = (count, self.plan.rollouts)
        return Pool(
            tuple(prompt.key for prompt in prompts),
            reward_PN,
            np.array([c.num_tokens for c in rollouts], np.int32).reshape(shape),
            np.array([c.finish_reason is FinishReason.LENGTH for c in rollouts]).reshape(shape),
            np.concatenate([np.array(c.token_ids, np.int32) for c in rollouts]),
            np.concatenate([c.sampler_logprobs_T for c in rollouts]).astype(np.float32),
            self.plan.probe_tokens,
            _features(groups, self.plan.probe_tokens, self._layout),
            sketch_PND=sketch_PND,
            success_PN=_successes(verdicts_PN),
        )

    def _verdicts(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Completion]]) -> list[list[Verdict]]:
        pending_PN: list[list[PendingVerdict]] = []
        for prompt, group in zip(prompts, groups, strict=True):
            pending_PN.append([])
            for completion in group:
                text = completion_text(self._tokenizer, completion.token_ids, self._sampling.stop)
                is_whole = completion.finish_reason.survived
                submitted = self._task.submit(prompt, text, completion.token_ids) if is_whole else _no_verdict
                pending_PN[-1].append(submitted)
        verdicts_PN = [[wait() for wait in row] for row in pending_PN]
        RewardTally(verdict for row in verdicts_PN for verdict in row).require_one("these prompts")
        return verdicts_PN

    def _lap(self, name: str, started: float) -> None:
        self.seconds[name] += time.process_time() - started


def read_lengths(config: RunConfig, plan: PoolPlan) -> tuple[int, ...]:
    """Ascending lengths at which features are read."""
    longest = config.sampling.max_completion_tokens
    evenly = {max(1, round(longest * (k + 1) / (LOOKS + 1))) for k in range(LOOKS)}
    named = set(plan.probe_tokens) or {*evenly, *config.pruning.probe_tokens}
    return tuple(sorted(t for t in named if t < longest))


def require_pool_room(
    config: RunConfig, plan: PoolPlan, policy: str, device: torch.device, *, room: int | None = None
) -> None:
    """ConfigError where the collection, or the pool as a whole, would surely run out of memory."""
    model, shapes = laid_out(policy)
    features = FeatureLayout(config.quality.features, int(model.get_text_config().hidden_size)).num_features
    each = FLOAT_BYTES * (plan.sketch_size + 2) + 2 * features * len(read_lengths(config, plan))
    has_gradient = bool(plan.sketch_size) and not plan.parameters and config.lora is None
    size, limit = max((plan.prompts, "--prompts"), (plan.rollouts, "--rollouts")), config.sampling.max_completion_tokens
    row = longest_row(model, limit)
    causes = {
        "model": Cause("model", policy, "its weights and a gradient", "take a smaller model, or --sketch-size 0"),
        "row": Cause(LIMIT, limit, ROW, scales=True),
        "update": Cause(LIMIT, limit, "the activations of one rollout's gradient", scales=True),
        "logits": Cause(LIMIT, limit, "the logits of one rollout's gradient", scales=True),
        "results": Cause(size[1], size[0], "the features and sketches of the pool", scales=True, on_host=True),
    }
    needed = Plan(
        trained=num_weights(shapes) if has_gradient else 0,
        held=FLOAT_BYTES,  # the sketch's hash
        at_update=2 * FLOAT_BYTES,
        row_tokens=row,
        update_tokens=row if has_gradient else 0,
        predicted_tokens=row - 1 if has_gradient else 0,
        update_bytes=2 if config.training.bf16 else FLOAT_BYTES,
        results=plan.prompts * plan.rollouts * each,
    )
    require_room(footprint(model, num_weights(shapes), needed), causes, device, room=room)


def collect(
    collector: Collector, path: Path, meta: dict[str, Any], progress: Callable[[int, int], None] | None = None
) -> Pool:
    """Collect what is missing, write the pool, remove the blocks.

    ``progress`` hears of prompts done and prompts in all. ConfigError where blocks of another plan lie there.
    """
    plan, parts = collector.plan, []
    folder = path.with_name(path.stem + ".blocks")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {name: meta[name] for name in ("config", "plan")}
    for first in range(0, plan.prompts, plan.block):
        file = folder / f"{first:06d}{SUFFIX}"
        if file.exists():
            part = Pool.load(file)
            if {name: part.meta.get(name) for name in wanted} != wanted:
                raise ConfigError(f"out = {str(path)!r}: {folder.name} holds blocks of another plan; remove it")
        else:
            before = dict(collector.seconds)
            part = collector.block(first, min(plan.block, plan.prompts - first))
            spent = {name: value - before[name] for name, value in collector.seconds.items()}
            part = replace(part, meta={**meta, "seconds": spent})
            part.save(file)
        parts.append(part)
        if progress:
            progress(first + part.num_prompts, plan.prompts)
    totals = {name: sum(part.meta["seconds"][name] for part in parts) for name in collector.seconds}
    pool = replace(Pool.join(parts), meta={**meta, "seconds": totals})
    pool = replace(pool, quality_PNK=crossfit_quality(pool))
    pool.save(path)
    shutil.rmtree(folder)
    return pool


def _successes(verdicts_PN: Sequence[Sequence[Verdict]]) -> np.ndarray:
    """float32 ``[P, N]``: 1 right, 0 wrong, NaN unknown, as reward functions say; empty where a verifier judged."""
    told = [[verdict.success for verdict in row] for row in verdicts_PN]
    if all(success is None for row in told for success in row):
        return np.zeros((0, 0), np.float32)
    return np.array([[np.nan if success is None else success for success in row] for row in told], np.float32)


def _no_verdict() -> Verdict:
    return Verdict(float("nan"), None)


def _features(
    groups: Sequence[Sequence[Completion]], probe_tokens: tuple[int, ...], layout: FeatureLayout
) -> np.ndarray:
    """float16 ``[P, N, K, F]``."""
    shape = (len(groups), len(groups[0]), len(probe_tokens), layout.num_features)
    features_PNKF = np.full(shape, np.nan, np.float16)
    limit = float(np.finfo(np.float16).max)
    for p, group in enumerate(groups):
        for n, completion in enumerate(group):
            for k, length in enumerate(probe_tokens):
                if length in completion.features_at:
                    features_PNKF[p, n, k] = np.clip(completion.features_at[length], -limit, limit)
    return features_PNKF
