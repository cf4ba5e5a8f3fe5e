"""``arrol grpo``: YAML, flags, and ``accelerate launch``."""

import json
import os
import subprocess
import sys

import pytest

import trl_host
from arrol.cli.grpo import reward_function, run_grpo
from arrol.cli.main import main
from arrol.errors import ConfigError

YAML = """
model_name_or_path: {model}
dtype: float32
dataset_name: {data}
reward_funcs: [trl_host.has_digit]
output_dir: {out}
per_device_train_batch_size: 16
num_generations: 8
max_completion_length: 24
max_steps: 3
logging_steps: 1
learning_rate: 1.0e-3
report_to: none
save_strategy: "no"
use_cpu: true
bf16: false
disable_tqdm: true
rule: neyman
keep_ratio: 0.5
probe_tokens: [6]
pruning_warmup_steps: 1
quality: {{hidden_size: 8, min_class_records: 4}}
"""


@pytest.fixture
def config(tmp_path):
    model, tokenizer = trl_host.model_and_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "train.jsonl").open("w") as file:
        for row in trl_host.dataset():
            file.write(json.dumps(row) + "\n")
    path = tmp_path / "x.yaml"
    path.write_text(YAML.format(model=tmp_path / "model", data=tmp_path / "data", out=tmp_path / "out"))
    return path


def test_a_yaml_of_trls_keys_and_ours(config, tmp_path, capsys):
    flags = ["--max_steps", "2", "--keep_ratio", "0.75", "--quality", '{"hidden_size": 4}']
    assert main(["grpo", "--config", str(config), *flags]) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "arrol/pruning/kept_frac" in capsys.readouterr().out


def test_two_processes_under_accelerate_launch(config, tmp_path):
    """``arrol grpo`` with launch arguments calls accelerate's launcher; the reward function counts the processes."""
    config.write_text(config.read_text().replace("has_digit", "has_digit_on_two_ranks") + "num_processes: 2\n")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([os.path.dirname(trl_host.__file__), os.environ.get("PYTHONPATH", "")])
    launch = ["--accelerate_config", "multi_gpu", "--mixed_precision", "no", "--main_process_port", "0"]
    command = [sys.executable, "-m", "arrol.cli.main", "grpo", *launch, "--config", str(config), "--max_steps", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "model.safetensors").is_file()
    rows = [line for line in done.stdout.splitlines() if "arrol/rollout/survivors_frac" in line]
    assert len(rows) == 2  # written once, not once per process


def test_a_reward_model_joins_the_reward_functions(config, tmp_path, capsys):
    classifier = trl_host.reward_model(tmp_path / "judge")
    flags = ["--reward_model_name_or_path", classifier, "--success_reward", "has_digit", "--max_steps", "2"]
    assert main(["grpo", "--config", str(config), *flags]) == 0
    printed = capsys.readouterr().out
    assert "'rewards/judge/mean'" in printed
    assert "'rewards/has_digit/mean'" in printed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--keep_ratio", "7"], "keep_ratio = 7"),
        (["--dataset_name", "/nowhere/at/all"], "dataset_name = '/nowhere/at/all'"),
        (["--dataset_train_split", "nowhere"], "dataset_train_split = 'nowhere'"),
        (
            ["--reward_funcs", "unknown"],
            "reward_funcs = 'unknown': give a dotted path such as module.function, or one of ['accuracy_reward', "
            "'reasoning_accuracy_reward', 'think_format_reward', 'get_soft_overlong_punishment']",
        ),
        (["--reward_funcs", "trl_host.absent"], "reward_funcs = 'trl_host.absent'"),
        (["--keep_ration", "0.5"], "--keep_ration: no option of arrol grpo or accelerate launch; leave it out, or "),
        (["x.yaml"], "x.yaml: no option of arrol grpo or accelerate launch; leave it out, or correct it"),
        (["--multi_gpu", "x.yaml"], "x.yaml: no option of arrol grpo or accelerate launch; leave it out, or "),
        (["--accelerate_config", "nowhere"], "Accelerate config nowhere is neither a file nor a valid config"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(config, capsys, flags, words):
    assert main(["grpo", "--config", str(config), *flags]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("arrol: ")
    assert words in error


def test_an_unknown_key_of_the_file_is_an_error(config):
    config.write_text(config.read_text() + "keep_ration: 0.5\n")
    with pytest.raises(ConfigError, match="keep_ration"):
        run_grpo(["--config", str(config)])


def test_a_missing_file_is_an_error():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        run_grpo(["--config", "nowhere.yaml"])


def test_a_launched_process_is_not_launched_again(config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    with pytest.raises(ConfigError, match=r"^--num_processes: this process was launched already; give it to accel"):
        run_grpo(["--config", str(config), "--num_processes", "2"])


def test_rewards_by_trls_names():
    too_long = [[0] * 1281]
    assert reward_function("get_soft_overlong_punishment")(completion_ids=too_long) == [-1]
    assert reward_function("think_format_reward")(completions=[[{"content": "no"}]]) == [0.0]
