"""vLLM's requests to groups and rollouts: siblings, their controller, the requests to stop. No vLLM here.

The only owner of this state; vLLM's requests come, are preempted, end and are aborted in any order:

* a group begins with the first request that names it. It is forgotten when all its requests have come and gone, or
  when none runs and no other came for ``IDLE_TICKS``. The name of a full group, used again, begins a new group;
* the groups of a batch are opened together, with the first request of the batch;
* siblings do not wait for a request that left; an aborted or failed one is lost: it does not count for the floor;
* a probe reported twice (after a preemption) counts once: the controller's promise;
* a later wave joins its group; earlier rollouts of a group that is not known are lost: they do not count for the floor;
* each pair of rule and seed has a controller of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from arrol.engines.vllm.request import PruningRequest
from arrol.errors import ConfigError
from arrol.protocols import Estimator
from arrol.pruning.controller import PruningController
from arrol.types import ProbeEvent, PruningDecision, RolloutId

IDLE_TICKS = 4096
"""Steps after which an incomplete group without a running request is forgotten."""
MAX_CONTROLLERS = 64
"""Pairs of rule and seed at a time; each keeps its own buffers."""


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

    controller: PruningController
    step: int
    """Step of requests that name none."""
    keys: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(step, number) -> waves of the group that are open."""
    numbers: int = 0
    """Groups numbered so far, for requests that do not number them."""
    request_of: dict[RolloutId, str] = field(default_factory=dict)


class _GroupName(NamedTuple):
    """A group as requests name it."""

    controller_key: tuple[str, int, bool]
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
    idle_since: int = 0


@dataclass
class _RunningRequest:
    group: _RequestGroup
    rollout_id: RolloutId
    pruning: PruningRequest
    stop: PruningDecision | None = None
    """The decision to stop it; the controller may forget its group before the request has left."""


class GroupBook:
    """All pruning state of one scheduler."""

    def __init__(self, estimator: Callable[[PruningRequest], Estimator]) -> None:
        self._estimator = estimator
        self._controllers: dict[tuple[str, int, bool], _OpenController] = {}
        self._groups: dict[_GroupName, _RequestGroup] = {}
        self._requests: dict[str, _RunningRequest] = {}
        self._stops: list[str] = []
        self._now = 0

    def __len__(self) -> int:
        """Number of requests under observation."""
        return len(self._requests)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    @property
    def num_groups(self) -> int:
        return len(self._groups)

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
        name = _GroupName(pruning.controller_key, pruning.step, pruning.group, pruning.first)
        group = self._groups.get(name)
        if group is None or not 0 < len(group.taken) < group.size:  # unknown, announced with its batch, or full
            group = self._open(name, pruning)
        if group.size != pruning.size:
            raise ConfigError(
                f"arrol_size = {pruning.size}: group {pruning.group!r} has size {group.size}; "
                "send one size for all its rollouts"
            )
        index = len(group.taken) if pruning.index is None else pruning.index
        if index in group.taken:
            raise ConfigError(f"arrol_index = {index}: taken in group {pruning.group!r}; give each rollout its own")
        group.taken.add(index)
        group.running.add(request_id)
        rollout_id = RolloutId(*group.key, name.first + index)
        self._requests[request_id] = _RunningRequest(group, rollout_id, pruning)
        group.owner.request_of[rollout_id] = request_id

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
            group.idle_since = self._now
            rollout_ids[group.owner].append(request.rollout_id)
        for owner, ids in rollout_ids.items():
            self._stop(owner, owner.controller.lost(ids) if lost else owner.controller.finished(ids))
        for group in dict.fromkeys(request.group for request in gone.values()):
            if not group.running and len(group.taken) >= group.size:
                self._close(group)

    def tick(self) -> None:
        """A step of the engine has passed."""
        self._now += 1
        for owner in self._controllers.values():
            self._stop(owner, owner.controller.tick(float(self._now)))
        if self._now % IDLE_TICKS == 0:
            for group in list(self._groups.values()):
                if not group.running and self._now - group.idle_since >= IDLE_TICKS:
                    self._close(group)

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

    def _open(self, name: _GroupName, pruning: PruningRequest) -> _RequestGroup:
        owner = self._owner(pruning)
        begins = not (pruning.first or pruning.later or any(known[:2] == name[:2] for known in self._groups))
        if pruning.batch_groups is not None and begins:  # a barrier of the batch waits for all its groups
            for number in range(pruning.batch_groups):
                self._begin(name._replace(group=str(number), first=0), self._key(owner, pruning, number), pruning)
        announced = self._groups.get(name)
        if announced is not None and not announced.taken:
            del owner.keys[announced.key]
            return self._begin(name, announced.key, pruning)
        if name.first and name.step is not None and pruning.number is not None:
            key = name.step, pruning.number
            if owner.controller.size(*key) == name.first:
                return self._begin(name, key, pruning, joins=True)
        return self._begin(name, self._key(owner, pruning, pruning.number), pruning)

    def _begin(
        self, name: _GroupName, key: tuple[int, int], pruning: PruningRequest, *, joins: bool = False
    ) -> _RequestGroup:
        owner = self._owner(pruning)
        owner.keys[key] += 1
        if not joins:
            owner.controller.close(*key)  # a reused name starts a new group, not a wave of the old one
            if name.first:
                owner.controller.open(*key, name.first)
                owner.controller.lost([RolloutId(*key, index) for index in range(name.first)])
        owner.controller.open(*key, pruning.size, pruning.success_rate)
        group = self._groups[name] = _RequestGroup(name, owner, key, pruning.size, idle_since=self._now)
        return group

    def _key(self, owner: _OpenController, pruning: PruningRequest, number: int | None) -> tuple[int, int]:
        """(step, number) with the number of the request if it is free, else the next free one."""
        step, number = (owner.step, None) if pruning.step is None else (pruning.step, number)
        while number is None or (step, number) in owner.keys:
            number, owner.numbers = owner.numbers, owner.numbers + 1
        return step, number

    def _owner(self, pruning: PruningRequest) -> _OpenController:
        owner = self._controllers.get(pruning.controller_key)
        if owner is None:
            if len(self._controllers) >= MAX_CONTROLLERS:
                self._forget_a_controller()
            controller = PruningController(pruning.rule, self._estimator(pruning), seed=pruning.seed)
            owner = _OpenController(controller, pruning.rule.warmup_steps + 1)
            self._controllers[pruning.controller_key] = owner
        return owner

    def _forget_a_controller(self) -> None:
        groups = [*self._groups.values(), *(request.group for request in self._requests.values())]
        busy = {group.name.controller_key for group in groups}
        idle = next((key for key in self._controllers if key not in busy), None)
        if idle is None:
            raise ConfigError(
                f"arrol_rule: {MAX_CONTROLLERS} pairs of rule and seed are in use at once; share them between requests"
            )
        del self._controllers[idle]

    def _close(self, group: _RequestGroup) -> None:
        if self._groups.get(group.name) is group:
            del self._groups[group.name]
        owner, key, missing = group.owner, group.key, set(range(group.size)) - group.taken
        owner.keys[key] -= 1
        if owner.keys[key]:  # another wave is open
            self._stop(owner, owner.controller.lost([RolloutId(*key, group.name.first + index) for index in missing]))
            return
        del owner.keys[key]
        if group.name.step is None or missing:  # complete groups of a step are forgotten when the next step begins
            owner.controller.close(*key)

    def _stop(self, owner: _OpenController, rollout_ids: Iterable[RolloutId]) -> None:
        for rollout_id in rollout_ids:
            request_id = owner.request_of.get(rollout_id)
            if request_id is not None:
                self._requests[request_id].stop = owner.controller.decision(rollout_id)
                self._stops.append(request_id)
