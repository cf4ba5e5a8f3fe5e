"""A disk that is full from some write on, for runs in this process."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch

from arrol.records import lines, state


class FullDisk:
    """From the ``fails_at``-th write on, each one fails with the errno ``reason``. What was written stays, and half of
    the write that fails."""

    def __init__(self, fails_at, reason=errno.ENOSPC):
        self.writes, self._fails_at, self._reason = 0, fails_at, reason

    def is_full(self):
        self.writes += 1
        return self.writes >= self._fails_at

    def fail(self, *_):
        raise OSError(self._reason, os.strerror(self._reason))

    def guarded(self, write):
        def guarded(*args, **kwargs):
            return self.fail() if self.is_full() else write(*args, **kwargs)

        return guarded

    def saving(self, save):
        def saving(tensors, path, *rest, **named):
            save(tensors, path, *rest, **named)
            if self.is_full():
                os.truncate(path, os.path.getsize(path) // 2)
                self.fail()

        return saving

    @contextmanager
    def over(self, monkeypatch):
        """In place of the disk, for everything that a run writes."""
        with monkeypatch.context() as patch:
            patch.setattr(lines, "open", lambda *args, **named: LimitedFile(open(*args, **named), self), raising=False)  # noqa: SIM115
            patch.setattr(safetensors.torch, "save_file", self.saving(safetensors.torch.save_file))
            patch.setattr(state, "save_file", self.saving(state.save_file))
            for name in ("write_text", "write_bytes", "mkdir"):
                patch.setattr(f"pathlib.Path.{name}", self.guarded(getattr(Path, name)))
            for name in ("replace", "fsync"):
                patch.setattr(os, name, self.guarded(getattr(os, name)))
            yield


class LimitedFile:
    """A file of lines on a disk that is full at some point."""

    def __init__(self, file, disk):
        self._file, self._disk = file, disk

    def write(self, data):
        if self._disk.is_full():
            self._file.write(data[: len(data) // 2])
            self._disk.fail()
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)
