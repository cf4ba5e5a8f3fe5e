"""docs/metrics.md lists exactly what tiny runs, one per kind of allocation, and a tiny warm start emit."""

import re
from pathlib import Path

import pytest

from arrol.cli.main import main
from arrol.records.store import read_run
from integration import tiny

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"

REWARD = (
    "def last(completions, answer, **columns): return [float(text[-1:] == a) for text, a in zip(completions, answer)]"
)


@pytest.fixture(scope="module")
def emitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics")
    model, prompts = tiny.save_model(folder / "model"), tiny.save_prompts(folder / "prompts")
    config = tiny.save_config(folder / "tiny.toml", model, prompts, folder)
    flags = ["--training.steps", "3", "--algorithm.name", "dr_grpo", "--algorithm.kl_coef", "0.1"]
    assert main(["train", str(config), *flags, "--algorithm.importance_cap", "2", "--records.shadow_share", "1"]) == 0
    for rule in ("aero", "greso", "pilot_commit"):
        flags = ["--allocation", rule, "--pruning", "never", "--training.steps", "2", "--name", rule]
        assert main(["train", str(config), *flags]) == 0
    assert (
        main(
            [
                "train",
                str(config),
                "--pruning",
                "auto",
                "--algorithm.correction",
                "ipw",
                "--training.steps",
                "2",
                "--name",
                "auto",
            ]
        )
        == 0
    )
    (folder / "rewards_of_metrics.py").write_text(REWARD, "utf-8")
    flags = ["--task.reward", "rewards_of_metrics:last", "--training.steps", "1", "--name", "reward"]
    assert main(["train", str(config), *flags]) == 0
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1}
    sft = {"out_dir": str(folder), "steps": 1, "batch_size": 2, "eval_prompts": 2, "max_completion_tokens": 4}
    (folder / "sft.toml").write_text(tiny.toml({**sft, "shape": shape, "task": {"name": "countdown"}, "device": "cpu"}))
    assert main(["sft", str(folder / "sft.toml")]) == 0
    runs = [read_run(folder / name) for name in ("tiny", "aero", "greso", "pilot_commit", "auto", "reward", "sft")]
    return {key for run in runs for row in (*run.steps, *run.evals) for key in row.metrics}


@pytest.fixture(scope="module")
def documented():
    """Keys in order, each with the pattern it stands for."""
    keys = re.findall(r"^\| `([^`]+)` \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert len(keys) == len(set(keys))
    return {key: re.compile(re.sub(r"<\w+>", r"\\w+", key)) for key in keys}


def test_every_key_that_is_emitted_is_listed(emitted, documented):
    assert [key for key in sorted(emitted) if not any(p.fullmatch(key) for p in documented.values())] == []


def test_every_key_that_is_listed_is_emitted(emitted, documented):
    assert [key for key, pattern in documented.items() if not any(map(pattern.fullmatch, emitted))] == []
