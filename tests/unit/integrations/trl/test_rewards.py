"""Reward functions see survivors only; without tags they see every row."""

import asyncio

import pytest

from arrol.errors import ConfigError, DataError
from arrol.integrations.trl.batch import RolloutBatch, RowTag
from arrol.integrations.trl.rewards import TAG_COLUMN, prune_rewards, reward_name

KEEP = [True, False, True, False]


def columns(keep=KEEP):
    batch = RolloutBatch([])
    tags = [RowTag(batch, kept) for kept in keep]
    return batch, {
        "completions": list("abcd"), "prompts": list("wxyz"), "gold": [1, 2, 3, 4], TAG_COLUMN: tags, "state": object(),
    }  # fmt: skip


def seen(completions, prompts, gold, state, **rest):
    assert not rest
    return [float(g) for g in gold]


def test_survivors_in_and_one_value_per_row_out():
    batch, given = columns()
    assert prune_rewards(seen)(**given) == [1.0, None, 3.0, None]
    assert batch.rewards == {"seen": [1.0, None, 3.0, None]}


def test_async_too():
    async def late(completions, **rest):
        return [None if c == "a" else 2.0 for c in completions]

    batch, given = columns()
    assert asyncio.run(prune_rewards(late)(**given)) == [None, None, 2.0, None]
    assert batch.rewards["late"] == [None, None, 2.0, None]


def test_without_survivors_the_function_is_not_called():
    def never(**given):
        raise AssertionError

    _, given = columns([False] * 4)
    assert prune_rewards(never)(**given) == [None] * 4


@pytest.mark.parametrize("tags", [None, [None] * 4])
def test_evaluation_passes_through(tags):
    _, given = columns()
    given.pop(TAG_COLUMN)
    if tags:
        given[TAG_COLUMN] = tags
    assert prune_rewards(seen)(**given) == [1.0, 2.0, 3.0, 4.0]


def test_a_list_of_functions_and_callable_objects():
    class Judge:
        def __call__(self, completions, **rest):
            return [0.5] * len(completions)

    batch, given = columns()
    first, second = prune_rewards([seen, Judge()])
    first(**given)
    second(**given)
    assert set(batch.rewards) == {"seen", "Judge"}
    assert reward_name(second) == "Judge"


def test_a_wrong_number_of_rewards_is_named():
    _, given = columns()
    with pytest.raises(DataError, match="'<lambda>': returned 1 rewards for 2 survivors"):
        prune_rewards(lambda **given: [1.0])(**given)


@pytest.mark.parametrize("model", ["hub/model", 3, type("Model", (), {"forward": 1, "__call__": 1})()])
def test_reward_models_are_refused(model):
    with pytest.raises(ConfigError, match="a reward model cannot"):
        prune_rewards(model)
