"""Tables of the records that ``fair_study.py`` writes: what each arm learnt and cost, its rates, and whether merit
predicts cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from arrol.lab.costs import Counts, cost_model
from arrol.records.schema import MeritRecord, StepRecord
from arrol.records.store import Run, find_runs, read_records, read_run
from arrol.reports.costs import CostToFinal, accuracy_at, cost_to_final, equal_cost
from arrol.reports.curves import cost_to_target, eval_curve, mean_curve, runs_by_arm
from arrol.reports.tables import markdown_lines

GPU = "7b"
"""Cost model of the simulated time: a synchronous GPU step as published."""
RANKED = ["study", "arms", "accuracy that all reach", "merit, compute saved until then", "without the oddest arm"]
RANKED += ["merit, accuracy at equal compute", "number of updates, compute saved"]
RANKED += ["merit per cost of a step, compute saved", "7b merit, GPU time saved"]
"""Columns of ``fair-merit``."""
SEEN = {"compute": "flops_E", "GPU time": "train_s_E", "measured time": "train_s_E"}


def fair_blocks(results: Path) -> dict[str, str]:
    """For each task and regime ``fair-TASK:learnt``, ``:cost`` and, with merits, ``:predicted``; ``fair-TASK:rates``;
    ``fair-merit`` for all."""
    made, ranked = {}, []
    for folder in sorted(results.glob("fair-*")):
        runs = [read_run(path) for path in find_runs([folder])]
        if folder.name.endswith("-tune"):
            made[f"{folder.name.removesuffix('-tune')}:rates"] = rates_table(runs)
            continue
        made[f"{folder.name}:learnt"], made[f"{folder.name}:cost"] = learnt_table(runs), costs_table(runs)
        record = results / f"lab-{folder.name.removesuffix('-slow')}.jsonl"
        if record.exists():
            rows = [row for row in read_records(record) if isinstance(row, MeritRecord)]
            merits, gpu = ({row.design: row.merit for row in rows if row.cost_model == name} for name in ("flops", GPU))
            ranked.append(rank_row(folder.name, merits, gpu, runs))
            made[f"{folder.name}:predicted"] = predicted_table(merits, runs)
    if ranked:
        made["fair-merit"] = markdown_lines([RANKED, *ranked])
    return made


def learnt_table(runs: Sequence[Run]) -> str:
    """Accuracy where each arm had spent what the first one spends, and of its last evaluation."""
    points = {row.arm: row for row in equal_cost(runs, "flops_E", [1.0])}
    lines = [["arm", "rate", "steps", "accuracy at equal compute", "ahead (95%)", "best@8", "worst@8"]]
    for arm, members in runs_by_arm(runs).items():
        config, last = members[0].run.config, [run.evals[-1] for run in members]
        samples = last[0].samples_per_prompt
        best, worst = (
            float(np.mean([row.metrics[f"eval/{name}_at_{samples}"] for row in last])) for name in ("pass", "all_right")
        )
        point = points[arm]
        ahead = "-" if arm == next(iter(points)) else f"{point.ahead:+.3f} ({point.low:+.3f} to {point.high:+.3f})"
        rate, steps = config["optimizer"]["learning_rate"], config["training"]["steps"]
        lines.append([arm, f"{rate:g}", str(steps), f"{point.accuracy:.3f}", ahead, f"{best:.3f}", f"{worst:.3f}"])
    return markdown_lines(lines)


def costs_table(runs: Sequence[Run]) -> str:
    """FLOPs and GPU time until the highest accuracy that all arms reach, as a share of the first arm's until then; and
    cost until the first arm's final accuracy, as a share of its total: FLOPs and two kinds of time."""
    simulated, arms = [on_gpu(run) for run in runs], list(runs_by_arm(runs))
    target, flops = cost_until_all_reach(runs, "flops_E")
    _, gpu_s = cost_until_all_reach(simulated, "train_s_E")
    columns = {
        name: {row.arm: row for row in cost_to_final(simulated if name == "GPU time" else runs, field)}
        for name, field in SEEN.items()
    }
    head = ["arm", f"compute to {target:.3f}, which all reach", "GPU time to it"]
    lines = [[*head, *(f"{name} to {arms[0]}'s final accuracy" for name in SEEN)]]
    for arm in arms:
        early = (f"{costs[arm] / costs[arms[0]]:.2f}" for costs in (flops, gpu_s))
        lines.append([arm, *early, *(final_cell(rows.get(arm)) for rows in columns.values())])
    return markdown_lines(lines)


def rates_table(runs: Sequence[Run]) -> str:
    """Accuracy of each arm at each rate where GRPO's compute was spent, mean over the tuning seeds; ``-`` where a rate
    has not been run on as many seeds as GRPO's."""
    found: dict[str, dict[float, list[Run]]] = {}
    for run in runs:
        arm, rate = run.run.arm.split(".")
        found.setdefault(arm, {}).setdefault(float(rate), []).append(run)
    budget = float(np.mean([eval_curve(run).flops_E[-1] for members in found["grpo"].values() for run in members]))
    rates = sorted({rate for by_rate in found.values() for rate in by_rate})
    lines = [["arm", *(f"{rate:g}" for rate in rates)]]
    for arm, by_rate in found.items():
        means = [_mean_accuracy(by_rate.get(rate, []), budget, len(found["grpo"][rate])) for rate in rates]
        best = max(means) if not any(map(math.isnan, means)) else math.nan
        cells = ["-" if math.isnan(mean) else f"**{mean:.3f}**" if mean == best else f"{mean:.3f}" for mean in means]
        lines.append([arm, *cells])
    return markdown_lines(lines)


def _mean_accuracy(runs: Sequence[Run], budget: float, seeds: int) -> float:
    """Where the budget of FLOPs was spent; NaN for fewer runs than seeds."""
    if len(runs) < seeds:
        return math.nan
    return float(np.mean([accuracy_at(eval_curve(run), "flops_E", budget) for run in runs]))


def rank_row(study: str, merits: Mapping[str, float], gpu: Mapping[str, float], runs: Sequence[Run]) -> list[str]:
    """Rank correlations over arms, of what may predict and what was measured; ``RANKED`` names them."""
    runs = [run for run in runs if run.run.arm in merits]
    by_arm = runs_by_arm(runs)
    names, steps = list(by_arm), [members[0].run.config["training"]["steps"] for members in by_arm.values()]
    target, flops = cost_until_all_reach(runs, "flops_E")
    _, gpu_s = cost_until_all_reach([on_gpu(run) for run in runs], "train_s_E")
    merit, saved = np.array([merits[arm] for arm in names]), [-flops[arm] for arm in names]
    without = [rank_correlation(np.delete(merit, at), np.delete(saved, at)) for at in range(len(names))]
    odd = int(np.nanargmax(without))
    accuracy = {row.arm: row.accuracy for row in equal_cost(runs, "flops_E", [1.0])}
    found = [
        rank_correlation(merit, [accuracy[arm] for arm in names]),
        rank_correlation(steps, saved),
        rank_correlation(merit / [step_flops(members) for members in by_arm.values()], saved),
        rank_correlation([gpu[arm] for arm in names], [-gpu_s[arm] for arm in names]) if gpu else math.nan,
    ]
    whole = f"{rank_correlation(merit, saved):.2f}"
    return [
        study,
        str(len(names)),
        f"{target:.3f}",
        whole,
        f"{without[odd]:.2f} ({names[odd]})",
        *(f"{r:.2f}" for r in found),
    ]


def predicted_table(merits: Mapping[str, float], runs: Sequence[Run]) -> str:
    """FLOPs until the accuracy that all arms reach, beside what merit and the cost of a step predict; all relative to
    the first arm. The last row: root mean square of the logarithm of predicted / measured.

    1 / merit: savings buy more prompts a step. At one rate for all, AdamW moves each weight by about the rate, and
    where noise rules, its share that leads on is 1 / noise of a step: progress per FLOP is
    1 / (FLOPs of a step x noise of a step), so cost is proportional to sqrt(FLOPs of a step / merit).
    """
    by_arm = {arm: members for arm, members in runs_by_arm(runs).items() if arm in merits}
    target, flops = cost_until_all_reach([run for members in by_arm.values() for run in members], "flops_E")
    names = sorted(by_arm, key=lambda arm: flops[arm])
    first = next(iter(by_arm))
    per_step = {arm: step_flops(members) for arm, members in by_arm.items()}
    spent, step, merit = (
        np.array([values[arm] / values[first] for arm in names]) for values in (flops, per_step, merits)
    )
    predicted = {
        "sqrt(cost of a step / merit)": np.sqrt(step / merit),
        "sqrt(cost of a step)": np.sqrt(step),
        "1 / merit": 1 / merit,
    }
    lines = [["arm", f"compute to {target:.3f}", *predicted]]
    for arm, *values in zip(names, spent, *predicted.values(), strict=True):
        lines.append([arm, *(f"{value:.2f}" for value in values)])
    errors = (float(np.sqrt(np.mean(np.log(each / spent) ** 2))) for each in predicted.values())
    lines.append(["typical error", "", *(f"{error:.2f}" for error in errors)])
    return markdown_lines(lines)


def step_flops(runs: Sequence[Run]) -> float:
    """FLOPs of a training step, mean over runs."""
    curves = [eval_curve(run) for run in runs]
    return float(np.mean([curve.flops_E[-1] / curve.steps_E[-1] for curve in curves]))


def cost_until_all_reach(runs: Sequence[Run], cost: str) -> tuple[float, dict[str, float]]:
    """The highest accuracy that the mean curve of every arm reaches, and each arm's cost until its own reaches it."""
    curves = {
        arm: mean_curve([eval_curve(run) for run in members], [cost]) for arm, members in runs_by_arm(runs).items()
    }
    target = min(float(accuracy_RE.mean(0).max()) for _, _, accuracy_RE in curves.values())
    return target, {arm: cost_to_target(cost_E, acc_RE.mean(0), target) for arm, (_, cost_E, acc_RE) in curves.items()}


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's; ties share the mean of their ranks; NaN where all values of one are equal."""
    ranks = []
    for values in (np.asarray(first, float), np.asarray(second, float)):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[place])
    return float(np.corrcoef(*ranks)[0, 1]) if all(map(np.ptp, ranks)) else math.nan


def on_gpu(run: Run) -> Run:
    """The run with the times that its steps would have had under the cost model ``GPU``."""
    model = cost_model(GPU)

    def simulated(step: StepRecord) -> StepRecord:
        names = ("tokens/generated", "rollout/decode_steps", "tokens/scored", "tokens/trained")
        seconds = float(model.cost(Counts(*(step.metrics[name] for name in names))))
        return replace(step, metrics={**step.metrics, "time/step_s": seconds})

    return replace(run, steps=tuple(map(simulated, run.steps)))


def final_cell(row: CostToFinal | None) -> str:
    """``.62 (.55 to .80)``: share of the first arm's total, and its range when any one seed is left out."""
    if row is None:
        return "-"
    shown = ["not reached" if math.isinf(share) else f"{share:.2f}" for share in (row.share, row.low, row.high)]
    return shown[0] if row.seeds < 2 or len(set(shown)) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"
