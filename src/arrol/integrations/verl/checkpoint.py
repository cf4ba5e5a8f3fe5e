"""The head in verl's checkpoints: ``trainer.checkpoint_callback_class=arrol.integrations.verl.HeadSaver``.

verl has no hook for loading; the manager finds the folder in the same way as verl does. verl marks a checkpoint as
whole before it calls us, so the sampler writes the head ahead of it, into ``arrol_ahead`` beside the checkpoints: a run
that is killed in between, or while the head is written, resumes with that one.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import cast

import ray
from omegaconf import DictConfig
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from arrol.errors import CheckpointError
from arrol.integrations.memory import read_head, write_head
from arrol.integrations.verl.batch import total_steps
from arrol.integrations.verl.remote import ACTOR_NAME, RemoteService
from arrol.types import State

AHEAD = "arrol_ahead"
"""Below verl's ``default_local_dir``."""

logger = logging.getLogger(__name__)


class HeadSaver(CheckpointCallback):
    """Writes ``arrol_head.json`` and ``arrol_head.safetensors``; a callback of your own may call ``on_save``."""

    def on_save(
        self, trainer: object, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: object
    ) -> None:
        """Called by verl on the driver after a save, with the folder ``global_step_N``."""
        service = find_service()
        if service is None:
            return  # pruning is off
        ray.get(service.settle.remote())
        write_head(Path(checkpoint_dir), ray.get(service.save.remote()))
        shutil.rmtree(ahead_of(Path(checkpoint_dir)).parent, ignore_errors=True)
        ray.get(service.recorded.remote(is_saved=True))


def coming_checkpoint(config: DictConfig, step: int) -> Path | None:
    """``global_step_N`` that verl writes after this step with the head in it; None where it writes none."""
    trainer, last = config.trainer, total_steps(config)
    is_saved = trainer.save_freq > 0 and (step % trainer.save_freq == 0 or 0 < last <= step)
    if not is_saved or trainer.get("checkpoint_callback_class") is None:
        return None
    return Path(os.path.abspath(trainer.default_local_dir)) / f"global_step_{step}"


def write_ahead(checkpoint: Path, state: State) -> None:
    """Write the head of a checkpoint that does not exist yet; a warning where the disk refuses."""
    _write(ahead_of(checkpoint), state)


def ahead_of(checkpoint: Path) -> Path:
    """Where the head lies until the checkpoint is whole."""
    return checkpoint.parent / AHEAD / checkpoint.name


def checkpoint_head(checkpoint: Path) -> State | None:
    """The head of a checkpoint. Where it is absent or damaged the one that was written ahead takes its place; None
    without any, CheckpointError where the only one is damaged."""
    ahead = ahead_of(checkpoint)
    try:
        found = read_head(checkpoint)
    except CheckpointError:
        if not ahead.is_dir():
            raise
        found = None
    if found is None and (found := read_head(ahead)) is not None:
        _write(checkpoint, found)
    return found


def _write(folder: Path, state: State) -> None:
    try:
        write_head(folder, state)
    except CheckpointError as error:
        logger.warning("arrol: %s", error)


def find_service() -> RemoteService | None:
    """The actor of this run; None where pruning is off."""
    try:
        return cast(RemoteService, ray.get_actor(ACTOR_NAME))
    except ValueError:
        return None
