"""Names on the hub that a command loads, checked before its imports: a hub that does not answer is one line at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from arrol.configs.run import RunConfig
from arrol.configs.sft import SftConfig
from arrol.configs.task import DatasetTaskConfig, TaskConfig, require_written
from arrol.errors import ConfigError
from arrol.hub import Kind, cached_only, is_model_name
from arrol.tasks.columns import Columns
from arrol.tasks.presets import preset_named
from arrol.tasks.prompting import PromptWriter
from arrol.tasks.sources import require_source
from arrol.verifiers.functions import Submission
from arrol.verifiers.judge import RewardJudge

TRL_FIELDS: dict[str, Kind] = {
    "model_name_or_path": "models",
    "reward_model_name_or_path": "models",
    "dataset_name": "datasets",
}
"""Fields of ``trl grpo`` that name something on the hub."""


def require_names(config: RunConfig | SftConfig) -> None:
    """ModelError or DataError where the hub does not answer and a name of the config is not in its cache; ConfigError
    for a task that only Python can give."""
    require_model(config)
    require_written(config.task)
    _require_sources(config)


def require_model(config: RunConfig | SftConfig) -> None:
    """ModelError where the hub does not answer and the model is not in its cache."""
    if config.model and is_model_name(config.model):
        cached_only("models", config.model, f"model = {config.model!r}")


def require_rewards(tasks: Iterable[TaskConfig]) -> None:
    """As :func:`require_reward`, once for equal tasks: arms and seeds of a comparison share theirs."""
    seen: list[TaskConfig] = []
    for task in tasks:
        if task not in seen:
            seen.append(task)
            require_reward(task)


def require_reward(config: TaskConfig) -> None:
    """One line where the reward functions of a task cannot be imported, or cannot be called with its first row."""
    if not isinstance(config, DatasetTaskConfig) or not config.reward:
        return
    judge = RewardJudge.of(config)
    assert judge is not None
    given = None if config.preset is None else preset_named(config.preset)
    columns = Columns(config.prompt_column, config.answer_column, None, given, for_rewards=True)
    source, split = (
        (config.source, config.split) if config.split else (config.eval_source or config.source, config.eval_split)
    )
    row = columns.first(source, split)
    try:
        judge.require_columns(row.cells)
        completion = "" if isinstance(row.cells["prompt"], str) else [{"role": "assistant", "content": ""}]
        judge.try_on(Submission(row.key, row.cells, completion, ()))
    finally:
        judge.close()


def _require_sources(config: RunConfig | SftConfig) -> None:
    if isinstance(config.task, DatasetTaskConfig):
        task = config.task
        PromptWriter(
            None,
            template=task.template,
            system_prompt=task.system_prompt,
            template_arguments=task.template_arguments,
        )
        for source in filter(None, (config.task.source, config.task.eval_source)):
            require_source(source)


def require_trl_names(flags: Sequence[str]) -> None:
    """As :func:`require_names`, for the flags of ``trl grpo``; what only the cache holds is loaded without the hub."""
    for name, value in _trl_values(flags):
        kind = TRL_FIELDS.get(name)
        if kind and is_model_name(value) and cached_only(kind, value, f"{name} = {value!r}"):
            os.environ["HF_HUB_OFFLINE"] = "1"  # read at import, by TRL's processes too


def _trl_values(flags: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Fields with their values, of the flags and of the file behind ``--config``."""
    for word, following in zip(flags, [*flags[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        value = value if equals else following
        if name == "config" and Path(value).is_file():
            import yaml

            try:
                read: Any = yaml.safe_load(Path(value).read_text())
            except (yaml.YAMLError, UnicodeDecodeError):  # TRL's parser tells
                continue
            if read is not None and not isinstance(read, dict):
                raise ConfigError(
                    f"config = {value!r}: holds no keys of TRL in YAML; write for example learning_rate: 1e-5, or give "
                    "a TOML file to arrol train"
                )
            yield from ((key, one) for key, one in (read or {}).items() if isinstance(one, str))
        elif option.startswith("--"):
            yield name, value
