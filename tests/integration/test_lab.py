"""``arrol lab`` from a config to a table, on a tiny model."""

import json
import os
import shutil

import numpy as np
import pytest

from arrol.cli.main import main
from arrol.lab.pool import Pool
from arrol.records.lock import Claim
from arrol.records.store import read_records

PLAN = ["--prompts", "6", "--rollouts", "5", "--sketch-size", "16", "--visits", "4"]


def lab(*words):
    return main(["lab", *map(str, words)])


def test_a_pool_is_collected_and_judged(config, tmp_path, capsys):
    out = tmp_path / "p.safetensors"
    assert lab(config, "--out", out, *PLAN, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["pool"]["prompts"] == 6
    assert len(first["designs"]) > 10
    pool = Pool.load(out)
    assert pool.sketch_PND.shape == (6, 5, 16)
    assert np.abs(pool.sketch_PND).sum() > 0
    assert pool.meta["provenance"]["command"].startswith("arrol")  # the words of the test run follow, if it has any
    assert str(tmp_path) not in json.dumps(pool.meta)
    assert not list(tmp_path.glob("*.blocks"))
    assert lab(out, *PLAN[-2:], "--json", "--workers", "2") == 0
    assert json.loads(capsys.readouterr().out)["designs"] == first["designs"]
    designs = tmp_path / "d.toml"
    designs.write_text('[[designs]]\nname = "a"\n[[designs]]\nname = "b"\nchange.training.group_size = 2\n')
    record = tmp_path / "r.jsonl"
    assert lab(out, "--designs", designs, "--cost", "measured", "--record", record) == 0
    run, pool_row, *rows = read_records(record)
    assert pool_row.metrics["success"] == pytest.approx(first["pool"]["success"])
    assert [(row.design, row.cost_model) for row in rows] == [("a", "measured"), ("b", "measured")]
    assert run.config["policy"] == pool_row.policy
    assert lab(out, "--record", record) == 2
    assert "merit measured" in capsys.readouterr().out


def test_an_interrupted_collection_goes_on_and_ends_the_same(config, tmp_path, capsys, monkeypatch):
    from arrol.lab.collect import Collector

    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    assert lab(config, "--out", whole, "--prompts", "10", *PLAN[2:]) == 0
    block = Collector.block
    calls = []

    def dies(self, first, count):
        calls.append(first)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return block(self, first, count)

    monkeypatch.setattr(Collector, "block", dies)
    assert lab(config, "--out", broken, "--prompts", "10", *PLAN[2:]) == 130
    assert not broken.exists()
    assert lab(config, "--out", broken, "--prompts", "10", *PLAN[2:]) == 0
    assert calls == [0, 8, 8]
    a, b = Pool.load(whole), Pool.load(broken)
    for name in ("reward_PN", "length_PN", "token_ids_T", "features_PNKF", "sketch_PND"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    capsys.readouterr()


def test_two_processes_never_collect_the_same_pool(config, tmp_path, capsys):
    out = tmp_path / "new" / "p.safetensors"
    with Claim() as claim:
        claim.take_file(out, "--out")
        assert lab(config, "--out", out, *PLAN) == 2
        assert f"arrol: --out = {str(out)!r}: process {os.getpid()} on " in capsys.readouterr().err
        assert [path.name for path in out.parent.iterdir()] == [".lock-p.safetensors"]


def test_blocks_of_another_plan_are_not_mixed_in(config, tmp_path, capsys):
    out = tmp_path / "p.safetensors"
    assert lab(config, "--out", out, *PLAN) == 0
    (tmp_path / "q.blocks").mkdir()
    pool = Pool.load(out)
    pool.save(tmp_path / "q.blocks" / "000000.safetensors")
    assert lab(config, "--out", tmp_path / "q.safetensors", "--prompts", "6", "--rollouts", "4") == 2
    assert "holds blocks of another plan; remove it" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "q.blocks")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompts", "1"], "prompts = 1: give at least 2"),
        (["--rollouts", "0"], "rollouts = 0: give at least 2"),
        (["--sketch-size", "-1"], "--sketch-size = -1: give at least 0 and at most 1048576"),
        (["--visits", "0"], "--visits = 0: give at least 1"),
        (["--workers", "0"], "--workers = 0: give at least 1"),
        (["--parameters", "x"], "parameters = ['x']: no parameter of the model matches"),
        (["--out", "p.txt"], "--out = 'p.txt': a pool is a .safetensors file"),
        (["--pruning.rule", "x"], "pruning"),
        (["--cost", "4"], "cost = '4': unknown; give flops, measured"),
        (["--designs", "none.toml"], "none.toml"),
        (["--record", "{config}/x.jsonl"], "tiny.toml': cannot be made (File exists); choose another folder"),
        (["--out", "{config}/p.safetensors"], "tiny.toml': cannot be made (File exists); choose another folder"),
    ],
)
def test_mistakes_cost_one_line_and_write_nothing(config, tmp_path, capsys, words, message):
    before = sorted(tmp_path.rglob("*"))
    assert lab(config, *(word.format(config=config) for word in words)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pool_takes_no_flags_of_a_config(config, tmp_path, capsys):
    out = tmp_path / "p.safetensors"
    assert lab(config, "--out", out, *PLAN) == 0
    capsys.readouterr()
    for words, message in ((["--training.steps", "2"], "a pool has its config inside"), (["--out", "x"], "is judged")):
        assert lab(out, *words) == 2
        assert message in capsys.readouterr().err
    assert lab(config, "--out", out) == 2
    assert "exists; judge it with arrol lab" in capsys.readouterr().err
    assert lab(out, "--cost", "gpu") == 2
    assert "cost = 'gpu': unknown" in capsys.readouterr().err


def test_gradients_have_the_precision_of_the_learner(config, tmp_path):
    pools = {}
    for bf16 in ("false", "true"):
        out = tmp_path / f"{bf16}.safetensors"
        assert lab(config, "--out", out, *PLAN, "--training.bf16", bf16) == 0
        pools[bf16] = Pool.load(out)
    exact, rounded = (pools[bf16].sketch_PND.astype(float) for bf16 in ("false", "true"))
    np.testing.assert_array_equal(pools["false"].token_ids_T, pools["true"].token_ids_T)
    assert (exact != rounded).any()
    assert np.linalg.norm(exact - rounded) < 0.05 * np.linalg.norm(exact)
