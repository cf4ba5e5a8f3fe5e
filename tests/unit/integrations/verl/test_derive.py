"""Derived overrides, and the check at start, on the part of verl's config that they read."""

import copy

import pytest

from arrol.errors import ConfigError
from arrol.integrations.verl import batch, refusals
from arrol.integrations.verl.batch import Batch, at
from arrol.integrations.verl.derive import OVERLONG, check, derived_overrides, notes
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
    step = Batch.of(CONFIG, parse_options(CONFIG["arrol"]))
    assert step == Batch(prompts=8, group_size=8, train_size=4, ranks=2, warmup_train_size=8)
    assert step.prompts * step.train_size // (2 * step.group_size) == 8 // 4
    assert [step.padding(mini_batch_size, step.train_size) for mini_batch_size in (2, 4, 8)] == [0, 0, 32]


def test_the_ranks_of_megatron_are_what_its_parallel_sizes_leave():
    megatron = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "context_parallel_size": 1}
    config = changed({"actor_rollout_ref.actor.strategy": "megatron", "actor_rollout_ref.actor.megatron": megatron})
    assert batch.data_parallel_ranks({**config, "trainer": {"n_gpus_per_node": 8, "nnodes": 2}}) == 4
    assert batch.data_parallel_ranks(changed({"actor_rollout_ref.actor.ulysses_sequence_parallel_size": 2})) == 1


def test_pruning_off_needs_no_line_but_the_manager():
    (line,) = derived_overrides(changed({"arrol.rule": "never"}))
    assert line.startswith("+actor_rollout_ref.rollout.agent.agent_loop_manager_class=")


def test_way_engine_names_the_classes_of_its_rule():
    lines = derived_overrides(changed({"arrol.way": "engine"}))
    assert "+actor_rollout_ref.rollout.engine_kwargs.vllm.scheduler_cls=arrol.engines.vllm.ConfidenceScheduler" in lines
    lines = derived_overrides(changed({"arrol.way": "engine", "arrol.rule": "balanced", **SERVED}))
    assert "+actor_rollout_ref.rollout.engine_kwargs.vllm.worker_cls=arrol.engines.vllm.PruningWorker" in lines


def test_hooks_that_are_taken_are_left_alone():
    config = changed({"trainer.checkpoint_callback_class": "mine.Callback", "algorithm.filter_groups.enable": True})
    assert not [line for line in derived_overrides(config) if "callback" in line or "sampler" in line]
    assert notes(config) == [
        "trainer.checkpoint_callback_class is yours: call arrol.integrations.verl.HeadSaver.on_save from it to save "
        "the head",
        "verl's sampler is taken (yours, filter_groups, or a refill): arrol/* metrics are not logged",
    ]
    assert notes(CONFIG) == []


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
            {"actor_rollout_ref.actor.ppo_mini_batch_size": 8},
            "actor_rollout_ref.actor.ppo_mini_batch_size = 8: verl would add 32 synthetic rows to the 32 survivors of "
            "a step on 2 ranks; use 4 or a divisor of it, and survivors that divide evenly over ranks",
        ),
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
            {"arrol.keep_ratio": 0.75, "actor_rollout_ref.actor.ppo_mini_batch_size": 6},
            "arrol.warmup_steps = 20: verl would add 32 synthetic rows to the unpruned 64; set warmup_steps=0, or a "
            "keep_ratio like 0.5 or 0.25",
        ),
        (
            {"arrol.way": "engine"},
            "actor_rollout_ref.rollout.engine_kwargs.vllm.scheduler_cls = None: way engine needs arrol's class; set "
            "it to arrol.engines.vllm.ConfidenceScheduler",
        ),
        *(
            (
                overrides,
                "trainer.v1.sampler.custom_sampler.name = 'MetricsReplayBuffer': a custom sampler neither filters "
                "groups nor refills failed ones; leave out the two custom_sampler lines, or filter_groups and "
                "sync_refill_failed_groups",
            )
            for overrides in (
                {"algorithm.filter_groups.enable": True},
                {"trainer.v1.sampler.sync_refill_failed_groups": True, "arrol.rule": "never"},
            )
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
    assert not [line for line in lines if "mini_batch" in line or "dynamic" in line]
    step = Batch.of(applied(config, lines), check(applied(config, lines)))
    assert (step.prompts, step.train_size) == (8, 8)


def test_a_part_of_each_group_shrinks_the_minibatch_in_warm_up_too():
    config = changed({"arrol.allocation": {"rule": "pods", "train_size": 2}, "arrol.warmup_steps": 5})
    lines = derived_overrides(config)
    assert "actor_rollout_ref.actor.ppo_mini_batch_size=1" in lines
    assert Batch.of(config, parse_options(config["arrol"])) == Batch(8, 8, 2, 2, 2)


def test_a_rule_that_selects_rows_needs_the_sampler():
    pods = changed({"arrol.rule": "never", "arrol.allocation": {"rule": "pods", "train_size": 4}})
    sound = applied(pods, derived_overrides(pods))
    sound["trainer"]["v1"]["sampler"]["custom_sampler"] = {"path": None, "name": None}
    with pytest.raises(ConfigError) as error:
        check(sound)
    assert str(error.value) == (
        "trainer.v1.sampler.custom_sampler.name = None: arrol.allocation.rule = 'pods' chooses rows there; set it to "
        "MetricsReplayBuffer, and its path to pkg://arrol.integrations.verl"
    )


def test_candidates_divide_the_batch():
    with pytest.raises(ConfigError) as error:
        check(changed({**POOL, "data.train_batch_size": 6}))
    assert str(error.value) == (
        "data.train_batch_size = 6: arrol.allocation.rule = 'mopps' draws 4 candidates per prompt; use a multiple of 4"
    )
