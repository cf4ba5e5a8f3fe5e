"""Typed cells of a row of a file, checked by pydantic. An error is one line: file, line, field, value, remedy.

null and NaN are read as None, that is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BeforeValidator, Field, Strict, TypeAdapter, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from arrol.errors import DataError
from arrol.types import FinishReason

T = TypeVar("T")

MAX_COUNT = 2**53
"""Larger counts are damage."""
SERVER_NAMES = {"eos": "stop", "eos_token": "stop", "max_tokens": "length", "abort": "error"}
"""Finish reason of an inference server -> ours."""


def needs(need: str, clean: Callable[[Any], Any] = lambda value: value) -> WrapValidator:
    """``clean`` the value, then check its type; the only message is ``need``."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(clean(value))
        except ValidationError:
            raise PydanticCustomError("cell", "{need}", {"need": need}) from None

    return WrapValidator(check)


def _real(value: Any) -> Any:
    """true and false as 1 and 0; the texts that JSON has for numbers that are not finite."""
    return float(value) if isinstance(value, bool) or value in ("nan", "inf", "-inf") else value


def _known(value: Any) -> Any:
    return None if value == "nan" or value != value else value


def _whole(value: Any) -> Any:
    """3.0 as 3, since Parquet turns whole numbers beside nulls into floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Real = Annotated[float, Strict(), BeforeValidator(_real)]
_Unit = Annotated[Real, Field(ge=0, le=1)]
_Whole = Annotated[int, Strict(), Field(ge=0, lt=MAX_COUNT), BeforeValidator(_whole)]
Text = Annotated[str, Strict(), needs("must be a text that is not empty", lambda value: value or None)]
AnyText = Annotated[str, Strict(), needs("must be a text")]
OptionalText = Annotated[str | None, Strict(), needs("must be a text")]
Number = Annotated[Annotated[Real, Field(allow_inf_nan=False)] | None, needs("must be a finite number", _known)]
Share = Annotated[_Unit | None, needs("must be a number in [0, 1]", _known)]
Count = Annotated[_Whole | None, needs("must be a whole number from 0", _known)]
Numbers = Annotated[tuple[Real, ...] | None, needs("must be a list of numbers")]
"""They need not be finite: ``"-inf"`` is one."""
Points = Annotated[
    tuple[tuple[_Whole, _Unit], ...] | None,
    needs("must be a list of pairs of a number of tokens and a quality in [0, 1]"),
]
Finish = Annotated[
    FinishReason | None,
    needs(
        f"must be one of {', '.join(FinishReason)}",
        lambda value: SERVER_NAMES.get(value, value) if isinstance(value, str) else value,
    ),
]

TEXT, OPTIONAL_TEXT = TypeAdapter[str](Text), TypeAdapter[str | None](OptionalText)
COUNT, NUMBER = TypeAdapter[int | None](Count), TypeAdapter[float | None](Number)


@dataclass(frozen=True)
class Cells:
    """One row and its place in a file."""

    row: Mapping[str, Any]
    where: str

    def read(self, kind: TypeAdapter[T], name: str) -> T:
        """The cell of that name; None where it is missing and may be."""
        try:
            return kind.validate_python(self.row.get(name))
        except ValidationError as error:
            self.fail(name, error.errors()[0]["msg"])

    def read_all(self, kind: TypeAdapter[T]) -> T:
        """The whole row."""
        try:
            return kind.validate_python(self.row)
        except ValidationError as errors:
            error = errors.errors()[0]
            self.fail(str(error["loc"][0]), "must be given" if error["type"] == "missing" else error["msg"])

    def refuse_unknown(self, known: Sequence[str]) -> None:
        """Refuse a cell with another name, which may be misspelled."""
        for name in self.row:
            if name not in known:
                choices = ", ".join(known)
                raise DataError(f"samples: {self.where}: {_shown(name)}: unknown field; rename it to one of {choices}")

    def fail(self, name: str, need: str) -> NoReturn:
        """Refuse a cell."""
        shown = _shown(self.row[name]) if name in self.row else "(missing)"
        raise DataError(f"samples: {self.where}: {name} = {shown} {need}; mend or remove that row")


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 10**60:
        return "an integer of more than 60 digits"  # spelling it out takes quadratic time, or is refused
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
