"""Lengths and success of a config's model on its training prompts: what a step waits for, and which prompts teach.

A step is ``prompts_per_step`` prompts of ``group_size`` rollouts, at the config's own temperature and length limit; it
lasts as many decode steps as its longest rollout has tokens. Nothing is trained or pruned.

    OMP_NUM_THREADS=1 python benchmarks/rollout_lengths.py CONFIG OUT [--prompts N] [--rollouts N]
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch

from arrol import assembly
from arrol.configs.run import RunConfig, load_run
from arrol.records.schema import EndRecord, EvalRecord
from arrol.records.store import RecordWriter, provenance
from arrol.stats import accuracy_with_interval
from arrol.training.policy import load_policy, load_tokenizer, resolve_device, stop_token_ids
from arrol.types import GroupRequest, SamplingParams

HARD, EASY = 0.06, 0.9
"""Success rates below and above which a prompt seldom teaches."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", help="TOML file of a run")
    parser.add_argument("out", help="records; refused where it exists")
    parser.add_argument("--prompts", type=int, default=48, help="training prompts (default 48)")
    parser.add_argument("--rollouts", type=int, default=32, help="rollouts per prompt (default 32)")
    flags = parser.parse_args()
    config = load_run(flags.config)
    torch.set_num_threads(1)
    reward_PG, tokens_PG = rollouts(config, flags.prompts, flags.rollouts)
    accuracy, low, high = accuracy_with_interval(reward_PG)
    metrics = length_figures(tokens_PG, config) | success_figures(reward_PG)
    with RecordWriter(flags.out) as records:
        here = provenance(sys.argv, [config.seed])
        dumped = config.model_dump(mode="json")
        records.write(here.run_record(name=config.name, arm="rollouts", seed=config.seed, config=dumped))
        records.write(
            EvalRecord(
                step=0, accuracy=accuracy, low=low, high=high, num_prompts=flags.prompts,
                samples_per_prompt=flags.rollouts, metrics=metrics,
            )
        )  # fmt: skip
        records.write(EndRecord(step=0, outcome="finished"))
    print("\n".join(f"{key}: {value:.3f}" for key, value in {"accuracy": accuracy, **metrics}.items()))


def rollouts(config: RunConfig, num_prompts: int, num_rollouts: int) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and completion tokens of the first training prompts, both float64 ``[P, G]``."""
    model = load_policy(config.model, resolve_device(config.device))
    tokenizer = load_tokenizer(config.model)
    task = assembly.build_task(config.task, tokenizer, seed=config.seed)
    params = SamplingParams(
        config.sampling.max_completion_tokens,
        temperature=config.sampling.temperature,
        stop_token_ids=stop_token_ids(model, tokenizer),
    )
    requests = [GroupRequest(0, number, task.train_prompt(number), num_rollouts) for number in range(num_prompts)]
    groups = assembly.build_engine(config, model).generate(requests, params, seed=config.seed)
    texts = [[tokenizer.decode(one.token_ids, skip_special_tokens=True) for one in group] for group in groups]
    reward_PG = [
        [task.submit(request.prompt, text)().reward for text in written]
        for request, written in zip(requests, texts, strict=True)
    ]
    return np.array(reward_PG, float), np.array([[one.num_tokens for one in group] for group in groups], float)


def length_figures(tokens_PG: np.ndarray, config: RunConfig) -> dict[str, float]:
    """Spread of lengths, and the share of decode steps that run for the longest tenth of a step's rollouts alone."""
    size, per_step = config.training.group_size, config.training.prompts_per_step
    steps = [
        tokens_PG[first : first + per_step, start : start + size].ravel()
        for first in range(0, len(tokens_PG) - per_step + 1, per_step)
        for start in range(0, tokens_PG.shape[1] - size + 1, size)
    ]
    longest = np.array([step.max() for step in steps])
    ninth = np.array([np.quantile(step, 0.9) for step in steps])
    return {
        "tokens/mean": float(tokens_PG.mean()),
        "tokens/median": float(np.median(tokens_PG)),
        "tokens/quantile_90": float(np.quantile(tokens_PG, 0.9)),
        "tokens/max": float(tokens_PG.max()),
        "tokens/variation": float(tokens_PG.std() / tokens_PG.mean()),
        "tokens/at_limit_frac": float((tokens_PG >= config.sampling.max_completion_tokens).mean()),
        "steps/longest_tenth_frac": float((longest - ninth).sum() / longest.sum()),
        "steps/count": float(len(steps)),
    }


def success_figures(reward_PG: np.ndarray) -> dict[str, float]:
    """Shares of prompts by success."""
    rate_P = reward_PG.mean(1)
    return {
        "prompts/hard_frac": float((rate_P < HARD).mean()),
        "prompts/teaching_frac": float(((rate_P >= HARD) & (rate_P <= EASY)).mean()),
        "prompts/never_frac": float((rate_P == 0).mean()),
        "prompts/success_std": float(rate_P.std()),
    }


if __name__ == "__main__":
    main()
