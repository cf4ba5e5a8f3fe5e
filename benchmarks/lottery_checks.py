"""Is the expected gradient of every lottery the full group's? Real gradients of a small model, 10,000 groups each.

A pool of the countdown model (``arrol lab``: sketches of the real gradient of each rollout) is replayed by the code
that decides in training. Each design meets the same groups as the same training without its lottery. The difference of
the two gradients has mean 0 where the lottery is unbiased. A row holds the length of the mean difference in standard
errors, about 1 without a bias; what chance alone exceeds once in 500; and the length as a share of the gradient's.

The controls are biased by design: a check that does not find them would find nothing.

    OMP_NUM_THREADS=1 python benchmarks/lottery_checks.py [--pool FILE] [--groups 10000] [--smoke] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arrol.algorithms.thinning import THINNING_STREAM
from arrol.configs.run import RunConfig
from arrol.lab.merit import Design, base_config, design_config
from arrol.lab.pool import Pool
from arrol.lab.replay import Visit, replay
from arrol.records.schema import BenchRecord
from measure import write

CONFIG = "configs/countdown.toml"
PROMPTS, ROLLOUTS = 24, 48
"""Of the pool."""
PROMPTS_PER_STEP = 4
PARTS = 64
"""Parts of the steps whose means get random signs: what chance does."""
CHANCE, FLIPS = 0.002, 10_000


RULES: dict[str, dict[str, Any]] = {
    "uniform": {},
    "neyman": {},
    "balanced": {},
    "paper": {},
    "confidence": {"mix": 0.5},
}
"""Rules whose survival is never 0, and their fields."""


class Lottery(NamedTuple):
    """A design, the same training without its lottery, and whether the two agree in expectation."""

    name: str
    change: Mapping[str, Any]
    reference: Mapping[str, Any]
    bias: str = ""
    """Why it is biased; empty where it is not."""


class Found(NamedTuple):
    """Of one lottery."""

    errors: float
    """Length of the mean difference, in standard errors."""
    chance: float
    """What chance exceeds with probability CHANCE."""
    share: float
    """Length of the mean difference as a share of the mean gradient's."""
    kept: float
    """Share of the rollouts that were not stopped."""
    trained: float
    """Share of the rollouts that trained, on average."""
    groups: int

    @property
    def is_unbiased(self) -> bool:
        """Not more than chance."""
        return self.errors <= self.chance


def lotteries(pool: Pool) -> Iterator[Lottery]:
    """Every lottery of the package in groups of 8, where an exact count biases most, and the usual ones in 16."""
    early, late = _probes(pool)
    for size in (8, 16):
        for rule, fields in RULES.items():
            for draw in ("bernoulli", "systematic"):
                for correction in ("ipw", "doubly_robust"):
                    pruning = {"rule": rule, "keep_ratio": 0.5, "probe_tokens": [early], "draw": draw, **fields}
                    if size == 8 or (rule in ("uniform", "neyman") and correction == "ipw"):
                        yield _pruned(f"{rule}, {draw}, {correction}", size, pruning, correction)
        batch = {"rule": "neyman", "scope": "batch", "keep_ratio": 0.5, "probe_tokens": [early]}
        yield _pruned("neyman, whole batch, systematic, ipw", size, batch, "ipw")
        for rule in ("neyman", "paper"):
            for draw in ("bernoulli", "systematic"):
                two = {"rule": rule, "keep_ratio": 0.4, "probe_tokens": [early, late], "draw": draw}
                yield _pruned(f"{rule} at two probes, {draw}, ipw", size, two, "ipw")
        stop = {"rule": "uniform", "keep_ratio": 0.2, "probe_tokens": [late], "draw": "bernoulli"}
        yield _pruned("stop of the longest, ipw", size, {**stop, "min_survivors": 0, "min_survival": 0.2}, "ipw")
        auto = {"rule": "auto", "probe_tokens": [early, late], "draw": "bernoulli", "trained_price": 60.0}
        yield Lottery(f"auto, bernoulli, ipw, {size}", _change(size, auto, {"correction": "ipw"}), _whole(size))
        for share in (0.5, 2.0):
            change = _change(size, {"rule": "never"}, {"thinning": share, "thins": "always"})
            yield Lottery(f"lottery {share:g} after the reward, {size}", change, _whole(size))
        rejecting, whole = _aero(size, "corrected", 1.0), _aero(size, "corrected", 64)
        yield Lottery(f"AERO's rejection, corrected, {size}", rejecting, whole)
        behind = _aero(size, "corrected", 1.0, size) | {"pruning": {"rule": "uniform", "probe_tokens": [early]}}
        yield Lottery(
            f"AERO's rejection, corrected, behind pruning, {size}", behind, _aero(size, "corrected", 64, size)
        )
        yield from controls(size, early)


def controls(size: int, probe: int) -> Iterator[Lottery]:
    """Biased by design."""
    yield _pruned("paper, plain", size, {"rule": "paper", "probe_tokens": [probe]}, "plain", "no weights")
    extremes = {"rule": "extremes", "probe_tokens": [probe]}
    yield _pruned("extremes, plain", size, extremes, "plain", "stops with certainty")
    pods = _whole(size) | {"allocation": {"rule": "pods", "train_size": size // 2}}
    yield Lottery(f"PODS, {size}", pods, _whole(size), "chooses by the reward")
    kept = "the kept ones are not the group"
    yield Lottery(f"AERO's rejection, kept, {size}", _aero(size, "kept", 1.0), _aero(size, "kept", 64), kept)


def _pruned(name: str, size: int, pruning: Mapping[str, Any], correction: str, bias: str = "") -> Lottery:
    change = _change(size, pruning, {"correction": correction, "thinning": 0.0})
    return Lottery(f"{name}, {size}", change, _whole(size), bias)


def _change(size: int, pruning: Mapping[str, Any], algorithm: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "training": {"group_size": size},
        "pruning": dict(pruning),
        "algorithm": {"name": "dr_grpo", **algorithm},
    }


def _whole(size: int) -> dict[str, Any]:
    return _change(size, {"rule": "never"}, {"thinning": 0.0})


def _aero(size: int, baseline: str, wrong_ratio: float, explore_size: int = 4) -> dict[str, Any]:
    """AERO whose posterior only allocates, so that both sides ask the same rollouts."""
    rejection = {"baseline": baseline, "wrong_ratio": wrong_ratio}
    rule = {"rule": "aero", "rejection": rejection, "posterior": {"used_for": "allocation"}}
    rule["explore_size"] = explore_size
    return _whole(size) | {"allocation": rule}


class Checker:
    """Trains with and without a lottery on the same groups; trainings without one are kept."""

    def __init__(self, pool: Pool, *, groups: int, seed: int = 0) -> None:
        self._pool, self._steps, self._seed = pool, -(-groups // PROMPTS_PER_STEP), seed
        self._base = base_config(RunConfig.model_validate(pool.meta["config"]))
        self._whole: dict[str, list[tuple[np.ndarray, int]]] = {}

    def check(self, lottery: Lottery) -> Found:
        """One lottery."""
        name = json.dumps(lottery.reference, sort_keys=True)
        if name not in self._whole:
            steps = self._visits(lottery.reference)
            self._whole[name] = [(self._gradient(visits), _started(visits)) for visits in steps]
        difference_SD, kept, trained, groups = [], [], [], 0
        for number, visits in enumerate(self._visits(lottery.change)):
            full_D, started = self._whole[name][number]
            assert started == _started(visits), f"{lottery.name}: other rollouts than its reference"
            rng = np.random.default_rng([self._seed, THINNING_STREAM, number])
            difference_SD.append(self._gradient(visits, rng) - full_D)
            kept += [visit.is_kept_R.mean() for visit in visits]
            trained += [visit.trains_R.mean() for visit in visits]
            groups += len(visits)
        whole_D = np.mean([full_D for full_D, _ in self._whole[name]], axis=0)
        return _found(np.array(difference_SD), whole_D, float(np.mean(kept)), float(np.mean(trained)), groups)

    def _visits(self, change: Mapping[str, Any]) -> Iterator[list[Visit]]:
        config = design_config(self._base, Design("", change))
        training = config.training.model_copy(update={"prompts_per_step": PROMPTS_PER_STEP})
        config = config.model_copy(update={"training": training})
        return replay(self._pool, config, steps=self._steps, seed=self._seed)

    def _gradient(self, visits: Sequence[Visit], rng: np.random.Generator | None = None) -> np.ndarray:
        """Of a step: float64 ``[D]``. ``rng`` draws the lottery after the reward; None: all train."""
        total_D = np.zeros(self._pool.sketch_PND.shape[2])
        for visit in visits:
            factor_R = visit.factor_R
            if rng is not None:
                is_drawn_R = rng.random(len(factor_R)) < visit.trains_R
                factor_R = np.where(is_drawn_R, factor_R / np.maximum(visit.trains_R, 1e-300), 0.0)
            total_D += factor_R @ self._pool.sketch_PND[visit.prompt, visit.rollout_R].astype(float)
        return total_D / len(visits)


def _started(visits: Sequence[Visit]) -> int:
    """A number that tells which rollouts a step started."""
    return hash(tuple((visit.prompt, *visit.rollout_R.tolist()) for visit in visits))


def _found(difference_SD: np.ndarray, whole_D: np.ndarray, kept: float, trained: float, groups: int) -> Found:
    mean_D = difference_SD.mean(0)
    length = float(np.linalg.norm(mean_D))
    error = float(np.sqrt(((difference_SD - mean_D) ** 2).sum() / (len(difference_SD) - 1) / len(difference_SD)))
    parts = [part.sum(0) for part in np.array_split(difference_SD, PARTS)]
    products = np.array(parts) @ np.array(parts).T / len(difference_SD) ** 2
    sign_FK = np.random.default_rng(0).choice((-1.0, 1.0), (FLIPS, len(parts)))
    chance = np.sqrt(np.quantile(((sign_FK @ products) * sign_FK).sum(1), 1 - CHANCE))
    errors, limit = (length / error, float(chance) / error) if error > 0 else (0.0, 0.0)
    return Found(errors, limit, length / float(np.linalg.norm(whole_D)), kept, trained, groups)


def _probes(pool: Pool) -> tuple[int, int]:
    """The probes nearest to the quantiles .2 and .8 of the lengths."""
    length_C = pool.length_PN[pool.is_known_PN]
    early, late = (
        min(pool.probe_tokens, key=lambda tokens: abs(tokens - np.quantile(length_C, share))) for share in (0.2, 0.8)
    )
    return early, late


def collected(folder: Path, prompts: int, rollouts: int) -> Path:
    """A pool of the countdown model."""
    path = folder / "pool.safetensors"
    words = ["lab", CONFIG, "--out", str(path), "--prompts", str(prompts), "--rollouts", str(rollouts)]
    words += ["--visits", "1", "--cost", "flops"]
    subprocess.run([sys.executable, "-m", "arrol.cli.main", *words], check=True, stdout=subprocess.DEVNULL)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pool", type=Path, help="of arrol lab, with gradients; default: collects one")
    parser.add_argument("--groups", type=int, default=10_000, help="of each lottery (default 10000)")
    parser.add_argument("--smoke", action="store_true", help="few groups of a small pool")
    parser.add_argument("--out", default="results/bench-lotteries.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    groups = 16 if flags.smoke else flags.groups
    with tempfile.TemporaryDirectory() as folder:
        size = (4, 8) if flags.smoke else (PROMPTS, ROLLOUTS)
        pool = Pool.load(flags.pool or collected(Path(folder), *size))
    checker = Checker(pool, groups=groups)
    rows, wrong = [], []
    for lottery in lotteries(pool):
        found = checker.check(lottery)
        rows.append(_row(lottery, found))
        if found.is_unbiased == bool(lottery.bias):
            wrong.append(lottery.name)
        errors = f"{found.errors:6.2f} of {found.chance:5.2f} {found.share:8.4f}"
        print(f"{lottery.name:52} {errors}  kept {found.kept:.2f}  trained {found.trained:.2f}", flush=True)
    facts = {"prompts": pool.num_prompts, "rollouts": pool.num_rollouts, "sketch": pool.sketch_PND.shape[2]}
    write(
        flags.out,
        "bench-lotteries",
        {**facts, "policy": str(pool.meta.get("policy", "")), "groups": groups},
        rows,
        seed=0,
    )
    print("not as expected: " + ("; ".join(wrong) or "none"))
    return 0


def _row(lottery: Lottery, found: Found) -> BenchRecord:
    return BenchRecord(
        benchmark="lotteries",
        variant=lottery.name,
        unit="SE",
        median=found.errors,
        p20=found.errors,
        p80=found.errors,
        repeats=found.groups,
        limit=found.chance,
        gap=found.errors / found.chance if found.chance else 0.0,
        config={
            "share_of_gradient": found.share,
            "kept": found.kept,
            "trained": found.trained,
            "bias": lottery.bias,
            "change": dict(lottery.change),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
