"""Derived overrides and refusals, on the part of verl's config that they read."""

import copy

import pytest

from arrol.errors import ConfigError
from arrol.integrations.verl import derive
from arrol.integrations.verl.derive import Batch, at, check, derived_overrides, notes
from arrol.integrations.verl.options import parse_options

CONFIG = {
    "data": {"train_batch_size": 8},
    "algorithm": {"adv_estimator": "grpo", "filter_groups": {"enable": False}},
    "actor_rollout_ref": {
        "actor": {"strategy": "fsdp2", "ppo_mini_batch_size": 4, "use_dynamic_bsz": False, "use_kl_loss": False},
        "rollout": {
            "name": "vllm", "n": 8, "response_length": 512, "calculate_log_probs": True,
            "log_prob_use_dynamic_bsz": False, "engine_kwargs": {"vllm": {}},
            "agent": {"default_agent_loop": "single_turn_agent"}, "multi_turn": {"enable": False},
        },
        "ref": {"log_prob_use_dynamic_bsz": False},
    },
    "critic": {"enable": None, "ppo_mini_batch_size": 4, "use_dynamic_bsz": False},
    "reward": {"reward_model": {"enable": False}},
    "trainer": {
        "use_v1": True, "n_gpus_per_node": 2, "nnodes": 1, "checkpoint_callback_class": None,
        "v1": {"trainer_mode": "sync", "sampler": {"custom_sampler": {"path": None, "name": None}}},
    },
    "arrol": {"rule": "uniform", "probe_tokens": 64},
}  # fmt: skip


SERVED = {"ray_kwargs.ray_init.runtime_env.env_vars.ARROL_ESTIMATOR": "served/estimator.safetensors"}
"""A finished head for vLLM's workers."""


@pytest.fixture(autouse=True)
def without_trl(monkeypatch):
    monkeypatch.delenv("ARROL_ESTIMATOR", raising=False)
    monkeypatch.setattr(derive, "trl_conflict", lambda: None)


def changed(*overrides):
    """The config above with dotted paths set."""
    config = copy.deepcopy(CONFIG)
    for override in overrides:
        for path, value in override.items():
            node, *parts = config, *path.split(".")
            for part in parts[:-1]:
                node = node.setdefault(part, {})
            node[parts[-1]] = value
    return config


def applied(config, lines):
    """The config after derived lines, as Hydra would."""
    values = {"True": True}
    pairs = [line.removeprefix("+").split("=", 1) for line in lines]
    result = copy.deepcopy(config)
    for path, value in pairs:
        node, *parts = result, *path.split(".")
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = int(value) if value.isdigit() else values.get(value, value)
    return result


def test_the_lines_of_a_usual_command():
    assert derived_overrides(CONFIG) == [
        "+actor_rollout_ref.rollout.agent.agent_loop_manager_class=arrol.integrations.verl.AgentLoopManager",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "actor_rollout_ref.actor.use_dynamic_bsz=True",
        "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True",
        "trainer.checkpoint_callback_class=arrol.integrations.verl.HeadSaver",
        "trainer.v1.sampler.custom_sampler.path=pkg://arrol.integrations.verl",
        "trainer.v1.sampler.custom_sampler.name=MetricsReplayBuffer",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"actor_rollout_ref.actor.use_kl_loss": True},
        {"algorithm.adv_estimator": "gae"},
        {"arrol.keep_ratio": 0.25},
        {"arrol.keep_ratio": 0.75, "arrol.warmup_steps": 0},
        {"arrol.way": "engine"},
        {"arrol.way": "engine", "arrol.rule": "neyman", **SERVED},
        {"arrol.rule": "never", "arrol.observe": True},
        {"arrol.rule": "never"},
        {"arrol.allocation": {"rule": "pods", "train_size": 4}},
        {"arrol.allocation": {"rule": "pods", "train_size": 2}},
        {"arrol.rule": "never", "arrol.allocation": {"rule": "pods", "train_size": 6}},
        {"arrol.rule": "never", "arrol.allocation": "knapsack"},
        {"arrol.allocation": "mopps"},
        {"arrol.rule": "never", "arrol.allocation": {"rule": "greso", "max_draws": 2}},
    ],
    ids=str,
)
def test_a_command_with_its_lines_is_sound(overrides):
    config = changed(overrides)
    assert check(applied(config, derived_overrides(config))).way == overrides.get("arrol.way", "two_calls")


def test_the_number_of_updates_stays():
    batch = Batch.of(CONFIG, parse_options(CONFIG["arrol"]))
    assert batch == Batch(prompts=8, group_size=8, survivors=4, ranks=2, warm=8)
    rows = batch.prompts * batch.survivors
    assert rows // (2 * batch.group_size) == 8 // 4
    assert batch.padding(2, batch.survivors) == 0
    assert batch.padding(4, batch.survivors) == 0
    assert batch.padding(8, batch.survivors) == 32


def test_the_ranks_of_megatron_are_what_its_parallel_sizes_leave():
    megatron = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "context_parallel_size": 1}
    config = changed({"actor_rollout_ref.actor.strategy": "megatron", "actor_rollout_ref.actor.megatron": megatron})
    assert derive.data_parallel_ranks({**config, "trainer": {"n_gpus_per_node": 8, "nnodes": 2}}) == 4
    assert derive.data_parallel_ranks(changed({"actor_rollout_ref.actor.ulysses_sequence_parallel_size": 2})) == 1


def test_pruning_off_needs_no_line_but_the_manager():
    (line,) = derived_overrides(changed({"arrol.rule": "never"}))
    assert line.startswith("+actor_rollout_ref.rollout.agent.agent_loop_manager_class=")


def test_way_engine_names_the_classes_of_its_rule():
    lines = derived_overrides(changed({"arrol.way": "engine"}))
    assert "+actor_rollout_ref.rollout.engine_kwargs.vllm.scheduler_cls=arrol.engines.vllm.ConfidenceScheduler" in lines
    lines = derived_overrides(changed({"arrol.way": "engine", "arrol.rule": "balanced", **SERVED}))
    assert "+actor_rollout_ref.rollout.engine_kwargs.vllm.worker_cls=arrol.engines.vllm.PruningWorker" in lines


def test_hooks_that_are_taken_are_left_and_told():
    config = changed({"trainer.checkpoint_callback_class": "mine.Callback", "algorithm.filter_groups.enable": True})
    assert not [line for line in derived_overrides(config) if "callback" in line or "sampler" in line]
    assert len(notes(config)) == 2
    assert notes(CONFIG) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"trainer.use_v1": False}, ["trainer.use_v1 = False", "True"]),
        ({"trainer.v1.trainer_mode": "colocate_async"}, ["trainer_mode = 'colocate_async'", "sync"]),
        ({"algorithm.adv_estimator": "remax"}, ["adv_estimator = 'remax'", "grpo"]),
        ({"actor_rollout_ref.rollout.n": 1}, ["rollout.n = 1", "4 or more"]),
        ({"arrol.probe_tokens": 512}, ["arrol.probe_tokens = 512", "512"]),
        ({"actor_rollout_ref.rollout.calculate_log_probs": False}, ["calculate_log_probs = False"]),
        ({"actor_rollout_ref.rollout.agent.default_agent_loop": "tool_agent"}, ["default_agent_loop = 'tool_agent'"]),
        ({"actor_rollout_ref.rollout.multi_turn.enable": True}, ["multi_turn.enable = True"]),
        ({"reward.reward_model.enable": True, "arrol.rule": "neyman"}, ["reward_model.enable = True", "pool"]),
        (
            {"actor_rollout_ref.rollout.engine_kwargs.vllm.override_generation_config": {"stop": ["x"]}},
            ["override_generation_config", "stop words"],
        ),
        ({"arrol.way": "engine", "actor_rollout_ref.rollout.name": "sglang"}, ["rollout.name = 'sglang'", "vllm"]),
        ({"arrol.way": "engine", "actor_rollout_ref.rollout.full_determinism": True}, ["full_determinism = True"]),
        ({"arrol.way": "engine", "arrol.rule": "neyman"}, ["arrol.rule = 'neyman'", "ARROL_ESTIMATOR"]),
        ({"arrol.keep_ratio": 0.3}, ["arrol.keep_ratio = 0.3", "2.4 rollouts"]),
        ({"arrol.keep_ratio": 0.125}, ["arrol.keep_ratio = 0.125", "at least 2"]),
        ({"arrol.min_survivors": 5}, ["arrol.min_survivors = 5", "lower it to 4"]),
        ({"actor_rollout_ref.actor.ppo_mini_batch_size": 3}, ["ppo_mini_batch_size = 3", "multiple of 2"]),
        ({"trainer.n_gpus_per_node": 3}, ["ppo_mini_batch_size = 2", "16 synthetic rows", "3 ranks"]),
        ({"arrol.keep_ratio": 0.75}, ["arrol.warmup_steps = 20", "synthetic rows"]),
    ],
    ids=str,
)
def test_what_no_line_can_mend_is_refused(overrides, words):
    with pytest.raises(ConfigError) as error:
        derived_overrides(changed(overrides))
    assert "\n" not in str(error.value)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"actor_rollout_ref.actor.ppo_mini_batch_size": 8}, ["ppo_mini_batch_size = 8", "32 synthetic rows", "use 4"]),
        ({"actor_rollout_ref.actor.use_dynamic_bsz": False}, ["actor.use_dynamic_bsz = False", "True"]),
        ({"actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": False}, ["rollout.log_prob_use_dynamic_bsz = False"]),
        ({"arrol.keep_ratio": 0.75, "actor_rollout_ref.actor.ppo_mini_batch_size": 6}, ["warmup_steps = 20", "0.5"]),
        ({"arrol.way": "engine"}, ["scheduler_cls", "ConfidenceScheduler"]),
        ({"algorithm.filter_groups.enable": True}, ["custom_sampler.name", "filter_groups"]),
        ({"trainer.v1.sampler.sync_refill_failed_groups": True, "arrol.rule": "never"}, ["custom_sampler.name"]),
    ],
    ids=str,
)
def test_the_manager_refuses_at_start(overrides, words):
    config = applied(CONFIG, derived_overrides(CONFIG))
    for path, value in overrides.items():
        config = applied(config, []) | {}
        node, *parts = config, *path.split(".")
        for part in parts[:-1]:
            node = node[part]
        node[parts[-1]] = value
    with pytest.raises(ConfigError) as error:
        check(config)
    assert "\n" not in str(error.value)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_conflict_with_trl_is_refused(monkeypatch):
    monkeypatch.setattr(derive, "trl_conflict", lambda: "trl = 1.16.0: breaks; uninstall it")
    with pytest.raises(ConfigError, match=r"trl = 1\.16\.0"):
        derived_overrides(CONFIG)


def test_a_path_that_stops_early_gives_the_default():
    assert at(CONFIG, "trainer.use_v1.deeper", 3) == 3
    assert at(CONFIG, "critic.enable", 5) == 5


POOL = {"arrol.rule": "never", "arrol.allocation": {"rule": "mopps", "candidates": 4}, "trainer.total_epochs": 3}


def test_candidates_enlarge_what_is_drawn_and_nothing_else():
    config = changed(POOL)
    lines = derived_overrides(config)
    assert lines[1:3] == ["data.train_batch_size=32", "trainer.total_epochs=12"]
    assert not [line for line in lines if "mini_batch" in line or "dynamic" in line]
    batch = Batch.of(applied(config, lines), check(applied(config, lines)))
    assert (batch.prompts, batch.survivors) == (8, 8)


def test_a_part_of_each_group_shrinks_the_minibatch_in_warm_up_too():
    config = changed({"arrol.allocation": {"rule": "pods", "train_size": 2}, "arrol.warmup_steps": 5})
    lines = derived_overrides(config)
    assert "actor_rollout_ref.actor.ppo_mini_batch_size=1" in lines
    assert Batch.of(config, parse_options(config["arrol"])) == Batch(8, 8, 2, 2, 2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"arrol.allocation": {"rule": "pods", "train_size": 6}}, ["train_size = 6", "the 4 rollouts"]),
        ({**POOL, "algorithm.filter_groups.enable": True}, ["filter_groups.enable = True", "passed over"]),
        (
            {**POOL, "trainer.v1.sampler.sync_refill_failed_groups": True},
            ["sync_refill_failed_groups = True", "passed over"],
        ),
        ({"arrol.rule": "never", "arrol.allocation": {"rule": "knapsack", "max_group": 4}}, ["max_group", "raise it"]),
        ({"arrol.rule": "never", "arrol.allocation": {"rule": "knapsack", "least": 9}}, ["least", "lower it"]),
        ({**POOL, "reward.reward_model.enable": True}, ["reward_model.enable", "resource pool"]),
    ],
    ids=str,
)
def test_what_would_go_wrong_with_an_allocation_rule(overrides, words):
    with pytest.raises(ConfigError) as error:
        derived_overrides(changed(overrides))
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


def test_a_rule_of_rows_needs_the_sampler_and_a_pool_its_multiple():
    pods = changed({"arrol.rule": "never", "arrol.allocation": {"rule": "pods", "train_size": 4}})
    sound = applied(pods, derived_overrides(pods))
    sound["trainer"]["v1"]["sampler"]["custom_sampler"] = {"path": None, "name": None}
    with pytest.raises(ConfigError, match=r"custom_sampler\.name = None: arrol\.allocation\.rule = 'pods'"):
        check(sound)
    with pytest.raises(ConfigError, match=r"data\.train_batch_size = 6: with 4 candidates"):
        check(changed({**POOL, "data.train_batch_size": 6}))
