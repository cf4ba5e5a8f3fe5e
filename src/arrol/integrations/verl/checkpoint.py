"""The head beside verl's checkpoints: ``trainer.checkpoint_callback_class=arrol.integrations.verl.HeadSaver``.

verl calls it on the driver after a save, with the folder ``global_step_N``. It has no hook for loading: the manager
finds the folder again in the same way as verl does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from arrol.integrations.memory import write_head
from arrol.integrations.verl.service import ACTOR_NAME


class HeadSaver(CheckpointCallback):
    """Writes ``arrol_head.json`` and ``arrol_head.safetensors``; a callback of your own may call ``on_save``."""

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: Any
    ) -> None:
        service = find_service()
        if service is None:
            return  # nothing is pruned, so nothing is learnt
        ray.get(service.settle.remote())
        write_head(Path(checkpoint_dir), ray.get(service.save.remote()))


def find_service() -> Any:
    """The actor of this run; None when there is none."""
    try:
        return ray.get_actor(ACTOR_NAME)
    except ValueError:
        return None
