"""Every field of every config refuses a wrong value in our words."""

import pytest

from arrol.configs.base import StrictModel, merge, validate, variants
from arrol.configs.kinds import models
from arrol.configs.run import CompareConfig, RunConfig
from arrol.configs.sft import SftConfig
from arrol.configs.wording import WORDS, need
from arrol.errors import ConfigError

ODD = (None, -(10**12), 10**15, 2.5, 1e300, float("nan"), "odd one", "", "[", [], ["odd"], [[]], {}, {"odd": 1}, True)
ODD += (object(), 10**40, {"odd": None}, [None], -1e-9, b"odd", 1j)
RUN = {"model": "m", "task": {"name": "arithmetic"}}
SFT = {"task": {"name": "arithmetic"}}
THEIRS = ("nput should", "should be", "should have", "should match", "valid integer", "valid string", "pydantic")


def nodes(model, path=()):
    """(path to a node, its tag, the node) of a config and of every section and variant in it."""
    yield path, {}, model
    for name, info in model.model_fields.items():
        tagged = variants(info)
        for tag, node in tagged.items():
            yield (*path, name), {info.discriminator: tag}, node
        for node in models(info.annotation) if not tagged else ():
            if issubclass(node, StrictModel):
                yield from nodes(node, (*path, name))


def mistakes(model, good):
    """(field, message) of every field of a config under every odd value that it refuses."""
    validate(model, good)
    for path, tag, node in nodes(model):
        for name in node.model_fields:
            for odd in ODD:
                values = {**tag, name: odd}
                for part in reversed(path):
                    values = {part: values}
                try:
                    validate(model, merge(good, values))
                except ConfigError as error:
                    yield ".".join((*path, name)), str(error)


@pytest.mark.parametrize(
    ("model", "good", "least"),
    [
        (RunConfig, RUN, 1500),
        (SftConfig, SFT, 400),
        (CompareConfig, {"arms": [{"name": "a"}], "run": RUN}, 50),
    ],
)
def test_no_words_of_pydantic_show(model, good, least):
    found = list(mistakes(model, good))
    assert len({line for _, line in found}) > least
    assert [line for _, line in found if any(words in line for words in THEIRS)] == []
    assert [line for _, line in found if "\n" in line] == []


@pytest.mark.parametrize(
    ("kind", "context", "said"),
    [
        ("greater_than", {"gt": 0.0}, "must be above 0"),
        ("less_than_equal", {"le": 0.1}, "must be at most 0.1"),
        ("less_than_equal", {"le": 10**9}, "must be at most 1000000000"),
        ("string_too_short", {"min_length": 1}, "must have at least 1 character"),
        ("too_long", {"max_length": 3}, "must have at most 3 entries"),
        ("literal_error", {"expected": "0 or 1"}, "must be 0 or 1"),
    ],
)
def test_limits_are_named(kind, context, said):
    assert need(kind, context, "Input should be theirs") == said


def test_a_kind_without_words_of_ours_is_still_a_sentence_in_this_style():
    assert need("date_type", {}, "Input should be a valid date") == "must be a valid date"
    assert need("odd", {}, "Value error, Not so") == "not so"
    assert all(words.startswith(("must ", "has ")) for words in WORDS.values())
