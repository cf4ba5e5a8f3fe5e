"""The parity table through verl's service, in an event loop; the actor is in tests/with_verl."""

import asyncio
import math
from dataclasses import replace

import pytest

from parity import DIFFERENCES, SCENARIOS, assert_same, recorded
from verl_parity import JudgedService, as_in_verl, handle, played_by_verl

TOKENS = {
    "an_error": "verl does not tell how many tokens a failed rollout has written",
    "a_deadline": "a rollout of verl pauses at the probe, one of an engine writes on while it waits",
}
"""Scenario -> why its tokens are not compared."""


def compared(outcome, name):
    """The outcome with those metrics that verl can know."""
    keys = {key for key in recorded(name)[1].metrics[0] if not (name in TOKENS and "tokens" in key)}
    return replace(outcome, metrics=[{key: row.get(key, math.nan) for key in keys} for row in outcome.metrics])


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_service_decides_counts_and_teaches_as_the_reference(name):
    if name == "a_late_wave":
        pytest.skip(DIFFERENCES["verl", name])
    found = compared(asyncio.run(played_by_verl(name, lambda scenario: handle(JudgedService(scenario)))), name)
    assert_same("verl, its shares", name, found, compared(as_in_verl(name)[1], name))
    assert_same("verl", name, found, compared(recorded(name)[1], name))
