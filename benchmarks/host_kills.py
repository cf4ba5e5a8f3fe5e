"""Is a run that was killed inside vLLM, TRL or verl the same in the end? Nothing here measures time.

A short pruned training of the host runs twice without interruption: what the two have in common, the host repeats. Then
it starts again and again, each time with ``kill -9`` of all its processes at random moments: of the clock, or as a file
of a checkpoint appears; each time it is resumed as the host's users do. Each run must end with what the host repeats:
bit for bit, or as near as its own two runs. verl repeats only at times, so there it must end with what every run has.

    OMP_NUM_THREADS=1 python benchmarks/host_kills.py vllm|trl|verl [--kills 20] [--smoke] [--out FILE]

Each host needs its environment (``make vllm-env``, ``trl-env``, ``verl-env``).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import trl_host
import verl_host
from accidents import Tally, kill_all, row
from arrol.errors import CheckpointError
from arrol.integrations.memory import read_head
from arrol.records.schema import BenchRecord
from arrol.records.store import RECORDS_FILE, read_run
from arrol.records.texts import read_texts, text_steps
from arrol.training.checkpoint import load_state, newest_checkpoint
from integration.sameness import plain, weights
from likeness import differs, without_times
from measure import write

ROOT = Path(__file__).resolve().parents[1]
WAIT_S = 900
"""Longest wait for a process."""
NEAR = 1e-3
"""Largest relative difference of numbers that a host repeats nearly."""
VLLM = """
name = "run"
model = {model}
out_dir = {folder}
[engine]
name = "vllm"
[task]
name = "arithmetic"
min_ops = 1
max_ops = 2
[sampling]
max_completion_tokens = 32
[algorithm]
name = "dr_grpo"
importance_cap = 2.0
[pruning]
rule = "neyman"
probe_tokens = [8]
warmup_steps = 1
[training]
steps = {steps}
prompts_per_step = 4
group_size = 8
checkpoint_every = {every}
[optimizer]
learning_rate = 1e-4
[evaluation]
every = 2
num_prompts = 8
"""


BUSY = "node timed out during startup"
"""Ray on a busy machine, before anything of a run has begun."""


class Host(NamedTuple):
    """A training that is started, resumed and compared; all functions take the folder of the run."""

    steps: int
    every: int
    """Steps between checkpoints."""
    command: Callable[[Path, bool], list[str]]
    """With True of a run that may have something to resume."""
    checkpoints: str
    """The folder, below the run's, that holds them."""
    result: Callable[[Path], dict[str, Any]]
    """What is compared, by name."""


def vllm_command(folder: Path, is_resumed: bool) -> list[str]:
    names = {"model": ROOT / "models" / "arithmetic-base", "folder": folder}
    quoted = {key: json.dumps(str(path)) for key, path in names.items()}
    (folder / "run.toml").write_text(VLLM.format(**quoted, steps=HOSTS["vllm"].steps, every=HOSTS["vllm"].every))
    words = ["-m", "arrol.cli.main", "train", str(folder / "run.toml")]
    return [*words, "--resume"] if is_resumed and (folder / "run" / RECORDS_FILE).exists() else words


def vllm_result(folder: Path) -> dict[str, Any]:
    state = load_state(newest_checkpoint(folder / "run" / "checkpoints"))
    state.pop("segment")
    state["config"].pop("out_dir")
    return {**records(folder / "run"), "weights": weights(folder / "run"), "learned state": state}


def trl_command(folder: Path, is_resumed: bool) -> list[str]:
    return [__file__, "trl", "--train", str(folder), *(["--resume"] if is_resumed else [])]


def train_trl(folder: Path, is_resumed: bool) -> None:
    """What a script of a TRL user does; where no checkpoint is whole it starts again, as the error says."""
    host = HOSTS["trl"]
    saving = {"save_strategy": "steps", "save_steps": host.every, "save_total_limit": 2}
    build = lambda: trl_host.trainer(trl_host.config(folder, max_steps=host.steps, **saving))  # noqa: E731
    try:
        build().train(resume_from_checkpoint=is_resumed and any(folder.glob("checkpoint-*")))
    except CheckpointError as error:
        print(error, flush=True)
        build().train()


def trl_result(folder: Path) -> dict[str, Any]:
    last = folder / f"checkpoint-{HOSTS['trl'].steps}"
    log = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return {
        **records(folder / "arrol"),
        "log": [without_times(each) for each in log],
        "weights": (last / "model.safetensors").read_bytes(),
        "learned state": read_head(last),
    }


def verl_command(folder: Path, is_resumed: bool) -> list[str]:
    host = HOSTS["verl"]
    overrides = [
        *verl_host.plain_overrides(folder.parent / "data", steps=host.steps),
        f"trainer.save_freq={host.every}",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.resume_mode={'auto' if is_resumed else 'disable'}",
        *verl_host.PRUNING,
    ]
    return ["-m", "verl.trainer.main_ppo", *overrides, *verl_host.derived(overrides), f"hydra.run.dir={folder}/hydra"]


def verl_result(folder: Path) -> dict[str, Any]:
    """What every run of verl must have: each step and each rollout once, in the record and in what the head learned
    from. Tokens, rewards and weights of two runs of verl are now the same, now not."""
    head = read_head(folder / "checkpoints" / f"global_step_{HOSTS['verl'].steps}")
    assert head is not None
    run = read_run(folder / "checkpoints" / "arrol")
    totals = head["memory"]["ledger"]
    return {
        "what is recorded": {
            "steps": [row.step for row in run.steps],
            "rollouts": [(row.step, row.group, row.index) for row in run.rollouts],
            "texts": text_steps(folder / "checkpoints" / "arrol"),
            "outcome": run.end and run.end.outcome,
        },
        "what the head learned from": {
            "steps": head["memory"]["step"],
            "rollouts": sum(count for name, count in totals.items() if name.startswith("rollout/finish/")),
        },
    }


HOSTS = {
    "vllm": Host(6, 2, vllm_command, "run/checkpoints", vllm_result),
    "trl": Host(8, 2, trl_command, ".", trl_result),
    "verl": Host(4, 2, verl_command, "checkpoints", verl_result),
}


def records(folder: Path) -> dict[str, Any]:
    """Rows and texts of a run's record."""
    run = read_run(folder)
    assert run.end is not None
    rows = {kind: [_fields(each) for each in getattr(run, kind)] for kind in ("steps", "evals", "rollouts")}
    texts = {step: read_texts(folder, step) for step in text_steps(folder)}
    return {**rows, "texts": texts, "outcome": run.end.outcome}


def _fields(record: Any) -> dict[str, Any]:
    fields = json.loads(plain(record))
    return fields | ({"metrics": without_times(fields["metrics"])} if "metrics" in fields else {})


class Scene:
    """A folder for runs of a host; from :meth:`measure` on, what an uninterrupted run leaves there."""

    def __init__(self, name: str, root: Path) -> None:
        self.host, self.root = HOSTS[name], root
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
        if name == "verl":
            (root / "data").mkdir()
            verl_host.prepare(root / "data", held_out=8)

    def measure(self) -> None:
        """Two runs without interruption: how long one takes, what it leaves, and how nearly the other repeats it."""
        started = time.monotonic()
        self.run(self.root / "whole")
        self.seconds = time.monotonic() - started
        self.files = len(self.saved(self.root / "whole"))
        self.whole = self.host.result(self.root / "whole")
        self.run(self.root / "again")
        again = self.host.result(self.root / "again")
        self.near = {part: self.nearness(self.whole[part], again[part]) for part in self.whole}

    @staticmethod
    def nearness(first: Any, second: Any) -> float | None:
        """0: repeated bit for bit; ``NEAR``; None: not repeated."""
        return next((near for near in (0.0, NEAR) if not differs(first, second, near)), None)

    @property
    def log(self) -> Path:
        """Output of the last process."""
        return self.root / "log"

    def saved(self, folder: Path) -> set[str]:
        """Files of checkpoints; a folder may vanish while it is read."""
        found = set()
        for place, _, names in os.walk(folder / self.host.checkpoints):
            parts = Path(place).relative_to(folder).parts
            if any(part.startswith(("checkpoint-", "step-", "global_step_")) for part in parts):
                found |= {"/".join((*parts, name)) for name in names}
        return found

    def run(
        self,
        folder: Path,
        moment: Callable[[float, set[str]], bool] | None = None,
        resumed: bool = False,
        tries: int = 3,
    ) -> bool:
        """Start or resume, up to ``tries`` times on a busy machine.

        True when ``moment`` (seconds so far, new files) came and everything was killed.
        """
        folder.mkdir(exist_ok=True)
        environment = self.environment
        if self.host is HOSTS["verl"]:
            environment = {**verl_host.own_environment(folder), "PYTHONPATH": os.pathsep.join(
                [*environment["PYTHONPATH"].split(os.pathsep), str(ROOT / "tests" / "with_verl")])}  # fmt: skip
        words, before = self.host.command(folder, resumed), self.saved(folder)
        with self.log.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started = time.monotonic()
        while process.poll() is None:
            seconds = time.monotonic() - started
            if seconds > WAIT_S or (moment and moment(seconds, self.saved(folder) - before)):
                kill_all(process)
                assert seconds <= WAIT_S, self.log.read_text()[-2000:]
                return True
            time.sleep(0.002 if moment else 0.1)
        told = self.log.read_text("utf-8", "replace")
        if process.returncode and BUSY in told and tries > 1:
            return self.run(folder, moment, resumed, tries - 1)
        assert process.returncode == 0, told[-3000:]
        return False

    def ends_otherwise(self, folder: Path) -> str:
        """What is not as in the uninterrupted run, though the host repeats it; empty where nothing is."""
        result = self.host.result(folder)
        parts = ((part, near) for part, near in self.near.items() if near is not None)
        return next(filter(None, (differs(self.whole[part], result[part], near, part) for part, near in parts)), "")


def kills(scene: Scene, count: int, draw: random.Random) -> Iterator[dict[str, Tally]]:
    """By kind of moment, after each run so far: one to three in each run, then it is resumed to its end."""
    found: dict[str, Tally] = defaultdict(Tally)
    done = number = 0
    while done < count:
        folder, number = scene.root / f"killed-{number}", number + 1
        how: list[str] = []
        for _ in range(min(draw.randint(1, 3), count - done)):
            kind, moment = draw_moment(scene, draw)
            if not scene.run(folder, moment, resumed=bool(how)):
                break
            how.append(kind)
        else:
            scene.run(folder, resumed=True)
        note = scene.ends_otherwise(folder)
        for kind in how:
            found[kind].add(note)
        done += len(how)
        print(f"{done} of {count} kills, run {number}: {note or 'the same'}", flush=True)
        shutil.rmtree(folder)
        yield found


def draw_moment(scene: Scene, draw: random.Random) -> tuple[str, Callable[[float, set[str]], bool]]:
    """A random moment of the clock, or a few milliseconds after a random file of a checkpoint appeared."""
    if draw.random() < 0.4:
        limit = draw.uniform(0, scene.seconds)
        return "at a random moment", lambda seconds, files: seconds > limit
    number, delay, seen = draw.randint(1, scene.files), draw.choice((0.0, 0.001, 0.01, 0.1)), list[float]()

    def as_a_file_appears(seconds: float, files: set[str]) -> bool:
        if len(files) >= number and not seen:
            seen.append(seconds)
        return bool(seen) and seconds >= seen[0] + delay

    return "around a checkpoint", as_a_file_appears


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("host", choices=list(HOSTS))
    parser.add_argument("--kills", type=int, default=20, help="default 20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="two kills, to test that the script works")
    parser.add_argument("--out", help="records; replaced; default results/bench-kills-HOST.jsonl")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)  # the process that is killed
    parser.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.train:
        train_trl(flags.train, flags.resume)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(flags.host, Path(folder))
        scene.measure()
        if all(near is None for near in scene.near.values()):
            print(f"two runs of {flags.host} without a kill have nothing in common, so nothing can be compared")
            return 1
        for found in kills(scene, 2 if flags.smoke else flags.kills, random.Random(flags.seed)):
            record(flags, scene, found)
    different = [note for tally in found.values() for note in tally.notes]
    print("\n".join(different) or "no run was another one")
    return 1 if different else 0


def record(flags: argparse.Namespace, scene: Scene, found: Mapping[str, Tally]) -> None:
    """Write the record of the runs so far."""
    repeats = {0.0: "bit for bit", NEAR: f"within {NEAR:g}", None: "not repeated"}
    config = {
        "host": flags.host,
        "kills": sum(tally.tries for tally in found.values()),
        "steps": scene.host.steps,
        "checkpoint_every": scene.host.every,
        "repeats": {part: repeats[near] for part, near in scene.near.items()},
    }
    rows: list[BenchRecord] = [row(f"killed {how}", tally) for how, tally in sorted(found.items())]
    out = flags.out or f"results/bench-kills-{flags.host}.jsonl"
    write(out, f"bench-kills-{flags.host}", config, rows, seed=flags.seed)


if __name__ == "__main__":
    sys.exit(main())
