"""A warm start's config: what it may leave out, and what contradicts itself."""

import pytest

from arrol.configs.sft import load_sft
from arrol.errors import ConfigError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sft.toml"
    path.write_text('[task]\nname = "arithmetic"\n')
    return path


def test_a_task_is_enough(file):
    config = load_sft(file)
    assert (config.model, config.mixture, config.shape.architecture) == (None, {}, "qwen3")
    assert load_sft(file, ["--shape.hidden_size", "64", "--mixture.careful", "1.0"]).mixture == {"careful": 1.0}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--pretrain_steps", "1000"], "pretrain_steps = 1000: leaves nothing of steps = 1000; lower it"),
        (
            ["--task", '{name="dataset", source="x"}', "--demonstrations", "x.jsonl"],
            "model = None: only the synthetic tasks know an alphabet; name a model to start from",
        ),
        (["--shape.hidden_size", "132"], "shape.hidden_size = 132: no even multiple of num_heads = 4"),
        (["--shape.num_kv_heads", "3"], "shape.num_kv_heads = 3: no divisor of num_heads = 4"),
        (["--stepps", "3"], "stepps = 3: unknown key; the nearest known one is 'steps'"),
        (["--save_dtype", "float16"], "save_dtype = 'float16': must be 'float32' or 'bfloat16'"),
    ],
)
def test_a_contradiction_is_one_line(file, flags, expected):
    if "--task" in flags:
        file.write_text("")
    with pytest.raises(ConfigError) as caught:
        load_sft(file, flags)
    assert str(caught.value).startswith(expected)
