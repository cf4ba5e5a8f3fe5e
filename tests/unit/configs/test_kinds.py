"""Values before pydantic: lists of one, and true is no number."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from arrol.configs.base import StrictModel
from arrol.configs.kinds import MAX_BITS, as_kind, list_entry, models, scalar_kinds
from arrol.configs.run import CompareConfig, RunConfig
from arrol.configs.sft import SftConfig


class Inner(StrictModel):
    size: int = 1


@pytest.mark.parametrize(
    ("annotation", "value", "read"),
    [
        (tuple[int, ...], 16, [16]),
        (tuple[int, ...], (3, 6), [3, 6]),
        (tuple[int, ...], "3,6", "3,6"),
        (tuple[float, ...], 0.5, [0.5]),
        (tuple[Literal["a", "b"], ...], "a, b,", ["a", "b"]),
        (tuple[Literal["a", "b"], ...], "[a]", ["a"]),
        (tuple[str, ...], "", []),
        (tuple[Inner, ...], "a", "a"),
        (bool, True, True),
        (bool | None, True, True),
        (int | None, None, None),
        (Any, True, True),
        (dict[str, Any], {"a": True}, {"a": True}),
        (int, 2**MAX_BITS - 1, 2**MAX_BITS - 1),
    ],
)
def test_a_value_as_its_field_takes_it(annotation, value, read):
    assert as_kind(annotation, value) == read


@pytest.mark.parametrize(
    ("annotation", "value", "reason"),
    [
        (int, True, "must be a number, not true or false"),
        (int | None, False, "must be a number, not true or false"),
        (float | Literal["auto"], True, "must be a number, not true or false"),
        (str, True, "must be a text, not true or false"),
        (Literal["a", "b"], True, "must be a text, not true or false"),
        (tuple[int, ...], [3, True], "must be a number, not true or false"),
        (tuple[int, ...], True, "must be a number, not true or false"),
        (dict[str, float], {"wizard": True}, "must be a number, not true or false"),
        (bool, 1, "must be true or false"),
        (bool | None, "yes", "must be true or false"),
        (int, 1e30, "needs more than 63 bits"),
        (int, 2**MAX_BITS, "needs more than 63 bits"),
        (tuple[int, ...], -(2**MAX_BITS), "needs more than 63 bits"),
    ],
)
def test_what_is_no_value_of_a_field(annotation, value, reason):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        as_kind(annotation, value)


def test_kinds_of_a_type():
    assert scalar_kinds(Annotated[int, Field(ge=1)]) == [int]
    assert scalar_kinds(float | Literal["auto"] | None) == [float, str]
    assert scalar_kinds(int | Inner) == []
    assert (list_entry(tuple[int, ...]), list_entry(int)) == (int, None)
    assert models(tuple[Inner, ...] | None) == [Inner]


@pytest.mark.parametrize("model", [RunConfig, SftConfig, CompareConfig])
def test_every_number_of_a_config_refuses_true(model):
    """A field that is a number in some form says so, wherever it stands."""
    found = list(numbers(model))
    assert found
    for annotation in found:
        with pytest.raises(ValueError, match="not true or false"):
            as_kind(annotation, True)


def numbers(model):
    for info in model.model_fields.values():
        nodes = models(info.annotation)
        for node in nodes:
            yield from numbers(node)
        kinds = scalar_kinds(list_entry(info.annotation) or info.annotation)
        if not nodes and kinds and bool not in kinds:
            yield info.annotation
