"""The study of tuned rates: its plans are valid configs, and its choices follow from the records of the tuning runs."""

from __future__ import annotations

import argparse
import runpy
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrol.configs.run import load_compare, load_run, planned_runs
from arrol.lab.designs import read_designs
from arrol.lab.merit import base_config, design_config
from arrol.records.schema import EndRecord, EvalRecord, MeritRecord, RunRecord, StepRecord
from arrol.records.store import RecordWriter, read_run

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TASKS = ["arithmetic", "countdown", "search"]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of ``fair_study.py``."""
    monkeypatch.chdir(BENCHMARKS.parent)
    return runpy.run_path(str(BENCHMARKS / "fair_study.py"))


def options(study: dict[str, Any], folder: Path) -> argparse.Namespace:
    return argparse.Namespace(arms=tuple(study["ARMS"]), work=folder, out=folder, pools=folder)


def write_run(folder: Path, name: str, seed: int, flops: float, accuracy: float, steps: int = 4) -> None:
    """A run that spends ``flops`` in each step and climbs from .1 to the accuracy; half of it is decode steps."""
    with RecordWriter(folder / f"{name}-seed{seed}" / "records.jsonl") as writer:
        config = {"optimizer": {"learning_rate": 1e-4}, "training": {"steps": steps}}
        fixed: dict[str, Any] = {
            "versions": {},
            "device": "",
            "config": config,
            "command": "",
            "commit": "",
            "dirty": False,
        }
        writer.write(RunRecord(run_id=name, name=name, arm=name, seed=seed, started_at=f"{name}{seed}", **fixed))
        for step in range(steps + 1):
            if step:
                counts = {"generated": 10 * flops, "scored": 0.0, "trained": 0.0}
                tokens = {f"tokens/{kind}": count for kind, count in counts.items()}
                metrics = {"compute/flops": flops, "rollout/decode_steps": 100.0, "time/step_s": 1.0, **tokens}
                metrics["loss/policy"] = 0.5
                writer.write(StepRecord(step=step, metrics=metrics))
            value = 0.1 + (accuracy - 0.1) * step / steps
            both = {"eval/pass_at_8": 2 * value, "eval/all_right_at_8": value / 2}
            writer.write(
                EvalRecord(step=step, accuracy=value, low=0, high=1, num_prompts=8, samples_per_prompt=8, metrics=both)
            )
        writer.write(EndRecord(step=steps, outcome="finished"))


@pytest.fixture
def tuned(study: dict[str, Any], tmp_path: Path) -> argparse.Namespace:
    """Tuning runs of three arms of every task; GRPO spends 40, ``uniform`` reaches its end after 60."""
    for task in TASKS:
        folder = tmp_path / f"fair-{task}-tune"
        for seed in study["TUNING_SEEDS"]:
            write_run(folder, "grpo.5e-05", seed, 10, 0.4)
            write_run(folder, "grpo.1e-04", seed, 10, 0.5)
            write_run(folder, "grpo.2e-04", seed, 10, 0.1 + (seed == 100))
            write_run(folder, "uniform.5e-05", seed, 5, 0.3)
            write_run(folder, "uniform.1e-04", seed, 15, 0.34)  # .26 where 40 were spent
            write_run(folder, "grpo_8.2e-04", seed, 4, 0.45)
    return options(study, tmp_path)


@pytest.mark.parametrize("task", TASKS)
def test_tuning_tries_each_arm_at_each_rate_on_seeds_of_its_own(
    study: dict[str, Any], task: str, tmp_path: Path
) -> None:
    plan = study["comparison"]("fair-x", task, "tune", options(study, tmp_path))
    text = study["as_toml"](plan)
    path = tmp_path / "plan.toml"
    path.write_text(text, "utf-8")
    runs = planned_runs(load_compare(path))
    assert len(runs) == len(study["ARMS"]) * 3 * 2
    assert {config.seed for _, config in runs}.isdisjoint(study["SEEDS"])
    assert {config.optimizer.learning_rate for _, config in runs} == set(study["RATES"])
    assert all(config.training.steps % config.evaluation.every == 0 for _, config in runs)
    assert tomllib.loads(text)["arms"] == plan["arms"]


def test_the_best_rate_counts_accuracy_where_grpo_s_compute_is_spent(
    study: dict[str, Any], tuned: argparse.Namespace
) -> None:
    found = study["tuning"](tuned.work / "fair-search-tune")
    assert found == {"grpo": (2e-4, 1.0), "uniform": (5e-5, 0.5), "grpo_8": (2e-4, 0.4)}


@pytest.mark.parametrize("task", TASKS)
def test_every_arm_spends_what_grpo_spends(study: dict[str, Any], tuned: argparse.Namespace, task: str) -> None:
    plan = study["comparison"]("fair-x", task, "run", tuned)
    steps = {arm["name"]: arm["change"]["training"]["steps"] for arm in plan["arms"]}
    assert steps == {"grpo": 24, "uniform": 48, "grpo_8": 60}
    slow = study["comparison"]("fair-x", task, "slow", tuned)["arms"]
    assert {arm["name"]: arm["change"]["training"]["steps"] for arm in slow} == {
        name: 4 * count for name, count in steps.items()
    }
    assert {arm["change"]["training"]["prompts_per_step"] for arm in slow} == {4}
    assert {arm["change"]["optimizer"]["learning_rate"] for arm in slow} == {study["SLOW_RATE"]}


@pytest.mark.parametrize("task", TASKS)
def test_the_laboratory_judges_the_same_arms_but_the_oracle(
    study: dict[str, Any], task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setitem(study["judge"].__globals__, "call", lambda *words: calls.append(words))
    study["judge"](task, options(study, tmp_path))
    designs = read_designs(tmp_path / f"fair-{task}-designs.toml")
    assert [design.name for design in designs] == [arm for arm in study["ARMS"] if arm != "oracle"]
    base = base_config(load_run(study["TASKS"][task].config))
    assert all(design_config(base, design).optimizer.learning_rate == study["RATES"][0] for design in designs)
    (tmp_path / f"lab-fair-{task}.jsonl").touch()
    study["judge"](task, options(study, tmp_path))
    assert len(calls) == 1, "a record that exists is not made again"


def test_a_study_goes_on_where_it_stopped_also_from_its_records(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    plan = options(study, tmp_path / "work")
    plan.out, runs = tmp_path / "out", tmp_path / "work" / "fair-search-tune"
    plan.work.mkdir()

    def stopped(*words: str) -> None:
        calls.append(words)
        write_run(runs, "grpo.5e-05", 100, 1, 0.5)
        write_run(runs, "grpo.1e-04", 100, 1, 0.5)
        records = runs / "grpo.1e-04-seed100" / "records.jsonl"
        records.write_text("".join(records.read_text("utf-8").splitlines(keepends=True)[:-1]), "utf-8")
        (runs / "grpo.5e-05-seed100" / "rollouts.jsonl").touch()
        raise KeyboardInterrupt

    monkeypatch.setitem(study["train"].__globals__, "call", stopped)
    with pytest.raises(KeyboardInterrupt):
        study["train"]("search", "tune", plan)
    kept = [path.relative_to(plan.out) for path in plan.out.rglob("*.*l")]
    assert kept == [Path("fair-search-tune/grpo.5e-05-seed100/records.jsonl")], "finished runs, without rollouts"
    (whole, short) = (read_run(folder / kept[0].parent.name) for folder in (runs, plan.out / "fair-search-tune"))
    assert [set(row.metrics) for row in short.steps] == [set(row.metrics) - {"loss/policy"} for row in whole.steps]
    assert (short.run, short.evals, short.end) == (whole.run, whole.evals, whole.end)

    plan.work = tmp_path / "elsewhere"
    plan.work.mkdir()
    monkeypatch.setitem(study["train"].__globals__, "call", lambda *words: calls.append(words))
    study["train"]("search", "tune", plan)
    assert (plan.work / "fair-search-tune" / "grpo.5e-05-seed100" / "records.jsonl").exists()
    assert [words[2:] for words in calls] == [(), ("--resume",)]


def test_calls_with_other_arms_share_their_folders(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call finds finished runs of other arms, and does not take itself for begun."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setitem(study["train"].__globals__, "call", lambda *words: calls.append(words))
    plan = options(study, tmp_path)
    write_run(tmp_path / "fair-search-tune", "grpo.5e-05", 100, 1, 0.5)
    for arms in (("uniform",), ("paper",)):
        plan.arms = arms
        study["train"]("search", "tune", plan)
    assert [words[2:] for words in calls] == [(), ()]
    assert len({words[1] for words in calls}) == 2, "each call has a plan of its own"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of ``study_tables.py``."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "study_tables.py"))


def test_tables_say_what_was_learnt_and_what_it_cost(tables: dict[str, Any], tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "fair-search", "grpo", seed, 10, 0.5)
        write_run(tmp_path / "fair-search", "auto", seed, 5, 0.5, steps=8)
        write_run(tmp_path / "fair-search", "paper", seed, 10, 0.3)
        for rate, accuracy in (("5e-05", 0.3), ("1e-04", 0.4)):
            write_run(tmp_path / "fair-search-tune", f"grpo.{rate}", seed, 10, accuracy)
        write_run(tmp_path / "fair-search-tune", "auto.5e-05", seed, 10, 0.2)
    write_run(tmp_path / "fair-search-tune", "auto.1e-04", 0, 10, 0.9)
    with RecordWriter(tmp_path / "lab-fair-search.jsonl") as writer:
        for design, merit in (("grpo", 1.0), ("auto", 1.2), ("paper", 0.5)):
            ends = {"merit": merit, "low": merit, "high": merit, "bias": float("nan")}
            shape = {"cost": 1.0, "error": 1.0, "group_size": 8.0, "kept": 1.0, "trained": 1.0}
            writer.write(MeritRecord(pool="p", design=design, cost_model="flops", **ends, **shape))
    made = tables["fair_blocks"](tmp_path)
    rates = made["fair-search:rates"].splitlines()
    assert sorted(rates[2:]) == ["| auto | 0.200 | - |", "| grpo | 0.300 | **0.400** |"]
    learnt = made["fair-search:learnt"].splitlines()
    assert learnt[2] == "| grpo | 0.0001 | 4 | 0.500 | - | 1.000 | 0.250 |"
    assert learnt[3].startswith("| auto | 0.0001 | 8 | 0.500 | +0.000 (")
    assert learnt[4].startswith("| paper | 0.0001 | 4 | 0.300 | -0.200 (")
    # 8 steps of 100 decode steps and 50 tokens, beside 4 of 100 and 100.
    second = 100 * 10.8e-3
    gpu = 8 * (second + 50 * 0.19e-3) / (4 * (second + 100 * 0.19e-3))
    head, _, *rows = made["fair-search:cost"].splitlines()
    assert head.startswith("| arm | compute to 0.300, which all reach | GPU time to it | ")
    assert rows[1] == f"| auto | 1.00 | {gpu:.2f} | 1.00 | {gpu:.2f} | 2.00 |"
    assert rows[2] == "| paper | 2.00 | 2.00 | not reached | not reached | not reached |"
    assert (
        made["fair-merit"].splitlines()[-1]
        == "| fair-search | 3 | 0.300 | 0.87 | 1.00 (grpo) | 0.87 | 0.50 | 0.87 | nan |"
    )
    predicted = made["fair-search:predicted"].splitlines()
    assert predicted[2:] == [
        "| grpo | 1.00 | 1.00 | 1.00 | 1.00 |",
        f"| auto | 1.00 | {(0.5 / 1.2) ** 0.5:.2f} | {0.5**0.5:.2f} | 0.83 |",
        "| paper | 2.00 | 1.41 | 1.00 | 2.00 |",
        f"| typical error |  | {np.sqrt(np.mean(np.log([1, (0.5 / 1.2) ** 0.5, 0.5**0.5]) ** 2)):.2f} | 0.45 | 0.11 |",
    ]


def test_rank_correlation_shares_the_ranks_of_ties(tables: dict[str, Any]) -> None:
    assert tables["rank_correlation"]([1, 2, 3], [10, 20, float("inf")]) == pytest.approx(1)
    assert tables["rank_correlation"]([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert tables["rank_correlation"]([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)
