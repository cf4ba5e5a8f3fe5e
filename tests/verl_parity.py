"""The parity table's driver for verl: a tape told to the service as drivers and agent loops of verl tell it.

tests/unit/integrations/verl runs it in an event loop, tests/with_verl through the Ray actor.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from types import SimpleNamespace
from typing import Any

from arrol.algorithms.allocation.rule import StepShape
from arrol.integrations.verl.options import VerlOptions
from arrol.integrations.verl.remote import RemoteService, Ticket
from arrol.integrations.verl.service import PruningService
from arrol.pruning.controller import PruningController
from arrol.types import FinishReason, RolloutGroup
from parity import SCENARIOS, SEED, Judge, Outcome, Scenario, Step, Told, ended, lessons_of, recorded, requests_of


class JudgedService(PruningService):
    """The service with the table's judge as its head, and without a clock of its own."""

    def __init__(self, scenario: Scenario) -> None:
        options = VerlOptions(scenario.host)
        super().__init__(options, seed=SEED, shape=StepShape(len(scenario.sizes), max(scenario.sizes)))
        self._memory.estimator = Judge()  # type: ignore[assignment]
        self._controller = PruningController(
            scenario.host.pruning, Judge(), seed=SEED, whole_group=options.keeps_share_of_group
        )
        self._groups_learnt: list[RolloutGroup] = []
        self._heard = 0

    async def probed(self, rollout: tuple[int, int, int], probe: int, logprobs: Sequence[float]) -> bool:
        self._heard += 1
        return await super().probed(rollout, probe, logprobs)

    def outcome(self, *arguments: Any, **named: Any) -> None:
        self._heard += 1
        super().outcome(*arguments, **named)

    def failed(self, rollout: tuple[int, int, int]) -> None:
        self._heard += 1
        super().failed(rollout)

    def tick(self, now: float) -> None:
        self._heard += 1
        super().tick(now)

    async def heard(self, count: int) -> None:
        """Return when ``count`` events were told: Ray may start calls of an async actor in another order."""
        while self._heard < count:
            await asyncio.sleep(0.001)

    async def begin_with(self, step: int, prompts: list[tuple[str, int]], rates: list[float | None]) -> list[Ticket]:
        """``begin``, with what the table says earlier steps knew of each prompt."""
        self._clock = asyncio.get_running_loop().create_future()  # type: ignore[assignment]
        known = dict(zip([key for key, _ in prompts], rates, strict=True))
        self._memory.history.success_rate = known.get  # type: ignore[method-assign,assignment]
        return await self.begin(step, prompts)

    def _learn(self, groups: list[RolloutGroup], totals: list[Any]) -> None:
        self._groups_learnt = groups
        super()._learn(groups, totals)

    def groups_learnt(self) -> list[RolloutGroup]:
        return self._groups_learnt


def as_in_verl(name: str) -> tuple[list[Step], Outcome]:
    """The recorded scenario, with ``keep_ratio`` a share of whole groups where it is one in verl."""
    return recorded(name, whole_group=VerlOptions(SCENARIOS[name].host).keeps_share_of_group)


def handle(service: PruningService) -> RemoteService:
    """The service in this event loop, called as an actor is."""

    def method(name: str) -> SimpleNamespace:
        def remote(*arguments: Any, **named: Any) -> Awaitable[Any]:
            answer = getattr(service, name)(*arguments, **named)
            if inspect.isawaitable(answer):
                return asyncio.ensure_future(answer)
            done = asyncio.get_running_loop().create_future()
            done.set_result(answer)
            return done

        return SimpleNamespace(remote=remote)

    names = [name for name in dir(service) if not name.startswith("_")]
    return SimpleNamespace(**{name: method(name) for name in names})  # type: ignore[return-value]


def tell(service: Any, step: Step, told: Told) -> list[Awaitable[Any]]:
    """One event of the tape, as messages to the service."""
    completions, messages = ended(step), []
    rewards = {rollout.rollout_id: rollout.reward for group in step.groups for rollout in group.rollouts}
    for value in told.values:
        if told.name == "probed":
            messages.append(service.probed.remote(value.rollout_id, value.probe, value.features_F.tolist()))
        elif told.name == "finished":
            size, is_truncated = completions[value].num_tokens, completions[value].finish_reason is FinishReason.LENGTH
            messages.append(service.outcome.remote(value, size, rewards[value], is_truncated=is_truncated))
        elif told.name == "lost":
            messages.append(service.failed.remote(value))
        elif told.name == "tick":
            messages.append(service.tick.remote(value))
    return messages


async def played_by_verl(name: str, start: Any) -> Outcome:
    """A scenario through the service; ``start`` makes a handle from a scenario.

    The tape is that of a controller with verl's ``whole_group``.
    """
    scenario, found, earlier = SCENARIOS[name], Outcome(), 0
    service = start(scenario)
    for number, step in enumerate(as_in_verl(name)[0], 1):
        if number > 1 and scenario.resumed:
            state, service, earlier = await service.save.remote(), start(scenario), 0
            await service.load.remote(state)
        requests, messages = requests_of(scenario, number), list[Awaitable[Any]]()
        prompts = [(request.prompt.key, request.size) for request in requests]
        await service.begin_with.remote(number, prompts, [request.success_rate for request in requests])
        for told in step.events:
            messages += tell(service, step, told)
            await service.heard.remote(earlier + len(messages))
        metrics = await service.settle.remote()
        await asyncio.gather(*messages)
        earlier += len(messages)
        groups = await service.groups_learnt.remote()
        found.decisions |= {r.rollout_id: r.decision for group in groups for r in group.rollouts if r.decision}
        found.metrics.append(metrics)
        found.lessons.append(lessons_of(scenario, groups))
    return found
