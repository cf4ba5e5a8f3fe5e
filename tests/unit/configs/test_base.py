"""One line for every mistake: field, value, remedy, and the nearest key."""

import math
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from arrol.configs.base import StrictModel, merge, validate
from arrol.configs.files import read_toml
from arrol.errors import ConfigError


class Cat(StrictModel):
    kind: Literal["cat"] = "cat"
    lives: int = Field(9, ge=1)
    """Lives left, at least 1."""


class Dog(StrictModel):
    kind: Literal["dog"] = "dog"
    tricks: tuple[str, ...] = ()


class Garden(StrictModel):
    size: float = 1.0
    """In square metres, any number."""
    name: str = "garden"
    owner: str = Field(min_length=1)
    """Whose it is."""
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()
    cat: Cat = Cat()

    @model_validator(mode="after")
    def _room(self):
        if self.size < 0:
            raise ValueError("must not be negative; enlarge it")
        if self.size > 100:
            raise ValueError(f"size = {self.size}: too large; sell some")
        return self


GOOD = {"owner": "me"}


def message(values):
    with pytest.raises(ConfigError) as caught:
        validate(Garden, {**GOOD, **values})
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_good_values_become_a_frozen_config():
    garden = validate(Garden, {**GOOD, "pet": {"kind": "dog", "tricks": ["sit"]}, "size": 3})
    assert (garden.size, garden.pet.tricks) == (3.0, ("sit",))
    with pytest.raises(ValueError, match="frozen"):
        garden.size = 4.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sizze": 2}, "sizze = 2: unknown key; the nearest known one is 'size'"),
        ({"cat": {"life": 2}}, "cat.life = 2: unknown key; the nearest known one is 'cat.lives'"),
        ({"pet": {"kind": "cat", "livez": 2}}, "pet.livez = 2: unknown key; the nearest known one is 'pet.lives'"),
        ({"pet": {"kind": "dog", "trick": 2}}, "pet.trick = 2: unknown key; the nearest known one is 'pet.tricks'"),
        ({"pet": {"kind": "cats"}}, "pet.kind = 'cats': unknown; the nearest of 'cat', 'dog' is 'cat'"),
        ({"pet": {"lives": 2}}, "pet.kind: missing; choose one of 'cat', 'dog'"),
        (
            {"cat": {"lives": 0}},
            "cat.lives = 0: must be at least 1; expected: Lives left, at least 1.",
        ),
        (
            {"size": "wide"},
            "size = 'wide': must be a number; expected: In square metres, any number.",
        ),
        ({"size": -1}, "config = {'owner': 'me', 'size': -1}: must not be negative; enlarge it"),
        ({"size": 101}, "size = 101.0: too large; sell some"),
        (
            {"pet": {"kind": "dog", "tricks": [["x"]]}},
            "pet.tricks = ['x']: must be a text; see the comments in configs/",
        ),
    ],
)
def test_a_mistake_is_one_line(values, expected):
    assert message(values) == expected


def test_a_missing_field_says_what_it_means():
    with pytest.raises(ConfigError, match=r"^owner: missing; expected: Whose it is\.$"):
        validate(Garden, {})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_must_be_finite(value):
    assert message({"size": value}).startswith(f"size = {value}: must be a finite number; expected:")


def test_a_number_is_not_a_text():
    assert message({"name": 1e3}) == "name = 1000.0: must be a text; see the comments in configs/"


def test_tables_merge_and_everything_else_is_replaced():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(base, {"a": {"y": [3]}, "b": {"z": 1}}) == {"a": {"x": 1, "y": [3]}, "b": {"z": 1}}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


def test_a_file_that_is_absent_or_no_toml_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"^config = '.*none.toml': no such file; give the path of a TOML file"):
        read_toml(tmp_path / "none.toml")
    path = tmp_path / "bad.toml"
    for content, message in (
        (b"a = ", r"not valid TOML \(.*\); mend that line"),
        (b"\xff\xfe", "no text in UTF-8; give the path of a TOML file"),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=f"^config = '.*bad.toml': {message}$"):
            read_toml(path)
    path.write_text("[a]\nb = 1\n")
    assert read_toml(path) == {"a": {"b": 1}}
