"""Ways to choose an answer on trained models: majority, the head, DeepConf, oracle, at equal samples and equal tokens.

For each seed: train with pruning while the estimator learns to judge whole completions too, sample held-out problems,
vote. One file of records per seed under ``--out``; samples and runs stay in ``--work``.

    OMP_NUM_THREADS=1 python benchmarks/test_time.py [--seeds N] [--samples N] [--problems N] [--steps N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from arrol.cli.evaluate import judge
from arrol.cli.sampling import sample, snapshot_of
from arrol.cli.train import run_folder, train_one
from arrol.configs.run import RunConfig, load_run
from arrol.evaluation.online import online_rows
from arrol.evaluation.problems import SampledProblem
from arrol.evaluation.samples import read_samples, write_samples
from arrol.evaluation.summary import possible_votes, vote_rows
from arrol.records.schema import VoteRecord
from arrol.records.store import RecordWriter, provenance, read_records
from arrol.training.checkpoint import load_state, newest_checkpoint

CONFIG = Path(__file__).parents[1] / "configs" / "arithmetic.toml"
LINES = ("majority", "rank", "log_odds", "confidence:lowest", "quality_confidence:lowest", "best_of_n", "oracle")
"""Votes that the picture shows."""
MARKERS = "xos^vD*"
"""Of online strategies."""
WINDOW = 16
"""Tokens of DeepConf's window: its 2,048 are beyond any completion here, of about 50."""


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        for seed in options.seeds:
            _one_seed(options, seed, options.work or Path(scratch))
    _plot(options.out)
    return 0


def _one_seed(options: argparse.Namespace, seed: int, work: Path) -> None:
    path = options.out / f"seed{seed}.jsonl"
    if path.exists():
        print(f"{path}: done before")
        return
    console = Console(stderr=True)
    config = _config(options, seed, work)
    problems = _samples(config, options.samples, work / f"samples-{seed}.jsonl", console)
    found = judge(problems, console)
    rows = vote_rows(found, possible_votes([one.problem for one in found]), options.k, window=WINDOW)
    with RecordWriter(path) as writer:
        here = provenance(sys.argv, [seed])
        writer.write(
            here.run_record(name=f"seed{seed}", arm="test-time", seed=seed, config=config.model_dump(mode="json"))
        )
        for row in rows:
            writer.write(_record(row, row["vote"], row["k"], {"ties": row["ties"]}))
        for row in online_rows(found, window=WINDOW):
            needed = row["majority_tokens_at_equal_accuracy"]
            metrics = {"majority_tokens_at_equal_accuracy": float("nan") if needed is None else needed}
            metrics |= {name: row[name] for name in ("traces_started", "traces_stopped", "majority_at_equal_tokens")}
            writer.write(_record(row, row["strategy"], 0, metrics))


def _config(options: argparse.Namespace, seed: int, work: Path) -> RunConfig:
    flags = ["--seed", str(seed), "--name", f"seed{seed}", "--out_dir", str(work), "--quality.judge_ends", "true"]
    flags += ["--training.steps", str(options.steps), "--evaluation.every", "0"]
    flags += ["--evaluation.num_prompts", str(options.problems), "--evaluation.samples_per_prompt", "1"]
    return load_run(CONFIG, flags)


def _samples(config: RunConfig, count: int, path: Path, console: Console) -> list[SampledProblem]:
    """Train, then sample; what exists is taken as it is."""
    if path.exists():
        return read_samples(path)
    if not (run_folder(config) / "records.jsonl").exists():
        train_one(config, arm="test-time", resume=False, console=console)
    checkpoint = newest_checkpoint(run_folder(config) / "checkpoints")
    assert checkpoint is not None, config.name
    policy, state = str(checkpoint / "policy"), load_state(checkpoint)
    many = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"samples_per_prompt": count})})
    estimator = snapshot_of(None, config, policy, state)
    problems = sample(many, policy, estimator, confidences=True, console=console)
    write_samples(path, problems)
    return problems


def _plot(folder: Path) -> None:
    """Accuracy over tokens per problem, mean over seeds: the votes as lines over k, strategies as points."""
    from matplotlib.figure import Figure

    points: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for path in sorted(folder.glob("seed*.jsonl")):
        for record in read_records(path):
            if isinstance(record, VoteRecord):
                points.setdefault((record.vote, record.k), []).append((record.tokens_per_problem, record.accuracy))
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for vote in LINES:
        means = [np.mean(found, axis=0) for (name, k), found in sorted(points.items()) if name == vote and k]
        if means:
            axes.plot(*np.transpose(means), marker=".", label=vote)
    strategies = {name: np.mean(found, axis=0) for (name, k), found in points.items() if k == 0}
    for marker, (name, point) in zip(itertools.cycle(MARKERS), strategies.items(), strict=False):
        axes.plot(*point, marker, color="black", markersize=5, linestyle="none", label=name)
    axes.set(
        xscale="log", xlabel="tokens per problem", ylabel="right answers", title="votes (lines) and online strategies"
    )
    ticks = sorted({float(np.mean(found, axis=0)[0]) for (name, k), found in points.items() if name == "majority"})
    axes.set_xticks(ticks, labels=[f"{tick:.0f}" for tick in ticks])
    axes.set_xticks([], minor=True)
    figure.legend(fontsize=7, frameon=False, loc="outside right upper")
    figure.savefig(folder / "votes.png")


def _record(row: dict[str, Any], vote: str, k: int, metrics: dict[str, float]) -> VoteRecord:
    return VoteRecord(
        vote=vote,
        k=k,
        accuracy=row["value"],
        low=row["low"],
        high=row["high"],
        num_problems=row["num_prompts"],
        tokens_per_problem=row["tokens_per_problem"],
        ahead=row["ahead"],
        ahead_low=row["ahead_low"],
        ahead_high=row["ahead_high"],
        metrics=metrics,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--samples", type=int, default=64, help="completions per problem")
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--k", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--out", type=Path, default=Path("results/test-time"))
    parser.add_argument("--work", type=Path, default=None, help="keeps runs and samples")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
