"""Numbers from what data and model say, and a config that can be read."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from arrol.cli.first_config import BYTES_PER_LOGIT, GIB, Seen, as_toml, draft, first_numbers, open_questions
from arrol.configs.base import validate
from arrol.configs.run import RunConfig
from arrol.errors import ConfigError

SEEN = Seen(
    source='rows "a".jsonl',
    model="owner/model",
    rewards=(),
    prompt_column="question",
    answer_column="answer",
    answer_format="gsm8k",
    num_train=1_000,
    num_eval=60,
    template="chat",
    verifier="integer",
    longest_prompt=100,
    solution_tokens=tuple(range(50, 150)),
    num_parameters=135_000_000,
    vocab_size=50_000,
    positions=2048,
    free_bytes=20 * GIB,
)


def test_lengths_follow_from_worked_solutions():
    numbers = first_numbers(SEEN)
    assert numbers.max_completion_tokens == int(1.5 * 144)
    assert numbers.probe == 50  # half of the one in the middle
    assert not any("completions" in question for question in open_questions(SEEN, numbers))


def test_without_solutions_the_limit_is_a_guess_and_says_so():
    seen = replace(SEEN, solution_tokens=())
    numbers = first_numbers(seen)
    assert (numbers.max_completion_tokens, numbers.probe) == (512, 128)
    assert open_questions(seen, numbers)[0].startswith("how long the model's completions are: the data hold no worked")


@pytest.mark.parametrize(("positions", "limit"), [(160, 60), (101, 2), (None, 216)])
def test_prompt_and_completion_stay_within_the_positions(positions, limit):
    numbers = first_numbers(replace(SEEN, positions=positions))
    assert numbers.max_completion_tokens == limit
    assert 1 <= numbers.probe < limit


def test_a_microbatch_fits_the_memory_and_holds_a_sequence():
    small = replace(SEEN, free_bytes=GIB)
    numbers = first_numbers(small)
    assert numbers.microbatch_tokens == int(0.25 * GIB / (50_000 * BYTES_PER_LOGIT))
    assert first_numbers(replace(SEEN, free_bytes=0)).microbatch_tokens == 100 + 216
    assert open_questions(small, numbers)[-1].startswith(
        "how to fit it: training needs about 2.3 GiB, about 1.0 GiB are"
    )
    assert first_numbers(SEEN).microbatch_tokens == 2048


@pytest.mark.parametrize(("rows", "prompts", "steps"), [(3, 3, 20), (1_000, 16, 200), (200, 16, 50)])
def test_a_few_epochs_of_the_data(rows, prompts, steps):
    numbers = first_numbers(replace(SEEN, num_train=rows))
    assert (numbers.prompts, numbers.steps) == (prompts, steps)


@pytest.mark.parametrize(
    "seen",
    [
        SEEN,
        replace(SEEN, num_eval=0, solution_tokens=()),
        replace(SEEN, rewards=("mine:right", "mine:short"), answer_column=None, answer_format=None, verifier=""),
    ],
)
def test_the_config_is_what_was_seen(seen):
    text = as_toml(Path("x.toml"), seen, first_numbers(seen))
    assert ("# eval_source = ..." in text) == (seen.num_eval == 0)
    values = tomllib.loads(text)
    config = validate(RunConfig, values)
    assert (config.name, config.model, config.task.source) == ("x", "owner/model", 'rows "a".jsonl')
    assert config.pruning.rule == "auto"
    assert 0 < config.pruning.warmup_steps < config.training.steps / 2
    assert [one.function for one in config.task.reward] == list(seen.rewards)
    assert config.task.success_reward == ("right" if seen.rewards else None)


def test_a_name_with_blanks_is_the_file_s_and_not_the_run_s():
    text = as_toml(Path("my run \u00fc.toml"), SEEN, first_numbers(SEEN))
    assert text.startswith("# arrol train 'my run \u00fc.toml'; every field")
    assert validate(RunConfig, tomllib.loads(text)).name == "my-run--"


def test_a_draft_names_a_wrong_reward():
    assert draft("rows", "m", ["a:b"]).task.reward[0].function == "a:b"
    with pytest.raises(ConfigError, match=r"task.reward = \['a:b', 'a:b'\]: name each function once"):
        draft("rows", "m", ["a:b", "a:b"])
