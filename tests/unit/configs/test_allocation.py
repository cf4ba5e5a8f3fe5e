"""Variants and their defaults, one line for every wrong value, and what contradicts what."""

import pytest
from pydantic import TypeAdapter

from arrol.configs.allocation import (
    ALLOCATIONS,
    AeroAllocation,
    AllocationConfig,
    KnapsackAllocation,
    UniformAllocation,
    first_wave,
    require_possible,
)
from arrol.configs.base import StrictModel
from arrol.configs.flags import change
from arrol.configs.run import RunConfig, load_run
from arrol.errors import ConfigError

RUN = """
model = "models/some"
[task]
name = "arithmetic"
[sampling]
max_completion_tokens = 64
[training]
group_size = 8
prompts_per_step = 4
"""


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


def refusal(path, *flags):
    with pytest.raises(ConfigError) as caught:
        load_run(path, flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("rule", ALLOCATIONS)
def test_naming_a_rule_gives_its_defaults(rule, run_file):
    model = ALLOCATIONS[rule]
    assert TypeAdapter(AllocationConfig).validate_python({"rule": rule}) == model()
    assert load_run(run_file, ["--allocation", rule]).allocation == model()


def test_without_a_section_every_prompt_gets_one_group(run_file):
    assert load_run(run_file).allocation == UniformAllocation()
    assert UniformAllocation().posterior.used_for == "nothing"
    assert AeroAllocation().posterior.used_for == "both"


WRONG = {
    ("uniform", "posterior.used_for"): ["all", "1"],
    ("uniform", "posterior.prior_right"): ["0", "-1", "x"],
    ("uniform", "posterior.prior_wrong"): ["0"],
    ("uniform", "posterior.discount"): ["-0.1", "1.1"],
    ("uniform", "posterior.spread"): ["rate"],
    ("uniform", "posterior.max_dead_zone_advantage"): ["-0.1"],
    ("uniform", "token_budget"): ["-1", "0.5"],
    ("uniform", "pruned_counts"): ["all"],
    ("uniform", "count_truncated"): ["maybe"],
    ("aero", "posterior.used_for"): ["all"],
    ("aero", "rollout_budget"): ["-1"],
    ("aero", "explore_size"): ["1", "0"],
    ("aero", "rescue_step"): ["0"],
    ("aero", "max_group"): ["-1"],
    ("aero", "top_up_easy"): ["2"],
    ("aero", "rejection.wrong_ratio"): ["0", "-1"],
    ("aero", "rejection.baseline"): ["none"],
    ("aero", "rejection.mirror"): ["3"],
    ("aero", "prune_rescue"): ["7"],
    ("dapo", "max_draws"): ["0.9"],
    ("dapo", "at_cap"): ["stop"],
    ("greso", "easy_repeat"): ["0", "1"],
    ("greso", "hard_repeat"): ["0", "1"],
    ("greso", "repeat_step"): ["-0.1"],
    ("greso", "target_uniform"): ["-0.1", "1.1"],
    ("reinforce_ada", "exit"): ["never"],
    ("reinforce_ada", "round_size"): ["0"],
    ("reinforce_ada", "max_rounds"): ["0"],
    ("reinforce_ada", "keep_size"): ["1"],
    ("pilot_commit", "pilot_size"): ["1"],
    ("pilot_commit", "commit_size"): ["0"],
    ("pilot_commit", "lowest"): ["-0.1", "1.1"],
    ("pilot_commit", "highest"): ["-0.1", "1.1"],
    ("pilot_commit", "evict"): ["4"],
    ("knapsack", "rollout_budget"): ["-1"],
    ("knapsack", "least"): ["0"],
    ("knapsack", "max_group"): ["-1"],
    ("duet", "least"): ["1"],
    ("duet", "max_group"): ["-1"],
    ("sara", "explore_size"): ["1"],
    ("sara", "round_size"): ["0"],
    ("sara", "lowest"): ["0", "0.5"],
    ("sara", "error"): ["0", "0.5"],
    ("pods", "train_size"): ["1"],
    ("cppo", "train_size"): ["0"],
    ("mopps", "candidates"): ["0"],
    ("mopps", "target_rate"): ["-0.1", "1.1"],
}


@pytest.mark.parametrize(("rule", "field"), WRONG)
def test_a_wrong_value_names_field_value_and_next_step(rule, field, run_file):
    for value in WRONG[rule, field]:
        message = refusal(run_file, "--allocation", rule, f"--allocation.{field}", value)
        assert message.startswith(f"allocation.{field} = "), message
        assert value in message
        assert "expected: " in message or "choose one of" in message


def fields(model, prefix=""):
    """Dotted names of a config's fields, without its tag."""
    for name, info in model.model_fields.items():
        node = info.annotation
        if isinstance(node, type) and issubclass(node, StrictModel):
            yield from fields(node, f"{prefix}{name}.")
        elif name != "rule":
            yield prefix + name


def test_every_field_has_its_wrong_value():
    tried = {field for _, field in WRONG}
    assert {field for model in ALLOCATIONS.values() for field in fields(model)} == tried


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["aero", "--allocation.rollout_budget", "15"],
            "allocation.rollout_budget = 15: allocation.explore_size times training.prompts_per_step is 16 already; "
            "raise it or lower one of them",
        ),
        (
            ["aero", "--allocation.max_group", "3"],
            "allocation.max_group = 3: fewer than allocation.explore_size = 4; raise it",
        ),
        (
            ["aero", "--allocation.explore_size", "9"],
            "allocation.explore_size = 9: more than training.group_size = 8; lower it",
        ),
        (
            ["knapsack", "--allocation.rollout_budget", "7"],
            "allocation.rollout_budget = 7: allocation.least times training.prompts_per_step is 8 already; "
            "raise it or lower one of them",
        ),
        (
            ["knapsack", "--allocation.least", "9"],
            "allocation.least = 9: more than training.group_size = 8; lower it",
        ),
        (
            ["knapsack", "--allocation.least", "3", "--allocation.max_group", "2"],
            "allocation.max_group = 2: fewer than allocation.least = 3; raise it",
        ),
        (
            ["neyman", "--allocation.least", "9"],
            "allocation.least = 9: more than training.group_size = 8; lower it",
        ),
        (
            ["neyman", "--allocation.max_group", "7"],
            "allocation.max_group = 7: less than training.group_size = 8; raise it",
        ),
        (
            ["pods", "--allocation.train_size", "9"],
            "allocation.train_size = 9: more than training.group_size = 8; lower it",
        ),
        (
            ["cppo", "--allocation.train_size", "9"],
            "allocation.train_size = 9: more than training.group_size = 8; lower it",
        ),
        (
            ["reinforce_ada", "--allocation.round_size", "2", "--allocation.max_rounds", "3"],
            "allocation.keep_size = 8: more than round_size times max_rounds = 6; lower it",
        ),
        (
            ["pilot_commit", "--allocation.lowest", "0.8"],
            "allocation.highest = 0.75: at least lowest = 0.8",
        ),
        (
            ["uniform", "--allocation.token_budget", "2047"],
            "allocation.token_budget = 2047: the first wave may need 2048 tokens (32 rollouts of "
            "sampling.max_completion_tokens = 64); raise it",
        ),
        (
            ["aero", "--allocation.token_budget", "1023"],
            "allocation.token_budget = 1023: the first wave may need 1024 tokens (16 rollouts of "
            "sampling.max_completion_tokens = 64); raise it",
        ),
        (
            ["knapsack", "--allocation.rollout_budget", "20", "--allocation.token_budget", "1279"],
            "allocation.token_budget = 1279: the first wave may need 1280 tokens (20 rollouts of "
            "sampling.max_completion_tokens = 64); raise it",
        ),
        (
            ["aero", "--pruning", "oracle", "--pruning.probe_tokens", "[8]"],
            "allocation.rule = 'aero': pruning.rule 'oracle' chooses by outcome too; set one of them to 'uniform'",
        ),
        (
            ["uniform", "--algorithm", "mc_grpo"],
            "training.group_size = 8: mc_grpo leaves the median rollout out, so ask for one more, 9",
        ),
        (
            ["aero", "--algorithm", "mc_grpo"],
            "allocation.posterior.used_for = 'both': mc_grpo has a baseline of its own; "
            "set it to 'allocation' or 'nothing'",
        ),
        (
            ["aero", "--pruning", "neyman", "--pruning.probe_tokens", "[8]", "--pruning.min_survivors", "3"],
            "allocation.explore_size = 4: too small for the floor; keep_ratio 0.5 leaves 2 of a group, fewer than "
            "pruning.min_survivors = 3",
        ),
        (["ero"], "allocation.rule = 'ero': unknown; the nearest of"),
        (
            ["aero", "--allocation.explore", "4"],
            "allocation.explore = 4: unknown key; the nearest known one is 'allocation.explore_size'",
        ),
        (["dapo", "--allocation.explore_size", "4"], "allocation.explore_size = 4: unknown key; "),
    ],
)
def test_a_contradiction_names_field_value_and_remedy(flags, expected, run_file):
    assert refusal(run_file, "--allocation", *flags).startswith(expected)


@pytest.mark.parametrize(
    "flags",
    [
        [
            "aero",
            "--allocation.rollout_budget",
            "16",
            "--allocation.max_group",
            "4",
            "--allocation.token_budget",
            "1024",
        ],
        ["aero", "--algorithm", "mc_grpo", "--allocation.posterior.used_for", "allocation"],
        ["uniform", "--algorithm", "mc_grpo", "--training.group_size", "9"],
        ["uniform", "--pruning", "oracle", "--pruning.probe_tokens", "[8]", "--allocation.token_budget", "2048"],
        ["knapsack", "--allocation.least", "9", "--allocation.rollout_budget", "36"],
        ["pods", "--allocation.train_size", "8"],
        ["reinforce_ada", "--allocation.round_size", "2", "--allocation.max_rounds", "4"],
        ["pilot_commit", "--allocation.lowest", "0.5", "--allocation.highest", "0.5"],
        ["dapo", "--allocation.max_draws", "1", "--allocation.at_cap", "error"],
    ],
    ids=" ".join,
)
def test_limits_are_inclusive(flags, run_file):
    assert load_run(run_file, ["--allocation", *flags]).allocation.rule == flags[0]


def test_the_smallest_first_wave_has_its_field():
    expected = {
        "aero": (4, "allocation.explore_size"),
        "reinforce_ada": (4, "allocation.round_size"),
        "pilot_commit": (4, "allocation.pilot_size"),
        "knapsack": (2, "allocation.least"),
        "neyman": (2, "allocation.least"),
        "duet": (2, "allocation.least"),
        "sara": (4, "allocation.explore_size"),
    }
    for rule, model in ALLOCATIONS.items():
        assert first_wave(model(), 16) == expected.get(rule, (16, "training.group_size"))


def test_what_is_possible_passes_in_silence():
    require_possible(KnapsackAllocation(rollout_budget=8, max_group=2), 8, 4, 64)
    require_possible(UniformAllocation(), 1, 1, 1)


def test_a_changed_rule_drops_the_fields_it_does_not_have(run_file):
    run_file.write_text(RUN + '[allocation]\nrule = "aero"\nexplore_size = 2\nmax_group = 9\ntoken_budget = 5000\n')
    assert load_run(run_file).allocation.explore_size == 2
    changed = load_run(run_file, ["--allocation", "knapsack"]).allocation
    assert (changed.rule, changed.max_group, changed.token_budget) == ("knapsack", 9, 5000)
    assert load_run(run_file, ["--allocation", "aero"]).allocation.explore_size == 2
    values = {"allocation": {"rule": "dapo", "max_draws": 2, "posterior": {"discount": 0.1}}}
    assert change(RunConfig, values, {"allocation": {"rule": "uniform"}})[0]["allocation"] == {
        "rule": "uniform",
        "posterior": {"discount": 0.1},
    }
    assert change(RunConfig, values, {"allocation": {"rule": "greso"}})[0]["allocation"]["max_draws"] == 2
