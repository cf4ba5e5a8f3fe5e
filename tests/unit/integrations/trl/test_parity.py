"""The parity table through TRL's rollout function, with the double of a trainer; TRL's own is in tests/with_trl."""

import pytest

from parity import SCENARIOS, assert_same, recorded
from trl_parity import double, played_by_trl, without_trl


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_rollout_function_decides_counts_and_teaches_as_the_reference(name, monkeypatch, tmp_path):
    without_trl(monkeypatch, SCENARIOS[name])
    found = played_by_trl(name, double(SCENARIOS[name]), monkeypatch, tmp_path)
    assert_same("trl", name, found, recorded(name)[1])
