"""Tables of a comparison: accuracy and cost, one row per arm.

How each number is made:

1. Accuracy: mean of the last evaluation over seeds. Its 95% interval is Student's t over seeds; with a single seed it
   is over the evaluation's samples (Wilson, unless the evaluation recorded another), and the row says which.
2. Time is training without evaluation. Speed-up is the first arm's time over this arm's, over the steps both have:
   the median over pairs when both ran the same seeds, else the ratio of means. Compute is every FLOP of generating,
   scoring and training; its ratio is made like the speed-up, but is this arm's over the first arm's.
3. Time, tokens and compute to the target: linear interpolation to the first evaluation at or above it, median over
   seeds, where a seed that never got there counts as infinite. The target, when none is given, lies 90% of the way from
   the first arm's start to its final accuracy.
4. Kept share (weighted by candidates) and AUROC (mean over steps) leave the warm-up steps out. Rollouts per prompt and
   the share of dead groups are means over all steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from arrol.records.diagnosis import final_findings
from arrol.records.schema import EvalRecord, StepRecord
from arrol.records.store import Run
from arrol.reports.curves import (
    BASELINES,
    after_warmup,
    cost_to_target,
    cost_until,
    eval_curve,
    ran_without_head,
    runs_by_arm,
    step_metric,
    step_seconds,
)
from arrol.stats import mean_interval, wilson_interval

ABSENT = "-"
"""Shown where nothing was measured."""
CONTROLS = ("never", "uniform", "oracle", "small_group")
"""Arms that belong in every comparison; a ``BASELINES`` arm stands for ``never``."""
TARGET_SHARE = 0.9
WITHOUT_HEAD = "* {arms} ran without the head's scores, so its doubly_robust correction was ipw."
COLUMN_GROUPS: tuple[tuple[str, ...], ...] = (
    ("seeds", "steps", "start accuracy", "final accuracy", "training time", "speed-up", "time to "),
    (
        "tokens generated",
        "tokens scored",
        "tokens trained",
        "tokens to ",
        "total compute",
        "compute ratio",
        "compute to ",
    ),
    ("rollouts per prompt", "dead groups", "kept", "AUROC within prompt", "AUROC pooled"),
)
"""Beginnings of the headings that stand in one Markdown table, beside the arm."""
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

Row = dict[str, Any]


def comparison_rows(runs: Sequence[Run], target: float | None = None) -> list[Row]:
    """One row of plain JSON values per arm, the arm that speed-ups refer to first; None where nothing was measured."""
    arms = runs_by_arm(runs)
    if not arms:
        return []
    baseline = next(iter(arms.values()))
    if target is None:
        target = default_target(baseline)
    return [_arm_row(arm, members, baseline, target) for arm, members in arms.items()]


def default_target(baseline: Sequence[Run]) -> float | None:
    """Accuracy 90% of the way from the arm's start to its final one; None where it did not rise."""
    start, final = _mean(map(start_accuracy, baseline)), _mean(map(final_accuracy, baseline))
    if start is None or final is None or final <= start:
        return None
    return start + TARGET_SHARE * (final - start)


def start_accuracy(run: Run) -> float:
    """Accuracy before training; NaN when it was not evaluated."""
    return run.evals[0].accuracy if run.evals and run.evals[0].step == 0 else math.nan


def final_accuracy(run: Run) -> float:
    """Accuracy at the last evaluation after step 0; NaN when there was none."""
    return run.evals[-1].accuracy if run.evals and run.evals[-1].step > 0 else math.nan


def speedup(baseline: Sequence[Run], members: Sequence[Run]) -> float | None:
    """Training time of the baseline over that of the arm, over the steps that all these runs have."""
    return cost_ratio(baseline, members, step_seconds)


def cost_ratio(above: Sequence[Run], below: Sequence[Run], cost: Callable[[StepRecord], float]) -> float | None:
    """Cost of some runs over that of others, over the steps that all of them have; None where one side knows none."""
    lasts = [run.steps[-1].step if run.steps else 0 for run in (*above, *below)]
    last_E = np.array([min(lasts, default=0)])
    over, under = (np.array([cost_until(run, cost, last_E)[0] for run in runs]) for runs in (above, below))
    if not (np.nansum(under) > 0 and np.nansum(over) > 0):
        return None
    if [run.run.seed for run in above] == [run.run.seed for run in below] and (under > 0).all():
        return _finite(float(np.median(over / under)))
    return _finite(float(np.nanmean(over) / np.nanmean(under)))


def _arm_row(arm: str, members: list[Run], baseline: list[Run], target: float | None) -> Row:
    low, high, interval = _accuracy_interval(members)
    lasts = [run.steps[-1].step for run in members if run.steps]
    return {
        "arm": arm,
        "seeds": [run.run.seed for run in members],
        "steps": max(lasts, default=None),
        "start_accuracy": _mean(map(start_accuracy, members)),
        "final_accuracy": _mean(map(final_accuracy, members)),
        "final_low": low,
        "final_high": high,
        "interval": interval,
        "train_s": _mean(_total(run, step_seconds) for run in members),
        **{
            f"tokens_{name}": _mean(_total(run, step_metric(f"tokens/{name}")) for run in members)
            for name in ("generated", "scored", "trained", "saved", "wasted")
        },
        "flops": _mean(_total(run, step_metric("compute/flops")) for run in members),
        "rollouts_per_prompt": _mean(_step_mean(run.steps, "rollout/per_prompt") for run in members),
        "dead_group_frac": _mean(_step_mean(run.steps, "rollout/dead_group_frac") for run in members),
        "kept_frac": _mean(map(_kept_frac, members)),
        "speedup": speedup(baseline, members),
        "flops_ratio": cost_ratio(members, baseline, step_metric("compute/flops")),
        "target_accuracy": target,
        **_to_target(members, target),
        "auroc_within_prompt": _mean(_step_mean(after_warmup(run), "quality/auroc_within_prompt") for run in members),
        "without_head": any(map(ran_without_head, members)),
        "auroc_pooled": _mean(_step_mean(after_warmup(run), "quality/auroc_pooled") for run in members),
        "findings": [
            {"seed": run.run.seed, "kind": finding.kind, "text": finding.text}
            for run in members
            for finding in final_findings([step.metrics for step in run.steps])
        ],
    }


def _accuracy_interval(members: Sequence[Run]) -> tuple[float | None, float | None, str | None]:
    finals = [run.evals[-1] for run in members if not math.isnan(final_accuracy(run))]
    if not finals:
        return None, None, None
    if len(finals) > 1:
        low, high = mean_interval([record.accuracy for record in finals])
        return max(0.0, low), min(1.0, high), f"t over {len(finals)} seeds"
    return _sample_interval(finals[0])


def _sample_interval(record: EvalRecord) -> tuple[float, float, str]:
    total = record.num_prompts * record.samples_per_prompt
    wilson = wilson_interval(min(max(record.accuracy, 0.0), 1.0) * total, total)
    own = (record.low, record.high)
    if math.isfinite(record.low + record.high) and max(abs(a - b) for a, b in zip(own, wilson, strict=True)) > 1e-6:
        return *own, f"as evaluated, over {total} samples"
    return *wilson, f"Wilson over {total} samples"


def _to_target(members: Sequence[Run], target: float | None) -> Row:
    """How many of how many seeds reached the target, and the median time, tokens and compute until then."""
    costs = {"time_to_target_s": "train_s_E", "tokens_to_target": "tokens_E", "flops_to_target": "flops_E"}
    curves = [curve for curve in map(eval_curve, members) if curve.steps_E.size]
    if target is None or not curves:
        return {"target_reached": None, **dict.fromkeys(costs)}
    row: Row = {"target_reached": [sum(bool((curve.accuracy_E >= target).any()) for curve in curves), len(curves)]}
    for name, column in costs.items():
        spent = [cost_to_target(getattr(curve, column), curve.accuracy_E, target) for curve in curves]
        row[name] = _finite_median(spent)
    return row


def _kept_frac(run: Run) -> float:
    kept, candidates = [], []
    for step in after_warmup(run):
        share = step.metrics.get("pruning/kept_frac", math.nan)
        if not math.isnan(share):
            kept.append(share)
            candidates.append(step.metrics.get("pruning/candidates", math.nan))
    if not kept:
        return math.nan
    weights = np.array(candidates) if np.nansum(candidates) > 0 and not np.isnan(candidates).any() else None
    return float(np.average(kept, weights=weights))


def _step_mean(steps: Sequence[StepRecord], key: str) -> float:
    found = _mean(map(step_metric(key), steps))
    return math.nan if found is None else found


def _total(run: Run, cost: Callable[[StepRecord], float]) -> float:
    return float(cost_until(run, cost, np.array([np.iinfo(int).max]))[0])


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _finite_median(values: Sequence[float]) -> float | None:
    known = sorted(value for value in values if not math.isnan(value))
    if not known:
        return None
    lower, upper = known[(len(known) - 1) // 2], known[len(known) // 2]
    return _finite((lower + upper) / 2)


RATIOS = ("speed-up", "compute ratio")
"""Columns that compare a row with the first."""


def display_rows(rows: Sequence[Row], *, narrow: bool = False) -> list[dict[str, str]]:
    """Heading -> text of each row, without the columns that no row has a value for; a single row has no ratios.

    ``narrow`` gives each number a heading of its own: intervals and counts of seeds leave the cell. Records that do not
    know the rollouts per prompt counted dead groups after pruning; theirs are not shown.
    """
    found = [_cells(row, _target(rows), narrow=narrow) for row in rows]
    known = {head for cells in found for head, text in cells.items() if text != ABSENT}
    known -= set(RATIOS) if len(rows) == 1 else set()
    return [{head: text for head, text in cells.items() if head in known} for cells in found]


def _target(rows: Sequence[Row]) -> str:
    target = next((row["target_accuracy"] for row in rows if row["target_accuracy"] is not None), None)
    return "target" if target is None else f"{target:.3f}"


def _cells(row: Row, target: str, *, narrow: bool) -> dict[str, str]:
    accuracy, low, high = (_text(row[key], "{:.3f}") for key in ("final_accuracy", "final_low", "final_high"))
    if narrow:
        final = {"final accuracy": accuracy, "95% interval, from": low, "95% interval, to": high}
        reached = {f"reached {target}": _reached(row)}
    else:
        final = {"final accuracy (95% interval)": ABSENT if accuracy == ABSENT else f"{accuracy} ({low} to {high})"}
        reached = {}
    return {
        "arm": arm_label(row["arm"], without_head=row["without_head"]),
        "seeds": str(len(row["seeds"])),
        "steps": _text(row["steps"], "{:d}"),
        "start accuracy": _text(row["start_accuracy"], "{:.3f}"),
        **final,
        "training time": _text(row["train_s"], "{:.1f} s"),
        "tokens generated": count_text(row["tokens_generated"]),
        "tokens scored": count_text(row["tokens_scored"]),
        "tokens trained": count_text(row["tokens_trained"]),
        "total compute": flops_text(row["flops"]),
        "rollouts per prompt": _text(row["rollouts_per_prompt"], "{:.1f}"),
        "dead groups": _text(row["dead_group_frac"] if row["rollouts_per_prompt"] is not None else None, "{:.2f}"),
        "kept": _text(row["kept_frac"], "{:.2f}"),
        "speed-up": _text(row["speedup"], "{:.2f}x"),
        "compute ratio": _text(row["flops_ratio"], "{:.2f}"),
        **reached,
        f"time to {target}": _target_text(row, _text(row["time_to_target_s"], "{:.1f} s"), narrow=narrow),
        f"tokens to {target}": _target_text(row, count_text(row["tokens_to_target"]), narrow=narrow),
        f"compute to {target}": _target_text(row, flops_text(row["flops_to_target"]), narrow=narrow),
        "AUROC within prompt": _text(row["auroc_within_prompt"], "{:.2f}"),
        "AUROC pooled": _text(row["auroc_pooled"], "{:.2f}"),
    }


def arm_label(arm: str, *, without_head: bool = False) -> str:
    """``oracle* (control)``: the star marks an arm that ran without its head (``WITHOUT_HEAD``)."""
    return f"{arm}{'*' * without_head}{' (control)' * (arm in CONTROLS)}"


def markdown_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A Markdown table of comparison rows; ``columns`` picks headings by their beginning."""
    shown = display_rows(rows)
    heads = [head for begin in columns for head in (shown[0] if shown else ["arm"]) if head.startswith(begin)]
    return markdown_lines([heads, *([escape_markdown(row[head]) for head in heads] for row in shown)])


def markdown_tables(rows: Sequence[Row]) -> str:
    """All columns, in up to three tables: accuracy and time, tokens and compute, rollouts and head."""
    heads = list(display_rows(rows)[0]) if rows else []
    chosen = [group for group in COLUMN_GROUPS if any(head.startswith(group) for head in heads)]
    return "\n".join(markdown_table(rows, ("arm", *group)) for group in chosen or [()])


def column_sets(rows: Sequence[Row]) -> list[list[str]]:
    """Headings of up to three tables, as :func:`markdown_tables` has them; one without headings for no rows."""
    heads = list(display_rows(rows)[0]) if rows else []
    found = [[head for begin in ("arm", *group) for head in heads if head.startswith(begin)] for group in COLUMN_GROUPS]
    return [each for each in found if len(each) > 1] or [heads]


def markdown_lines(lines: Sequence[Sequence[str]]) -> str:
    """Cells to a Markdown table: headings first, the first column to the left."""
    heads, *body = lines
    marked = [heads, [":--"] + ["--:"] * (len(heads) - 1), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in marked)


def comparison_notes(rows: Sequence[Row]) -> list[str]:
    """How the numbers of the table were made, and what is missing, one or two sentences per note."""
    if not rows:
        return []
    first, arms = rows[0]["arm"], [row["arm"] for row in rows]
    intervals = sorted({row["interval"] for row in rows if row["interval"]})
    notes = [f"Accuracy intervals: {'; '.join(intervals)}."] if intervals else []
    both = f"{first}, over the steps that both have." if len(rows) > 1 else ""
    notes.append("Training time leaves evaluation out." + f" Speed-up: against {both}" * bool(both))
    costs = "time and tokens"
    if any(row["flops"] is not None for row in rows):
        costs = "time, tokens and compute"
        notes.append(f"Compute: FLOPs to generate, score and train{f'; its ratio: to {both}' if both else '.'}")
    if rows[0]["target_accuracy"] is not None:
        notes.append(
            f"Target accuracy {rows[0]['target_accuracy']:.3f}: {costs} until an evaluation first reaches it, "
            "interpolated; median over seeds."
        )
    notes.append("Kept share (of the candidates) and AUROC leave the warm-up steps out.")
    if any(row["rollouts_per_prompt"] is not None for row in rows):
        notes.append("Rollouts per prompt and dead groups (all right or all wrong): means over all steps.")
    notes += head_notes(rows)
    missing = [arm for arm in CONTROLS if arm not in arms and not (arm == "never" and first in BASELINES)]
    if len(rows) > 1 and missing:
        notes.append(f"Controls not run: {', '.join(missing)}.")
    if all(len(row["seeds"]) < 5 for row in rows):
        notes.append("Fewer than five seeds: no claim about learning is made.")
    return notes


def head_notes(rows: Sequence[Row]) -> list[str]:
    """The footnote of the star; empty where no arm has one."""
    arms = ", ".join(row["arm"] for row in rows if row["without_head"])
    return [WITHOUT_HEAD.format(arms=arms)] if arms else []


def count_text(value: float | None) -> str:
    """A count with three digits and a unit prefix: ``950``, ``12.3 k``, ``4.56 M``."""
    if value is None:
        return ABSENT
    for size, prefix in PREFIXES:
        if value >= size * 0.9995:
            return f"{value / size:.3g} {prefix}" if value < size * 999.5 else f"{value / size:.0f} {prefix}"
    return f"{value:.0f}"


def flops_text(value: float | None) -> str:
    """The same for operations: ``1.23 TFLOP``."""
    text = count_text(value)
    return text if value is None else f"{text}{'' if text[-1].isalpha() else ' '}FLOP"


def escape_markdown(text: str) -> str:
    """One line that Markdown shows as it stands: no markup, no HTML, no cell borders."""
    for plain, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(plain, safe)
    for mark in "\\`*[]|":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def _text(value: float | None, template: str) -> str:
    return ABSENT if value is None else template.format(value)


def _reached(row: Row) -> str:
    return ABSENT if row["target_reached"] is None else "{} of {}".format(*row["target_reached"])


def _target_text(row: Row, cost: str, *, narrow: bool) -> str:
    """The cost, or ``not reached`` when half of the seeds or more never got there."""
    if row["target_reached"] is None:
        return ABSENT
    reached, total = row["target_reached"]
    if cost == ABSENT:
        text = ABSENT if 2 * reached > total else "not yet" if narrow else "not reached"
    else:
        text = cost
    return text if narrow or reached == total or text == ABSENT else f"{text} ({_reached(row)})"
