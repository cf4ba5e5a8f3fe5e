"""From a file and flags to a run, from a comparison to its arms; one line for every mistake."""

from pathlib import Path

import pytest

from arrol.configs.files import read_toml
from arrol.configs.flags import change
from arrol.configs.method import DrGrpoConfig, NeverRule
from arrol.configs.run import RunConfig, arm_config, load_compare, load_run
from arrol.configs.sft import load_sft
from arrol.errors import ConfigError

RUN = """
model = "models/some"
[task]
name = "arithmetic"
[sampling]
max_completion_tokens = 64
[pruning]
rule = "neyman"
scope = "batch"
keep_ratio = 0.5
probe_tokens = [24]
min_survival = 0.2
[training]
group_size = 8
"""

COMPARE = """
name = "trial"
seeds = [3, 4]
[[arms]]
name = "grpo"
[arms.change.pruning]
rule = "never"
[[arms]]
name = "pruned"
[run]
model = "models/some"
out_dir = "out"
[run.task]
name = "arithmetic"
[run.sampling]
max_completion_tokens = 64
[run.pruning]
rule = "neyman"
scope = "batch"
probe_tokens = [24]
"""


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


@pytest.fixture
def compare_file(tmp_path):
    path = tmp_path / "compare.toml"
    path.write_text(COMPARE)
    return path


def refusal(load, path, *flags):
    with pytest.raises(ConfigError) as caught:
        load(path, flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_and_flags_become_a_run(run_file):
    run = load_run(run_file, ["--training.steps", "5", "--name", "mine", "--report_to", '["tensorboard"]'])
    assert (run.training.steps, run.name, run.report_to, run.training.group_size) == (5, "mine", ("tensorboard",), 8)
    assert run.algorithm == DrGrpoConfig()
    assert RunConfig.model_validate(run.model_dump(mode="json")) == run


def test_without_a_pruning_section_nothing_is_pruned(tmp_path):
    path = tmp_path / "plain.toml"
    path.write_text('model = "m"\n[task]\nname = "countdown"\n')
    assert load_run(path).pruning == NeverRule()


def test_a_changed_rule_drops_the_fields_it_does_not_have(run_file):
    run = load_run(run_file, ["--pruning.rule", "uniform"])
    assert run.pruning.rule == "uniform"
    assert (run.pruning.probe_tokens, run.pruning.min_survival) == ((24,), 0.2)
    changed = load_run(run_file, ["--algorithm.name", "dapo", "--algorithm.overlong_buffer_tokens", "8"]).algorithm
    assert (changed.name, changed.overlong_buffer_tokens) == ("dapo", 8)


def test_an_unchanged_rule_keeps_its_fields_and_an_unknown_one_is_named(run_file):
    assert load_run(run_file, ["--pruning.rule", "neyman"]).pruning.scope == "batch"
    assert refusal(load_run, run_file, "--pruning.rule", "neymann").startswith(
        "pruning.rule = 'neymann': unknown; the nearest of"
    )
    assert refusal(load_run, run_file, "--pruning.rule", "[1]").startswith("pruning.rule = ")
    assert load_run(run_file, ["--pruning", "neyman"]).pruning.scope == "batch"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--pruning.probe_tokens", "[64]"],
            "pruning.probe_tokens = [64]: beyond the length limit; keep each below sampling.max_completion_tokens = 64",
        ),
        (
            ["--training.group_size", "3"],
            "training.group_size = 3: too small for the floor; keep_ratio 0.5 leaves 1.5 of a group, "
            "fewer than pruning.min_survivors = 2",
        ),
        (
            ["--pruning.rule", "extremes"],
            "algorithm.correction = 'ipw': rule 'extremes' stops with certainty, so no weights exist; "
            "set it to 'plain'",
        ),
        (
            [
                "--pruning",
                "auto",
                "--pruning.probe_tokens",
                "[8]",
                "--algorithm",
                "grpo",
                "--algorithm.correction",
                "plain",
            ],
            "algorithm.correction = 'plain': rule = 'auto' estimates the noise of 'ipw'; set it to 'ipw'",
        ),
        (
            ["--pruning", "auto", "--pruning.probe_tokens", "[8]", "--algorithm.correction", "doubly_robust"],
            "algorithm.correction = 'doubly_robust': rule = 'auto' estimates the noise of 'ipw'; set it to 'ipw'",
        ),
        (
            ["--pruning.rule", "confidence"],
            "algorithm.correction = 'ipw': rule 'confidence' stops with certainty, so no weights exist; "
            "set it to 'plain' or pruning.mix above 0",
        ),
        (
            ["--pruning.keep_ratio", "0"],
            "pruning.keep_ratio = 0: must be above 0; expected: Share of the candidates that survive, in (0, 1].",
        ),
        (
            ["--pruning.keep_ratio", "1.5"],
            "pruning.keep_ratio = 1.5: must be at most 1; expected: Share of the candidates that survive, in (0, 1].",
        ),
        (["--task.max_ops", "1"], "task.max_ops = 1: at least min_ops = 2"),
        (
            ["--pruning", "oracle", "--pruning.probe_tokens", "[8]", "--pruning.target_positive_ratio", "1"],
            "pruning.target_positive_ratio = 1: keeps 4 right of 4 rollouts, so one outcome is left out with certainty "
            "and no weights exist; move it towards 0.5, or set algorithm.correction = 'plain'",
        ),
        (
            ["--pruning", "extremes", "--pruning.draw", "bernoulli"],
            "pruning.draw = 'bernoulli': extremes ranks siblings, so set 'systematic'",
        ),
        (
            ["--pruning", "paper", "--pruning.keep_ratio", "0.95"],
            "pruning.keep_ratio = 0.95: outside [min_survival, max_survival] = [0.2, 0.9], so it cannot be met; move "
            "it inside, or move the bound",
        ),
        (
            ["--pruning", "neyman", "--pruning.keep_ratio", "0.05"],
            "pruning.keep_ratio = 0.05: outside [min_survival, max_survival] = [0.2, 1], so it cannot be met; move it "
            "inside, or move the bound",
        ),
        (
            ["--engine.dtype", "bfloat16"],
            "engine.dtype = 'bfloat16': samples from another policy than the learner's; set algorithm.importance_cap, "
            "for example to 2.0",
        ),
        (
            [
                *("--algorithm", "dapo", "--algorithm.overlong_buffer_tokens", "8"),
                *("--allocation.rule", "uniform", "--allocation.posterior.used_for", "advantage"),
            ],
            "algorithm.overlong_buffer_tokens = 8: the posterior is of a success rate, which knows no penalty; set it "
            "to 0, or allocation.posterior.used_for to 'allocation'",
        ),
        (
            ["--algorithm", "grpo", "--algorithm.estimator", "ipw"],
            "algorithm.estimator = 'ipw': unknown key; the nearest known one is 'algorithm.correction'",
        ),
        (["--training.step", "5"], "training.step = 5: unknown key; the nearest known one is 'training.steps'"),
        (["--traininq.steps", "5"], "traininq.steps = 5: unknown key; the nearest known one is 'training.steps'"),
        (
            ["--training.steps", "0"],
            "training.steps = 0: must be at least 1; expected: Training steps, 1 to 1000000000.",
        ),
        (
            ["--name", "../up"],
            "name = '../up': has characters that are not allowed here; "
            "expected: Name of the run and of its folder under out_dir: letters, digits, dots, dashes.",
        ),
    ],
)
def test_a_mistake_names_field_value_and_remedy(run_file, flags, expected):
    assert refusal(load_run, run_file, *flags) == expected


def test_limits_of_pruning_do_not_bind_where_nothing_is_pruned(run_file):
    flags = ["--pruning.rule", "never", "--pruning.probe_tokens", "[512]", "--training.group_size", "1"]
    assert load_run(run_file, flags).training.group_size == 1
    assert "beyond the length limit" in refusal(load_run, run_file, *flags, "--pruning.observe", "true")
    assert load_run(run_file, ["--pruning.rule", "confidence", "--pruning.mix", "0.1"]).pruning.mix == 0.1


def test_a_task_without_its_name_lists_the_tasks(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('model = "m"\n[task]\nmin_ops = 2\n')
    assert refusal(load_run, path) == "task.name: missing; choose one of 'arithmetic', 'countdown', 'search', 'dataset'"
    path.write_text('[task]\nname = "countdown"\nmin_numbers = 5\n')
    assert refusal(load_run, path).startswith("model: missing; expected: Folder or hub name")
    path.write_text('model = "m"\n[task]\nname = "countdown"\nmin_numbers = 5\n')
    assert refusal(load_run, path) == "task.max_numbers = 4: at least min_numbers = 5"


def test_a_comparison_varies_one_run(compare_file):
    compare = load_compare(compare_file, ["--run.training.steps", "7", "--seeds", "[5]"])
    grpo, pruned = (arm_config(compare, arm, 5) for arm in compare.arms)
    assert (grpo.pruning.rule, pruned.pruning.rule, pruned.pruning.scope) == ("never", "neyman", "batch")
    assert grpo.pruning.probe_tokens == (24,)
    assert (grpo.name, grpo.out_dir, grpo.seed, grpo.training.steps) == ("grpo-seed5", "out/trial", 5, 7)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--seeds", "[1, 1]"], "seeds = [1, 1]: name each seed once"),
        (["--seeds", "[0, -1]"], "arm 'grpo': seed = -1: must be at least 0"),
        (["--seeds", "[]"], "seeds = []: must have at least 1 entry"),
        (["--run.training.group_size", "2"], "arm 'pruned': training.group_size = 2: too small for the floor"),
        (["--run.num-threads", "0"], "arm 'grpo': num_threads = 0: must be at least 1"),
        (["--training.steps", "5"], "training.steps = 5: unknown key; the nearest known one is 'run.training.steps'"),
        (["--arms", '[{name="a"},{name="a"}]'], "arms = ['a', 'a']: give each arm a name of its own"),
        (
            ["--arms", '[{name="a", change={prunning={}}}]'],
            "arm 'a': prunning = {}: unknown key; the nearest known one",
        ),
    ],
)
def test_a_mistake_in_a_comparison_names_its_arm(compare_file, flags, expected):
    assert refusal(load_compare, compare_file, *flags).startswith(expected)


def test_changes_leave_what_they_are_laid_over_alone():
    values = {"pruning": {"rule": "neyman", "scope": "batch", "keep_ratio": 0.4}}
    changed, left_out = change(RunConfig, values, {"pruning": {"rule": "balanced", "shrinkage": 1}})
    assert changed["pruning"] == {"rule": "balanced", "keep_ratio": 0.4, "shrinkage": 1}
    assert left_out == ["pruning.scope = 'batch'"]  # balanced has groups and the buffer
    changed, left_out = change(RunConfig, values, {"pruning": {"rule": "never"}})
    assert changed["pruning"] == {"rule": "never", "keep_ratio": 0.4}
    assert left_out == ["pruning.scope = 'batch'"]
    assert values == {"pruning": {"rule": "neyman", "scope": "batch", "keep_ratio": 0.4}}


@pytest.mark.parametrize("task", ["arithmetic", "countdown", "search"])
@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "configs").glob("*.toml")), ids=lambda path: path.stem
)
def test_every_shipped_config_takes_another_task(path, task):
    flags = ["--task", task, "--name", "1e3"]
    if "run" in (values := read_toml(path)):
        assert load_compare(path, [f"--run.{flags[0][2:]}", *flags[1:2]]).run["task"]["name"] == task
    elif set(values) & {"pretrain_steps", "eval_prompts", "batch_size"}:
        assert load_sft(path, flags).task.name == task
    else:
        config = load_run(path, flags)
        assert (config.task.name, config.name) == (task, "1e3")


def test_a_bare_word_names_the_variant_of_a_section(run_file, compare_file):
    assert load_run(run_file).engine.name == "embedded"
    assert load_run(run_file, ["--engine.prefill_tokens", "5"]).engine.prefill_tokens == 5
    engine = load_run(run_file, ["--engine", "vllm", "--engine.max_rows", "7"]).engine
    assert (engine.name, engine.max_rows) == ("vllm", 7)
    assert "engine.name = 'vlm': unknown; the nearest of" in refusal(load_run, run_file, "--engine", "vlm")
    assert "given before" in refusal(load_run, run_file, "--engine", "vllm", "--engine.name", "vllm")
    assert load_compare(compare_file, ["--run.engine", "vllm"]).run["engine"] == {"name": "vllm"}


def test_memory_of_the_cache_is_a_number_or_auto(run_file):
    assert load_run(run_file).engine.cache_gib == "auto"
    assert load_run(run_file, ["--engine.cache_gib", "auto"]).engine.cache_gib == "auto"
    assert load_run(run_file, ["--engine.cache_gib", "2"]).engine.cache_gib == 2.0
    for value, seen in (("0", "0"), ("-1.5", "-1.5"), ("all", "'all'")):
        with pytest.raises(ConfigError) as caught:
            load_run(run_file, ["--engine.cache_gib", value])
        expected = f"engine.cache_gib = {seen}: set it to a number of GiB above 0, or to 'auto'"
        assert str(caught.value) == expected


def test_another_engine_drops_the_fields_it_does_not_have(run_file):
    run_file.write_text(RUN + "[engine]\nmax_rows = 7\nprefill_tokens = 5\n")
    engine = load_run(run_file, ["--engine", "vllm"]).engine
    assert (engine.name, engine.max_rows) == ("vllm", 7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine.quantization", "fp8"], "engine.quantization = 'fp8': samples from another policy"),
        (["--sampling.temperature", "0.7", "--sampling.top_p", "0.9"], "sampling.temperature = 0.7: with top_p"),
        (["--engine.prefill_tokens", "5"], "engine.prefill_tokens = 5: unknown key"),
        (
            ["--pruning", "auto", "--pruning.probe_tokens", "[8]"],
            "pruning.rule = 'auto': vLLM's scheduler sees no outcomes to learn from; use engine.name 'embedded'",
        ),
        (["--engine.sleep_level", "3"], "engine.sleep_level = '3': must be 0, 1 or 2"),
    ],
)
def test_what_vllm_cannot_do_is_refused(run_file, flags, message):
    assert message in refusal(load_run, run_file, "--engine", "vllm", *flags)


def test_quantised_rollouts_are_allowed_with_the_correction_on(run_file):
    flags = ["--engine", "vllm", "--engine.quantization", "fp8"]
    flags += ["--algorithm", "grpo", "--algorithm.importance_cap", "2.0"]
    assert "engine.dtype = 'float32': vLLM quantises" in refusal(load_run, run_file, *flags)
    assert load_run(run_file, [*flags, "--engine.dtype", "bfloat16"]).engine.quantization == "fp8"


def test_stop_strings_are_texts_and_need_an_engine_that_reads(run_file):
    assert load_run(run_file, ["--sampling.stop", '["\\n\\n", "Q:"]']).sampling.stop == ("\n\n", "Q:")
    assert load_run(run_file, ["--sampling.stop", "###"]).sampling.stop == ("###",)
    assert refusal(load_run, run_file, "--sampling.stop", '["x", ""]') == (
        "sampling.stop = ['x', '']: an empty text would end everything; leave it out"
    )
    line = refusal(load_run, run_file, "--sampling.stop", '["x"]', "--engine", "vllm")
    assert line.startswith(
        "sampling.stop = ['x']: vLLM runs without a tokenizer here and reads no text; use engine.name"
    )
