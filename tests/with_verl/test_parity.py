"""The parity table through the Ray actor, and verl's own advantages beside ours."""

import asyncio
import os

import numpy as np
import pytest

from arrol.algorithms.advantages import group_signal
from arrol.configs.method import GrpoConfig
from parity import assert_same, recorded
from verl_host import ENVIRONMENT, ROOT
from verl_parity import JudgedService, played_by_verl


@pytest.fixture(scope="module")
def cluster():
    import ray

    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.2",
        runtime_env={"env_vars": {"RAY_worker_niceness": ENVIRONMENT["RAY_worker_niceness"], "PYTHONPATH": path}},
    )  # fmt: skip
    yield ray
    ray.shutdown()


def test_the_actor_decides_counts_and_teaches_as_the_reference(cluster):
    name = "two_probes"
    actor = cluster.remote(JudgedService).options(num_cpus=0, max_concurrency=100)
    found = asyncio.run(played_by_verl(name, actor.remote))
    _, wanted = recorded(name, whole_group=True)
    found.metrics = [{key: row[key] for key in wanted.metrics[0]} for row in found.metrics]
    assert_same("verl, whole groups", name, found, wanted)


def test_verl_computes_the_advantages_of_correction_plain():
    """Of the survivors, each with the baseline of all; other hosts weigh them by 1/survival by default."""
    import torch
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    (step,), _ = recorded("one_probe", whole_group=True)
    plain = GrpoConfig(correction="plain", leave_one_out=False, normalize_by_std=False)
    for group in step.groups:
        reward_S = group.rewards_G[~np.isnan(group.rewards_G)]
        ones_S = np.ones(len(reward_S))
        ours = group_signal(reward_S, ones_S, ones_S / 2, plain, normalize_by_std=False)
        theirs, _ = compute_grpo_outcome_advantage(
            torch.tensor(reward_S, dtype=torch.float32)[:, None], torch.ones(len(reward_S), 1),
            np.array(["uid"] * len(reward_S)), norm_adv_by_std_in_grpo=False,
        )  # fmt: skip
        np.testing.assert_allclose(theirs[:, 0].numpy(), ours.advantage_G, atol=1e-6)
