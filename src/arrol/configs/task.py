"""Tasks: where prompts come from and how answers are judged."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from arrol.configs.base import StrictModel


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


class DatasetTaskConfig(StrictModel):
    """Prompts and gold answers from a file, a folder or a hub name."""

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
    template: str = "plain"
    """Named prompt template, or chat for the tokenizer's chat template."""
    verifier: Literal["integer", "symbolic"] | None = None
    """Who judges; the preset's when absent."""
    time_limit_s: float = Field(5.0, gt=0)
    """Time limit of one symbolic verdict, above 0."""
    deduplicate: bool = False
    """Drop rows whose prompt was seen before."""


TaskConfig = Annotated[
    ArithmeticTaskConfig | CountdownTaskConfig | SearchTaskConfig | DatasetTaskConfig, Field(discriminator="name")
]
