"""Curves that are watched: bounded, in order, and as one line of text."""

import math
from pathlib import Path

import numpy as np
import pytest

from arrol.records.live import CURVES, MAX_POINTS, PLAIN_RAMP, RAMP, History, duration, seconds_left, shown, sparkline

STEP = {"time/step_s": 2.0, "tokens/generated": 3000.0, "rollout/success_frac_before": 0.25, "pruning/kept_frac": 0.5}


def history_of(values, key="reward/mean"):
    history = History()
    for step, value in enumerate(values, start=1):
        history.add(step, {key: value})
    return history


def test_a_step_gives_the_curves_it_has():
    history = History()
    history.add(1, STEP)
    assert {curve.name: (curve.now, curve.unit) for curve in history.curves()} == {
        "share right": (0.25, ""),
        "kept share of the candidates": (0.5, ""),
        "speed": (1500.0, "tokens/s"),
        "time per step": (2.0, "s"),
    }
    assert history.step == 1


def test_a_value_that_is_not_finite_is_no_point():
    (curve,) = history_of([0.5, math.nan, math.inf, 1.0]).curves()
    assert (curve.steps.tolist(), curve.values.tolist()) == ([1, 4], [0.5, 1.0])


def test_a_curve_of_some_steps_knows_its_first_and_last():
    history = History()
    for step in range(1, 13):
        history.add(step, {"eval/accuracy": 0.1 * step} if step % 5 == 0 else {})
    (curve,) = history.curves()
    assert (curve.name, curve.first, curve.last) == ("accuracy on held-out prompts", 5, 10)
    assert history.step == 12


@pytest.mark.parametrize("count", [MAX_POINTS, MAX_POINTS + 1, 7 * MAX_POINTS + 3])
def test_a_long_run_has_no_more_points_than_a_short_one_and_keeps_its_mean(count):
    values = np.sin(np.arange(count) / 50)
    (curve,) = history_of(values).curves()
    assert MAX_POINTS / 2 <= len(curve.steps) <= MAX_POINTS
    assert (curve.first, curve.last, curve.now) == (1, count, values[-1])
    assert (np.diff(curve.steps) > 0).all()
    expected = np.interp(curve.steps, np.arange(1, count + 1), values)
    np.testing.assert_allclose(curve.values, expected, atol=0.02)


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 5, ""),
        ([1.0], 5, "_"),
        ([2.0, 2.0, 2.0], 5, "___"),
        ([0, 7], 5, "_#"),
        (range(8), 8, PLAIN_RAMP),
        ([0, 0, 7, 7], 2, "_#"),
        ([0, 1, 2, 3, 4, 5, 6], 3, "_~#"),
    ],
)
def test_a_line_of_text_shows_the_course(values, width, line):
    assert sparkline(list(values), width, ramp=PLAIN_RAMP) == line


def test_both_ramps_have_as_many_heights():
    assert len(RAMP) == len(PLAIN_RAMP) == len(set(RAMP)) == len(set(PLAIN_RAMP)) == 8
    assert PLAIN_RAMP.isascii()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (7160, "119 min"),
        (7170, "2 h 00 min"),
        (7200, "2 h 00 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_a_duration_reads_well(seconds, words):
    assert duration(seconds) == words


def test_time_left_is_unknown_before_a_step():
    assert math.isnan(seconds_left(3.0, 0, 5))
    assert seconds_left(10.0, 4, 6) == 15.0


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.500"), (35.24, "35.2"), (1234567.8, "1,234,568"), (-0.1, "-0.100")]
)
def test_numbers_have_three_digits_or_more(value, text):
    assert shown(value) == text


def test_every_curve_is_read_from_a_key_of_the_documented_list():
    seen = set()

    class Keys(dict):
        def get(self, key, default=None):
            seen.add(key)
            return 1.0

    for _, read in CURVES.values():
        read(Keys())
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text("utf-8")
    assert [key for key in seen if f"| `{key}` |" not in page] == []
