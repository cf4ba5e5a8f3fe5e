"""What a run keeps of its rollouts."""

import pytest

from arrol.configs.base import validate
from arrol.configs.records import RecordsConfig
from arrol.configs.run import RunConfig
from arrol.errors import ConfigError


def test_texts_are_kept_by_default_and_can_be_left_out():
    run = RunConfig(model="m", task={"name": "arithmetic"})
    assert run.records == RecordsConfig(keep_texts_mib=32.0, shadow_share=0.0)
    assert validate(RunConfig, {**run.model_dump(), "records": {"keep_texts_mib": 0}}).records.keep_texts_mib == 0


@pytest.mark.parametrize("value", [-1, 2**21, "much"])
def test_a_wrong_limit_is_named(value):
    with pytest.raises(ConfigError, match=r"records\.keep_texts_mib"):
        validate(RunConfig, {"model": "m", "task": {"name": "arithmetic"}, "records": {"keep_texts_mib": value}})


def test_a_host_that_cannot_finish_stopped_rollouts_refuses():
    values = {
        "model": "m",
        "task": {"name": "arithmetic"},
        "records": {"shadow_share": 0.1},
        "engine": {"name": "vllm"},
    }
    with pytest.raises(ConfigError, match=r"^records.shadow_share = 0.1: the embedded engine alone finishes stopped"):
        validate(RunConfig, values)
