"""Derived overrides, and the check at start, on the part of verl's config that they read."""

import copy

import pytest

from arrol.errors import ConfigError
from arrol.integrations.verl import refusals
from arrol.integrations.verl.batch import Batch, at
from arrol.integrations.verl.derive import OVERLONG, check, derived_overrides, notes

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
    monkeypatch.setattr(refusals, "trl_conflict", lambda: None)


def changed(overrides, *, of=CONFIG):
    """The config above, or another, with dotted paths set."""
    config = copy.deepcopy(of)
    for path, value in overrides.items():
        node, *parts = config, *path.split(".")
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = value
    return config


def applied(config, lines):
    """The config after derived lines, as Hydra would."""
    pairs = [line.removeprefix("+").split("=", 1) for line in lines]
    read = {"True": True}
    return changed(
        {path: int(value) if value.isdigit() else read.get(value, value) for path, value in pairs}, of=config
    )


def test_the_lines_of_a_usual_command():
    assert derived_overrides(CONFIG) == [
        "+actor_rollout_ref.rollout.agent.agent_loop_manager_class=arrol.integrations.verl.AgentLoopManager",
        "actor_rollout_ref.actor.use_dynamic_bsz=True",
        "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True",
        "trainer.v1.sampler.custom_sampler.path=pkg://arrol.integrations.verl",
        "trainer.v1.sampler.custom_sampler.name=MetricsReplayBuffer",
        "trainer.checkpoint_callback_class=arrol.integrations.verl.HeadSaver",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"actor_rollout_ref.actor.use_kl_loss": True},
        {"algorithm.adv_estimator": "gae"},
        {"arrol.keep_ratio": 0.25},
        {"arrol.keep_ratio": 0.75},
        {"actor_rollout_ref.rollout.n": 5},
        {"trainer.n_gpus_per_node": 3},
        {"arrol.draw": "bernoulli"},
        {"arrol.rule": "paper"},
        {"arrol.rule": "neyman", "arrol.scope": "batch"},
        {"arrol.allocation": "knapsack"},
        {"actor_rollout_ref.rollout.response_length": 32768},
        {"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 2},
        {"algorithm.filter_groups.enable": True},
        {"trainer.v1.sampler.sync_refill_failed_groups": True},
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


def test_the_helper_applied_to_its_own_output_adds_nothing():
    """The size of a mini-batch is set in each step, so no line can halve it twice."""
    for overrides in ({}, {"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 2}):
        config = changed(overrides)
        once = applied(config, derived_overrides(config))
        assert derived_overrides(once) == []
        assert at(once, "actor_rollout_ref.actor.ppo_mini_batch_size") == 4


ACTOR = "actor_rollout_ref.actor"
HOSTED = {
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": 3,
    f"{ACTOR}.ppo_max_token_len_per_gpu": 16384,
    "actor_rollout_ref.rollout.prompt_length": 500,
}


def test_dynamic_micro_batches_hold_what_the_static_ones_did():
    lines = derived_overrides(changed(HOSTED))
    assert f"{ACTOR}.ppo_max_token_len_per_gpu={3 * (500 + 512)}" in lines
    dynamic = {**HOSTED, f"{ACTOR}.use_dynamic_bsz": True}
    assert f"{ACTOR}.ppo_max_token_len_per_gpu" not in str(derived_overrides(changed(dynamic)))


def test_a_dynamic_micro_batch_holds_the_longest_row():
    lengths = {"actor_rollout_ref.rollout.prompt_length": 16000, f"{ACTOR}.ppo_max_token_len_per_gpu": 16384}
    config = changed(lengths)
    lines = derived_overrides(config)
    assert f"{ACTOR}.ppo_max_token_len_per_gpu=16512" in lines
    sound = applied(config, lines)
    assert check(sound)
    with pytest.raises(ConfigError) as error:
        check(changed({f"{ACTOR}.ppo_max_token_len_per_gpu": 16384}, of=sound))
    assert str(error.value) == (
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu = 16384: a row of prompt and response has to fit; set it to "
        "16512"
    )


def test_pruning_off_needs_no_line_but_the_manager():
    (line,) = derived_overrides(changed({"arrol.rule": "never"}))
    assert line.startswith("+actor_rollout_ref.rollout.agent.agent_loop_manager_class=")


def test_way_engine_names_the_classes_of_its_rule():
    lines = derived_overrides(changed({"arrol.way": "engine"}))
    assert "+actor_rollout_ref.rollout.engine_kwargs.vllm.scheduler_cls=arrol.engines.vllm.ConfidenceScheduler" in lines
    lines = derived_overrides(changed({"arrol.way": "engine", "arrol.rule": "balanced", **SERVED}))
    assert "+actor_rollout_ref.rollout.engine_kwargs.vllm.worker_cls=arrol.engines.vllm.PruningWorker" in lines


def test_a_checkpoint_callback_of_the_user_is_left_alone():
    config = changed({"trainer.checkpoint_callback_class": "mine.Callback"})
    assert not [line for line in derived_overrides(config) if "callback" in line]
    assert notes(config) == [
        "trainer.checkpoint_callback_class is yours: call arrol.integrations.verl.HeadSaver.on_save from it to save "
        "the head"
    ]
    assert notes(CONFIG) == []


def test_group_filtering_and_refills_reach_our_sampler():
    """verl gives them to its own sampler only."""
    node = "+trainer.v1.sampler.sampler_kwargs"
    lines = derived_overrides(changed({"algorithm.filter_groups": {"enable": True, "metric": "acc"}}))
    assert [line for line in lines if "sampler_kwargs" in line] == [
        f"{node}.filter_groups_metric=acc",
        f"{node}.max_inflight_gen_batches=1",
        f"{node}.train_batch_size=8",
    ]
    lines = derived_overrides(changed({"trainer.v1.sampler.sync_refill_failed_groups": True}))
    assert [line for line in lines if "sampler_kwargs" in line] == [
        f"{node}.sync_refill_failed_groups=True",
        f"{node}.train_batch_size=8",
    ]


def test_the_unit_of_the_deadline_is_noted():
    assert notes(changed({"arrol.barrier_timeout": 64})) == ["arrol.barrier_timeout = 64 seconds"]
    assert notes(changed({"arrol.barrier_timeout": 64, "arrol.way": "engine"})) == [
        "arrol.barrier_timeout = 64 decode steps"
    ]


def test_labels_from_rewards_with_an_overlong_penalty_are_noted():
    penalized = {f"{OVERLONG}.enable": True}
    assert notes(changed(penalized)) == [], "uniform reads no labels"
    assert notes(changed({**penalized, "arrol.rule": "neyman"})) == [
        "reward.reward_kwargs.overlong_buffer_cfg lowers rewards before they are compared with "
        "arrol.success_threshold: a right answer near the length limit may count as wrong"
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"actor_rollout_ref.actor.use_dynamic_bsz": False},
            "actor_rollout_ref.actor.use_dynamic_bsz = False: static micro-batches need not divide the survivors; set "
            "it to True",
        ),
        (
            {"actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": False},
            "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz = False: static micro-batches need not divide the "
            "survivors; set it to True",
        ),
        (
            {"arrol.way": "engine"},
            "actor_rollout_ref.rollout.engine_kwargs.vllm.scheduler_cls = None: way engine needs arrol's class; set "
            "it to arrol.engines.vllm.ConfidenceScheduler",
        ),
        (
            {"trainer.v1.sampler.custom_sampler.name": "Mine"},
            "trainer.v1.sampler.custom_sampler.name = 'Mine': arrol sizes mini-batches, chooses rows and logs there; "
            "set it to MetricsReplayBuffer",
        ),
        (
            {"trainer.v1.sampler.sync_refill_failed_groups": True},
            "trainer.v1.sampler.sampler_kwargs.sync_refill_failed_groups = None: arrol's sampler reads it there; set "
            "it to True",
        ),
    ],
    ids=str,
)
def test_the_manager_refuses_at_start(overrides, message):
    config = changed(overrides, of=applied(CONFIG, derived_overrides(CONFIG)))
    with pytest.raises(ConfigError) as error:
        check(config)
    assert str(error.value) == message


def test_a_path_that_stops_early_gives_the_default():
    assert at(CONFIG, "trainer.use_v1.deeper", 3) == 3
    assert at(CONFIG, "critic.enable", 5) == 5


POOL = {"arrol.rule": "never", "arrol.allocation": {"rule": "mopps", "candidates": 4}, "trainer.total_epochs": 3}


def test_candidates_enlarge_what_is_drawn_and_nothing_else():
    config = changed(POOL)
    lines = derived_overrides(config)
    assert lines[1:3] == ["data.train_batch_size=32", "trainer.total_epochs=12"]
    assert not [line for line in lines if "dynamic" in line]
    step = Batch.of(applied(config, lines), check(applied(config, lines)))
    assert (step.prompts, step.train_size) == (8, 8)


def test_candidates_divide_the_batch():
    with pytest.raises(ConfigError) as error:
        check(changed({**POOL, "data.train_batch_size": 6}))
    assert str(error.value) == (
        "data.train_batch_size = 6: arrol.allocation.rule = 'mopps' draws 4 candidates per prompt; use a multiple of 4"
    )
