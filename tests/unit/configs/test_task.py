"""Bounds of the synthetic tasks."""

import pytest

from arrol.configs.base import validate
from arrol.configs.run import RunConfig
from arrol.errors import ConfigError


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"name": "arithmetic", "min_ops": 5}, "task.max_ops = 4: at least min_ops = 5"),
        ({"name": "countdown", "min_numbers": 5}, "task.max_numbers = 4: at least min_numbers = 5"),
        ({"name": "search", "min_numbers": 8, "max_numbers": 6}, "task.max_numbers = 6: at least min_numbers = 8"),
    ],
)
def test_bounds_are_ordered(task, message):
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, {"model": "m", "task": task})
    assert str(caught.value) == message


def test_search_takes_the_numbers_that_its_task_takes():
    with pytest.raises(ConfigError, match=r"task\.max_numbers"):
        validate(RunConfig, {"model": "m", "task": {"name": "search", "max_numbers": 13}})
    assert validate(RunConfig, {"model": "m", "task": {"name": "search"}}).task.max_numbers == 12
