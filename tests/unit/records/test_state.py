"""Nested state to two files and back, without pickle."""

import doctest
import json

import numpy as np
import pytest

from arrol.records import state as module
from arrol.records.state import read_state, write_state


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


def test_an_array_that_is_missing_is_a_key_error(tmp_path):
    write_state(tmp_path, "head", {"x": np.zeros(1)})
    tree = json.loads((tmp_path / "head.json").read_text())
    tree["y"] = {"__array__": "/y", "shape": [1]}
    (tmp_path / "head.json").write_text(json.dumps(tree))
    with pytest.raises(KeyError):
        read_state(tmp_path, "head")
