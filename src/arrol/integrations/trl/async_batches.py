"""One batch of rollouts for TRL's asynchronous trainer: sampled, rewarded, learned from, turned into TRL's samples.

A batch is to the worker what a step is to arrol's own trainer, and made of the same parts: the allocator draws
prompts and asks for waves while others run, outcomes are verified during generation, the head learns at the end. All
decisions of a batch are made by one version of the head. Randomness is keyed by (seed, batch, group, rollout).
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from arrol.algorithms.allocation.allocator import Allocator
from arrol.algorithms.allocation.verdicts import VerdictQueue
from arrol.algorithms.lesson import Lesson
from arrol.configs.host import HostConfig
from arrol.engines.embedded.support import too_long
from arrol.integrations.allocation import require_outcomes
from arrol.integrations.diagnosis import HostDiagnosis
from arrol.integrations.memory import HostMemory
from arrol.integrations.records import gold_answer
from arrol.integrations.trl.advice import ADVICE
from arrol.integrations.trl.async_engines import Rollouts
from arrol.integrations.trl.async_rewards import RewardCalls, RewardedRollout, Row
from arrol.integrations.trl.async_signal import DeliveredGroup, delivered_groups
from arrol.integrations.trl.batch import RewardedGroup, named_prompt
from arrol.integrations.trl.records import TrlRecords, recorded_groups
from arrol.integrations.trl.signal import GroupAdvantages, OutcomeValues, contributions
from arrol.integrations.warmup import ChosenProbe, Warmup
from arrol.protocols import PendingVerdict
from arrol.records.groups import RecordedGroup
from arrol.types import Completion, GroupRequest, Prompt, Rollout, RolloutId, State, Verdict

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from trl.experimental.async_grpo.async_rollout_worker import RolloutSample


class NumberedRows(Protocol):
    """A data set with rows by number, such as ``datasets.Dataset``."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int, /) -> Row: ...


@dataclass(frozen=True)
class PromptSource:
    """Rows of the data set as prompts, in TRL's order; the position in the data is one integer."""

    rows: NumberedRows
    tokenized: Callable[[Row], list[int]]
    longest: int | None
    """Most tokens of a prompt; None: no limit."""
    completion_length: int

    def prompt(self, position: int) -> Prompt:
        """Row ``position``, counted through all epochs. Its key is its tokens, its text the number of its row."""
        number = position % len(self.rows)
        ids = self.tokenized(self.rows[number])
        if self.longest is not None and len(ids) > self.longest:
            most = self.completion_length
            raise too_long("max_completion_length", most, len(ids), self.longest + most)
        return named_prompt(ids, str(number))

    def row(self, prompt: Prompt) -> Row:
        return self.rows[int(prompt.text)]


@dataclass
class BatchParts:
    """What makes a batch."""

    config: HostConfig
    memory: HostMemory
    rollouts: Rollouts
    source: PromptSource
    rewards: RewardCalls
    allocator: Allocator
    """Its history is that of ``memory``."""
    seed: int
    label: int
    """Place of the reward function that says what is right."""
    records: TrlRecords
    """Of the worker."""
    diagnosis: HostDiagnosis = field(default_factory=lambda: HostDiagnosis(ADVICE))
    """Why nothing is learned."""


@dataclass
class SampleBatch:
    """A batch of the worker."""

    samples: list[RolloutSample]
    metrics: dict[str, float]


class BatchMaker:
    """Makes batches one after another; all that learns is saved and loaded with it."""

    def __init__(self, parts: BatchParts) -> None:
        self._parts = parts
        self._values, self._warmup = OutcomeValues(), Warmup(parts.config)
        self._position = self._num_groups = 0
        self._asked: dict[RolloutId, RewardedRollout] = {}

    @property
    def step(self) -> int:
        """Batches made so far, earlier runs included."""
        return self._parts.memory.step

    def make(self, version: Callable[[], int], alive: Callable[[], None]) -> SampleBatch:
        """The next batch, tagged with the ``version`` that the weights had at its start.

        ``alive`` is called whenever rollouts have ended; what it raises ends the batch.
        """
        parts, memory, allocator = self._parts, self._parts.memory, self._parts.allocator
        parts.records.begin_batch()
        began, decided_by, written_by = time.monotonic(), memory.estimator.version, version()
        memory.step += 1
        self._asked.clear()
        verdicts = VerdictQueue(self._submit, parts.rollouts.controller, allocator)

        def more(ended: Sequence[tuple[RolloutId, Completion]]) -> list[GroupRequest]:
            alive()
            verdicts.add(ended)
            return verdicts.requests()

        parts.rollouts.write(allocator.begin(memory.step, self._next_prompt), more)
        num_versions = version() - written_by + 1
        verdicts.observe()
        groups = [RewardedGroup(group, *self._totals(group.rollouts)) for group in allocator.groups()]
        lessons = self._lessons(groups)
        delivered = delivered_groups(groups, lessons, parts.config, self._values, seed=parts.seed)
        samples = self._samples(groups, delivered, written_by)
        metrics = memory.learn([each.group for each in groups]) | allocator.metrics()
        contributed = contributions(groups, [each.signal for each in delivered], "dapo")
        parts.rollouts.controller.learn([each.group for each in groups], contributed)
        metrics |= parts.rollouts.controller.metrics()
        allocator.rule.learn([each.group for each in groups], allocator.tally())
        self._values.learn(groups)
        self._observe(groups)
        has_signal = any(bool(each.signal.advantage_G.any()) for each in delivered)
        for line in parts.diagnosis.look(metrics, [each.total_G for each in groups], has_signal=has_signal):
            logger.warning("arrol: %s", line)
        self._num_groups += len(groups)
        metrics |= {
            "async/batch_s": time.monotonic() - began,
            "async/samples": float(len(samples)),
            "async/head_version": float(decided_by),
            "async/weight_versions": float(num_versions),
        }
        parts.records.lap("generate")
        recorded = functools.partial(self._recorded, groups, [each.signal for each in delivered], lessons)
        parts.records.settled(memory.step, groups, recorded, metrics, memory.probe_tokens)
        return SampleBatch(samples, metrics)

    def save(self) -> State:
        """All that learns, and the position in the data."""
        parts = self._parts
        return {
            **parts.memory.save(),
            "controller": parts.rollouts.controller.save(),
            "rule": parts.allocator.rule.save(),
            "values": vars(self._values).copy(),
            "warmup": self._warmup.save(),
            "position": self._position,
            "groups": self._num_groups,
        }

    def load(self, state: State) -> None:
        """CheckpointError when the head has another shape."""
        self._parts.memory.load(state)
        if self._parts.memory.has_probes_of(state):
            self._parts.rollouts.controller.load(cast(State, state["controller"]))
        self._parts.allocator.rule.load(cast(State, state["rule"]))
        self._values = OutcomeValues(**cast(dict[str, float], state["values"]))
        self._warmup.load(cast(State, state["warmup"]))
        self._position, self._num_groups = cast(int, state["position"]), cast(int, state["groups"])

    def chosen_probe(self) -> ChosenProbe | None:
        """The probe that the lengths have chosen; None where there is one, or before enough lengths are known."""
        memory = self._parts.memory
        return None if memory.probe_tokens else self._warmup.probe(memory.step)

    def _observe(self, groups: Sequence[RewardedGroup]) -> None:
        """Lengths for the probe, while there is none; one warning when all labels of the warm-up are equal."""
        parts, values = self._parts, np.concatenate([each.success_G for each in groups])
        if not parts.memory.probe_tokens:
            self._warmup.add_lengths(each.group for each in groups)
        warning = self._warmup.label_warning(values, parts.memory.step, parts.rewards.names[parts.label])
        if warning:
            logger.warning("arrol: %s", warning)

    def _next_prompt(self) -> Prompt:
        self._position += 1
        return self._parts.source.prompt(self._position - 1)

    def _submit(self, rollout_id: RolloutId, completion: Completion) -> PendingVerdict:
        prompt = self._parts.allocator.prompt(rollout_id.group)
        rollout = self._parts.rewards.submit(self._parts.source.row(prompt), prompt.token_ids, completion)
        self._asked[rollout_id] = rollout

        def wait() -> Verdict:
            value = float(rollout.values.result()[self._parts.label])
            right = value if np.isnan(value) else float(value > self._parts.config.success_threshold)
            return Verdict(right, None)

        return wait

    def _totals(self, rollouts: Sequence[Rollout]) -> tuple[np.ndarray, np.ndarray]:
        """Two float64 ``[G]``, NaN where none: sum of the reward functions; value of the one for labels."""
        silent = np.full(len(self._parts.rewards.names), np.nan)
        asked = [self._asked.get(rollout.rollout_id) for rollout in rollouts]
        values = np.array([silent if each is None else each.values.result() for each in asked])
        values = values.reshape(len(asked), len(silent))
        total_G = np.where(np.isnan(values).all(1), np.nan, np.nansum(values, axis=1))
        return total_G, values[:, self._parts.label]

    def _lessons(self, groups: Sequence[RewardedGroup]) -> list[Lesson]:
        """What each group is to teach."""
        parts, totals = self._parts, [each.total_G for each in groups]
        require_outcomes(parts.config.allocation, [each.group for each in groups], totals)
        return parts.allocator.lessons([each.group for each in groups], totals)

    def _recorded(
        self, groups: Sequence[RewardedGroup], signals: Sequence[GroupAdvantages], lessons: Sequence[Lesson]
    ) -> list[RecordedGroup]:
        """The groups for the record: a prompt's text is that of its tokens."""
        told = []
        for each in groups:
            prompt = each.group.prompt
            shown = replace(prompt, text="", answer=gold_answer(self._parts.source.row(prompt)))
            told.append(replace(each, group=replace(each.group, prompt=shown)))
        return recorded_groups(told, signals, lessons)

    def _samples(
        self, groups: Sequence[RewardedGroup], delivered: Sequence[DeliveredGroup], version: int
    ) -> list[RolloutSample]:
        """TRL's samples of what is delivered, siblings side by side."""
        from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

        parts, samples = self._parts, []
        for number, (rewarded, chosen) in enumerate(zip(groups, delivered, strict=True)):
            known_G = rewarded.total_G[~np.isnan(rewarded.total_G)]
            spread = float(known_G.std()) if len(known_G) else float("nan")
            prompt = rewarded.group.prompt
            for row in chosen.rows.tolist():
                rollout = rewarded.group.rollouts[row]
                asked, completion = self._asked[rollout.rollout_id], rollout.completion
                values = dict(zip(parts.rewards.names, asked.values.result().tolist(), strict=True))
                before = [0] * len(prompt.token_ids)
                samples.append(
                    RolloutSample(
                        prompt=asked.row["prompt"],
                        completion=asked.completion,
                        input_ids=np.array([*prompt.token_ids, *completion.token_ids], np.int64),
                        completion_mask=np.array([*before, *[1] * completion.num_tokens], np.int64),
                        old_log_probs=np.concatenate([before, completion.sampler_logprobs_T]).astype(np.float32),
                        advantage=float(chosen.advantage_G[row]),
                        model_version=version,
                        group_id=self._num_groups + number,
                        metrics={
                            "reward": float(rewarded.total_G[row]),
                            "reward_std": spread,
                            **{f"rewards/{name}": value for name, value in values.items()},
                        },
                    )
                )
        return samples
