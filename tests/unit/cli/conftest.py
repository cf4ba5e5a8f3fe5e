"""Run folders without training: a few rows under a name."""

import json

import pytest

from arrol.records.schema import EndRecord, EvalRecord, RunRecord, StepRecord
from arrol.records.store import RecordWriter


@pytest.fixture
def write_run():
    """``write_run(folder, arm, seed=0, steps=3, outcome="finished", config=...)``"""

    def write(folder, arm, *, seed=0, steps=3, outcome="finished", config=None):
        facts = {"versions": {"arrol": "0"}, "device": "a CPU", "commit": "0" * 40, "dirty": False, "run_id": arm}
        values = config or {"pruning": {"rule": "never" if arm == "grpo" else "neyman", "warmup_steps": 0}}
        run = RunRecord(
            name=folder.name,
            arm=arm,
            seed=seed,
            command="arrol",
            config=values,
            started_at=f"2026-01-0{seed + 1}",
            **facts,
        )
        numbers = {"time/step_s": 2.0, "tokens/generated": 1000.0, "pruning/kept_frac": 0.5, "pruning/candidates": 8.0}
        with RecordWriter(folder / "records.jsonl") as records:
            records.write(run)
            for step in range(steps + 1):
                if step:
                    records.write(StepRecord(step=step, metrics=numbers))
                accuracy = 0.1 + 0.1 * step
                row = {"accuracy": accuracy, "low": 0.0, "high": 1.0, "num_prompts": 50, "samples_per_prompt": 1}
                records.write(EvalRecord(step=step, **row))
            if outcome:
                records.write(EndRecord(step=steps, outcome=outcome))
        return folder

    return write


@pytest.fixture
def run_file(tmp_path):
    """A run's config; its model does not exist."""
    path = tmp_path / "run.toml"
    out_dir = json.dumps(str(tmp_path / "runs"))
    path.write_text(f'name = "mine"\nmodel = "./none"\nout_dir = {out_dir}\n[task]\nname = "arithmetic"\n')
    return path


@pytest.fixture
def compare_file(tmp_path):
    """Two arms, two seeds."""
    path = tmp_path / "compare.toml"
    out_dir = json.dumps(str(tmp_path / "runs"))
    path.write_text(
        'name = "trial"\nseeds = [0, 1]\n[[arms]]\nname = "grpo"\n[[arms]]\nname = "pruned"\n'
        'change.pruning = {rule = "neyman", probe_tokens = [8]}\n'
        f'[run]\nmodel = "./none"\nout_dir = {out_dir}\n[run.training]\nsteps = 3\n[run.task]\nname = "arithmetic"\n'
    )
    return path
