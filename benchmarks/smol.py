"""SmolLM2-135M, a real pretrained model: a short supervised start, a pool, the advice, and training with rule ``auto``.

As it comes the model solves next to nothing, so it first learns short worked solutions of GSM8K and SVAMP. Then

* ``pool``   48 prompts x 32 rollouts of GSM8K and SVAMP, gradients of the last layer; record ``results/lab-smollm2``
* ``advise`` what the pool says, as a user reads it
* ``train``  15 steps each of ``auto``, of GRPO at the advised and at twice the advised group size, and of allocation
             ``neyman`` at the advised one, equal rollouts

A stage goes on from what lies in ``--out``; nothing of the model is committed. ``--data`` is a folder
with ``gsm8k/train.jsonl`` and ``svamp/`` (train.jsonl, else test.jsonl); without it the hub's copies are read.

    OMP_NUM_THREADS=1 python benchmarks/smol.py [STAGE ...] [--data FOLDER] [--out build/smol] [--group-size N]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from datasets import load_dataset

from arrol.lab.pool import Pool
from arrol.records.schema import PoolRecord
from arrol.records.store import read_records
from lab_pools import auto_designs, designs, write_designs

ROOT = Path(__file__).parents[1]
STAGES = ("sft", "pool", "advise", "train")
HUB = {"gsm8k": ("openai/gsm8k", "main"), "svamp": ("ChilleD/SVAMP", None)}
LONGEST = 300
"""Characters of a demonstration's solution."""
POOL = {"prompts": 48, "rollouts": 32}
PROBE, SIZES = 16, (8, 24)
"""Tokens of the probe and group sizes of the designs that are judged on the pool: a usual size, and the best one."""
LENGTH = 96
STEPS, ROLLOUTS = 15, 96
"""Of training; rollouts of a step."""
ARMS = (
    ("auto", 2, "auto", "uniform"),
    ("advised", 1, "never", "uniform"),
    ("twice", 2, "never", "uniform"),
    ("allocation", 1, "never", "neyman"),
)
"""Name, times the advised group size, rule of pruning, rule of allocation."""
SFT = """name = "start"
model = "{model}"
out_dir = "{out}"
demonstrations = "{out}/demonstrations.jsonl"
steps = {steps}
batch_size = 8
bf16 = true
checkpoint_every = 20
save_dtype = "bfloat16"
eval_prompts = 8
max_completion_tokens = {length}

[task]
name = "dataset"
source = "{out}/rows.jsonl"
template = "qa"

[optimizer]
learning_rate = 1e-4
weight_decay = 0.01
schedule = "cosine"
lr_warmup_steps = 10
"""
RUN = """name = "smollm2"
model = "{out}/start/model"
out_dir = "{out}/runs"

[task]
name = "dataset"
source = "{out}/rows.jsonl"
template = "qa"

[sampling]
max_completion_tokens = {length}

[engine]
dtype = "bfloat16"

[pruning]
rule = "never"
probe_tokens = [16, 32, 64]
warmup_steps = 3

[algorithm]
name = "dr_grpo"
correction = "ipw"
importance_cap = 2.0

[training]
bf16 = true
checkpoint_every = 3
steps = {steps}
prompts_per_step = 8
group_size = 8

[optimizer]
learning_rate = 2e-6

[evaluation]
every = {steps}
num_prompts = 128
"""


def rows_of(name: str, data: Path | None) -> Iterator[dict[str, object]]:
    """Raw rows of a data set."""
    if data is None:
        yield from load_dataset(*HUB[name], split="train")
        return
    path = next(path for path in (data / name / "train.jsonl", data / name / "test.jsonl") if path.exists())
    yield from map(json.loads, path.read_text("utf-8").splitlines())


def lesson(name: str, row: dict[str, object]) -> tuple[str, str, str]:
    """Question, worked solution, answer."""
    if name == "gsm8k":
        solution = re.sub(r"<<[^>]*>>", "", str(row["answer"]))
        return str(row["question"]), solution, solution.split("####")[1].strip()
    answer = f"{float(str(row['Answer'])):g}"
    sum_ = re.sub(r"\.0\b", "", str(row["Equation"]))
    return f"{row['Body']}. {row['Question']}", f"{sum_} = {answer}\n#### {answer}", answer


def write_rows(out: Path, data: Path | None) -> None:
    """Every other row is a demonstration. Of the rest, as many rows of each data set train and judge: the model has not
    seen their solutions."""
    shown: list[dict[str, str]] = []
    asked: dict[str, list[dict[str, str]]] = {name: [] for name in HUB}
    for name in HUB:
        for number, row in enumerate(rows_of(name, data)):
            question, solution, answer = lesson(name, row)
            if len(solution) > LONGEST:
                continue
            if number % 2:
                asked[name].append({"question": question, "answer": answer})
            else:
                shown.append({"prompt": f"Question: {question}\nAnswer:", "solution": f" {solution}"})
    fewest = min(map(len, asked.values()))
    mixed = [row for rows in asked.values() for row in sorted(rows, key=_order)[:fewest]]
    for file, rows in (("demonstrations", shown), ("rows", mixed)):
        rows.sort(key=_order)
        (out / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _order(row: dict[str, str]) -> int:
    """A mixed order, the same on every machine."""
    return zlib.crc32(json.dumps(row).encode())


def arrol(*words: str | Path) -> None:
    """One command of arrol."""
    line = [str(word) for word in words]
    print("arrol", *line, flush=True)
    subprocess.run([sys.executable, "-m", "arrol.cli.main", *line], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], default=[], help="default: all")
    parser.add_argument("--data", type=Path, help="folder with gsm8k/ and svamp/; default: the hub")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "smol")
    parser.add_argument("--group-size", type=int, default=24, help="the advised one, for train")
    parser.add_argument("--sft-steps", type=int, default=240)
    flags = parser.parse_args()
    missing = [name for name in HUB if flags.data and not (flags.data / name).is_dir()]
    if missing:
        parser.error(
            f"--data = {str(flags.data)!r}: has no folder {missing[0]}; give a folder with {' and '.join(HUB)}"
        )
    sys.path.insert(0, str(ROOT / "tests"))
    from smollm2 import smollm2_folder

    out, stages = flags.out, flags.stages or STAGES
    out.mkdir(parents=True, exist_ok=True)
    fields = {"out": out, "length": LENGTH}
    (out / "sft.toml").write_text(SFT.format(model=smollm2_folder(), **fields, steps=flags.sft_steps), "utf-8")
    (out / "run.toml").write_text(RUN.format(**fields, steps=STEPS), "utf-8")
    if not (out / "rows.jsonl").exists():
        write_rows(out, flags.data)
    if "sft" in stages and not (out / "start" / "model").exists():
        arrol("sft", out / "sft.toml", *(["--resume"] if (out / "start").exists() else []))
    pool, record = out / "pool.safetensors", ROOT / "results" / "lab-smollm2.jsonl"
    if "pool" in stages:
        sizes = ["--prompts", POOL["prompts"], "--rollouts", POOL["rollouts"], "--parameters", "*layers.29.*"]
        if not pool.exists():
            arrol("lab", out / "run.toml", "--out", pool, *map(str, sizes), "--visits", "1")
        write_designs(out / "designs.toml", [*designs(PROBE, SIZES), *auto_designs(Pool.load(pool), SIZES)])
        arrol("lab", pool, "--designs", out / "designs.toml", "--visits", "32", "--record", record)
    if "advise" in stages:
        arrol("advise", pool, "--plots", out / "plots")
    if "train" in stages:
        for name, times, rule, sizes_by in ARMS:
            size = times * flags.group_size
            words: list[str | int] = ["--resume"] if (out / "runs" / name).exists() else []
            words += ["--training.group_size", size, "--training.prompts_per_step", ROLLOUTS // size]
            words += ["--pruning.rule", rule, "--allocation.rule", sizes_by]
            if rule == "auto":
                facts = next(row for row in read_records(record) if isinstance(row, PoolRecord))
                words += ["--pruning.noise_ratio", f"{facts.metrics['ratio']:.2f}"]
            arrol("train", out / "run.toml", "--name", name, *map(str, words))


if __name__ == "__main__":
    main()
