"""The service: barrier, deadline, learning, state. One event loop, without verl or Ray; the test is the clock."""

import asyncio
import itertools

import numpy as np
import pytest

from arrol.algorithms.allocation.rule import StepShape
from arrol.errors import CheckpointError
from arrol.integrations.memory import read_head, write_head
from arrol.integrations.verl.options import parse_options
from arrol.integrations.verl.service import PruningService

NOW = {"rule": "uniform", "probe_tokens": 4, "warmup_steps": 0}


def service_of(shape=None, **values):
    return PruningService(parse_options({**NOW, **values}), seed=7, shape=shape)


def logprobs_of(index):
    """Statistics that tell rollouts apart: higher is surer."""
    mean = -0.1 * (index + 1)
    return [4 * mean, 2 * mean, mean]


async def play(service, step, *, sizes=(4, 4), order=None, short=(), broken=(), reward=lambda g, i: i % 2):
    """All rollouts of a step; returns {(group, index): kept} of the candidates."""
    tickets = await service.begin(step, [(f"prompt-{number}", size) for number, size in enumerate(sizes)])
    ids = [(t["group"], i) for t, size in zip(tickets, sizes, strict=True) for i in range(size)]
    kept = {}

    async def run(group, index):
        rollout = (step, group, index)
        if (group, index) in broken:
            service.failed(rollout)
            return
        if (group, index) not in short:
            kept[group, index] = await service.probed(rollout, 0, logprobs_of(index))
            if not kept[group, index]:
                return
        else:
            service.ended(rollout)
        service.outcome(rollout, 20 + index, float(reward(group, index)), is_truncated=False)

    async with asyncio.TaskGroup() as tasks:
        for group, index in [ids[i] for i in order] if order else ids:
            tasks.create_task(run(group, index))
    return kept


def test_the_same_number_survives_in_every_group():
    async def main():
        service = service_of(keep_ratio=0.5)
        kept = await play(service, 1, sizes=(4, 8, 6))
        return [sum(k for (group, _), k in kept.items() if group == g) for g in range(3)]

    assert asyncio.run(main()) == [2, 4, 3]


@pytest.mark.parametrize("num_short", [0, 1, 2, 3])
def test_early_ends_count_towards_the_survivors(num_short):
    async def main():
        service = service_of(keep_ratio=0.5)
        kept = await play(service, 1, sizes=(8,), short=[(0, i) for i in range(num_short)])
        return sum(kept.values()) + num_short

    assert asyncio.run(main()) == 4


@pytest.mark.parametrize("rule", ["uniform", "confidence", "balanced", "neyman"])
def test_no_order_of_arrival_changes_a_decision(rule):
    async def main(order):
        service = service_of(rule=rule)
        first = await play(service, 1, order=order)
        await service.settle()
        second = await play(service, 2, order=order)
        return first, second, service.save()

    whole = [asyncio.run(main(order)) for order in (range(8), [7, 0, 6, 1, 5, 2, 4, 3])]
    assert whole[0][:2] == whole[1][:2]
    assert str(whole[0][2]) == str(whole[1][2])


def test_a_refill_of_a_step_that_was_settled_begins_anew():
    """Group numbers start at 0 again; the new group 0 is not a later wave of the old one."""

    async def main():
        service = service_of(keep_ratio=0.5)
        await play(service, 1, sizes=(4,))
        await service.settle()
        kept = await asyncio.wait_for(play(service, 1, sizes=(8,)), 5)
        return sum(kept.values()), len(service._controller.decisions(1, 0))

    assert asyncio.run(main()) == (4, 8)


def test_one_that_raises_releases_its_siblings():
    async def main():
        service = service_of()
        kept = await asyncio.wait_for(play(service, 1, sizes=(4,), broken=[(0, 2)]), 5)
        metrics = await service.settle()
        return kept, metrics

    kept, metrics = asyncio.run(main())
    assert set(kept) == {(0, 0), (0, 1), (0, 3)}
    assert sum(kept.values()) == 2
    assert metrics["rollout/finish/error"] == 1
    assert metrics["rollout/finish/pruned"] == 1


def test_at_the_deadline_candidates_are_drawn_alone():
    async def main():
        service = service_of(barrier_timeout=5)
        await service.begin(1, [("prompt", 4)])
        asked = [asyncio.create_task(service.probed((1, 0, i), 0, logprobs_of(i))) for i in range(3)]
        await asyncio.sleep(0)
        service.tick(100.0)
        service.tick(104.0)
        assert not any(task.done() for task in asked)
        service.tick(105.0)
        await asyncio.wait(asked, timeout=5)
        reasons = service._controller.decisions(1, 0)
        return [task.result() for task in asked], {decision.reason for decision in reasons}

    answers, reasons = asyncio.run(main())
    assert len(answers) == 3
    assert sum(answers) >= 1
    assert reasons <= {"deadline", "floor"}


def test_a_group_is_never_emptied():
    async def main():
        service = service_of(rule="confidence", keep_ratio=0.5)
        kept = [await play(service, step, sizes=(4,)) for step in range(1, 6)]
        return [sum(step.values()) for step in kept]

    assert asyncio.run(main()) == [2] * 5


def test_warm_up_keeps_all():
    async def main():
        service = service_of(warmup_steps=2)
        return [sum((await play(service, step, sizes=(4,))).values()) for step in (1, 2, 3)]

    assert asyncio.run(main()) == [4, 4, 2]


def test_it_learns_from_rewards_of_survivors_once():
    async def main():
        service = service_of(rule="neyman")
        await play(service, 1, reward=lambda group, index: group == 0)
        first, again = await service.settle(), await service.settle()
        tickets = await service.begin(2, [("prompt-0", 4), ("prompt-1", 4)])
        rates = [service._memory.history.success_rate(f"prompt-{g}") for g in range(2)]
        return first, again, tickets, rates

    first, again, tickets, rates = asyncio.run(main())
    assert first == again
    assert first["quality/version"] == 1
    assert first["tokens/wasted"] == 16
    assert first["rollout/survivors_frac"] == 0.5
    assert first["rollout/success_frac_after"] == 0.5
    assert rates == [1.0, 0.0]
    own = {"seed": 7, "stop_token_ids": []}
    assert tickets[1] == {"step": 2, "group": 1, "size": 4, "success_rate": 0.0, **own}


def test_a_refill_of_the_same_step_goes_on_counting():
    async def main():
        service = service_of()
        first = await service.begin(1, [("a", 4), ("b", 4)])
        second = await service.begin(1, [("c", 4)])
        return [ticket["group"] for ticket in first + second]

    assert asyncio.run(main()) == [0, 1, 2]


def test_a_reward_that_never_comes_is_left_out():
    async def main():
        service = service_of()
        await service.begin(1, [("a", 4)])
        kept = await asyncio.gather(*(service.probed((1, 0, i), 0, logprobs_of(i)) for i in range(4)))
        survivors = [i for i in range(4) if kept[i]]
        service.outcome((1, 0, survivors[0]), 9, 1.0, is_truncated=True)
        metrics = await service.settle(timeout_s=0.05)
        service.outcome((1, 0, survivors[1]), 9, 1.0, is_truncated=False)
        service.ended((1, 0, survivors[1]))
        return metrics

    metrics = asyncio.run(main())
    assert metrics["rollout/finish/length"] == 1
    assert metrics["rollout/finish/error"] == 1
    assert metrics["rollout/success_frac_before"] == 1.0


def test_settling_waits_for_a_reward_under_way():
    async def main():
        service = service_of(rule="never", observe=True)
        await service.begin(1, [("a", 2)])
        assert await asyncio.gather(*(service.probed((1, 0, i), 0, logprobs_of(i)) for i in range(2))) == [True, True]
        service.outcome((1, 0, 0), 9, 1.0, is_truncated=False)
        settled = asyncio.create_task(service.settle())
        await asyncio.sleep(0.01)
        assert not settled.done()
        service.outcome((1, 0, 1), 9, 0.0, is_truncated=False)
        return await settled

    assert asyncio.run(main())["rollout/success_frac_before"] == 0.5


def test_a_rule_in_the_engine_leaves_only_ends():
    async def main():
        service = PruningService(parse_options({**NOW, "way": "engine"}), seed=7)
        await service.begin(1, [("a", 4)])
        for index in range(2):
            service.pruned((1, 0, index), 4)
        for index in range(2, 4):
            service.outcome((1, 0, index), 30, 1.0, is_truncated=False)
        return await service.settle()

    metrics = asyncio.run(main())
    assert metrics["rollout/finish/pruned"] == 2
    assert metrics["tokens/generated"] == 68


def test_a_resumed_service_goes_on_as_if_it_had_not_stopped(tmp_path):
    async def straight():
        service = service_of(rule="neyman")
        kept = [await play(service, step) for step in (1, 2, 3)]
        await service.settle()
        return kept[-1], service.save()

    async def resumed():
        service = service_of(rule="neyman")
        for step in (1, 2):
            await play(service, step)
        await service.settle()
        write_head(tmp_path, service.save())
        service = service_of(rule="neyman")
        service.load(read_head(tmp_path))
        kept = await play(service, 3)
        await service.settle()
        return kept, service.save()

    (kept, state), (kept_again, state_again) = asyncio.run(straight()), asyncio.run(resumed())
    assert kept == kept_again
    assert_equal(state, state_again)


def test_the_head_of_another_probe_is_refused(tmp_path):
    async def main():
        write_head(tmp_path, service_of().save())
        service_of(probe_tokens=8).load(read_head(tmp_path))

    with pytest.raises(CheckpointError, match="probe_tokens"):
        asyncio.run(main())


def assert_equal(left, right):
    """Bit for bit."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        for one, other in itertools.zip_longest(left, right):
            assert_equal(one, other)
    else:
        np.testing.assert_array_equal(left, right)


async def visit(service, step, keys, rewards, size=4):
    """One step in which every rollout of a prompt gets the same reward; returns the sizes that were asked."""
    tickets = await service.begin(step, [(key, size) for key in keys])
    for key, ticket in zip(keys, tickets, strict=True):
        for index in range(ticket["size"]):
            service.outcome((step, ticket["group"], index), 5, rewards[key](index), is_truncated=False)
    await service.settle()
    return {key: ticket["size"] for key, ticket in zip(keys, tickets, strict=True)}


REWARDS = {
    "solved": lambda index: 1.0,
    "mixed": lambda index: index % 2,
    "other": lambda index: index % 2,
    "hopeless": lambda index: 0.0,
}


def test_prompts_are_skipped_by_their_history_and_a_resumed_service_agrees():
    """MoPPS: half of the prompts, those nearest to a rate of one half; all rollouts of the batch are asked for."""

    async def main():
        options = {"shape": StepShape(2, 4), "rule": "never", "allocation": {"rule": "mopps", "candidates": 2}}
        service = service_of(**options)
        asked = [await visit(service, step, list(REWARDS), REWARDS) for step in range(1, 40)]
        again = service_of(**options)
        again.load(service.save())
        return asked, [await visit(each, 40, list(REWARDS), REWARDS) for each in (service, again)]

    asked, last = asyncio.run(main())
    assert all(sorted(sizes.values()) == [0, 0, 4, 4] for sizes in asked)
    often = {key: sum(sizes[key] > 0 for sizes in asked) for key in REWARDS}
    assert min(often["mixed"], often["other"]) > max(often["solved"], often["hopeless"])
    assert last[0] == last[1]


def test_uniform_prompts_are_skipped_and_the_state_goes_with_the_head(tmp_path):
    async def main():
        options = {"shape": StepShape(2, 4), "rule": "never", "allocation": {"rule": "greso", "max_draws": 2}}
        service = service_of(**options)
        asked = [await visit(service, step, list(REWARDS), REWARDS) for step in range(1, 60)]
        write_head(tmp_path, service.save())
        again = service_of(**options)
        again.load(read_head(tmp_path))
        return asked, [await visit(each, 60, list(REWARDS), REWARDS) for each in (service, again)], service

    asked, last, service = asyncio.run(main())
    assert all(sorted(sizes.values()) == [0, 0, 4, 4] for sizes in asked)
    often = {key: sum(sizes[key] > 0 for sizes in asked) for key in REWARDS}
    assert min(often["mixed"], often["other"]) > max(often["solved"], often["hopeless"])
    assert last[0] == last[1]
    assert asyncio.run(service.settle())["allocation/prompts_drawn"] == 4.0


def test_a_knapsack_spends_the_budget_of_the_batch():
    async def main():
        service = service_of(shape=StepShape(4, 4), rule="never", allocation="knapsack")
        return [await visit(service, step, list(REWARDS), REWARDS) for step in range(1, 8)]

    asked = asyncio.run(main())
    assert all(sum(sizes.values()) == 16 for sizes in asked)
    assert asked[0] == dict.fromkeys(REWARDS, 4)
    assert min(asked[-1]["hopeless"], asked[-1]["mixed"], asked[-1]["other"]) > asked[-1]["solved"] == 2


PODS = {"shape": StepShape(2, 4), "rule": "never"}


async def pods(service, rewards, truncated=()):
    """One step of groups of 4; returns which rollouts train, by group."""
    await service.begin(1, [(f"prompt-{number}", 4) for number in range(len(rewards))])
    for number, group in enumerate(rewards):
        for index, reward in enumerate(group):
            service.outcome((1, number, index), 9, reward, is_truncated=(number, index) in truncated)
    metrics = await service.settle()
    rows = [(number, index) for number in range(len(rewards)) for index in range(4)]
    kept = service.kept(1, rows)
    assert service.kept(1, rows[::-1]) == kept[::-1], "order of rows"
    return [kept[4 * number : 4 * number + 4] for number in range(len(rewards))], metrics


def test_the_rollouts_of_largest_variance_train():
    service = service_of(**PODS, allocation={"rule": "pods", "train_size": 2})
    kept, metrics = asyncio.run(pods(service, [[1.0, 0.0, 0.0, 0.0], [0.0, 0.5, 2.0, 0.5]]))
    assert [sum(group) for group in kept] == [2, 2]
    assert kept[0][0]
    assert kept[1] == [True, False, True, False], "rewards as they train, not labels"
    assert metrics["allocation/dropped/surplus"] == 4
    assert service.has_selection()


def test_without_selection_every_row_trains():
    service = service_of()
    assert not service.has_selection()
    assert service.kept(3, [(0, 0), (1, 5)]) == [True, True]


def test_truncated_rollouts_do_not_train_where_they_are_not_counted():
    """As in the trainer: the same group, with and without them."""
    rewards, truncated = [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], {(0, 2), (0, 3), (1, 1)}
    allocation = {"rule": "pods", "train_size": 2, "count_truncated": False}
    service = service_of(**PODS, allocation=allocation)
    kept, _ = asyncio.run(pods(service, rewards, truncated))
    assert kept[0] == [True, True, False, False]
    assert kept[1][0]
    assert not kept[1][1]
    assert sum(kept[1]) == 2
    rate = service._memory.history.success_rate("prompt-0")
    kept, _ = asyncio.run(
        pods(service_of(**PODS, allocation={**allocation, "count_truncated": True}), rewards, truncated)
    )
    assert sum(kept[0]) == 2
    assert any(kept[0][2:])
    assert rate == 1.0


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
