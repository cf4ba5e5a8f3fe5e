"""Seconds of the phases of a training step."""

from __future__ import annotations

import time


class Clock:
    """Seconds per phase; ``time/step_s`` is their sum."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {"time/step_s": 0.0}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Add the time since the last lap to this phase."""
        now = time.monotonic()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self.laps["time/step_s"] += now - self._last
        self._last = now

    def skip(self, name: str = "") -> None:
        """The time since the last lap is not part of the step; it goes to ``name``, where one is given."""
        now = time.monotonic()
        if name:
            self.laps[name] = now - self._last
        self._last = now
