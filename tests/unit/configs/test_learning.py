"""Configs that teach nothing."""

import pytest

from arrol.configs.base import validate
from arrol.configs.learning import cautions, require_signal
from arrol.configs.run import RunConfig
from arrol.errors import ConfigError

PRUNED = {"rule": "uniform", "probe_tokens": [4], "warmup_steps": 20}


def run(**sections):
    return validate(RunConfig, {"model": "m", "task": {"name": "arithmetic"}, **sections})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"sampling": {"temperature": 0}},
            "sampling.temperature = 0: the rollouts of a prompt would all be the same, so nothing is learnt; "
            "set it above 0",
        ),
        (
            {"training": {"group_size": 1}},
            "training.group_size = 1: a rollout is compared with the others of its prompt, so nothing is learnt; "
            "give 2 or more",
        ),
    ],
)
def test_groups_without_any_spread_are_refused(sections, message):
    with pytest.raises(ConfigError) as caught:
        require_signal(run(**sections))
    assert str(caught.value) == message
    posterior = {"rule": "uniform", "posterior": {"used_for": "both"}}
    for other in ({"allocation": posterior}, {"algorithm": {"name": "grpo", "kl_coef": 0.1}}):
        require_signal(run(**sections, **other))


def test_what_learns_passes():
    require_signal(run())
    assert cautions(run()) == []
    assert cautions(run(pruning=PRUNED, training={"steps": 21})) == []


def test_a_warm_up_as_long_as_the_run_is_named():
    assert cautions(run(pruning=PRUNED, training={"steps": 20})) == [
        "pruning.warmup_steps = 20: all 20 steps are warm-up, nothing is pruned"
    ]
    assert cautions(run(training={"steps": 3}, optimizer={"lr_warmup_steps": 5, "learning_rate": 1e-4})) == [
        "optimizer.lr_warmup_steps = 5: the rate rises through all 3 steps and never reaches 0.0001"
    ]
