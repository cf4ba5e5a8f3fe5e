"""TRL alone, with uniform pruning and with our best rule: same model, prompts, seeds and optimiser, in TRL's trainer.

Arms, each a run of its own with a learning curve on held-out prompts, in the format of ``arrol compare``:

* ``trl``          TRL's trainer and generation, nothing of ours
* ``never``        control: our trainer, decode loop and head, no rollout stopped
* ``uniform``      control: every candidate has the same survival
* ``neyman``       our best rule, doubly robust
* ``plain``        the same rule under TRL's own advantages of the survivors (correction ``plain``)
* ``small_group``  control: TRL alone with as few rollouts as survive

A step's time runs from its beginning to its end in TRL's callbacks, evaluation apart. ``tokens/trained`` counts the
completions that the reward functions saw. Needs the environment of ``make trl-env``.

    OMP_NUM_THREADS=1 python benchmarks/trl_arms.py [--seeds N] [--steps N] [--arms NAME ...] [--out FOLDER] [--smoke]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.evaluation.runner import Amount, eval_record, sample_prompts
from arrol.records.schema import EndRecord, RunRecord, StepRecord
from arrol.records.store import RecordWriter, provenance
from arrol.tasks.arithmetic import ArithmeticTask
from arrol.types import SamplingParams

MODEL = "models/arithmetic-base"
PROMPTS, GROUP, LENGTH = 16, 16, 112
EVAL_EVERY, EVAL_PROMPTS = 4, 200
PRUNING = {"keep_ratio": 0.5, "probe_tokens": [16], "pruning_warmup_steps": 2}
ARMS: dict[str, dict[str, Any]] = {
    "trl": {"rule": "never"},
    "never": {"rule": "never", "rule_options": {"observe": True}, **PRUNING},
    "uniform": {"rule": "uniform", **PRUNING},
    "neyman": {"rule": "neyman", "rule_options": {"scope": "batch"}, **PRUNING},
    "plain": {"rule": "neyman", "rule_options": {"scope": "batch"}, "correction": "plain", **PRUNING},
    "small_group": {"rule": "never", "num_generations": 10},
}


class Journal:
    """One arm and seed: its rows, from what TRL's callbacks and reward functions show."""

    def __init__(self, writer: RecordWriter, task: ArithmeticTask, tokenizer: Any, seed: int, prompts: int) -> None:
        self.writer, self.task, self.tokenizer, self.seed, self.prompts = writer, task, tokenizer, seed, prompts
        self.seen_tokens = self.seen_right = self.seen = 0
        self.totals: dict[str, float] = {}

    def reward(self, completions: list[str], completion_ids: list[list[int]], answer: list[str], **rest: Any) -> Any:
        """TRL's reward function: our verifier, and a count of what it is shown."""
        rewards = [self.task.verifier.verify(text, gold).reward for text, gold in zip(completions, answer, strict=True)]
        self.seen_tokens += sum(map(len, completion_ids))
        self.seen_right += sum(rewards)
        self.seen += len(rewards)
        return rewards

    def evaluate(self, model: Any, step: int) -> None:
        """Greedy answers to held-out prompts by our engine: the same for every arm."""
        params = SamplingParams(LENGTH, 0.0, stop_token_ids=(self.tokenizer.eos_token_id,))
        engine = EmbeddedEngine(model, EngineConfig())
        written = sample_prompts(engine, self.task, self.tokenizer, params, Amount(self.prompts, 1, self.seed))
        self.writer.write(eval_record(written, step=step))

    def step(self, number: int, seconds: float, ours: dict[str, float]) -> None:
        """A training step has ended; ``ours`` are the metrics under ``arrol/``, empty for TRL alone."""
        mine = {
            "time/step_s": seconds,
            "tokens/generated": float(self.seen_tokens),
            "rollout/success_frac_after": self.seen_right / max(self.seen, 1),
            **{key.removeprefix("arrol/"): value for key, value in ours.items()},
            "tokens/scored": 0.0,
            "tokens/trained": float(self.seen_tokens),
        }
        self.seen_tokens = self.seen_right = self.seen = 0
        for key in ("tokens/generated", "tokens/scored", "tokens/trained"):
            self.totals[key] = self.totals.get(key, 0.0) + mine[key]
        self.writer.write(StepRecord(step=number, metrics=mine))


def build_callback(journal: Journal, steps: int, every: int) -> Any:
    """Clock, rows and evaluations around the steps of a trainer of TRL."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
            journal.evaluate(model, 0)

        def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.began = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.seconds = time.monotonic() - self.began

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, model: Any = None, **rest: Any) -> None:
            if "loss" not in logs:  # the summary at the end
                return
            journal.step(state.global_step, self.seconds, {k: v for k, v in logs.items() if k.startswith("arrol/")})
            if state.global_step % every == 0 or state.global_step == steps:
                journal.evaluate(model, state.global_step)

    return Watch()


def run_arm(arm: str, seed: int, flags: argparse.Namespace, folder: Path, command: Sequence[str]) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.trainer_callback import PrinterCallback

    from arrol.integrations.trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(MODEL, padding_side="left", trust_remote_code=False)
    task = ArithmeticTask(tokenizer, min_ops=1, max_ops=5, seed=seed)
    found = [task.train_prompt(position) for position in range(PROMPTS * flags.steps)]
    options = {"num_generations": GROUP, **ARMS[arm]}
    rows = PROMPTS * options["num_generations"]
    args = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=rows // 4,
        gradient_accumulation_steps=4,
        max_completion_length=LENGTH,
        max_steps=flags.steps,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        loss_type="dr_grpo",
        scale_rewards="none",
        shuffle_dataset=False,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        **options,
    )
    with RecordWriter(folder / f"{arm}-{seed}" / "records.jsonl") as writer:
        journal = Journal(writer, task, tokenizer, seed, flags.eval_prompts)
        writer.write(run_record("trl", arm, seed, args.to_dict(), flags, command, PROMPTS))
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(
                MODEL, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
            ),
            reward_funcs=journal.reward,
            args=args,
            train_dataset=Dataset.from_list([{"prompt": p.text, "answer": p.answer} for p in found]),
            processing_class=tokenizer,
            callbacks=[build_callback(journal, flags.steps, flags.eval_every)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        writer.write(EndRecord(step=flags.steps, outcome="finished", totals=journal.totals))


def run_record(
    name: str,
    arm: str,
    seed: int,
    args: dict[str, Any],
    flags: argparse.Namespace,
    command: Sequence[str],
    prompts: int,
) -> RunRecord:
    """Of a run with these arguments of the trainer and ``prompts`` in a step."""
    import trl

    made = provenance(command, (seed,))
    config = {
        "model": MODEL, "trl": trl.__version__, "prompts_per_step": prompts, "eval_prompts": flags.eval_prompts,
        **{key: value for key, value in args.items() if key not in ("output_dir", "logging_dir", "run_name")},
    }  # fmt: skip
    return RunRecord(
        run_id=f"{name}-{arm}-{seed}", name=name, arm=arm, seed=seed, command=made.command, commit=made.commit,
        dirty=made.dirty, versions={**made.versions, "trl": trl.__version__}, device=made.device, config=config,
        started_at=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    )  # fmt: skip


def parse_args(doc: str | None, arms: Sequence[str], out: Path) -> argparse.Namespace:
    """Flags of a script with these arms."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--arms", nargs="+", choices=arms, default=list(arms))
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--smoke", action="store_true", help="two steps and one seed: proves that the script runs")
    flags = parser.parse_args()
    flags.eval_every, flags.eval_prompts = EVAL_EVERY, EVAL_PROMPTS
    if flags.smoke:
        flags.seeds, flags.steps, flags.eval_prompts = 1, 2, 8
    return flags


def run_arms(run: Callable[..., None], flags: argparse.Namespace) -> None:
    """Arms in turn within a seed: a slow quarter of an hour hits all of them."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # TRL's and transformers', about their own future
    for seed in range(flags.seeds):
        for arm in flags.arms:
            run(arm, seed, flags, flags.out, sys.argv)
            print(f"{arm} {seed} done", flush=True)


if __name__ == "__main__":
    run_arms(run_arm, parse_args(__doc__, list(ARMS), Path("results/trl")))
