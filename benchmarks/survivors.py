"""How often does stopping siblings change a survivor's tokens? It should be never, but for float noise.

The same requests are generated twice with the same seed, once whole and once with half of the rollouts stopped at 36 %
of the length, so that every later step runs on another batch size. A survivor counts as changed when any of its tokens
differs.

    OMP_NUM_THREADS=1 python benchmarks/survivors.py [--smoke] [--out FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from arrol.assembly import build_engine
from arrol.records.schema import BenchRecord
from arrol.types import FinishReason
from halves import HalfController
from measure import write
from shape import (
    Shape,
    add_shape_arguments,
    build_config,
    build_model,
    build_requests,
    build_sampling,
    describe,
    shape_of,
)

PROBE_SHARE = 0.36


def changed_survivors(shape: Shape, step: int) -> tuple[int, int]:
    """Survivors that changed, and survivors."""
    engine = build_engine(build_config(shape), build_model(shape))
    requests, sampling = build_requests(shape, step), build_sampling(shape)
    whole = engine.generate(requests, sampling, seed=shape.seed)
    probe = max(1, round(PROBE_SHARE * shape.completion_tokens))
    pruned = engine.generate(requests, sampling, seed=shape.seed, controller=HalfController(probe))
    pairs = [
        (a.token_ids, b.token_ids)
        for mine, theirs in zip(whole, pruned, strict=True)
        for a, b in zip(mine, theirs, strict=True)
        if b.finish_reason is not FinishReason.PRUNED
    ]
    return sum(a != b for a, b in pairs), len(pairs)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_shape_arguments(parser)
    parser.add_argument("--repeats", type=int, default=4, help="batches per precision (default 4)")
    parser.add_argument("--out", default="results/bench-survivors.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    shape = shape_of(flags)
    torch.set_num_threads(shape.threads)
    config, rows = describe(shape, build_model(shape)), []
    for dtype in ("float32", "bfloat16"):
        counts = [changed_survivors(replace(shape, dtype=dtype), step + 1) for step in range(flags.repeats)]
        shares = [changed / total for changed, total in counts]
        total = {"changed": sum(c for c, _ in counts), "survivors": sum(t for _, t in counts)}
        rows.append(
            BenchRecord(
                benchmark="survivors",
                variant=f"changed survivors, {dtype}",
                unit="share",
                median=float(np.median(shares)),
                p20=float(np.quantile(shares, 0.2)),
                p80=float(np.quantile(shares, 0.8)),
                repeats=flags.repeats,
                config=config | {"dtype": dtype} | total,
            )
        )
        print(f"{dtype}: {total['changed']} of {total['survivors']} survivors changed")
    write(flags.out, "bench-survivors", config, rows, seed=shape.seed)


if __name__ == "__main__":
    main()
