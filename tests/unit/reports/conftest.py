"""Synthetic runs with known numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from arrol.records.schema import EndRecord, EvalRecord, RolloutRecord, RunRecord, StepRecord
from arrol.records.store import RecordWriter, Run


def run_record(arm: str, seed: int, rule: str, warmup: int, started_at: str) -> RunRecord:
    return RunRecord(
        run_id=f"{arm}-{seed}",
        name="demo",
        arm=arm,
        seed=seed,
        command=f"arrol compare demo.toml --seeds {seed}",
        commit="0123456789abcdef0123456789abcdef01234567",
        dirty=False,
        versions={"arrol": "0.1.0", "numpy": "2.0.0"},
        device="Some CPU, 2 cores, 8.0 GiB",
        config={"pruning": {"rule": rule, "warmup_steps": warmup, "keep_ratio": 0.5}, "seed": seed},
        started_at=started_at,
    )


@pytest.fixture(scope="session")
def plain_run() -> Callable[..., Run]:
    """A run whose numbers are given: seconds, tokens and accuracies, one per step (accuracies: also step 0)."""

    def make(
        arm: str = "grpo",
        seed: int = 0,
        *,
        rule: str = "never",
        seconds: tuple[float, ...] = (),
        tokens: tuple[float, ...] = (),
        accuracies: dict[int, float] | None = None,
        metrics: dict[str, tuple[float, ...]] | None = None,
        warmup: int = 0,
        samples: int = 100,
        finished: bool = True,
        rollouts: tuple[RolloutRecord, ...] = (),
        started_at: str = "2026-01-01T00:00:00+00:00",
    ) -> Run:
        columns = {"time/step_s": seconds, "tokens/generated": tokens, **(metrics or {})}
        count = max((len(column) for column in columns.values()), default=0)
        steps = [
            StepRecord(step=at + 1, metrics={key: float(column[at]) for key, column in columns.items() if len(column)})
            for at in range(count)
        ]
        evals = [
            EvalRecord(
                step=step,
                accuracy=value,
                low=float("nan"),
                high=float("nan"),
                num_prompts=samples,
                samples_per_prompt=1,
            )
            for step, value in (accuracies or {}).items()
        ]
        end = EndRecord(step=count, outcome="finished") if finished else None
        return Run(run_record(arm, seed, rule, warmup, started_at), tuple(steps), tuple(evals), rollouts, end)

    return make


@pytest.fixture(scope="session")
def learning_run() -> Callable[..., Run]:
    """A run that looks like the real thing: noisy learning, warm-up, pruning, a head, rollouts of every fourth step."""

    def make(arm: str, seed: int, rule: str, *, num_steps: int = 60, warmup: int = 10, keep: float = 0.5) -> Run:
        stream = np.random.default_rng([seed, len(arm)])
        pruned = rule not in ("never", "oracle")
        speed = {"balanced": 1.15, "neyman": 1.25}.get(rule, 0.9 if pruned else 1.0)
        steps, evals, rollouts = [], [], []
        for step in range(num_steps + 1):
            level = 0.2 + 0.45 * (1 - np.exp(-speed * step / 25)) + 0.01 * stream.normal()
            if step % 10 == 0:
                level_eval = float(np.clip(level, 0, 1))
                evals.append(
                    EvalRecord(
                        step=step,
                        accuracy=level_eval,
                        low=level_eval - 0.03,
                        high=level_eval + 0.03,
                        num_prompts=256,
                        samples_per_prompt=4,
                    )
                )
            if step == 0:
                continue
            works = pruned and step > warmup
            share = keep + 0.02 * stream.normal() if works else 1.0
            tokens = 24_000 * (0.36 + 0.64 * share) + 300 * stream.normal()
            before = float(np.clip(level + 0.04 * stream.normal(), 0, 1))
            phases = {
                "generate": 1.1 * tokens / 24_000,
                "verify": 0.03,
                "estimate": 0.06 * pruned,
                "learn": 0.7 * share,
            }
            after = before + (0.5 - before) * 0.6 * works
            metrics = {
                "rollout/success_frac_before": before,
                "rollout/success_frac_after": float(after),
                "tokens/generated": tokens,
                "tokens/scored": tokens * (0.36 if pruned else 0.0),
                "tokens/trained": tokens * share,
                "compute/flops": 1.6e6 * tokens * (2 + 0.72 * pruned + 6 * share),
                "rollout/per_prompt": 16.0,
                "rollout/dead_group_frac": 0.25,
                "pruning/kept_frac": share,
                "pruning/candidates": 250.0 if works else 0.0,
                **{f"time/{phase}_s": value for phase, value in phases.items()},
                "time/step_s": sum(phases.values()) + 0.05,
                "time/eval_s": 0.5,
            }
            if pruned:
                metrics["quality/auroc_within_prompt"] = 0.68 + 0.02 * stream.normal()
                metrics["quality/auroc_pooled"] = 0.82 + 0.02 * stream.normal()
            steps.append(StepRecord(step=step, metrics=metrics))
            if pruned and step % 4 == 0:
                rollouts += synthetic_rollouts(stream, step, rule, keep, warmup)
        end = EndRecord(step=num_steps, outcome="finished")
        record = run_record(arm, seed, rule, warmup, f"2026-01-01T0{seed}:{len(arm):02d}:00+00:00")
        return Run(record, tuple(steps), tuple(evals), tuple(rollouts), end)

    return make


def synthetic_rollouts(stream, step: int, rule: str, keep: float, warmup: int) -> list[RolloutRecord]:
    rows = []
    for group in range(8):
        for index in range(8):
            quality = float(stream.beta(1.5, 2))
            survival = keep if rule == "uniform" else float(np.clip(keep + 0.8 * (0.5 - quality), 0.1, 0.9))
            survival = survival if step > warmup else 1.0
            kept = bool(stream.random() < survival)
            rows.append(
                RolloutRecord(
                    step=step,
                    group=group,
                    index=index,
                    prompt_key=f"p{group}",
                    level=1,
                    finish_reason="stop" if kept else "pruned",
                    completion_tokens=int(stream.integers(20, 96)),
                    reward=float(stream.random() < quality**1.2) if kept else None,
                    score=float(np.log(quality / (1 - quality))),
                    quality=quality,
                    survival=survival,
                    reason="draw" if step > warmup else "warmup",
                    keep=kept,
                )
            )
    return rows


@pytest.fixture(scope="session")
def write_run() -> Callable[[Run, Path], Path]:
    """Write a run as the trainer would."""

    def write(run: Run, folder: Path) -> Path:
        with RecordWriter(folder / "records.jsonl") as writer:
            for record in (run.run, *run.steps, *run.evals, *([run.end] if run.end else [])):
                writer.write(record)
        if run.rollouts:
            with RecordWriter(folder / "rollouts.jsonl") as writer:
                for record in run.rollouts:
                    writer.write(record)
        return folder

    return write


@pytest.fixture(scope="session")
def comparison(learning_run) -> list[Run]:
    """Four arms on three seeds, without oracle and small_group."""
    rules = {"balanced": "balanced", "grpo": "never", "neyman": "neyman", "uniform": "uniform"}
    return [learning_run(arm, seed, rule) for arm, rule in rules.items() for seed in (0, 1, 2)]
