"""Sums of files: what was written is known again, and whatever else is there is named."""

import hashlib
import json
import os
import random
import tracemalloc

import numpy as np
import pytest

from arrol.records.manifest import (
    MANIFEST,
    GrowingSum,
    Sum,
    arrays_sum,
    damage_below,
    file_sum,
    read_manifest,
    run_damage,
    value_sum,
    write_manifest,
    write_run_manifest,
)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of two files, beside the records of its run."""
    folder = tmp_path / "checkpoints" / "step-000002"
    (folder / "policy").mkdir(parents=True)
    (folder / "policy" / "model.safetensors").write_bytes(random.Random(0).randbytes(3 * 2**20))
    (folder / "state.json").write_text("{}")
    (tmp_path / "records.jsonl").write_text("one\ntwo\n")
    write_manifest(folder, {"records.jsonl": file_sum(tmp_path / "records.jsonl")})
    return folder


def damage(folder):
    return damage_below(folder, read_manifest(folder).files)


def test_sums_are_those_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a" * (2**20 + 5))
    assert file_sum(path) == Sum(2**20 + 5, hashlib.sha256(path.read_bytes()).hexdigest())
    assert file_sum(path, 2**20 + 1) == Sum(2**20 + 1, hashlib.sha256(path.read_bytes()[: 2**20 + 1]).hexdigest())
    assert file_sum(path, 2**30) == file_sum(path)
    assert file_sum(path, 0).size == 0


def test_a_sum_takes_no_memory_from_the_heap(tmp_path):
    """A training whose checkpoints read their files into new objects grew by a MiB at each of them."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * (4 * 2**20))
    growing = GrowingSum(path)
    tracemalloc.start()
    try:
        assert file_sum(path) == growing.now()
        assert tracemalloc.get_traced_memory()[1] < 2**18
    finally:
        tracemalloc.stop()


def test_a_growing_file_is_summed_as_it_grows(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    growing = GrowingSum(path)
    assert growing.now() == file_sum(path)
    for text in (b"one\n", b"", b"two\n" * 2**19):
        path.write_bytes(path.read_bytes() + text)
        assert growing.now() == file_sum(path)


def test_what_was_written_is_whole(folder):
    manifest = read_manifest(folder)
    assert set(manifest.files) == {"policy/model.safetensors", "state.json"}
    assert manifest.files["state.json"] == Sum(2, hashlib.sha256(b"{}").hexdigest())
    assert manifest.run == {"records.jsonl": Sum(8, hashlib.sha256(b"one\ntwo\n").hexdigest())}
    assert damage(folder) == []
    assert read_manifest(folder.parent) is None
    write_manifest(folder, manifest.run)
    assert read_manifest(folder) == manifest


def test_a_file_that_is_cut_changed_longer_or_gone_is_named(folder):
    path = folder / "policy" / "model.safetensors"
    whole = path.read_bytes()
    for content, line in (
        (whole[:100], f"policy/model.safetensors has 100 of its {len(whole)} bytes"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "policy/model.safetensors is not what was written"),
        (whole + b"x", "policy/model.safetensors is not what was written"),
    ):
        path.write_bytes(content)
        assert damage(folder) == [line]
    path.unlink()
    (folder / "state.json").write_text("[]")
    assert damage(folder) == ["policy/model.safetensors is absent", "state.json is not what was written"]
    assert damage_below(folder, read_manifest(folder).files, ("policy/",)) == ["policy/model.safetensors is absent"]
    path.mkdir()
    assert damage(folder)[0] == "policy/model.safetensors cannot be read (Is a directory)"


def test_every_changed_bit_of_a_manifest_is_found(folder):
    path = folder / MANIFEST
    whole, manifest, rng = path.read_bytes(), read_manifest(folder), random.Random(0)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            assert read_manifest(folder) == manifest  # a blank between two values
        except ValueError as error:
            assert str(error) in (f"{MANIFEST} cannot be read", f"{MANIFEST} is not what was written")  # noqa: PT017
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=MANIFEST):
            read_manifest(folder)


def test_rows_after_a_checkpoint_are_not_its_concern(folder, tmp_path):
    records = tmp_path / "records.jsonl"
    assert run_damage(tmp_path, ["records.jsonl", "rollouts.jsonl"]) == []
    records.write_text("one\ntwo\nthree\n")
    assert run_damage(tmp_path, ["records.jsonl"]) == []
    records.write_text("one\ntw0\nthree\n")
    assert run_damage(tmp_path, ["records.jsonl"]) == ["records.jsonl is not what was written, in its first 8 bytes"]
    records.write_text("one\n")
    assert run_damage(tmp_path, ["records.jsonl"]) == ["records.jsonl has 4 of its 8 bytes"]


def test_the_newest_manifest_that_can_be_read_tells(folder, tmp_path):
    records = tmp_path / "records.jsonl"
    records.write_text("one\ntwo\nthree\n")
    folder.rename(folder.with_name("step-999999"))
    newer = folder.with_name("step-1000000")
    newer.mkdir()
    write_manifest(newer, {"records.jsonl": file_sum(records)})
    records.write_text("one\ntwo\nfour\n")
    assert run_damage(tmp_path, ["records.jsonl"]) == ["records.jsonl has 13 of its 14 bytes"]
    (newer / MANIFEST).write_text("{")
    assert run_damage(tmp_path, ["records.jsonl"]) == []
    (newer / MANIFEST).unlink()
    records.write_text("")
    assert run_damage(tmp_path, ["records.jsonl"]) == ["records.jsonl has 0 of its 8 bytes"]


def test_a_run_that_has_ended_tells_of_all_its_rows(folder, tmp_path):
    (tmp_path / "records.jsonl").write_text("one\ntwo\nend\n")
    write_run_manifest(tmp_path, ["records.jsonl", "rollouts.jsonl"])
    assert read_manifest(tmp_path) == ({}, {"records.jsonl": file_sum(tmp_path / "records.jsonl")})
    (tmp_path / "records.jsonl").write_text("one\ntwo\n3nd\n")
    names = ["records.jsonl", "rollouts.jsonl"]
    assert run_damage(tmp_path, names) == ["records.jsonl is not what was written, in its first 12 bytes"]
    (tmp_path / MANIFEST).write_text("{")
    assert run_damage(tmp_path, names) == []  # as far as the checkpoint tells
    assert not list(tmp_path.glob("*.part"))


def test_the_sum_of_a_value_depends_on_what_it_says_alone():
    value = {"b": [1, 0.1, None, float("nan")], "a": {"x": "\u00e9"}}
    assert value_sum(value) == value_sum(json.loads(json.dumps(dict(reversed(value.items())), indent=3)))
    assert value_sum(value) != value_sum({**value, "a": {"x": "e"}})


def test_the_sum_of_arrays_depends_on_names_types_shapes_and_numbers():
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(True)}
    others = [
        {"a": arrays["a"], "c": arrays["b"]},
        {"a": arrays["a"].reshape(3, 2), "b": arrays["b"]},
        {"a": arrays["a"].view("i8"), "b": arrays["b"]},
        {"a": arrays["a"] + np.eye(2, 3), "b": arrays["b"]},
        {"a": np.zeros((0, 3)), "b": arrays["b"]},
    ]
    sums = [arrays_sum(each) for each in (arrays, *others)]
    assert len(set(sums)) == len(sums)
    assert arrays_sum(dict(reversed(arrays.items()))) == sums[0]
    assert arrays_sum({**arrays, "a": np.asfortranarray(arrays["a"])}) == sums[0]


def test_a_file_that_nothing_may_read_is_named(folder, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("pathlib.Path.open", refuse)
        assert damage_below(folder, {"state.json": Sum(2, "")}) == ["state.json cannot be read (Input/output error)"]
    os.unlink(folder / MANIFEST)
    assert read_manifest(folder) is None


@pytest.mark.parametrize("run", [None, [], "x", {"a": 3}, {"a": []}, {"a": [1, "x", 2]}, {"a": ["x", "y"]}, {"a": {}}])
def test_a_manifest_of_another_shape_is_refused_though_its_sum_is_right(folder, run):
    value = {"version": 1, "files": {}, "run": run}
    (folder / MANIFEST).write_text(json.dumps({**value, "sha256": value_sum(value)}))
    with pytest.raises(ValueError, match=r"^manifest.json has other fields than were written$"):
        read_manifest(folder)
