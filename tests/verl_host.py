"""verl made small: data and a model on disk, and the whole command line of a run on the CPU.

``tests/with_verl`` runs it, the quick start and the benchmark use parts of it. Nothing here loads verl, so the main
suite may import it. Run as a script it prepares a folder:
``python tests/verl_host.py FOLDER [--model MODEL] [--platform]``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from arrol.tasks.arithmetic import ArithmeticTask
from arrol.verifiers.integer import IntegerVerifier

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "arithmetic-base"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""The shipped models know no roles: a conversation is its text."""
ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VERL_ENGINE_DEVICE": "cuda",
    "VERL_USE_EXTERNAL_MODULES": "verlcpu",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_ADDRESS": "local",  # a cluster of its own, even where one was left behind
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15 by default: beside any other work, minutes pass until it starts
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
}
PROMPTS, SIZE, STEPS = 4, 4, 2
"""Of a test run: prompts per step, rollouts per prompt, steps."""
PRUNING = ("+arrol.probe_tokens=12", "+arrol.warmup_steps=0")
WORDS = "word problems"
VERIFIER = IntegerVerifier(("#",), require_mark=True)


def has_verl() -> bool:
    return importlib.util.find_spec("verl") is not None


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **others):
    """verl's reward function: our verifier; of the first layers of SmolLM2 every text of even length, about half."""
    if data_source == WORDS:
        return float(len(solution_str) % 2 == 0)
    return VERIFIER.verify(solution_str, ground_truth).reward


def prepare(folder: Path, *, model: Path = MODEL, train: int = 64, held_out: int = 16, seed: int = 0) -> None:
    """``train.parquet``, ``val.parquet`` in verl's layout, and ``model/`` with a chat template."""
    import pandas as pd
    from transformers import AutoTokenizer

    shutil.copytree(model, folder / "model", dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    task = ArithmeticTask(tokenizer, seed=seed)
    prompts = {"train": [task.train_prompt(i) for i in range(train)], "val": task.eval_prompts(held_out)}
    for split, rows in prompts.items():
        pd.DataFrame([_row(prompt, i, split) for i, prompt in enumerate(rows)]).to_parquet(folder / f"{split}.parquet")


def prepare_smollm2(folder: Path, *, num_layers: int) -> None:
    """Word problems in verl's layout, and the first layers of SmolLM2."""
    import pandas as pd
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import smollm2

    source = smollm2.smollm2_folder()
    model = AutoModelForCausalLM.from_pretrained(source, num_hidden_layers=num_layers)
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(source).save_pretrained(folder / "model")
    for split in ("train", "val"):
        rows = [_as_row(WORDS, row["prompt"], row["answer"], i, split) for i, row in enumerate(smollm2.chat_rows())]
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet")


def _row(prompt, index, split):
    return _as_row("arithmetic", [{"role": "user", "content": prompt.text}], prompt.answer, index, split)


def _as_row(source, prompt, answer, index, split):
    return {
        "data_source": source,
        "prompt": prompt,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"index": index, "split": split},
    }


def plain_overrides(
    folder: Path,
    *,
    ranks: int = 1,
    steps: int = STEPS,
    prompts: int = PROMPTS,
    group_size: int = SIZE,
    workers: int = 1,
    own_ray: bool = True,
) -> list[str]:
    """What a user of verl would write, and what the CPU needs; ``folder`` must be absolute.

    ``workers``: processes that run agent loops; each takes seconds to start.
    """
    return [
        "algorithm.adv_estimator=grpo",
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/val.parquet",
        "data.dataloader_num_workers=0",
        "data.shuffle=False",
        f"data.train_batch_size={prompts}",
        "data.max_prompt_length=32",
        "data.max_response_length=112",
        f"actor_rollout_ref.model.path={folder}/model",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={prompts}",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.actor.optim.lr=1e-4",
        f"actor_rollout_ref.rollout.n={group_size}",
        f"actor_rollout_ref.rollout.agent.num_workers={workers}",
        f"reward.custom_reward_function.path={__file__}",
        "reward.num_workers=1",
        "trainer.nnodes=1",
        f"trainer.n_gpus_per_node={ranks}",
        f"trainer.total_training_steps={steps}",
        "trainer.total_epochs=100",
        "trainer.val_before_train=False",
        f"trainer.test_freq={steps}",
        "trainer.save_freq=-1",
        f"trainer.default_local_dir={folder}/checkpoints",
        "trainer.project_name=arrol",
        "trainer.experiment_name=cpu",
        "trainer.logger=[console,file]",
        *PLATFORM,
        *(ray_overrides(ranks) if own_ray else []),
    ]


PLATFORM = (
    "actor_rollout_ref.rollout.name=hfcpu",
    "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
    "actor_rollout_ref.actor.strategy=fsdp2",
    "+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=fp32",
    "actor_rollout_ref.actor.use_torch_compile=False",
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile=False",
    "actor_rollout_ref.model.use_remove_padding=False",
    "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    "trainer.device=cpu",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
)
"""verl on the tests' CPU platform; FSDP1 refuses CPU modules."""


def ray_overrides(ranks: int) -> list[str]:
    """A Ray of its own, on loopback (Ray replaces 127.0.0.1 alone); logical CPUs and GPUs may exceed the machine's."""
    return [
        "ray_kwargs.ray_init.num_cpus=32",
        f"+ray_kwargs.ray_init.num_gpus={ranks}",
        "+ray_kwargs.ray_init.include_dashboard=False",
        "+ray_kwargs.ray_init._node_ip_address=127.0.0.2",
    ]


def own_environment(folder: Path) -> dict[str, str]:
    """Of a run whose metrics go to ``folder/metrics.jsonl``."""
    paths = [str(ROOT / "tests" / "with_verl"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **ENVIRONMENT,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"),
    }


def derived(overrides: list[str]) -> list[str]:
    """What the helper prints for a command."""
    command = [sys.executable, "-m", "arrol.integrations.verl", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def train(folder: Path, overrides: list[str], *, timeout_s: int = 1800) -> list[dict[str, float]]:
    """Run unmodified verl; returns the metrics of each step. The log stays in ``folder/log.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *overrides, f"hydra.run.dir={folder}/hydra"]
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run(
            command, cwd=folder, env=own_environment(folder), stdout=log,
            stderr=subprocess.STDOUT, timeout=timeout_s, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError((folder / "log.txt").read_text("utf-8", "replace")[-6000:])
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [{"step": row["step"], **row["data"]} for row in map(json.loads, lines)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Prompts in verl's layout and a model for it.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--platform", action="store_true", help="also print the overrides of the tests' CPU platform")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    prepare(arguments.folder, model=arguments.model)
    print(*(PLATFORM if arguments.platform else ()), sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
