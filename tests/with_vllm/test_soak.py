"""The short form of ``benchmarks/vllm_soak.py``: vLLM's scheduler under clients that do everything wrong."""

import runpy
from pathlib import Path

import pytest

from vllm_host import is_second_runner

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "vllm_soak.py"


@pytest.mark.skipif(is_second_runner(), reason="no model runs here")
def test_nothing_is_lost_hangs_or_stays(model, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    found = {row.variant: row for row in runpy.run_path(str(SCRIPT))["soak"](model, 600)}
    for name, row in found.items():
        if row.limit == row.limit and not name.startswith("memory"):
            assert row.median <= row.limit, name
    assert found["preemptions"].median > 0
    assert found["requests refused"].median > 0
    outcomes = found["requests that were not answered once"].config["outcomes"]
    assert {"pruned", "aborted", "refused"} < set(outcomes)
