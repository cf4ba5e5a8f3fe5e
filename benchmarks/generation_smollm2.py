"""SmolLM2-135M in the embedded engine: float32 beside bfloat16, arms in turn, seconds of processor time on one thread.

Every rollout has ``--completion-tokens`` tokens. bfloat16 pays on processors with instructions for it (AVX512-BF16,
AMX), which the record's config names, and is slower elsewhere.

    OMP_NUM_THREADS=1 python benchmarks/generation_smollm2.py [--completion-tokens N] [--repeats N] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.quality.features import FeatureLayout
from arrol.training.policy import load_policy, load_tokenizer
from arrol.types import GroupRequest, Prompt, SamplingParams
from measure import Laps, Samples, interleave, time_record, write

DTYPES = ("float32", "bfloat16")
QUESTION = "Question: Ann has {} eggs and buys twice as many more. How many eggs does she have then?\nAnswer:"
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def arm(dtype: str, flags: argparse.Namespace) -> Callable[[int], Laps]:
    """An engine over a policy of its own, which generates when called."""
    model, tokenizer = load_policy(flags.model, torch.device("cpu")), load_tokenizer(flags.model)
    layout = FeatureLayout(("last_hidden",), int(model.config.hidden_size))
    engine = EmbeddedEngine(model, EngineConfig(dtype=dtype), layout)
    texts = [QUESTION.format(number) for number in range(3, 3 + flags.prompts)]
    prompts = [Prompt(text, tuple(tokenizer.encode(text)), text, "") for text in texts]
    params = SamplingParams(flags.completion_tokens)

    def call(number: int) -> Laps:
        requests = [GroupRequest(number, group, prompt, flags.rollouts) for group, prompt in enumerate(prompts)]
        laps = Laps()
        groups = engine.generate(requests, params, seed=1)
        laps.lap("generate")
        assert all(completion.num_tokens == flags.completion_tokens for group in groups for completion in group)
        return laps

    return call


def instructions() -> list[str]:
    """Those of the processor that matter here, where the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text("ascii", "replace")
    except OSError:
        return []
    known = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    return [name for name in INSTRUCTIONS if name in known]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="build/smollm2", help="folder of SmolLM2 (tests/smollm2.py writes it)")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--completion-tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default="results/bench-generation-smollm2.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    if not Path(flags.model).is_dir():
        sys.exit(f"--model {flags.model}: no such folder; smollm2_folder() of tests/smollm2.py writes it")
    torch.set_num_threads(1)
    found = interleave({dtype: arm(dtype, flags) for dtype in DTYPES}, warmup=1, repeats=flags.repeats)
    samples = {dtype: Samples(wall=one.cpu, cpu=one.cpu) for dtype, one in found.items()}
    config = {name: getattr(flags, name) for name in ("prompts", "rollouts", "completion_tokens")}
    config |= {"clock": "processor", "threads": 1, "instructions": instructions()}
    rows = [
        time_record(
            "generation_smollm2",
            dtype,
            samples[dtype],
            "generate",
            rival=None if dtype == DTYPES[0] else (DTYPES[0], samples[DTYPES[0]]),
            config=config,
        )
        for dtype in DTYPES
    ]
    write(flags.out, Path(flags.out).stem, config, rows, seed=1)


if __name__ == "__main__":
    main()
