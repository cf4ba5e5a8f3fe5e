"""A pool in memory and on disk."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from arrol.errors import DataError
from arrol.lab.pool import Pool


def test_a_file_gives_the_same_pool(pool, tmp_path):
    pool.save(tmp_path / "a" / "p.safetensors")
    read = Pool.load(tmp_path / "a" / "p.safetensors")
    assert read.keys == pool.keys
    assert read.probe_tokens == pool.probe_tokens
    assert read.meta == pool.meta
    for name in ("reward_PN", "length_PN", "token_ids_T", "logprobs_T", "features_PNKF", "quality_PNK", "sketch_PND"):
        np.testing.assert_array_equal(getattr(read, name), getattr(pool, name))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["p.safetensors"]


def test_a_file_of_the_first_version_has_no_successes(pool, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    pool.save(tmp_path / "p.safetensors")
    arrays = load_file(tmp_path / "p.safetensors")
    with safe_open(str(tmp_path / "p.safetensors"), "numpy") as file:
        metadata = file.metadata()
    del arrays["success_PN"]
    head = {name: value for name, value in json.loads(metadata["pool"]).items() if name != "sha256"}
    save_file(arrays, tmp_path / "old.safetensors", metadata={**metadata, "pool": json.dumps(head)})
    read = Pool.load(tmp_path / "old.safetensors")
    np.testing.assert_array_equal(read.label_PN, np.where(read.is_known_PN, read.reward_PN > 0.5, np.nan))


def test_a_changed_bit_is_found_wherever_it_is(pool, tmp_path):
    path, rng = tmp_path / "p.safetensors", random.Random(0)
    pool.save(path)
    whole, found = path.read_bytes(), 0
    for place in {*range(8, 2000, 31), *(rng.randrange(8, len(whole)) for _ in range(100))}:
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            read = Pool.load(path)  # a blank between two fields
        except DataError as error:
            found += 1
            assert "cannot be read (" in str(error) or "is no pool" in str(error)  # noqa: PT017
        else:
            assert read.meta == pool.meta
            np.testing.assert_array_equal(read.sketch_PND, pool.sketch_PND)
    assert found > 100


def test_parts_join_to_the_whole(pool):
    joined = Pool.join([pool.part([0, 1]), pool.part([2]), pool.part([3, 4, 5])])
    assert joined.keys == pool.keys
    np.testing.assert_array_equal(joined.token_ids_T, pool.token_ids_T)
    assert joined.tokens(2, 7) == pool.tokens(2, 7) == pool.part([2]).tokens(0, 7)
    np.testing.assert_array_equal(joined.logprobs(5, 3), pool.logprobs(5, 3))


def test_a_part_without_successes_joins_by_its_rewards(pool):
    told, untold = pool.part([0]), pool.part([1])
    told = replace(told, success_PN=1 - told.label_PN.astype(np.float32))
    both = Pool.join([told, untold])
    assert both.label_PN[0].tolist() == (1 - pool.label_PN[0]).tolist()
    assert both.label_PN[1].tolist() == pool.label_PN[1].tolist()


def test_mean_logprobs_are_those_of_the_first_tokens(pool):
    mean_PNK = pool.mean_logprobs()
    for rollout in range(5):
        for k, tokens in enumerate(pool.probe_tokens):
            expected = pool.logprobs(1, rollout)[:tokens].mean() if pool.length_PN[1, rollout] >= tokens else np.nan
            np.testing.assert_allclose(mean_PNK[1, rollout, k], expected, rtol=1e-5)


def test_rollouts_without_a_reward_are_not_known():
    pool = Pool(("a",), np.array([[1.0, np.nan, 0.0]]), np.array([[2, 3, 0]]))
    assert pool.is_known_PN.tolist() == [[True, False, False]]
    assert not pool.has_gradients
    assert not pool.has_features
    assert pool.tokens(0, 1) == (0, 0, 0)
    assert pool.logprobs(0, 0).tolist() == [0, 0]


@pytest.mark.parametrize("content", [b"", b"no pool", b"\x10" + b"\x00" * 40])
def test_another_file_is_one_line(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"pool = .*x.safetensors': cannot be read .*; remove it and collect it again"):
        Pool.load(tmp_path / "x.safetensors")


def test_a_safetensors_file_of_another_kind_is_named(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match=r"is no pool; give a file that arrol lab wrote"):
        Pool.load(tmp_path / "x.safetensors")


def saved_again(pool, path, head=None, **arrays):
    """The pool in a file without a sum, with another header or other arrays."""
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    pool.save(path)
    with safe_open(str(path), "numpy") as file:
        metadata = file.metadata()
    known = {name: value for name, value in json.loads(metadata["pool"]).items() if name != "sha256"}
    text = head if isinstance(head, str) else json.dumps({**known, **(head or {})})
    save_file({**load_file(path), **arrays}, path, metadata={**metadata, "pool": text})


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"probe_tokens": {"a": 1}}, "probe_tokens: {'a': 1} are no ascending numbers"),
        ({"probe_tokens": [4, [8]]}, "probe_tokens: "),
        ({"probe_tokens": [4, {"a": 8}]}, "probe_tokens: "),
        ({"probe_tokens": [8, 4]}, "probe_tokens: "),
        ({"probe_tokens": [4, 4]}, "probe_tokens: "),
        ({"probe_tokens": [0, 4]}, "probe_tokens: "),
        ({"probe_tokens": [4.0, 8.0]}, "probe_tokens: "),
        ({"probe_tokens": [4, 10**400]}, "probe_tokens: "),
        ({"probe_tokens": [4]}, "features_PNKF: float16 of "),
        ({"keys": ["a"]}, "_PN: "),
        ({"keys": [1] * 6}, "keys: is no list of texts"),
        ({"keys": "abcdef"}, "keys: is no list of texts"),
        ({"meta": None}, "meta: is no object"),
        ({"meta": {"seconds": []}}, "meta: is no object with seconds"),
        ({"meta": {"seconds": {"generate_s": "x"}}}, "meta: is no object with seconds"),
        ({"meta": {"num_parameters": "x"}}, "meta: num_parameters is no whole number"),
        ("[]", "its header is no object"),
        ("3", "its header is no object"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_header_of_another_shape_is_one_line(pool, tmp_path, head, said):
    saved_again(pool, tmp_path / "p.safetensors", head)
    with pytest.raises(DataError) as caught:
        Pool.load(tmp_path / "p.safetensors")
    assert str(caught.value).startswith(f"pool = {str(tmp_path / 'p.safetensors')!r}: cannot be read (")
    assert said in str(caught.value)


def test_arrays_of_another_pool_are_one_line(pool, tmp_path):
    path = tmp_path / "p.safetensors"
    for name, array in {
        "length_PN": pool.length_PN + 1,
        "reward_PN": pool.reward_PN[:, :-1],
        "quality_PNK": pool.quality_PNK[:, :, :1],
        "token_ids_T": pool.token_ids_T[1:],
        "logprobs_T": pool.logprobs_T.astype(np.int32),
        "is_truncated_PN": pool.is_truncated_PN.astype(np.int8),
        "sketch_PND": pool.sketch_PND[..., 0],
    }.items():
        saved_again(pool, path, **{name: np.ascontiguousarray(array)})
        with pytest.raises(DataError, match=r"cannot be read \((length_PN|" + name + "): "):
            Pool.load(path)
    saved_again(pool, path, length_PN=-pool.length_PN)
    with pytest.raises(DataError, match="length_PN: "):
        Pool.load(path)


def test_a_pool_without_a_config_is_one_line(pool):
    for meta in ({}, {"config": None}, {"config": []}):
        with pytest.raises(DataError, match=r"^pool: holds no config of a run; collect it with arrol lab$"):
            _ = replace(pool, meta=meta).config
