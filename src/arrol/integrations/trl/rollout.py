"""TRL's ``rollout_func`` that prunes, learns from each batch, and prepares the inputs of the loss.

TRL gets a stopped rollout as a row of one padding token with ``env_mask`` 0 and reward None: no loss, no part in its
group's statistics. Each rank prunes its own whole groups; outcomes are gathered, so every rank trains the same head.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from arrol.algorithms.allocation.rule import StepShape
from arrol.algorithms.lesson import Lesson
from arrol.configs.host import HostConfig, parse_host
from arrol.configs.method import AutoRule
from arrol.engines.vllm.phases import require_only_logprobs
from arrol.errors import ConfigError
from arrol.integrations.allocation import HostAllocation
from arrol.integrations.diagnosis import HostDiagnosis
from arrol.integrations.memory import HostMemory, read_head, write_head
from arrol.integrations.trl.advice import ADVICE
from arrol.integrations.trl.batch import RewardedGroup, RolloutBatch, RowTag, named_prompt
from arrol.integrations.trl.engines import Sampler, build_sampler
from arrol.integrations.trl.evaluation import JudgedRollouts, reward_columns
from arrol.integrations.trl.host import (
    TrainerLike,
    TrlPrompts,
    gathered,
    require_positions,
    require_whole_groups,
    tokenized_prompts,
)
from arrol.integrations.trl.loss import BatchSignal, Inputs, rows_by_tokens
from arrol.integrations.trl.records import TrlRecords, recorded_groups, trainer_records
from arrol.integrations.trl.rewards import TAG_COLUMN
from arrol.integrations.trl.rules import cache_budget, refuse_impossible, replaces_advantages, selects, share_of
from arrol.integrations.trl.signal import (
    BatchTotals,
    GroupAdvantages,
    OutcomeValues,
    contributions,
    own_advantages,
    survivor_counts,
    thinning_factors,
    trl_advantages,
)
from arrol.integrations.warmup import Warmup, with_probes, without_probes
from arrol.types import GroupRequest, Rollout, State

logger = logging.getLogger(__name__)


def pruned_rollout(
    *,
    success_reward: str | None = None,
    cache_gib: float | str | None = None,
    two_phase: bool = False,
    **options: object,
) -> PrunedRollout:
    """A ``rollout_func`` for a trainer of your own; ``options`` are the fields of the rule and of ``HostConfig``.

    Also pass ``reward_funcs=prune_rewards(...)``, and in ``compute_loss`` use the result of
    :meth:`PrunedRollout.loss_inputs`. Without ``probe_tokens`` the first lengths choose the probe. ConfigError names
    the first option that is wrong.
    """
    config = parse_host(options)
    refuse_impossible(config)
    config = config if "probe_tokens" in options else without_probes(config)
    return PrunedRollout(config, success_reward=success_reward, cache_gib=cache_gib, two_phase=two_phase)


class PrunedRollout:
    """Called by TRL as its ``rollout_func``; learns from each batch once its rewards are known."""

    def __init__(
        self,
        config: HostConfig,
        *,
        success_reward: str | None = None,
        cache_gib: float | str | None = None,
        two_phase: bool = False,
    ) -> None:
        if two_phase:
            require_only_logprobs(config.quality.features)
        self.config, self.success_reward = config, success_reward
        self._cache_gib, self._two_phase = cache_budget(cache_gib), two_phase
        self._values, self._warmup, self._diagnosis = OutcomeValues(), Warmup(config), HostDiagnosis(ADVICE)
        self._sampler: Sampler | None = None
        self._memory: HostMemory | None = None
        self._allocation: HostAllocation | None = None
        self._saved: State | None = None
        self._trainer: TrainerLike | None = None
        self.batch: RolloutBatch | None = None
        """This rank's last training batch."""
        self.signal: BatchSignal | None = None
        """What the loss needs to know of it; None until its rewards are known."""
        self._evaluated = 0
        self._evaluation = JudgedRollouts(self.success_reward, config.success_threshold)
        self._metrics: list[dict[str, float]] = []
        self._records: TrlRecords | None = None

    def __call__(self, prompts: TrlPrompts, trainer: TrainerLike) -> dict[str, object]:
        """One row per prompt: ``prompt_ids``, ``completion_ids``, ``logprobs``, ``env_mask`` and a :class:`RowTag`."""
        self._trainer = trainer
        sampler, memory = self._ready(trainer)
        prompt_ids = tokenized_prompts(prompts, trainer)
        require_positions(prompt_ids, trainer)
        if not trainer.model.training:
            groups = sampler.sample(self._evaluation_requests(prompt_ids, trainer), prune=False)
            rows = RolloutBatch(groups).rows
            tags = self._evaluation.tags(groups, trainer) if self.config.keep_records else [None] * len(rows)
            return _output(prompt_ids, rows, tags, trainer)
        self.settle()
        sampler, memory = self._with_probe(trainer)
        self._evaluated = 0
        records = self.recorder(trainer)
        records.begin(memory.step)
        records.begin_batch()
        memory.step += 1
        groups = sampler.sample(self._requests(prompt_ids, trainer, memory), prune=True)
        records.lap("generate")
        self.batch, self.signal = RolloutBatch(groups, group_size=trainer.num_generations), None
        tags = [RowTag(self.batch, survived=row is not None and row.survived) for row in self.batch.rows]
        return _output(prompt_ids, self.batch.rows, tags, trainer)

    def settle(self) -> None:
        """Learn from the last batch, once its rewards are known; on all ranks at the same time."""
        if self.batch is None or self.signal is not None:
            return
        trainer, memory = self._trainer, self._memory
        assert trainer is not None
        assert memory is not None
        records = self.recorder(trainer)
        records.lap("verify")
        mine = self.batch.rewarded(reward_columns(trainer), self.success_reward, self.config.success_threshold)
        everyone = gathered(mine, trainer)
        lessons = self._lessons(everyone)
        advantages, first = self._advantages(everyone, lessons, trainer), trainer.accelerator.process_index * len(mine)
        trls = trl_advantages(everyone, trainer.scale_rewards)
        factors = thinning_factors(everyone, advantages, self._thinning(trainer), seed=trainer.args.seed)
        local = slice(first, first + len(mine))
        self.signal = BatchSignal(
            BatchTotals.of(
                everyone,
                advantages,
                len(everyone) * trainer.num_generations,
                skip_truncated=trainer.mask_truncated_completions,
            ),
            differs=selects(self.config) or any(rewarded.is_pruned for rewarded in everyone),
            rows=rows_by_tokens(
                mine,
                advantages[local],
                factors[local],
                trls[local],
                trainer.processing_class.pad_token_id,
            )
            if replaces_advantages(self.config)
            else None,
        )
        self._metrics.append(
            memory.learn([rewarded.group for rewarded in everyone])
            | self._learn_choice(everyone, advantages, trainer)
            | (self._allocation.metrics() if self._allocation and selects(self.config) else {})
        )
        self._values.learn(everyone)
        records.lap("estimate")
        found = functools.partial(recorded_groups, everyone, advantages, lessons, trls)
        records.settled(memory.step, everyone, found, self._metrics[-1], memory.probe_tokens)
        self._observe(everyone, trainer, memory.step)
        self._diagnose(everyone, advantages, trainer)

    def loss_inputs(self, inputs: Inputs, trainer: TrainerLike) -> Inputs:
        """What ``compute_loss`` should get: rows that train, with their advantages.

        The very same object in evaluation and where the loss is TRL's own.
        """
        if self.batch is None or not trainer.model.training:
            return inputs
        self.settle()
        assert self.signal is not None
        if self.signal.has_changed_advantages(inputs, trainer):
            raise ConfigError(
                f"advantages: a subclass changed TRL's, and correction = {self.config.correction!r} with allocation = "
                f"{self.config.allocation.rule!r} would replace them; set correction = 'plain' and allocation = "
                "'uniform', or change rewards instead"
            )
        return self.signal.training_inputs(inputs, trainer)

    def take_metrics(self) -> dict[str, float]:
        """Means over the batches since the last call, under ``arrol/``."""
        taken, self._metrics = self._metrics, []
        columns = {
            key: [metrics[key] for metrics in taken if not np.isnan(metrics.get(key, np.nan))]
            for key in sorted({key for metrics in taken for key in metrics})
        }
        return {f"arrol/{key}": float(np.mean(column)) for key, column in columns.items() if column}

    def log(self, logs: Mapping[str, object]) -> None:
        """What TRL logs, for the record."""
        if self._records is not None:
            self._records.log(logs)

    def evaluated(self, metrics: Mapping[str, float] | None) -> None:
        """An evaluation has ended, or with None a prediction; on all ranks at the same time."""
        if self._trainer is None or not self.config.keep_records:
            return
        judged = self._evaluation.take(self._trainer)
        if metrics is not None:
            found = gathered(judged, self._trainer)
            self.recorder(self._trainer).evaluated(found, metrics)

    def end(self, outcome: str, message: str = "") -> None:
        """Training has ended: ``finished``, ``stopped`` or ``failed``; for the record."""
        if self._records is not None:
            self._records.end(outcome, message)

    def log_end(self) -> None:
        """Log why nothing was learned, where that is so; on one rank, when training has ended."""
        for line in self._diagnosis.at_end():
            logger.warning("arrol: %s", line)

    @property
    def memory(self) -> HostMemory | None:
        """What outcomes have taught so far; None before the first batch."""
        return self._memory

    def save(self, folder: Path) -> None:
        """Everything that learns, for a checkpoint; on one rank. Nothing before the first batch."""
        if self._memory is None or self._sampler is None:
            return
        if self._records is not None:
            self._records.save()
        write_head(folder, {**self._learned(self._memory), "sampler": self._sampler.save()})

    def load(self, folder: Path) -> bool:
        """Continue from there at the first batch; False when the folder has no head."""
        self._saved = read_head(folder)
        self._memory = self.batch = None
        return self._saved is not None

    def recorder(self, trainer: TrainerLike) -> TrlRecords:
        if self._records is None:
            self._records = trainer_records(self.config, trainer)
        return self._records

    def _ready(self, trainer: TrainerLike) -> tuple[Sampler, HostMemory]:
        """Built at the first call, when the model is known."""
        if self._memory is not None and self._sampler is not None:
            return self._sampler, self._memory
        config, seed = trainer.accelerator.unwrap_model(trainer.model).config.get_text_config(), trainer.args.seed
        if self._saved is not None and not self.config.pruning.probe_tokens:
            self.config = with_probes(self.config, cast(list[int], self._saved["probe_tokens"]))
        require_whole_groups(trainer)
        memory = HostMemory(self.config, int(config.hidden_size), seed=seed)
        sampler = build_sampler(
            trainer,
            self.config,
            memory,
            cache_gib=self._cache_gib,
            two_phase=self._two_phase,
            thinning=self._thinning(trainer),
        )
        processes, size = trainer.accelerator.num_processes, trainer.num_generations
        self._allocation = HostAllocation(
            share_of(self.config.allocation, size, processes),
            StepShape(trainer.args.generation_batch_size // processes // size, size),
            memory.history,
            seed=seed,
            correction=self.config.correction,
        )
        if self._saved is not None:
            memory.load(self._saved)
            if memory.has_probes_of(self._saved):
                sampler.load(cast(State, self._saved["sampler"]))
            self._values = OutcomeValues(**cast(dict[str, float], self._saved["values"]))
            self._warmup.load(cast(State, self._saved["warmup"]))
        self._sampler, self._memory = sampler, memory
        return sampler, memory

    def _with_probe(self, trainer: TrainerLike) -> tuple[Sampler, HostMemory]:
        """Sampler and memory; built again, as by a resumed run, when the lengths of all ranks have chosen the probe."""
        sampler, memory = self._ready(trainer)
        found = None if memory.probe_tokens else self._warmup.probe(memory.step)
        if found is None:
            return sampler, memory
        if trainer.accelerator.is_main_process:
            logger.warning("arrol: %s", found)
        self._saved = self._learned(memory)
        self.config, self._memory = with_probes(self.config, [found.tokens]), None
        return self._ready(trainer)

    def _learned(self, memory: HostMemory) -> State:
        """All that learns, on every rank, except the sampler's part."""
        return {**memory.save(), "values": dict(vars(self._values)), "warmup": self._warmup.save()}

    def _observe(self, everyone: Sequence[RewardedGroup], trainer: TrainerLike, step: int) -> None:
        """Lengths for the probe, while there is none; one warning when all labels of the warm-up are equal."""
        if not self.config.pruning.probe_tokens:
            self._warmup.add_lengths(each.group for each in everyone)
        values = np.concatenate([each.success_G for each in everyone])
        warning = self._warmup.label_warning(values, step, self.success_reward or trainer.reward_func_names[0])
        if warning and trainer.accelerator.is_main_process:
            logger.warning("arrol: %s", warning)

    def _diagnose(
        self, everyone: Sequence[RewardedGroup], advantages: Sequence[GroupAdvantages], trainer: TrainerLike
    ) -> None:
        """Log why nothing is learned, on one rank, each reason once."""
        has_signal = any(bool(each.advantage_G.any()) for each in advantages)
        lines = self._diagnosis.look(self._metrics[-1], [each.total_G for each in everyone], has_signal=has_signal)
        if lines and trainer.accelerator.is_main_process:
            for line in lines:
                logger.warning("arrol: %s", line)

    def _requests(self, prompt_ids: list[list[int]], trainer: TrainerLike, memory: HostMemory) -> list[GroupRequest]:
        """Whole groups, numbered over all ranks so that random streams differ between ranks."""
        size = trainer.num_generations
        first = trainer.accelerator.process_index * (len(prompt_ids) // size)
        prompts = []
        for start in range(0, len(prompt_ids), size):
            ids = prompt_ids[start]
            assert all(other == ids for other in prompt_ids[start : start + size]), "TRL repeats prompts side by side"
            prompts.append(named_prompt(ids))
        assert self._allocation is not None
        sizes = self._allocation.sizes([(prompt.key, size) for prompt in prompts], memory.step, first)
        return [
            GroupRequest(memory.step, first + number, prompt, sizes[number], memory.history.success_rate(prompt.key))
            for number, prompt in enumerate(prompts)
        ]

    def _evaluation_requests(self, prompt_ids: list[list[int]], trainer: TrainerLike) -> list[GroupRequest]:
        """One rollout per prompt, step 0, numbered through the whole evaluation."""
        shift, processes = self._evaluated, trainer.accelerator.num_processes
        self._evaluated += len(prompt_ids)
        rank = trainer.accelerator.process_index
        return [
            GroupRequest(0, (shift + i) * processes + rank, named_prompt(ids), 1) for i, ids in enumerate(prompt_ids)
        ]

    def _lessons(self, everyone: Sequence[RewardedGroup]) -> list[Lesson] | None:
        """What the groups of all ranks are to teach; None where TRL's own advantages train."""
        if not replaces_advantages(self.config):
            return None
        assert self._memory is not None
        assert self._allocation is not None
        groups, totals = [each.group for each in everyone], [each.total_G for each in everyone]
        return self._allocation.lessons(groups, totals, self._memory.step)

    def _advantages(
        self, everyone: Sequence[RewardedGroup], lessons: Sequence[Lesson] | None, trainer: TrainerLike
    ) -> list[GroupAdvantages]:
        """Advantages of the groups of all ranks, equal on each rank."""
        if lessons is None:
            return survivor_counts(everyone)
        return own_advantages(everyone, lessons, self.config, trainer.scale_rewards, self._values)

    def _learn_choice(
        self, everyone: Sequence[RewardedGroup], advantages: Sequence[GroupAdvantages], trainer: TrainerLike
    ) -> dict[str, float]:
        """Rule ``auto`` learns what the rollouts of all ranks contributed; each rank has seen its own probes alone."""
        if not isinstance(self.config.pruning, AutoRule):
            return {}
        assert self._sampler is not None
        signals = gathered([dict(self._sampler.signals)], trainer)
        groups = [rewarded.group for rewarded in everyone]
        return self._sampler.learn(groups, contributions(everyone, advantages, trainer.loss_type), signals)

    def _thinning(self, trainer: TrainerLike) -> float:
        """Share; 0 where TRL's advantages train, or where a term or mask of the loss reads the rows at hand."""
        args = trainer.args
        reads_rows = (
            args.beta
            or args.top_entropy_quantile < 1
            or getattr(args, "entropy_coef", 0)  # TRL 1.13 and newer
            or getattr(args, "use_adaptive_entropy", False)
        )
        return self.config.thinning if replaces_advantages(self.config) and not reads_rows else 0.0


def _output(
    prompt_ids: list[list[int]],
    rows: Sequence[Rollout | None],
    tags: Sequence[RowTag | None],
    trainer: TrainerLike,
) -> dict[str, object]:
    """TRL's columns; a row that did not survive is one padding token without loss."""
    pad = trainer.processing_class.pad_token_id
    written = [row.completion if row is not None and row.survived else None for row in rows]
    return {
        "prompt_ids": prompt_ids,
        "completion_ids": [list(c.token_ids) if c else [pad] for c in written],
        "logprobs": [c.sampler_logprobs_T.tolist() if c else [0.0] for c in written] if trainer.use_vllm else None,
        "env_mask": [[1] * c.num_tokens if c else [0] for c in written],
        TAG_COLUMN: tags,
    }
