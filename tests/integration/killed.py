"""``arrol train`` in a process that dies at a planned moment and says on a board in which phase it is."""

import mmap
import os
import signal
import struct
import sys
from importlib import import_module
from typing import NamedTuple

PHASES = {
    "start, resumption, end": ("arrol.cli.train", "train_one"),
    "sampling": ("arrol.training.trainer", "Trainer._sample"),
    "update": ("arrol.training.learner", "Learner.update"),
    "evaluation": ("arrol.training.trainer", "Trainer._evaluate"),
    "a row being written": ("arrol.records.lines", "LineWriter.write_line"),
    "texts being written": ("arrol.records.texts", "TextWriter.write"),
    "a checkpoint being written": ("arrol.training.trainer", "save_checkpoint"),
    "an old checkpoint being deleted": ("arrol.training.trainer", "forget_checkpoints"),
    "records being cut": ("arrol.cli.train", "cut_records"),
    "the end being sealed": ("arrol.cli.train", "seal_records"),
}
"""Phase -> the function that it is, outside of the others."""
NUM_PHASES = len(PHASES)
BOARD = 8 * (1 + NUM_PHASES)
"""Bytes of the board: the phase, then calls by phase."""


class Plan(NamedTuple):
    """When to die."""

    how: str
    """``count``: not at all, calls are counted; ``call``: at call ``number`` inside ``phase``; ``row``: in the middle
    of row ``number``; ``file``: in the middle of file ``number`` of weights or moments; ``disk``: not at all, but from
    write ``number`` on the disk is full."""
    phase: str = ""
    number: int = 0
    share: float = 0.5
    """Of the row or file that is on disk by then."""


def run_watched(argv, log, board, plan):
    """``arrol ARGV`` under a plan, its output in ``log``, its phase and calls in the file ``board``."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    with open(board, "wb") as file:
        file.write(bytes(BOARD))
    with open(board, "r+b") as file:
        memory = mmap.mmap(file.fileno(), BOARD)
    from arrol.cli import train
    from arrol.cli.main import main

    sys.argv = ["arrol", *argv]
    train.report_after = lambda *_: None  # three quarters of the time; it is drawn from the records alone
    if plan and plan.how == "disk":
        sys.exit(_on_a_full_disk(argv, plan.number, memory))
    watch = Watch(memory, plan)
    for number, (module, attribute) in enumerate(PHASES.values()):
        watch.wrap(number, module, attribute)
    if plan and plan.how == "row":
        _die_in_a_row(plan)
    if plan and plan.how == "file":
        _die_in_a_file(plan)
    sys.exit(main(argv))


class Watch:
    """Knows the phase, counts its calls where a plan asks for it, and dies at the planned one."""

    def __init__(self, memory, plan):
        self._memory, self._plan, self._phase = memory, plan, 0
        self._counts = [0] * NUM_PHASES
        self._is_counting = plan is not None and plan.how in ("count", "call")
        self._fatal = list(PHASES).index(plan.phase) if plan and plan.how == "call" else -1

    def wrap(self, number, module, attribute):
        owner = import_module(module)
        *path, name = attribute.split(".")
        for part in path:
            owner = getattr(owner, part)
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            outer = self._enter(number)
            try:
                return original(*args, **kwargs)
            finally:
                self._enter(outer)

        setattr(owner, name, watched)

    def _enter(self, number):
        outer, self._phase = self._phase, number
        self._memory[0] = number
        if self._is_counting:
            sys.setprofile(self._called)
        return outer

    def _called(self, frame, event, argument):
        if event not in ("call", "c_call"):
            return
        phase = self._phase
        if phase == self._fatal and self._counts[phase] == self._plan.number:
            os.kill(os.getpid(), signal.SIGKILL)
        self._counts[phase] += 1
        struct.pack_into("q", self._memory, 8 * (1 + phase), self._counts[phase])


def _die_in_a_row(plan):
    from arrol.records.lines import LineWriter

    original, rows = LineWriter.write_line, []

    def write_line(self, line):
        rows.append(line)
        if len(rows) > plan.number:
            self._file.write(line[: int(plan.share * len(line))])
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, line)

    LineWriter.write_line = write_line


def _die_in_a_file(plan):
    import safetensors.torch

    original, files = safetensors.torch.save_file, []

    def save_file(tensors, path, *rest, **named):
        original(tensors, path, *rest, **named)
        files.append(path)
        if len(files) > plan.number:
            os.truncate(path, int(plan.share * os.path.getsize(path)))
            os.kill(os.getpid(), signal.SIGKILL)

    safetensors.torch.save_file = save_file


def _on_a_full_disk(argv, number, memory):
    import pytest

    from arrol.cli.main import main
    from integration.full_disk import FullDisk

    disk = FullDisk(number)
    with pytest.MonkeyPatch.context() as patch, disk.over(patch):
        status = main(argv)
    struct.pack_into("q", memory, 8, disk.writes)
    return status
