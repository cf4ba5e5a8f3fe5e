"""``arrol grpo``: ``trl grpo`` with our trainer: TRL's keys and ours, and arguments of ``accelerate launch``.

With a launch argument, several GPUs or a default config of accelerate it starts through accelerate's launcher, as
``trl grpo`` does; else it trains in this process.
"""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from arrol.errors import ArrolError, ConfigError, DataError, MissingExtraError
from arrol.integrations.trl import GRPOConfig, GRPOTrainer

SET_BY_LAUNCHERS = {"LOCAL_RANK", "ACCELERATE_DYNAMO_BACKEND"}
"""Environment variables, one of which each launcher of accelerate and torch sets."""
FUNCTIONS = ("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward")
"""Reward functions of TRL that ``trl grpo`` knows by name."""
OVERLONG = {"max_completion_len": 1280, "soft_punish_cache": 256}
"""Arguments of ``get_soft_overlong_punishment`` in ``trl grpo``."""


def run_grpo(flags: Sequence[str]) -> int:
    """Parse as ``trl grpo`` would, then train and save here or in launched processes; the exit status."""
    try:
        from trl import DatasetMixtureConfig, ModelConfig, TrlParser, get_peft_config
        from trl.scripts.grpo import GRPOScriptArguments
    except ImportError:
        raise MissingExtraError("trl is not installed; run: pip install '.[trl]' in a checkout of arrol") from None
    is_launched = bool(SET_BY_LAUNCHERS & os.environ.keys())
    parser = TrlParser((GRPOScriptArguments, GRPOConfig, ModelConfig, DatasetMixtureConfig), prog="arrol grpo")
    try:
        script, args, model, mixture, of_file, of_flags = parser.parse_args_and_config(
            list(flags), return_remaining_strings=True, separate_remaining_strings=True
        )
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, ArrolError):
            raise
        raise ConfigError(str(error)) from None
    launch = _launch_arguments(of_file, of_flags)
    if not is_launched and (launch or _launches_by_default()):
        return _launch(launch, _without(flags, of_flags))
    if of_flags:
        raise ConfigError(f"{of_flags[0]}: this process was launched already; give it to accelerate launch instead")
    args.model_init_kwargs = {**_model_arguments(model, args), **(args.model_init_kwargs or {})}
    data = _dataset(script, mixture)
    trainer = GRPOTrainer(
        model=model.model_name_or_path,
        reward_funcs=[
            *([script.reward_model_name_or_path] if script.reward_model_name_or_path else []),
            *(reward_function(name) for name in script.reward_funcs or []),
        ],
        args=args,
        train_dataset=data[script.dataset_train_split],
        eval_dataset=data[script.dataset_test_split] if args.eval_strategy != "no" else None,
        peft_config=get_peft_config(model),
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)
    trainer.accelerator.end_training()
    return 0


def _launches_by_default() -> bool:
    import torch
    from accelerate.commands.config import default_config_file

    return torch.cuda.device_count() > 1 or Path(default_config_file).is_file()


def _launch_arguments(of_file: Sequence[str], of_flags: Sequence[str]) -> list[str]:
    """Arguments of accelerate's launcher, which TRL's parser left over; ConfigError for an unknown one.

    ``of_file``: pairs of option and value. ``of_flags``: words as they were written.
    """
    from accelerate.commands.launch import launch_command_parser

    known: dict[str, object] = vars(launch_command_parser().parse_args(["script"]))

    def default(option: str) -> object:
        name = option.split("=")[0].lstrip("-").replace("-", "_")
        if name not in {*known, "accelerate_config"} or not option.startswith("--"):
            raise ConfigError(f"{option}: no option of arrol grpo or accelerate launch; leave it out, or correct it")
        return known.get(name)

    found = []
    for option, value in zip(of_file[::2], of_file[1::2], strict=True):
        if isinstance(default(option), str) or value not in ("True", "False"):
            found += [option, value]
        elif value == "True":
            found.append(option)
    for before, word in itertools.pairwise(["", *of_flags]):
        takes_value = before.startswith("--") and "=" not in before and default(before) is not False
        if word.startswith("--") or not takes_value:
            default(word)
    return [*found, *of_flags]


def _without(flags: Sequence[str], left_over: Sequence[str]) -> list[str]:
    """Flags without those left over, which are some of them in order."""
    rest, kept = list(left_over), []
    for word in flags:
        if rest and word == rest[0]:
            rest.pop(0)
        else:
            kept.append(word)
    return kept


def _launch(launch: list[str], flags: list[str]) -> int:
    """Run this command under accelerate's launcher; the exit status of the first process that failed, or 0."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    command = ["--module", "arrol.cli.main", "grpo", *flags]
    try:
        launch_command(launch_command_parser().parse_args([*resolve_accelerate_config_argument(launch), *command]))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except subprocess.CalledProcessError as error:
        return error.returncode
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode)
    return 0


def reward_function(name: str) -> Callable[..., Any]:
    """A reward function by the name that ``trl grpo`` knows, or by its dotted path from the working directory."""
    import trl.rewards

    if name in FUNCTIONS:
        return getattr(trl.rewards, name)
    if name == "get_soft_overlong_punishment":
        return trl.rewards.get_soft_overlong_punishment(**OVERLONG)
    if "." not in name:
        known = [*FUNCTIONS, "get_soft_overlong_punishment"]
        raise ConfigError(f"reward_funcs = {name!r}: give a dotted path such as module.function, or one of {known}")
    module, function = name.rsplit(".", 1)
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"reward_funcs = {name!r}: {error}; give the path of a function that can be imported"
        ) from None
    finally:
        sys.path.pop(0)


def _model_arguments(model: Any, args: Any) -> dict[str, Any]:
    """Arguments for loading the policy, from TRL's ModelConfig."""
    from trl import get_quantization_config

    arguments = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        "trust_remote_code": getattr(args, "trust_remote_code", getattr(model, "trust_remote_code", False)),
    }
    quantization = get_quantization_config(model)
    return arguments if quantization is None else {**arguments, "quantization_config": quantization}


def _dataset(script: Any, mixture: Any) -> Any:
    """The dataset of a name, a local folder, or TRL's mixture."""
    from datasets import load_dataset
    from trl import get_dataset

    if mixture.datasets:
        return get_dataset(mixture)
    if not script.dataset_name:
        raise ConfigError("dataset_name: missing; give a local folder, a name on the hub, or datasets")
    try:
        data = load_dataset(script.dataset_name, name=script.dataset_config, streaming=script.dataset_streaming)
    except (OSError, ValueError) as error:
        raise DataError(
            f"dataset_name = {script.dataset_name!r}: {str(error).splitlines()[0]}; check the path"
        ) from None
    if script.dataset_train_split not in data:
        raise DataError(
            f"dataset_train_split = {script.dataset_train_split!r}: not among {sorted(data)}; name one of them"
        )
    return data
