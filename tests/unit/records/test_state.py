"""Nested state to two files and back, without pickle."""

import doctest
import json
import random

import numpy as np
import pytest
from safetensors import SafetensorError

from arrol.records import state as module
from arrol.records.state import is_sealed, read_state, write_state


def test_example():
    assert doctest.testmod(module).failed == 0


def test_nested_arrays_scalars_and_lists_come_back(tmp_path):
    given = {
        "a": {"b": [np.arange(6.0).reshape(2, 3), {"c": np.zeros((0, 4), np.float32)}]},
        "n": 3,
        "s": "x",
        "z": None,
    }
    write_state(tmp_path, "head", given)
    back = read_state(tmp_path, "head")
    assert back["n"] == 3
    assert back["s"] == "x"
    assert back["z"] is None
    np.testing.assert_array_equal(back["a"]["b"][0], given["a"]["b"][0])
    assert back["a"]["b"][1]["c"].shape == (0, 4)
    assert back["a"]["b"][1]["c"].dtype == np.float32


def test_a_scalar_array_keeps_its_shape(tmp_path):
    write_state(tmp_path, "head", {"x": np.array(2.5)})
    assert read_state(tmp_path, "head")["x"].shape == ()


def test_a_state_of_a_release_without_sums_is_read(tmp_path):
    write_state(tmp_path, "head", {"x": np.ones(1), "n": 2})
    assert is_sealed(tmp_path, "head")
    tree = json.loads((tmp_path / "head.json").read_text())
    assert tree.pop("__sums__")["sha256"]
    assert tree["n"] == 2  # readable as before
    (tmp_path / "head.json").write_text(json.dumps(tree))
    assert not is_sealed(tmp_path, "head")
    assert read_state(tmp_path, "head") == {"x": np.ones(1), "n": 2}
    tree["y"] = {"__array__": "/y", "shape": [1]}
    (tmp_path / "head.json").write_text(json.dumps(tree))
    with pytest.raises(KeyError):
        read_state(tmp_path, "head")


def test_every_changed_bit_is_found(tmp_path):
    given = {"x": np.arange(3.0), "names": ["a", 0.1, float("nan")]}
    write_state(tmp_path, "head", given)
    rng = random.Random(0)
    for path in tmp_path.iterdir():
        whole = path.read_bytes()
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            try:
                back = read_state(tmp_path, "head")
            except (ValueError, KeyError, SafetensorError):
                continue
            assert path.suffix == ".json"  # a blank between two values, or the name of the sums
            assert repr({name: back[name] for name in given}) == repr(given)
        path.write_bytes(whole)


@pytest.mark.parametrize("content", ["[]", "3", "{", ""])
def test_what_is_no_object_is_a_value_error(tmp_path, content):
    write_state(tmp_path, "head", {})
    (tmp_path / "head.json").write_text(content)
    with pytest.raises(ValueError, match=r"head|JSON|Expecting"):
        read_state(tmp_path, "head")
    assert not is_sealed(tmp_path, "head")
    assert not is_sealed(tmp_path, "none")


@pytest.mark.parametrize(
    "shape",
    ['"x"', "[1.5]", '["inf"]', "[[2]]", "3.5", "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000],
)
def test_an_array_of_another_shape_is_a_value_error(tmp_path, shape):
    """In a state without sums, as of older releases."""
    write_state(tmp_path, "a", {"x": np.arange(4.0)})
    (tmp_path / "a.json").write_text('{"x": {"__array__": "/x", "shape": ' + shape + "}}")
    with pytest.raises(ValueError, match=r"^a: "):
        read_state(tmp_path, "a")
    assert not is_sealed(tmp_path, "a")
