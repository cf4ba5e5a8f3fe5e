"""The head in verl's checkpoints: ``trainer.checkpoint_callback_class=arrol.integrations.verl.HeadSaver``.

verl has no hook for loading; the manager finds the folder in the same way as verl does.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import ray
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from arrol.integrations.memory import write_head
from arrol.integrations.verl.remote import ACTOR_NAME, RemoteService


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
        ray.get(service.recorded.remote(is_saved=True))


def find_service() -> RemoteService | None:
    """The actor of this run; None where pruning is off."""
    try:
        return cast(RemoteService, ray.get_actor(ACTOR_NAME))
    except ValueError:
        return None
