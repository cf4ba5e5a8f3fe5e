"""What a run keeps beside its numbers."""

from __future__ import annotations

from pydantic import Field

from arrol.configs.base import StrictModel


class RecordsConfig(StrictModel):
    """Completions on disk, for ``arrol view``."""

    keep_texts_mib: float = Field(32.0, ge=0, le=2**20)
    """MiB of completions, newest steps, compressed, with log-probabilities and probes, 0 to 1048576; 0 keeps none."""
    shadow_share: float = Field(0.0, ge=0, le=1)
    """Share of the stopped rollouts that the embedded engine finishes aside, for the record alone, in [0, 1]."""
