"""The short form of ``benchmarks/http_soak.py``: a real server under wrong requests and clients that leave."""

import runpy
from pathlib import Path

import pytest

from arrol.records.store import read_records
from vllm_host import is_second_runner

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "http_soak.py"


@pytest.mark.skipif(is_second_runner(), reason="the server's processes run what they run in the first suite")
def test_wrong_requests_are_refused_and_change_no_other(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    out = tmp_path / "soak.jsonl"
    assert runpy.run_path(str(SCRIPT))["main"](["--requests", "120", "--out", str(out)]) == 0, out.read_text()
    run, *_ = read_records(out)
    assert run.config["failures"] == []
    kinds = {name.partition(":")[0] for name in run.config["answers"]}
    assert kinds == {"again", "group", "ours", "field", "bytes", "vanished"}
    assert any("400 of ours" in name for name in run.config["answers"])
