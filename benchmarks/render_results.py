"""Regenerate the tables of README.md, docs/results.md and docs/vllm.md from the records under results/.

python benchmarks/render_results.py            # rewrite
python benchmarks/render_results.py --check    # exit 1 when a table is not what the records say
"""

import math
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from arrol.records.schema import BenchRecord, MeritRecord, PoolRecord, RunRecord, VoteRecord
from arrol.records.store import find_runs, read_records, read_run
from arrol.reports.costs import SHARES, CostToFinal, EqualCost, cost_to_final, equal_cost
from arrol.reports.curves import ran_without_head, runs_by_arm
from arrol.reports.tables import (
    ABSENT,
    comparison_notes,
    comparison_rows,
    escape_markdown,
    head_notes,
    markdown_lines,
    markdown_table,
    markdown_tables,
)
from arrol.stats import mean_interval
from lab_tables import lab_blocks
from reliability_tables import RELIABILITY_TABLES
from study_tables import fair_blocks

ROOT = Path(__file__).resolve().parents[1]
FIRST_PAGE = {"allocation": ("aero_lean", "small_group")}
"""Study -> the arms that README shows of it."""
README_COLUMNS = ("arm", "final accuracy", "training time", "speed-up", "tokens generated", "tokens trained")
COST_NOTE = (
    "Accuracy when a run had spent that share of what {first}'s run of its seed spent in all, and how far ahead of"
    " {first} it was there (95% interval, t over seeds). Ended: so many runs had spent less in all and count with their"
    " last accuracy; as far as both went, none has. To {first}'s final accuracy: cost at which the mean curve first"
    " reaches it, relative to {first}'s total (range: any one seed left out)."
)


def study(name: str) -> tuple[list, str]:
    """Runs of a committed comparison in the order of its arms, and where they come from."""
    runs = [read_run(folder) for folder in find_runs([ROOT / "results" / name])]
    runs.sort(key=lambda run: run.run.started_at)
    record = runs[0].run
    versions = ", ".join(f"{key} {value}" for key, value in record.versions.items())
    return runs, f"{made_by([run.run for run in runs])}, {versions}. Records: `results/{name}`."


def made_by(records: list[RunRecord]) -> str:
    """Command, commits, seeds and device of some runs."""
    commits = sorted({run.commit[:12] + (" (with local changes)" if run.dirty else "") for run in records})
    seeds = sorted({run.seed for run in records})
    return f"`{records[0].command}`, commit {', '.join(commits)}, seeds {seeds}, {records[0].device}"


def study_table(name: str) -> str:
    """Every column of a study, and how the numbers were made."""
    runs, source = study(name)
    rows = comparison_rows(runs)
    return f"{markdown_tables(rows)}\n{source}\n\n" + "".join(
        f"- {escape_markdown(note)}\n" for note in comparison_notes(rows)
    )


def short_table(name: str) -> str:
    """The columns that README shows."""
    runs, source = study(name)
    rows = comparison_rows(runs)
    return with_footnote(f"{markdown_table(rows, README_COLUMNS)}\n{source}\n", runs, [row["arm"] for row in rows])


def with_footnote(text: str, runs: list, arms: Iterable[str]) -> str:
    """The table, with the footnote of the star where one of its arms has one."""
    notes = head_notes([row for row in comparison_rows(runs) if row["arm"] in arms])
    return text + "".join(f"\n{escape_markdown(note)}\n" for note in notes)


def labels(runs: list) -> dict[str, str]:
    """Arm -> its name in a table, with a star where it ran without its head."""
    return {
        arm: escape_markdown(arm + "*" * any(map(ran_without_head, members)))
        for arm, members in runs_by_arm(runs).items()
    }


def paired_table(name: str) -> str:
    """How far each arm's learning curve lies below the first arm's, seed by seed, with a t interval over seeds."""
    runs, _ = study(name)
    steps = [{e.step for e in run.evals if e.step > 0} for run in runs]
    common = set.intersection(*steps)  # arms may differ in steps; pairs are compared as far as all went
    if not common:
        return ""
    curves = {
        (run.run.arm, run.run.seed): np.array([e.accuracy for e in run.evals if e.step in common]) for run in runs
    }
    arms, seeds = list(dict.fromkeys(arm for arm, _ in curves)), sorted({seed for _, seed in curves})
    named = labels(runs)
    lines = [["arm", f"{arms[0]} ahead, mean of the curve", "95% interval", "at the end", "seeds"]]
    for arm in arms[1:]:
        gaps = [curves[arms[0], seed] - curves[arm, seed] for seed in seeds]
        means = [float(gap.mean()) for gap in gaps]
        low, high = mean_interval(means)
        end = float(np.mean([gap[-1] for gap in gaps]))
        cells = [f"{np.mean(means):+.3f}", f"{low:+.3f} to {high:+.3f}", f"{end:+.3f}", str(len(seeds))]
        lines.append([named[arm], *cells])
    return with_footnote(markdown_lines(lines), runs, arms)


def cost_table(name: str) -> str:
    """Accuracy of each arm at shares of the first arm's compute, then time, and cost to the first arm's final one."""
    runs, _ = study(name)
    first, named = next(iter(runs_by_arm(runs))), labels(runs)
    tables = []
    for cost, field in (("compute", "flops_E"), ("time", "train_s_E")):
        heads = [f"at {percent(share)} of {first}'s {cost}" for share in SHARES]
        lines = [["arm", *heads, "as far as both went", f"{cost} to {first}'s final accuracy", "seeds"]]
        columns = [{point.arm: point for point in equal_cost(runs, field, [share])} for share in (*SHARES, None)]
        for row in cost_to_final(runs, field):
            cells = [cost_cell(points.get(row.arm), first) for points in columns]
            if row.arm in columns[-1]:
                cells[-1] += f", at {percent(columns[-1][row.arm].share)}"
            lines.append([named[row.arm], *cells, final_cell(row), str(row.seeds)])
        tables.append(markdown_lines(lines))
    return with_footnote("\n".join(tables) + f"\n{COST_NOTE.format(first=first)}\n", runs, named)


def cost_lines(name: str, arms: tuple[str, ...]) -> str:
    """Some arms of a study at equal compute, for README."""
    runs, source = study(name)
    first = next(iter(runs_by_arm(runs)))
    points = {point.arm: point for point in equal_cost(runs, "flops_E", [None])}
    finals = {row.arm: row for row in cost_to_final(runs, "flops_E")}
    heads = [f"accuracy where {first} has spent the same compute", f"compute to {first}'s final accuracy"]
    lines = [["arm", *heads, "seeds"]]
    for arm in arms:
        cells = [cost_cell(points[arm], first), final_cell(finals[arm]), str(points[arm].seeds)]
        lines.append([labels(runs)[arm], *cells])
    return with_footnote(f"{markdown_lines(lines)}\n{source}\n", runs, arms)


def cost_cell(point: EqualCost | None, first: str) -> str:
    """``0.431: +0.012 (-0.003 to +0.027), 2 ended``"""
    if point is None:
        return ABSENT
    if point.arm == first:
        return f"{point.accuracy:.3f}"
    interval = f" ({point.low:+.3f} to {point.high:+.3f})" if point.seeds > 1 else ""
    return f"{point.accuracy:.3f}: {point.ahead:+.3f}{interval}" + (f", {point.ended} ended" if point.ended else "")


def final_cell(row: CostToFinal) -> str:
    """``-48 % (-60 % to -31 %)``"""
    shown = [
        "not reached" if math.isinf(share) else percent(share - 1, "+") for share in (row.share, row.low, row.high)
    ]
    return f"{shown[0]} ({shown[1]} to {shown[2]})" if row.seeds > 1 and len(set(shown)) > 1 else shown[0]


def percent(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.0f} %"


def bench_table(name: str) -> str:
    """Speed of each variant, with its rival and limit."""
    records = read_records(ROOT / "results" / f"{name}.jsonl")
    lines = [["variant", "median", "20-80 %", "unit", "ratio", "to", "limit", "repeats"]]
    for r in (r for r in records if isinstance(r, BenchRecord)):
        ratio = f"{r.ratio:.3g}" if r.ratio_to else ""
        limit = "" if math.isnan(r.limit) else f"{r.limit:.3g}"
        cells = [r.variant, f"{r.median:.3g}", f"{r.p20:.3g}-{r.p80:.3g}", r.unit, ratio, r.ratio_to, limit]
        lines.append([*cells, str(r.repeats)])
    run = next(r for r in records if isinstance(r, RunRecord))
    return f"{markdown_lines(lines)}\n`{run.command}`, commit {run.commit[:12]}, {run.device}.\n"


def lab_table(name: str) -> str:
    """Merits of designs on a pool, one column per cost model, and what the pool says."""
    records = read_records(ROOT / "results" / f"{name}.jsonl")
    rows = [record for record in records if isinstance(record, MeritRecord)]
    models = list(dict.fromkeys(row.cost_model for row in rows))
    lines = [["design", *(f"merit, {model}" for model in models), "rollouts per prompt", "kept", "trained", "bias"]]
    for design in dict.fromkeys(row.design for row in rows):
        mine = [row for row in rows if row.design == design]
        is_reference = mine[0] is rows[0]
        merits = [f"{row.merit:.2f}" + ("" if is_reference else f" ({row.low:.2f} to {row.high:.2f})") for row in mine]
        bias = "-" if math.isnan(mine[0].bias) else f"{mine[0].bias:.2f}"
        lines.append(
            [design, *merits, f"{mine[0].group_size:.1f}", f"{mine[0].kept:.2f}", f"{mine[0].trained:.2f}", bias]
        )
    pool, run = (next(r for r in records if isinstance(r, kind)) for kind in (PoolRecord, RunRecord))
    facts = (
        f"{pool.policy}: {pool.num_prompts} prompts x {pool.num_rollouts} rollouts, success"
        f" {pool.metrics['success']:.3f}, {pool.metrics['tokens']:.0f} tokens (coefficient of variation"
        f" {pool.metrics['tokens_cv']:.2f}), {percent(pool.metrics['hard'])} of the prompts below .06;"
        f" sigma_w/sigma_b {pool.metrics['ratio']:.1f}"
    )
    return f"{markdown_lines(lines)}\n{facts}. `{run.command}`, commit {run.commit[:12]}, {run.device}.\n"


def votes_of(name: str) -> tuple[dict[tuple[str, int], list[VoteRecord]], str]:
    """Records of a study of votes by (vote, k), one per seed, and where they come from."""
    found: dict[tuple[str, int], list[VoteRecord]] = {}
    runs: list[RunRecord] = []
    for path in sorted((ROOT / "results" / name).glob("seed*.jsonl")):
        for record in read_records(path):
            if isinstance(record, RunRecord):
                runs.append(record)
            elif isinstance(record, VoteRecord):
                found.setdefault((record.vote, record.k), []).append(record)
    return found, f"{made_by(runs)}."


def vote_table(name: str) -> str:
    """Accuracy per vote and k, and how far it is ahead of the majority: means over seeds with t intervals."""
    found, source = votes_of(name)
    ks = sorted({k for _, k in found if k})
    lines = [["vote", *(f"k = {k}" for k in ks)]]
    for vote in dict.fromkeys(vote for vote, k in found if k):
        lines.append([vote, *(vote_cell(found[vote, k]) for k in ks)])
    tokens = [f"{np.mean([r.tokens_per_problem for r in found['majority', k]]):.0f}" for k in ks]
    lines.append(["tokens per problem", *tokens])
    problems = found["majority", ks[0]][0].num_problems
    return f"{markdown_lines(lines)}\n{source} {problems} problems each. Records: `results/{name}`.\n"


def online_table(name: str) -> str:
    """Online strategies: accuracy, tokens, and the majority of as many tokens."""
    found, _ = votes_of(name)
    heads = ["strategy", "accuracy", "tokens per problem", "ahead of the majority at equal tokens"]
    lines = [[*heads, "tokens of the majority at equal accuracy, median", "traces stopped"]]
    for (vote, k), records in found.items():
        if k:
            continue
        needed = np.median([np.nan_to_num(r.metrics["majority_tokens_at_equal_accuracy"], nan=np.inf) for r in records])
        cells = [
            f"{np.mean([r.accuracy for r in records]):.3f}",
            f"{np.mean([r.tokens_per_problem for r in records]):.0f}",
            ahead_text(records),
            f"{needed:.0f}" if np.isfinite(needed) else "more than all",
            f"{np.mean([r.metrics['traces_stopped'] for r in records]):.1f}",
        ]
        lines.append([vote, *cells])
    return markdown_lines(lines)


def vote_cell(records: list[VoteRecord]) -> str:
    mean = f"{np.mean([r.accuracy for r in records]):.3f}"
    return mean if records[0].vote == "majority" else f"{mean}: {ahead_text(records)}"


def ahead_text(records: list[VoteRecord]) -> str:
    """``+0.012 (-0.003 to +0.027)``, a t interval over seeds."""
    ahead = [r.ahead for r in records]
    if len(ahead) < 2:
        return f"{ahead[0]:+.3f}"
    low, high = mean_interval(ahead)
    return f"{np.mean(ahead):+.3f} ({low:+.3f} to {high:+.3f})"


def blocks() -> dict[str, str]:
    """Everything that may stand between markers, by name; only what has records."""
    made = lab_blocks(ROOT / "results") | fair_blocks(ROOT / "results")
    for folder in sorted((ROOT / "results").iterdir()):
        if folder.is_dir() and list(folder.glob("seed*.jsonl")):
            made[folder.name], made[f"{folder.name}:online"] = vote_table(folder.name), online_table(folder.name)
        elif folder.is_dir() and not folder.name.startswith("fair-") and find_runs([folder]):
            made[folder.name] = study_table(folder.name)
            if len(find_runs([folder])) > 2:
                made[f"{folder.name}:paired"] = paired_table(folder.name)
                made[f"{folder.name}:cost"] = cost_table(folder.name)
            if folder.name in FIRST_PAGE:
                made[f"{folder.name}:lines"] = cost_lines(folder.name, FIRST_PAGE[folder.name])
            made[f"{folder.name}:short"] = short_table(folder.name)
        elif folder.stem in RELIABILITY_TABLES:
            made[folder.stem] = RELIABILITY_TABLES[folder.stem](folder)
        elif folder.name.startswith("bench-"):
            made[folder.stem] = bench_table(folder.stem)
        elif folder.name.startswith("lab-"):
            made[folder.stem] = lab_table(folder.stem)
    return made


def render(text: str, made: dict[str, str]) -> str:
    """The text with each marked block replaced."""
    for name, table in made.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin in text:
            head, rest = text.split(begin, 1)
            text = head + begin + table + end + rest.split(end, 1)[1]
    return text


def main() -> int:
    made, stale = blocks(), []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text("utf-8")
        fresh = render(text, made)
        if fresh != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(fresh, "utf-8")
    if "--check" in sys.argv and stale:
        print(f"not what the records say: {', '.join(stale)}; run make report")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
