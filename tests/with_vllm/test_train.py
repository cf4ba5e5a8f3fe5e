"""``arrol train`` with vLLM as the engine: pruned steps, a saved estimator, a resumed run."""

import numpy as np
import pytest

from arrol.cli.main import main
from arrol.records.store import read_run

CONFIG = """
name = "run"
model = "models/arithmetic-base"
out_dir = {folder!r}
[engine]
name = "vllm"
[task]
name = "arithmetic"
min_ops = 1
max_ops = 2
[sampling]
max_completion_tokens = 48
[algorithm]
name = "dr_grpo"
correction = "doubly_robust"
importance_cap = 2.0
[pruning]
rule = "neyman"
probe_tokens = [8]
warmup_steps = 1
[training]
steps = 3
prompts_per_step = 4
group_size = 8
[optimizer]
learning_rate = 1e-4
[evaluation]
num_prompts = 16
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps, then a third after a restart."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "run.toml").write_text(CONFIG.format(folder=str(folder)))
    assert main(["train", str(folder / "run.toml"), "--training.steps", "2"]) == 0
    assert main(["train", str(folder / "run.toml"), "--resume"]) == 0
    return read_run(folder / "run")


def test_steps_go_on_where_they_ended(run):
    assert [step.step for step in run.steps] == [1, 2, 3]
    assert [(evaluation.step, evaluation.num_prompts) for evaluation in run.evals] == [(0, 16), (2, 16), (3, 16)]


def test_pruning_begins_after_the_warmup_and_halves_the_candidates(run):
    kept = [step.metrics["pruning/kept_frac"] for step in run.steps]
    assert kept[0] == 1.0
    assert all(0.4 <= share <= 0.6 for share in kept[1:])
    assert all(step.metrics["pruning/candidates"] > 8 for step in run.steps)
    assert run.steps[2].metrics["pruning/reason/draw"] == run.steps[2].metrics["pruning/candidates"]


def test_the_head_learns_from_features_that_vllm_sent(run):
    for step in run.steps:
        assert np.isfinite(step.metrics["quality/head_loss"])
        assert step.metrics["tokens/saved"] >= 0
    assert run.steps[1].metrics["tokens/saved"] > 0


def test_engine_and_learner_nearly_agree(run):
    for step in run.steps:
        assert step.metrics["loss/sampler_mismatch"] < 1e-4
        assert step.metrics["loss/importance/mean"] == pytest.approx(1.0, abs=1e-3)


def test_quantised_rollouts_are_corrected_for(tmp_path):
    (tmp_path / "run.toml").write_text(CONFIG.format(folder=str(tmp_path)))
    flags = ["--engine.dtype", "bfloat16", "--engine.quantization", "int8_per_channel_weight_only"]
    assert main(["train", str(tmp_path / "run.toml"), "--training.steps", "2", *flags]) == 0
    for step in read_run(tmp_path / "run").steps:
        assert 1e-3 < step.metrics["loss/sampler_mismatch"] < 0.1
        assert step.metrics["loss/importance/mean"] == pytest.approx(1.0, abs=0.05)
        assert step.metrics["loss/importance/mean"] != 1.0
