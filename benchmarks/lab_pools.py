"""Pools of three tasks at the start, middle and end of a short run of GRPO, on two seeds, and a record of each.

For each task: train without pruning on a seed of its own, collect pools of the base model and of two checkpoints on
each seed, judge the same designs on all of them. What exists is not made again, so an interrupted call goes on. Pools
and runs stay in ``--work``; records are ``OUT/lab-TASK-STAGE-seedN.jsonl``.

    OMP_NUM_THREADS=1 python benchmarks/lab_pools.py [--tasks A,B] [--stages A,B] [--seeds 0,1] [--rollouts N] ...
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arrol.configs.run import load_run
from arrol.lab.costs import cost_model
from arrol.lab.designs import allocation_designs, group_sizes, lottery_designs
from arrol.lab.moments import Moments
from arrol.lab.pool import Pool

TASKS = {
    "arithmetic-8": ("configs/arithmetic.toml", "--task.max_ops", "8"),
    "countdown": ("configs/countdown.toml",),
    "search": ("configs/search.toml",),
}
"""Name of a pool -> config and flags."""
STAGES = ("start", "middle", "end")
COSTS = ("flops", "4:3", "7b")
TRAINING_SEED = 100
"""Of the run, so that the prompts of the pools' seeds were not trained on."""
REFERENCE_SIZE, LEVER_SIZES = 16, (4, 16)
"""Group size that merits stand beside, and sizes at which the levers are judged: the usual one, and about the best."""
RULES: dict[str, tuple[dict[str, Any], str]] = {
    "uniform, ipw": ({"rule": "uniform", "keep_ratio": 0.5}, "ipw"),
    "uniform": ({"rule": "uniform", "keep_ratio": 0.5}, "doubly_robust"),
    "neyman, ipw": ({"rule": "neyman", "scope": "batch", "keep_ratio": 0.5}, "ipw"),
    "neyman": ({"rule": "neyman", "scope": "batch", "keep_ratio": 0.5}, "doubly_robust"),
    "paper": ({"rule": "paper", "keep_ratio": 0.5}, "plain"),
}
"""Name of a pruning rule -> its fields and the correction."""
AUTO_PROBES = (0.25, 0.5, 1.0, 1.5, 2.5)
"""Where ``auto`` may stop, in median lengths."""


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    write_designs(options.work / "sizes.toml", [(one.name, dict(one.change)) for one in group_sizes()])
    for stage in options.stages:
        for seed in options.seeds:
            for task in options.tasks:
                for command in commands(task, stage, seed, options):
                    if "--record" in command:
                        pool = Pool.load(command[1])
                        probe = load_run(TASKS[task][0]).pruning.probe_tokens[0]
                        write_designs(Path(command[1]).with_suffix(".toml"), [*designs(probe), *auto_designs(pool)])
                    print(" ".join(command), flush=True)
                    subprocess.run([sys.executable, "-m", "arrol.cli.main", *command], check=True)


def commands(task: str, stage: str, seed: int, options: argparse.Namespace) -> Iterator[list[str]]:
    """What is still to be done for a record, as words behind ``arrol``."""
    record = options.out / f"lab-{task}-{stage}-seed{seed}.jsonl"
    if record.exists():
        return
    run, pool = options.work / f"{task}-run", options.work / f"{task}-{stage}-seed{seed}.safetensors"
    half = options.steps // 2
    policy = run / "checkpoints" / f"step-{half if stage == 'middle' else 2 * half:06d}" / "policy"
    config = TASKS[task]
    if stage != "start" and not policy.exists():
        flags = ["--name", run.name, "--out_dir", str(run.parent), "--seed", str(TRAINING_SEED), "--pruning", "never"]
        flags += ["--training.steps", str(2 * half), "--training.checkpoint_every", str(half)]
        flags += ["--training.keep_checkpoints", "2", "--evaluation.every", str(half)]
        yield ["train", *config, *flags, *(["--resume"] if run.exists() else [])]
    source = [*config, "--name", f"{task}-{stage}", "--seed", str(seed)]
    source += [] if stage == "start" else ["--model", str(policy)]
    plan = ["--out", str(pool), "--prompts", str(options.prompts), "--rollouts", str(options.rollouts)]
    if not pool.exists():
        yield ["lab", *source, *plan, "--designs", str(options.work / "sizes.toml")]
    judge = ["--designs", str(pool.with_suffix(".toml")), "--visits", str(options.visits)]
    yield ["lab", str(pool), *judge, "--record", str(record)]


def designs(probe: int, lever_sizes: Sequence[int] = LEVER_SIZES) -> list[tuple[str, dict[str, Any]]]:
    """Names and changes of the config: whole groups, the reference first; pruning at ``probe`` tokens, lotteries and
    allocation in groups of each of ``lever_sizes``."""
    sizes = sorted(group_sizes(), key=lambda one: one.change["training"]["group_size"] != REFERENCE_SIZE)
    found = [(one.name, dict(one.change)) for one in sizes]
    for size in lever_sizes:
        for name, (fields, correction) in RULES.items():
            change = {
                "training": {"group_size": size},
                "pruning": {**fields, "probe_tokens": [probe]},
                "algorithm": {"correction": correction},
            }
            found.append((f"{name} at {probe}, group of {size}", change))
        rules = [rule for rule in ("aero", "dapo", "knapsack", "neyman", "pods") if size >= 8 or rule != "aero"]
        found += [(one.name, dict(one.change)) for one in (*lottery_designs(size), *allocation_designs(size, rules))]
    return found


def auto_designs(pool: Pool, lever_sizes: Sequence[int] = LEVER_SIZES) -> list[tuple[str, dict[str, Any]]]:
    """Rule ``auto`` with the pool's own noise ratio, for each cost model and group size."""
    median = float(np.median(pool.length_PN[pool.is_known_PN]))
    probes = {min(pool.probe_tokens, key=lambda tokens: abs(tokens - share * median)) for share in AUTO_PROBES}
    moments, found = Moments.of(pool), []
    for name in COSTS:
        model = cost_model(name, pool)
        unit = 2 / model.generated
        prices = {
            "generated_price": 2.0,
            "trained_price": unit * model.trained,
            "step_price": unit * model.decode_step,
        }
        rule = {"rule": "auto", "probe_tokens": sorted(map(int, probes)), **prices}
        if moments.between > 0:
            rule["noise_ratio"] = float(np.sqrt(moments.within / moments.between))
        for size in lever_sizes:
            change = {"training": {"group_size": size}, "pruning": rule, "algorithm": {"correction": "ipw"}}
            found.append((f"auto for {name}, group of {size}", change))
    return found


def _as_toml(named: list[tuple[str, dict[str, Any]]]) -> str:
    """A file for ``arrol lab --designs``; JSON's scalars and lists are TOML's."""
    lines = []
    for name, change in named:
        lines += ["[[designs]]", f"name = {json.dumps(name)}"]
        for section, fields in change.items():
            lines += [f"[designs.change.{section}]", *(f"{key} = {json.dumps(value)}" for key, value in fields.items())]
    return "\n".join(lines) + "\n"


def write_designs(path: Path, named: list[tuple[str, dict[str, Any]]]) -> None:
    """The file of ``arrol lab --designs``."""
    path.write_text(_as_toml(named), "utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words, numbers = (lambda text: tuple(text.split(","))), (lambda text: tuple(int(one) for one in text.split(",")))
    parser.add_argument("--tasks", type=words, default=tuple(TASKS), help="default " + ",".join(TASKS))
    parser.add_argument("--stages", type=words, default=STAGES, help="default " + ",".join(STAGES))
    parser.add_argument("--seeds", type=numbers, default=(0, 1), help="of the pools; default 0,1")
    parser.add_argument("--prompts", type=int, default=64, help="of a pool; default 64")
    parser.add_argument("--rollouts", type=int, default=96, help="of each prompt; default 96")
    parser.add_argument("--visits", type=int, default=32, help="of each prompt per design; default 32")
    parser.add_argument("--steps", type=int, default=24, help="of the run of GRPO; its half is the middle; default 24")
    parser.add_argument("--work", type=Path, default=Path("runs/lab"), help="pools and runs; default runs/lab")
    parser.add_argument("--out", type=Path, default=Path("results"), help="records; default results")
    options = parser.parse_args()
    for flag, given, known in (("--tasks", options.tasks, tuple(TASKS)), ("--stages", options.stages, STAGES)):
        for name in given:
            if name not in known:
                parser.error(f"{flag} = {name!r}: unknown; choose among {', '.join(known)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return options


if __name__ == "__main__":
    main()
