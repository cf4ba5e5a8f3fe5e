"""LoRA through peft: adapters beside the linear layers of a model whose own weights stay as they are.

The model keeps its class; its linear layers compute ``W x + alpha / r * B A x``. Engine and learner run this same
forward pass, so weights are never merged in the model that learns. Folders of adapters are peft's own
(``adapter_config.json``, ``adapter_model.safetensors``); readers that need a plain model get the merged one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from arrol.configs.lora import ALL_LINEAR, LoraConfig
from arrol.errors import ConfigError, MissingExtraError, ModelError
from arrol.hub import is_model_name
from arrol.training.model_files import ADAPTER_CONFIG, foreign_code

SHOWN = 8
"""Names of layers in a message."""


def require_peft(field: str) -> None:
    """MissingExtraError, which begins with ``field``, where peft is not installed."""
    if find_spec("peft") is None:
        raise MissingExtraError(f"{field}: peft is not installed; run: pip install '.[lora]' in a checkout of arrol")


def require_targets(model_config: Any, lora: LoraConfig) -> None:
    """ConfigError for a name of ``lora.target_modules`` that no linear layer of such a model has; reads no weights."""
    if lora.target_modules == (ALL_LINEAR,):
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    output = model.get_output_embeddings()
    layers = [n for n, module in model.named_modules() if module is not output and _is_linear(module)]
    for name in lora.target_modules:
        if not any(layer == name or layer.endswith(f".{name}") for layer in layers):
            known = sorted({layer.rpartition(".")[2] for layer in layers})
            raise ConfigError(
                f"lora.target_modules = {list(lora.target_modules)}: no linear layer inside the model is called "
                f"{name!r}; it has {', '.join(known[:SHOWN])}"
            )


def with_adapters(model: Any, lora: LoraConfig, base: str, seed: int) -> Any:
    """The ``PeftModel`` of a model, whose layers get fresh adapters that change nothing yet; ``base`` is its source."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    names = list(lora.target_modules)
    config = PeftConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number
        lora_dropout=lora.dropout,
        target_modules=ALL_LINEAR if names == [ALL_LINEAR] else names,
        task_type="CAUSAL_LM",
    )
    with _undisturbed(model):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    return _placed(adapted, base)


def loaded_adapters(model: Any, folder: Path, *, trains: bool, base: str) -> Any:
    """The ``PeftModel`` of a model with the adapters of a folder; ``base`` is the model's source."""
    require_peft(f"model = {str(folder)!r}")
    if problem := foreign_code(folder):
        raise ModelError(f"model = {str(folder)!r}: {problem}")
    from peft import PeftModel

    try:
        with _undisturbed(model):
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=trains)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model = {str(folder)!r}: its adapters do not fit the model that {ADAPTER_CONFIG} names ({reason}); "
            "give the model that they were trained on"
        ) from None
    return _placed(adapted, base)


def merged(adapted: Any) -> Any:
    """The plain model of the same function; ``adapted`` is used up."""
    return adapted.merge_and_unload().requires_grad_(True)


def adapter_base(folder: Path) -> str:
    """Folder or hub name of the model that a folder's adapters are for; ModelError where there is none."""
    facts = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    field, base = f"model = {str(folder)!r}", str(facts.get("base_model_name_or_path") or "")
    if facts.get("peft_type") != "LORA":
        raise ModelError(f"{field}: adapters of type {facts.get('peft_type')!r}; only LoRA can be merged into a model")
    beside = folder / base
    if base and not Path(base).is_absolute() and (beside / "config.json").is_file():
        return str(beside)
    if not (is_model_name(base) or (Path(base) / "config.json").is_file()) or not base:
        raise ModelError(
            f"{field}: holds LoRA adapters without their model, and {ADAPTER_CONFIG} names {base!r}, where there is "
            "none; set base_model_name_or_path in that file to the folder or hub name of the model"
        )
    return base


def trained_weights(model: Any) -> list[torch.nn.Parameter]:
    """The parameters that learn, in the model's order."""
    return [weight for weight in model.parameters() if weight.requires_grad]


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """The model as it was before training, for the log-probabilities of a reference."""
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _placed(adapted: Any, base: str) -> Any:
    """In evaluation mode, with the source of its model as checkpoints name it."""
    adapted.peft_config["default"].base_model_name_or_path = base if is_model_name(base) else str(Path(base).resolve())
    return adapted.eval()


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """The random state as it was, and no word of peft's calls of old names in transformers."""
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
