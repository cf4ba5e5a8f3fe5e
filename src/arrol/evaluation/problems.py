"""Prompts with their sampled completions, and their rows in a samples file (``samples.py`` shows one).

Reading what was written gives equal objects. Unknown numbers are None, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from pydantic import TypeAdapter

from arrol.errors import DataError
from arrol.evaluation.cells import (
    COUNT,
    OPTIONAL_TEXT,
    TEXT,
    AnyText,
    Cells,
    Count,
    Finish,
    Number,
    Numbers,
    OptionalText,
    Points,
    Share,
    needs,
)


@dataclass(frozen=True)
class Sample:
    """One completion; None for fields that are unknown."""

    completion: AnyText
    """The text; may be empty."""
    answer: OptionalText = None
    """Extracted by a verifier."""
    reward: Number = None
    """The verifier's number, or the sum of the reward functions."""
    score: Number = None
    """Raw logit of the quality head, or the score of another model."""
    quality: Share = None
    """Calibrated probability of being right, in [0, 1]."""
    num_tokens: Count = None
    """Tokens written, the stop token included."""
    finish_reason: Finish = None
    logprobs: Numbers = None
    """Log-probability of each token; may be -inf."""
    confidences: Numbers = None
    """One number per token: minus the mean log-probability of its k likeliest tokens."""
    probe_qualities: Points = None
    """(completion tokens, calibrated quality) at each probe; empty when it ended before the first."""
    mark: OptionalText = None
    """What pointed at the answer, such as ``box`` or ``####``."""
    verifier: OptionalText = None
    """What decided the reward; ``file`` where the reward came with the completion. None before a verdict."""
    reason: OptionalText = None
    """Why, in a few words."""
    answer_class: Count = None
    """Number of its class of equal answers among those of the problem; None when unreadable or not grouped yet."""
    success: Share = None
    """1 right, 0 wrong or unknown, where a reward function judged; None: a reward above 0.5 is right."""

    def __post_init__(self) -> None:
        cells = vars(self)
        for name in ("reward", "success", "score", "quality"):
            if (value := cells[name]) is not None:
                object.__setattr__(self, name, None if math.isnan(value) else float(value))
        for name in ("logprobs", "confidences"):
            if (value := cells[name]) is not None:
                object.__setattr__(self, name, tuple(map(float, value)))


def changed(sample: Sample, **cells: str | float | int | None) -> Sample:
    """The sample with other cells, which must have their final types: nothing is checked, so that it is quick."""
    copy = object.__new__(Sample)
    vars(copy).update(vars(sample), **cells)
    return copy


@dataclass(frozen=True)
class SampledProblem:
    """A prompt and its completions, in the order in which they were sampled."""

    key: str
    """Its name, unique among the problems that are read together."""
    prompt: str
    answer: str | None
    """Gold answer, of several parts as in ``verifiers/gold.py``; None where it is unknown."""
    samples: tuple[Sample, ...]
    """At least one."""
    level: int = 0
    """Difficulty grade, 0 where unknown."""


_SAMPLE = TypeAdapter(Sample)
_SAMPLE_FIELDS = tuple(field.name for field in fields(Sample))
_SAMPLE_ROWS = TypeAdapter[list[dict[str, Any]]](
    Annotated[
        list[dict[str, Any]],
        needs("must be a list of one object or more, each with a completion", lambda value: value or None),
    ]
)


def row_of(problem: SampledProblem) -> dict[str, Any]:
    """The JSON row of a problem; unknown fields of a sample are left out."""
    if not problem.samples:
        raise DataError(f"samples: problem {problem.key!r} has no completion; leave it out or sample it")
    head = {"key": problem.key, "prompt": problem.prompt, "answer": problem.answer, "level": problem.level}
    return {**head, "samples": [_sample_row(sample, problem.key) for sample in problem.samples]}


def problem_of(row: Mapping[str, Any], where: str) -> SampledProblem:
    """The problem of a row; ``where`` is the file and line that an error names."""
    cells = Cells(row, where)
    cells.refuse_unknown([field.name for field in fields(SampledProblem)])
    samples = cells.read(_SAMPLE_ROWS, "samples")
    return SampledProblem(
        key=cells.read(TEXT, "key"),
        prompt=cells.read(TEXT, "prompt"),
        answer=cells.read(OPTIONAL_TEXT, "answer"),
        samples=tuple(sample_of(entry, f"{where}, sample {number}") for number, entry in enumerate(samples, 1)),
        level=cells.read(COUNT, "level") or 0,
    )


def sample_of(row: Mapping[str, Any], where: str) -> Sample:
    """The sample of a row with our names."""
    cells = Cells(row, where)
    cells.refuse_unknown(_SAMPLE_FIELDS)
    return cells.read_all(_SAMPLE)


def _sample_row(sample: Sample, key: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in vars(sample).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(f"samples: problem {key!r}: {name} = {value} is not finite; write a number or None")
        if name == "probe_qualities" and value is not None:
            value = [list(point) for point in value]
        elif isinstance(value, tuple):
            value = [number if math.isfinite(number) else str(number) for number in value]
        if value is not None:
            row[name] = value
    return row
