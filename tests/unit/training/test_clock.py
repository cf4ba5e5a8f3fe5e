"""Laps add up to the step; what is skipped does not."""

import pytest

from arrol.training import clock as module
from arrol.training.clock import Clock


def test_laps_of_a_phase_add_up_and_the_step_is_their_sum(monkeypatch):
    now = iter([10.0, 11.0, 13.0, 14.0, 18.0, 26.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    clock = Clock()
    clock.lap("time/a_s")
    clock.lap("time/b_s")
    clock.skip()
    clock.lap("time/a_s")
    clock.skip("time/record_s")
    expected = {"time/step_s": 7.0, "time/a_s": 5.0, "time/b_s": 2.0, "time/record_s": 8.0}
    assert clock.laps == pytest.approx(expected)
