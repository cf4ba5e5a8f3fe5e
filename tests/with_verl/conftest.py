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
from verl_host import PROMPTS, PRUNING, SIZE, STEPS

AT_ONCE = 2
"""Runs at the same time: one alone leaves a core idle while its processes start in turn, two fill two cores."""
TIMEOUT = 2400
"""Seconds: a test may be the first to wait for a run that is behind all others, beside another suite."""
WAIT = {"runs", "host"}
"""Fixtures of tests that wait for a run."""
MISSING = "verl is not installed here; run: make test-verl"


def pytest_configure(config):
    """verl and what it loads warn of their own future; our own warnings are errors here as everywhere."""
    config.addinivalue_line("filterwarnings", "default")
    config.addinivalue_line("filterwarnings", "error:::arrol")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "with_verl":
            if WAIT & {*item.fixturenames}:
                item.add_marker(pytest.mark.timeout(TIMEOUT))
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
def smollm2_data(tmp_path_factory):
    """Folder with word problems and the first layer of SmolLM2-135M: a step of all thirty takes minutes."""
    folder = tmp_path_factory.mktemp("smollm2_data")
    verl_host.prepare_smollm2(folder, num_layers=1)
    return folder


class Arm(NamedTuple):
    """One run of verl; ``sizes`` are those of ``verl_host.plain_overrides``."""

    overrides: tuple[str, ...] = ()
    prune: bool = True
    """With the lines that the helper derives."""
    sizes: dict[str, int] = {}
    after: str = ""
    """The arm whose checkpoints it continues."""
    data: str = "data"
    """The fixture with prompts and model."""


ALLOCATION = "+arrol.allocation"
GRESO = (
    f"{ALLOCATION}.rule=greso",
    f"{ALLOCATION}.max_draws=2",
    f"data.train_max_samples={2 * PROMPTS}",
)
"""Four of the same eight prompts in every step."""
SMALL = ("data.max_prompt_length=64", "data.max_response_length=12")
"""For word problems; float32 as all runs, because a CPU takes minutes for bfloat16."""
ARMS = {
    # verl without us.
    "alone": Arm(prune=False),
    # Our best rule and GRESO, pruning from the first step, with a checkpoint; two processes share the groups.
    "pruned": Arm((*PRUNING, *GRESO, "trainer.save_freq=2"), sizes={"workers": 2}),
    # The same run, one step longer, from its checkpoint.
    "again": Arm((*PRUNING, *GRESO, "trainer.save_freq=1"), sizes={"steps": STEPS + 1}, after="pruned"),
    # PODS: two of the three survivors train, beside a reference model.
    "halved": Arm(
        (
            *PRUNING,
            "+arrol.rule=uniform",
            "+arrol.keep_ratio=0.75",
            f"{ALLOCATION}.rule=pods",
            f"{ALLOCATION}.train_size=2",
            "actor_rollout_ref.actor.use_kl_loss=True",
        ),
        sizes={"steps": 1},
    ),
    # A real model. The first step measures lengths for the probe.
    "smollm2": Arm(
        ("+arrol.warmup_steps=0", "trainer.test_freq=-1", *SMALL),
        sizes={"prompts": 2, "steps": 6},
        data="smollm2_data",
    ),
    # The same model under verl without us, and with nothing pruned.
    "smollm2_alone": Arm(SMALL, prune=False, data="smollm2_data"),
    "off": Arm(("+arrol.rule=never", *SMALL), data="smollm2_data"),
}


class Host:
    """Runs verl, at most ``AT_ONCE`` times at once."""

    def __init__(self):
        self.slots = threading.BoundedSemaphore(AT_ONCE)

    def train(self, arm, data, folder, after=None):
        """One run in an empty folder, perhaps from the checkpoints of another, which is still to come."""
        if after is not None:
            shutil.copytree(after.result().folder / "checkpoints", folder / "checkpoints")
        settings = [
            *verl_host.plain_overrides(data, **{"steps": STEPS, "prompts": PROMPTS, "group_size": SIZE, **arm.sizes}),
            f"trainer.rollout_data_dir={folder}/rollouts",
            f"trainer.validation_data_dir={folder}/validation",
            f"trainer.default_local_dir={folder}/checkpoints",
            "actor_rollout_ref.rollout.val_kwargs.n=2",
            *arm.overrides,
        ]
        with self.slots:
            settings += verl_host.derived(settings) if arm.prune else []
            return Run(folder, verl_host.train(folder, settings))


@pytest.fixture(scope="session")
def host():
    return Host()


@pytest.fixture(scope="session")
def runs(request, host, tmp_path_factory):
    """Name of an arm -> its run to be, for the arms that the tests of this session ask for."""
    wanted = {name for item in request.session.items for name in item.fixturenames}
    wanted |= {arm.after for name, arm in ARMS.items() if name in wanted}
    found = {}
    with ThreadPoolExecutor(len(ARMS)) as pool:
        for name in (name for name in ARMS if name in wanted):
            arm, folder = ARMS[name], tmp_path_factory.mktemp(name)
            data = request.getfixturevalue(arm.data)
            found[name] = pool.submit(host.train, arm, data, folder, found.get(arm.after))
        yield found


def _fixture_of(name):
    return pytest.fixture(scope="session", name=name)(lambda runs: runs[name].result())


alone, pruned, again, halved, smollm2, smollm2_alone, off = (_fixture_of(name) for name in ARMS)
