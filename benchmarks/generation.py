"""Generation without pruning: the embedded engine and ``model.generate``, in one process, in turn.

Both sample at temperature 1 from the same weights and write every token of the shape. ``generate`` gets left-padded
copies of each prompt, one per rollout, as trainers call it, and no stop token, so it checks none. It returns tokens
only, the engine also their log-probabilities.

    python benchmarks/generation.py [--threads N] [--dtype bfloat16] [--repeats N] [--out FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch

from arrol.assembly import build_engine
from arrol.records.schema import BenchRecord
from measure import Laps, Rates, Samples, generation_work, interleave, measure_rates, time_record, write
from shape import (
    Shape,
    add_shape_arguments,
    build_config,
    build_model,
    build_prompts,
    build_requests,
    build_sampling,
    describe,
    shape_of,
)


def engine_arm(shape: Shape, model: Any) -> Callable[[int], Laps]:
    """arrol's engine."""
    engine = build_engine(build_config(shape), model)
    sampling = build_sampling(shape)

    def call(number: int) -> Laps:
        requests, laps = build_requests(shape, number), Laps()
        groups = engine.generate(requests, sampling, seed=shape.seed)
        laps.lap("generate")
        assert all(c.num_tokens == shape.completion_tokens for group in groups for c in group)
        return laps

    return call


def transformers_arm(shape: Shape, model: Any) -> Callable[[int], Laps]:
    """``model.generate`` on all rollouts at once."""
    prompts = build_prompts(shape)
    longest = max(len(prompt.token_ids) for prompt in prompts)
    padded = [(0,) * (longest - len(p.token_ids)) + p.token_ids for p in prompts]
    ids = torch.tensor(padded).repeat_interleave(shape.rollouts, 0)
    mask = torch.tensor([[0] * (longest - len(p.token_ids)) + [1] * len(p.token_ids) for p in prompts])
    mask = mask.repeat_interleave(shape.rollouts, 0)
    length = shape.completion_tokens
    settings: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}

    def call(number: int) -> Laps:
        torch.manual_seed(number)
        laps = Laps()
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=length, min_new_tokens=length, use_cache=True, **settings
        )
        laps.lap("generate")
        assert out.shape == (shape.rows, longest + length), out.shape
        return laps

    return call


def measure(shape: Shape, model: Any, *, warmup: int, repeats: int) -> tuple[dict[str, Samples], Rates]:
    twin = build_model(shape).to(getattr(torch, shape.dtype)).eval()
    twin.generation_config.eos_token_id = None
    arms = {"arrol": engine_arm(shape, model), "model.generate": transformers_arm(shape, twin)}
    return interleave(arms, warmup=warmup, repeats=repeats), measure_rates(
        shape, shape.rows, seconds=0.02 if repeats < 3 else 0.5
    )


def records(shape: Shape, samples: dict[str, Samples], rates: Rates, config: dict[str, Any]) -> list[BenchRecord]:
    flops, num_bytes = generation_work(shape)
    config = config | rates.as_config()
    config |= {"gflop": flops / 1e9, "gbyte": num_bytes / 1e9, "tokens": shape.rows * shape.completion_tokens}
    limit = rates.limit_s(flops, num_bytes)
    rival = ("model.generate", samples["model.generate"])
    ours = time_record("generation", "arrol", samples["arrol"], "generate", rival=rival, limit=limit, config=config)
    theirs = time_record("generation", rival[0], rival[1], "generate", limit=limit, config=config)
    return [ours, theirs]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_shape_arguments(parser)
    parser.add_argument("--repeats", type=int, default=9, help="timed calls per arm (default 9)")
    parser.add_argument("--out", default="results/bench-generation.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    shape = shape_of(flags)
    model = build_model(shape)
    samples, rates = measure(shape, model, warmup=1 if flags.smoke else 2, repeats=2 if flags.smoke else flags.repeats)
    config = describe(shape, model)
    rows = records(shape, samples, rates, config)
    write(flags.out, "bench-generation", config, rows, seed=shape.seed)
    work = rows[0].config
    print(
        f"{work['gflop']:.1f} Gflop at {work['matmul_gflops']:.0f} Gflop/s, {work['gbyte']:.1f} GB at "
        f"{work['copy_gbytes']:.1f} GB/s; arrol writes {work['tokens'] / rows[0].median:,.0f} tokens/s"
    )


if __name__ == "__main__":
    main()
