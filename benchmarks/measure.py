"""Timing, limits and records: what every benchmark does the same way.

* Arms run in turn within each repeat, the first one rotating, so that a slow minute of the machine hits all of them;
  ratios are taken within a repeat and then summarised.
* A row holds median, 20th and 80th percentile of wall time, and the median of processor time; on a busy
  machine the two differ.
* A limit is what the machine allows: floating-point operations at the rate of a matrix product of the very shape, or
  bytes at the rate of a copy, whichever takes longer. Both rates are measured in the same run.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear

from arrol.records.schema import BenchRecord
from arrol.records.store import RecordWriter, provenance
from shape import Shape, build_prompts

FLOAT_BYTES = {"float32": 4, "bfloat16": 2}


class Laps:
    """Wall and processor seconds of the phases of one call."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, phase: str) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.wall[phase] = wall - self._wall
        self.cpu[phase] = cpu - self._cpu
        self._wall, self._cpu = wall, cpu

    def total(self, name: str, phases: Sequence[str]) -> None:
        self.wall[name] = sum(self.wall[phase] for phase in phases)
        self.cpu[name] = sum(self.cpu[phase] for phase in phases)


@dataclass
class Samples:
    """One arm: seconds per phase, one entry per repeat."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def add(self, laps: Laps) -> None:
        for mine, theirs in ((self.wall, laps.wall), (self.cpu, laps.cpu)):
            for phase, seconds in theirs.items():
                mine.setdefault(phase, []).append(seconds)


def interleave(arms: Mapping[str, Callable[[int], Laps]], *, warmup: int, repeats: int) -> dict[str, Samples]:
    """Call every arm once per repeat; an arm gets the number of the call, from 1."""
    names, samples = list(arms), {name: Samples() for name in arms}
    for repeat in range(warmup + repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            gc.collect()
            laps = arms[name](repeat + 1)
            if repeat >= warmup:
                samples[name].add(laps)
    return samples


@dataclass(frozen=True)
class Rates:
    """What this machine does per second, on the threads of the run."""

    matmul_flops: float
    copy_bytes: float

    def limit_s(self, flops: float, num_bytes: float) -> float:
        return max(flops / self.matmul_flops, num_bytes / self.copy_bytes)

    def as_config(self) -> dict[str, float]:
        return {"matmul_gflops": self.matmul_flops / 1e9, "copy_gbytes": self.copy_bytes / 1e9}


def measure_rates(shape: Shape, rows: int, *, seconds: float = 0.5) -> Rates:
    """Matrix products of ``rows`` tokens with the feed-forward weights of every layer, and a copy of 64 MiB."""
    dtype = getattr(torch, shape.dtype)
    hidden = torch.randn(rows, shape.hidden_size).to(dtype)
    weights = [torch.randn(shape.intermediate_size, shape.hidden_size).to(dtype) for _ in range(shape.layers)]

    def products() -> None:
        for weight in weights:
            linear(hidden, weight)

    source = torch.randn(2**24)
    target = torch.empty_like(source)
    flops = 2 * rows * shape.hidden_size * shape.intermediate_size * shape.layers
    with torch.inference_mode():
        return Rates(
            flops / _fast(products, seconds), 2 * 4 * len(source) / _fast(lambda: target.copy_(source), seconds)
        )


def _fast(call: Callable[[], object], seconds: float) -> float:
    """20th percentile of the time of a call: what the machine can do undisturbed."""
    call()
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.quantile(times, 0.2))


def generation_work(shape: Shape) -> tuple[float, float]:
    """Operations and bytes of one unpruned generation; a prompt is prefilled once, a step reads the cache once."""
    lengths = np.array([len(prompt.token_ids) for prompt in build_prompts(shape)])
    fed = shape.completion_tokens - 1  # the last token is sampled, never fed
    decoded = shape.rows * fed
    widths = shape.rollouts * sum(float((length + 1 + np.arange(fed)).sum()) for length in lengths)
    flops = 2.0 * _layer_weights(shape) * (lengths.sum() + decoded)
    flops += 2.0 * _head_weights(shape) * (shape.prompts + decoded)
    flops += 4.0 * shape.hidden_size * shape.layers * widths
    cache = 2.0 * shape.hidden_size * shape.layers * (widths + decoded)
    weights = (_layer_weights(shape) + _head_weights(shape)) * (fed + 1.0)
    return flops, FLOAT_BYTES[shape.dtype] * (cache + weights)


def learning_work(shape: Shape) -> float:
    """Operations of one update on all rollouts: forward, and twice that backward."""
    lengths = np.array([len(prompt.token_ids) for prompt in build_prompts(shape)]) + shape.completion_tokens
    tokens = float(shape.rollouts * lengths.sum())
    attention = 2.0 * shape.hidden_size * shape.layers * shape.rollouts * float((lengths * (lengths + 1)).sum())
    head = 2.0 * _head_weights(shape) * shape.rows * shape.completion_tokens
    return 3.0 * (2.0 * _layer_weights(shape) * tokens + attention + head)


def _layer_weights(shape: Shape) -> int:
    return shape.layers * (4 * shape.hidden_size**2 + 3 * shape.hidden_size * shape.intermediate_size)


def _head_weights(shape: Shape) -> int:
    return 64 * shape.hidden_size


def time_record(
    benchmark: str,
    variant: str,
    samples: Samples,
    phase: str,
    *,
    rival: tuple[str, Samples] | None = None,
    limit: float = float("nan"),
    config: Mapping[str, Any],
) -> BenchRecord:
    """Seconds of a phase; ``ratio`` is own over rival's, paired by repeat."""
    wall = samples.wall[phase]
    ratios = [] if rival is None else [a / b for a, b in zip(wall, rival[1].wall[phase], strict=True)]
    return _record(
        benchmark,
        variant,
        "s",
        wall,
        limit=limit,
        ratio_to=rival[0] if rival else "",
        ratio=statistics.median(ratios) if ratios else float("nan"),
        config={"phase": phase, "cpu_median_s": statistics.median(samples.cpu[phase]), **config},
    )


def speedup_record(
    benchmark: str,
    variant: str,
    times: Sequence[float],
    base: tuple[str, Sequence[float]],
    *,
    limit: float,
    config: Mapping[str, Any],
) -> BenchRecord:
    """Base's time over own time, paired by repeat; ``gap`` is the share of the limit that was reached."""
    ratios = [b / a for a, b in zip(times, base[1], strict=True)]
    ratio = statistics.median(ratios)
    return _record(benchmark, variant, "x", ratios, limit=limit, ratio_to=base[0], ratio=ratio, config=dict(config))


def _record(
    benchmark: str, variant: str, unit: str, values: Sequence[float], *, limit: float, **others: Any
) -> BenchRecord:
    median = statistics.median(values)
    low, high = np.quantile(values, [0.2, 0.8])
    return BenchRecord(
        benchmark=benchmark,
        variant=variant,
        unit=unit,
        median=median,
        p20=float(low),
        p80=float(high),
        repeats=len(values),
        limit=limit,
        gap=median / limit,
        **others,
    )


def write(path: str | Path, name: str, config: Mapping[str, Any], records: Sequence[BenchRecord], *, seed: int) -> None:
    """A fresh file: who measured, then the rows; and the rows as a table."""
    Path(path).unlink(missing_ok=True)
    with RecordWriter(path) as writer:
        writer.write(provenance(sys.argv, (seed,)).run_record(name=name, arm="", seed=seed, config=config))
        for record in records:
            writer.write(record)
    print_table(records)


def print_table(records: Sequence[BenchRecord]) -> None:
    head = f"{'variant':34} {'median':>9} {'p20':>8} {'p80':>8} {'n':>3}  {'ratio':>7} {'to':16}"
    head += f" {'limit':>9} {'of limit':>8}"
    print(head, "-" * len(head), sep="\n")
    for r in records:
        ratio = f"{r.ratio:7.3f} {r.ratio_to:16}" if r.ratio_to else " " * 24
        limit = f"{r.limit:8.3f}{r.unit} {r.gap:8.2f}" if r.limit == r.limit else ""
        print(f"{r.variant:34} {r.median:8.3f}{r.unit} {r.p20:8.3f} {r.p80:8.3f} {r.repeats:3d}  {ratio} {limit}")
