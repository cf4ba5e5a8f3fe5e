"""Tables of the records that ``lab_pools.py`` writes: each pool's designs, the best lever of each, and whether merits
repeat on the second seed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from arrol.records.schema import MeritRecord, PoolRecord, RunRecord
from arrol.records.store import read_records
from arrol.reports.tables import markdown_lines

NAME = re.compile(r"lab-(?P<task>.+)-(?P<stage>start|middle|end)-seed(?P<seed>\d+)")
STAGES = ("start", "middle", "end")
SHOWN = ("flops", "7b")
"""Cost models of a pool's table; the table of levers has all."""
WIDTH = 2 * 1.96
"""Of a 95% interval, in standard errors."""
Merits = dict[tuple[str, str], MeritRecord]
"""(cost model, design) -> its record, in the order of the file; the first design is the reference."""


def pools(results: Path) -> dict[tuple[str, str], dict[int, list]]:
    """Records by (task, stage) and seed, the stages of a task in order."""
    found: dict[tuple[str, str], dict[int, list]] = {}
    matches = filter(None, (NAME.fullmatch(path.stem) for path in sorted(results.glob("lab-*.jsonl"))))
    for match in sorted(matches, key=lambda one: (one["task"], STAGES.index(one["stage"]), int(one["seed"]))):
        records = read_records(results / f"{match.string}.jsonl")
        found.setdefault((match["task"], match["stage"]), {})[int(match["seed"])] = records
    return found


def lab_blocks(results: Path) -> dict[str, str]:
    """``lab-pools`` and ``lab-TASK-STAGE`` for every pool."""
    found = pools(results)
    tables = {f"lab-{task}-{stage}": pool_table(by_seed) for (task, stage), by_seed in found.items()}
    return tables | ({"lab-pools": lever_table(found)} if found else {})


def pool_table(by_seed: Mapping[int, list]) -> str:
    """Merits of every design on each seed, what the pools say, and how the seeds agree."""
    merits = {seed: merits_of(records) for seed, records in by_seed.items()}
    first = next(iter(merits.values()))
    columns = [(model, seed) for model in SHOWN for seed in merits]
    lines = [["design", *(f"{model}, seed {seed}" for model, seed in columns), "kept", "trained", "bias"]]
    for design in dict.fromkeys(design for _, design in first):
        cells = [cell(merits[seed][model, design]) for model, seed in columns]
        row = first[SHOWN[0], design]
        bias = "-" if math.isnan(row.bias) else f"{row.bias:.2f}"
        lines.append([design, *cells, f"{row.kept:.2f}", f"{row.trained:.2f}", bias])
    notes = [f"- Seed {seed}: {facts(records)}" for seed, records in by_seed.items()]
    notes += [f"- {agreement(*merits.values())}"] if len(merits) == 2 else []
    return f"{markdown_lines(lines)}\n" + "\n".join(notes) + "\n"


def lever_table(found: Mapping[tuple[str, str], Mapping[int, list]]) -> str:
    """Per pool and cost model: the group size and the lever that are best on the first seed, read on the second."""
    heads = ["best group size", "on the other seed", "best lever", "on the other seed", "auto, group of 16"]
    lines = [["pool", "cost", *heads]]
    for (task, stage), by_seed in found.items():
        if len(by_seed) != 2:
            continue
        first, second = (merits_of(records) for records in by_seed.values())
        for model in dict.fromkeys(model for model, _ in first):
            rows = [row for (name, _), row in first.items() if name == model]
            size, lever = (max(group, key=lambda row: row.merit) for group in (whole(rows), levers(rows)))
            auto = next(row for row in rows if row.design == f"auto for {model}, group of 16")
            shown = [[row.design, cell(second[model, row.design])] for row in (size, lever)]
            lines.append([f"{task}, {stage}", model, *shown[0], *shown[1], cell(second[model, auto.design])])
    return f"{markdown_lines(lines)}\n"


def whole(rows: Sequence[MeritRecord]) -> list[MeritRecord]:
    """The plain group sizes."""
    return [row for row in rows if set(row.change) == {"training"}]


def levers(rows: Sequence[MeritRecord]) -> list[MeritRecord]:
    """The designs that are no plain group size and have no bias above the noise."""
    return [row for row in rows if set(row.change) != {"training"} and math.isnan(row.bias)]


def merits_of(records: Sequence) -> Merits:
    """The merits of a file of records."""
    return {(row.cost_model, row.design): row for row in records if isinstance(row, MeritRecord)}


def cell(row: MeritRecord) -> str:
    """``1.31 (1.10 to 1.52)``; the reference has no interval."""
    is_reference = row.low == row.high == row.merit
    return f"{row.merit:.2f}" if is_reference else f"{row.merit:.2f} ({row.low:.2f} to {row.high:.2f})"


def facts(records: Sequence) -> str:
    """Size, success and lengths of a pool, and what made it."""
    pool = next(row for row in records if isinstance(row, PoolRecord))
    run = next(row for row in records if isinstance(row, RunRecord))
    value = pool.metrics
    return (
        f"{pool.policy}, {pool.num_prompts} prompts x {pool.num_rollouts} rollouts, success {value['success']:.3f},"
        f" {value['hard']:.0%} of the prompts below .06, {value['tokens']:.0f} tokens (coefficient of variation"
        f" {value['tokens_cv']:.2f}), sigma_w/sigma_b {value['ratio']:.1f}. `{run.command}`, commit {run.commit[:12]},"
        f" {run.device}."
    )


def agreement(first: Merits, second: Merits) -> str:
    """Whether differences of log merits between two seeds are as large as their intervals say."""
    parts = []
    for model in SHOWN:
        pairs = [(row, second[key]) for key, row in first.items() if key[0] == model and row.low < row.high]
        distances = [abs(distance(*pair)) for pair in pairs]
        close, inside = sum(one < WIDTH / 2 for one in distances), sum(a.low <= b.merit <= a.high for a, b in pairs)
        parts.append(f"{close} of {len(pairs)} by {model} ({inside} inside the first seed's interval)")
    return (
        "Designs whose merits on the two seeds differ by less than 1.96 standard errors of the difference of their"
        f" logarithms, from the widths of both intervals: {', '.join(parts)}."
    )


def distance(first: MeritRecord, second: MeritRecord) -> float:
    """Difference of log merits in standard errors."""
    errors = [math.log(row.high / row.low) / WIDTH for row in (first, second)]
    return (math.log(second.merit) - math.log(first.merit)) / float(np.hypot(*errors))
