"""The launch script on two Ray nodes of one machine: two loopback addresses, a token of the test's own."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import pytest

import verl_host
from arrol.records.store import read_run
from arrol.records.texts import read_texts
from verl_host import PROMPTS, PRUNING, ROOT, SIZE

SCRIPT = ROOT / "examples" / "08_verl_multinode.sh"
HEAD, OTHER = "127.0.0.2", "127.0.0.3"
START_S = 90


@pytest.fixture
def environment(tmp_path):
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    with socket.create_server((HEAD, 0)) as server:
        port = server.getsockname()[1]
    own = {"PYTHON": sys.executable, "PORT": str(port), "RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_MODE": "token"}
    return {**verl_host.own_environment(tmp_path), **own, "VERLCPU_FAIL": "3"}


@pytest.fixture
def nodes(environment, host, tmp_path):
    """Head and one more; both are told to end, and are waited for."""
    started = []

    def start(name, *arguments):
        command = ["bash", str(SCRIPT), name, HEAD, *arguments, "--num-gpus=1", "--num-cpus=16"]
        with (tmp_path / f"{name}.txt").open("w") as log:
            started.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            )
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in (text := (tmp_path / f"{name}.txt").read_text()):
            assert started[-1].poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.5)

    with host.slots:
        try:
            start("head")
            start("join", OTHER)
            yield
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(timeout=60)


@pytest.mark.usefixtures("nodes")
def test_two_nodes_share_the_survivors_and_a_rollout_that_raises_releases_its_siblings(data, environment, tmp_path):
    """Each of the two servers fails once."""
    overrides = [
        *verl_host.plain_overrides(data, steps=1, workers=2, own_ray=False),
        *PRUNING,
        "+arrol.rule=uniform",
        "trainer.nnodes=2",
        f"trainer.rollout_data_dir={tmp_path}/rollouts",
        f"trainer.default_local_dir={tmp_path}/checkpoints",
        f"hydra.run.dir={tmp_path}/hydra",
    ]
    command = ["bash", str(SCRIPT), "train", HEAD, *overrides]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"ip={OTHER}" in done.stdout + done.stderr, "a worker ran on the other node"
    assert (done.stdout + done.stderr).count("RuntimeError: VERLCPU_FAIL") >= 2
    rows = [json.loads(line) for line in (tmp_path / "rollouts" / "1.jsonl").read_text("utf-8").splitlines()]
    groups = [row["uid"].split("_")[0] for row in rows]
    assert not [group for group in groups if group.startswith("pad")]
    assert sorted(map(groups.count, set(groups))) == [SIZE // 2] * PROMPTS, "a group with a failure keeps its share"
    assert os.path.getsize(tmp_path / "metrics.jsonl") > 0
    record = read_run(tmp_path / "checkpoints" / "arrol")
    ends = Counter(row.finish_reason for row in record.rollouts)
    assert (ends["error"], ends.total()) == (2, PROMPTS * SIZE)
    assert sum(row.keep for row in record.rollouts) == len(rows)
    told = [row for group in json.loads(read_texts(record.folder, 1))["groups"] for row in group["rollouts"]]
    assert sum(len(row["tokens"]) > 0 for row in told) == PROMPTS * SIZE - 2, "workers of both nodes sent their texts"
