"""Real verl on the CPU, once per arm and session; ``make test-verl`` runs it in an environment of its own.

A run takes a minute on two cores, most of it to start Ray and verl, so the tests share them, and two run at once.
"""

import json
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

import verl_host
from arrol.integrations.verl.derive import MANAGER, MANAGER_CLASS
from verl_host import PROMPTS, PRUNING, SIZE, STEPS

AT_ONCE = 2
"""Runs at the same time: one alone leaves a core idle while its processes start in turn, two fill two cores."""
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


class Arm(NamedTuple):
    """One run of verl; ``sizes`` are those of ``verl_host.plain_overrides``."""

    overrides: tuple[str, ...] = ()
    prune: bool = True
    """With the lines that the helper derives."""
    sizes: dict[str, int] = {}
    environment: dict[str, str] = {}
    after: str = ""
    """The arm whose checkpoints it continues."""


NEVER = "+arrol.rule=never"
ALLOCATION = "+arrol.allocation"
ARMS = {
    # verl without us.
    "alone": Arm(prune=False),
    "off": Arm((NEVER,)),
    # MoPPS over the same twelve prompts in every step.
    "chosen": Arm(
        (
            NEVER,
            f"{ALLOCATION}.rule=mopps",
            f"{ALLOCATION}.candidates=3",
            f"data.train_max_samples={3 * PROMPTS}",
            "trainer.save_freq=2",
        )
    ),
    # PODS: two of four train.
    "halved": Arm((NEVER, f"{ALLOCATION}.rule=pods", f"{ALLOCATION}.train_size=2"), sizes={"steps": 1}),
    # Knapsack with a weak prior, so that one visit tells hopeless prompts from others.
    "sized": Arm(
        (
            NEVER,
            f"{ALLOCATION}.rule=knapsack",
            f"{ALLOCATION}.posterior.prior_right=0.1",
            f"{ALLOCATION}.posterior.prior_wrong=0.1",
            f"{ALLOCATION}.posterior.discount=1",
            f"data.train_max_samples={PROMPTS}",
        )
    ),
    # Our best rule, pruning from the first step, with a checkpoint at the end; two processes share the groups.
    "pruned": Arm((*PRUNING, "trainer.save_freq=2"), sizes={"workers": 2}),
    # The same run, one step longer, from its checkpoint.
    "again": Arm((*PRUNING, "trainer.save_freq=1"), sizes={"steps": STEPS + 1}, after="pruned"),
    # The one override and what pruning needs, none of our hooks; two ranks, each of whose servers fails once.
    "bare": Arm(
        (
            *PRUNING,
            "+arrol.rule=uniform",
            f"+{MANAGER}={MANAGER_CLASS}",
            f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS * (SIZE // 2) // SIZE}",
            "actor_rollout_ref.actor.use_dynamic_bsz=True",
            "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True",
        ),
        prune=False,
        sizes={"ranks": 2, "workers": 2, "steps": 1},
        environment={"VERLCPU_FAIL": "3"},
    ),
}


class Host:
    """Runs verl, at most ``AT_ONCE`` times at once."""

    def __init__(self, data):
        self.data, self.slots = data, threading.BoundedSemaphore(AT_ONCE)

    def train(self, arm, folder, after=None):
        """One run in an empty folder, perhaps from the checkpoints of another, which is still to come."""
        if after is not None:
            shutil.copytree(after.result().folder / "checkpoints", folder / "checkpoints")
        settings = [
            *verl_host.plain_overrides(
                self.data, **{"steps": STEPS, "prompts": PROMPTS, "group_size": SIZE, **arm.sizes}
            ),
            f"trainer.rollout_data_dir={folder}/rollouts",
            f"trainer.validation_data_dir={folder}/validation",
            f"trainer.default_local_dir={folder}/checkpoints",
            "actor_rollout_ref.rollout.val_kwargs.n=2",
            *arm.overrides,
        ]
        with self.slots:
            settings += verl_host.derived(settings) if arm.prune else []
            return Run(folder, verl_host.train(folder, settings, environment=arm.environment))


@pytest.fixture(scope="session")
def host(data):
    return Host(data)


@pytest.fixture(scope="session")
def runs(request, host, tmp_path_factory):
    """Name of an arm -> its run to be, for the arms that the tests of this session ask for."""
    wanted = {name for item in request.session.items for name in item.fixturenames}
    wanted |= {arm.after for name, arm in ARMS.items() if name in wanted}
    found = {}
    with ThreadPoolExecutor(len(ARMS)) as pool:
        for name in (name for name in ARMS if name in wanted):
            arm, folder = ARMS[name], tmp_path_factory.mktemp(name)
            found[name] = pool.submit(host.train, arm, folder, found.get(arm.after))
        yield found


def _fixture_of(name):
    return pytest.fixture(scope="session", name=name)(lambda runs: runs[name].result())


alone, off, chosen, halved, sized, pruned, again, bare = (_fixture_of(name) for name in ARMS)
