"""What an unknown key may have meant: the same last part elsewhere, a name of TRL, verl or vLLM, or similar spelling.

>>> from arrol.configs.run import RunConfig
>>> meant(RunConfig, "steps", {})
"the nearest known one is 'training.steps'"
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from pydantic import BaseModel

from arrol.configs.kinds import models

Shapes = Mapping[str, type[BaseModel]]
"""Field of type ``dict`` -> the config that it has the shape of."""

RENAMED = {"estimator": "correction"}
"""Key of an older release -> its name now."""
ELSEWHERE = {
    "lr": "optimizer.learning_rate",
    "learning_rate": "optimizer.learning_rate",
    "lr_scheduler_type": "optimizer.schedule",
    "adam_beta1": "optimizer.beta1",
    "adam_beta2": "optimizer.beta2",
    "max_steps": "training.steps",
    "num_generations": "training.group_size",
    "rollout_n": "training.group_size",
    "train_batch_size": "training.prompts_per_step",
    "num_iterations": "training.epochs",
    "save_steps": "training.checkpoint_every",
    "save_total_limit": "training.keep_checkpoints",
    "eval_steps": "evaluation.every",
    "max_completion_length": "sampling.max_completion_tokens",
    "max_response_length": "sampling.max_completion_tokens",
    "max_new_tokens": "sampling.max_completion_tokens",
    "max_tokens": "sampling.max_completion_tokens",
    "beta": "algorithm.kl_coef",
    "epsilon": "algorithm.clip_ratio_low",
    "epsilon_high": "algorithm.clip_ratio_high",
    "loss_type": "algorithm.name",
    "scale_rewards": "algorithm.normalize_by_std",
    "dataset_name": "task.source",
    "dataset": "task.source",
    "chat_template": "task.template",
    "model_name_or_path": "model",
    "model_name": "model",
    "output_dir": "out_dir",
    "run_name": "name",
    "num_samples": "evaluation.samples_per_prompt",
    "gradient_accumulation_steps": "training.microbatch_tokens",
    "per_device_train_batch_size": "training.microbatch_tokens",
    "lora_r": "lora.r",
    "lora_rank": "lora.r",
    "rank": "lora.r",
    "use_peft": "lora.r",
    "peft": "lora.r",
    "peft_config": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_target_modules": "lora.target_modules",
}
"""Name of an option in TRL, verl, vLLM or common use -> ours."""
WHOLE_MODEL = (
    "arrol trains weights of full precision, with lora.r adapters beside them; for quantised models use arrol grpo"
)
ABSENT = dict.fromkeys(("load_in_4bit", "load_in_8bit"), WHOLE_MODEL)
"""What other trainers have and this one has not -> what to do."""
SAME, SIMILAR, ALIKE = 0.85, 0.6, 0.75
"""Least likeness of a key of the same section to be proposed before an equal one elsewhere, of a key of the same
section, and of one elsewhere."""


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The known key of most similar spelling; the new name of a renamed one."""
    names = sorted(known)
    renamed = RENAMED.get(key)
    return renamed if renamed in names else difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]


def known_paths(model: type[BaseModel], shapes: Shapes, prefix: str = "") -> list[str]:
    """Every dotted key of a config, sections and all variants included, in the order of the fields."""
    found: dict[str, None] = {}
    for name, info in model.model_fields.items():
        found[f"{prefix}{name}"] = None
        nodes = [shapes[name]] if name in shapes else models(info.annotation)
        for node in nodes:
            found |= dict.fromkeys(known_paths(node, {}, f"{prefix}{name}."))
    return list(found)


def ending_in(model: type[BaseModel], key: str, shapes: Shapes) -> list[str]:
    """Known keys that end in the parts of ``key``; ours first where another library's name is meant."""
    known = known_paths(model, shapes)
    leaf = key.rpartition(".")[2]
    others = [path for path in known if path.endswith(f".{key}") or path == key]
    for name in (key, leaf):
        ours = ELSEWHERE.get(name)
        if ours is not None and (places := [path for path in known if f".{path}".endswith(f".{ours}")]):
            return places[:1]
    return others or [path for path in known if f".{path}".endswith(f".{leaf}")]


def meant(model: type[BaseModel], key: str, shapes: Shapes, node: type[BaseModel] | None = None) -> str:
    """What to write instead of an unknown dotted key of a config; ``node`` is the section that lacks it."""
    section, _, leaf = key.rpartition(".")
    if note := ABSENT.get(key.split(".")[0]) or ABSENT.get(leaf):
        return note
    known = known_paths(model, shapes)
    siblings = [path for path in known if path.rpartition(".")[0] == section]
    if key in known:  # of another variant of the section
        return _variants_note(model, key)
    renamed = RENAMED.get(leaf)
    if renamed and (places := [path for path in siblings if path.endswith(renamed)]):
        return _named(places)
    near = [_nearest(leaf, siblings, SAME), *ending_in(model, key, shapes)]
    near = [near[0]] if near[0] else near[1:]
    near = near or [_nearest(leaf, siblings, SIMILAR) or _nearest(leaf, known, ALIKE)]
    if near[0]:
        return _named(near)
    names = ", ".join(node.model_fields if node else (path.rpartition(".")[2] for path in siblings))
    return (
        f"the known ones {f'of {section} ' if section else ''}are {names}"
        if names
        else _named([_nearest(leaf, known, 0.0)])
    )


def _named(paths: list[str]) -> str:
    shown = ", ".join(repr(path) for path in paths[:3])
    return f"the nearest known one is {shown}" if len(paths) == 1 else f"the nearest known ones are {shown}"


def _nearest(leaf: str, paths: list[str], cutoff: float) -> str:
    """The path whose last part is most similar to ``leaf``; empty without one."""
    leaves = {path.rpartition(".")[2]: path for path in reversed(paths)}
    found = difflib.get_close_matches(leaf, leaves, n=1, cutoff=cutoff)
    return leaves[found[0]] if found else ""


def _variants_note(model: type[BaseModel], key: str) -> str:
    """Which variants of a section have a key that the chosen one lacks."""
    section, _, rest = key.partition(".")
    info = model.model_fields[section]
    tag = str(info.discriminator)
    leaf = rest.split(".")[0]
    owners = [node for node in models(info.annotation) if leaf in node.model_fields]
    names = " or ".join(repr(node.model_fields[tag].default) for node in owners if tag in node.model_fields)
    return f"only {section}.{tag} = {names} has it"
