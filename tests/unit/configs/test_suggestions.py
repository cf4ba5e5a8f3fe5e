"""What an unknown key may have meant."""

import pytest

from arrol.configs.run import CompareConfig, RunConfig
from arrol.configs.sft import SftConfig
from arrol.configs.suggestions import ELSEWHERE, ending_in, known_paths, meant, nearest_key
from arrol.configs.task import ArithmeticTaskConfig

ONE, MORE = "the nearest known one is ", "the nearest known ones are "


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("steps", ONE + "'training.steps'"),
        ("learning_rate", ONE + "'optimizer.learning_rate'"),
        ("lr", ONE + "'optimizer.learning_rate'"),
        ("training.learning_rate", ONE + "'optimizer.learning_rate'"),
        ("num_generations", ONE + "'training.group_size'"),
        ("keep_ratio", ONE + "'pruning.keep_ratio'"),
        ("pruning.keep_ration", ONE + "'pruning.keep_ratio'"),
        ("keep_ration", ONE + "'pruning.keep_ratio'"),
        ("training.max_completion_tokens", ONE + "'sampling.max_completion_tokens'"),
        ("weight_decay", MORE + "'quality.weight_decay', 'optimizer.weight_decay'"),
        ("temperatuure", ONE + "'sampling.temperature'"),
        ("modeel", ONE + "'model'"),
        ("algorithm.estimator", ONE + "'algorithm.correction'"),
        ("task.source", "only task.name = 'dataset' has it"),
        ("pruning.shrinkage", "only pruning.rule = 'balanced' or 'neyman' has it"),
        ("lora.rank", "the nearest known one is 'lora.r'"),
        ("use_peft", "the nearest known one is 'lora.r'"),
        (
            "load_in_4bit",
            "arrol trains weights of full precision, with lora.r adapters beside them; for quantised models use "
            "arrol grpo",
        ),
        ("sampling.zzz", "the known ones of sampling are max_completion_tokens, temperature, top_p, top_k, stop"),
    ],
)
def test_a_key_of_a_run(key, text):
    assert meant(RunConfig, key, {}) == text


def test_a_key_that_is_like_nothing_lists_the_known_ones():
    assert meant(RunConfig, "zzz", {}).startswith("the known ones are name, model, out_dir, seed, device, ")


def test_of_a_section_with_variants_those_of_the_chosen_one_are_listed():
    node = ArithmeticTaskConfig
    assert meant(RunConfig, "task.zzz", {}, node) == "the known ones of task are name, min_ops, max_ops, num_problems"


def test_a_field_of_a_comparison_stands_under_run():
    shapes = {"run": RunConfig}
    assert meant(CompareConfig, "training.steps", shapes) == ONE + "'run.training.steps'"
    assert meant(CompareConfig, "steps", shapes) == ONE + "'run.training.steps'"
    assert meant(CompareConfig, "lr", shapes) == ONE + "'run.optimizer.learning_rate'"
    assert meant(CompareConfig, "seed", shapes) == ONE + "'seeds'"


def test_a_field_of_a_warm_start():
    assert meant(SftConfig, "training.steps", {}) == ONE + "'steps'"
    assert meant(SftConfig, "zzz", {}).startswith("the known ones are ")


def test_every_name_of_another_library_leads_to_a_field():
    known = known_paths(RunConfig, {})
    assert [ours for ours in ELSEWHERE.values() if ours not in known] == []
    assert [theirs for theirs in ELSEWHERE if theirs in known] == []


def test_keys_that_end_alike():
    assert ending_in(RunConfig, "max_ops", {}) == ["task.max_ops"]
    assert ending_in(RunConfig, "nothing", {}) == []
    assert nearest_key("estimator", ["correction", "estimate"]) == "correction"
    assert nearest_key("estimator", ["estimate"]) == "estimate"
