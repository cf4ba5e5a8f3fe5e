"""Training beside GRPO with a learning rate chosen for each arm: three tasks, two regimes, equal compute.

``merit`` what the laboratory says of every arm on the pool of the base model; ``OUT/lab-fair-TASK.jsonl``
``tune``  every arm at three rates, on two seeds that are used for nothing else; ``OUT/fair-TASK-tune``
``run``   every arm at its best rate, on five other seeds; ``OUT/fair-TASK``
``slow``  small batches, a small rate and many steps, so that noise decides; the plain group sizes, the best levers and
          the controls; ``OUT/fair-TASK-slow``

An arm's best rate has the highest accuracy, mean over the tuning seeds, where it had spent what GRPO spends, or at its
end. Cheap arms take more steps: the compute of the tuning runs says how many, so that every arm of ``run`` spends about
as much. Problems come again: GRPO sees each of them four times, other arms more often. Finished runs are not repeated:
an interrupted call goes on, on another machine too where ``--out`` holds its records. Two calls with other ``--arms``
may run side by side; ``run`` and ``slow`` need the tuning runs of their arms and of GRPO. ``merit`` needs the pools of
``lab_pools.py``.

    OMP_NUM_THREADS=1 python benchmarks/fair_study.py [STAGE ...] [--tasks A,B] [--work runs/fair] [--out results]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arrol.configs.base import merge
from arrol.configs.files import read_toml
from arrol.records.store import RECORDS_FILE, Run, find_runs, read_run
from arrol.reports.costs import accuracy_at
from arrol.reports.curves import eval_curve

STAGES = ("merit", "tune", "run", "slow")
RATES = (5e-5, 1e-4, 2e-4)
SLOW_RATE = 2.5e-5
TUNING_SEEDS, SEEDS = (100, 101), (0, 1, 2, 3, 4)
STEPS, EVALUATIONS = 24, 4
PROBLEMS, HELD_OUT, SAMPLES = 96, 96, 8
"""Training problems; held-out problems, and completions of each: best@k and worst@k at k = SAMPLES."""
COSTS = ("flops", "7b")
SLOWER = 4
"""So many times the steps with so many times fewer prompts each."""


class StudyTask(NamedTuple):
    """A task of the study."""

    config: str
    pool: str
    noise_ratio: float
    """sigma_w / sigma_b of its base model (docs/lab.md), for rule ``auto``."""
    auto_probes: tuple[int, ...]
    """About .25, .5, 1, 1.5 and 2.5 median lengths of the base model."""
    change: Mapping[str, Any] = {}
    """Of the config."""


TASKS = {
    "arithmetic": StudyTask(
        "configs/arithmetic.toml", "arithmetic-8-start-seed0", 5.7, (9, 26, 43, 69, 103), {"task": {"max_ops": 8}}
    ),
    "countdown": StudyTask("configs/countdown.toml", "countdown-start-seed0", 6.7, (7, 22, 30, 44)),
    "search": StudyTask("configs/search.toml", "search-start-seed0", 6.7, (20, 25, 49)),
}
PUBLISHED = (
    *(
        "tokens/",
        "compute/",
        "time/step_s",
        "pruning/candidates",
        "pruning/kept_frac",
        "pruning/auto/",
        "quality/auroc",
    ),
    *(f"rollout/{name}" for name in ("success_frac", "decode_steps", "survivors_frac", "dead_group_frac")),
)
"""Beginnings of the names of the metrics that a published record keeps of each step."""
LEAN = {"rule": "aero", "rescue_step": 4, "rejection": {"wrong_ratio": 2.0}, "posterior": {"used_for": "allocation"}}
"""AERO as it did best in the study of allocation."""


class Arm(NamedTuple):
    """A way to train; what it costs per step beside GRPO is a first guess, which the tuning runs replace."""

    cost: float
    group_size: int = 16
    prompts: int = 16
    pruning: Mapping[str, Any] = {"rule": "never"}
    allocation: Mapping[str, Any] = {}
    correction: str = "ipw"
    is_slow: bool = False
    """Takes part in the regime where noise decides."""


ARMS = {
    "grpo": Arm(1.0, is_slow=True),
    "grpo_8": Arm(0.45, 8, is_slow=True),
    "grpo_4": Arm(0.2, 4, is_slow=True),
    "grpo_8_wide": Arm(0.9, 8, 32, is_slow=True),
    "grpo_4_wide": Arm(0.8, 4, 64, is_slow=True),
    "uniform": Arm(0.6, pruning={"rule": "uniform", "keep_ratio": 0.5}, is_slow=True),
    "oracle": Arm(0.7, pruning={"rule": "oracle", "keep_ratio": 0.5}, is_slow=True),
    "paper": Arm(0.6, pruning={"rule": "paper", "keep_ratio": 0.5}, correction="plain", is_slow=True),
    "neyman": Arm(0.6, pruning={"rule": "neyman", "scope": "batch", "keep_ratio": 0.5}, is_slow=True),
    "auto": Arm(0.7, pruning={"rule": "auto"}, is_slow=True),
    "auto_8": Arm(0.4, 8, pruning={"rule": "auto"}, is_slow=True),
    "aero_lean": Arm(0.6, allocation=LEAN),
    "pods": Arm(0.7, allocation={"rule": "pods", "train_size": 8}),
    "duet": Arm(1.0, allocation={"rule": "duet"}),
}
"""``grpo_8`` and ``grpo_4`` take more steps; the wide ones ask more prompts in each of GRPO's number of steps."""


def main() -> None:
    options = _options()
    for task in options.tasks:
        for stage in options.stages:
            if stage == "merit":
                judge(task, options)
            else:
                train(task, stage, options)


def judge(task: str, options: argparse.Namespace) -> None:
    """The record of every arm's merit; nothing where it exists."""
    record, path = options.out / f"lab-fair-{task}.jsonl", options.work / f"fair-{task}-designs.toml"
    if record.exists():
        return
    designs = [change(arm, arm, RATES[0], STEPS, task) for arm in options.arms if arm != "oracle"]
    path.write_text("".join(_entry("designs", one) for one in designs), "utf-8")
    pool = options.pools / f"{TASKS[task].pool}.safetensors"
    costs = [word for name in COSTS for word in ("--cost", name)]
    call("lab", str(pool), "--designs", str(path), "--visits", "32", *costs, "--record", str(record))


def train(task: str, stage: str, options: argparse.Namespace) -> None:
    """All runs of a stage, and their records."""
    name = f"fair-{task}" if stage == "run" else f"fair-{task}-{stage}"
    plan = comparison(name, task, stage, options)
    if not plan["arms"]:
        return
    path = options.work / (f"{name}.toml" if options.arms == tuple(ARMS) else f"{name}-{plan['arms'][0]['name']}.toml")
    path.write_text(as_toml(plan), "utf-8")
    runs = [f"{arm['name']}-seed{seed}" for arm in plan["arms"] for seed in plan["seeds"]]
    copy_finished(options.out / name, options.work / name, runs)
    begun = any((options.work / name / run / RECORDS_FILE).exists() for run in runs)
    try:
        call("compare", str(path), *(["--resume"] if begun else []))
    finally:
        copy_finished(options.work / name, options.out / name, runs)


def call(*words: str) -> None:
    """One command of arrol."""
    print("arrol", *words, flush=True)
    subprocess.run([sys.executable, "-m", "arrol.cli.main", *words], check=True)


def comparison(name: str, task: str, stage: str, options: argparse.Namespace) -> dict[str, Any]:
    """The config of ``arrol compare`` for a stage."""
    study = TASKS[task]
    file = merge(read_toml(Path(study.config)), study.change)
    base = merge(
        {key: file[key] for key in ("model", "task", "sampling")},
        {
            "num_threads": 1,
            "out_dir": str(options.work),
            "task": {"num_problems": PROBLEMS},
            "evaluation": {"num_prompts": HELD_OUT, "samples_per_prompt": SAMPLES},
        },
    )
    if stage == "tune":
        seeds = TUNING_SEEDS
        arms = [
            change(f"{arm}.{rate:.0e}", arm, rate, steps_of(ARMS[arm].cost), task)
            for arm in options.arms
            for rate in RATES
        ]
    else:
        seeds, slower = SEEDS, SLOWER if stage == "slow" else 1
        tuned = tuning(options.out / f"fair-{task}-tune")
        arms = [
            change(arm, arm, SLOW_RATE if stage == "slow" else rate, steps_of(cost, slower), task, slower)
            for arm, (rate, cost) in tuned.items()
            if arm in options.arms and (ARMS[arm].is_slow or stage != "slow")
        ]
    return {"name": name, "seeds": list(seeds), "run": base, "arms": arms}


def steps_of(cost: float, slower: int = 1) -> int:
    """Steps that spend what GRPO spends in its own, whole numbers of them between evaluations."""
    return EVALUATIONS * max(1, round(STEPS * slower / cost / EVALUATIONS))


def change(name: str, arm: str, rate: float, steps: int, task: str, slower: int = 1) -> dict[str, Any]:
    """A named change of the config: one arm of a comparison, one design of the laboratory."""
    one, study = ARMS[arm], TASKS[task]
    pruning = {"warmup_steps": 2, "probe_tokens": read_toml(Path(study.config))["pruning"]["probe_tokens"]}
    if one.pruning["rule"] == "auto":
        pruning |= {"probe_tokens": list(study.auto_probes), "noise_ratio": study.noise_ratio}
    return {
        "name": name,
        "change": {
            "pruning": pruning | dict(one.pruning),
            "allocation": {"rule": "uniform", **one.allocation},
            "algorithm": {"name": "dr_grpo", "correction": one.correction},
            "training": {
                "steps": steps,
                "group_size": one.group_size,
                "prompts_per_step": max(1, one.prompts // slower),
            },
            "optimizer": {"learning_rate": rate},
            "evaluation": {"every": steps // EVALUATIONS},
        },
    }


def tuning(folder: Path) -> dict[str, tuple[float, float]]:
    """Arm -> its best rate, and its compute per step there beside GRPO's."""
    runs: dict[tuple[str, float], list[Run]] = {}
    for path in find_runs([folder]):
        run = read_run(path)
        arm, rate = run.run.arm.split(".")
        runs.setdefault((arm, float(rate)), []).append(run)
    budget = np.mean([eval_curve(run).flops_E[-1] for rate in RATES for run in runs["grpo", rate]])
    best: dict[str, tuple[float, float, float]] = {}
    for (arm, rate), members in runs.items():
        curves = [eval_curve(run) for run in members]
        accuracy = float(np.mean([accuracy_at(curve, "flops_E", float(budget)) for curve in curves]))
        per_step = float(np.mean([curve.flops_E[-1] / curve.steps_E[-1] for curve in curves]))
        if arm not in best or accuracy > best[arm][0]:
            best[arm] = accuracy, rate, per_step
    return {arm: (rate, per_step / best["grpo"][2]) for arm, (_, rate, per_step) in best.items()}


def copy_finished(folder: Path, target: Path, runs: Sequence[str]) -> None:
    """Copy the records of each of these runs that is finished and that ``target`` lacks, without its rollouts and
    without the metrics of steps that no table reads."""
    for path in (folder / run / RECORDS_FILE for run in runs):
        copy = target / path.parent.name / path.name
        end = read_run(path).end if path.exists() and not copy.exists() else None
        if end is not None and end.outcome == "finished":
            copy.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text("utf-8").splitlines()
            copy.write_text("".join(f"{json.dumps(_published(json.loads(line)))}\n" for line in lines), "utf-8")


def _published(row: dict[str, Any]) -> dict[str, Any]:
    if row["kind"] == "step":
        row["metrics"] = {key: value for key, value in row["metrics"].items() if key.startswith(PUBLISHED)}
    return row


def as_toml(plan: Mapping[str, Any]) -> str:
    """A comparison as a file."""
    head = {key: plan[key] for key in ("name", "seeds")}
    lines = [f"{key} = {_value(one)}\n" for key, one in head.items()]
    lines += ["[run]\n", *(f"{key} = {_value(one)}\n" for key, one in plan["run"].items())]
    return "".join([*lines, *(_entry("arms", one) for one in plan["arms"])])


def _entry(kind: str, named: Mapping[str, Any]) -> str:
    """One of an array of tables: a name and a change."""
    fields = "".join(f"{key} = {_value(one)}\n" for key, one in named["change"].items())
    return f"[[{kind}]]\nname = {_value(named['name'])}\n[{kind}.change]\n{fields}"


def _value(one: Any) -> str:
    """JSON's scalars and lists are TOML's; a table stands on one line."""
    if isinstance(one, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in one.items()) + " }"
    return json.dumps(one)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words = lambda text: tuple(text.split(","))  # noqa: E731
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], default=[], help="default: all")
    parser.add_argument("--tasks", type=words, default=tuple(TASKS), help="default " + ",".join(TASKS))
    parser.add_argument("--arms", type=words, default=tuple(ARMS), help="default: all")
    parser.add_argument("--pools", type=Path, default=Path("runs/lab"), help="of lab_pools.py; default runs/lab")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="runs; default runs")
    parser.add_argument("--out", type=Path, default=Path("results"), help="records; default results")
    options = parser.parse_args()
    options.stages = options.stages or STAGES
    for flag, given, known in (("--tasks", options.tasks, TASKS), ("--arms", options.arms, ARMS)):
        for name in given:
            if name not in known:
                parser.error(f"{flag} = {name!r}: unknown; choose among {', '.join(known)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options.work.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    main()
