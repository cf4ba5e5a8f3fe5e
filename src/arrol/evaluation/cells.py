"""Typed cells of one row of a file; an error names the file, the line, the field, its value and the next step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from arrol.errors import DataError
from arrol.types import FinishReason

MAX_COUNT = 2**53
"""Larger counts are damage."""
FINISH_REASONS = {reason.value: reason for reason in FinishReason} | {
    "eos": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "abort": FinishReason.ERROR,
}
"""Our names, and those of inference servers for the same."""


class Cells:
    """One row; null and NaN are read as None, that is unknown."""

    def __init__(self, row: Mapping[str, Any], where: str) -> None:
        self.row = row
        self.where = where

    def fail(self, name: str, need: str) -> NoReturn:
        """Refuse a cell."""
        shown = _shown(self.row[name]) if name in self.row else "(missing)"
        raise DataError(f"samples: {self.where}: {name} = {shown} {need}; mend or remove that row")

    def refuse_unknown(self, known: Sequence[str]) -> None:
        """A misspelled field must not be dropped in silence."""
        for name in self.row:
            if name not in known:
                raise DataError(
                    f"samples: {self.where}: {_shown(name)} is no field here; rename it to one of {', '.join(known)}"
                )

    def text(self, name: str, *, may_be_empty: bool = False) -> str:
        value = self.row.get(name)
        if not isinstance(value, str):
            self.fail(name, "must be a text")
        if not (value or may_be_empty):
            self.fail(name, "must not be empty")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self.row.get(name) is None else self.text(name, may_be_empty=True)

    def number(self, name: str) -> float | None:
        """A finite number; true and false are 1 and 0."""
        if self.row.get(name) is None:
            return None
        number = self._number(name, self.row[name])
        if math.isinf(number):
            self.fail(name, "must be finite")
        return None if math.isnan(number) else number

    def share(self, name: str) -> float | None:
        """A number in [0, 1]."""
        value = self.number(name)
        if value is not None and not 0 <= value <= 1:
            self.fail(name, "must lie in [0, 1]")
        return value

    def count(self, name: str) -> int | None:
        """A whole number from 0; 3.0 is 3, since Parquet turns whole numbers beside nulls into floats."""
        number = self.number(name)
        if number is None:
            return None
        value = self.row[name]
        if isinstance(value, bool) or not 0 <= number < MAX_COUNT or number != int(number):
            self.fail(name, "must be a whole number from 0")
        return int(number)

    def numbers(self, name: str) -> tuple[float, ...] | None:
        """A list of numbers, which need not be finite: ``"-inf"`` is one."""
        values = self.row.get(name)
        if values is None:
            return None
        if not isinstance(values, list):
            self.fail(name, "must be a list of numbers")
        return tuple(self._number(name, value) for value in values)

    def points(self, name: str) -> tuple[tuple[int, float], ...] | None:
        """A list of pairs: a count of tokens, a share."""
        values = self.row.get(name)
        if values is None:
            return None
        if not isinstance(values, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in values):
            self.fail(name, "must be a list of pairs of a number of tokens and a quality")
        cells = [Cells({"tokens": tokens, name: value}, self.where) for tokens, value in values]
        return tuple((cell.count("tokens") or 0, cell.share(name) or 0.0) for cell in cells)

    def finish_reason(self, name: str) -> FinishReason | None:
        value = self.row.get(name)
        if value is None:
            return None
        reason = FINISH_REASONS.get(value) if isinstance(value, str) else None
        if reason is None:
            self.fail(name, f"must be one of {', '.join(FinishReason)}")
        return reason

    def _number(self, name: str, value: Any) -> float:
        if isinstance(value, bool | int | float):
            try:
                return float(value)
            except OverflowError:
                self.fail(name, "is too large a number")
        if value in ("nan", "inf", "-inf"):
            return float(value)
        self.fail(name, "must be a number" if not isinstance(self.row[name], list) else "must hold numbers only")


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 10**60:
        return "an integer of more than 60 digits"  # spelling it out takes quadratic time, or is refused
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
