"""What a report shows first: key numbers, and one sentence with its interval.

The tiles and the sentence are about the first arm that is neither the baseline nor a control, in the order of the
table; a control where there is no other. No arm is chosen by its result.

Differences of final accuracy:

1. With two shared seeds or more: mean over these pairs, Student's t.
2. Else from the two intervals of the table (Newcombe 1998, as for independent samples), which leaves the spread over
   seeds out where each arm has a single one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from arrol.records.store import Run
from arrol.reports.curves import runs_by_arm
from arrol.reports.tables import CONTROLS, Row, final_accuracy
from arrol.stats import mean_interval


class Tile(NamedTuple):
    """One key number: what it is, its value with unit, and what it refers to."""

    name: str
    value: str
    detail: str


class Gap(NamedTuple):
    """Final accuracy of an arm minus the first arm's, its 95% interval, and how that was made."""

    mean: float
    low: float
    high: float
    how: str


def shown_arm(rows: Sequence[Row]) -> Row:
    """The row that the summary is about; ``rows`` has at least one."""
    others = rows[1:]
    return next((row for row in others if row["arm"] not in CONTROLS), others[0] if others else rows[0])


def tiles(rows: Sequence[Row]) -> list[Tile]:
    """Key numbers of the shown arm, as far as they were measured."""
    if not rows:
        return []
    row, first = shown_arm(rows), rows[0]["arm"]
    arm, versus = row["arm"], f"{row['arm']}, against {rows[0]['arm']}"
    is_compared = arm != first
    found = []
    if is_compared and row["speedup"] is not None:
        found.append(Tile("speed-up", f"{row['speedup']:.2f}x", f"training time, {versus}"))
    if row["kept_frac"] is not None and (row["kept_frac"] < 1 or row["auroc_within_prompt"] is not None):
        found.append(Tile("kept", f"{row['kept_frac']:.0%}", f"of the candidates, {arm}"))
    if row["auroc_within_prompt"] is not None:
        found.append(Tile("AUROC within prompts", f"{row['auroc_within_prompt']:.2f}", "0.5: chance; 1: perfect"))
    if is_compared and row["flops_ratio"] is not None:
        found.append(Tile("compute saved", f"{1 - row['flops_ratio']:.0%}", f"FLOPs, {versus}"))
    elif not is_compared and row["tokens_saved"]:
        share = row["tokens_saved"] / (row["tokens_saved"] + row["tokens_generated"])
        found.append(Tile("generation saved", f"{share:.0%}", "tokens not generated thanks to stops, estimated"))
    if row["final_accuracy"] is not None:
        detail = f"95% interval {row['final_low']:.3f} to {row['final_high']:.3f}, {arm}"
        found.append(Tile("final accuracy", f"{row['final_accuracy']:.3f}", detail))
    return found


def headline(runs: Sequence[Run], rows: Sequence[Row]) -> str:
    """One sentence on what the comparison shows, or on where a single arm went; empty without evaluations."""
    if not rows:
        return ""
    row, first = shown_arm(rows), rows[0]
    if row["final_accuracy"] is None or first["final_accuracy"] is None:
        return ""
    if row is first:
        return _course(row)
    gap = final_gap(runs, first, row)
    if gap.low > 0 or gap.high < 0:
        said = f"{row['arm']} ends {'more' if gap.mean > 0 else 'less'} accurate than {first['arm']}"
    else:
        said = f"{row['arm']} against {first['arm']} shows no clear difference in final accuracy"
    shares = [
        f"{share:.0%} of the {what}"
        for share, what in (
            (1 / row["speedup"] if row["speedup"] else None, "time"),
            (row["flops_ratio"], "compute"),
        )
        if share is not None
    ]
    cost = f"; its training took {' and '.join(shares)}" if shares else ""
    return f"{said}: {gap.mean:+.3f} (95% interval {gap.low:+.3f} to {gap.high:+.3f}, {gap.how}){cost}."


def final_gap(runs: Sequence[Run], first: Row, row: Row) -> Gap:
    """Difference of two arms that both have a final accuracy; bounds are in [-1, 1]."""
    arms = runs_by_arm(runs)
    theirs, ours = (
        {run.run.seed: accuracy for run in arms[one["arm"]] if not math.isnan(accuracy := final_accuracy(run))}
        for one in (first, row)
    )
    gaps = [ours[seed] - theirs[seed] for seed in theirs if seed in ours]
    if len(gaps) > 1:
        low, high = mean_interval(gaps)
        return Gap(math.fsum(gaps) / len(gaps), max(low, -1.0), min(high, 1.0), f"t over {len(gaps)} paired seeds")
    mean = row["final_accuracy"] - first["final_accuracy"]
    down = math.hypot(row["final_accuracy"] - row["final_low"], first["final_high"] - first["final_accuracy"])
    up = math.hypot(row["final_high"] - row["final_accuracy"], first["final_accuracy"] - first["final_low"])
    single = len(row["seeds"]) == len(first["seeds"]) == 1
    how = "over the samples of one seed, without the spread over seeds" if single else "from the arms' intervals"
    return Gap(mean, max(mean - down, -1.0), min(mean + up, 1.0), how)


def _course(row: Row) -> str:
    start = "" if row["start_accuracy"] is None else f"from {row['start_accuracy']:.3f} "
    steps = "" if row["steps"] is None else f" in {row['steps']} steps"
    return (
        f"Accuracy of {row['arm']} went {start}to {row['final_accuracy']:.3f} (95% interval {row['final_low']:.3f} to "
        f"{row['final_high']:.3f}, {row['interval']}){steps}; nothing is compared with it."
    )
