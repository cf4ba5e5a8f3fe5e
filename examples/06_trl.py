"""TRL with pruning: one import and the fields of pruning change; everything else below is TRL.

    python examples/06_trl.py                          # half of the rollouts stopped at token 16, one minute on a CPU
    python examples/06_trl.py --rule never             # TRL alone, bit for bit
    python examples/06_trl.py --write-data runs/arithmetic-data      # the same prompts as a dataset for arrol grpo
    arrol grpo --config configs/trl-arithmetic.yaml

Needs ``pip install '.[trl]'``, or ``make trl-env``. Expected: about half of the candidates stopped after two steps,
and a reward that rises (it is a mean over survivors, see docs/trl.md); TRL alone takes about twice as long.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset

from arrol.integrations.rewards import integer_reward
from arrol.integrations.trl import GRPOConfig, GRPOTrainer  # was: from trl import GRPOConfig, GRPOTrainer
from arrol.tasks.arithmetic import ArithmeticTask
from arrol.training.policy import load_tokenizer

MODEL = Path(__file__).parents[1] / "models" / "arithmetic-base"


def prompts(count: int) -> Dataset:
    """Columns ``prompt`` and ``answer``, such as ``47+85-19*3=`` and ``39``."""
    task = ArithmeticTask(load_tokenizer(str(MODEL)), min_ops=1, max_ops=5, seed=0)
    found = [task.train_prompt(position) for position in range(count)]
    return Dataset.from_list([{"prompt": prompt.text, "answer": prompt.answer} for prompt in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rule", default="neyman")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--write-data", metavar="DIR", type=Path)
    flags = parser.parse_args()
    if flags.write_data:
        flags.write_data.mkdir(parents=True, exist_ok=True)
        rows = prompts(512).to_list()
        (flags.write_data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return
    torch.set_num_threads(1)
    trainer = GRPOTrainer(
        model=str(MODEL),
        reward_funcs=integer_reward,
        args=GRPOConfig(
            output_dir="runs/trl",
            rule=flags.rule,
            keep_ratio=0.5,
            probe_tokens=[16],
            pruning_warmup_steps=2,
            per_device_train_batch_size=64,
            gradient_accumulation_steps=4,
            num_generations=16,
            max_completion_length=112,
            max_steps=flags.steps,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            loss_type="dr_grpo",
            scale_rewards="none",
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            logging_steps=2,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=prompts(16 * flags.steps),
    )
    trainer.train()


if __name__ == "__main__":
    main()
