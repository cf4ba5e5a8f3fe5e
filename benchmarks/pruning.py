"""Half of the rollouts stopped at 36 % of their length: does the time fall as the token counts say?

Arms, in turn on the same prompts and weights:

* ``never``     no probe
* ``scripted``  every second rollout is stopped at the probe, without a controller
* ``uniform``   the real controller and estimator: features, head scoring, an exact-count draw, after the step a refit

Bounds: generation by tokens generated, the learner by tokens (prompt and completion) of the survivors, the step by its
two phases, each shrunk by its bound. The head's refit, with a full buffer, stands in a row of its own and is part of
the step of ``uniform``. Half of each group's survivors are right, so that no advantage is 0: the learner skips
rollouts without a gradient, which would look like speed.

    python benchmarks/pruning.py [--threads N] [--repeats N] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arrol.assembly import build_controller, build_engine, build_estimator
from arrol.configs.method import NeverRule, UniformRule
from arrol.protocols import Controller
from arrol.quality.estimator import QualityEstimator
from arrol.records.schema import BenchRecord
from arrol.training.learner import Learner
from arrol.types import Rollout, RolloutGroup
from halves import HalfController
from measure import Laps, Samples, interleave, speedup_record, time_record, write
from shape import (
    Shape,
    add_shape_arguments,
    build_config,
    build_model,
    build_requests,
    build_sampling,
    describe,
    reward_half,
    shape_of,
)

FILL_CALLS = 32
"""Calls that fill the head's buffer before timing, as in the middle of a run."""


@dataclass
class Counts:
    """Tokens of the last call of an arm."""

    generated: int = 0
    learnt: int = 0
    """Prompt and completion tokens of what was trained on."""


class Arm:
    """One line of the comparison; engine and learner are shared, so weights and caches are the same."""

    def __init__(
        self,
        shape: Shape,
        engine: Any,
        learner: Learner,
        controller: Controller,
        estimator: QualityEstimator | None = None,
    ) -> None:
        self.shape, self.engine, self.learner = shape, engine, learner
        self.controller, self.estimator = controller, estimator
        self.counts = Counts()

    def __call__(self, number: int) -> Laps:
        requests, laps = build_requests(self.shape, number), Laps()
        written = self.engine.generate(
            requests, build_sampling(self.shape), seed=self.shape.seed, controller=self.controller
        )
        laps.lap("generate")
        groups = []
        for request, completions in zip(requests, written, strict=True):
            decisions = {d.rollout_id: d for d in self.controller.decisions(request.step, request.group)}
            rollouts = zip(request.rollout_ids, completions, strict=True)
            groups.append(RolloutGroup(request.prompt, [Rollout(i, c, decisions.get(i)) for i, c in rollouts]))
        reward_half(groups, np.random.default_rng([self.shape.seed, number]))
        self.count(groups)
        laps.lap("between")
        if self.estimator is not None:
            for _ in range(FILL_CALLS if self.estimator.version == 0 else 1):
                self.estimator.learn(groups)
        laps.lap("head")
        metrics = self.learner.update(groups, number)
        laps.lap("learn")
        laps.total("step", ("generate", "head", "learn"))
        assert metrics["tokens/trained"] == sum(r.completion.num_tokens for g in groups for r in g.survivors)
        return laps

    def count(self, groups: Sequence[RolloutGroup]) -> None:
        self.counts = Counts(
            sum(r.completion.num_tokens for group in groups for r in group.rollouts),
            sum(r.completion.num_tokens + len(g.prompt.token_ids) for g in groups for r in g.survivors),
        )


def build_arms(shape: Shape, probe: int, buffer_size: int) -> dict[str, Arm]:
    never = build_config(shape, pruning=NeverRule())
    uniform = build_config(
        shape,
        pruning=UniformRule(keep_ratio=0.5, probe_tokens=(probe,), warmup_steps=0),
        quality={"buffer_size": buffer_size},
    )
    model = build_model(shape)
    engine, learner, estimator = build_engine(uniform, model), Learner(model, never), build_estimator(uniform, model)
    return {
        "never": Arm(shape, engine, learner, build_controller(never, build_estimator(never, model))),
        "scripted": Arm(shape, engine, learner, HalfController(probe)),
        "uniform": Arm(shape, engine, learner, build_controller(uniform, estimator), estimator),
    }


def records(arms: dict[str, Arm], samples: dict[str, Samples], config: dict[str, Any]) -> list[BenchRecord]:
    """Seconds of every arm and phase, then speed-ups with their bounds."""
    rows: list[BenchRecord] = []
    base, full = samples["never"], arms["never"].counts
    for name, mine in samples.items():
        rival = None if name == "never" else ("never", base)
        for phase in ("generate", "learn", "step") + ("head",) * (name == "uniform"):
            counted = config | {
                "tokens_generated": arms[name].counts.generated,
                "tokens_learnt": arms[name].counts.learnt,
            }
            against = None if phase == "head" else rival
            rows.append(time_record("pruning", f"{name} {phase}", mine, phase, rival=against, config=counted))
    for name in ("scripted", "uniform"):
        mine, counts = samples[name].wall, arms[name].counts
        bounds = {"generate": full.generated / counts.generated, "learn": full.learnt / counts.learnt}
        parts = zip(base.wall["generate"], base.wall["learn"], strict=True)
        bounds["step"] = statistics.median((a + b) / (a / bounds["generate"] + b / bounds["learn"]) for a, b in parts)
        for phase, bound in bounds.items():
            times, against = mine[phase], (f"never {phase}", base.wall[phase])
            rows.append(
                speedup_record("pruning", f"{name} {phase} speed-up", times, against, limit=bound, config=config)
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_shape_arguments(parser)
    parser.add_argument("--probe-share", type=float, default=0.36, help="length at the probe (default 0.36 of all)")
    parser.add_argument("--repeats", type=int, default=9, help="timed steps per arm (default 9)")
    parser.add_argument("--out", default="results/bench-pruning.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    shape = shape_of(flags)
    probe = max(1, round(flags.probe_share * shape.completion_tokens))
    arms = build_arms(shape, probe, 64 if flags.smoke else 4096)
    calls: dict[str, Callable[[int], Laps]] = {**arms}
    samples = interleave(calls, warmup=1 if flags.smoke else 2, repeats=2 if flags.smoke else flags.repeats)
    config = describe(shape, arms["never"].learner.model) | {"probe_tokens": probe}
    rows = records(arms, samples, config)
    write(flags.out, "bench-pruning", config, rows, seed=shape.seed)


if __name__ == "__main__":
    main()
