"""Train on rows and a reward of your own, from Python: a script or a notebook. Under a minute on one core.

    python examples/10_from_python.py

Expected: eight steps, one line each, then the last metrics of the run. Everything else is as with `arrol train`: the
run's folder has records, checkpoints and a report.
"""

import random

import arrol

rng = random.Random(0)
numbers = [[rng.randint(2, 99) for _ in range(3)] for _ in range(96)]
rows = [{"prompt": f"{a}+{b}-{c}=", "gold": str(a + b - c)} for a, b, c in numbers]


def correct(completions: list[str], gold: list[str], **columns: object) -> list[float]:
    """1.0 where the text behind the last # is the cell of the column `gold`, else 0.0."""
    return [float(text.split("#")[-1].strip() == answer) for text, answer in zip(completions, gold, strict=True)]


config = {
    "name": "from-python",
    "model": "models/arithmetic-base",  # for example "Qwen/Qwen3-1.7B"
    "sampling": {"max_completion_tokens": 96},
    "pruning": {"rule": "neyman", "keep_ratio": 0.5, "probe_tokens": [16], "warmup_steps": 2},
    "training": {"steps": 8, "prompts_per_step": 4, "group_size": 16},
    "optimizer": {"learning_rate": 1e-4},
    "evaluation": {"num_prompts": 32},
}

run = arrol.train(config, task={"train": rows[:64], "test": rows[64:]}, reward=correct)
print(run.frame()[["reward/mean", "pruning/kept_frac"]].tail(3))
print(f"accuracy {run.evals[0].accuracy:.2f} -> {run.evals[-1].accuracy:.2f}, in {run.folder}")
