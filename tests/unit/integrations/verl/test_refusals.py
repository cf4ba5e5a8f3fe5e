"""What no derived line can help is refused in one line, of which the whole is tested."""

import json

import pytest

from arrol.errors import ConfigError
from arrol.integrations.verl import refusals
from arrol.integrations.verl.derive import derived_overrides
from arrol.integrations.verl.refusals import max_positions
from integrations.verl.test_derive import CONFIG, POOL, changed

ROLLOUT = "actor_rollout_ref.rollout"


@pytest.fixture(autouse=True)
def without_trl(monkeypatch):
    monkeypatch.delenv("ARROL_ESTIMATOR", raising=False)
    monkeypatch.setattr(refusals, "trl_conflict", lambda: None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"trainer.use_v1": False},
            "trainer.use_v1 = False: the old trainer cannot leave out a rollout; set it to True",
        ),
        (
            {"trainer.v1.trainer_mode": "colocate_async"},
            "trainer.v1.trainer_mode = 'colocate_async': only sync is supported; set it to sync",
        ),
        (
            {"algorithm.adv_estimator": "remax"},
            "algorithm.adv_estimator = 'remax': remax pairs rollouts by place; use grpo or another one that groups by "
            "prompt",
        ),
        (
            {f"{ROLLOUT}.n": 1},
            "actor_rollout_ref.rollout.n = 1: pruning chooses among the rollouts of a prompt; use 4 or more",
        ),
        (
            {"arrol.probe_tokens": 512},
            "arrol.probe_tokens = 512: must be below actor_rollout_ref.rollout.response_length = 512; lower it",
        ),
        (
            {f"{ROLLOUT}.calculate_log_probs": False},
            "actor_rollout_ref.rollout.calculate_log_probs = False: probes read log-probabilities; set it to True",
        ),
        (
            {f"{ROLLOUT}.agent.default_agent_loop": "tool_agent"},
            "actor_rollout_ref.rollout.agent.default_agent_loop = 'tool_agent': only single_turn_agent can be pruned; "
            "leave it out",
        ),
        (
            {f"{ROLLOUT}.multi_turn.enable": True},
            "actor_rollout_ref.rollout.multi_turn.enable = True: rollouts of several turns are not pruned; set it to "
            "False",
        ),
        *(
            (
                {"reward.reward_model.enable": True, **overrides},
                "reward.reward_model.enable = True: its rewards come after the rollouts, too late for the head; set "
                "enable_resource_pool, or use rule uniform without an allocation rule",
            )
            for overrides in ({"arrol.rule": "neyman"}, POOL)
        ),
        (
            {f"{ROLLOUT}.engine_kwargs.vllm.override_generation_config": {"stop": ["x"]}},
            "actor_rollout_ref.rollout.engine_kwargs.vllm.override_generation_config = {'stop': ['x']}: a rollout that "
            "ends at a stop word would count as pruned; leave them out",
        ),
        (
            {f"{ROLLOUT}.name": "trtllm"},
            "actor_rollout_ref.rollout.name = 'trtllm': it ignores max_tokens, so no rollout can pause at a probe; use "
            "vllm or sglang",
        ),
        (
            {"arrol.way": "engine", f"{ROLLOUT}.name": "sglang"},
            "actor_rollout_ref.rollout.name = 'sglang': way engine needs vllm; set it, or leave out arrol.way",
        ),
        (
            {"arrol.way": "engine", f"{ROLLOUT}.full_determinism": True},
            "actor_rollout_ref.rollout.full_determinism = True: in way engine siblings share one request id; set it to "
            "False, or leave out arrol.way",
        ),
        (
            {"arrol.way": "engine", "arrol.rule": "neyman"},
            "arrol.rule = 'neyman': way engine trains no head; set ARROL_ESTIMATOR to a trained one, or use rule "
            "uniform or confidence",
        ),
        (
            {"arrol.keep_ratio": 0.15},
            "arrol.keep_ratio = 0.15: leaves 1 of the 8 rollouts of a prompt (actor_rollout_ref.rollout.n); every "
            "probe must leave at least 2, so use one of 0.25, 0.375, 0.5, 0.625, 0.75, 0.875 or more rollouts",
        ),
        (
            {"arrol.min_survivors": 5},
            "arrol.min_survivors = 5: more than the 4 of a prompt that keep_ratio leaves; lower it to 4",
        ),
        (
            {"arrol.allocation": {"rule": "pods", "train_size": 6}},
            "arrol.allocation.train_size = 6: more than the 4 survivors of a prompt; lower it",
        ),
        *(
            (
                {**POOL, path: True},
                f"{path} = True: verl cannot refill a batch with skipped prompts; set it to False, or use another "
                "allocation rule",
            )
            for path in ("algorithm.filter_groups.enable", "trainer.v1.sampler.sync_refill_failed_groups")
        ),
        (
            {"arrol.rule": "never", "arrol.allocation": {"rule": "knapsack", "max_group": 4}},
            "arrol.allocation.max_group = 4: less than actor_rollout_ref.rollout.n = 8; raise it",
        ),
        (
            {"arrol.rule": "never", "arrol.allocation": {"rule": "knapsack", "least": 9}},
            "arrol.allocation.least = 9: more than actor_rollout_ref.rollout.n = 8; lower it",
        ),
    ],
    ids=str,
)
def test_what_no_line_can_help_is_refused(overrides, message):
    with pytest.raises(ConfigError) as error:
        derived_overrides(changed(overrides))
    assert str(error.value) == message


def model_of(folder, **config):
    """A config whose model, in this folder, has this ``config.json``."""
    (folder / "config.json").write_text(json.dumps(config))
    return {"actor_rollout_ref.model.path": str(folder), f"{ROLLOUT}.prompt_length": 513}


def test_prompt_and_response_must_fit_the_positions_of_the_model(tmp_path):
    with pytest.raises(ConfigError) as error:
        derived_overrides(changed(model_of(tmp_path, max_position_embeddings=1024)))
    assert str(error.value) == (
        "actor_rollout_ref.rollout.response_length = 512: with prompt_length = 513 beyond the model's "
        "max_position_embeddings = 1024; lower one of them"
    )
    assert derived_overrides(changed(model_of(tmp_path, max_position_embeddings=1025)))


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"text_config": {"max_position_embeddings": 64}}, 64),
        ({"max_position_embeddings": 64, "rope_scaling": None}, 64),
        ({"max_position_embeddings": 64, "rope_scaling": {"type": "yarn", "factor": 4.0}}, 256),
        ({"max_position_embeddings": 64, "rope_scaling": {"factor": 8, "original_max_position_embeddings": 8}}, 64),
        ({"max_position_embeddings": 64, "rope_parameters": {"rope_type": "default"}}, 64),
        ({}, 0),
    ],
    ids=str,
)
def test_positions_are_read_from_the_model(tmp_path, config, positions):
    assert max_positions(changed(model_of(tmp_path, **config))) == positions


def test_positions_may_be_overridden(tmp_path):
    overrides = model_of(tmp_path, max_position_embeddings=64)
    overrides["actor_rollout_ref.model.override_config"] = {"max_position_embeddings": 99}
    assert max_positions(changed(overrides)) == 99


def test_a_model_that_is_not_on_this_machine_is_not_judged(tmp_path):
    assert max_positions(CONFIG) == 0
    assert max_positions(changed({"actor_rollout_ref.model.path": "Qwen/Qwen3-1.7B"})) == 0
    assert max_positions(changed({"actor_rollout_ref.model.path": str(tmp_path)})) == 0


def test_a_conflict_with_trl_is_refused(monkeypatch):
    monkeypatch.setattr(refusals, "trl_conflict", lambda: "trl = 1.16.0: breaks; uninstall it")
    with pytest.raises(ConfigError) as error:
        derived_overrides(CONFIG)
    assert str(error.value) == "trl = 1.16.0: breaks; uninstall it"
