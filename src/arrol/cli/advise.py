"""``arrol advise``: what each lever would gain on a workload, and one recommendation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from arrol.cli.files import require_writable
from arrol.cli.tables import print_json
from arrol.configs.base import validate
from arrol.configs.run import RunConfig, load_run
from arrol.errors import ConfigError
from arrol.lab import advice
from arrol.lab.costs import DECODE, CostModel, cost_model, require_cost
from arrol.lab.pool import SUFFIX, Pool
from arrol.records.store import RECORDS_FILE, read_run

DEAD_SIZES = (4, 8, 16)
BOUND_SIZES = (2, 4, 8, 16, 32)
CEILING_RATES = (0.05, 0.1, 0.2, 0.5)
PROMPTS_PER_STEP = 16
"""Prompts of a step, where a source names no number."""
READING = {"--group-by": "group_by", "--verifier": "verifier", "--mark": "mark", "--column": "column"}
"""Options that only a file of samples takes."""


@dataclass(frozen=True)
class Workload:
    """A pool and the step that it stands for."""

    pool: Pool
    group_size: int
    prompts_per_step: int
    base: RunConfig | None = None
    """Config of a pool with gradients."""
    notes: list[str] = field(default_factory=list)


def run_advise(options: argparse.Namespace) -> int:
    console = Console(stderr=options.json, markup=False, highlight=False)
    for name, value, least in (("--visits", options.visits, 1), ("--group-size", options.group_size, 2)):
        if value is not None and value < least:
            raise ConfigError(f"{name} = {value}: give at least {least}")
    for name in options.cost:
        require_cost(name)
    if options.plots:
        require_writable("--plots", Path(options.plots))
    work = workload(options, console)
    has_gradients = work.base is not None and work.pool.has_gradients
    if options.designs and not has_gradients:
        raise ConfigError(f"--designs = {options.designs!r}: needs a pool with gradients; collect one with arrol lab")
    models = [cost_model(name, work.pool) for name in options.cost or usual_costs(work.pool)]
    report = facts(work, models)
    if has_gradients:
        report |= lever_report(work, models, options)
    else:
        bounds = advice.size_bounds(work.pool, models[0], BOUND_SIZES, work.group_size, work.prompts_per_step)
        report["bounds"] = [bound._asdict() for bound in bounds]
        report["ceilings"] = ceilings(report["heads"])
    if options.plots:
        from arrol.cli.advice_screen import page_parts
        from arrol.reports.workload import draw_workload, write_page

        plots = draw_workload(report, options.plots)
        title = f"arrol advise: {Path(options.source).name}"
        report["plots"] = [str(path) for path in plots]
        report["page"] = str(write_page(title, page_parts(report), plots, options.plots))
    if options.json:
        print_json(report)
    else:
        from arrol.cli.advice_screen import print_report

        print_report(console, report)
    return 0


def workload(options: argparse.Namespace, console: Console) -> Workload:
    """The workload of a pool, a config or run with a pool, a run's records, or a file of samples."""
    path = Path(options.source)
    is_run = path.is_dir() and (path / RECORDS_FILE).is_file()
    file = path if path.suffix == SUFFIX else path / f"pool{SUFFIX}" if is_run else _pool_of_config(path)
    if file is not None and (file.is_file() or file is path):
        _refuse_reading(options)
        return _of_pool(Pool.load(file), options)
    if is_run:
        _refuse_reading(options)
        return _of_run(path, options)
    return _of_samples(options, console)


def _pool_of_config(path: Path) -> Path | None:
    """Where ``arrol lab CONFIG`` puts its pool; ConfigError where there is none yet, None for another file."""
    if path.suffix != ".toml":
        return None
    config = load_run(str(path), [])
    file = Path(config.out_dir) / config.name / f"pool{SUFFIX}"
    if not file.is_file():
        raise ConfigError(f"source = {str(path)!r}: {file} does not exist; collect it with arrol lab {path}")
    return file


def _of_pool(pool: Pool, options: argparse.Namespace) -> Workload:
    from arrol.lab.merit import base_config  # loads torch

    base = base_config(validate(RunConfig, pool.config))
    size = options.group_size or base.training.group_size
    prompts = max(1, round(base.training.prompts_per_step * base.training.group_size / size))
    training = base.training.model_copy(update={"group_size": size, "prompts_per_step": prompts})
    return Workload(pool, size, prompts, base.model_copy(update={"training": training}))


def _of_run(path: Path, options: argparse.Namespace) -> Workload:
    from arrol.lab.sources import pool_of_run, usual_step

    run, notes = read_run(path), list[str]()
    pool = pool_of_run(run, notes)
    usual = dict(zip(("group_size", "prompts_per_step"), usual_step(run), strict=True))
    training = {name: value for name, value in run.run.section("training").items() if type(value) is int and value > 0}
    size, prompts = ({**usual, **training}[name] for name in usual)
    return Workload(pool, options.group_size or max(2, size), prompts, notes=notes)


def _of_samples(options: argparse.Namespace, console: Console) -> Workload:
    from arrol.cli.evaluate import judge, samples_of
    from arrol.lab.sources import pool_of_samples

    notes: list[str] = []
    options.samples = options.source
    problems = samples_of(options, notes)
    if any(sample.reward is None for problem in problems for sample in problem.samples):
        problems = [one.problem for one in judge(problems, options, console)]
    pool = pool_of_samples(problems, notes)
    usual = int(np.median(pool.is_known_PN.sum(1)))
    return Workload(pool, options.group_size or max(2, usual), PROMPTS_PER_STEP, notes=notes)


def _refuse_reading(options: argparse.Namespace) -> None:
    for name, key in READING.items():
        if getattr(options, key):
            raise ConfigError(f"{name} = {getattr(options, key)!r}: only a file of samples needs it; leave it out")


def usual_costs(pool: Pool) -> tuple[str, ...]:
    """The GPU preset nearest to the policy in size (7b where the size is unknown), FLOPs, a published GPU step."""
    size = pool.num_parameters or DECODE["7b"][0]
    nearest = min(DECODE, key=lambda name: abs(np.log(DECODE[name][0] / size)))
    return nearest, "flops", "4:3"


def facts(work: Workload, models: Sequence[CostModel]) -> dict[str, Any]:
    """What needs no gradients."""
    from arrol.lab.scores import auroc_by_length

    pool, size = work.pool, work.group_size
    right_P, count_P = advice.success_rates(pool)
    tail = advice.tail(pool, size, work.prompts_per_step)
    return {
        "prompts": pool.num_prompts,
        "rollouts": int(pool.is_known_PN.sum()),
        "success": float(np.mean(right_P / count_P)),
        "group_size": size,
        "prompts_per_step": work.prompts_per_step,
        "has_gradients": pool.has_gradients,
        "notes": work.notes,
        "difficulty": dict(zip(advice.RATE_LABELS, advice.difficulty(pool), strict=True)),
        "dead": {str(each): advice.dead_groups(pool, each) for each in DEAD_SIZES},
        "lengths": tail._asdict(),
        "heads": auroc_by_length(pool),
        "time": advice.step_shares(pool, models, size, work.prompts_per_step),
        "live": advice.live_rows(pool, size * work.prompts_per_step).tolist(),
        "costs": [model._asdict() for model in models],
    }


def ceilings(heads: Sequence[dict[str, float]]) -> dict[str, Any]:
    """What pruning can gain within prompts at most, at the probe with the largest AUROC that half of them reach."""
    known = [row for row in heads if np.isfinite(row["auroc_within"]) and row["reached"] >= advice.MIN_REACHED]
    if not known:
        return {}
    best = max(known, key=lambda row: row["auroc_within"])
    prefix = min(1.0, best["length_share"])
    rows = {str(rate): advice.ceiling(rate, best["auroc_within"], prefix=prefix) for rate in CEILING_RATES}
    return {"tokens": best["tokens"], "auroc": best["auroc_within"], "prefix": prefix, "gain": rows}


def lever_report(work: Workload, models: Sequence[CostModel], options: argparse.Namespace) -> dict[str, Any]:
    """The levers, the decision and its lines."""
    from arrol.lab.designs import read_designs
    from arrol.lab.levers import decide, levers, lines
    from arrol.lab.merit import merits
    from arrol.lab.moments import Moments

    assert work.base is not None
    model, moments = models[0], Moments.of(work.pool)
    designs = read_designs(options.designs) if options.designs else ()
    rows, best, stops = levers(work.pool, work.base, model, visits=options.visits, designs=designs)
    decision = decide(rows, best)
    noise = advice.noise(moments)
    whole = [row.judgement for row in rows if row.is_whole]
    sizes = {
        each.name: [
            {"size": one.group_size, "merit": row.merit, "low": row.low, "high": row.high}
            for one, row in zip(whole, merits(whole, moments, each), strict=True)
        ]
        for each in models
    }
    chosen = None if decision.lever is None else rows[decision.lever]
    return {
        "noise": {**noise._asdict(), "best_size": noise.best_size},
        "cost": model.name,
        "is_seconds": model.is_seconds,
        "best": best,
        "stops": [{"group_size": rows[best].judgement.group_size, **stop._asdict()} for stop in stops],
        "sizes": {name: sorted(each, key=lambda row: row["size"]) for name, each in sizes.items()},
        "levers": [
            {
                "name": row.design.name,
                "is_whole": row.is_whole,
                "is_biased": row.judgement.is_biased,
                "bias": row.judgement.bias,
                "group_size": row.judgement.group_size,
                "kept": row.judgement.kept,
                "trained": row.judgement.trained,
                "beside_own": asdict(row.beside_own),
                "beside_best": asdict(row.beside_best),
                "step_cost": row.step_cost,
            }
            for row in rows
        ],
        "recommendation": chosen.design.name if chosen else None,
        "reason": decision.reason,
        "lines": lines(chosen.design, work.base) if chosen else {},
    }
