"""Warnings of the service: a step in which no rollout reports, and a probe that few rollouts reach."""

import asyncio

from arrol.integrations.verl.watch import SILENCE_S, Silence, waiting_for
from integrations.verl.test_service import play, service_of


def test_silence_is_told_at_twice_the_time_and_ends_with_a_report():
    silence = Silence()
    silence.heard()
    told = [silence.seconds(now) for now in (0.0, SILENCE_S - 1, SILENCE_S, 2 * SILENCE_S - 1, 2 * SILENCE_S)]
    assert told == [None, None, SILENCE_S, None, 2 * SILENCE_S]
    silence.heard()
    assert silence.seconds(3 * SILENCE_S) is None
    assert silence.seconds(4 * SILENCE_S) == SILENCE_S


def test_a_step_that_waits_for_a_killed_worker_names_the_groups_and_the_time(caplog):
    async def main():
        service = service_of()
        await service.begin(3, [("a", 4), ("b", 2)])
        for index in range(4):
            service.outcome((3, 0, index), 3, 1.0, is_truncated=False)
        service.outcome((3, 1, 1), 3, 1.0, is_truncated=False)
        for now in (0.0, SILENCE_S):
            service.tick(now)
        service.outcome((3, 1, 0), 3, 1.0, is_truncated=False)
        for now in (SILENCE_S + 1, 4 * SILENCE_S):
            service.tick(now)

    asyncio.run(main())
    assert caplog.messages == [
        "arrol: no rollout has reported for 300 s; group 1 of step 3 for rollouts [0]. If that worker of verl is gone, "
        "the step never ends"
    ]


def test_three_groups_are_named():
    assert waiting_for({(1, group): [0] for group in range(5)}).endswith(
        "group 2 of step 1 for rollouts [0]; and 2 more groups"
    )


def test_a_probe_that_few_reach_is_told_once_with_a_better_one(caplog):
    async def main():
        service = service_of(probe_tokens=100, warmup_steps=5)
        short = [(group, index) for group in range(2) for index in range(3)]
        for step in (1, 2):
            await play(service, step, short=short)
            await service.settle()

    asyncio.run(main())
    assert caplog.messages == [
        "arrol: 0% of the rollouts wrote the 100 tokens of the probe, so little can be pruned; half of them ended "
        "within 21: set +arrol.probe_tokens=10"
    ]


def test_a_probe_that_most_reach_is_not_mentioned(caplog):
    async def main():
        service = service_of()
        await play(service, 1)
        await service.settle()

    asyncio.run(main())
    assert caplog.messages == []
