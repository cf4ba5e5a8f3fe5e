"""A whole training step without pruning: TRL's GRPOTrainer and arrol's engine and learner, in one process, in turn.

Both generate the same number of tokens from the same prompts with equal models, decode them to text, give a random half
of each group reward 1, and take one AdamW step in float32 with Dr. GRPO's loss and no KL term. Made equal on purpose:

* rewards: half of each group is right, so every advantage differs from 0. arrol skips rollouts whose advantage is 0 and
  TRL does not; arm ``arrol`` leaves that out. Arm ``arrol dead`` puts it in: a third of the groups has no right
  rollout, about what the shipped base models give; TRL's cost does not depend on rewards.
* TRL: gradient checkpointing (its default) is off; no second forward for old log-probabilities; the end token is
  forbidden until the length is reached; prompts are left-padded and copied per rollout, as it does. Its microbatch is
  chosen by ``--trl-batch``.
* arrol: rule ``never``, default microbatch of 2048 padded tokens, prompts shared among siblings.

TRL is timed from the end of one optimiser step to the end of the next, through its callbacks; our step runs inside the
callback, between two of its steps, and is not part of that time. Needs the environment of
``make trl-env``.

    OMP_NUM_THREADS=1 python benchmarks/trl_step.py [--trl-batch N] [--repeats N] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import numpy as np

from arrol.assembly import build_engine
from arrol.records.schema import BenchRecord
from arrol.training.learner import Learner
from arrol.types import Rollout, RolloutGroup
from measure import (
    Laps,
    Rates,
    Samples,
    generation_work,
    learning_work,
    measure_rates,
    speedup_record,
    time_record,
    write,
)
from shape import (
    Shape,
    add_shape_arguments,
    build_config,
    build_model,
    build_prompts,
    build_requests,
    build_sampling,
    build_tokenizer,
    describe,
    reward_half,
    shape_of,
)

LEARNING_RATE = 1e-6
REQUIRED = 1.5
"""Speed-up over TRL that we ask of ourselves."""


class ArrolStep:
    """One step of ours."""

    def __init__(self, shape: Shape, *, dead_groups: int = 0) -> None:
        self.shape, self.model, self.tokenizer = shape, build_model(shape), build_tokenizer()
        self.dead_groups = dead_groups
        config = build_config(shape, optimizer={"learning_rate": LEARNING_RATE})
        self.engine, self.learner = build_engine(config, self.model), Learner(self.model, config)

    def __call__(self, number: int) -> Laps:
        requests, laps = build_requests(self.shape, number), Laps()
        self.engine.sync_weights()
        written = self.engine.generate(requests, build_sampling(self.shape), seed=self.shape.seed)
        laps.lap("generate")
        groups = []
        for request, completions in zip(requests, written, strict=True):
            for completion in completions:
                self.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
            rollouts = zip(request.rollout_ids, completions, strict=True)
            groups.append(RolloutGroup(request.prompt, [Rollout(i, c) for i, c in rollouts]))
        reward_half(groups, np.random.default_rng([self.shape.seed, number]))
        for rollout in (rollout for group in groups[: self.dead_groups] for rollout in group.rollouts):
            rollout.reward = 0.0
        laps.lap("verify")
        metrics = self.learner.update(groups, number)
        laps.lap("learn")
        laps.total("step", ("generate", "verify", "learn"))
        alive = self.shape.rows - self.dead_groups * self.shape.rollouts
        assert metrics["tokens/trained"] == alive * self.shape.completion_tokens, metrics["tokens/trained"]
        return laps


def build_trainer(shape: Shape, batch: int, steps: int, folder: str, counted: list[int]) -> Any:
    """TRL's trainer on the same shape; ``counted`` receives the completion tokens of every step."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tokenizer, generator = build_tokenizer(), np.random.default_rng(shape.seed)
    tokenizer.padding_side = "left"

    def half_right(completion_ids: list[list[int]], **others: object) -> list[float]:
        counted.append(sum(len(ids) for ids in completion_ids))
        half = np.arange(shape.rollouts) < shape.rollouts / 2
        groups = len(completion_ids) // shape.rollouts
        return np.concatenate([generator.permutation(half) for _ in range(groups)]).astype(float).tolist()

    arguments = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=shape.rows // batch,
        num_generations=shape.rollouts,
        max_completion_length=shape.completion_tokens,
        generation_kwargs={"min_new_tokens": shape.completion_tokens},
        temperature=1.0,
        beta=0.0,
        loss_type="dr_grpo",
        scale_rewards="none",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_steps=steps,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        logging_steps=10 * steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    texts = [prompt.text for prompt in build_prompts(shape)]
    return GRPOTrainer(
        model=build_model(shape),
        reward_funcs=half_right,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": text} for text in texts * steps]),
        processing_class=tokenizer,
    )


def build_callback(ours: dict[str, ArrolStep], warmup: int, samples: dict[str, Samples]) -> Any:
    """At the end of each of TRL's steps: note its time, run a step of each of ours, start its clock again."""
    from transformers import TrainerCallback

    class Alternate(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            self.laps = Laps()

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            self.laps.lap("step")
            mine = {name: step(state.global_step) for name, step in ours.items()}
            if state.global_step > warmup:
                for name, laps in {"trl": self.laps, **mine}.items():
                    samples[name].add(laps)
            self.laps = Laps()

    return Alternate()


def measure(shape: Shape, batch: int, *, warmup: int, repeats: int) -> tuple[dict[str, Samples], Rates]:
    ours = {"arrol": ArrolStep(shape), "arrol dead": ArrolStep(shape, dead_groups=shape.prompts // 3)}
    samples, counted = {name: Samples() for name in (*ours, "trl")}, list[int]()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's and accelerate's, about a machine without accelerator
        trainer = build_trainer(shape, batch, warmup + repeats, folder, counted)
        trainer.add_callback(build_callback(ours, warmup, samples))
        trainer.train()
    assert counted == [shape.rows * shape.completion_tokens] * (warmup + repeats), counted
    return samples, measure_rates(shape, shape.rows)


def records(samples: dict[str, Samples], shape: Shape, rates: Rates, config: dict[str, Any]) -> list[BenchRecord]:
    config = config | rates.as_config()
    flops, num_bytes = generation_work(shape)
    limits = {"generate": rates.limit_s(flops, num_bytes), "learn": rates.limit_s(learning_work(shape), 0.0)}
    limits["step"] = limits["generate"] + limits["learn"]
    ours, theirs = samples["arrol"], samples["trl"]
    rows = [
        time_record(
            "trl_step",
            f"arrol {phase}",
            ours,
            phase,
            rival=("trl step", theirs) if phase == "step" else None,
            limit=limit,
            config=config,
        )
        for phase, limit in limits.items()
    ]
    rows.append(time_record("trl_step", "trl step", theirs, "step", limit=limits["step"], config=config))
    required = config | {"required": REQUIRED}
    for name in ("arrol", "arrol dead"):
        rows.append(
            speedup_record(
                "trl_step",
                f"{name} step speed-up",
                samples[name].wall["step"],
                ("trl step", theirs.wall["step"]),
                limit=float(np.median(theirs.wall["step"])) / limits["step"],
                config=required,
            )
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_shape_arguments(parser)
    parser.add_argument("--trl-batch", type=int, help="rollouts per microbatch of TRL (default 64, its faster setting)")
    parser.add_argument("--repeats", type=int, default=9, help="timed steps per arm (default 9)")
    parser.add_argument("--out", default="results/bench-trl-step.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    try:
        version = metadata.version("trl")
    except metadata.PackageNotFoundError:
        sys.exit("trl = not installed: use the environment of make trl-env")
    shape = shape_of(flags)
    batch = flags.trl_batch or min(64, shape.rows)
    if shape.rows % batch or batch % shape.rollouts:
        sys.exit(f"--trl-batch {batch}: must divide {shape.rows} and be a multiple of {shape.rollouts}")
    warmup, repeats = (1, 2) if flags.smoke else (2, flags.repeats)
    samples, rates = measure(shape, batch, warmup=warmup, repeats=repeats)
    config = describe(shape, build_model(shape)) | {"trl": version, "trl_batch": batch}
    write(flags.out, "bench-trl-step", config, records(samples, shape, rates, config), seed=shape.seed)


if __name__ == "__main__":
    main()
