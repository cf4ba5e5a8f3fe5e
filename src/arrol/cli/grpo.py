"""``arrol grpo``: ``trl grpo`` with our trainer: TRL's parser and keys, plus ours; works under ``accelerate``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from arrol.errors import ArrolError, ConfigError, DataError, MissingExtraError
from arrol.integrations.trl import GRPOConfig, GRPOTrainer


def run_grpo(flags: Sequence[str]) -> int:
    """Parse as ``trl grpo`` would, train, save."""
    try:
        from trl import DatasetMixtureConfig, ModelConfig, TrlParser, get_peft_config
        from trl.scripts.grpo import GRPOScriptArguments
    except ImportError:
        raise MissingExtraError("trl is not installed; run: pip install 'arrol[trl]'") from None
    parser = TrlParser((GRPOScriptArguments, GRPOConfig, ModelConfig, DatasetMixtureConfig), prog="arrol grpo")
    try:
        script, args, model, mixture = parser.parse_args_and_config(list(flags))
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, ArrolError):
            raise
        raise ConfigError(str(error)) from None
    args.model_init_kwargs = {**_model_arguments(model, args), **(args.model_init_kwargs or {})}
    data = _dataset(script, mixture)
    trainer = GRPOTrainer(
        model=model.model_name_or_path,
        reward_funcs=[reward_function(name) for name in script.reward_funcs or []],
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


def reward_function(name: str) -> Callable[..., Any]:
    """A reward function of TRL by its name, or any by its dotted path, which may start in the working directory."""
    import trl.rewards

    if "." not in name:
        known = [key for key in trl.rewards.__all__ if not key.startswith("get_")]
        if name not in known:
            raise ConfigError(f"reward_funcs = {name!r}: give a dotted path such as module.function, or one of {known}")
        return getattr(trl.rewards, name)
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
