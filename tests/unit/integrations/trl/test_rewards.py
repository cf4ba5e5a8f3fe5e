"""Reward functions see survivors only; without tags they see every row."""

import asyncio
import functools

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
    wrapped = prune_rewards(seen)
    assert wrapped(**given) == [1.0, None, 3.0, None]
    assert batch.rewards == {wrapped: [1.0, None, 3.0, None]}


def test_async_too():
    async def late(completions, **rest):
        return [None if c == "a" else 2.0 for c in completions]

    class Later:
        async def __call__(self, **columns):
            return await late(**columns)

    batch, given = columns()
    for function in (late, functools.partial(late, unused=1), functools.partial(Later(), unused=1)):
        wrapped = prune_rewards(function)
        assert asyncio.run(wrapped(**given.copy())) == [None, None, 2.0, None]
        assert batch.rewards[wrapped] == [None, None, 2.0, None]


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

    assert [reward_name(function) for function in prune_rewards([seen, Judge()])] == ["seen", "Judge"]


def test_functions_of_one_name_keep_their_own_rewards():
    """Two ``functools.partial`` have the name of the function inside, as in TRL."""

    def at_least(completions, gold, limit, **rest):
        return [float(g >= limit) for g in gold]

    batch, given = columns()
    wrapped = prune_rewards([functools.partial(at_least, limit=limit) for limit in (2, 4)])
    assert [reward_name(function) for function in wrapped] == ["at_least", "at_least"]
    for function in wrapped:
        function(**given.copy())
    assert [batch.rewards[function] for function in wrapped] == [[0.0, None, 1.0, None], [0.0, None, 0.0, None]]


def test_extra_columns_of_the_log_have_one_value_per_row():
    logged = {}

    def tells(completions, log_extra, **rest):
        log_extra("letter", completions)
        return [1.0] * len(completions)

    def tells_too_much(completions, log_extra, **rest):
        log_extra("letter", "abcd")

    _, given = columns()
    prune_rewards(tells)(**given.copy(), log_extra=logged.__setitem__)
    assert logged == {"letter": ["a", None, "c", None]}
    with pytest.raises(DataError, match=r"^log_extra\('letter'\): 4 values for 2 survivors; give one each$"):
        prune_rewards(tells_too_much)(**given, log_extra=logged.__setitem__)


def test_a_wrong_number_of_rewards_is_named():
    _, given = columns()
    with pytest.raises(DataError, match="'<lambda>': returned 1 values for 2 survivors; give one each"):
        prune_rewards(lambda **given: [1.0])(**given)


def test_an_infinite_reward_is_refused():
    """TRL would turn it into NaN advantages, and those into NaN weights."""
    _, given = columns()
    with pytest.raises(
        DataError,
        match=r"^reward_funcs = 'judge': returned an infinite reward; return finite numbers, or None$",
    ):
        prune_rewards(judge)(**given)


def judge(**columns):
    return [0.0, float("-inf")]


@pytest.mark.parametrize("model", ["hub/model", 3, type("Model", (), {"forward": 1, "__call__": 1})()])
def test_reward_models_are_refused(model):
    with pytest.raises(ConfigError, match="a reward model cannot"):
        prune_rewards(model)
