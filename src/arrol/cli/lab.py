"""``arrol lab``: collect a pool of rollouts with gradients, and judge designs on it."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from arrol import assembly
from arrol.cli.files import require_writable, reserved, whole
from arrol.cli.output import warner
from arrol.cli.policies import find_policy
from arrol.cli.tables import print_columns, print_json
from arrol.configs.base import validate
from arrol.configs.run import RunConfig
from arrol.errors import ConfigError
from arrol.lab import advice
from arrol.lab.collect import Collector, PoolPlan, collect, require_pool_room
from arrol.lab.costs import cost_model, require_cost
from arrol.lab.designs import (
    allocation_designs,
    group_sizes,
    lottery_designs,
    possible,
    pruning_designs,
    read_designs,
    stop_designs,
)
from arrol.lab.merit import Design, Judgement, Merit, base_config, judge, merits
from arrol.lab.moments import Moments
from arrol.lab.peers import peer_designs
from arrol.lab.pool import SUFFIX, Pool
from arrol.lab.scores import auroc_by_length
from arrol.records.schema import MeritRecord, PoolRecord
from arrol.records.store import RecordWriter, portable, provenance
from arrol.training.policy import base_of, load_tokenizer, load_trained, require_lora, require_positions, resolve_device

HARD = 0.06
"""A prompt with a smaller success rate is hard."""
COSTS = ("flops", "4:3", "7b")
"""Cost models of the table unless others are named."""
LIMITS = {
    "visits": (1, 2**20),
    "workers": (1, 256),
    "prompts": (2, 2**20),
    "rollouts": (2, 65536),
    "sketch_size": (0, 2**20),
}
"""Option -> least and most."""
STOP_COST = "7b"
"""Cost model that chooses the kept share of stops along the length: one that counts decode steps."""


def run_lab(options: argparse.Namespace, flags: Sequence[str]) -> int:
    console = Console(stderr=options.json, markup=False, highlight=False)
    path = Path(options.source)
    if options.record and Path(options.record).exists():
        raise ConfigError(f"--record = {options.record!r}: exists; give the name of a new file")
    for name, (least, most) in LIMITS.items():
        if not least <= (value := getattr(options, name)) <= most:
            raise ConfigError(f"--{name.replace('_', '-')} = {value}: give at least {least} and at most {most}")
    for name in options.cost:
        require_cost(name)
    own_designs = read_designs(options.designs) if options.designs else None
    if options.record:
        require_writable("--record", Path(options.record).parent)
    if path.suffix == SUFFIX:
        _refuse_with_pool(options, flags)
        pool = Pool.load(path)
    else:
        pool = collected(options, flags, console)
        if not pool.has_gradients:
            return 0
    base = base_config(validate(RunConfig, pool.config))
    designs = own_designs or standard_designs(pool, base)
    if options.peers:
        size, prompts = base.training.group_size, base.training.prompts_per_step
        designs = [*designs, *possible(peer_designs(pool, size, size * prompts), base)]
    models = [cost_model(name, pool) for name in options.cost or COSTS]
    found = judged(pool, base, designs, options, console)
    moments = Moments.of(pool)
    tables = {model.name: merits(found, moments, model) for model in models}
    if options.record:
        write_records(Path(options.record), pool, pool_facts(pool, moments), designs, found, tables)
    if options.json:
        print_json({"pool": pool_facts(pool, moments), "designs": _rows(found, tables)})
    else:
        print_designs(console, found, tables)
        facts = pool_facts(pool, moments)
        console.print(
            f"{facts['prompts']} prompts x {facts['rollouts']} rollouts; sigma_w/sigma_b {facts['ratio']:.2f}, best "
            f"group size about {facts['best_size']:.1f}. Merit relative to the first design, 95% interval over prompts",
            soft_wrap=True,
        )
    return 0


def collected(options: argparse.Namespace, flags: Sequence[str], console: Console) -> Pool:
    """The pool of a config's policy, or of a run's newest checkpoint; collected unless ``--out`` holds it already."""
    config, policy, _ = find_policy(options.source, flags, "lab", warner(console))
    plan = PoolPlan(options.prompts, options.rollouts, options.sketch_size, tuple(options.parameters))
    path = Path(options.out) if options.out else Path(config.out_dir) / config.name / f"pool{SUFFIX}"
    if path.suffix != SUFFIX:
        raise ConfigError(f"--out = {str(path)!r}: a pool is a {SUFFIX} file; give such a name")
    if path.exists():
        raise ConfigError(f"--out = {str(path)!r}: exists; judge it with arrol lab {path}, or give another --out")
    torch.set_num_threads(config.num_threads)
    tokenizer = load_tokenizer(policy)
    require_lora(config.model_copy(update={"model": base_of(policy)}))
    task = assembly.build_task(config.task, tokenizer, seed=config.seed)  # wrong data are an error before the model
    device = resolve_device(config.device)
    require_pool_room(config, plan, policy, device)
    model, _ = load_trained(config, policy, device, base=base_of(policy))
    try:
        prompts = [task.train_prompt(position) for position in range(plan.prompts)]
        require_positions(model.config, prompts, config.sampling.max_completion_tokens)
        collector = Collector(config, model, tokenizer, task, plan)
        meta = pool_meta(config, collector.plan, policy, sum(weight.numel() for weight in model.parameters()))
        require_writable("--out", path.parent)
        columns = (TextColumn("prompts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with reserved("--out", path), Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("", total=plan.prompts)
            pool = collect(collector, path, meta, lambda done, total: progress.update(bar, completed=done))
    finally:
        task.close()
    console.print(f"pool: {path}", soft_wrap=True)
    return pool


def pool_meta(config: RunConfig, plan: PoolPlan, policy: str, num_parameters: int) -> dict[str, Any]:
    """Provenance of a pool, of JSON values."""
    source = provenance(sys.argv, [config.seed])
    named = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(plan).items()}
    return {
        "name": config.name,
        "config": portable(config.model_dump(mode="json")),
        "plan": named,
        "policy": portable(policy),
        "num_parameters": num_parameters,
        "provenance": {**asdict(source), "seeds": list(source.seeds)},
    }


def standard_designs(pool: Pool, base: RunConfig) -> list[Design]:
    """The config's own group size first, which is the reference; the other sizes; and the levers at the size of largest
    merit by FLOPs and at the config's."""
    size, moments, flops = base.training.group_size, Moments.of(pool), cost_model("flops", pool)
    sizes = [design for design in group_sizes() if design.change["training"]["group_size"] != size]
    own = Design(f"group of {size}", {"training": {"group_size": size}})
    whole = [judge(pool, design, base) for design in (own, *sizes)]
    best = [own, *sizes][int(np.argmax([row.merit for row in merits(whole, moments, flops)]))]
    at = [int(design.change["training"]["group_size"]) for design in ((best,) if best is own else (best, own))]
    levers = [design for size in at for design in (*pruning_designs(pool, size), *lottery_designs(size))]
    rows, decode = size * base.training.prompts_per_step, cost_model(STOP_COST, pool)
    levers += [design for each in at for design in stop_designs(pool, decode, each, rows / each)]
    is_binary = bool(np.isin(pool.reward_PN[pool.is_known_PN], (0.0, 1.0)).all())
    rules = [design for size in at for design in allocation_designs(size, has_binary_rewards=is_binary)]
    return possible([own, *sizes, *levers, *rules], base)


def judged(
    pool: Pool, base: RunConfig, designs: Sequence[Design], options: argparse.Namespace, console: Console
) -> list[Judgement]:
    """Every design, in order; in worker processes where ``--workers`` says so."""
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("designs", total=len(designs))
        if options.workers <= 1:
            return [_judged(pool, design, base, options.visits, progress, bar) for design in designs]
        context = get_context("spawn")
        ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to this process, which ends the workers
        with (
            ProcessPoolExecutor(
                options.workers, mp_context=context, initializer=signal.signal, initargs=ignore
            ) as workers,
            _ended_workers(),
        ):
            waiting = [workers.submit(judge, pool, design, base, visits=options.visits) for design in designs]
            found = []
            for wait in waiting:
                found.append(wait.result())
                progress.advance(bar)
            return found


@contextmanager
def _ended_workers() -> Iterator[None]:
    """An error or a signal ends the worker processes, which would else work off what waits."""
    try:
        yield
    except BaseException:
        for process in active_children():
            process.terminate()
        raise


def _judged(pool: Pool, design: Design, base: RunConfig, visits: int, progress: Progress, bar: Any) -> Judgement:
    found = judge(pool, design, base, visits=visits)
    progress.advance(bar)
    return found


def pool_facts(pool: Pool, moments: Moments) -> dict[str, Any]:
    """Numbers of the pool itself."""
    length = pool.length_PN[pool.is_known_PN]
    right_P, count_P = advice.success_rates(pool)
    rates = right_P / count_P
    return {
        "prompts": pool.num_prompts,
        "rollouts": pool.num_rollouts,
        "success": float(right_P.sum() / count_P.sum()),
        "tokens": float(length.mean()),
        "tokens_cv": float(length.std() / length.mean()),
        "truncated": float(pool.is_truncated_PN[pool.is_known_PN].mean()),
        "hard": float((rates < HARD).mean()),
        "ratio": moments.ratio,
        "best_size": 1 + moments.ratio,
    }


def print_designs(console: Console, found: Sequence[Judgement], tables: dict[str, list[Merit]]) -> None:
    """One row per design; per cost model a column of merits, relative to the first design, and one of intervals."""
    columns = []
    for name, rows in tables.items():
        columns.append([f"merit {name}", *(f"{row.merit:.2f}" for row in rows)])
        columns.append(["95%", "", *(f"{row.low:.2f}-{row.high:.2f}" for row in rows[1:])])
    columns.append(["rollouts", *(f"{one.group_size:.1f}" for one in found)])
    columns.append(["kept", *(f"{one.kept:.2f}" for one in found)])
    columns.append(["trained", *(f"{one.trained:.2f}" for one in found)])
    columns.append(["bias", *(f"{one.bias:.2f}" if one.is_biased else "-" for one in found)])
    print_columns(console, "", ["design", *(one.name for one in found)], columns)


def _rows(found: Sequence[Judgement], tables: dict[str, list[Merit]]) -> list[dict[str, Any]]:
    rows = []
    for number, one in enumerate(found):
        facts = {"group_size": one.group_size, "kept": one.kept, "trained": one.trained, "bias": one.bias}
        merit = {name: asdict(table[number]) for name, table in tables.items()}
        rows.append({"name": one.name, **facts, "is_biased": one.is_biased, "merit": merit})
    return rows


def write_records(
    path: Path,
    pool: Pool,
    facts: dict[str, Any],
    designs: Sequence[Design],
    found: Sequence[Judgement],
    tables: dict[str, list[Merit]],
) -> None:
    """A file of records: provenance of this command, the pool, and a row per design and cost model."""
    source, config = provenance(sys.argv), pool.config
    name, policy = str(pool.meta.get("name", "pool")), str(pool.meta.get("policy", ""))
    metrics = {key: float(value) for key, value in facts.items()}
    metrics |= {f"auroc_within/{row['tokens']:g}": row["auroc_within"] for row in auroc_by_length(pool)}
    size = {"num_prompts": pool.num_prompts, "num_rollouts": pool.num_rollouts}
    with whole(path) as partial, RecordWriter(partial, path) as writer:
        writer.write(source.run_record(name=name, arm=name, seed=int(config["seed"]), config=dict(pool.meta)))
        writer.write(PoolRecord(pool=name, policy=policy, metrics=metrics, **size))
        for model, rows in tables.items():
            for design, one, row in zip(designs, found, rows, strict=True):
                values: dict[str, Any] = {key: value for key, value in asdict(row).items() if key != "name"}
                writer.write(
                    MeritRecord(
                        pool=name,
                        design=row.name,
                        cost_model=model,
                        group_size=one.group_size,
                        kept=one.kept,
                        trained=one.trained,
                        bias=one.bias if one.is_biased else float("nan"),
                        change=dict(design.change),
                        **values,
                    )
                )


def _refuse_with_pool(options: argparse.Namespace, flags: Sequence[str]) -> None:
    if flags:
        raise ConfigError(f"flag = {flags[0]!r}: a pool has its config inside; leave it out, or collect another pool")
    if options.out:
        raise ConfigError(f"--out = {options.out!r}: a pool is judged, nothing is collected; leave it out")
