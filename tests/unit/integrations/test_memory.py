"""What a host remembers comes back from disk, and is refused when it does not fit."""

import numpy as np
import pytest

from arrol.configs.host import parse_host
from arrol.errors import CheckpointError
from arrol.integrations.memory import HEAD_FILE, HostMemory, read_head, write_head
from arrol.integrations.warmup import without_probes

from .groups import group_of

CONFIG = parse_host(
    {"probe_tokens": 4, "quality": {"features": ["logprobs"], "hidden_size": 8, "min_class_records": 2}}
)


def memory_of(config=CONFIG, size=16):
    return HostMemory(config, size, seed=3)


def learnt(steps=4):
    memory = memory_of()
    rng = np.random.default_rng(0)
    for step in range(1, steps + 1):
        memory.step += 1
        keep = rng.random((3, 6)) < 0.7
        rewards = (rng.random((3, 6)) < 0.5).astype(float)
        memory.learn([group_of(keep[g], [0.7] * 6, rewards[g], step=step, number=g, features=4) for g in range(3)])
    return memory


def test_metrics_of_a_batch_are_those_of_the_list():
    metrics = learnt().metrics()
    for key in ("tokens/generated", "rollout/survivors_frac", "rollout/smallest_group", "quality/head_loss"):
        assert np.isfinite(metrics[key]), key


def test_all_of_it_comes_back(tmp_path):
    memory = learnt()
    write_head(tmp_path, memory.save())
    other = memory_of()
    other.load(read_head(tmp_path))
    assert other.step == 4
    assert other.history.success_rate("p1") == memory.history.success_rate("p1") is not None
    assert other.ledger.totals == memory.ledger.totals
    features = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(other.estimator.scores(features, 0), memory.estimator.scores(features, 0))
    groups = [group_of([1, 1, 0], [0.5] * 3, [1.0, 0.0, 0.0], step=5, features=4)]
    assert other.learn(groups) == pytest.approx(memory.learn(groups), nan_ok=True)


def test_a_state_from_before_the_probe_was_chosen_has_no_head():
    measuring = memory_of(without_probes(CONFIG))
    measuring.step = 2
    measuring.learn([group_of([1, 1], [1.0, 1.0], [1.0, 0.0])])
    other = memory_of()
    before = other.estimator.save()
    other.load(measuring.save())
    assert (other.step, other.history.success_rate("p0"), other.probe_tokens) == (2, 0.5, (4,))
    assert other.ledger.totals == measuring.ledger.totals
    np.testing.assert_equal(other.estimator.save(), before)


def test_no_head_is_none(tmp_path):
    assert read_head(tmp_path) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [({"probe_tokens": 5}, "probe_tokens = \\[5\\]"), ({"probe_tokens": 4, "quality": {}}, "layout = ")],
)
def test_a_head_of_another_shape_is_named(tmp_path, options, words):
    write_head(tmp_path, learnt().save())
    other = memory_of(parse_host({"quality": {"features": ["logprobs"], "hidden_size": 8}, **options}))
    with pytest.raises(CheckpointError, match=words):
        other.load(read_head(tmp_path))


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_a_damaged_head_is_named(tmp_path, suffix):
    write_head(tmp_path, learnt().save())
    path = tmp_path / f"{HEAD_FILE}.{suffix}"
    whole = path.read_bytes()
    place = len(whole) // 2
    for content in (b"{", whole[:-1], whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is damaged"):
            read_head(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match="is damaged"):
        read_head(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be saved"):
        write_head(tmp_path / "file" / "sub", learnt().save())
