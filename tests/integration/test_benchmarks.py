"""Every speed script runs on a tiny shape and leaves valid records. Nothing here looks at a time.

The rival of ``trl_step.py`` lives in an environment of its own; that script is run there (``benchmarks/README.md``).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import runpy
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from arrol.configs.base import validate
from arrol.configs.run import RunConfig, load_run
from arrol.errors import DataError
from arrol.lab.designs import possible
from arrol.lab.merit import Design, base_config
from arrol.lab.moments import Moments
from arrol.records.schema import BenchRecord, MeritRecord, RunRecord
from arrol.records.store import read_records
from browser import find_browser
from unit.lab.conftest import make_pool

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PHASES = ("generate", "learn", "step")
VARIANTS = {
    "generation": {"arrol", "model.generate"},
    "pruning": {
        *(f"{arm} {phase}" for arm in ("never", "scripted", "uniform") for phase in PHASES),
        *(f"{arm} {phase} speed-up" for arm in ("scripted", "uniform") for phase in PHASES),
        "uniform head",
    },
}


@pytest.fixture
def run_smoke(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Path], None]]:
    """Runs a script as ``python benchmarks/SCRIPT.py --smoke --out FILE`` would, in this process."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(script: str, out: Path) -> None:
        path = str(BENCHMARKS / f"{script}.py")
        monkeypatch.setattr(sys, "argv", [path, "--smoke", "--out", str(out)])
        runpy.run_path(path, run_name="__main__")

    yield run
    torch.set_num_threads(threads)
    for name in ("shape", "measure", "hostile", "mutations", "fuzz_formats"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("script", ["generation", "pruning"])
def test_script_replaces_its_file_by_valid_records(
    script: str, run_smoke: Callable[[str, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.jsonl"
    out.write_text("left by an earlier run\n")
    run_smoke(script, out)
    run, *rows = read_records(out)
    assert isinstance(run, RunRecord)
    assert run.name == f"bench-{script}"
    assert run.command.startswith(f"python benchmarks/{script}.py")
    assert str(tmp_path) not in out.read_text()
    benches = [row for row in rows if isinstance(row, BenchRecord)]
    assert len(benches) == len(rows)
    assert {row.variant for row in benches} == VARIANTS[script]
    printed = capsys.readouterr().out
    for row in benches:
        assert row.benchmark == script
        assert row.repeats == 2
        assert 0 < row.p20 <= row.median <= row.p80
        assert (row.ratio_to == "") == math.isnan(row.ratio)
        assert row.variant in printed


def test_changed_survivors_are_counted_in_both_precisions(
    run_smoke: Callable[[str, Path], None], tmp_path: Path
) -> None:
    out = tmp_path / "survivors.jsonl"
    run_smoke("survivors", out)
    run, *rows = read_records(out)
    assert isinstance(run, RunRecord)
    counts = {row.config["dtype"]: row.config for row in rows if isinstance(row, BenchRecord)}
    assert list(counts) == ["float32", "bfloat16"]
    for found in counts.values():
        assert found["survivors"] == 4 * found["prompts"] * found["rollouts"] // 2
    assert counts["float32"]["changed"] == 0


def test_bounds_of_pruning_follow_from_the_token_counts(run_smoke: Callable[[str, Path], None], tmp_path: Path) -> None:
    out = tmp_path / "bench.jsonl"
    run_smoke("pruning", out)
    rows = {row.variant: row for row in read_records(out) if isinstance(row, BenchRecord)}
    assert rows["never generate"].config["tokens_generated"] == 8 * 8
    for arm in ("scripted", "uniform"):
        # 8 rollouts of 8 tokens; 4 of them end at the probe, at 3 tokens
        assert rows[f"{arm} generate"].config["tokens_generated"] == 4 * 8 + 4 * 3
        assert rows[f"{arm} generate speed-up"].limit == pytest.approx(64 / 44)
        assert rows[f"{arm} learn speed-up"].limit == pytest.approx(2.0)
        assert 64 / 44 < rows[f"{arm} step speed-up"].limit < 2.0


@pytest.mark.skipif(find_browser() is None, reason="no Chromium found; install one, or set ARROL_CHROMIUM")
def test_speed_of_the_viewer_is_told(run_smoke: Callable[[str, Path], None], tmp_path: Path) -> None:
    out = tmp_path / "viewer.jsonl"
    run_smoke("viewer", out)
    run, *rows = read_records(out)
    assert isinstance(run, RunRecord)
    medians = {row.variant: row.median for row in rows if isinstance(row, BenchRecord)}
    assert list(medians) == ["first rows", "all rows", "frame"]
    assert 0 < medians["first rows"] <= medians["all rows"]


def test_speed_of_eval_is_told_for_both_kinds_of_golds(run_smoke: Callable[[str, Path], None], tmp_path: Path) -> None:
    out = tmp_path / "eval.jsonl"
    run_smoke("eval_speed", out)
    run, *rows = read_records(out)
    assert isinstance(run, RunRecord)
    kinds = {(row.variant, row.unit) for row in rows if isinstance(row, BenchRecord)}
    assert kinds == {
        (f"{kind}, 56 rows, ours", unit) for kind in ("integer", "symbolic") for unit in ("s of processor", "s")
    }
    assert str(tmp_path) not in out.read_text()


@pytest.mark.slow
def test_killed_and_damaged_runs_end_as_the_whole_one(
    run_smoke: Callable[[str, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kills.jsonl"
    with pytest.raises(SystemExit) as ended:
        run_smoke("kills", out)
    assert ended.value.code == 0, capsys.readouterr().out
    run, *rows = read_records(out)
    assert isinstance(run, RunRecord)
    benches = [row for row in rows if isinstance(row, BenchRecord)]
    for kind, tries in (("killed: ", 3), ("damaged: ", 4), ("full disk", 1)):
        found = [row for row in benches if row.variant.startswith(kind)]
        assert sum(row.config["same"] + row.config["refused"] for row in found) == tries
        assert all(row.config["different"] == 0 and row.median == 1.0 for row in found)
    assert str(tmp_path) not in out.read_text()


@pytest.mark.slow
def test_verdicts_survive_killed_workers_and_many_askers(
    run_smoke: Callable[[str, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "load.jsonl"
    with pytest.raises(SystemExit) as ended:
        run_smoke("verifier_load", out)
    assert ended.value.code == 0, capsys.readouterr().out
    run, *rows = read_records(out)
    assert isinstance(run, RunRecord)
    assert run.config["decided_by_algebra"] > 40
    found = {row.variant: row for row in rows if isinstance(row, BenchRecord)}
    assert found["workers killed"].median > 0
    assert all(row.median <= row.limit for row in found.values() if row.limit == row.limit)


def test_damaged_files_of_every_format_are_read_or_refused(
    run_smoke: Callable[[str, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fuzz.jsonl"
    with pytest.raises(SystemExit) as ended:
        run_smoke("fuzz_files", out)
    assert ended.value.code == 0, capsys.readouterr().out
    run, *rows = read_records(out)
    assert isinstance(run, RunRecord)
    benches = [row for row in rows if isinstance(row, BenchRecord)]
    assert len(benches) == 11
    assert all(
        row.repeats == row.config["equal"] + row.config["other"] + row.config["refused"] == 20 for row in benches
    )
    assert all(row.config["refused"] > 0 for row in benches if row.variant != "lock file")
    assert str(tmp_path) not in out.read_text()


def test_a_fault_in_a_reader_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback, a line that names nothing, a side effect, and changed bytes that read as something else."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    fuzz = runpy.run_path(str(BENCHMARKS / "fuzz_files.py"))
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "a.bin").write_bytes(bytes(99))

    def outcome(act: Callable[[bytes], object], *, is_sealed: bool = False) -> str:
        form = fuzz["Format"]("a", ("a.bin",), lambda _, path: str(act(path.read_bytes())), is_sealed)
        bench.files[form] = ["a.bin"]
        bench.whole["a", "a.bin"] = str(bytes(99))
        ended = [bench.case(form, number, 0) for number in range(20)]
        assert (tmp_path / "work" / "a.bin").read_bytes() == bytes(99)
        return " | ".join(f"{one.outcome} {one.note}" for one in ended)

    def refused(content: bytes) -> None:
        raise DataError(content[:0].decode() + said)

    bench = fuzz["Bench"](tmp_path / "work")
    assert "failed" not in outcome(lambda content: content)
    assert "failed changed bytes were read as another file" in outcome(lambda content: content, is_sealed=True)
    assert "failed ZeroDivisionError: division by zero" in outcome(lambda content: 1 / (len(content) == 99))
    said = "samples: a.bin is damaged"
    assert outcome(refused).startswith("refused samples: a.bin is damaged | refused")
    said = "is damaged"
    assert outcome(refused).startswith("failed names no file: is damaged | failed")
    assert "failed side effect: compile" in outcome(lambda content: eval("len(content)", {"content": content}))
    assert "failed side effect: wrote" in outcome(lambda _: (tmp_path / "b").write_text(""))
    assert re.search(r"failed \d+ MiB", outcome(lambda _: len(bytearray(600 * 2**20))))


@pytest.mark.slow
def test_speed_of_the_laboratory_is_told_for_the_pool_and_the_advice(
    run_smoke: Callable[[str, Path], None], tmp_path: Path
) -> None:
    out = tmp_path / "lab.jsonl"
    run_smoke("lab_speed", out)
    run, *rows = read_records(out)
    assert isinstance(run, RunRecord)
    assert [(row.variant, row.config["goal"]) for row in rows if isinstance(row, BenchRecord)] == [
        ("arrol lab", 300.0),
        ("arrol advise", 10.0),
    ]


@pytest.mark.slow
def test_checks_of_the_verifiers_find_nothing_and_continue_where_they_stopped(
    run_smoke: Callable[[str, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "checks.jsonl"
    run_smoke("verifier_checks", out)
    run, *rows = read_records(out)
    assert isinstance(run, RunRecord)
    benches = {row.variant: row for row in rows if isinstance(row, BenchRecord)}
    for what in ("wrong verdicts", "crashes"):
        assert (benches[f"fuzz, {what}"].median, benches[f"fuzz, {what}"].repeats) == (0.0, 200)
    assert benches["symbolic verifier, mathematics"].config["right_frac"] == 0.5
    assert 0 < benches["fuzz, peak memory of a worker"].median < 1.5
    assert str(tmp_path) not in out.read_text()
    state = out.with_suffix(".state")
    first, second = state.read_text().splitlines(keepends=True)
    state.write_text(first + second[:-10])  # killed while it wrote the second block
    capsys.readouterr()
    run_smoke("verifier_checks", out)
    assert "block 0 in" not in capsys.readouterr().out
    again = [json.loads(line) for line in state.read_text().splitlines()]
    assert again[0] == json.loads(first)
    assert [(line["first"], line["count"]) for line in again] == [(0, 100), (100, 100)]


def test_gold_answers_of_a_folder_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    checks = runpy.run_path(str(BENCHMARKS / "verifier_checks.py"))
    (tmp_path / "svamp").mkdir()
    rows = [{"Body": "Ann has eggs", "Question": f"How many, {n}?", "Answer": float(n)} for n in (3, 4, 4, 1_000)]
    (tmp_path / "svamp" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = checks["gold_records"](argparse.Namespace(data=tmp_path, workers=1))
    forms = ("fraction", "decimal", "power of ten", "text", "with unit")
    expected = [("against itself", 1.0), ("against another", 0.0), *((f"as {form}", 1.0) for form in forms)]
    assert [(r.variant, r.median, r.repeats) for r in records] == [
        (f"svamp gold {what}, {kind}", rate, 4) for kind in ("integer", "symbolic") for what, rate in expected
    ]
    sys.modules.pop("hostile", None)


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of ``lab_pools.py``."""
    monkeypatch.chdir(BENCHMARKS.parent)
    return runpy.run_path(str(BENCHMARKS / "lab_pools.py"))


@pytest.mark.parametrize("task", ["arithmetic-8", "countdown", "search"])
def test_all_designs_of_the_pools_are_possible_and_the_reference_is_first(pools: dict[str, Any], task: str) -> None:
    config, *flags = pools["TASKS"][task]
    base = base_config(load_run(config, flags))
    named = pools["designs"](load_run(config).pruning.probe_tokens[0])
    designs = [Design(name, change) for name, change in named]
    assert possible(designs, base) == designs
    assert named[0] == ("group of 16", {"training": {"group_size": 16}})
    assert len({name for name, _ in named}) == len(named)
    written = tomllib.loads(pools["_as_toml"](named))["designs"]
    assert [(one["name"], one["change"]) for one in written] == named


def test_auto_has_the_pool_s_own_noise_ratio_and_the_prices_of_each_cost_model(pools: dict[str, Any]) -> None:
    pool = make_pool()
    named = pools["auto_designs"](pool)
    assert len(named) == 6
    designs = [Design(name, change) for name, change in named]
    assert possible(designs, base_config(validate(RunConfig, pool.meta["config"]))) == designs
    by_name = {name: change["pruning"] for name, change in named}
    assert by_name["auto for 4:3, group of 16"]["trained_price"] == pytest.approx(1.5)
    assert by_name["auto for 7b, group of 16"]["step_price"] == pytest.approx(2 * 10.8e-3 / 0.19e-3)
    moments = Moments.of(pool)
    assert by_name["auto for flops, group of 4"]["noise_ratio"] == pytest.approx(
        math.sqrt(moments.within / moments.between)
    )


def test_pools_that_exist_are_not_made_again(pools: dict[str, Any], tmp_path: Path) -> None:
    plan = argparse.Namespace(work=tmp_path, out=tmp_path, prompts=64, rollouts=96, visits=32, steps=24)

    def first_words(stage: str) -> list[list[str]]:
        return [command[:2] for command in pools["commands"]("search", stage, 1, plan)]

    pool, record = tmp_path / "search-end-seed1.safetensors", tmp_path / "lab-search-end-seed1.jsonl"
    judged = ["lab", str(pool)]
    assert first_words("start") == [["lab", "configs/search.toml"], ["lab", str(pool).replace("end", "start")]]
    assert first_words("end") == [["train", "configs/search.toml"], ["lab", "configs/search.toml"], judged]
    (tmp_path / "search-run" / "checkpoints" / "step-000024" / "policy").mkdir(parents=True)
    assert first_words("end") == [["lab", "configs/search.toml"], judged]
    assert [command[-1] for command in pools["commands"]("search", "middle", 1, plan)][:1] == ["--resume"]
    pool.touch()
    assert first_words("end") == [judged]
    record.touch()
    assert first_words("end") == []


def test_seeds_agree_where_their_intervals_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tables = runpy.run_path(str(BENCHMARKS / "lab_tables.py"))

    def merit(value: float, half: float) -> MeritRecord:
        ends = {"merit": value, "low": value * math.exp(-1.96 * half), "high": value * math.exp(1.96 * half)}
        fixed: dict[str, Any] = {"cost": 1.0, "error": 1.0, "group_size": 8.0, "kept": 1.0, "trained": 1.0}
        return MeritRecord(pool="p", design="d", cost_model="flops", bias=float("nan"), **ends, **fixed)

    assert tables["distance"](merit(1.0, 0.3), merit(math.exp(0.5), 0.4)) == pytest.approx(1.0)
    records = {model: merit(1.0, 0.3) for model in ("flops", "7b")}
    first = {(model, "d"): row for model, row in records.items()}
    second = {("flops", "d"): merit(math.exp(0.7), 0.4), ("7b", "d"): merit(math.exp(1.1), 0.4)}
    said = tables["agreement"](first, second)
    assert said.endswith(
        "1 of 1 by flops (0 inside the first seed's interval), 0 of 1 by 7b (0 inside the first seed's interval)."
    )
