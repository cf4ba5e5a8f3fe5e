"""Bounds of the synthetic tasks."""

import pytest

from arrol.configs.base import validate
from arrol.configs.run import RunConfig, load_compare, load_run, planned_runs
from arrol.configs.task import RewardConfig
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


def reward_task(**task):
    return validate(RunConfig, {"model": "m", "task": {"name": "dataset", "source": "x", **task}}).task


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("m:f", [("m:f", 1.0)]),
        ("m:f, n:g", [("m:f", 1.0), ("n:g", 1.0)]),
        ({"function": "m:f", "weight": -0.5}, [("m:f", -0.5)]),
        (["m:f", {"function": "n:g", "weight": 0}], [("m:f", 1.0), ("n:g", 0.0)]),
        ([], []),
    ],
)
def test_rewards_are_a_path_a_table_or_a_list_of_both(written, read):
    assert [(one.function, one.weight) for one in reward_task(reward=written).reward] == read


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"reward": 3}, "task.reward = 3: must be a list; expected: Reward functions by import path"),
        ({"reward": [3]}, "task.reward = 3: must be"),
        ({"reward": [{"fun": "m:f"}]}, "task.reward.function: missing; expected: Import path, module:function."),
        ({"reward": {"function": "m:f", "weigh": 1}}, "task.reward.weigh = 1: unknown key; the nearest known one is"),
        ({"reward": ["m:f", "m:f"]}, "task.reward = ['m:f', 'm:f']: name each function once"),
        ({"reward": {"function": "m:f", "weight": 0}}, "task.reward = ['m:f']: every weight is 0; give one function"),
        ({"reward": {"function": "m:f", "weight": float("nan")}}, "task.reward.weight = nan: "),
        ({"reward_time_limit_s": 3}, "task.reward_time_limit_s = 3.0: no reward function is named; set task.reward"),
        ({"success_reward": "f"}, "task.success_reward = 'f': no reward function is named; set task.reward"),
        ({"reward": "m:f", "reward_time_limit_s": 0}, "task.reward_time_limit_s = 0: must be above 0"),
        ({"reward": "m:f", "verifier": "integer"}, "task.verifier = 'integer': task.reward judges, no verifier does"),
        ({"reward": "m:f", "answer_format": "boxed"}, "task.answer_format = 'boxed': task.reward judges"),
    ],
)
def test_rewards_that_cannot_be_are_one_line(task, message):
    with pytest.raises(ConfigError) as caught:
        reward_task(**task)
    assert str(caught.value).startswith(message)


def test_modules_of_rewards_are_looked_for_beside_the_config(tmp_path):
    path = tmp_path / "deep" / "mine.toml"
    path.parent.mkdir()
    path.write_text('name = "x"\nmodel = "m"\n[task]\nname = "dataset"\nsource = "x"\n', "utf-8")
    assert load_run(path).task.reward_folder is None
    flags = ["--task.reward", "m:f"]
    assert load_run(path, flags).task.reward == (RewardConfig(function="m:f"),)
    assert load_run(path, flags).task.reward_folder == str(path.parent)
    assert load_run(path, [*flags, "--task.reward_folder", "else"]).task.reward_folder == "else"
    assert load_run(path, ["--task.reward", '["m:f", {function = "n:g", weight = 2}]']).task.reward[1].weight == 2
    compared = tmp_path / "deep" / "arms.toml"
    arms = '[[arms]]\nname = "a"\n[[arms]]\nname = "b"\nchange.task.reward = "n:g"\n'
    compared.write_text(arms + '[run]\nmodel = "m"\n[run.task]\nname = "dataset"\nsource = "x"\n', "utf-8")
    folders = [config.task.reward_folder for _, config in planned_runs(load_compare(compared))]
    assert folders == [None, str(path.parent)]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"examples": -1}, "task.examples = -1: give a number of training rows from 0, or a list of tables with"),
        ({"examples": True}, "task.examples = True: give a number of training rows"),
        ({"examples": "3"}, "task.examples = '3': give a number of training rows"),
        ({"system_prompt": ""}, "task.system_prompt = '': "),
        ({"template_arguments": 3}, "task.template_arguments = 3: must be a table of names and values"),
    ],
)
def test_prompts_that_cannot_be_are_one_line(task, message):
    with pytest.raises(ConfigError) as caught:
        reward_task(**task)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_prompt_fields_are_read_from_flags(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('model = "m"\n[task]\nname = "dataset"\nsource = "x"\n', "utf-8")
    flags = ["--task.examples", "4", "--task.template_arguments.enable_thinking", "false"]
    task = load_run(path, [*flags, "--task.template", "Q: {question}\nA:"]).task
    assert (task.examples, task.template_arguments, task.template) == (
        4,
        {"enable_thinking": False},
        "Q: {question}\nA:",
    )
    written = load_run(path, ["--task.examples", '[{question = "q", answer = "a"}]']).task.examples
    assert [(one.question, one.answer) for one in written] == [("q", "a")]
    wrong = ["--task.examples", '[{question = "q"}]']
    with pytest.raises(ConfigError, match=r"^task.examples.answer: missing"):
        load_run(path, wrong)
