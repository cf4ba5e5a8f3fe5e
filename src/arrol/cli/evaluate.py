"""``arrol eval``: standard metrics of a model on a task, or of any file of samples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from arrol.cli.files import require_writable
from arrol.cli.tables import print_json
from arrol.configs.base import validate
from arrol.configs.flags import override
from arrol.configs.run import RunConfig, load_run
from arrol.errors import ConfigError
from arrol.evaluation.cautions import cautions_of
from arrol.evaluation.judging import JudgedProblem, disagreements, is_by_function, judged, unjudged, verifier_for
from arrol.evaluation.parts import parsed_columns
from arrol.evaluation.problems import SampledProblem
from arrol.evaluation.samples import read_samples, write_samples
from arrol.evaluation.summary import Row, facts, level_rows, metric_rows, require_samples, usual_ks
from arrol.verifiers.pool import VerifierPool

SAMPLES_FILE = "samples.jsonl"


def run_eval(options: argparse.Namespace, flags: Sequence[str]) -> int:
    console = Console(stderr=options.json, markup=False, highlight=False)
    asked = parsed_ks(options.k)
    warnings: list[str] = []
    if options.samples:
        _refuse_with_samples(options, flags)
        problems = samples_of(options, warnings)
    else:
        problems = sampled(options, flags, console, max(asked, default=1))
    ks = asked or usual_ks(problems)
    require_samples(problems, ks)
    found = judge(problems, options, console)
    if options.samples and options.out:
        write_samples(options.out, [one.problem for one in found])
        console.print(f"verdicts: {options.out}", soft_wrap=True)
    warnings += cautions_of(found)
    rows = [*metric_rows(found, ks), *level_rows(found)]
    if options.json:
        print_json({"facts": facts(found), "warnings": warnings, "metrics": rows})
    else:
        print_metrics(console, rows)
        print_facts(console, found)
    print_warnings(console, warnings)
    return 0


def samples_of(options: argparse.Namespace, warnings: list[str]) -> list[SampledProblem]:
    """The problems of the samples file, to be judged anew where a flag says how; appends what was left out."""
    if not all(options.mark):
        raise ConfigError("--mark = '': give the text before an answer, such as '####'")
    columns = parsed_columns(options.column)
    problems = read_samples(options.samples, group_by=options.group_by, columns=columns, notes=warnings)
    return unjudged(problems) if options.verifier or options.mark else problems


def judge(problems: Sequence[SampledProblem], options: argparse.Namespace, console: Console) -> list[JudgedProblem]:
    """Problems with verdicts and classes of equal answers; bars show the progress of both."""
    verifier = verifier_for(problems, options.verifier, options.mark)
    with VerifierPool(verifier) as pool, Progress(console=console, transient=True) as progress:
        verdicts = progress.add_task("judging", total=None)
        groups = progress.add_task("grouping equal answers", total=len(problems))
        return judged(
            problems,
            pool,
            lambda done, total: progress.update(verdicts, completed=done, total=total),
            lambda done, total: progress.update(groups, completed=done, total=total),
        )


def print_warnings(console: Console, warnings: Sequence[str]) -> None:
    for warning in warnings:
        console.print(f"warning: {warning}", soft_wrap=True)


def sampled(
    options: argparse.Namespace, flags: Sequence[str], console: Console, max_k: int = 1
) -> list[SampledProblem]:
    """Judged completions of the model of a config or a run, also written to a samples file."""
    given = {"--group-by": options.group_by, "--column": options.column, "--mark": options.mark}
    given["--verifier"] = options.verifier  # the config's is task.verifier
    for name, value in given.items():
        if options.source is not None and value:
            raise ConfigError(f"{name} = {value!r}: only a samples file needs it; leave it out")
    from arrol.cli import sampling  # loads torch and transformers

    config, policy, state = _source(options.source, flags)
    if config.evaluation.samples_per_prompt < max_k:
        raise ConfigError(
            f"--k = {max_k}: evaluation.samples_per_prompt = {config.evaluation.samples_per_prompt}; "
            "sample more or give a smaller k"
        )
    path = Path(options.out) if options.out else Path(config.out_dir) / config.name / SAMPLES_FILE
    if path.exists():
        raise ConfigError(f"--out = {str(path)!r}: exists; score it with --samples, or give another --out")
    estimator = sampling.snapshot_of(options.estimator, config, policy, state)
    require_writable("--out", path.parent)
    problems = sampling.sample(config, policy, estimator, confidences=options.confidences, console=console)
    write_samples(path, problems)
    console.print(f"samples: {path}", soft_wrap=True)
    return problems


def parsed_ks(text: str | None) -> list[int]:
    """Ascending ks of ``1,4,16``; empty for None."""
    if text is None:
        return []
    try:
        ks = sorted({int(part) for part in text.split(",")})
    except ValueError:
        ks = [0]
    if ks[0] < 1:
        raise ConfigError(f"--k = {text!r}: not a list of whole numbers from 1; write for example --k 1,4,16")
    return ks


def print_metrics(console: Console, rows: Sequence[Row]) -> None:
    from rich.table import Table

    table = Table()
    for head in ("metric", "value", "95% interval", "problems", "ties"):
        table.add_column(head, justify="left" if head == "metric" else "right")
    for row in rows:
        ties = f"{row['ties']:.3f}" if "ties" in row else ""
        cells = (f"{row['value']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}", str(row["num_prompts"]), ties)
        table.add_row(row["metric"], *cells)
    console.print(table)


def print_facts(console: Console, found: Sequence[JudgedProblem]) -> None:
    counts = facts(found)
    tokens = counts["tokens_per_sample"]
    length = "" if tokens is None else f", {tokens:.1f} tokens each"
    lacks = f"{100 * counts['unreadable_frac']:.1f} % without a readable answer"
    if is_by_function(found):
        lacks = f"{counts['unrewarded']} without a reward, which count as wrong"
    console.print(
        f"{counts['problems']} problems, {counts['samples']} samples{length}; {lacks}. Intervals: bootstrap over "
        "problems.",
        soft_wrap=True,
    )
    judges = ", ".join(f"{name} {count}" for name, count in counts["judged_by"].items())
    console.print(f"Verdicts by: {judges}.", soft_wrap=True)
    if not is_by_function(found) and (odd := disagreements(found)):
        console.print(
            f"{odd} samples are judged otherwise in votes, where equal answers need equal verdicts.", soft_wrap=True
        )


def _source(source: str | None, flags: Sequence[str]) -> tuple[RunConfig, str, dict[str, Any] | None]:
    """The config, the folder or name of its policy, and the state of the run, None without a run."""
    if source is None:
        raise ConfigError("eval: nothing to score; give a CONFIG, the folder of a run, or --samples FILE")
    if not Path(source).is_dir():
        config = load_run(source, flags)
        return config, config.model, None
    from arrol.cli.sampling import newest_state

    checkpoint, state = newest_state(source)
    values = override(RunConfig, state["config"], flags)
    folder = Path(source).resolve()
    config = validate(RunConfig, {**values, "out_dir": str(folder.parent), "name": folder.name})
    trained = validate(RunConfig, state["config"])
    for section in ("pruning", "quality"):
        before = dict(getattr(trained, section))
        changed = [
            f"--{section}.{name} {value}" for name, value in getattr(config, section) if before.get(name) != value
        ]
        if changed:
            raise ConfigError(
                f"--{section}: eval prunes nothing, and the estimator of {source!r} is read as it was trained; "
                f"leave out {', '.join(changed)}"
            )
    return config, str(checkpoint / "policy"), state


def _refuse_with_samples(options: argparse.Namespace, flags: Sequence[str]) -> None:
    given = {"CONFIG": options.source, "--estimator": options.estimator}
    given["--confidences"] = options.confidences or None
    for name, value in given.items():
        if value is not None:
            raise ConfigError(f"{name} = {value!r}: a samples file is scored as it is; leave it out, or --samples")
    if flags:
        raise ConfigError(f"flag = {flags[0]!r}: a samples file has no config; leave it out")
    if options.out:
        if Path(options.out).exists():
            raise ConfigError(f"--out = {options.out!r}: exists; give the name of a new file for the verdicts")
        require_writable("--out", Path(options.out).parent)
