"""The one place that decides and learns: controller, head, calibration, history of prompts. No verl, no Ray.

The manager runs it as a Ray actor named ``arrol_head`` beside the driver; tests run it in an event loop. verl spreads
prompts over workers, but every rollout asks here, so one numpy controller sees every group as in any other host, one
state is saved, and no weights travel. A question is one small message (three numbers per probe), about what verl itself
spends to find a server for a request.

    begin(step, ...)  -> one ticket per prompt     the driver announces groups; earlier steps are learnt from first.
                                                   A ticket of size 0: the prompt is passed over
    probed(...)       -> may it go on?             answered when the decision falls, at the latest at the deadline
    ended(...)                                     it ended before its last probe: siblings need not wait for it
    outcome(...)                                   its reward is known
    stopped(...)                                   vLLM has stopped it (way B)
    failed(...)                                    it raised: siblings need not wait, nothing is learnt from it
    settle()          -> metrics                   learn from what has ended; once per step, whoever asks first
    kept(step, rows)  -> which of them train       by the allocation rule, once their rewards are known

Promises: order of arrival changes nothing that is learnt (groups and rollouts are sorted by their ids); a group with a
failed rollout still decides, and is still learnt from.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from arrol.algorithms.allocation.rule import StepShape
from arrol.integrations.allocation import HostAllocation
from arrol.integrations.memory import HostMemory
from arrol.integrations.verl.options import VerlOptions
from arrol.pruning.controller import PruningController
from arrol.types import (
    Completion,
    FinishReason,
    ProbeEvent,
    Prompt,
    Rollout,
    RolloutGroup,
    RolloutId,
    State,
)

ACTOR_NAME = "arrol_head"
TICK_S = 1.0
SETTLE_S = 10.0
"""How long learning waits for rewards under way; a rollout whose reward failed is left out."""


@dataclass
class _Member:
    """What is known of one rollout."""

    features_at: dict[int, np.ndarray] = field(default_factory=dict)
    num_tokens: int = 0
    finish_reason: FinishReason | None = None
    """None while it runs, or while its reward is on the way."""
    reward: float | None = None


@dataclass
class _Group:
    """The rollouts of one prompt, and those whose question has not been answered yet."""

    key: str
    members: dict[int, _Member]
    waiting: dict[int, tuple[int, asyncio.Future[bool]]] = field(default_factory=dict)
    """Rollout -> its probe and where the answer goes."""

    @property
    def is_over(self) -> bool:
        return all(member.finish_reason is not None for member in self.members.values())


class PruningService:
    """See the module. Every method must run in one event loop."""

    def __init__(self, options: VerlOptions, *, seed: int, shape: StepShape | None = None) -> None:
        """``shape``: prompts asked per step and rollouts of each; only allocation rules want to know."""
        self._host, self._looks = options.host, options.looks
        self._memory = HostMemory(options.host, 0, seed=seed)
        self._allocation: HostAllocation | None = None
        if options.allocates:
            assert shape is not None
            self._allocation = HostAllocation(options.host.allocation, shape, self._memory.history, seed=seed)
        self._controller = PruningController(options.host.pruning, self._memory.estimator, seed=seed, whole_group=True)
        self._groups: dict[tuple[int, int], _Group] = {}
        self._learnt: dict[str, float] = {}
        """Metrics of the last step learnt from."""
        self._over = asyncio.Event()
        """Set when some group has ended since it was cleared."""
        self._clock: asyncio.Task[None] | None = None

    async def begin(self, step: int, prompts: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
        """Announce ``(key, size)`` of every prompt of a batch; returns what each of its rollouts must carry.

        A second batch of the same step (a refill) goes on counting groups.
        """
        if any(key[0] != step for key in self._groups):
            await self.settle()
        self._memory.step = step
        sizes = [size for _, size in prompts]
        if self._allocation is not None:
            sizes = self._allocation.sizes(prompts, step, len(self._groups))
        tickets: list[dict[str, Any]] = []
        for (key, _), size in zip(prompts, sizes, strict=True):
            if not size:
                tickets.append({"step": step, "group": -1, "size": 0, "success_rate": None})
                continue
            number = len(self._groups)
            success_rate = self._memory.history.success_rate(key)
            self._groups[step, number] = _Group(key, {index: _Member() for index in range(size)})
            self._controller.open(step, number, size, success_rate)
            tickets.append({"step": step, "group": number, "size": size, "success_rate": success_rate})
        if self._clock is None and self._looks:
            self._clock = asyncio.get_running_loop().create_task(self._run_clock())
        return tickets

    async def probed(self, rollout: tuple[int, int, int], probe: int, logprobs: Sequence[float]) -> bool:
        """A rollout has written ``probe_tokens[probe]`` tokens; False tells it to stop.

        ``logprobs``: float ``[3]``, sum, minimum and mean of the log-probabilities of the tokens so far.
        """
        rollout_id = RolloutId(*rollout)
        group, features_F = self._groups[rollout_id[:2]], np.asarray(logprobs, np.float32)
        tokens = self._controller.probe_tokens[probe]
        group.members[rollout_id.index].features_at[tokens] = features_F
        answer = asyncio.get_running_loop().create_future()
        group.waiting[rollout_id.index] = (probe, answer)
        event = ProbeEvent(rollout_id, probe, features_F=features_F, confidence=float(features_F[2]))
        self._controller.probed([event])
        self._answer(rollout_id[:2])
        return await answer

    def ended(self, rollout: tuple[int, int, int]) -> None:
        """It stopped writing by itself, before its last probe."""
        self._controller.finished([RolloutId(*rollout)])
        self._answer((rollout[0], rollout[1]))

    def outcome(self, rollout: tuple[int, int, int], num_tokens: int, reward: float, *, full: bool) -> None:
        """Its reward; ``full`` says that it reached the length limit."""
        self._controller.finished([RolloutId(*rollout)])
        finish_reason = FinishReason.LENGTH if full else FinishReason.STOP
        self._close(RolloutId(*rollout), finish_reason, num_tokens, float(reward > self._host.success_threshold))

    def stopped(self, rollout: tuple[int, int, int], num_tokens: int) -> None:
        """It is gone, and nobody here decided that."""
        self._controller.lost([RolloutId(*rollout)])
        self._close(RolloutId(*rollout), FinishReason.PRUNED, num_tokens, None)

    def failed(self, rollout: tuple[int, int, int]) -> None:
        """It raised, or its task was cancelled."""
        self._controller.lost([RolloutId(*rollout)])
        self._answer((rollout[0], rollout[1]))
        self._close(RolloutId(*rollout), FinishReason.ERROR, 0, None)

    def tick(self, now: float) -> None:
        """Seconds, of any clock: candidates beyond the deadline are drawn without their siblings."""
        self._controller.tick(now)
        for key in [key for key, group in self._groups.items() if group.waiting]:
            self._answer(key)

    async def settle(self, timeout_s: float = SETTLE_S) -> dict[str, float]:
        """Learn from the groups announced so far, once; returns metrics of the last step learnt from."""
        deadline = time.monotonic() + timeout_s
        while any(not group.is_over for group in self._groups.values()) and time.monotonic() < deadline:
            self._over.clear()
            try:
                await asyncio.wait_for(self._over.wait(), max(deadline - time.monotonic(), 0.0))
            except TimeoutError:
                break
        groups = [self._as_rollouts(key) for key in sorted(self._groups)]
        groups = [group for group in groups if group.survivors]
        for key in sorted(self._groups):  # a refill of this step counts from 0 again
            self._controller.close(*key)
        self._groups = {}
        if groups:
            metrics = {**self._memory.learn(groups), **self._memory.ledger.metrics()}
            version = {"quality/version": float(self._memory.estimator.version)}
            known = self._memory.history.metrics()
            chosen: dict[str, float] = {}
            if self._allocation is not None:
                self._allocation.learn(groups)
                chosen = self._allocation.metrics()
            self._learnt = {k: v for k, v in {**metrics, **version, **known, **chosen}.items() if math.isfinite(v)}
        return dict(self._learnt)

    def selects(self) -> bool:
        """Not all rows of a batch train."""
        return self._allocation is not None and self._host.allocation.rule == "pods"

    def kept(self, step: int, rows: Sequence[tuple[int, int, float]]) -> list[bool]:
        """Whether each ``(group, rollout, reward)`` trains, in any order."""
        train = [True] * len(rows)
        if self._allocation is None:
            return train
        by_group: dict[int, list[int]] = {}
        for place in sorted(range(len(rows)), key=lambda place: rows[place][:2]):
            by_group.setdefault(rows[place][0], []).append(place)
        for number, places in by_group.items():
            kept_G = self._allocation.keep(np.array([rows[place][2] for place in places], float), step, number)
            for place, kept in zip(places, kept_G.tolist(), strict=True):
                train[place] = kept
        return train

    def save(self) -> State:
        """What a checkpoint holds; :meth:`settle` first."""
        rule = self._allocation.save() if self._allocation is not None else {}
        return {"memory": self._memory.save(), "controller": self._controller.save(), "allocation": rule}

    def load(self, state: Mapping[str, Any]) -> None:
        """CheckpointError when the head was of another shape."""
        self._memory.load(state["memory"])
        self._controller.load(state["controller"])
        if self._allocation is not None and state.get("allocation"):  # another rule, or none, leaves nothing
            self._allocation.load(state["allocation"])

    def _answer(self, key: tuple[int, int]) -> None:
        """Tell everybody of a group whose decision has fallen."""
        group = self._groups.get(key)  # None once its step was settled
        for index, (probe, answer) in list(group.waiting.items()) if group else []:
            decision = self._controller.decision(RolloutId(*key, index))
            if decision is None or decision.probe < probe:
                continue
            del self._groups[key].waiting[index]
            if not answer.done():  # the asker may be gone
                answer.set_result(decision.keep)
            if not decision.keep:
                tokens = self._controller.probe_tokens[decision.probe]
                self._close(RolloutId(*key, index), FinishReason.PRUNED, tokens, None)

    def _close(self, rollout_id: RolloutId, reason: FinishReason, num_tokens: int, reward: float | None) -> None:
        """The first word about how a rollout ended counts."""
        group = self._groups.get(rollout_id[:2])
        if group is None:
            return  # its step was settled without it
        member = group.members[rollout_id.index]
        if member.finish_reason is None:
            member.finish_reason, member.reward, member.num_tokens = reason, reward, num_tokens
        if group.is_over:
            self._over.set()

    def _as_rollouts(self, key: tuple[int, int]) -> RolloutGroup:
        """The group in our words; token ids are not known here, only how many."""
        group, rollouts = self._groups[key], []
        for index, member in sorted(group.members.items()):
            rollout_id = RolloutId(*key, index)
            completion = Completion(
                (0,) * member.num_tokens,
                np.zeros(member.num_tokens, np.float32),
                member.finish_reason or FinishReason.ERROR,
                member.features_at,
            )
            rollouts.append(Rollout(rollout_id, completion, self._controller.decision(rollout_id), member.reward))
        return RolloutGroup(Prompt(key=group.key, token_ids=(0,), text="", answer=""), rollouts)

    async def _run_clock(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick(time.monotonic())
