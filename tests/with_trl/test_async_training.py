"""TRL's own asynchronous trainer trains on our worker's samples, on a CPU."""

import async_host
import numpy as np
import pytest

import trl_host
from trl_host import history

pytestmark = pytest.mark.skipif(not trl_host.has_async(), reason="the worker protocol of TRL 1.16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return async_host.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def uniform(folder, tmp_path_factory):
    host, _ = async_host.trained(folder, tmp_path_factory.mktemp("uniform"))
    return host


def test_three_pruned_steps(uniform):
    assert uniform.state.global_step == 3
    kept = history(uniform, "arrol/pruning/kept_frac")
    assert min(kept) < 1.0
    assert np.isfinite(history(uniform, "loss")).all()
    assert history(uniform, "batch/samples_per_step") == [16.0] * 3


def test_sampler_and_learner_agree_in_the_first_step(uniform):
    """Prompts are packed into a tree, old log-probabilities come from another forward pass: they are the same."""
    assert history(uniform, "ratio")[0] == pytest.approx(1.0, abs=1e-5)
    assert history(uniform, "kl")[0] == pytest.approx(0.0, abs=1e-6)


def test_each_batch_has_one_version_and_few_steps_of_staleness(uniform):
    assert set(history(uniform, "arrol/async/weight_versions")) == {1.0}
    assert max(history(uniform, "sample/staleness_max")) <= 1.0
    assert "sample/dropped_stale_total" not in uniform.state.log_history[-2]
