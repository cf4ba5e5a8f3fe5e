"""The record of a run that arrol leaves to TRL: ``rule = "never"`` without an allocation rule.

TRL samples itself, so completions are taken where TRL shows them: in the calls of its reward functions, which return
what they return without arrol. Such a record has no probes and no log-probabilities. Nothing is recorded with reward
models, whose calls TRL does not show.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from arrol.configs.host import HostConfig
from arrol.errors import ConfigError
from arrol.integrations.evaluation import EvaluatedRollout
from arrol.integrations.records import gold_answer
from arrol.integrations.trl.batch import RewardedGroup, RewardFunction, success_place
from arrol.integrations.trl.host import TrainerLike, gathered
from arrol.integrations.trl.records import TrlRecords, batches_of, recorded_groups, trainer_records
from arrol.integrations.trl.rewards import observe_rewards
from arrol.integrations.trl.signal import survivor_counts, trl_advantages
from arrol.pruning.ledger import Ledger, sampling_metrics, survivor_metrics
from arrol.types import Completion, FinishReason, Prompt, Rollout, RolloutGroup, RolloutId

MOST_TEXT = 20_000
"""Characters of a prompt that are kept."""


class ObservedRow(NamedTuple):
    """One row of TRL's batch."""

    prompt: str
    """As text; messages one below the other."""
    gold: str
    token_ids: tuple[int, ...]
    values: tuple[float, ...]
    """Of each reward function, NaN where it gave none."""


class ObservedRollouts(TrainerCallback):
    """Wraps TRL's reward functions and writes what they see; a callback of the trainer."""

    def __init__(self, config: HostConfig, success: str | None) -> None:
        self._config, self._success = config, success
        self._trainer: TrainerLike | None = None
        self._records: TrlRecords | None = None
        self._columns: Mapping[str, Any] = {}
        self._values: dict[RewardFunction, list[float]] = {}
        """Of the batch at hand, by wrapped function."""
        self._batch: list[ObservedRow] = []
        """This rank's last training batch, once all functions have judged it."""
        self._evaluated: list[EvaluatedRollout] = []
        self._ledger, self._step = Ledger(), 0
        self._since = time.monotonic()
        """When TRL last began a microbatch, or may have: it samples there."""

    def wrapped(self, functions: Sequence[RewardFunction]) -> list[RewardFunction]:
        """The functions to give to TRL; ConfigError where one is a reward model."""
        return observe_rewards(functions, self._note)

    def attach(self, trainer: TrainerLike) -> None:
        """The trainer that was built with them."""
        self._trainer, self._records = trainer, trainer_records(self._config, trainer)

    @property
    def records(self) -> TrlRecords | None:
        """The record; None before :meth:`attach`."""
        return self._records

    def settle(self) -> None:
        """Write the last batch, once its rewards are known; on all ranks at the same time."""
        if not self._batch:
            return
        assert self._trainer is not None
        assert self._records is not None
        rows, self._batch = gathered(self._batch, self._trainer), []
        self._step += 1
        groups = self._groups(rows)
        trls = self._advantages(groups)
        plain = [group.group for group in groups]
        metrics = {**sampling_metrics(plain), **self._ledger.generated(plain), **survivor_metrics(plain)}
        found = functools.partial(recorded_groups, groups, survivor_counts(groups), None, trls)
        self._records.settled(self._step, groups, found, metrics, [])

    def end(self, outcome: str, message: str = "") -> None:
        """The training has ended."""
        if self._records is not None:
            self._records.end(outcome, message)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._since = time.monotonic()

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._since = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._records is not None:
            self._records.log(logs or {})

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        assert self._trainer is not None
        assert self._records is not None
        evaluated, self._evaluated = gathered(self._evaluated, self._trainer), []
        self._records.evaluated(evaluated, metrics or {})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._records is not None:
            self._records.save()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.end("finished" if state.global_step >= state.max_steps else "stopped")

    def _note(self, function: RewardFunction, columns: Mapping[str, Any], values: Any) -> Any:
        """Keep what a function said; what TRL gets of it."""
        values = list(values)
        if self._trainer is None:
            return values
        if not self._values:
            self._columns = columns
            if self._trainer.model.training:
                self._begin_batch(self._trainer)
        self._values[function] = [math.nan if value is None else float(value) for value in values]
        if len(self._values) == len(self._trainer.reward_funcs):
            self._close(self._trainer)
        return values

    def _begin_batch(self, trainer: TrainerLike) -> None:
        """A training batch was sampled."""
        assert self._records is not None
        if not self._records.has_begun:
            self._step = batches_of(trainer, trainer.state.global_step)
            self._records.begin(self._step)
        self._records.begin_batch(self._since)
        self._records.lap("generate")

    def _close(self, trainer: TrainerLike) -> None:
        """All functions have judged the batch."""
        columns, values = self._columns, [self._values[function] for function in trainer.reward_funcs]
        self._columns, self._values = {}, {}
        count = len(columns["prompts"])
        if any(len(each) != count for each in values):
            return  # TRL refuses it
        known = {name: each for name, each in columns.items() if isinstance(each, list) and len(each) == count}
        rows = [
            ObservedRow(
                prompt_text(columns["prompts"][row]),
                gold_answer({name: each[row] for name, each in known.items()}),
                tuple(columns["completion_ids"][row]),
                tuple(each[row] for each in values),
            )
            for row in range(count)
        ]
        if trainer.model.training:
            if self._records is not None:
                self._records.lap("verify")
            self._batch = rows
            return
        for row in rows:
            total, success = self._judged(row)
            self._evaluated.append(
                EvaluatedRollout(_key(row), total, 0.0 if math.isnan(success) else success, len(row.token_ids))
            )

    def _judged(self, row: ObservedRow) -> tuple[float, float]:
        """Weighted sum of the reward functions, and 1 right, 0 wrong; NaN where unknown."""
        assert self._trainer is not None
        weights, values = np.array(self._trainer.reward_weights.tolist()), np.array(row.values)
        total = math.nan if np.isnan(values).all() else float(np.nansum(weights * values))
        try:
            told = row.values[success_place(self._trainer.reward_func_names, self._success)]
        except ConfigError:  # several functions and no success_reward: the sum tells
            told = total
        return total, told if math.isnan(told) else float(told > self._config.success_threshold)

    def _groups(self, rows: Sequence[ObservedRow]) -> list[RewardedGroup]:
        """Rows of all ranks, in TRL's order, as groups whose labels are their rewards."""
        assert self._trainer is not None
        size, stops, groups = self._trainer.num_generations, stop_ids(self._trainer), []
        for number, first in enumerate(range(0, len(rows), size)):
            part = rows[first : first + size]
            judged = [self._judged(row) for row in part]
            rollouts = [
                Rollout(
                    RolloutId(self._step, number, index),
                    _completion(row.token_ids, stops),
                    reward=None if math.isnan(success) else success,
                )
                for index, (row, (_, success)) in enumerate(zip(part, judged, strict=True))
            ]
            prompt = Prompt(_key(part[0]), (), part[0].prompt, part[0].gold)
            group = RolloutGroup(prompt, rollouts)
            groups.append(RewardedGroup(group, *np.array(judged).reshape(-1, 2).T))
        return groups

    def _advantages(self, groups: Sequence[RewardedGroup]) -> list[np.ndarray]:
        """TRL's; NaN where it normalises each function apart."""
        assert self._trainer is not None
        found = trl_advantages(groups, self._trainer.scale_rewards)
        is_apart = self._trainer.args.multi_objective_aggregation != "sum_then_normalize"
        return [np.full_like(each_G, np.nan) for each_G in found] if is_apart else found


def prompt_text(prompt: Any) -> str:
    """A prompt of TRL as text: ``role: content`` for each message."""
    if not isinstance(prompt, list):
        return str(prompt)[:MOST_TEXT]
    lines = []
    for message in prompt:
        content = message.get("content", "") if isinstance(message, Mapping) else message
        if isinstance(content, list):  # blocks of text and images
            content = " ".join(str(block.get("text", block.get("type", ""))) for block in content)
        role = f"{message.get('role', '')}: " if isinstance(message, Mapping) else ""
        lines.append(f"{role}{content}")
    return "\n".join(lines)[:MOST_TEXT]


def stop_ids(trainer: TrainerLike) -> set[int]:
    """Tokens that end a completion."""
    ids = getattr(trainer, "eos_token_ids", None)  # TRL 1.13 and newer
    return set(ids) if ids else {trainer.processing_class.eos_token_id}


def _completion(token_ids: tuple[int, ...], stops: set[int]) -> Completion:
    reason = FinishReason.STOP if token_ids and token_ids[-1] in stops else FinishReason.LENGTH
    return Completion(token_ids, np.full(len(token_ids), np.nan, np.float32), reason)


def _key(row: ObservedRow) -> str:
    return hashlib.blake2b(row.prompt.encode("utf-8", "replace"), digest_size=8).hexdigest()
