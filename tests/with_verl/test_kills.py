"""The short form of ``benchmarks/host_kills.py``: a training of verl that is killed in a checkpoint, and resumed.

It goes on from the checkpoint before: a step that is recorded already is computed again."""

import json
import runpy
from pathlib import Path

import numpy as np

from arrol.records.manifest import MANIFEST
from arrol.records.store import RECORDS_FILE
from verl_host import PROMPTS, SIZE

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "host_kills.py"


def test_each_step_is_there_once_after_a_kill(host, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    scene = runpy.run_path(str(SCRIPT))["Scene"]("verl", tmp_path)
    folder, last = tmp_path / "killed", f"global_step_{scene.host.steps}"
    with host.slots:
        assert scene.run(folder, lambda seconds, files: any(last in name for name in files))
        assert not scene.run(folder, resumed=True)
    result = scene.host.result(folder)
    steps = range(1, scene.host.steps + 1)
    recorded, learned = result["what is recorded"], result["what the head learned from"]
    assert recorded["steps"] == recorded["texts"] == list(steps)
    assert recorded["rollouts"] == [(step, *place) for step in steps for place in np.ndindex(PROMPTS, SIZE)]
    assert recorded["outcome"] == "finished"
    assert learned == {"steps": scene.host.steps, "rollouts": len(recorded["rollouts"])}
    # Killed behind the last checkpoint and before the end was recorded: verl has nothing left to do.
    record = folder / "checkpoints" / "arrol"
    (record / MANIFEST).unlink()
    *rows, end = (record / RECORDS_FILE).read_text().splitlines(keepends=True)
    assert json.loads(end)["kind"] == "end"
    (record / RECORDS_FILE).write_text("".join(rows))
    with host.slots:
        assert not scene.run(folder, resumed=True)
    assert scene.host.result(folder) == result
