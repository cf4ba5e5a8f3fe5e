"""``arrol eval``: standard metrics of a model on a task, or of any file of samples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from arrol.cli.files import require_place, reserved, whole
from arrol.cli.output import warner
from arrol.cli.policies import find_policy
from arrol.cli.tables import print_json
from arrol.errors import ConfigError, DataError
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
    unsaved: DataError | None = None
    if options.samples:
        _refuse_with_samples(options, flags)
        problems = samples_of(options, warnings)
    else:
        problems, unsaved = sampled(options, flags, console, max(asked, default=1))
    ks = asked or usual_ks(problems)
    require_samples(problems, ks)
    if options.samples and options.out:
        with reserved("--out", Path(options.out)):
            found = judge(problems, options, console)
            unsaved = saved(Path(options.out), [one.problem for one in found], "verdicts", console)
    else:
        found = judge(problems, options, console)
    warnings += cautions_of(found)
    rows = [*metric_rows(found, ks), *level_rows(found)]
    if options.json:
        print_json({"facts": facts(found), "warnings": warnings, "metrics": rows})
    else:
        print_metrics(console, rows)
        print_facts(console, found)
    print_warnings(console, warnings)
    if unsaved:  # after the metrics, which may have cost hours
        raise unsaved
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
    with (
        VerifierPool(verifier) as pool,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
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
) -> tuple[list[SampledProblem], DataError | None]:
    """Judged completions of the policy of a config, a run or a model, and why they could not be written, if so."""
    given = {"--group-by": options.group_by, "--column": options.column, "--mark": options.mark}
    given["--verifier"] = options.verifier  # the config's is task.verifier
    for name, value in given.items():
        if options.source is not None and value:
            raise ConfigError(f"{name} = {value!r}: only a samples file needs it; leave it out")
    from arrol.cli import sampling  # loads torch and transformers

    if options.source is None:
        raise ConfigError("eval: nothing to score; give a CONFIG, the folder of a run or a model, or --samples FILE")
    config, policy, state = find_policy(options.source, flags, "eval", warner(console))
    if config.evaluation.samples_per_prompt < max_k:
        raise ConfigError(
            f"--k = {max_k}: evaluation.samples_per_prompt = {config.evaluation.samples_per_prompt}; "
            "sample more or give a smaller k"
        )
    path = Path(options.out) if options.out else Path(config.out_dir) / config.name / SAMPLES_FILE
    if path.exists():
        raise ConfigError(f"--out = {str(path)!r}: exists; score it with --samples, or give another --out")
    estimator = sampling.snapshot_of(options.estimator, config, policy, state)
    require_place("--out", path.parent)
    with reserved("--out", path):
        problems = sampling.sample(config, policy, estimator, confidences=options.confidences, console=console)
        return problems, saved(path, problems, "samples", console)


def saved(path: Path, problems: Sequence[SampledProblem], what: str, console: Console) -> DataError | None:
    """Write a whole file of samples or none; the error of a disk that refuses, which must not cost the metrics."""
    try:
        with whole(path) as partial:
            write_samples(partial, problems, named=path)
    except DataError as error:
        return error
    console.print(f"{what}: {path}", soft_wrap=True)
    return None


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


def _refuse_with_samples(options: argparse.Namespace, flags: Sequence[str]) -> None:
    if options.source is not None:
        raise ConfigError(f"{options.source!r}: a samples file is scored as it is, without CONFIG or RUN; leave it out")
    for name, value in {"--estimator": options.estimator, "--confidences": options.confidences or None}.items():
        if value is not None:
            raise ConfigError(f"{name}: needs a model to sample, and --samples are scored as they are; leave it out")
    if flags:
        raise ConfigError(f"flag = {flags[0]!r}: a samples file has no config; leave it out")
    if options.out:
        if Path(options.out).exists():
            raise ConfigError(f"--out = {options.out!r}: exists; give the name of a new file for the verdicts")
        require_place("--out", Path(options.out).parent)
