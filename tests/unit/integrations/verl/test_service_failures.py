"""The service where rollouts fail, lose their reward or never report."""

import asyncio

import pytest

from integrations.verl.test_service import logprobs_of, play, service_of


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_teaches_nothing_and_does_not_train(caplog, reward):
    async def main():
        service = service_of(rule="never", observe=True)
        await service.begin(1, [("a", 4)])
        for index in range(4):
            service.outcome((1, 0, index), 9, reward if index == 2 else 1.0, is_truncated=False)
        metrics = await service.settle()
        kept = service.kept(1, [(0, index) for index in range(4)])
        had = service.has_selection()
        await service.begin(2, [("a", 4)])
        return metrics, had, kept, service.has_selection()

    metrics, had, kept, has = asyncio.run(main())
    assert (had, kept, has) == (True, [True, True, False, True], False)
    assert metrics["rollout/success_frac_after"] == 1.0
    assert metrics["rollout/finish/error"] == 1
    assert "arrol: 1 rewards of this step are not finite; these rollouts do not train" in caplog.messages


def spied(service, name):
    """Indices of the rollouts that the controller hears of by this method from now on."""
    told, method = set(), getattr(service._controller, name)

    def spy(rollout_ids):
        told.update(rollout_id.index for rollout_id in rollout_ids)
        return method(rollout_ids)

    setattr(service._controller, name, spy)
    return told


async def asked(service, *indices):
    """Tasks of rollouts that wait at their probe."""
    tasks = {i: asyncio.create_task(service.probed((1, 0, i), 0, logprobs_of(i))) for i in indices}
    await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize("waits_at_the_probe", [False, True])
def test_failed_rollouts_are_lost_and_the_floor_counts_those_that_are_left(waits_at_the_probe):
    """Two of four fail, by an exception or a cancelled task; ``min_survivors = 2`` keeps the two others."""

    async def main():
        service = service_of(keep_ratio=0.5, min_survivors=2)
        lost, finished = spied(service, "lost"), spied(service, "finished")
        await service.begin(1, [("a", 4)])
        tasks = await asked(service, 0, 1, *([3] if waits_at_the_probe else []))
        for index in (3, 2):
            service.failed((1, 0, index))
        kept = await asyncio.wait_for(asyncio.gather(*(tasks[i] for i in (0, 1))), 5)
        for index in (0, 1):
            service.outcome((1, 0, index), 20, 1.0, is_truncated=False)
        return kept, lost, finished, await service.settle()

    kept, lost, finished, metrics = asyncio.run(main())
    assert kept == [True, True]
    assert (lost, finished) == ({2, 3}, {0, 1})
    assert (metrics["rollout/finish/error"], metrics["rollout/finish/stop"]) == (2, 2)


def test_a_rollout_whose_reward_fails_is_lost_and_nothing_waits_for_it():
    async def main():
        service = service_of(rule="never")
        lost, finished = spied(service, "lost"), spied(service, "finished")
        await service.begin(1, [("a", 2)])
        service.outcome((1, 0, 0), 20, 1.0, is_truncated=False)
        service.failed((1, 0, 1))
        service.failed((1, 0, 0))  # the first report counts
        return lost, finished, await asyncio.wait_for(service.settle(), 1)

    lost, finished, metrics = asyncio.run(main())
    assert (1 in lost, finished) == (True, {0})
    assert (metrics["rollout/finish/error"], metrics["rollout/finish/stop"]) == (1, 1)


def test_rollouts_without_a_reward_teach_nothing_and_nothing_waits_for_one():
    """As with a reward model that judges after the rollouts: they are healthy, and not learnt from."""

    async def main():
        service = service_of(keep_ratio=0.5)
        lost = spied(service, "lost")
        await service.begin(1, [("a", 4)])
        tasks = await asked(service, 0, 1, 2, 3)
        kept = [index for index, task in tasks.items() if await task]
        for index in kept:
            service.outcome((1, 0, index), 20, None, is_truncated=False)
        return lost, await asyncio.wait_for(service.settle(), 1)

    lost, metrics = asyncio.run(main())
    assert lost == set()
    assert "rollout/success_frac_before" not in metrics
    assert metrics["tokens/generated"] == 2 * 4 + 2 * 20


def test_the_rollouts_of_a_killed_worker_are_lost_when_the_step_is_settled():
    """One ended well before, two wait at the probe, one never arrived."""

    async def main():
        service = service_of(keep_ratio=0.5)
        lost, finished = spied(service, "lost"), spied(service, "finished")
        await service.begin(1, [("a", 4)])
        service.outcome((1, 0, 0), 3, 1.0, is_truncated=False)
        tasks = await asked(service, 1, 2)
        metrics = await service.settle(timeout_s=0.01)
        return [await task for task in tasks.values()], lost, finished, metrics

    kept, lost, finished, metrics = asyncio.run(main())
    assert kept == [False, False]
    assert (lost, finished) == ({1, 2, 3}, {0})
    assert (metrics["rollout/finish/error"], metrics["pruning/candidates"]) == (3, 0)


def test_a_rollout_of_a_settled_step_is_told_to_stop():
    async def main():
        service = service_of()
        await service.begin(1, [("a", 4)])
        waiting = asyncio.create_task(service.probed((1, 0, 0), 0, logprobs_of(0)))
        await asyncio.sleep(0)
        await service.settle(timeout_s=0.01)
        return await waiting, await service.probed((1, 0, 1), 0, logprobs_of(1))

    assert asyncio.run(main()) == (False, False)


def test_rewards_below_the_threshold_are_told_after_the_warmup(caplog):
    async def main():
        service = service_of(rule="never", observe=True, warmup_steps=2)
        for step in (1, 2, 3):
            await service.begin(step, [("a", 32)])
            for index in range(32):
                service.outcome((step, 0, index), 9, 0.0125 * index, is_truncated=False)
            await service.settle()

    asyncio.run(main())
    (line,) = [message for message in caplog.messages if "success_threshold" in message]
    assert line.startswith("arrol: success_threshold = 0.5: none of the 64 rewards so far (0 to 0.3875) is above it, ")


def test_a_reward_that_never_varies_is_said_once_meanwhile_and_once_at_the_end(caplog):
    async def main():
        service = service_of()
        for step in range(1, 8):
            await play(service, step, reward=lambda group, index: 0.0)
            await service.settle()
        during = list(caplog.messages)
        service.log_end()
        service.log_end()
        return during, caplog.messages[len(during) :]

    during, ended = asyncio.run(main())
    (line,) = [line for line in during if "got the reward" in line]
    assert line.startswith("arrol: every rollout got the reward 0 in each of 5 steps: the prompts are far too hard")
    assert "trainer.rollout_data_dir" in line
    assert ended[0] == "arrol: nothing was learned: no rollout trained in any of 7 steps"
    assert len([line for line in ended if "got the reward" in line]) == 1


def test_responses_that_all_meet_the_limit_are_said_with_verls_name_for_it(caplog):
    async def main():
        service = service_of()
        for step in range(1, 6):
            await service.begin(step, [("a", 2)])
            for index in range(2):
                service.ended((step, 0, index))
                service.outcome((step, 0, index), 20, float(index), is_truncated=True)
            await service.settle()

    asyncio.run(main())
    (line,) = [line for line in caplog.messages if "length limit" in line]
    assert "raise data.max_response_length" in line


def test_a_run_that_learns_ends_without_a_word(caplog):
    async def main():
        service = service_of()
        for step in range(1, 7):
            await play(service, step)
            await service.settle()
        service.log_end()

    asyncio.run(main())
    assert [line for line in caplog.messages if "learned" in line] == []
