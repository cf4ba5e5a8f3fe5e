"""Files of a model's folder, checked before a library reads them: the message names the file and what to do.

Only headers of weights are read, so the check costs milliseconds for a model of any size. Nothing in a folder may run:
weights as pickle, attention from a repository of the hub and modules named by adapters are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from arrol.errors import ModelError

ADAPTER_CONFIG = "adapter_config.json"
"""File of a folder that holds adapters in place of a model."""
JSON_FILES = (ADAPTER_CONFIG, "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
POINTER = b"version https://git-lfs"
KERNEL_FIELDS = ("attn_implementation", "experts_implementation")
"""Fields of a model's config, with or without an underscore before them, that may name a repository of kernels."""
PICKLES = ("pytorch_model*.bin", "adapter_model.bin")
"""Weights as pickle."""
INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
"""Names that model configs give to the number of layers."""
MEND = "mend config.json, or copy or save the model again"
Shape = tuple[int, ...]


def require_model_files(folder: Path, field: str) -> None:
    """ModelError, which begins with ``field``, for a folder that is absent, has no config, or has a damaged file."""
    if not folder.is_dir():
        raise ModelError(
            f"{field}: no such folder; give a folder with config.json or a hub name such as Qwen/Qwen3-1.7B-Base"
        )
    if not (folder / "config.json").is_file() and not is_adapter_folder(folder):
        raise ModelError(f"{field}: the folder has no config.json; give one written by save_pretrained")
    for path in [*(folder / name for name in JSON_FILES), *sorted(folder.glob("*.safetensors"))]:
        if path.is_file() and (problem := damage(path)):
            raise ModelError(f"{field}: {path} {problem}")
    if problem := foreign_code(folder):
        raise ModelError(f"{field}: {problem}")
    _require_layers(folder, field)


def foreign_code(folder: Path) -> str:
    """What in a whole folder would run code that comes with it, and what to do; empty where nothing does."""
    pickles = [path.name for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    if pickles and not any(folder.glob("*.safetensors")):
        return (
            f"its weights are a pickle ({pickles[0]}), which arrol does not read; save the model again with "
            "save_pretrained, which writes safetensors"
        )
    for file, named in (("config.json", hub_kernels), (ADAPTER_CONFIG, _adapter_modules)):
        path = folder / file
        if path.is_file() and (found := next(named(json.loads(path.read_text("utf-8"))), None)):
            return f"{path} asks for code to load ({found}); remove that entry"
    return ""


def hub_kernels(config: dict[str, Any]) -> Iterator[str]:
    """Entries of a model's config, or of a part of it, that name a repository of kernels: ``owner/name``."""
    for key, value in config.items():
        names = value.values() if isinstance(value, dict) else [value]
        if key.lstrip("_") in KERNEL_FIELDS and any(isinstance(name, str) and "/" in name for name in names):
            yield f"{key} = {value!r}"
        elif isinstance(value, dict):
            yield from hub_kernels(value)


def _adapter_modules(config: dict[str, Any]) -> Iterator[str]:
    """The module that peft would import for adapters of Megatron."""
    if config.get("megatron_config") is not None:
        yield f"megatron_core = {config.get('megatron_core')!r}"


def _require_layers(folder: Path, field: str) -> None:
    """ModelError for more layers than the weights have arrays: transformers makes a list of them when it reads the
    config."""
    held, path = held_shapes(folder), folder / "config.json"
    if not held or not path.is_file():
        return
    config = json.loads(path.read_text("utf-8"))
    text = config.get("text_config")
    for name in LAYERS:
        for layers in (config.get(name), text.get(name) if isinstance(text, dict) else None):
            if isinstance(layers, int) and layers > len(held):
                raise ModelError(
                    f"{field}: config.json has {name} = {layers}, and the weights are {len(held)} arrays; {MEND}"
                )


def held_shapes(folder: Path) -> dict[str, Shape]:
    """Name -> shape of the arrays in the folder's safetensors files; empty where there are none, or one is damaged."""
    try:
        files = [WHOLE]
        if (folder / INDEX).is_file():
            files = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
        found: dict[str, Shape] = {}
        for name in files:
            with safe_open(folder / name, "np") as file:
                found |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
        return {}  # the library that reads them says what is wrong


def is_adapter_folder(folder: Path) -> bool:
    """True for a folder of adapters without the weights of their model, as peft writes it."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def damage(path: Path) -> str:
    """What is wrong with a JSON or safetensors file, and what to do; empty for a whole one."""
    try:
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                return "is a pointer of Git LFS, not the file itself; run git lfs pull there"
        if path.suffix == ".json":
            value = json.loads(path.read_text("utf-8"))
            return "" if isinstance(value, dict) else "holds no JSON object; copy or save the model again"
        with safe_open(path, "np"):
            return ""
    except RecursionError:
        return "is nested too deeply; copy or save the model again"
    except json.JSONDecodeError as error:
        return f"is not JSON (line {error.lineno}: {error.msg}); copy or save the model again"
    except (OSError, ValueError, SafetensorError) as error:  # a number of thousands of digits is a ValueError
        return f"is damaged ({str(error).splitlines()[0]}); copy or save the model again"
