"""Flags: read by the type of their field, hyphens or underscores, and sections that become another variant."""

import math
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from arrol.configs.base import StrictModel, validate
from arrol.configs.flags import change, override, parse_flags
from arrol.configs.kinds import models
from arrol.configs.method import DrGrpoConfig
from arrol.configs.run import CompareConfig, RunConfig
from arrol.configs.sft import SftConfig
from arrol.errors import ConfigError


class Cat(StrictModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9
    fur_colour: str = "grey"


class Dog(StrictModel):
    kind: Literal["dog"] = "dog"
    fur_colour: str = "brown"
    tricks: tuple[str, ...] = ()


class Garden(StrictModel):
    name: str = "garden"
    owner: str | None = "me"
    trees: int = 1
    limit: int | None = 3
    size: float = 1.0
    open_late: bool = False
    soil: Literal["sand", "1e3"] = "sand"
    level: Literal[0, 1] = 0
    rows: tuple[int, ...] = ()
    tools: tuple[Literal["rake", "hoe"], ...] = ()
    shares: dict[str, float] = {}
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()
    box: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("flags", "field", "expected"),
    [
        *(
            (["--name", text], "name", text)
            for text in (
                "1e3",
                "2026-01-01",
                "true",
                "[1]",
                "inf",
                "none",
                "07",
                "'x'",
                '"x"',
                "a=b",
                "/tmp/a b",
                "",
                "1,2",
            )
        ),
        (["--name=--x"], "name", "--x"),
        (["--owner", "7"], "owner", "7"),
        (["--owner", "none"], "owner", None),
        (["--owner", "None"], "owner", None),
        (["--trees", "1e3"], "trees", 1000),
        (["--trees", "1_000"], "trees", 1000),
        (["--trees", "-4"], "trees", -4),
        (["--trees", "07"], "trees", 7),
        (["--limit", "none"], "limit", None),
        (["--limit", "5"], "limit", 5),
        (["--size", "2"], "size", 2.0),
        (["--size", "-0.5"], "size", -0.5),
        (["--size", "1e-6"], "size", 1e-6),
        (["--open-late", "true"], "open_late", True),
        (["--open_late", "False"], "open_late", False),
        (["--soil", "1e3"], "soil", "1e3"),
        (["--level", "1"], "level", 1),
        (["--rows", "[1, 2]"], "rows", (1, 2)),
        (["--rows", "1,2"], "rows", (1, 2)),
        (["--rows", "5"], "rows", (5,)),
        (["--rows", "[]"], "rows", ()),
        (["--tools", "rake"], "tools", ("rake",)),
        (["--tools", '["rake", "hoe"]'], "tools", ("rake", "hoe")),
        (["--tools", "[rake, hoe]"], "tools", ("rake", "hoe")),
        (["--shares.old-way", "0.5"], "shares", {"old-way": 0.5}),
        (["--shares", "{a = 1}"], "shares", {"a": 1.0}),
        (["--pet", "dog", "--pet.fur-colour", "1"], "pet", Dog(fur_colour="1")),
        (["--pet", '{kind = "dog", tricks = ["sit"]}'], "pet", Dog(tricks=("sit",))),
        (["--pet.kind=dog", "--pet.tricks", "1,beg"], "pet", Dog(tricks=("1", "beg"))),
        (["--box.any-thing.more", "[1]"], "box", {"any-thing": {"more": [1]}}),
    ],
)
def test_a_value_is_read_by_the_type_of_its_field(flags, field, expected):
    found = getattr(validate(Garden, parse_flags(flags, Garden)), field)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--trees", "2026-01-01"], "trees = '2026-01-01': must be a whole number"),
        (["--trees", "true"], "trees = true: must be a number, not true or false"),
        (["--trees", "1.5"], "trees = 1.5: must be a whole number"),
        (["--trees", "[1]"], "trees = '[1]': must be a whole number"),
        (["--trees", "none"], "trees = 'none': must be a whole number"),
        (["--limit", "many"], "limit = 'many': must be a whole number"),
        (["--size", "inf"], "size = inf: must be a finite number"),
        (["--size", "nan"], "size = nan: must be a finite number"),
        (["--size", "'1'"], "size = \"'1'\": must be a number"),
        (["--size", "false"], "size = false: must be a number, not true or false"),
        (["--open_late", "maybe"], "open_late = 'maybe': must be true or false"),
        (["--soil", "Sand"], "soil = 'Sand': must be 'sand' or '1e3'"),
        (["--level", "2"], "level = '2': must be 0 or 1"),
        (["--rows", "a,b"], "rows = 'a': must be a whole number"),
        (["--tools", "spade"], "tools = 'spade': must be 'rake' or 'hoe'"),
        (["--shares", "much"], "shares = 'much': must be a table of names and values"),
        (["--pet", "cow"], "pet.kind = 'cow': unknown; the nearest of 'cat', 'dog' is"),
        (["--pett", "2026-01-01"], "pett = '2026-01-01': unknown key; the nearest known one is 'pet'"),
        (["--open-lates", "1"], "open_lates = 1: unknown key; the nearest known one is 'open_late'"),
        (["--pet", "dog", "--pet.lives", "1"], "pet.lives = 1: unknown key; only pet.kind = 'cat' has it"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line_with_what_was_typed(flags, expected):
    with pytest.raises(ConfigError) as caught:
        validate(Garden, parse_flags(flags, Garden))
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["a"], "flag = 'a': not understood; write --section.field VALUE"),
        (["--"], "flag = '--': not understood; write --section.field VALUE"),
        (["--name"], "flag = '--name': has no value; write --name TEXT"),
        (["--name", "--b", "1"], "flag = '--name': has no value; write --name TEXT"),
        (
            ["--name", "1", "--name.b", "2"],
            "flag = '--name.b': name was given a value before; give either the section or its fields",
        ),
        (["--box.b", "1", "--box", "2"], "flag = '--box': box was given before; give it once"),
        (["--open-late", "1", "--open_late", "1"], "flag = '--open_late': open_late was given before; give it once"),
        (["--pet", "cat", "--pet.kind", "cat"], "flag = '--pet.kind': pet.kind was given before; give it once"),
    ],
)
def test_a_bad_flag_is_one_line(flags, expected):
    with pytest.raises(ConfigError) as caught:
        parse_flags(flags, Garden)
    assert str(caught.value) == expected


def test_another_variant_keeps_what_both_have_and_says_what_it_leaves_out(caplog):
    values = {"name": "x", "pet": {"kind": "cat", "lives": 3, "fur_colour": "red"}}
    assert override(Garden, values, ["--pet", "dog"])["pet"] == {"kind": "dog", "fur_colour": "red"}
    assert caplog.messages == ["arrol: another variant was named, left out of the config: pet.lives = 3"]
    caplog.clear()
    assert override(Garden, values, ["--pet", "cat", "--trees", "2"])["pet"] == values["pet"]
    assert caplog.messages == []


def test_a_value_that_the_new_variant_does_not_allow_is_left_out_unless_it_was_typed(caplog):
    """Files of Countdown may start with two numbers, those of Search with three."""
    values = {"task": {"name": "countdown", "min_numbers": 2, "num_problems": 5}, "model": "m"}
    assert override(RunConfig, values, ["--task", "search"])["task"] == {"name": "search", "num_problems": 5}
    assert caplog.messages == ["arrol: another variant was named, left out of the config: task.min_numbers = 2"]
    typed = override(RunConfig, values, ["--task", "search", "--task.min_numbers", "2"])
    with pytest.raises(ConfigError, match=r"^task\.min_numbers = 2: must be at least 3"):
        validate(RunConfig, typed)


def test_a_field_of_an_absent_section_is_one_of_its_default_variant():
    values = {"task": {"name": "arithmetic"}, "model": "m"}
    config = validate(RunConfig, override(RunConfig, values, ["--algorithm.correction", "ipw", "--seed", "1"]))
    assert config.algorithm == DrGrpoConfig(correction="ipw")
    changed = override(RunConfig, values, ["--pruning.rule", "uniform", "--pruning.keep_ratio", "0.25"])
    assert changed["pruning"] == {"rule": "uniform", "keep_ratio": 0.25}


def test_another_variant_does_not_hide_a_key_that_no_variant_has():
    values, left_out = change(Garden, {"pet": {"kind": "cat", "livez": 3}}, {"pet": {"kind": "dog"}})
    assert (values["pet"], left_out) == ({"kind": "dog", "livez": 3}, [])
    with pytest.raises(ConfigError, match=r"^pet\.livez = 3: unknown key"):
        validate(Garden, values)


def test_a_table_with_the_shape_of_a_config_is_read_as_that_config():
    class Street(StrictModel):
        house: dict[str, Any] = {}

    flags, shapes = ["--house.name", "1e3", "--house.pet", "dog", "--house.open-late", "true"], {"house": Garden}
    values = {"house": {"pet": {"kind": "cat", "lives": 1}}}
    assert override(Street, values, flags, shapes) == {
        "house": {"name": "1e3", "pet": {"kind": "dog"}, "open_late": True}
    }


@pytest.mark.parametrize("model", [RunConfig, SftConfig, CompareConfig])
def test_a_field_reads_alike_in_every_variant_that_has_it(model):
    """The type of a flag is known before the variant is."""
    for info in model.model_fields.values():
        nested = models(info.annotation)
        for name in {name for node in nested for name in node.model_fields}:
            kinds = [node.model_fields[name].annotation for node in nested if name in node.model_fields]
            for text in ("1e3", "1", "true", "x", "none", "a,b"):
                plain = {str(parse_flags([f"--{name}", text], node)) for node in nested if name in node.model_fields}
                assert len(plain) == 1, (name, text, kinds)


def test_infinity_is_a_text_where_text_is_asked():
    assert validate(Garden, parse_flags(["--name", "inf", "--shares.a", "1"], Garden)).name == "inf"
    with pytest.raises(ConfigError, match="finite"):
        validate(Garden, parse_flags(["--shares.a", "inf"], Garden))
    assert math.isinf(parse_flags(["--size", "inf"], Garden)["size"])
