"""What stops and refills add in TRL's ``AsyncGRPOTrainer``: same model, prompts, seeds and optimiser, on a CPU.

Arms, each a run of its own with a learning curve on held-out prompts, in the format of ``arrol compare``:

* ``never``        control: our rollout worker, no rollout stopped (TRL's own worker needs a server)
* ``uniform``      control: every candidate has the same survival
* ``neyman``       our best rule, doubly robust
* ``dapo``         groups of equal rewards are replaced until the batch is full, which TRL's own worker cannot do
* ``dapo_neyman``  both
* ``small_group``  control: half as many rollouts of each prompt

A batch of the worker begins with the same number of prompts in every arm, so arms with stops read fewer samples a step.
The worker waits for the trainer (``max_staleness=1``): a seed gives the same curve on a busy machine, times do not.
Needs the environment of ``make trl-env``.

    OMP_NUM_THREADS=1 python benchmarks/trl_async_arms.py [--seeds N] [--steps N] [--arms NAME ...] [--out DIR]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from arrol.records.schema import EndRecord
from arrol.records.store import RecordWriter
from arrol.tasks.arithmetic import ArithmeticTask
from trl_arms import GROUP, LENGTH, MODEL, Journal, build_callback, parse_args, run_arms, run_record

PROMPTS = 8
PRUNING = {"keep_ratio": 0.5, "probe_tokens": [16], "warmup_steps": 2}
NEVER: dict[str, Any] = {"rule": "never", "probe_tokens": [16]}
ARMS: dict[str, dict[str, Any]] = {
    "never": NEVER,
    "uniform": {"rule": "uniform", **PRUNING},
    "neyman": {"rule": "neyman", "scope": "batch", **PRUNING},
    "dapo": {**NEVER, "allocation": "dapo"},
    "dapo_neyman": {"rule": "neyman", "scope": "batch", "allocation": "dapo", **PRUNING},
    "small_group": NEVER,
}
HALF = {"uniform", "neyman", "dapo_neyman", "small_group"}
"""Arms with half as many samples in a step."""


class AsyncJournal(Journal):
    """Tokens as they are written and as the trainer reads them; batches and steps do not coincide."""

    tokens_generated = tokens_read = 0.0

    def watch(self, worker: Any) -> None:
        """Count what passes between worker and trainer."""
        put_metrics, get_sample = worker.metrics_queue.put, worker.rollout_buffer.get

        def put(metrics: dict[str, float]) -> None:
            self.tokens_generated += metrics["arrol/tokens/generated"]
            put_metrics(metrics)

        def get(*args: Any, **options: Any) -> Any:
            sample = get_sample(*args, **options)
            self.tokens_read += float(sample.completion_mask.sum())
            return sample

        worker.metrics_queue.put, worker.rollout_buffer.get = put, get

    def step(self, number: int, seconds: float, ours: dict[str, float]) -> None:
        self.seen_tokens = int(self.tokens_read)
        super().step(number, seconds, {**ours, "arrol/tokens/generated": self.tokens_generated})
        self.tokens_generated = self.tokens_read = 0.0

    def evaluate(self, model: Any, step: int) -> None:
        """Of a copy of the model without TRL's attention, which needs the packing of a training step."""
        plain = AutoModelForCausalLM.from_pretrained(
            MODEL, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
        plain.load_state_dict(model.state_dict())
        super().evaluate(plain, step)


def run_arm(arm: str, seed: int, flags: argparse.Namespace, folder: Path, command: Sequence[str]) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from transformers.trainer_callback import PrinterCallback
    from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer

    from arrol.integrations.trl import LocalPolicy, PrunedRolloutWorker, on_cpu

    tokenizer = AutoTokenizer.from_pretrained(MODEL, padding_side="left", trust_remote_code=False)
    task = ArithmeticTask(tokenizer, min_ops=1, max_ops=5, seed=seed)
    found = [task.train_prompt(position) for position in range(4 * PROMPTS * flags.steps)]
    data = Dataset.from_list([{"prompt": p.text, "answer": p.answer} for p in found])
    args = AsyncGRPOConfig(
        tempfile.mkdtemp(),
        num_generations=GROUP // 2 if arm == "small_group" else GROUP,
        per_device_train_batch_size=PROMPTS * GROUP // (8 if arm in HALF else 4),
        gradient_accumulation_steps=4,
        max_completion_length=LENGTH,
        max_steps=flags.steps,
        max_staleness=1,
        token_budget=0,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )
    with RecordWriter(folder / f"{arm}-{seed}" / "records.jsonl") as writer:
        journal = AsyncJournal(writer, task, tokenizer, seed, flags.eval_prompts)
        writer.write(run_record("trl-async", arm, seed, {**args.to_dict(), **ARMS[arm]}, flags, command, PROMPTS))
        policy = LocalPolicy(MODEL)
        options = {"engine": policy.engine, "prompts_per_batch": PROMPTS, **ARMS[arm]}
        worker = PrunedRolloutWorker(MODEL, args, data, journal.reward, tokenizer, **options)
        journal.watch(worker)
        with on_cpu():
            trainer = AsyncGRPOTrainer(
                MODEL,
                args=args,
                train_dataset=data,
                processing_class=tokenizer,
                rollout_worker=worker,
                weight_transfer=policy,
                callbacks=[worker, build_callback(journal, flags.steps, flags.eval_every)],
            )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        writer.write(EndRecord(step=flags.steps, outcome="finished", totals=journal.totals))


if __name__ == "__main__":
    run_arms(run_arm, parse_args(__doc__, list(ARMS), Path("results/trl-async")))
