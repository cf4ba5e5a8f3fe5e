"""The section of adapters: names of layers, bounds, and where dropout belongs."""

import pytest

from arrol.configs.base import validate
from arrol.configs.lora import ALL_LINEAR, LoraConfig
from arrol.configs.run import RunConfig
from arrol.errors import ConfigError

TASK = {"name": "arithmetic"}


def test_absent_it_trains_every_weight_and_any_field_switches_it_on():
    assert validate(RunConfig, {"model": "m", "task": TASK}).lora is None
    assert validate(RunConfig, {"model": "m", "task": TASK, "lora": {"r": 4}}).lora == LoraConfig(r=4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_modules": ["q proj"]}, "'q proj' is no name of a layer"),
        ({"target_modules": ["q_proj", ALL_LINEAR]}, "all-linear takes all; give it alone"),
        ({"target_modules": []}, r"lora.target_modules = \[\]: must have at least 1 entry"),
        ({"alpha": 0}, "lora.alpha = 0: must be above 0"),
        ({"dropout": 0.1}, "lora.dropout = 0.1: a policy trains without dropout"),
    ],
)
def test_what_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        validate(RunConfig, {"model": "m", "task": TASK, "lora": fields})


def test_a_list_of_names_may_be_one_text():
    lora = validate(RunConfig, {"model": "m", "task": TASK, "lora": {"target_modules": "q_proj, v_proj"}}).lora
    assert lora.target_modules == ("q_proj", "v_proj")
