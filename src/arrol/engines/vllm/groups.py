"""vLLM's requests to groups and rollouts: siblings, their controller, the requests to stop. No vLLM here.

The only owner of this state; vLLM's requests come, are preempted, end and are aborted in any order:

* a group begins with the first request that names it. It is forgotten when all its requests have come and gone, or
  when none runs and no other came for ``IDLE_S``. The name of a full group, used again, begins a new group;
* a draw over a batch waits until all groups of the batch have begun;
* siblings do not wait for a request that left; the floor counts requests that came and were neither aborted nor failed;
* a probe reported twice (after a preemption) counts once: the controller's promise;
* a later wave joins its group; earlier rollouts of a group that is not known do not count for the floor;
* each run and rule has a controller of its own, with the seed where requests count steps. No client can use up the
  others' places: controllers with running requests are not limited, idle ones are forgotten by age.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from arrol.configs.base import shown
from arrol.configs.method import NeverRule
from arrol.engines.vllm.request import ControllerKey, PruningRequest
from arrol.errors import ConfigError
from arrol.protocols import Estimator
from arrol.pruning.controller import PruningController
from arrol.types import ProbeEvent, PruningDecision, RolloutId

IDLE_S = 600.0
"""Wall time after which a group without a running request is forgotten."""
MAX_IDLE_GROUPS = 1024
"""Groups of a controller without a running request: incomplete ones, and complete ones that a later wave may join."""
MAX_IDLE_RULES, MAX_IDLE_RULES_OF_A_RUN = 64, 8
"""Controllers without a running request; each keeps its own buffers."""


@dataclass
class ProbeScore:
    """Score of one request at one probe."""

    request_id: str
    probe_tokens: int
    score: float
    confidence: float = 0.0


@dataclass(eq=False)
class _OpenController:
    """A controller with its open groups and running requests."""

    key: ControllerKey
    controller: PruningController
    step: int
    """Step of requests that name none."""
    may_stop: bool = True
    """Its rule is not ``never``."""
    keys: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(step, number) -> waves of the group that are open."""
    numbers: int = 0
    """Groups numbered so far, for requests that do not number them."""
    request_of: dict[RolloutId, str] = field(default_factory=dict)
    groups: dict[_GroupName, _RequestGroup] = field(default_factory=dict)
    idle: dict[_RequestGroup, float] = field(default_factory=dict)
    """Incomplete groups without a running request -> since when; the oldest first."""
    complete: dict[tuple[int, int], float] = field(default_factory=dict)
    """(step, number) of complete groups that a later wave may join -> since when; the oldest first."""


class _GroupName(NamedTuple):
    """A group as requests name it."""

    seed: int
    step: int | None
    group: str
    first: int
    """Index of the wave's first rollout."""


@dataclass(eq=False)
class _RequestGroup:
    """A group, or a later wave of one."""

    name: _GroupName
    owner: _OpenController
    key: tuple[int, int]
    """(step, number), as the controller knows it."""
    size: int
    taken: set[int] = field(default_factory=set)
    """Indices in the wave whose requests have come."""
    running: set[str] = field(default_factory=set)


@dataclass
class _RunningRequest:
    group: _RequestGroup
    rollout_id: RolloutId
    pruning: PruningRequest
    stop: PruningDecision | None = None
    """The decision to stop it; the controller may forget its group before the request has left."""


class GroupBook:
    """All pruning state of one scheduler."""

    def __init__(
        self,
        estimator: Callable[[PruningRequest], Estimator],
        *,
        rank: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``rank`` among data-parallel engines: their draws are independent."""
        self._estimator, self._rank, self._clock = estimator, rank, clock
        self._owners: dict[ControllerKey, _OpenController] = {}
        """The one asked for least recently first."""
        self._requests: dict[str, _RunningRequest] = {}
        self._stops: list[str] = []
        self._now = 0
        """Steps of the engine."""

    def __len__(self) -> int:
        """Number of requests under observation."""
        return len(self._requests)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    @property
    def num_groups(self) -> int:
        return sum(len(owner.groups) for owner in self._owners.values())

    @property
    def num_late(self) -> int:
        """Candidates drawn at a deadline so far, of the controllers that are known and may stop requests."""
        return sum(owner.controller.num_late for owner in self._owners.values() if owner.may_stop)

    @property
    def largest_group(self) -> int:
        """Rollouts of the largest open group, or wave of one."""
        return max((group.size for owner in self._owners.values() for group in owner.groups.values()), default=0)

    @property
    def request_ids(self) -> Iterable[str]:
        return self._requests.keys()

    def pruning(self, request_id: str) -> PruningRequest:
        return self._requests[request_id].pruning

    def rollout_id(self, request_id: str) -> RolloutId:
        """The id under which the trainer asked; the controller may number a later wave otherwise."""
        request = self._requests[request_id]
        step, group, index = request.rollout_id
        number = request.pruning.number if request.pruning.first else None
        return RolloutId(step, group if number is None else number, index)

    def add(self, request_id: str, pruning: PruningRequest) -> None:
        """A request came; ConfigError when it contradicts its group."""
        assert request_id not in self._requests, request_id
        owner = self._owner(pruning)
        name = _GroupName(pruning.seed, pruning.step, pruning.group, pruning.first)
        group = owner.groups.get(name)
        if group is None or len(group.taken) >= group.size:  # unknown, or full
            group = self._open(owner, name, pruning)
        if group.size != pruning.size:
            raise ConfigError(
                f"arrol_size = {pruning.size}: group {shown(pruning.group)} has size {group.size}; "
                "send one size for all its rollouts"
            )
        index = len(group.taken) if pruning.index is None else pruning.index
        if index in group.taken:
            raise ConfigError(
                f"arrol_index = {index}: taken in group {shown(pruning.group)}; give each rollout its own"
            )
        group.taken.add(index)
        group.running.add(request_id)
        owner.idle.pop(group, None)
        rollout_id = RolloutId(*group.key, name.first + index)
        owner.controller.came(rollout_id)
        self._requests[request_id] = _RunningRequest(group, rollout_id, pruning)
        owner.request_of[rollout_id] = request_id

    def probed(self, scored: Sequence[ProbeScore]) -> None:
        """Scores arrived; those of requests that left are ignored."""
        events: defaultdict[_OpenController, list[ProbeEvent]] = defaultdict(list)
        for one in scored:
            request = self._requests.get(one.request_id)
            if request is None or one.probe_tokens not in request.pruning.probe_tokens:
                continue
            probe = request.pruning.probe_tokens.index(one.probe_tokens)
            event = ProbeEvent(request.rollout_id, probe, score=one.score, confidence=one.confidence)
            events[request.group.owner].append(event)
        for owner, batch in events.items():
            self._stop(owner, owner.controller.probed(batch))

    def ended(self, request_ids: Iterable[str], *, lost: bool = False) -> None:
        """Requests left the engine in the same step; ``lost``: they were aborted or failed."""
        gone = {i: self._requests.pop(i) for i in dict.fromkeys(request_ids) if i in self._requests}
        rollout_ids: defaultdict[_OpenController, list[RolloutId]] = defaultdict(list)
        for request_id, request in gone.items():
            group = request.group
            del group.owner.request_of[request.rollout_id]
            group.running.discard(request_id)
            rollout_ids[group.owner].append(request.rollout_id)
        for owner, ids in rollout_ids.items():
            self._stop(owner, owner.controller.lost(ids) if lost else owner.controller.finished(ids))
        for group in dict.fromkeys(request.group for request in gone.values()):
            if not group.running and len(group.taken) >= group.size:
                self._close(group)
            elif not group.running:
                group.owner.idle[group] = self._clock()

    def tick(self) -> None:
        """A step of the engine has passed."""
        self._now += 1
        for owner in self._owners.values():
            if owner.request_of:
                self._stop(owner, owner.controller.tick(float(self._now)))
            self._forget_old(owner)

    def take_stops(self) -> list[str]:
        """Requests to stop now, each once, in the order of the decisions."""
        stops, self._stops = self._stops, []
        return [request_id for request_id in dict.fromkeys(stops) if request_id in self._requests]

    def decision(self, request_id: str) -> PruningDecision | None:
        """The last decision about a running request; None for one that reached no probe."""
        request = self._requests.get(request_id)
        if request is None:
            return None
        return request.stop or request.group.owner.controller.decision(request.rollout_id)

    def _open(self, owner: _OpenController, name: _GroupName, pruning: PruningRequest) -> _RequestGroup:
        controller, step, number = owner.controller, pruning.step, pruning.number
        is_first = not (pruning.first or pruning.later)
        if pruning.batch_groups is not None and step is not None and is_first and not self._is_open(owner, step):
            controller.expect(step, pruning.batch_groups)
        if step is not None and number is not None and name.first and controller.size(step, number) == name.first:
            key, first = (step, number), 0  # a later wave joins its group
        else:
            key, first = self._key(owner, pruning, number), name.first
            controller.close(*key)  # a reused name starts a new group, not a wave of the old one
        seed = pruning.seed + (self._rank << 64)
        controller.announce(*key, pruning.size, pruning.success_rate, first=first, seed=seed)
        owner.complete.pop(key, None)
        owner.keys[key] += 1
        group = owner.groups[name] = _RequestGroup(name, owner, key, pruning.size)
        return group

    @staticmethod
    def _is_open(owner: _OpenController, step: int) -> bool:
        """Whether a group of the step is open."""
        return any(known == step for known, _ in owner.keys)

    def _key(self, owner: _OpenController, pruning: PruningRequest, number: int | None) -> tuple[int, int]:
        """(step, number) with the number of the request if it is free, else the next free one."""
        step, number = (owner.step, None) if pruning.step is None else (pruning.step, number)
        while number is None or (step, number) in owner.keys:
            number, owner.numbers = owner.numbers, owner.numbers + 1
        return step, number

    def _owner(self, pruning: PruningRequest) -> _OpenController:
        """The controller of the request's run and rule, which becomes the most recent one."""
        key = pruning.controller_key
        owner = self._owners.pop(key, None)
        if owner is None:
            controller = PruningController(pruning.rule, self._estimator(pruning), seed=pruning.seed)
            may_stop = not isinstance(pruning.rule, NeverRule)
            owner = _OpenController(key, controller, pruning.rule.warmup_steps + 1, may_stop)
            self._forget_rules(key.run)
        if not owner.request_of:  # its clock has stood still
            owner.controller.tick(float(self._now))
        self._owners[key] = owner
        self._forget_old(owner)
        return owner

    def _forget_rules(self, run: str) -> None:
        """Make room for a controller of ``run``: the least recent ones without a running request go."""
        idle = [key for key, owner in self._owners.items() if not owner.request_of]
        own = [key for key in idle if key.run == run]
        surplus = own[: max(0, len(own) - MAX_IDLE_RULES_OF_A_RUN + 1)]
        for key in surplus or idle[: max(0, len(idle) - MAX_IDLE_RULES + 1)]:
            del self._owners[key]

    def _forget_old(self, owner: _OpenController) -> None:
        """Forget groups that have been idle for long, or are too many; the oldest first."""
        if not (owner.idle or owner.complete):
            return
        oldest = self._clock() - IDLE_S
        while owner.idle and _is_due(owner.idle, oldest):
            self._close(next(iter(owner.idle)))
        while owner.complete and _is_due(owner.complete, oldest):
            key = next(iter(owner.complete))
            del owner.complete[key]
            owner.controller.close(*key)

    def _close(self, group: _RequestGroup) -> None:
        owner, key = group.owner, group.key
        if owner.groups.get(group.name) is group:
            del owner.groups[group.name]
        owner.idle.pop(group, None)
        missing = [index for index in range(group.size) if index not in group.taken]
        owner.keys[key] -= 1
        if owner.keys[key]:  # another wave is open
            self._stop(owner, owner.controller.lost([RolloutId(*key, group.name.first + index) for index in missing]))
            return
        del owner.keys[key]
        if group.name.step is None or missing:
            owner.controller.close(*key)
        else:
            owner.complete[key] = self._clock()

    def _stop(self, owner: _OpenController, rollout_ids: Iterable[RolloutId]) -> None:
        for rollout_id in rollout_ids:
            request_id = owner.request_of.get(rollout_id)
            if request_id is not None:
                self._requests[request_id].stop = owner.controller.decision(rollout_id)
                self._stops.append(request_id)


def _is_due(since: Mapping[_RequestGroup, float] | Mapping[tuple[int, int], float], oldest: float) -> bool:
    """Whether the first entry is older than ``oldest``, or one too many."""
    return len(since) > MAX_IDLE_GROUPS or next(iter(since.values())) <= oldest
