"""TRL's asynchronous trainer made small: the model of ``trl_host`` as a folder, rollouts written in this process."""

import warnings

import torch

import trl_host

SETTINGS = {
    "per_device_train_batch_size": 16,
    "num_generations": 8,
    "max_completion_length": 24,
    "max_steps": 3,
    "learning_rate": 1e-3,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "seed": 7,
    "token_budget": 0,
    "max_staleness": 1,
}
PRUNING = {
    "rule": "uniform",
    "probe_tokens": [6],
    "warmup_steps": 1,
    "quality": {"hidden_size": 8, "min_class_records": 4},
}


def model_folder(path):
    """The tiny model with its tokenizer."""
    model, tokenizer = trl_host.model_and_tokenizer()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def config(out, **changes):
    from trl.experimental.async_grpo import AsyncGRPOConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AsyncGRPOConfig(str(out), **{**SETTINGS, **changes})


def tokenizer_of(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def worker_of(folder, args, reward_funcs=trl_host.has_digit, *, policy=None, rows=None, **options):
    """A worker over the policy of this process."""
    from arrol.integrations.trl import LocalPolicy, PrunedRolloutWorker

    torch.set_num_threads(1)
    policy = policy or LocalPolicy(folder)
    options = {name: value for name, value in {**PRUNING, **options}.items() if value is not None}
    data = trl_host.dataset() if rows is None else rows
    return PrunedRolloutWorker(
        folder, args, data, reward_funcs, tokenizer_of(folder), engine=policy.engine, **options
    ), policy


def trainer_of(folder, args, worker, weight_transfer, callbacks=None):
    from trl.experimental.async_grpo import AsyncGRPOTrainer

    from arrol.integrations.trl import on_cpu

    with on_cpu():
        return AsyncGRPOTrainer(
            folder,
            args=args,
            train_dataset=trl_host.dataset(),
            processing_class=tokenizer_of(folder),
            rollout_worker=worker,
            weight_transfer=weight_transfer,
            callbacks=[worker] if callbacks is None else callbacks,
        )


def trained(folder, out, *, settings=None, **options):
    """A trainer that has ended, and its worker."""
    args = config(out, **(settings or {}))
    worker, policy = worker_of(folder, args, **options)
    host = trainer_of(folder, args, worker, policy)
    host.train()
    return host, worker
