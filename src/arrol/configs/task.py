"""Tasks: where prompts come from and how answers are judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from arrol.configs.base import StrictModel
from arrol.errors import ConfigError


class ArithmeticTaskConfig(StrictModel):
    """Chained two-digit arithmetic with a scratchpad."""

    name: Literal["arithmetic"] = "arithmetic"
    min_ops: int = Field(2, ge=1)
    """Fewest operations in a problem, at least 1."""
    max_ops: int = Field(4, ge=1, le=8)
    """Most operations in a problem, min_ops to 8."""
    num_problems: int = Field(0, ge=0, le=10**7)
    """Training problems, asked again in every epoch in a new order; at most 10000000; 0 makes new ones for ever."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_ops < self.min_ops:
            raise ValueError(f"task.max_ops = {self.max_ops}: at least min_ops = {self.min_ops}")
        return self


class CountdownTaskConfig(StrictModel):
    """Reach a target from given numbers."""

    name: Literal["countdown"] = "countdown"
    min_numbers: int = Field(3, ge=2)
    """Fewest numbers given, at least 2."""
    max_numbers: int = Field(4, ge=2)
    """Most numbers given, at least min_numbers."""
    num_problems: int = Field(0, ge=0, le=10**7)
    """Training problems, asked again in every epoch in a new order; at most 10000000; 0 makes new ones for ever."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_numbers < self.min_numbers:
            raise ValueError(f"task.max_numbers = {self.max_numbers}: at least min_numbers = {self.min_numbers}")
        return self


class SearchTaskConfig(StrictModel):
    """Find two of the given numbers whose sum is the target, by trying."""

    name: Literal["search"] = "search"
    min_numbers: int = Field(3, ge=3)
    """Fewest numbers given, at least 3."""
    max_numbers: int = Field(12, ge=3, le=12)
    """Most numbers given, min_numbers to 12."""
    num_problems: int = Field(0, ge=0, le=10**7)
    """Training problems, asked again in every epoch in a new order; at most 10000000; 0 makes new ones for ever."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_numbers < self.min_numbers:
            raise ValueError(f"task.max_numbers = {self.max_numbers}: at least min_numbers = {self.min_numbers}")
        return self


class RewardConfig(StrictModel):
    """One reward function among several."""

    function: str
    """Import path, module:function."""
    weight: float = 1.0
    """Factor of its value in the sum; 0 shows the value in the metrics alone."""


class RewardFields(StrictModel):
    """Reward functions that judge instead of a verifier."""

    reward: tuple[RewardConfig, ...] = ()
    """Reward functions by import path, module:function, or tables of function and weight; empty for the verifier."""
    reward_folder: str | None = None
    """Folder in which their modules are looked for first; that of the config file when absent."""
    reward_time_limit_s: float | None = Field(None, gt=0)
    """Time limit of one call for one completion, in worker processes, above 0; absent: no limit, in this process."""
    success_reward: str | None = None
    """Function whose value says whether an answer is right; needed with several."""
    success_threshold: float = 0.5
    """A value of that function above this is a success, for the quality head, the allocation and pass@k."""

    @field_validator("reward", mode="before")
    @classmethod
    def _paths_are_tables(cls, value: Any) -> Any:
        """A path, a table, or a list of both; a text may hold several paths, with commas between them."""
        entries = value.split(",") if isinstance(value, str) else [value] if isinstance(value, Mapping) else value
        if not isinstance(entries, list | tuple):
            return value
        return [{"function": entry.strip()} if isinstance(entry, str) else entry for entry in entries]

    @model_validator(mode="after")
    def _rewards_fit(self) -> Self:
        for name in ("reward_time_limit_s", "success_reward"):
            if getattr(self, name) is not None and not self.reward:
                raise ValueError(f"task.{name} = {getattr(self, name)!r}: no reward function is named; set task.reward")
        paths = [one.function for one in self.reward]
        if len(set(paths)) != len(paths):
            raise ValueError(f"task.reward = {paths}: name each function once")
        if self.reward and not any(one.weight for one in self.reward):
            raise ValueError(f"task.reward = {paths}: every weight is 0; give one function a weight")
        return self


class ExampleConfig(StrictModel):
    """A worked example."""

    question: str = Field(min_length=1)
    """The question, which the template fills."""
    answer: str = Field(min_length=1)
    """What the policy should have written."""


class PromptFields(StrictModel):
    """How a question becomes a prompt."""

    template: str | None = None
    """A named template, or a text with {question}; chat: and a text is a user's message. Absent: chat for messages."""
    system_prompt: str | None = Field(None, min_length=1)
    """First message of every chat."""
    template_arguments: dict[str, Any] = {}
    """Arguments of the tokenizer's chat template, such as {enable_thinking = false}."""
    examples: tuple[ExampleConfig, ...] | int = 0
    """Worked examples before every question: a number of training rows, fixed by the seed, or tables of question and
    answer."""

    @field_validator("examples", mode="before")
    @classmethod
    def _number_or_tables(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) or (type(value) is int and value >= 0):
            return value
        raise ValueError(
            f"task.examples = {value!r}: give a number of training rows from 0, or a list of tables with question and "
            "answer"
        )


class DatasetTaskConfig(RewardFields, PromptFields):
    """Prompts from a file, a folder or a hub name, with gold answers or your own reward."""

    name: Literal["dataset"] = "dataset"
    source: str
    """Path of a file or folder, a hub name, or a preset such as gsm8k."""
    preset: str | None = None
    """Data set that the path is a copy of, such as svamp: columns and format of the answer are the preset's."""
    split: str = "train"
    """Split to train on; empty to evaluate only."""
    eval_source: str | None = None
    """Path, hub name or preset to evaluate on; the training source when absent."""
    eval_split: str = "test"
    """Split to evaluate on."""
    prompt_column: str | None = None
    """Column of the question, dots reach inside; the preset's when absent."""
    answer_column: str | None = None
    """Column of the gold answer, dots reach inside; the preset's when absent."""
    answer_format: Literal["gsm8k", "boxed", "plain"] | None = None
    """How the gold answer is written; the preset's when absent."""
    verifier: Literal["integer", "symbolic"] | None = None
    """Who judges; the preset's when absent."""
    time_limit_s: float = Field(5.0, gt=0)
    """Time limit of one symbolic verdict, above 0."""
    deduplicate: bool = False
    """Drop rows whose prompt was seen before."""

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        for name in ("verifier", "answer_format"):
            if self.reward and getattr(self, name) is not None:
                raise ValueError(
                    f"task.{name} = {getattr(self, name)!r}: task.reward judges, no verifier does; leave it out"
                )
        return self


class PythonTaskConfig(StrictModel):
    """An object that ``arrol.train`` was given; no file and no flag can name one."""

    is_written: ClassVar[bool] = False
    name: Literal["python"] = "python"
    object: str = ""
    """Its class, module:name."""


TaskConfig = Annotated[
    ArithmeticTaskConfig | CountdownTaskConfig | SearchTaskConfig | DatasetTaskConfig | PythonTaskConfig,
    Field(discriminator="name"),
]


def require_written(config: TaskConfig) -> None:
    """ConfigError for a task that only Python can give."""
    if isinstance(config, PythonTaskConfig):
        named = f"{config.object} is" if config.object else "is"
        raise ConfigError(
            f"task.name = 'python': {named} an object that only a call of arrol.train can give; name another task"
        )


def with_reward_folder(values: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Raw values of a config in which modules of reward functions are looked for beside the file at ``path``."""
    task = values.get("task")
    if not isinstance(task, Mapping) or not task.get("reward") or "reward_folder" in task:
        return dict(values)
    return {**values, "task": {**task, "reward_folder": str(Path(path).parent)}}
