"""Two processes: equal numbers of rows in every forward, one head, and the run that one process would have made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("ranks.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run(folder, ranks, **changes):
    folder.mkdir()
    launch = LAUNCH if ranks > 1 else []
    command = [sys.executable, *launch, str(SCRIPT), str(folder), json.dumps(changes)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.parametrize(
    ("loss_type", "allocation", "probe_tokens"),
    [("dapo", "uniform", None), ("grpo", "uniform", [6]), ("grpo", "aero", [6])],
)
def test_two_ranks_train_what_one_process_would(tmp_path, loss_type, allocation, probe_tokens):
    """None: the lengths of both ranks choose the probe."""
    common = {"loss_type": loss_type, "max_steps": 4, "allocation": allocation, "probe_tokens": probe_tokens}
    two = run(tmp_path / "two", 2, per_device_train_batch_size=16, **common)
    assert [result["ranks"] for result in two] == [2, 2]
    assert two[0]["weights"] == two[1]["weights"]
    assert two[0]["head"] == two[1]["head"]
    assert two[0]["survivors"] != two[1]["survivors"]  # else equal row counts would prove nothing
    (one,) = run(tmp_path / "one", 1, per_device_train_batch_size=32, **common)
    assert one["generated"] == two[0]["generated"]
    assert one["probes"] == two[0]["probes"] == two[1]["probes"] != []
    np.testing.assert_allclose(one["weights"], two[0]["weights"], rtol=0, atol=2e-4)


def test_ranks_share_a_budget(tmp_path):
    options = {"rollout_budget": 24, "posterior": {"discount": 1.0}}
    changes = {"rule": "never", "allocation": "knapsack", "allocation_options": options, "loss_type": "grpo"}
    two = run(tmp_path / "two", 2, per_device_train_batch_size=16, max_steps=4, **changes)
    assert [result["survivors"] for result in two] == [12, 12]
    assert two[0]["weights"] == two[1]["weights"]


def test_groups_split_over_ranks_are_refused(tmp_path):
    with pytest.raises(AssertionError, match="per_device_train_batch_size = 4"):
        run(tmp_path / "two", 2, per_device_train_batch_size=4, num_generations=8)
