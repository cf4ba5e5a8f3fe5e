"""The screen of ``arrol advise``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from arrol.reports.workload import PagePart

Report = Mapping[str, Any]
HEADS_SHOWN = 4
"""Lengths whose AUROC is printed."""


def print_report(console: Console, report: Report) -> None:
    """Facts, levers or bounds, recommendation."""
    for label, text in fact_lines(report):
        console.print(f"{label:<12}{text}", soft_wrap=True)
    console.print()
    if "levers" in report:
        _print_levers(console, report)
    for line in answer_lines(report):
        console.print(line, soft_wrap=True)
    if "plots" in report:
        console.print("plots: " + ", ".join(report["plots"]), soft_wrap=True)
        console.print(f"page: {report['page']}", soft_wrap=True)


def page_parts(report: Report) -> list[PagePart]:
    """The same for the page."""
    facts = PagePart("", ("", ""), [list(line) for line in fact_lines(report)], kind="facts")
    answer = PagePart("Recommendation" if "levers" in report else "Without gradients", lines=answer_lines(report))
    levers = [PagePart(levers_title(report), *lever_table(report))] if "levers" in report else []
    return [answer, *levers, facts._replace(title="The workload")]


def fact_lines(report: Report) -> list[tuple[str, str]]:
    """Label and text of each line above the table."""
    lengths, noise = report["lengths"], report.get("noise")
    own = f"{report['prompts_per_step']} prompts x {report['group_size']}"
    lines = [("workload", f"{report['prompts']} prompts, {report['rollouts']} rollouts; steps of {own}")]
    lines += [("note", note) for note in report["notes"]]
    if noise:
        spread = f"sigma_w/sigma_b {noise['ratio']:.1f} ({noise['low']:.1f} to {noise['high']:.1f})"
        size = f"the best group size is about {noise['best_size']:.0f} before costs"
        known = noise["ratio"] < float("inf")
        lines.append(
            ("noise", f"{spread}: {size}" if known else "no spread between prompts above the pool's own noise")
        )
    rates = "  ".join(f"{label}: {_percent(share)}" for label, share in report["difficulty"].items())
    lines.append(("difficulty", f"success {report['success']:.2f}; prompts by success rate  {rates}"))
    dead = [f"{_percent(share)} of groups of {size}" for size, share in report["dead"].items() if share == share]
    lines.append(("dead groups", ", ".join(dead) or "unknown: fewer than 4 rollouts of each prompt"))
    lines.append(
        (
            "lengths",
            f"mean {lengths['mean']:.0f} tokens, CV {lengths['variation']:.2f}; {_percent(lengths['late_share'])} "
            f"of the decode steps come after the 90 % quantile; {_percent(lengths['truncated'])} truncated",
        )
    )
    for stop in report.get("stops", ())[-1:]:
        long = f"the {_percent(stop['reached'])} above {stop['probe']} tokens carry {_percent(stop['signal'])}"
        lines.append(
            (
                "long tail",
                f"{long} of the signal; if a share of {stop['keep']:g} of them runs on: merit {stop['gain']:.2f} in "
                f"groups of {stop['group_size']:.0f}, estimated",
            )
        )
    lines.append(("head", _heads(report["heads"])))
    for name, shares in report["time"].items():
        parts = ", ".join(f"{part} {_percent(share)}" for part, share in shares.items() if share)
        lines.append((f"time, {name}", parts))
    return lines


def _heads(heads: Sequence[Mapping[str, float]]) -> str:
    known = [row for row in heads if row["auroc_within"] == row["auroc_within"]]
    if not known:
        return "unknown: no features, log-probabilities or qualities, or too few right or wrong rollouts"
    places = sorted({round(k * (len(known) - 1) / (HEADS_SHOWN - 1)) for k in range(HEADS_SHOWN)})
    shown = [
        f"{known[k]['auroc_within']:.2f} at token {known[k]['tokens']:.0f} ({_percent(known[k]['reached'])} get there)"
        for k in places
    ]
    few = len(heads) - len(known)
    rest = f"; unknown at {few} of {len(heads)} lengths: too few right or wrong rollouts" if few else ""
    return "AUROC within prompts " + ", ".join(shown) + rest


def lever_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the levers: name, merit with interval relative to your group size and to the best, cost."""
    heads = ["lever", "yours", "yours, 95%", "best", "best, 95%", "s/step" if report["is_seconds"] else "cost/step"]
    first, rows = report["levers"][0]["step_cost"], []
    for number, row in enumerate(report["levers"]):
        name = row["name"] + " (yours)" * (number == 0) + " (best)" * (number == report["best"])
        name += f" (bias {row['bias']:.2f})" * row["is_biased"]
        cost = f"{row['step_cost']:#.3g}" if report["is_seconds"] else f"{row['step_cost'] / first:.2f}"
        merits = [*_merit(row["beside_own"], number == 0), *_merit(row["beside_best"], number == report["best"])]
        rows.append([name, *merits, cost])
    return heads, rows


def _print_levers(console: Console, report: Report) -> None:
    console.print(f"{levers_title(report)}:")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    (first, *heads), rows = lever_table(report)
    table.add_column(first)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()


def levers_title(report: Report) -> str:
    """What the table of levers shows."""
    return f"Merit under cost {report['cost']}, relative to your group size and to the best one"


def _merit(merit: Mapping[str, float], is_reference: bool) -> tuple[str, str]:
    return f"{merit['merit']:.2f}", "" if is_reference else f"{merit['low']:.2f}-{merit['high']:.2f}"


def answer_lines(report: Report) -> list[str]:
    """The recommendation and what to paste; without gradients what cannot be known, and bounds."""
    if "levers" not in report:
        return _bounds(report)
    if report["recommendation"] is None:
        return [report["reason"]]
    found = [f"Recommendation: {report['recommendation']}, {report['reason']}."]
    others = [
        f"{name} {max(rows, key=lambda row: row['merit'])['size']:.0f}"
        for name, rows in list(report["sizes"].items())[1:]
    ]
    if others:
        found.append("Best group size under other costs: " + ", ".join(others))
    for host, name in (("arrol", "arrol"), ("trl", "TRL"), ("verl", "verl")):
        found += [f"{'' if number else name:<6}{line}" for number, line in enumerate(report["lines"][host])]
    return found


def _bounds(report: Report) -> list[str]:
    found = [
        "Unknown without gradients: sigma_w/sigma_b, the best group size, the merit of pruning; "
        "arrol lab measures them."
    ]
    own, name = report["group_size"], report["costs"][0]["name"]
    sizes = "  ".join(f"{row['size']}: {row['low']:.2f}-{row['high']:.2f}" for row in report["bounds"])
    found.append(f"Bounds of a group size's merit relative to {own} (cost {name})  {sizes}")
    if ceiling := report["ceilings"]:
        gains = "  ".join(f"{rate}: {gain:.2f}" for rate, gain in ceiling["gain"].items())
        found.append(
            f"Most that pruning at token {ceiling['tokens']:.0f} can gain (AUROC {ceiling['auroc']:.2f}), by success "
            f"rate of a prompt  {gains}"
        )
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
