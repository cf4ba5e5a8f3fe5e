"""Two processes: equal numbers of rows in every forward, one head, and the run that one process would have made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SAME = {
    "dapo": {"loss_type": "dapo", "max_steps": 4, "probe_tokens": None},  # the lengths of both ranks choose the probe
    "grpo": {"loss_type": "grpo", "max_steps": 4},
    "aero": {"loss_type": "grpo", "max_steps": 4, "allocation": "aero"},
}
"""What one process would train too."""
BUDGET = {
    "max_steps": 4,
    "rule": "never",
    "allocation": "knapsack",
    "allocation_options": {"rollout_budget": 24, "posterior": {"discount": 1.0}},
    "loss_type": "grpo",
}
CASES = {name: {"per_device_train_batch_size": 16, **changes} for name, changes in {**SAME, "budget": BUDGET}.items()}
AUTO = {"rule": "auto", "max_steps": 6, "loss_type": "grpo", "rule_options": {"noise_ratio": 2.0}}
CASES["auto"] = {"per_device_train_batch_size": 64, **AUTO}
CASES["never"] = {"rule": "never", "per_device_train_batch_size": 12, "max_steps": 2, "steps_per_generation": 1}
CASES["split"] = {"per_device_train_batch_size": 4, "num_generations": 8}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Case -> results of both ranks, all from one launch: processes take longer to start than to train."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, *LAUNCH, ranks.__file__, str(folder), json.dumps(CASES)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    both = [json.loads(Path(folder, f"rank-{rank}.json").read_text()) for rank in range(2)]
    return {name: [results[name] for results in both] for name in CASES}


@pytest.mark.parametrize("name", SAME)
def test_two_ranks_train_what_one_process_would(two, tmp_path, name):
    first, second = two[name]
    assert (first["ranks"], second["ranks"]) == (2, 2)
    assert first["weights"] == second["weights"]
    assert first["head"] == second["head"]
    assert first["survivors"] != second["survivors"]  # else equal row counts would prove nothing
    one = ranks.train(tmp_path, per_device_train_batch_size=32, **SAME[name])
    assert one["generated"] == first["generated"]
    assert one["records"] == first["records"]
    assert one["probes"] == first["probes"] == second["probes"] != []
    np.testing.assert_allclose(one["weights"], first["weights"], rtol=0, atol=2e-4)


def test_auto_learns_from_the_probes_of_all_ranks(two, tmp_path):
    first, second = two["auto"]
    assert first["choices"] == second["choices"]
    assert np.isfinite(first["choices"]).any()
    one = ranks.train(tmp_path, per_device_train_batch_size=128, **AUTO)
    np.testing.assert_allclose(one["choices"], first["choices"], rtol=1e-3)
    assert one["generated"] == first["generated"]


def test_ranks_share_a_budget(two):
    first, second = two["budget"]
    assert [first["survivors"], second["survivors"]] == [12, 12]
    assert first["weights"] == second["weights"]


def test_trl_alone_is_recorded_over_all_ranks_also_where_a_group_is_split(two):
    records = two["never"][0]["records"]
    assert [row[:3] for row in records["rows"]] == [[s, g, i] for s in (1, 2) for g in range(3) for i in range(8)]
    rewards = [row[5] for row in records["rows"]]
    shown = [float(gold in text) for _, _, gold, texts in records["texts"] for text in texts]
    assert rewards == shown
    assert len({prompt for _, prompt, _, _ in records["texts"]}) == 6


def test_groups_split_over_ranks_are_refused_when_the_trainer_is_built(two):
    message = (
        "per_device_train_batch_size = 4: times steps_per_generation = 1 it is no multiple of num_generations = 8, "
        "which would split groups over processes; choose a multiple"
    )
    assert two["split"] == [{"refused": message}] * 2
