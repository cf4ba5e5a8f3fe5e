"""Is a run that was killed, damaged or out of disk the same in the end? Nothing here measures time.

The tiny training of the tests (8 steps, a checkpoint every 2) runs once without interruption. Then

* kills: again and again from the start, with ``kill -9`` at random moments: of the clock, at a random call inside a
  random phase, in the middle of a row, or in the middle of a file of a checkpoint; each time it is resumed;
* damage: a run that was killed in its last step, with one file cut off, changed by one bit, or removed;
* disk: a run whose disk is full from a random write on.

Each run must end with the metrics, evaluations, rollouts, completions, weights, moments and learned state of the
uninterrupted one, bit for bit, or be refused in one line that names the damaged file.

    OMP_NUM_THREADS=1 python benchmarks/kills.py [--kills 200] [--damages 300] [--disks 50] [--smoke] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from accidents import Tally, row
from arrol.records.schema import BenchRecord
from arrol.records.store import RECORDS_FILE
from arrol.training.checkpoint import newest_checkpoint, step_of
from integration import tiny
from integration.killed import NUM_PHASES, PHASES, Plan, run_watched
from integration.sameness import assert_same_run, assert_same_texts
from measure import write

REMOVED = "removed"
WAIT_S = 600
"""Longest wait for a process."""


class Scene:
    """A folder with the model, its prompts, the uninterrupted run, and how many calls each phase of it makes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model, self.prompts = tiny.save_model(root / "model"), tiny.save_prompts(root / "prompts")
        config = self.config(root / "whole")
        started = time.monotonic()
        assert self.run(config, None) == 0, self.log.read_text()
        self.seconds = time.monotonic() - started
        self.whole = root / "whole" / "runs" / "tiny"
        self.calls = self.counted(root / "counted")

    @property
    def log(self) -> Path:
        """Output of the last process."""
        return self.root / "log"

    def config(self, folder: Path) -> Path:
        """A config whose run is ``folder / "runs" / "tiny"``."""
        folder.mkdir()
        return tiny.save_config(folder / "tiny.toml", self.model, self.prompts, folder / "runs")

    def run(self, config: Path, plan: Plan | None, *, kill_after_s: float | None = None) -> int:
        """Exit status of ``arrol train``, resumed where there is something to resume; -9 when it was killed."""
        words = ["train", str(config)] + ["--resume"] * has_begun(config.parent / "runs" / "tiny")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(tiny.PRELOAD)
        process = context.Process(target=run_watched, args=(words, str(self.log), str(self.board), plan))
        process.start()
        process.join(WAIT_S if kill_after_s is None else kill_after_s)
        if kill_after_s is not None:
            process.kill()
            process.join(WAIT_S)
        assert process.exitcode is not None, self.log.read_text()
        return process.exitcode

    @property
    def board(self) -> Path:
        """Where a process writes the phase it is in, and its calls."""
        return self.root / "board"

    def phase(self) -> str:
        """In which the last process died."""
        return list(PHASES)[self.board.read_bytes()[0]]

    def counted(self, folder: Path) -> dict[bool, np.ndarray]:
        """Calls by phase of a whole run (False), and of one that is resumed after its first checkpoint (True)."""
        config, found = self.config(folder), {}
        for resumed in (False, True):
            if resumed:
                shutil.rmtree(folder / "runs")
                assert self.run(config, Plan("call", "sampling", int(found[False][1]) // 2)) == -signal.SIGKILL
            assert self.run(config, Plan("count")) == 0, self.log.read_text()
            found[resumed] = np.frombuffer(self.board.read_bytes()[8:], np.int64, NUM_PHASES).copy()
        return found

    def differs(self, config: Path) -> str:
        """What is not as in the uninterrupted run; empty where nothing is."""
        folder = config.parent / "runs" / "tiny"
        try:
            assert_same_run(folder, self.whole)
            assert_same_texts(folder, self.whole)
        except AssertionError as error:
            return str(error)[:500] or "another run"
        return ""


def kill(scene: Scene, config: Path, draw: random.Random) -> tuple[str, bool]:
    """Kill a run once; the phase, and whether it died: it may be done before its moment comes."""
    resumed = has_begun(config.parent / "runs" / "tiny")
    how = draw.choice(("clock", "clock", "call", "call", "call", "row", "file"))
    if how == "clock":
        status = scene.run(config, None, kill_after_s=draw.uniform(0, scene.seconds))
        return scene.phase(), status == -signal.SIGKILL
    calls = dict(zip(PHASES, scene.calls[resumed].tolist(), strict=True))
    phase = draw.choice([name for name, count in calls.items() if count])
    number = draw.randrange(max(calls[phase], 1)) if how == "call" else draw.randrange(100 if how == "row" else 4)
    status = scene.run(config, Plan(how, phase, number, draw.random()))
    return scene.phase(), status == -signal.SIGKILL


def kills(scene: Scene, count: int, draw: random.Random) -> tuple[dict[str, Tally], list[int], int]:
    """By phase; steps that were computed again after each kill; and how many runs there were."""
    found: dict[str, Tally] = defaultdict(Tally)
    lost: list[int] = []
    done = runs = 0
    while done < count:
        config, runs = scene.config(scene.root / "killed"), runs + 1
        phases: list[str] = []
        for _ in range(draw.randint(1, 6)):
            phase, is_killed = kill(scene, config, draw)
            if not is_killed or done + len(phases) == count:
                break
            phases.append(phase)
            lost.append(steps_lost(config.parent / "runs" / "tiny"))
        status = scene.run(config, None)
        note = scene.differs(config) if status == 0 else f"exit {status}: {scene.log.read_text()[-300:]}"
        for phase in phases:
            found[phase].add(note)
        done += len(phases)
        print(f"{done} of {count} kills, run {runs}: {note or 'the same'}", flush=True)
        shutil.rmtree(config.parent)
    return found, lost, runs


def steps_lost(folder: Path) -> int:
    """Steps in the records behind the newest checkpoint."""
    rows = (folder / RECORDS_FILE).read_bytes().split(b"\n")[:-1] if (folder / RECORDS_FILE).exists() else []
    steps = [row["step"] for row in map(json.loads, rows) if row["kind"] == "step"]
    checkpoint = newest_checkpoint(folder / "checkpoints")
    return max(steps, default=0) - min(max(steps, default=0), step_of(checkpoint) if checkpoint else 0)


def has_begun(run: Path) -> bool:
    """Whether there is something to resume."""
    return (run / RECORDS_FILE).exists() or newest_checkpoint(run / "checkpoints") is not None


def damages(scene: Scene, count: int, draw: random.Random) -> dict[str, Tally]:
    """By kind of file: one is damaged, and the run is resumed."""
    found: dict[str, Tally] = defaultdict(Tally)
    base = scene.config(scene.root / "base")
    assert scene.run(base, Plan("call", "sampling", int(scene.calls[False][1]) - 9)) == -signal.SIGKILL
    for number in range(count):
        config = scene.config(scene.root / "damaged")
        run = config.parent / "runs" / "tiny"
        shutil.copytree(base.parent / "runs" / "tiny", run)
        kinds: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(path for path in run.rglob("*") if path.is_file()):
            kinds[kind_of(path.relative_to(run).as_posix())].append(path)
        kind = draw.choice(sorted(kinds))
        path = draw.choice(kinds[kind])
        done = damage(path, draw)
        status, out = scene.run(config, None), scene.log.read_text()
        if status == 2 and path.name in out and out.count("\n") == 1:
            found[kind].refused += 1
        else:
            # the viewer lacks a step: named, but for the oldest, which the size limit removes too
            is_lacking = kind == "texts" and (path.name in out or (done == REMOVED and path == kinds[kind][0]))
            note = f"exit {status}: {out[-300:]}" if status else scene.differs(config) if not is_lacking else ""
            found[kind].add(note and f"{path.relative_to(run)} {done}: {note}")
        shutil.rmtree(config.parent)
        if number % 25 == 24:
            print(f"{number + 1} of {count} damaged files", flush=True)
    return found


def damage(path: Path, draw: random.Random) -> str:
    """Cut a file off, change a bit, or remove it; what was done."""
    content = bytearray(path.read_bytes())
    place, how = draw.randrange(max(len(content), 1)), draw.choice(("cut", "cut", "changed", "changed", REMOVED))
    if how == REMOVED:
        path.unlink()
        return how
    if how == "cut":
        path.write_bytes(content[:place])
    elif content:
        content[place] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    return f"{how} at {place}"


def kind_of(name: str) -> str:
    """Kind of a file, for the table."""
    name = re.sub(r"^checkpoints/step-\d+/", "", name)
    for pattern, kind in (
        ("policy/.*safetensors", "weights of the policy"),
        ("policy/", "config and tokenizer of the policy"),
        ("optimizer", "optimizer"),
        ("state", "learned state"),
        ("manifest", "manifest of a checkpoint"),
        ("texts/", "texts"),
    ):
        if re.match(pattern, name):
            return kind
    return name


def disks(scene: Scene, count: int, draw: random.Random) -> Tally:
    """A disk that is full from a random write on; then it has room and the run is resumed."""
    found, config = Tally(), scene.config(scene.root / "measured")
    assert scene.run(config, Plan("disk", number=10**9)) == 0, scene.log.read_text()
    writes = int(np.frombuffer(scene.board.read_bytes()[8:], np.int64, 1)[0])
    for _ in range(count):
        config = scene.config(scene.root / "full")
        number = draw.randint(1, writes)
        status, out = scene.run(config, Plan("disk", number=number)), scene.log.read_text()
        errors = [line for line in out.splitlines() if line.startswith("arrol: ")]
        is_named = status == 0 or (status == 2 and len(errors) == 1)  # 0: the sums of the end alone were not written
        again = scene.run(config, None)
        note = scene.differs(config) if again == 0 and is_named else f"exit {status}, {again}: {out[-300:]}"
        found.add(note and f"write {number} of {writes}: {note}")
        shutil.rmtree(config.parent)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("kills", 200), ("damages", 300), ("disks", 50), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--smoke", action="store_true", help="a few of each, to test that the script works")
    parser.add_argument("--out", default="results/bench-kills.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.kills, flags.damages, flags.disks = 3, 4, 1
    draw, rows = random.Random(flags.seed), list[BenchRecord]()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        parts: list[tuple[str, Callable[[], dict[str, Tally]]]] = [
            ("damaged: ", lambda: damages(scene, flags.damages, draw)),
            ("full disk", lambda: {"": disks(scene, flags.disks, draw)} if flags.disks else {}),
        ]
        found, lost, runs = kills(scene, flags.kills, draw)
        rows += [row(f"killed: {phase}", found[phase]) for phase in PHASES if phase in found]
        for name, act in parts:
            rows += [row(f"{name}{kind}", tally) for kind, tally in sorted(act().items())]
        config = {
            "kills": flags.kills,
            "runs": runs,
            "steps": 8,
            "checkpoint_every": 2,
            "steps_computed_again_per_kill": float(np.mean(lost)),
        }
    write(flags.out, "bench-kills", config, rows, seed=flags.seed)
    different = [note for each in rows for note in each.config["notes"]]
    print("\n".join(different) or "no run was another one")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
