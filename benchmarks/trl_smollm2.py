"""A step of TRL's GRPOTrainer on SmolLM2-135M: TRL alone, with our engine, and with half of the rollouts stopped.

Arms, in turn in one process, on the same prompts and weights:

* ``trl``      TRL's trainer and generation
* ``engine``   our trainer and engine; no rollout is stopped
* ``pruned``   rule ``uniform``, half of the rollouts stopped at 36 % of the longest completion

Rollouts end where the model ends them, or at ``--completion-tokens``. Seconds are processor seconds of this process, on
one thread; other work on the machine changes them less than wall time. Generation is the time from the beginning of a
step to its first reward. Gradient checkpointing is on, TRL's default; ``--bf16`` puts TRL's bfloat16 autocast on, which
is its default too, and slow on a processor without instructions for it. Needs the environment of ``make trl-env``.
With ``--generation`` a step ends at its first reward: the update, two thirds of a step, is left out.

    OMP_NUM_THREADS=1 python benchmarks/trl_smollm2.py [--completion-tokens N] [--repeats N] [--bf16] [--generation]
        [--warmup N] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch

from arrol.records.schema import BenchRecord
from measure import Laps, Samples, interleave, measure_rates, time_record, write
from shape import Shape

PROBE_SHARE = 0.36
ARMS: dict[str, dict[str, Any]] = {
    "trl": {},
    "engine": {"rule": "uniform", "pruning_warmup_steps": 10**6},
    "pruned": {"rule": "uniform", "pruning_warmup_steps": 0, "keep_ratio": 0.5},
}


class WrittenError(Exception):
    """All rollouts of a step are written."""


class Arm:
    """A trainer that takes one step per call."""

    def __init__(self, name: str, folder: str, flags: argparse.Namespace) -> None:
        self._name, self._folder, self._flags = name, folder, flags

    def __call__(self, number: int) -> Laps:
        laps = Laps()

        def rewarded() -> None:
            laps.lap("generate")
            if self._flags.generation:
                raise WrittenError

        trainer = self._trainer(number, rewarded)
        trainer.add_callback(_clock(laps))
        with contextlib.suppress(WrittenError):
            trainer.train()
        if self._flags.generation:
            return laps
        laps.total("step", ("generate", "rest"))
        return laps

    def _trainer(self, number: int, rewarded: Callable[[], None]) -> Any:
        import trl
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from arrol.integrations.trl import GRPOConfig, GRPOTrainer

        flags = self._flags
        settings: dict[str, Any] = {"probe_tokens": [int(PROBE_SHARE * flags.completion_tokens)], **ARMS[self._name]}
        config, trainer = (trl.GRPOConfig, trl.GRPOTrainer) if self._name == "trl" else (GRPOConfig, GRPOTrainer)
        arguments = config(
            output_dir=self._folder,
            per_device_train_batch_size=flags.prompts * flags.rollouts,
            num_generations=flags.rollouts,
            max_completion_length=flags.completion_tokens,
            max_steps=1,
            bf16=flags.bf16,
            seed=number,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **({} if self._name == "trl" else settings),
        )

        def spread(completion_ids: list[list[int]], **others: object) -> list[float]:
            """Half right in each group, so that every row has an advantage."""
            rewarded()
            return [float(row % 2) for row in range(len(completion_ids))]

        return trainer(
            model=AutoModelForCausalLM.from_pretrained(
                flags.model, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
            ),
            reward_funcs=spread,
            args=arguments,
            train_dataset=_questions(flags.prompts),
            processing_class=AutoTokenizer.from_pretrained(flags.model, trust_remote_code=False),
        )


def _questions(count: int) -> Any:
    from datasets import Dataset

    texts = [f"Ann has {3 + i} apples and buys {4 + 2 * i} more. How many has she now?" for i in range(count)]
    return Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts])


def _clock(laps: Laps) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            laps.lap("start")

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            laps.lap("rest")

    return Clock()


def records(samples: dict[str, Samples], config: dict[str, Any]) -> list[BenchRecord]:
    """Seconds of generation and of the step, each beside TRL's."""
    by_processor = {name: Samples(wall=one.cpu, cpu=one.cpu) for name, one in samples.items()}
    return [
        time_record(
            "trl_smollm2",
            f"{name} {phase}",
            one,
            phase,
            rival=None if name == "trl" else (f"trl {phase}", by_processor["trl"]),
            config=config,
        )
        for phase in ("generate", "step")
        if phase in by_processor["trl"].wall
        for name, one in by_processor.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="build/smollm2", help="folder of SmolLM2 (tests/smollm2.py writes it)")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--completion-tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1, help="calls of each arm before the clock counts")
    parser.add_argument("--generation", action="store_true", help="without the update")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast, TRL's default")
    parser.add_argument("--out", default="results/bench-trl-smollm2.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    if not Path(flags.model).is_dir():
        sys.exit(f"--model {flags.model}: no such folder; smollm2_folder() of tests/smollm2.py writes it")
    torch.set_num_threads(1)
    shape = Shape(flags.prompts, flags.rollouts, hidden_size=576, intermediate_size=1536, layers=30, heads=9)
    rates = measure_rates(shape, shape.rows)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arms = {name: Arm(name, folder, flags) for name in ARMS}
        samples = interleave(arms, warmup=flags.warmup, repeats=flags.repeats)
    config = {"clock": "processor", "bf16": flags.bf16, "completion_tokens": flags.completion_tokens}
    config |= {"prompts": flags.prompts, "rollouts": flags.rollouts, "probe_share": PROBE_SHARE, **rates.as_config()}
    write(flags.out, Path(flags.out).stem, config, records(samples, config), seed=1)


if __name__ == "__main__":
    main()
