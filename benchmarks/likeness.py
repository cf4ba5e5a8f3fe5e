"""When are two results of a training the same? Values of any depth, to the last digit or nearly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

NO_RESULT = ("time", "timing", "perf", "memory", "seconds", "runtime", "per_second")
"""Parts of names of metrics that no two runs share."""


def without_times(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if not any(word in key for word in NO_RESULT)}


def differs(first: Any, second: Any, near: float, at: str = "") -> str:
    """The first place where two results are not the same; empty where they are. Numbers may be ``near`` (0: equal)."""
    if isinstance(first, Mapping):
        if first.keys() != second.keys():
            return f"{at}: keys {sorted(map(str, first.keys() ^ second.keys()))[:5]}"
        return next(filter(None, (differs(first[key], second[key], near, f"{at}/{key}") for key in first)), "")
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return f"{at}: {len(first)} and {len(second)}"
        pairs = enumerate(zip(first, second, strict=True))
        return next(filter(None, (differs(one, other, near, f"{at}[{i}]") for i, (one, other) in pairs)), "")
    if isinstance(first, float | np.ndarray) and np.asarray(first).dtype.kind == "f":
        is_same = np.shape(first) == np.shape(second) and np.allclose(first, second, near, near, equal_nan=True)
        return "" if is_same else f"{at}: {str(first)[:40]} and {str(second)[:40]}"
    is_same = np.array_equal(first, second) if isinstance(first, np.ndarray) else first == second
    return "" if is_same else f"{at}: {str(first)[:60]} and {str(second)[:60]}"
