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


@pytest.mark.parametrize("twice", range(4))
def test_a_question_asked_twice_has_one_answer(twice):
    """As when a call is repeated; the group has four candidates, not five."""

    async def main():
        service = service_of(keep_ratio=0.5)
        await service.begin(1, [("prompt-0", 4)])
        asked = []
        for index in (twice, *range(4)):
            asked.append(asyncio.ensure_future(service.probed((1, 0, index), 0, logprobs_of(index))))
            await asyncio.sleep(0)
        return await asyncio.wait_for(asyncio.gather(*asked), 5)

    first, *answers = asyncio.run(main())
    assert first == answers[twice]
    assert sum(answers) == 2


def test_a_rollout_that_went_on_without_its_answer_leaves_no_call_open():
    async def main():
        service = service_of(keep_ratio=0.5, probe_tokens=[4, 8])
        await service.begin(1, [("prompt-0", 4)])
        asked = []
        for index, probe in ((0, 0), (0, 1), (1, 0), (2, 0), (3, 0)):
            asked.append(asyncio.ensure_future(service.probed((1, 0, index), probe, logprobs_of(index))))
            await asyncio.sleep(0)
        return await asyncio.wait_for(asked[0], 5)

    assert asyncio.run(main())


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
    assert tickets[0]["run"] != asyncio.run(service_of().begin(1, [("a", 4)]))[0]["run"]
    own = {"seed": 7, "run": tickets[0]["run"], "stop_token_ids": [], "probe_tokens": [4], "keeps_texts": False}
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


def test_the_first_lengths_choose_the_probe_and_a_resumed_service_keeps_it(tmp_path, caplog):
    """``warmup_steps`` 12: three steps are measured. The checkpoints are of the second and of the fifth step."""

    def service():
        options = {"rule": "neyman", "warmup_steps": 12, "allocation": {"rule": "pods", "train_size": 2}}
        return PruningService(parse_options(options), seed=7, shape=StepShape(2, 4))

    async def played(one, steps):
        probes = []
        for step in steps:
            tickets = await one.begin(step, [("a", 4), ("b", 4)])
            probes.append(tickets[0]["probe_tokens"])
            ids = [(step, ticket["group"], index) for ticket in tickets for index in range(4)]
            waits = [one.probed(rollout, 0, logprobs_of(rollout[2])) for rollout in ids if probes[-1]]
            assert all(await asyncio.gather(*waits))
            for rollout in ids:
                one.outcome(rollout, 20 + rollout[2], float(rollout[2] % 2), is_truncated=False)
            await one.settle()
        return probes

    async def main():
        whole = service()
        probes = await played(whole, range(1, 8))
        for saved_at in (2, 5):
            first, second = service(), service()
            await played(first, range(1, saved_at + 1))
            write_head(tmp_path, first.save())
            second.load(read_head(tmp_path))
            assert await played(second, range(saved_at + 1, 8)) == probes[saved_at:]
            assert_equal(whole.save(), second.save())
        return probes

    assert asyncio.run(main()) == [[], [], [], [10], [10], [10], [10]]
    words = (
        "arrol: probe_tokens = [10]: half of the median length of the first 24 completions (21.5 tokens), at most 512"
    )
    assert caplog.messages.count(words) == 3


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
