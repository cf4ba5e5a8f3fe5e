"""What a record says of a run, read from verl's config."""

from pathlib import Path

import pytest

from arrol.integrations.verl.options import parse_options
from arrol.integrations.verl.plan import record_plan, reward_name

CONFIG = {
    "arrol": {"rule": "uniform", "probe_tokens": [4], "quality": {"hidden_size": 8}},
    "algorithm": {"adv_estimator": "grpo"},
    "data": {"train_batch_size": 16},
    "trainer": {
        "default_local_dir": "checkpoints/a/b", "experiment_name": "b", "total_training_steps": 9, "test_freq": 5,
        "n_gpus_per_node": 2, "nnodes": 1,
    },
    "actor_rollout_ref": {
        "model": {"path": "org/model", "trust_remote_code": True},
        "actor": {"optim": {"lr": 1e-6}, "loss_agg_mode": "token-mean"},
        "rollout": {"n": 8, "seed": 3, "response_length": 64, "temperature": 0.7, "name": "vllm"},
    },
    "reward": {"custom_reward_function": {"path": None, "name": "compute_score"}, "reward_manager": {"name": "dapo"}},
}  # fmt: skip


def changed(path, value):
    """The config with another value at a dotted path."""
    name, _, rest = path.partition(".")

    def within(node, name, rest):
        head, _, tail = rest.partition(".")
        return {**node, name: within(node.get(name, {}), head, tail) if rest else value}

    return within(CONFIG, name, rest)


def plan_of(config=CONFIG, step=0, **values):
    options = parse_options({**CONFIG["arrol"], **values})
    return record_plan(config, options, step=step, tokenizer="folder", base=Path("/base"), gpu="2 H200")


def test_the_first_row_says_what_ran():
    plan = plan_of(step=3)
    assert (plan.folder, plan.step) == (Path("/base/checkpoints/a/b/arrol"), 3)
    assert (plan.tokenizer, plan.trusts_code, plan.scale, plan.validates) == ("folder", True, "std", True)
    run = plan.run
    assert (run.name, run.seed, run.gpu) == ("b", 3, "2 H200")
    assert run.command == [
        "verl/trainer/main_ppo.py", "+arrol.rule=uniform", "+arrol.probe_tokens=[4]", "+arrol.quality.hidden_size=8",
    ]  # fmt: skip
    config = run.config
    assert config["training"] == {"steps": 9, "group_size": 8}
    assert config["sampling"] == {"max_completion_tokens": 64, "temperature": 0.7, "top_p": None, "top_k": None}
    assert config["pruning"]["rule"] == "uniform"
    assert config["task"] == {"reward": ["dapo"]}
    assert config["model"] == "org/model"
    known = config["verl"]
    assert (known["way"], known["ranks"], known["actor_rollout_ref.actor.optim.lr"]) == ("two_calls", 2, 1e-6)
    assert known["actor_rollout_ref.actor.loss_agg_mode"] == "token-mean"


def test_a_folder_of_the_users_choice():
    assert plan_of(records_dir="mine").folder == Path("/base/mine")
    assert plan_of(records_dir="/elsewhere/mine").folder == Path("/elsewhere/mine")
    assert plan_of(keep_records=False) is None


def test_the_reward_function_has_the_name_of_the_command():
    assert reward_name(changed("reward.custom_reward_function", {"path": "mine.py", "name": "score"})) == "score"
    assert reward_name({}) == "naive"


@pytest.mark.parametrize(
    ("path", "value", "scale"),
    [
        ("algorithm.norm_adv_by_std_in_grpo", False, "none"),
        ("algorithm.norm_adv_by_std_in_grpo", True, "std"),
        ("algorithm.adv_estimator", "rloo", "unknown"),
        ("algorithm.use_kl_in_reward", True, "unknown"),
    ],
)
def test_advantages_are_computed_where_they_follow_from_rewards(path, value, scale):
    assert plan_of(changed(path, value)).scale == scale


@pytest.mark.parametrize(("freq", "validates"), [(-1, False), (0, False), (1, True)])
def test_a_run_ends_with_its_validation_where_it_has_one(freq, validates):
    assert plan_of(changed("trainer.test_freq", freq)).validates is validates
