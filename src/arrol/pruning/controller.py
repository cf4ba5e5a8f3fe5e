"""Events in, ids to stop out: the object that every host drives. Numpy only: no engine, no clock, no model.

A candidate is a rollout that reached a probe. The estimator gives it a quality. It waits for its siblings where the
draw has an exact count or the rule covers the whole batch, else it is drawn at once; then it is stopped or runs on.

Promises, each a property test:

* The same (rollout, probe) twice counts once.
* Order of arrival changes no draw unless a deadline passed, which the decision's reason records.
* A rollout that ends before a probe, or while it waits there, is no candidate at that probe.
* The floor of survivors counts the whole group and is set before the draw, so ``survival`` is exact.
* A candidate without a finite score is kept; warm-up keeps all.
* Over several probes conditional probabilities multiply, and ``min_survival`` bounds the product.
* A wave opened with ``prune=False`` is scored and kept at once; no sibling waits for it (``waves.py``).

Deviations: (1) deadlines count the host's ticks, decode steps in our engines, so that a run repeats; reaching the next
probe is a deadline too; (2) constants over recent candidates come from earlier steps, or order of arrival would change
draws; (3) under independent draws the floor keeps the last candidates to arrive, reason ``floor``.

Legend: ``C`` candidates, ``B`` recent candidates (the buffer).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from arrol.configs.method import AutoRule, NeverRule, NeymanRule, OracleRule, PruningBase
from arrol.protocols import Estimator
from arrol.pruning.auto import AutoChoice, Thinning
from arrol.pruning.draws import PRUNING_STREAM, bernoulli, systematic
from arrol.pruning.recent import PREVIOUS, RecentCandidates
from arrol.pruning.survival import RULES, Candidates, Survival, conditional_survival, lift_to_floor
from arrol.pruning.waves import GroupState, Waiting, Wave
from arrol.quality.scoring import scores_and_qualities
from arrol.types import (
    LEAST_SURVIVAL,
    Contribution,
    ProbeEvent,
    PruningDecision,
    Reason,
    RolloutGroup,
    RolloutId,
    State,
)

MIN_RECENT = 32
"""With fewer remembered, a draw without siblings is uniform."""


class PruningController:
    """Implements :class:`arrol.protocols.TrainingController`; see the module for its promises."""

    def __init__(
        self,
        config: PruningBase,
        estimator: Estimator,
        *,
        seed: int,
        whole_group: bool = False,
        survival: Survival | None = None,
        thinning: Thinning | None = None,
    ) -> None:
        """``whole_group`` makes ``keep_ratio`` a share of the group, for hosts that need the same number of survivors
        from every prompt: rollouts that ended before the probe count as kept, candidates share the places left.

        ``survival`` replaces the rule: candidates in, probability of surviving through their probe out; the rest of
        the config holds, ``min_survival`` included, and ``keep_ratio`` is not used.
        ``thinning`` tells rule ``auto`` of the lottery before the update.
        """
        self._config, self._estimator, self._seed, self._whole_group = config, estimator, seed, whole_group
        self._groups: dict[tuple[int, int], GroupState] = {}
        self._survival = survival
        self.auto = AutoChoice(config, thinning) if isinstance(config, AutoRule) else None
        self._recent = RecentCandidates(len(config.probe_tokens))
        self._now: float | None = None
        self._step: int | None = None
        """The step whose groups are being opened."""
        self._batches: dict[int, tuple[int, set[int]]] = {}
        """Step -> groups of its batch: how many, and which were opened."""
        self.num_late = 0
        """Candidates drawn at a deadline."""

    @property
    def probe_tokens(self) -> tuple[int, ...]:
        return self._config.probe_tokens if self._config.has_probes else ()

    def open(self, step: int, group: int, size: int, success_rate: float | None = None, *, prune: bool = True) -> None:
        """Announce a group before its first rollout starts, or ``size`` more rollouts of a group of this step.

        ``prune=False``: none of these rollouts may be stopped. Finished groups of other steps are forgotten. A host
        that reuses the name of a group closes the old one first.
        """
        self._opened(step, group, GroupState(success_rate)).add(size, prune=prune)

    def announce(
        self, step: int, group: int, size: int, success_rate: float | None = None, *, first: int = 0, seed: int
    ) -> None:
        """As :meth:`open`, for a host whose requests come one by one: it reports each by :meth:`came`.

        Siblings wait for all ``size`` rollouts; the floor counts the ones that have come. ``first``: rollouts of an
        unknown group that ran elsewhere before. ``seed`` is that of the group's draws.
        """
        self._opened(step, group, GroupState(success_rate, came=set(), first=first, seed=seed)).add(size)

    def came(self, rollout_id: RolloutId) -> None:
        """The request of a rollout of an announced group has come."""
        came = self._groups[rollout_id[:2]].came
        assert came is not None, rollout_id
        came.add(rollout_id.index)

    def expect(self, step: int, num_groups: int) -> None:
        """A batch begins: a draw over all of it waits until ``num_groups`` groups of the step have been opened.

        No effect while groups of the step's batch are still to come.
        """
        if not self._is_whole(step):
            return
        for key in [key for key, group in self._groups.items() if key[0] == step and group.is_over]:
            self.close(*key)
        self._batches[step] = num_groups, {group for known, group in self._groups if known == step}

    def _opened(self, step: int, group: int, new: GroupState) -> GroupState:
        """The group of this name: the open one, else ``new``."""
        if step != self._step:
            self._groups = {key: old for key, old in self._groups.items() if not old.is_over and key != (step, group)}
            self._recent.begin_step()
            self._now, self._step = None, step
            steps = {step, *(known for known, _ in self._groups)}
            self._batches = {known: batch for known, batch in self._batches.items() if known in steps}
        if step in self._batches:
            self._batches[step][1].add(group)
        return self._groups.setdefault((step, group), new)

    def close(self, step: int, group: int) -> None:
        """Forget a group, if it is known; its candidates join the buffer at once."""
        state = self._groups.pop((step, group), None)
        if state is None:
            return
        self._recent.close([RolloutId(step, group, index) for index in sorted(state.reached)])

    def size(self, step: int, group: int) -> int:
        """Rollouts requested so far; 0 for an unknown group."""
        return self._groups[step, group].size if (step, group) in self._groups else 0

    def probed(self, events: Sequence[ProbeEvent]) -> list[RolloutId]:
        """Rollouts have reached a probe; returns the ids to stop now."""
        unique = list({(event.rollout_id, event.probe): event for event in events if self._is_fresh(event)}.values())
        stops = self._draw_late([w for w in map(self._waiting_of, unique) if w is not None])
        fresh = [event for event in unique if self._is_fresh(event)]
        for event, score, quality in zip(fresh, *scores_and_qualities(fresh, self._estimator), strict=True):
            group, index = self._groups[event.rollout_id[:2]], event.rollout_id.index
            group.reached[index] = event.probe + 1
            group.waiting[index] = Waiting(
                event.rollout_id, float(score), float(quality), event.confidence, self._now, self._estimator.version
            )
            if not group.wave_of(index).prune:
                self._keep_all([group.waiting[index]], event.probe, Reason.RESCUE)
            elif np.isfinite(quality):
                self._remember(event, float(quality), group)
        return stops + self._decide_what_is_due({event.rollout_id[:2] for event in fresh})

    def finished(self, rollout_ids: Sequence[RolloutId]) -> list[RolloutId]:
        """Rollouts have ended by themselves, which may complete a barrier of their siblings."""
        return self._gone(rollout_ids, lost=False)

    def lost(self, rollout_ids: Sequence[RolloutId]) -> list[RolloutId]:
        """Rollouts have failed or were aborted: siblings do not wait for them, and the floor does not count them."""
        return self._gone(rollout_ids, lost=True)

    def _gone(self, rollout_ids: Sequence[RolloutId], *, lost: bool) -> list[RolloutId]:
        touched = set()
        for rollout_id in rollout_ids:
            group = self._groups.get(rollout_id[:2])
            if group is None or rollout_id.index in group.stopped:
                continue
            (group.stopped if lost else group.ended).add(rollout_id.index)
            group.waiting.pop(rollout_id.index, None)
            touched.add(rollout_id[:2])
        return self._decide_what_is_due(touched)

    def tick(self, now: float) -> list[RolloutId]:
        """Time passes; candidates that waited too long are drawn without their siblings."""
        self._now = now
        late = []
        for waiting in [w for group in self._groups.values() for w in group.waiting.values()]:
            waiting.since = now if waiting.since is None else waiting.since
            if now - waiting.since >= self._config.barrier_timeout:
                late.append(waiting)
        self.num_late += len(late)
        return self._draw_late(late)

    def decisions(self, step: int, group: int) -> list[PruningDecision]:
        """The last decision about each candidate of a group, by rollout index."""
        return [decision for _, decision in sorted(self._groups[step, group].decisions.items())]

    def decision(self, rollout_id: RolloutId) -> PruningDecision | None:
        """The last decision about a rollout; None for one that reached no probe, or of a forgotten group."""
        group = self._groups.get(rollout_id[:2])
        return None if group is None else group.decisions.get(rollout_id.index)

    def learn(self, groups: Sequence[RolloutGroup], contributions: Sequence[Contribution]) -> None:
        """The verified groups of a step; only ``auto`` learns from them."""
        if self.auto:
            self.auto.learn(groups, contributions)

    def metrics(self) -> dict[str, float]:
        """Metrics of rule ``auto``; empty for other rules."""
        return self.auto.metrics() if self.auto else {}

    def save(self) -> State:
        """The buffers: groups do not outlive a step, and draws are keyed."""
        return {"recent": self._recent.save(), **({"auto": self.auto.save()} if self.auto else {})}

    def load(self, state: State) -> None:
        self._recent.load(cast(State, state["recent"]))
        if self.auto:
            self.auto.load(cast(State, state["auto"]))

    def _is_fresh(self, event: ProbeEvent) -> bool:
        """False for a probe seen before (a preempted request is scored again) and for a rollout that has ended."""
        group = self._groups.get(event.rollout_id[:2])
        index = event.rollout_id.index
        if group is None or index in group.stopped or index in group.ended:
            return False
        return event.probe >= group.reached.get(index, 0)

    def _waiting_of(self, event: ProbeEvent) -> Waiting | None:
        return self._groups[event.rollout_id[:2]].waiting.get(event.rollout_id.index)

    def _remember(self, event: ProbeEvent, quality: float, group: GroupState) -> None:
        """Add a candidate to the buffer of later steps. Warm-up stops none: the rule's expected survival stands in."""
        previous = group.survival.get(event.rollout_id.index, 1.0)
        if event.probe and event.rollout_id.step <= self._config.warmup_steps:
            previous = self._config.cumulative_keep[event.probe - 1]
        history = np.nan if group.success_rate is None else group.success_rate
        self._recent.add(event.rollout_id, event.probe, (quality, event.confidence, history, previous))

    def _decide_what_is_due(self, touched: set[tuple[int, int]]) -> list[RolloutId]:
        """Draw every pool whose barrier is complete."""
        stops: list[RolloutId] = []
        waits = self._config.draw == "systematic"
        for probe in range(len(self._config.probe_tokens)):
            for waves in self._pools(touched):
                if waits and not all(group.is_past(wave, probe) for group, wave in waves):
                    continue
                pool = [waiting for group, wave in waves for waiting in group.waiting_at(wave, probe)]
                if pool:
                    stops += self._draw(pool, probe, siblings_known=waits, reason=Reason.DRAW)
        return stops

    def _pools(self, touched: set[tuple[int, int]]) -> list[list[tuple[GroupState, Wave]]]:
        """Waves drawn together, in the order of their ids: each alone, or all of a step.

        A batch-wide draw waits for every open prunable wave of the step, including waves added later.
        """
        whole_batch = isinstance(self._config, NeymanRule) and self._config.scope == "batch"
        if whole_batch and self._config.draw == "systematic":
            steps = {key[0] for key in touched if self._is_whole(key[0])}
            return [self._prunable(sorted(key for key in self._groups if key[0] == step)) for step in sorted(steps)]
        return [[pair] for pair in self._prunable(sorted(touched))]

    def _is_whole(self, step: int) -> bool:
        """No group of the step's batch is still to come."""
        num_groups, opened = self._batches.get(step, (0, set()))
        return len(opened) >= num_groups

    def _prunable(self, keys: list[tuple[int, int]]) -> list[tuple[GroupState, Wave]]:
        return [(self._groups[key], wave) for key in keys for wave in self._groups[key].waves if wave.prune]

    def _draw_late(self, late: list[Waiting]) -> list[RolloutId]:
        """Draw candidates without their siblings."""
        stops: list[RolloutId] = []
        pools: dict[tuple[int, ...], list[Waiting]] = {}
        for waiting in sorted(late, key=lambda w: w.rollout_id):
            step, group, index = waiting.rollout_id
            pools.setdefault((step, group, self._groups[step, group].reached[index] - 1), []).append(waiting)
        for (_, _, probe), pool in sorted(pools.items()):
            stops += self._draw(pool, probe, siblings_known=False, reason=Reason.DEADLINE)
        return stops

    def _draw(self, pool: list[Waiting], probe: int, *, siblings_known: bool, reason: Reason) -> list[RolloutId]:
        """Decide a pool of waiting candidates, in the order of their ids."""
        if isinstance(self._config, (NeverRule, OracleRule)):
            return self._keep_all(pool, probe, Reason.RULE_NEVER)
        if self.auto and (known := [w for w in pool if np.isfinite(w.quality)]):
            self.auto.note([w.rollout_id for w in known], probe, self._candidates(known, probe, siblings_known))
        if pool[0].rollout_id.step <= self._config.warmup_steps:  # steps count from 1
            return self._keep_all(pool, probe, Reason.WARMUP)
        stops = self._keep_all([w for w in pool if not np.isfinite(w.quality)], probe, Reason.NO_SCORE)
        pool = [w for w in pool if np.isfinite(w.quality)]
        if not pool:
            return stops
        if self.auto and not self.auto.stops_at(probe):
            return stops + self._keep_all(pool, probe, Reason.RULE_NEVER)
        factor_C = self._factors(pool, probe, siblings_known)
        if siblings_known:
            return stops + self._draw_exactly(pool, probe, factor_C, reason)
        return stops + self._draw_alone(pool, probe, factor_C, reason)

    def _factors(self, pool: list[Waiting], probe: int, siblings_known: bool) -> np.ndarray:
        """Probability of passing this probe, given survival so far."""
        candidates, recent = self._candidates(pool, probe, siblings_known), self._recent.at(probe)
        if given := self.auto.survival if self.auto else self._survival:
            target_C = np.maximum(given(candidates), self._config.min_survival)
            return np.minimum(target_C / self._previous(pool), 1.0)
        keep, too_few = self._config.cumulative_keep, not siblings_known and len(recent) < MIN_RECENT
        whole_group = self._whole_group and siblings_known
        rule = RULES["uniform" if too_few else self._rule]
        share = self._places(pool[0].rollout_id, len(pool), probe) / len(pool) if whole_group else keep[probe]
        target_C = rule(candidates, self._config, share)
        if probe == 0:
            return target_C
        target_B, previous_B = target_C, self._previous(pool)
        if not siblings_known:  # a lone candidate tells no mean over the running ones; the buffer does
            population = self._recent.population(candidates, probe)
            target_B, previous_B = rule(population, self._config, keep[probe]), recent[:, PREVIOUS]
        mean = share if whole_group else keep[probe] / keep[probe - 1]
        floor = self._config.min_survival
        return conditional_survival(target_C, self._previous(pool), mean, floor, over=(target_B, previous_B))

    def _candidates(self, pool: list[Waiting], probe: int, siblings_known: bool) -> Candidates:
        pairs = [(waiting, self._groups[waiting.rollout_id[:2]]) for waiting in pool]
        return self._recent.candidates(pairs, probe, siblings_known, exact_count=self._whole_group and siblings_known)

    def _places(self, member: RolloutId, waiting: int, probe: int) -> int:
        """How many waiting candidates pass, so that together with the ended rollouts their wave's share is kept."""
        group = self._groups[member[:2]]
        wave = group.wave_of(member.index)
        wanted = round(self._config.cumulative_keep[probe] * wave.size)
        return min(max(wanted - (group.alive_in(wave) - waiting), 0), waiting)

    def _previous(self, pool: list[Waiting]) -> np.ndarray:
        """Survival of each candidate before the probe at which it waits, float64 ``[C]``."""
        return np.array([self._groups[w.rollout_id[:2]].survival.get(w.rollout_id.index, 1.0) for w in pool])

    @property
    def _rule(self) -> str:
        return str(getattr(self._config, "rule"))  # noqa: B009  every variant of the union has it, the base does not

    def _draw_exactly(self, pool: list[Waiting], probe: int, factor_C: np.ndarray, reason: Reason) -> list[RolloutId]:
        """One systematic draw per group, after lifting groups that would fall below the floor."""
        group_C = np.array([w.rollout_id.group for w in pool])
        step = pool[0].rollout_id.step
        rows_of = {group: np.flatnonzero(group_C == group) for group in sorted({int(g) for g in group_C})}
        first = {group: pool[rows[0]].rollout_id for group, rows in rows_of.items()}
        needed = {
            group: max(0, self._config.min_survivors - (self._groups[step, group].num_alive - len(rows)))
            for group, rows in rows_of.items()
        }
        if self._whole_group:
            places = {group: self._places(first[group], len(rows), probe) for group, rows in rows_of.items()}
            needed = {group: max(needed[group], places[group]) for group in rows_of}
        factor_C = lift_to_floor(factor_C, group_C, needed, self._config.min_survival / self._previous(pool))
        stops: list[RolloutId] = []
        for group, rows in rows_of.items():
            wave = self._groups[step, group].wave_of(first[group].index)
            later = [wave.first] if wave.first else []
            kept = systematic(factor_C[rows], [self._seed_of(step, group), PRUNING_STREAM, step, group, probe, *later])
            for row, keep in zip(rows, kept, strict=True):
                stops += self._settle(pool[row], probe, float(factor_C[row]), bool(keep), reason, first[group].index)
        return stops

    def _draw_alone(self, pool: list[Waiting], probe: int, factor_C: np.ndarray, reason: Reason) -> list[RolloutId]:
        """Independent draws; at the ``min_survivors`` floor, candidates are kept without a draw."""
        seed = self._seed_of(*pool[0].rollout_id[:2])  # a pool without siblings known is of one group
        kept_C = bernoulli(factor_C, [w.rollout_id for w in pool], seed=seed, probe=probe)
        stops: list[RolloutId] = []
        for waiting, factor, keep in zip(pool, factor_C, kept_C, strict=True):
            if self._groups[waiting.rollout_id[:2]].num_alive <= self._config.min_survivors:
                stops += self._settle(waiting, probe, 1.0, True, Reason.FLOOR)
            else:
                stops += self._settle(waiting, probe, float(factor), bool(keep), reason)
        return stops

    def _seed_of(self, step: int, group: int) -> int:
        seed = self._groups[step, group].seed
        return self._seed if seed is None else seed

    def _keep_all(self, pool: list[Waiting], probe: int, reason: Reason) -> list[RolloutId]:
        for waiting in pool:
            self._settle(waiting, probe, 1.0, True, reason)
        return []

    def _settle(
        self, waiting: Waiting, probe: int, factor: float, keep: bool, reason: Reason, shared: int | None = None
    ) -> list[RolloutId]:
        """Record one decision; returns the id if it is to be stopped. ``shared``: ``pool`` of the decision."""
        rollout_id, group = waiting.rollout_id, self._groups[waiting.rollout_id[:2]]
        group.waiting.pop(index := rollout_id.index, None)
        survival = group.survival[index] = max(group.survival.get(index, 1.0) * factor, LEAST_SURVIVAL)
        seen, previous = (waiting.score, waiting.quality, waiting.version), group.decisions.get(index)
        group.decisions[index] = PruningDecision(rollout_id, probe, keep, survival, reason, *seen, previous, shared)
        if not keep:
            group.stopped.add(index)
        return [] if keep else [rollout_id]
