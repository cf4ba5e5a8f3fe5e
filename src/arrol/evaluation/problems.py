"""A prompt with its sampled completions, and the row of a samples file that holds it (``samples.py`` shows one).

Reading what was written gives equal objects. Numbers that are unknown are None, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from arrol.errors import DataError
from arrol.evaluation.cells import Cells
from arrol.types import FinishReason


@dataclass(frozen=True)
class Sample:
    """One completion and what is known about it; None where nobody knows."""

    completion: str
    """The text that was written; may be empty."""
    answer: str | None = None
    """What a verifier extracted."""
    reward: float | None = None
    """The verifier's number."""
    score: float | None = None
    """Raw logit of the quality head, or another model's score."""
    quality: float | None = None
    """Calibrated probability of being right, in [0, 1]."""
    num_tokens: int | None = None
    """Tokens written, the stop token included."""
    finish_reason: FinishReason | None = None
    logprobs: tuple[float, ...] | None = None
    """Log-probability of each token; may be -inf."""
    confidences: tuple[float, ...] | None = None
    """Of each token: minus the mean log-probability of its k likeliest tokens."""
    probe_qualities: tuple[tuple[int, float], ...] | None = None
    """(completion tokens, calibrated quality) where a probe looked; empty when it ended before the first."""

    def __post_init__(self) -> None:
        for name in ("reward", "score", "quality"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, None if math.isnan(value) else float(value))
        for name in ("logprobs", "confidences"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, tuple(map(float, values)))


@dataclass(frozen=True)
class Problem:
    """A prompt and its completions, in the order in which they were sampled."""

    key: str
    """Its name, unique in what is read together."""
    prompt: str
    answer: str | None
    """Gold answer, of several parts as in ``verifiers/gold.py``; None where nobody knows it."""
    samples: tuple[Sample, ...]
    """At least one."""
    level: int = 0
    """Difficulty grade, 0 where unknown."""


SAMPLE_FIELDS = tuple(field.name for field in fields(Sample))
PROBLEM_FIELDS = tuple(field.name for field in fields(Problem))


def row_of(problem: Problem) -> dict[str, Any]:
    """The JSON row of a problem; unknown fields of a sample are left out."""
    if not problem.samples:
        raise DataError(f"samples: problem {problem.key!r} has no completion; write problems that were sampled")
    head = {"key": problem.key, "prompt": problem.prompt, "answer": problem.answer, "level": problem.level}
    return {**head, "samples": [_sample_row(sample, problem.key) for sample in problem.samples]}


def problem_of(row: Mapping[str, Any], where: str) -> Problem:
    """The problem of a row; ``where`` is the file and line that an error names."""
    cells = Cells(row, where)
    cells.refuse_unknown(PROBLEM_FIELDS)
    samples = row.get("samples")
    if not isinstance(samples, list) or not samples:
        cells.fail("samples", "must be a list of at least one completion")
    for entry in samples:
        if not isinstance(entry, dict):
            cells.fail("samples", "must hold objects with a completion each")
    return Problem(
        key=cells.text("key"),
        prompt=cells.text("prompt"),
        answer=cells.optional_text("answer"),
        samples=tuple(_sample_of(entry, f"{where}, sample {number}") for number, entry in enumerate(samples, 1)),
        level=cells.count("level") or 0,
    )


def _sample_of(row: Mapping[str, Any], where: str) -> Sample:
    cells = Cells(row, where)
    cells.refuse_unknown(SAMPLE_FIELDS)
    return sample_of(cells)


def sample_of(cells: Cells) -> Sample:
    """The sample of cells that have our names."""
    return Sample(
        completion=cells.text("completion", may_be_empty=True),
        answer=cells.optional_text("answer"),
        reward=cells.number("reward"),
        score=cells.number("score"),
        quality=cells.share("quality"),
        num_tokens=cells.count("num_tokens"),
        finish_reason=cells.finish_reason("finish_reason"),
        logprobs=cells.numbers("logprobs"),
        confidences=cells.numbers("confidences"),
        probe_qualities=cells.points("probe_qualities"),
    )


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
