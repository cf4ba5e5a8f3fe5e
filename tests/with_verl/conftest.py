"""Real verl on the CPU, once per arm and session; ``make test-verl`` runs it in an environment of its own.

A run takes a minute on two cores, most of it to start Ray and verl, so the tests share them.
"""

import json
import shutil
from collections import Counter

import pytest

import verl_host
from verl_host import PROMPTS, PRUNING, SIZE, STEPS

MISSING = "verl is not installed here; run: make test-verl"


def pytest_configure(config):
    """verl and what it loads warn of their own future; our own warnings are errors here as everywhere."""
    config.addinivalue_line("filterwarnings", "default")
    config.addinivalue_line("filterwarnings", "error:::arrol")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "with_verl":
            item.add_marker(pytest.mark.timeout(580))
            if not verl_host.has_verl():
                item.add_marker(pytest.mark.skip(reason=MISSING))


class Run:
    """What a run of verl leaves behind."""

    def __init__(self, folder, metrics):
        self.folder, self.metrics = folder, metrics

    def rollouts(self, step):
        """(prompt, completion, reward) -> how often, of what the step was trained on."""
        return Counter((row["input"], row["output"], row["score"]) for row in self.rows("rollouts", step))

    def validation(self, step):
        return Counter((row["input"], row["output"], row["score"]) for row in self.rows("validation", step))

    def rows(self, kind, step):
        return [json.loads(line) for line in (self.folder / kind / f"{step}.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Folder with prompts and the shipped model."""
    folder = tmp_path_factory.mktemp("data")
    verl_host.prepare(folder, held_out=8)
    return folder


@pytest.fixture(scope="session")
def run(data, tmp_path_factory):
    """``run(name, overrides, prune=..., **sizes)``: trains and returns a :class:`Run`."""

    def train(name, overrides=(), *, prune=True, after=None, **sizes):
        folder = tmp_path_factory.mktemp(name)
        if after is not None:
            shutil.copytree(after.folder / "checkpoints", folder / "checkpoints")
        settings = [
            *verl_host.plain_overrides(data, **{"steps": STEPS, "prompts": PROMPTS, "group_size": SIZE, **sizes}),
            f"trainer.rollout_data_dir={folder}/rollouts",
            f"trainer.validation_data_dir={folder}/validation",
            f"trainer.default_local_dir={folder}/checkpoints",
            "actor_rollout_ref.rollout.val_kwargs.n=2",
            *overrides,
        ]
        settings += verl_host.derived(settings) if prune else []
        return Run(folder, verl_host.train(folder, settings))

    return train


@pytest.fixture(scope="session")
def alone(run):
    """verl without us."""
    return run("alone", prune=False)


@pytest.fixture(scope="session")
def pruned(run):
    """Our best rule, pruning from the first step, with a checkpoint at the end; two processes share the groups."""
    return run("pruned", [*PRUNING, "trainer.save_freq=2"], workers=2)
