"""verl with pruning, compared with verl alone: same model, prompts, seeds and steps, with every control of the method.

Arms: ``verl`` (nothing of ours), ``small_group`` (nothing of ours, as few rollouts as survive), ``uniform`` and
``neyman`` (half of each group stopped at the probe; the correction is ``plain``, verl's own advantages of survivors).
Each arm and seed is a run of unmodified ``python -m verl.trainer.main_ppo`` on the tests' CPU platform, and leaves
``OUT/ARM-SEED/records.jsonl``: a ``RunRecord``, a ``StepRecord`` per step and an ``EvalRecord`` per validation.

What its times say: the server of the CPU platform decodes one request at a time, so ``time/generate_s`` grows with the
tokens; verl polls for finished groups every 2 s, so it comes in steps of 2 s. Compare tokens and accuracy here, and
times on a GPU.

    make verl-env
    .venv-verl/bin/python benchmarks/verl_arms.py [--steps N] [--seeds N] [--out FOLDER] [--smoke]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import verl_host
from arrol.records.schema import EndRecord, EvalRecord, StepRecord
from arrol.records.store import RecordWriter, provenance
from arrol.stats import wilson_interval

ARMS = ("verl", "small_group", "uniform", "neyman")
COPIED = {
    "time/step_s": "timing_s/step",
    "time/generate_s": "timing_s/gen",
    "time/learn_s": "timing_s/update_actor",
    "rollout/success_frac_after": "critic/score/mean",
    "loss/grad_norm": "actor/grad_norm",
}
"""Our name of a metric, verl's."""
ACCURACY = "val-core/arithmetic/acc/mean@"


def overrides(arm: str, folder: Path, data: Path, seed: int, args: argparse.Namespace) -> list[str]:
    """The command line of one arm."""
    size = args.group_size // 2 if arm == "small_group" else args.group_size
    common = [
        *verl_host.plain_overrides(data, steps=args.steps, prompts=args.prompts, group_size=size),
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.test_freq={args.eval_every}",
        "trainer.val_before_train=True",
        f"actor_rollout_ref.actor.optim.lr={args.learning_rate}",
        f"actor_rollout_ref.actor.data_loader_seed={seed}",
        f"actor_rollout_ref.rollout.seed={seed}",
        f"actor_rollout_ref.rollout.val_kwargs.n={args.eval_samples}",
        "actor_rollout_ref.rollout.val_kwargs.do_sample=True",
        "actor_rollout_ref.rollout.val_kwargs.temperature=1.0",
        "actor_rollout_ref.actor.use_dynamic_bsz=True",
        "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True",
    ]
    if arm not in ("uniform", "neyman"):
        return common
    pruning = [f"+arrol.rule={arm}", f"+arrol.probe_tokens={args.probe_tokens}", f"+arrol.warmup_steps={args.warmup}"]
    return common + pruning + verl_host.derived(common + pruning)


def step_metrics(row: dict[str, Any], rollouts: int) -> dict[str, float]:
    """One step in our names; without pruning, every rollout is a survivor and every token was trained on."""
    values = {mine: float(row[theirs]) for mine, theirs in COPIED.items() if theirs in row}
    ours = {key.removeprefix("arrol/"): float(value) for key, value in row.items() if key.startswith("arrol/")}
    if not ours:
        ours = {"tokens/generated": row["response_length/mean"] * rollouts, "rollout/survivors_frac": 1.0}
    trained = row["response_length/mean"] * rollouts * ours["rollout/survivors_frac"]
    return {**ours, **values, "tokens/trained": trained}


def evaluation(row: dict[str, Any], prompts: int) -> EvalRecord | None:
    """Held-out accuracy, where this step was validated."""
    found = [(key, value) for key, value in row.items() if key.startswith(ACCURACY)]
    if not found:
        return None
    key, accuracy = found[0]
    samples = int(key.removeprefix(ACCURACY))
    low, high = wilson_interval(accuracy * prompts * samples, prompts * samples)
    return EvalRecord(
        step=int(row["step"]), accuracy=accuracy, low=low, high=high, num_prompts=prompts, samples_per_prompt=samples
    )


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Train, write the records, return what the table shows."""
    out = Path(args.out) / f"{arm}-{seed}" / "records.jsonl"
    out.unlink(missing_ok=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        verl_host.prepare(folder, train=args.prompts * args.steps, held_out=args.eval_prompts, seed=seed)
        os.environ["VERLCPU_SEED"] = str(seed)
        rows = verl_host.train(folder / "run", overrides(arm, folder, folder, seed, args), timeout_s=args.timeout_s)
    size = args.group_size // 2 if arm == "small_group" else args.group_size
    config = {key: value for key, value in vars(args).items() if key != "out"}
    config |= {name: metadata.version(name) for name in ("verl", "ray")}
    steps = [StepRecord(step=int(r["step"]), metrics=step_metrics(r, args.prompts * size)) for r in rows if r["step"]]
    evals = [record for row in rows if (record := evaluation(row, args.eval_prompts))]
    made = provenance(sys.argv, (seed,)).run_record(name="verl-arms", arm=arm, seed=seed, config=config)
    totals = {"tokens/generated": sum(step.metrics["tokens/generated"] for step in steps)}
    with RecordWriter(out) as writer:
        for record in [made, *steps, *evals, EndRecord(step=args.steps, outcome="finished", totals=totals)]:
            writer.write(record)
    last = steps[-1].metrics
    return {
        "step s": sum(step.metrics["time/step_s"] for step in steps[1:] or steps) / len(steps[1:] or steps),
        "tokens": totals["tokens/generated"],
        "survivors": last["rollout/survivors_frac"] * args.prompts * size,
        "reward": last["rollout/success_frac_after"],
        "first acc": evals[0].accuracy,
        "last acc": evals[-1].accuracy,
        "wall s": time.monotonic() - begun,
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {
        "steps": 100, "seeds": 5, "prompts": 16, "group-size": 8, "probe-tokens": 12, "warmup": 10, "eval-every": 25,
        "eval-prompts": 64, "eval-samples": 4, "timeout-s": 7200,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--out", default="results/verl-arms")
    parser.add_argument("--smoke", action="store_true", help="two small steps per arm, one seed: proves that it runs")
    args = parser.parse_args(arguments)
    if args.smoke:
        small = {"steps": 2, "seeds": 1, "prompts": 4, "group_size": 4, "warmup": 0, "eval_every": 2}
        vars(args).update(small | {"eval_prompts": 8, "eval_samples": 1})
    return args


def main() -> None:
    args = parse()
    print(f"{'arm':12} {'seed':>4} " + "  ".join(f"{name:>9}" for name in TABLE))
    for seed in range(args.seeds):
        for arm in args.arms:
            row = run_arm(arm, seed, args)
            print(f"{arm:12} {seed:4d} " + "  ".join(f"{row[name]:9.3f}" for name in TABLE), flush=True)


TABLE = ("step s", "tokens", "survivors", "reward", "first acc", "last acc", "wall s")

if __name__ == "__main__":
    main()
