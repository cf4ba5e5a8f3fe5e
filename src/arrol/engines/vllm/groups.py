"""Requests to groups: who is whose sibling, which controller judges them, who is to be stopped. No vLLM here.

vLLM's scheduler knows requests that come, are preempted, end and are aborted in any order; the controller knows groups
and rollouts. This file is the translation, and the only owner of its state:

* a group begins with the first request that names it and is forgotten when all its members have come and gone, or when
  none is left and no other came for ``IDLE_TICKS``; a full group's name, used again, begins a new group;
* the groups of a batch begin together, when the first request of the batch comes;
* siblings do not wait for a member that leaves; an aborted or failed one is lost: it does not count for the floor;
* the same probe of a request reported twice (after a preemption) counts once: the controller's promise;
* a later wave of a group is a group of its own, with a floor and draws of its own, and its rollouts keep their names;
* requests with other rules or seeds have a controller of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from arrol.engines.vllm.request import PruningRequest
from arrol.errors import ConfigError
from arrol.protocols import Estimator
from arrol.pruning.controller import PruningController
from arrol.types import ProbeEvent, PruningDecision, RolloutId

IDLE_TICKS = 4096
"""Steps after which a group that has no running member, but has not seen all of them, is forgotten."""
MAX_HOSTS = 64
"""Different rules and seeds at a time; each keeps its own buffers."""

WAVE = 2**40
"""Numbers of groups end here; those of later waves begin."""

_Name = tuple[tuple[str, int, bool], int | None, str, int]
"""Key of the host, step, name of the group, index of the wave's first rollout."""


@dataclass
class Scored:
    """What the worker (or the log-probabilities) said about one request at one probe."""

    request_id: str
    probe_tokens: int
    score: float
    confidence: float = 0.0


@dataclass
class _Host:
    """A controller with what it has opened."""

    controller: PruningController
    step: int
    keys: set[tuple[int, int]] = field(default_factory=set)
    """Of the groups that are known now."""
    numbers: int = 0
    """Groups numbered so far, for requests that do not number them."""


@dataclass
class _Group:
    host: _Host
    key: tuple[int, int]
    """(step, number), as the controller knows it."""
    size: int
    taken: set[int] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    idle_since: int = 0


@dataclass
class _Member:
    group: _Group
    name: _Name
    rollout_id: RolloutId
    """As the controller knows it."""
    pruning: PruningRequest
    stopped: PruningDecision | None = None
    """Why it is to be stopped; the controller may forget its group before it has left."""


class GroupBook:
    """All pruning state of one scheduler."""

    def __init__(self, estimator: Callable[[PruningRequest], Estimator]) -> None:
        self._estimator = estimator
        self._hosts: dict[tuple[str, int, bool], _Host] = {}
        self._groups: dict[_Name, _Group] = {}
        self._members: dict[str, _Member] = {}
        self._by_rollout: dict[tuple[int, RolloutId], str] = {}
        self._stops: list[str] = []
        self._now = 0

    def __len__(self) -> int:
        """Requests that are being watched."""
        return len(self._members)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._members

    @property
    def num_groups(self) -> int:
        return len(self._groups)

    @property
    def request_ids(self) -> Iterable[str]:
        return self._members.keys()

    def pruning(self, request_id: str) -> PruningRequest:
        return self._members[request_id].pruning

    def rollout_id(self, request_id: str) -> RolloutId:
        """As the trainer knows it: a later wave counts on where its group ended."""
        member = self._members[request_id]
        step, group, index = member.rollout_id
        if member.pruning.first and member.pruning.number is not None:
            group = member.pruning.number
        return RolloutId(step, group, member.pruning.first + index)

    def add(self, request_id: str, pruning: PruningRequest) -> None:
        """A request came; ConfigError when it contradicts its group."""
        assert request_id not in self._members, request_id
        name = (pruning.host_key, pruning.step, pruning.group, pruning.first)
        group = self._groups.get(name)
        if group is None or not 0 < len(group.taken) < group.size:  # unknown, announced with its batch, or full
            group = self._open(name, pruning)
        if group.size != pruning.size:
            raise ConfigError(
                f"arrol_size = {pruning.size}: group {pruning.group!r} began with {group.size}; let them agree"
            )
        index = len(group.taken) if pruning.index is None else pruning.index
        if index in group.taken:
            raise ConfigError(f"arrol_index = {index}: taken in group {pruning.group!r}; give each rollout its own")
        group.taken.add(index)
        group.running.add(request_id)
        member = _Member(group, name, RolloutId(*group.key, index), pruning)
        self._members[request_id] = member
        self._by_rollout[id(group.host), member.rollout_id] = request_id

    def probed(self, scored: Sequence[Scored]) -> None:
        """Scores arrived; those of requests that are gone are ignored."""
        events: dict[int, tuple[_Host, list[ProbeEvent]]] = {}
        for one in scored:
            member = self._members.get(one.request_id)
            if member is None or one.probe_tokens not in member.pruning.probe_tokens:
                continue
            host, probe = member.group.host, member.pruning.probe_tokens.index(one.probe_tokens)
            event = ProbeEvent(member.rollout_id, probe, score=one.score, confidence=one.confidence)
            events.setdefault(id(host), (host, []))[1].append(event)
        for host, batch in events.values():
            self._stop(host, host.controller.probed(batch))

    def ended(self, request_ids: Iterable[str], *, lost: bool = False) -> None:
        """Requests have left the engine together; ``lost``: they were aborted or failed."""
        gone = {i: self._members.pop(i) for i in dict.fromkeys(request_ids) if i in self._members}
        hosts: dict[int, tuple[_Host, list[RolloutId]]] = {}
        for request_id, member in gone.items():
            host = member.group.host
            del self._by_rollout[id(host), member.rollout_id]
            member.group.running.discard(request_id)
            member.group.idle_since = self._now
            hosts.setdefault(id(host), (host, []))[1].append(member.rollout_id)
        for host, rollout_ids in hosts.values():
            self._stop(host, host.controller.lost(rollout_ids) if lost else host.controller.finished(rollout_ids))
        for name, group in {id(m.group): (m.name, m.group) for m in gone.values()}.values():
            if not group.running and len(group.taken) >= group.size:
                self._close(name, group)

    def tick(self) -> None:
        """A step of the engine has passed."""
        self._now += 1
        for host in self._hosts.values():
            self._stop(host, host.controller.tick(float(self._now)))
        if self._now % IDLE_TICKS == 0:
            for name, group in list(self._groups.items()):
                if not group.running and self._now - group.idle_since >= IDLE_TICKS:
                    self._close(name, group)

    def take_stops(self) -> list[str]:
        """Requests to be stopped now, each once, in the order of the decisions."""
        stops, self._stops = self._stops, []
        return [request_id for request_id in dict.fromkeys(stops) if request_id in self._members]

    def decision(self, request_id: str) -> PruningDecision | None:
        """The last decision about a request that has not been reported as ended."""
        member = self._members.get(request_id)
        if member is None:
            return None
        return member.stopped or member.group.host.controller.decision(member.rollout_id)

    def _open(self, name: _Name, pruning: PruningRequest) -> _Group:
        host = self._host(pruning)
        begins = not (pruning.first or pruning.later or any(known[:2] == name[:2] for known in self._groups))
        if pruning.batch_groups is not None and begins:
            for number in range(pruning.batch_groups):  # a barrier of the batch must know of those that are yet to come
                self._begin(host, (*name[:2], str(number), 0), self._key(host, pruning, number), pruning)
        announced = self._groups.get(name)
        if announced is not None and not announced.taken:
            return self._begin(host, name, announced.key, pruning)
        return self._begin(host, name, self._key(host, pruning, _number(pruning)), pruning)

    def _begin(self, host: _Host, name: _Name, key: tuple[int, int], pruning: PruningRequest) -> _Group:
        host.keys.add(key)
        host.controller.close(*key)  # one that was announced, or has ended: what begins here is no wave of it
        host.controller.open(*key, pruning.size, pruning.success_rate)
        group = self._groups[name] = _Group(host, key, pruning.size, idle_since=self._now)
        return group

    def _key(self, host: _Host, pruning: PruningRequest, number: int | None) -> tuple[int, int]:
        """With the number asked for where there are steps and no other group has it now, else with the next."""
        step, number = (host.step, None) if pruning.step is None else (pruning.step, number)
        while number is None or (step, number) in host.keys:
            number, host.numbers = host.numbers, host.numbers + 1
        return step, number

    def _host(self, pruning: PruningRequest) -> _Host:
        host = self._hosts.get(pruning.host_key)
        if host is None:
            if len(self._hosts) >= MAX_HOSTS:
                self._forget_a_host()
            controller = PruningController(pruning.rule, self._estimator(pruning), seed=pruning.seed)
            host = self._hosts[pruning.host_key] = _Host(controller, pruning.rule.warmup_steps + 1)
        return host

    def _forget_a_host(self) -> None:
        busy = {name[0] for name in self._groups} | {member.name[0] for member in self._members.values()}
        idle = next((key for key in self._hosts if key not in busy), None)
        if idle is None:
            raise ConfigError(f"arrol_rule: {MAX_HOSTS} different rules are in use at once; let requests share one")
        del self._hosts[idle]

    def _close(self, name: _Name, group: _Group) -> None:
        if self._groups.get(name) is group:
            del self._groups[name]
        group.host.keys.remove(group.key)
        if name[1] is None or len(group.taken) < group.size:  # complete ones of a step go when the next step begins
            group.host.controller.close(*group.key)

    def _stop(self, host: _Host, rollout_ids: Iterable[RolloutId]) -> None:
        for rollout_id in rollout_ids:
            request_id = self._by_rollout.get((id(host), rollout_id))
            if request_id is not None:
                self._members[request_id].stopped = host.controller.decision(rollout_id)
                self._stops.append(request_id)


def _number(pruning: PruningRequest) -> int | None:
    """Which number keys the draws: the group's own, or one that only this wave of it has."""
    number = pruning.number
    if not pruning.first:
        return number
    return None if number is None or number >= WAVE else pruning.first * WAVE + number
