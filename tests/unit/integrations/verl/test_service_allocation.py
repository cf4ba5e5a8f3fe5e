"""The service with an allocation rule: which prompts are asked, how often, and which rows train."""

import asyncio

from arrol.algorithms.allocation.rule import StepShape
from arrol.integrations.memory import read_head, write_head
from integrations.verl.test_service import logprobs_of, service_of


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


def test_with_a_knapsack_each_group_keeps_its_share():
    async def main():
        service = service_of(shape=StepShape(4, 4), allocation={"rule": "knapsack", "least": 4, "max_group": 8})
        shares = []
        for step in range(1, 6):
            tickets = await service.begin(step, [(key, 4) for key in REWARDS])
            answers = {
                (ticket["group"], index): asyncio.create_task(
                    service.probed((step, ticket["group"], index), 0, logprobs_of(index))
                )
                for ticket in tickets
                for index in range(ticket["size"])
            }
            await asyncio.wait(answers.values(), timeout=5)
            for key, ticket in zip(REWARDS, tickets, strict=True):
                kept = [i for i in range(ticket["size"]) if answers[ticket["group"], i].result()]
                shares.append(len(kept) / ticket["size"])
                for index in kept:
                    service.outcome((step, ticket["group"], index), 9, REWARDS[key](index), is_truncated=False)
            await service.settle()
        return shares

    assert set(asyncio.run(main())) == {0.5}
