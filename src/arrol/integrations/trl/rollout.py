"""TRL's ``rollout_func`` that prunes, remembers what happened, and prepares batches for the loss.

For TRL a stopped rollout is a row of one padding token with ``env_mask`` 0 and rewards None: it has no loss, leaves the
statistics of its group and is never shown to a reward function. Every rank prunes its own whole groups; what outcomes
teach is gathered, so that all ranks learn the same head from the same rows in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from arrol.algorithms.allocation.rule import StepShape
from arrol.configs.host import HostConfig, parse_host
from arrol.errors import ConfigError
from arrol.integrations.allocation import HostAllocation, acts
from arrol.integrations.memory import HostMemory, read_head, write_head
from arrol.integrations.trl.batch import PrunedBatch, RowKey, Ticket, VerifiedGroup, row_key
from arrol.integrations.trl.compaction import UNSHRINKABLE, keep_rows, live_rows, without_loss
from arrol.integrations.trl.engines import Sampler, build_sampler
from arrol.integrations.trl.prompts import tokenized_prompts
from arrol.integrations.trl.rewards import TICKETS
from arrol.integrations.trl.rules import refuse_impossible, replaces_advantages, share_of
from arrol.integrations.trl.signal import (
    BatchTotals,
    MicrobatchSizes,
    OutcomeValues,
    RowSignal,
    Terms,
    loss_factor,
    taught,
    trls_own,
)
from arrol.types import Completion, GroupRequest, Prompt, State


def pruned_rollout(
    *, success_reward: str | None = None, decode_rows: int = 256, two_phase: bool = False, **options: Any
) -> PrunedRollout:
    """A ``rollout_func`` for a trainer of your own; ``options`` are the fields of the rule and of ``HostConfig``.

    Give the trainer ``reward_funcs=prune_rewards(...)`` and, in its ``compute_loss``, the result of
    :meth:`PrunedRollout.loss_inputs`. ConfigError names the first option that is wrong.
    """
    config = parse_host(options)
    refuse_impossible(config)
    return PrunedRollout(config, success_reward=success_reward, decode_rows=decode_rows, two_phase=two_phase)


class PrunedRollout:
    """Callable as TRL's ``rollout_func``."""

    def __init__(
        self, config: HostConfig, *, success_reward: str | None = None, decode_rows: int = 256, two_phase: bool = False
    ) -> None:
        self.config, self.success_reward = config, success_reward
        self._decode_rows, self._two_phase = decode_rows, two_phase
        self._values = OutcomeValues()
        self._sampler: Sampler | None = None
        self._memory: HostMemory | None = None
        self._allocation: HostAllocation | None = None
        self._saved: State | None = None
        self._trainer: Any = None
        self.batch: PrunedBatch | None = None
        """What this rank wrote last for training."""
        self.learnt: Learnt | None = None
        self._evaluated = 0
        self._metrics: list[dict[str, float]] = []

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """One row per prompt: ``prompt_ids``, ``completion_ids``, ``logprobs``, ``env_mask`` and a ticket."""
        self._trainer = trainer
        sampler, memory = self._ready(trainer)
        prompt_ids = tokenized_prompts(prompts, trainer)
        if not trainer.model.training:
            completions = sampler.plain(self._evaluation_requests(prompt_ids, trainer), trainer)
            written = [completion for group in completions for completion in group]
            return self._output(prompt_ids, written, trainer, tickets=[None] * len(written))
        self.settle()
        self._evaluated = 0
        memory.step += 1
        requests = self._requests(prompt_ids, trainer, memory)
        groups = sampler.pruned(requests, trainer)
        self.batch, self.learnt = PrunedBatch(groups, group_size=trainer.num_generations), None
        rows = self.batch.rows
        tickets = [Ticket(self.batch, i, row is not None and row.survived) for i, row in enumerate(rows)]
        return self._output(prompt_ids, [row.completion if row else None for row in rows], trainer, tickets=tickets)

    def settle(self) -> None:
        """Learn from the last batch, once its rewards are known; on all ranks at the same time."""
        if self.batch is None or self.learnt is not None:
            return
        trainer, memory = self._trainer, self._memory
        assert memory is not None
        weights = dict(zip(trainer.reward_func_names, trainer.reward_weights.tolist(), strict=True))
        mine = self.batch.verified(weights, self.success_reward, self.config.success_threshold)
        everyone = _gathered(mine, trainer)
        signals = self._signals(everyone, trainer)
        rows = len(everyone) * trainer.num_generations
        totals = BatchTotals.of(everyone, signals, rows, skip_truncated=bool(trainer.mask_truncated_completions))
        first = trainer.accelerator.process_index * len(mine)
        found = _by_key(mine, signals[first : first + len(mine)], trainer)
        self.learnt = Learnt(totals, self._selects or any(v.is_pruned for v in everyone), found)
        groups = [verified.group for verified in everyone]
        self._metrics.append(memory.learn(groups) | self._selected())
        self._values.learn(everyone)

    def loss_inputs(self, inputs: Mapping[str, Any], trainer: Any) -> Mapping[str, Any]:
        """What ``compute_loss`` is to be given: survivors only, under the correction's advantages.

        The very same object while nothing was stopped, and in evaluation.
        """
        if self.batch is None or not trainer.model.training:
            return inputs
        self.settle()
        learnt = self.learnt
        assert learnt is not None
        if not learnt.differs:
            return inputs
        live = live_rows(inputs)
        advantage, weight = inputs["advantages"], torch.ones_like(inputs["advantages"])
        if replaces_advantages(self.config):
            found = [learnt.find(inputs, row, trainer) for row in range(len(live))]
            columns = torch.tensor(found, dtype=advantage.dtype, device=advantage.device).reshape(-1, 2)
            advantage, weight = columns[:, 0] * live, columns[:, 1]
            inputs = without_loss(inputs, weight == 0)
            live = live & (weight > 0)
        chosen = _equal_on_all_ranks(live, trainer)
        if any(key in inputs for key in UNSHRINKABLE):
            chosen = torch.arange(len(live), device=live.device)
        tokens = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).sum(1)
        sizes = MicrobatchSizes(len(live), len(chosen), float(tokens.sum()), float((tokens * weight).sum()))
        factor = loss_factor(trainer.loss_type, learnt.totals, sizes)
        return keep_rows({**inputs, "advantages": advantage * factor}, chosen)

    def take_metrics(self) -> dict[str, float]:
        """Means over the batches since the last call, under ``arrol/``."""
        taken, self._metrics = self._metrics, []
        keys = sorted({key for metrics in taken for key in metrics})
        columns = {key: np.array([metrics[key] for metrics in taken if key in metrics]) for key in keys}
        known = {key: column[~np.isnan(column)] for key, column in columns.items()}
        return {f"arrol/{key}": float(column.mean()) for key, column in known.items() if len(column)}

    @property
    def memory(self) -> HostMemory | None:
        """What outcomes have taught so far; None before the first batch."""
        return self._memory

    def save(self, folder: Path) -> None:
        """The head and all else that learns, beside a checkpoint; on one rank. Nothing before the first batch."""
        if self._memory is None or self._sampler is None:
            return
        state = {**self._memory.save(), "sampler": self._sampler.save(), "values": vars(self._values)}
        write_head(folder, state)

    def load(self, folder: Path) -> bool:
        """Go on from there; False when the folder holds no head. Takes effect with the first batch."""
        self._saved = read_head(folder)
        self._memory = self.batch = None
        return self._saved is not None

    def _ready(self, trainer: Any) -> tuple[Sampler, HostMemory]:
        """Built at the first call, when the model is known."""
        if self._memory is None or self._sampler is None:
            config = trainer.accelerator.unwrap_model(trainer.model).config.get_text_config()
            self._memory = HostMemory(self.config, int(config.hidden_size), seed=trainer.args.seed)
            self._sampler = build_sampler(
                trainer, self.config, self._memory, decode_rows=self._decode_rows, two_phase=self._two_phase
            )
            processes, size = trainer.accelerator.num_processes, trainer.num_generations
            self._allocation = HostAllocation(
                share_of(self.config.allocation, size, processes),
                StepShape(trainer.args.generation_batch_size // processes // size, size),
                self._memory.history,
                seed=trainer.args.seed,
            )
            if self._saved is not None:
                self._memory.load(self._saved)
                self._sampler.load(self._saved["sampler"])  # type: ignore[arg-type]
                self._values = OutcomeValues(**self._saved["values"])  # type: ignore[arg-type]
        return self._sampler, self._memory

    def _requests(self, prompt_ids: list[list[int]], trainer: Any, memory: HostMemory) -> list[GroupRequest]:
        """Whole groups; they are numbered over all ranks, so no rank repeats another's random streams."""
        size = trainer.num_generations
        if len(prompt_ids) % size:
            raise ConfigError(
                f"per_device_train_batch_size = {trainer.args.per_device_train_batch_size}: times steps_per_generation "
                f"= {trainer.args.steps_per_generation} it is no multiple of num_generations = {size}, so groups would "
                "be split over processes; choose a multiple"
            )
        first = trainer.accelerator.process_index * (len(prompt_ids) // size)
        prompts = []
        for start in range(0, len(prompt_ids), size):
            ids = prompt_ids[start]
            assert all(other == ids for other in prompt_ids[start : start + size]), "TRL repeats prompts side by side"
            prompts.append(Prompt(_prompt_key(ids), tuple(ids), "", ""))
        assert self._allocation is not None
        asked = self._allocation.sizes([(prompt.key, size) for prompt in prompts], memory.step, first)
        return [
            GroupRequest(memory.step, first + number, prompt, asked[number], memory.history.success_rate(prompt.key))
            for number, prompt in enumerate(prompts)
        ]

    def _evaluation_requests(self, prompt_ids: list[list[int]], trainer: Any) -> list[GroupRequest]:
        """One rollout each, step 0; numbered through the whole evaluation."""
        shift, world = self._evaluated, trainer.accelerator.num_processes
        self._evaluated += len(prompt_ids)
        rank = trainer.accelerator.process_index
        return [
            GroupRequest(0, (shift + i) * world + rank, Prompt("", tuple(ids), "", ""), 1)
            for i, ids in enumerate(prompt_ids)
        ]

    def _output(
        self, prompt_ids: list[list[int]], written: Sequence[Completion | None], trainer: Any, *, tickets: list[Any]
    ) -> dict[str, Any]:
        pad = trainer.processing_class.pad_token_id
        alive = [completion if completion and completion.finish_reason.survived else None for completion in written]
        logprobs = [c.sampler_logprobs_T.tolist() if c else [0.0] for c in alive] if trainer.use_vllm else None
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": [list(c.token_ids) if c else [pad] for c in alive],
            "logprobs": logprobs,
            "env_mask": [[1] * c.num_tokens if c else [0] for c in alive],
            TICKETS: tickets,
        }

    @property
    def _selects(self) -> bool:
        """Rows or advantages may differ from TRL's though nobody was stopped."""
        return acts(self.config.allocation) or self.config.algorithm == "mc_grpo"

    def _signals(self, everyone: Sequence[VerifiedGroup], trainer: Any) -> list[RowSignal]:
        """Of the groups of all ranks, alike on each."""
        if not replaces_advantages(self.config):
            return trls_own(everyone)
        assert self._memory is not None
        assert self._allocation is not None
        lessons = self._allocation.lessons(
            [verified.group for verified in everyone], [verified.total_G for verified in everyone], self._memory.step
        )
        terms = Terms.of(self.config, trainer.scale_rewards)
        return taught(everyone, lessons, terms, self._values)

    def _selected(self) -> dict[str, float]:
        return self._allocation.metrics() if acts(self.config.allocation) and self._allocation else {}


class Learnt:
    """What the loss needs to know of a batch."""

    def __init__(self, totals: BatchTotals, differs: bool, rows: dict[RowKey, tuple[float, float]]) -> None:
        self.totals, self.differs = totals, differs
        """Whether the loss is another one than TRL's."""
        self.rows = rows
        """Tokens of a survivor -> its advantage times its weight, and its weight (1/survival; 0 where left out)."""

    def find(self, inputs: Mapping[str, Any], row: int, trainer: Any) -> tuple[float, float]:
        """The two values of a row of TRL's batch; 0 and 1 for a stopped one."""
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
        key = row_key(prompt, inputs["completion_ids"][row].tolist(), trainer.processing_class.pad_token_id)
        return self.rows.get(key, (0.0, 1.0))


def _by_key(
    groups: Sequence[VerifiedGroup], signals: Sequence[RowSignal], trainer: Any
) -> dict[RowKey, tuple[float, float]]:
    """Rows of equal tokens (of two groups of one prompt, say) share their mean, which leaves their sum as it is."""
    pad = trainer.processing_class.pad_token_id
    rows: dict[RowKey, list[tuple[float, float]]] = {}
    for verified, signal in zip(groups, signals, strict=True):
        prompt, columns = verified.group.prompt.token_ids, (signal.advantage_G, signal.weight_G)
        for rollout, advantage, weight in zip(verified.group.rollouts, *columns, strict=True):
            if rollout.survived:
                key = row_key(prompt, rollout.completion.token_ids, pad)
                rows.setdefault(key, []).append((float(advantage), float(weight)))
    return {key: (mean([a for a, _ in found]), mean([w for _, w in found])) for key, found in rows.items()}


def _equal_on_all_ranks(live: torch.Tensor, trainer: Any) -> torch.Tensor:
    """Live rows first, filled up with dead ones to the largest rank's count: TRL gathers values per row."""
    count = live.sum().clamp(min=1)
    if trainer.accelerator.num_processes > 1:
        count = trainer.accelerator.gather(count.view(1)).max()
    return torch.argsort((~live).int(), stable=True)[: int(count)]


def _gathered(mine: list[VerifiedGroup], trainer: Any) -> list[VerifiedGroup]:
    if trainer.accelerator.num_processes == 1:
        return mine
    from accelerate.utils import gather_object

    return gather_object(mine)


def _prompt_key(ids: Sequence[int]) -> str:
    return hashlib.blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=8).hexdigest()
