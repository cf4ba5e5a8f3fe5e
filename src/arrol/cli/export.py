"""``arrol export``: a run's newest policy and estimator as a folder that other engines serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from arrol import assembly
from arrol.cli.files import require_place, reserved, whole
from arrol.cli.output import warner
from arrol.cli.sampling import newest_state
from arrol.cli.tables import print_json
from arrol.configs.base import validate
from arrol.configs.run import RunConfig
from arrol.engines.vllm.padding import head_size_of, padded_config, padded_weights
from arrol.errors import ConfigError
from arrol.quality.snapshot import ModelFingerprint
from arrol.training.checkpoint import reading, save_policy
from arrol.training.policy import load_config, load_policy, load_tokenizer

POLICY_FOLDER, ESTIMATOR_FILE = "policy", "estimator.safetensors"
"""Apart, since loaders read every safetensors file in the folder of a config as weights."""


def run_export(run: str, to: str, *, head_size: int | None, as_json: bool) -> int:
    console = Console(stderr=as_json, markup=False, highlight=False)
    checkpoint, state = newest_state(run, warner(console))
    target = Path(to)
    if target.is_file() or (target.exists() and any(target.iterdir())):
        raise ConfigError(f"--to = {to!r}: exists and is not empty; name a new folder")
    require_place("--to", target.absolute().parent)
    if head_size is not None:
        padded_config(load_config(str(checkpoint / "policy")), head_size)
    source = checkpoint / "policy"
    policy = load_policy(str(source), torch.device("cpu"))
    with reading(checkpoint, "state.json"):
        estimator = assembly.build_estimator(validate(RunConfig, state["config"]), policy)
        estimator.load(state["estimator"])
        step = int(state["step"])
    served = policy if head_size is None else widened(policy, head_size)
    snapshot = estimator.snapshot()
    snapshot.model = ModelFingerprint.of(policy.config.get_text_config())
    with reserved("--to", target.absolute()), whole(target) as partial:
        save_policy(partial / POLICY_FOLDER, served, load_tokenizer(str(source)))
        snapshot.write(partial / ESTIMATOR_FILE)
    row = {
        "policy": str(target / POLICY_FOLDER),
        "estimator": str(target / ESTIMATOR_FILE),
        "step": step,
        "head_size": head_size_of(policy.config) if head_size is None else head_size,
        "probe_tokens": list(snapshot.probe_tokens),
        "estimator_version": snapshot.version,
        "model": str(snapshot.model),
    }
    if as_json:
        print_json(row)
    else:
        for key, value in row.items():
            console.print(f"{key:18} {value}", soft_wrap=True)
    return 0


def widened(policy: Any, head_size: int) -> Any:
    """A model of the same function with attention heads of ``head_size``."""
    wide = AutoModelForCausalLM.from_config(padded_config(policy.config, head_size), dtype=torch.float32)
    wide.load_state_dict(dict(padded_weights(policy.state_dict().items(), policy.config, head_size)))
    wide.generation_config = policy.generation_config
    return wide
