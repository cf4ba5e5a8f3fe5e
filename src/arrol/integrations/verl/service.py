"""The one place of a run that decides and learns: controller, head, calibration, prompt history. No verl, no Ray.

The manager runs it as a Ray actor named ``arrol_head`` on the driver's node; tests run it in an event loop. verl
spreads prompts over workers, but every rollout asks here, so one controller sees every group, one state is saved, and
no weights travel. A probe costs one small message: three numbers in, one bit out.

Order of arrival changes nothing that is learnt. A group with a failed rollout is still decided and learnt from.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast

import numpy as np

from arrol.algorithms.allocation.rule import StepShape
from arrol.configs.allocation import PodsAllocation
from arrol.integrations.allocation import HostAllocation
from arrol.integrations.diagnosis import HostDiagnosis
from arrol.integrations.memory import HostMemory
from arrol.integrations.verl.advice import ADVICE
from arrol.integrations.verl.group import OpenGroup
from arrol.integrations.verl.options import VerlOptions
from arrol.integrations.verl.plan import RecordPlan
from arrol.integrations.verl.recorded import AskedPrompt, SettledGroup, WrittenText
from arrol.integrations.verl.recording import Recording
from arrol.integrations.verl.remote import Ticket
from arrol.integrations.verl.watch import Silence, probe_advice, waiting_for
from arrol.integrations.warmup import Warmup, with_probes, without_probes
from arrol.pruning.controller import PruningController
from arrol.types import Completion, FinishReason, ProbeEvent, RolloutGroup, RolloutId, State

logger = logging.getLogger(__name__)

TICK_S = 1.0
SETTLE_S = 10.0
"""How long learning waits for rewards under way; a rollout without one is then taken as failed."""


class PruningService:
    """See the module. Every method must run in one event loop."""

    def __init__(
        self,
        options: VerlOptions,
        *,
        seed: int,
        shape: StepShape | None = None,
        stop_token_ids: Sequence[int] = (),
        plan: RecordPlan | None = None,
    ) -> None:
        """``shape``: prompts per step and rollouts of each, for allocation rules. ``plan``: None keeps no record."""
        self._host = without_probes(options.host) if options.chooses_probe else options.host
        self._options, self._seed, self._shape, self._stop_token_ids = options, seed, shape, list(stop_token_ids)
        self._run = secrets.token_hex(8)  # changes no draw
        self._warmup = Warmup(options.host)
        self._allocation: HostAllocation | None = None
        self._build()
        self._groups: dict[tuple[int, int], OpenGroup] = {}
        self._left_out: dict[RolloutId, str] = {}
        """Why each rollout of the step settled last does not train, where the rule selects rows; empty where it does.
        """
        self._unusable: set[RolloutId] = set()
        """Rollouts of this step whose reward is not finite: they are not learnt from and do not train."""
        self._learnt: dict[str, float] = {}
        """Metrics of the step settled last."""
        self._silence, self._diagnosis = Silence(), HostDiagnosis(ADVICE)
        self._has_advised = False
        self._recording = Recording(plan, options.host) if plan is not None else None
        self._over = asyncio.Event()
        """Set when a group ends."""
        self._clock: asyncio.Task[None] | None = None

    def _build(self) -> None:
        """Head, allocation rule and controller for the probes of the options."""
        host, seed = self._host, self._seed
        self._memory = HostMemory(host, 0, seed=seed)
        if self._options.has_allocation:
            assert self._shape is not None
            self._allocation = HostAllocation(
                host.allocation, self._shape, self._memory.history, seed=seed, correction=host.correction
            )
        self._controller = PruningController(
            host.pruning, self._memory.estimator, seed=seed, whole_group=self._options.keeps_share_of_group
        )

    async def begin(
        self, step: int, prompts: Sequence[tuple[str, int]], asked: Sequence[AskedPrompt] = ()
    ) -> list[Ticket]:
        """Announce ``(key, size)`` of each prompt of a batch; a ticket of size 0 means that the prompt is skipped.

        A second batch of the same step (a refill) continues the numbers of its groups. ``asked`` is for the record, one
        per prompt.
        """
        if any(key[0] != step for key in self._groups):
            await self.settle()
        if self._recording is not None:
            await self._recording.idle()
            self._recording.begin_step(step)
        found = None if self._groups or self._memory.probe_tokens else self._warmup.probe(self._memory.step)
        if found is not None:
            logger.warning("arrol: %s", found)
            state, self._host = self.save(), with_probes(self._host, [found.tokens])
            self._build()
            self.load(state)
        self._memory.step = step
        self._unusable = {rollout_id for rollout_id in self._unusable if rollout_id.step == step}
        self._silence.heard()
        sizes = [size for _, size in prompts]
        if self._allocation is not None:
            sizes = self._allocation.sizes(prompts, step, len(self._groups))
        if self._clock is None:
            self._clock = asyncio.get_running_loop().create_task(self._run_clock())
        tickets: list[Ticket] = []
        keeps_texts = self._recording is not None and self._recording.wants_texts
        for place, ((key, _), size) in enumerate(zip(prompts, sizes, strict=True)):
            number, success_rate = len(self._groups) if size else -1, self._memory.history.success_rate(key)
            if size:
                self._groups[step, number] = OpenGroup(key, size)
                self._controller.open(step, number, size, success_rate)
                if self._recording is not None and asked:
                    self._recording.announce(number, asked[place])
            ticket: Ticket = {
                "step": step, "group": number, "size": size, "success_rate": success_rate, "seed": self._seed,
                "run": self._run, "stop_token_ids": self._stop_token_ids,
                "probe_tokens": list(self._controller.probe_tokens), "keeps_texts": keeps_texts,
            }  # fmt: skip
            tickets.append(ticket)
        return tickets

    async def probed(self, rollout: tuple[int, int, int], probe: int, logprobs: Sequence[float]) -> bool:
        """A rollout has written ``probe_tokens[probe]`` tokens; False tells it to stop, also where its step is over.

        ``logprobs``: float ``[3]``, statistics of the log-probabilities so far (``arrol.quality.features``).
        """
        self._silence.heard()
        rollout_id = RolloutId(*rollout)
        group, features_F = self._groups.get(rollout_id[:2]), np.asarray(logprobs, np.float32)
        if group is None:
            return False
        asked, answer = group.waiting.get(rollout_id.index, (-1, None))
        if answer is not None and asked == probe:  # the same question again, as of a repeated call
            return await asyncio.shield(answer)
        if answer is not None and not answer.done():
            answer.set_result(True)  # it went on without the answer
        group.features_at[rollout_id.index][self._controller.probe_tokens[probe]] = features_F
        answer = asyncio.get_running_loop().create_future()
        group.waiting[rollout_id.index] = (probe, answer)
        event = ProbeEvent(rollout_id, probe, features_F=features_F, confidence=float(features_F[2]))
        self._controller.probed([event])
        self._answer(rollout_id[:2])
        return await asyncio.shield(answer)

    def ended(self, rollout: tuple[int, int, int]) -> None:
        """It ended by itself before its last probe; its reward is under way."""
        self._controller.finished([RolloutId(*rollout)])
        self._answer(rollout[:2])

    def outcome(
        self, rollout: tuple[int, int, int], num_tokens: int, reward: float | None, *, is_truncated: bool
    ) -> None:
        """It is complete; ``is_truncated``: the length limit ended it. Without a reward nothing is learnt from it."""
        rollout_id = RolloutId(*rollout)
        reason = FinishReason.LENGTH if is_truncated else FinishReason.STOP
        self._controller.finished([rollout_id])
        if rollout_id[:2] in self._groups:
            self._groups[rollout_id[:2]].ends[rollout_id.index] = reason
        if reward is not None and not math.isfinite(reward):
            self._unusable.add(rollout_id)
            reward = None
        self._end(rollout_id, FinishReason.ERROR if reward is None else reason, num_tokens, reward)

    def pruned(self, rollout: tuple[int, int, int], num_tokens: int) -> None:
        """vLLM has stopped it; no decision was made here."""
        self._controller.lost([RolloutId(*rollout)])
        self._end(RolloutId(*rollout), FinishReason.PRUNED, num_tokens)

    def failed(self, rollout: tuple[int, int, int]) -> None:
        """Its task raised or was cancelled, before or while its reward was computed."""
        self._controller.lost([RolloutId(*rollout)])
        self._answer(rollout[:2])
        self._end(RolloutId(*rollout), FinishReason.ERROR)

    def tick(self, now: float) -> None:
        """``now`` in seconds: candidates that waited for ``barrier_timeout`` are drawn without their siblings."""
        self._controller.tick(now)
        for key in [key for key, group in self._groups.items() if group.waiting]:
            self._answer(key)
        missing = {key: group.missing for key, group in self._groups.items() if group.missing}
        silent = self._silence.seconds(now)
        if missing and silent is not None:
            logger.warning(
                "arrol: no rollout has reported for %.0f s; %s. If that worker of verl is gone, the step never ends",
                silent, waiting_for(missing),
            )  # fmt: skip

    async def settle(self, timeout_s: float = SETTLE_S) -> dict[str, float]:
        """Learn from the groups announced so far, once; returns metrics of the step settled last."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(group.missing for group in self._groups.values()):
                    self._over.clear()
                    await self._over.wait()
        open_groups = sorted(self._groups.items())
        missing = [RolloutId(*key, index) for key, group in open_groups for index in group.missing]
        self._controller.lost(missing)  # the worker is gone, or the reward
        for rollout_id in missing:
            self._end(rollout_id, FinishReason.ERROR)
        threshold = self._host.success_threshold
        groups = [group.as_rollouts(*key, self._controller, threshold) for key, group in open_groups]
        totals = [group.total_G for _, group in open_groups]
        for key, _ in open_groups:  # a refill of this step counts its groups from 0 again
            self._controller.close(*key)
        self._groups = {}
        if groups:
            began = time.monotonic()
            self._learn(groups, totals)
            self._record(groups, [group for _, group in open_groups], time.monotonic() - began)
        return dict(self._learnt)

    def _record(self, groups: list[RolloutGroup], opened: list[OpenGroup], seconds: float) -> None:
        if self._recording is None:
            return
        left_out = [[self._left_out.get(rollout.rollout_id, "") for rollout in group.rollouts] for group in groups]
        settled = [
            SettledGroup(group, known.total_G, known.ends, reasons)
            for group, known, reasons in zip(groups, opened, left_out, strict=True)
        ]
        self._recording.settled(settled, self._controller.probe_tokens, seconds)

    def _learn(self, groups: list[RolloutGroup], totals: list[np.ndarray]) -> None:
        advice = probe_advice(groups, self._controller.probe_tokens[0]) if self._controller.probe_tokens else None
        if advice and not self._has_advised:
            self._has_advised = True
            logger.warning("%s", advice)
        if not self._memory.probe_tokens:
            self._warmup.add_lengths(groups)
        warning = self._warmup.label_warning(np.concatenate(totals), self._memory.step)
        if warning:
            logger.warning("arrol: %s", warning)
        if self._unusable:
            logger.warning(
                "arrol: %d rewards of this step are not finite; these rollouts do not train", len(self._unusable)
            )
        if self._allocation is not None and self._selects_rows():
            lessons = self._allocation.lessons(groups, totals, self._memory.step)
            self._left_out = {
                rollout.rollout_id: left_out
                for group, lesson in zip(groups, lessons, strict=True)
                for rollout, left_out in zip(group.rollouts, lesson.left_out_G, strict=True)
            }
        metrics = self._memory.learn(groups) | self._memory.ledger.metrics() | self._memory.history.metrics()
        for line in self._diagnosis.look(metrics, totals):
            logger.warning("arrol: %s", line)
        metrics["quality/version"] = float(self._memory.estimator.version)
        if self._allocation is not None:
            self._allocation.learn(groups)
            metrics |= self._allocation.metrics()
        self._learnt = {name: value for name, value in metrics.items() if math.isfinite(value)}

    def wrote(self, rollout: tuple[int, int, int], text: WrittenText) -> None:
        """What a rollout has written until its end, for the record."""
        if self._recording is not None:
            self._recording.wrote(RolloutId(*rollout), text)

    def sampled(self, rows: Sequence[tuple[str, int]], metrics: Mapping[str, float]) -> None:
        """uid and rollout of each row of the step settled last that trains, and the metrics of the step."""
        if self._recording is not None:
            self._recording.sampled(rows, metrics, self._memory.ledger.totals)

    def evaluating(self, step: int) -> None:
        """A batch of validation begins."""
        if self._recording is not None:
            self._recording.evaluating(step)

    async def evaluated(self, step: int, scores: Sequence[tuple[str, float, int]]) -> None:
        """uid, score and tokens of each row of a batch of validation; returns when they are written."""
        if self._recording is not None:
            self._recording.evaluated(step, scores)
            await self._recording.idle()

    async def recorded(self, *, is_saved: bool = False) -> None:
        """Wait until all that was told is on disk; ``is_saved``: verl's checkpoint of this step is written."""
        if self._recording is not None:
            await self._recording.sync(is_saved=is_saved)

    async def nothing_left(self) -> None:
        """verl resumes from the checkpoint of its last step: the record says that the run has finished."""
        if self._recording is not None:
            await self._recording.nothing_left(self._memory.ledger.totals)

    def log_end(self) -> None:
        """verl ends with the step settled last: log why nothing was learned, where that is so, once."""
        if self._recording is not None:
            self._recording.last_step()
        for line in self._diagnosis.at_end():
            logger.warning("arrol: %s", line)
        self._diagnosis = HostDiagnosis(ADVICE)

    def _selects_rows(self) -> bool:
        """Whether the rule lets only a part of each group train."""
        return isinstance(self._host.allocation, PodsAllocation)

    def has_selection(self) -> bool:
        """Whether some rows of the step settled last may not train."""
        return self._selects_rows() or bool(self._unusable)

    def kept(self, step: int, rows: Sequence[tuple[int, int]]) -> list[bool]:
        """Whether each ``(group, rollout)`` of the step settled last trains."""
        ids = [RolloutId(step, *row) for row in rows]
        chosen = [not self._selects_rows() or self._left_out.get(rollout_id) == "" for rollout_id in ids]
        return [
            is_chosen and rollout_id not in self._unusable for is_chosen, rollout_id in zip(chosen, ids, strict=True)
        ]

    def save(self) -> State:
        """For a checkpoint; :meth:`settle` first."""
        rule = self._allocation.save() if self._allocation is not None else {}
        own = {"controller": self._controller.save(), "allocation": rule, "warmup": self._warmup.save()}
        return {"memory": self._memory.save(), **own}

    def load(self, state: State) -> None:
        """CheckpointError when the head has another shape."""
        memory = cast(State, state["memory"])
        if not self._host.pruning.probe_tokens and memory["probe_tokens"]:
            self._host = with_probes(self._host, cast(list[int], memory["probe_tokens"]))
            self._build()
        self._memory.load(memory)
        if self._memory.has_probes_of(memory):
            self._controller.load(cast(State, state["controller"]))
        self._warmup.load(cast(State, state["warmup"]))
        if self._allocation is not None and state.get("allocation"):  # empty: saved under a rule without memory
            self._allocation.load(cast(State, state["allocation"]))

    def _answer(self, key: tuple[int, int]) -> None:
        """Answer the workers of a group whose decision has been made."""
        group = self._groups.get(key)  # None once its step was settled
        for index, (probe, answer) in list(group.waiting.items()) if group else []:
            decision = self._controller.decision(RolloutId(*key, index))
            if decision is None or decision.probe < probe:
                continue
            if not decision.keep:
                tokens = self._controller.probe_tokens[decision.probe]
                self._end(RolloutId(*key, index), FinishReason.PRUNED, tokens)
                continue
            del self._groups[key].waiting[index]
            if not answer.done():  # its worker may be gone
                answer.set_result(True)

    def _end(
        self, rollout_id: RolloutId, reason: FinishReason, num_tokens: int = 0, reward: float | None = None
    ) -> None:
        """Record how a rollout ended, and stop it if it waits at a probe; the first report counts."""
        self._silence.heard()
        group, index = self._groups.get(rollout_id[:2]), rollout_id.index
        if group is None or index in group.completions:
            return  # None: its step was settled without it
        tokens, logprobs_T = (0,) * num_tokens, np.zeros(num_tokens, np.float32)
        group.completions[index] = Completion(tokens, logprobs_T, reason, group.features_at[index])
        if reward is not None:
            group.rewards[index] = reward
        _, answer = group.waiting.pop(index, (0, None))
        if answer is not None and not answer.done():
            answer.set_result(False)
        if not group.missing:
            self._over.set()

    async def _run_clock(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick(time.monotonic())
