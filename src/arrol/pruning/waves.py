"""The controller's state of one group: its waves, the candidates that wait, the rollouts that have ended.

A group is requested at once or in waves: first a few rollouts, then more of the same prompt when these have ended. The
indices continue. Each wave has its own barrier, and its request says whether it may be stopped.

>>> group = GroupState(success_rate=None)
>>> group.add(2), group.add(3, prune=False), group.size
(Wave(first=0, size=2, prune=True), Wave(first=2, size=3, prune=False), 5)
>>> group.wave_of(3).prune
False
"""

from __future__ import annotations

from dataclasses import dataclass, field

from arrol.types import PruningDecision, RolloutId


@dataclass
class Waiting:
    """A candidate between its probe and its draw."""

    rollout_id: RolloutId
    score: float
    quality: float
    confidence: float
    since: float | None
    """Time of the last tick before it arrived; None until the first tick of a step."""
    version: int


@dataclass(frozen=True)
class Wave:
    """Rollouts of a group from one request."""

    first: int
    size: int
    prune: bool

    @property
    def indices(self) -> range:
        return range(self.first, self.first + self.size)


@dataclass
class GroupState:
    """See the module."""

    success_rate: float | None
    waves: list[Wave] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)
    stopped: set[int] = field(default_factory=set)
    reached: dict[int, int] = field(default_factory=dict)
    """Rollout -> probes it has reached."""
    waiting: dict[int, Waiting] = field(default_factory=dict)
    survival: dict[int, float] = field(default_factory=dict)
    decisions: dict[int, PruningDecision] = field(default_factory=dict)
    came: set[int] | None = None
    """Rollouts whose requests have come, in hosts where they come one by one; None: all of them."""
    first: int = 0
    """Rollouts of the group that ran elsewhere before its first wave."""
    seed: int | None = None
    """Seed of its draws; None: the controller's."""

    @property
    def size(self) -> int:
        return self.first + sum(wave.size for wave in self.waves)

    @property
    def num_alive(self) -> int:
        """Rollouts that count for the floor: they have come, and were neither stopped nor lost."""
        return self.size - len(self.stopped) if self.came is None else len(self.came - self.stopped)

    @property
    def is_over(self) -> bool:
        """No rollout of it runs, and none is to come."""
        return self.first + len(self.ended) + len(self.stopped) >= self.size

    def add(self, size: int, *, prune: bool = True) -> Wave:
        self.waves.append(Wave(self.size, size, prune))
        return self.waves[-1]

    def wave_of(self, index: int) -> Wave:
        return next(wave for wave in reversed(self.waves) if index >= wave.first)

    def alive_in(self, wave: Wave) -> int:
        return wave.size - sum(index in self.stopped for index in wave.indices)

    def is_past(self, wave: Wave, probe: int) -> bool:
        """No rollout of the wave is still on its way to this probe."""
        return all(i in self.ended or i in self.stopped or self.reached.get(i, 0) > probe for i in wave.indices)

    def waiting_at(self, wave: Wave, probe: int) -> list[Waiting]:
        """Candidates of the wave at this probe, by index."""
        here = (index for index in wave.indices if self.reached.get(index) == probe + 1)
        return [self.waiting[index] for index in here if index in self.waiting]
