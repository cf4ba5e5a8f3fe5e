"""Tables of docs/reliability.md, from the records of the scripts that try to break arrol."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from arrol.records.schema import BenchRecord, RunRecord
from arrol.records.store import read_records
from arrol.reports.tables import escape_markdown, markdown_lines


def kills_table(path: Path) -> str:
    """What happened to runs, how often, and how they ended."""
    records = read_records(path)
    lines = [["what happened", "tries", "ended as the whole run", "refused by name", "another run, without a word"]]
    for row in (row for row in records if isinstance(row, BenchRecord)):
        lines.append([row.variant, *(str(row.config[key]) for key in ("tries", "same", "refused", "different"))])
    run = next(record for record in records if isinstance(record, RunRecord))
    facts = f"Runs of {run.config['steps']} steps, a checkpoint every {run.config['checkpoint_every']} of them"
    if "repeats" in run.config:
        facts += f". {_repeats(run.config['repeats'])}"
    else:
        facts += f"; {run.config['steps_computed_again_per_kill']:.1f} steps computed again per kill"
    return f"{markdown_lines(lines)}\n{facts}. {_source(run)}\n"


def _repeats(parts: Mapping[str, str]) -> str:
    """How nearly a host repeats each part of a run that nothing interrupts."""
    how: dict[str, list[str]] = {}
    for part, nearness in parts.items():
        how.setdefault(nearness, []).append(part)
    return "Two runs without a kill are the same: " + "; ".join(f"{key}: {', '.join(how[key])}" for key in sorted(how))


def fuzz_table(path: Path) -> str:
    """How damaged files of each format were read."""
    records = read_records(path)
    lines = [
        ["files", "cases", "read as the whole file", "read as another valid one", "refused in one line", "failures"]
    ]
    keys = ("cases", "equal", "other", "refused", "failed")
    rows = [row for row in records if isinstance(row, BenchRecord)]
    lines += [[row.variant, *(str(row.config[key]) for key in keys)] for row in rows]
    lines.append(["all", *(str(sum(row.config[key] for row in rows)) for key in keys)])
    run = next(record for record in records if isinstance(record, RunRecord))
    memory = max(row.config["memory_mib"] for row in rows)
    facts = f"At most {memory} MiB more memory for a file (limit {run.config['memory_limit_mib']}), seed {run.seed}"
    return f"{markdown_lines(lines)}\n{facts}. {_source(run)}\n"


def lotteries_table(path: Path) -> str:
    """How far the expected gradient of each lottery is from the full group's."""
    records = read_records(path)
    rows = [row for row in records if isinstance(row, BenchRecord)]
    head = ["lottery, group size", "standard errors", "chance", "share of the gradient", "kept", "trained", "biased by"]
    lines = [head]
    for row in rows:
        share, kept, trained = (row.config[key] for key in ("share_of_gradient", "kept", "trained"))
        errors = f"{row.median:.2f}" + ("" if row.median <= row.limit else " *")
        cells = [errors, f"{row.limit:.2f}", f"{share:.3f}", f"{kept:.2f}", f"{trained:.2f}", row.config["bias"]]
        lines.append([escape_markdown(row.variant), *cells])
    run = next(record for record in records if isinstance(record, RunRecord))
    pool = f"{run.config['prompts']} prompts x {run.config['rollouts']} rollouts, sketches of {run.config['sketch']}"
    facts = f"* more than chance. {run.config['groups']} groups each, from a pool of {pool} numbers"
    return f"{markdown_lines(lines)}\n{facts}. {_source(run)}\n"


def survivors_table(path: Path) -> str:
    """How many survivors had other tokens because siblings were stopped."""
    records = read_records(path)
    lines = [["precision", "rollouts", "survivors", "with other tokens"]]
    for row in (row for row in records if isinstance(row, BenchRecord)):
        size = row.config["prompts"] * row.config["rollouts"] * row.repeats
        counts = (f"{count:,}" for count in (size, row.config["survivors"], row.config["changed"]))
        lines.append([row.config["dtype"], *counts])
    run = next(record for record in records if isinstance(record, RunRecord))
    return f"{markdown_lines(lines)}\n{run.config['completion_tokens']} tokens. {_source(run)}\n"


def findings_table(path: Path) -> str:
    """What was counted, beside what it may be at most."""
    records = read_records(path)
    lines = [["what was looked for", "found", "at most"]]
    for row in (row for row in records if isinstance(row, BenchRecord)):
        limit = "" if math.isnan(row.limit) else f"{row.limit:g}"
        found = f"{row.median:,.0f}" if row.median == round(row.median) else f"{row.median:.3g}"
        lines.append([row.variant, f"{found} {row.unit}".strip(), limit])
    run = next(record for record in records if isinstance(record, RunRecord))
    return f"{markdown_lines(lines)}\n{_source(run)}\n"


def long_run_table(path: Path) -> str:
    """Growth by tenth of a long training."""
    records = read_records(path)
    lines = [["what", "median", "last tenth beside the second", "at most"]]
    for row in (row for row in records if isinstance(row, BenchRecord)):
        ratio = "" if math.isnan(row.ratio) else f"{row.ratio:.3f}"
        limit = "" if math.isnan(row.limit) else f"{row.limit:g} {row.unit}"
        lines.append([row.variant, f"{row.median:.3g} {row.unit}", ratio, limit])
    run = next(record for record in records if isinstance(record, RunRecord))
    return f"{markdown_lines(lines)}\n{run.config['steps']} steps. {_source(run)}\n"


def _source(run: RunRecord) -> str:
    return f"`{run.command}`, commit {run.commit[:12]}, {run.device}."


RELIABILITY_TABLES: dict[str, Callable[[Path], str]] = {
    "bench-kills": kills_table,
    "bench-kills-vllm": kills_table,
    "bench-kills-trl": kills_table,
    "bench-kills-verl": kills_table,
    "bench-fuzz": fuzz_table,
    "bench-lotteries": lotteries_table,
    "bench-survivors": survivors_table,
    "bench-long-run": long_run_table,
    "bench-long-run-filled": findings_table,
    "bench-vllm-soak": findings_table,
    "bench-http-soak": findings_table,
    "bench-verifier-load": findings_table,
}
"""Record -> its table."""
