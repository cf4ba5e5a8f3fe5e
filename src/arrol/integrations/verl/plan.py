"""What a record needs to know of a verl run, from its config. Pure functions, but for the versions of packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from arrol.integrations.records import HostRun, run_config
from arrol.integrations.verl.batch import ACTOR, ROLLOUT, Config, at, data_parallel_ranks, total_steps
from arrol.integrations.verl.options import NAME, VerlOptions
from arrol.integrations.verl.refusals import MODEL

FOLDER = "arrol"
"""Below verl's ``default_local_dir``."""
PACKAGES = ("verl", "ray", "vllm", "sglang", "tensordict")
KEPT = {
    "algorithm": ("adv_estimator", "norm_adv_by_std_in_grpo", "use_kl_in_reward", "gamma", "lam"),
    ACTOR: ("strategy", "loss_agg_mode", "clip_ratio", "use_kl_loss", "kl_loss_coef", "entropy_coeff",
            "ppo_mini_batch_size", "ppo_epochs"),
    f"{ACTOR}.optim": ("lr", "weight_decay", "lr_warmup_steps"),
    ROLLOUT: ("name", "n", "tensor_model_parallel_size", "prompt_length", "response_length"),
    "data": ("train_batch_size", "seed", "shuffle"),
    "trainer": ("project_name", "experiment_name", "nnodes", "n_gpus_per_node", "total_epochs", "test_freq",
                "save_freq"),
}  # fmt: skip
"""Settings of verl that a record keeps, below the first name."""

Scale = Literal["std", "none", "unknown"]
"""How verl scales advantages of a group: divided by the standard deviation of its rewards, not at all, or in a way that
follows from more than uid and reward."""


@dataclass(frozen=True)
class RecordPlan:
    """Where a run is recorded, and what its first row says. The manager sends it to the service's process."""

    folder: Path
    run: HostRun
    step: int
    """Of the checkpoint that verl resumes from; 0 without one."""
    tokenizer: str
    """Folder or name of the tokenizer."""
    trusts_code: bool
    """verl's ``trust_remote_code``."""
    scale: Scale
    validates: bool
    """verl validates after the last step."""


def record_plan(
    config: Config, options: VerlOptions, *, step: int, tokenizer: str, base: Path, gpu: str = ""
) -> RecordPlan | None:
    """None where ``keep_records`` is off; ``base`` is the folder that a relative one starts from."""
    if not options.host.keep_records:
        return None
    folder = options.host.records_dir or Path(at(config, "trainer.default_local_dir", "checkpoints")) / FOLDER
    seed = int(at(config, f"{ROLLOUT}.seed", 0))
    name = str(at(config, "trainer.experiment_name", NAME))
    run = HostRun(name, seed, _run_config(config, options), _versions(), _command(config), gpu)
    return RecordPlan(
        folder=base / folder,
        run=run,
        step=step,
        tokenizer=tokenizer,
        trusts_code=bool(at(config, f"{MODEL}.trust_remote_code", False)),
        scale=_scale(config),
        validates=int(at(config, "trainer.test_freq", -1)) > 0,
    )


def _run_config(config: Config, options: VerlOptions) -> dict[str, Any]:
    sampling = {name: at(config, f"{ROLLOUT}.{name}") for name in ("temperature", "top_p", "top_k")}
    return run_config(
        options.host,
        steps=total_steps(config),
        group_size=int(at(config, f"{ROLLOUT}.n", 1)),
        sampling={"max_completion_tokens": int(at(config, f"{ROLLOUT}.response_length", 0)), **sampling},
        rewards=[reward_name(config)],
        model=str(at(config, f"{MODEL}.path", "")),
        verl={
            "way": options.way,
            "ranks": data_parallel_ranks(config),
            **{f"{node}.{name}": at(config, f"{node}.{name}") for node, names in KEPT.items() for name in names},
        },
    )


def reward_name(config: Config) -> str:
    """Name of the reward function, else of verl's reward manager."""
    if at(config, "reward.custom_reward_function.path"):
        return str(at(config, "reward.custom_reward_function.name", "compute_score"))
    return str(at(config, "reward.reward_manager.name", "naive"))


def _scale(config: Config) -> Scale:
    if at(config, "algorithm.adv_estimator", "grpo") != "grpo" or at(config, "algorithm.use_kl_in_reward", False):
        return "unknown"
    return "std" if at(config, "algorithm.norm_adv_by_std_in_grpo", True) else "none"


def _command(config: Config) -> list[str]:
    """verl's program with the options under ``arrol``: the words of the user's own command do not reach an actor."""
    return ["verl/trainer/main_ppo.py", *_overrides(f"+{NAME}", at(config, NAME, {}))]


def _overrides(path: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [word for key, below in value.items() for word in _overrides(f"{path}.{key}", below)]
    return [f"{path}={value}"]


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
