"""The queue tells when its reader waits; a checkpoint finds the state before what was surely trained on."""

import queue
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from arrol.integrations.trl.async_queue import SampleQueue, Snapshots


def sample(tokens=4):
    return SimpleNamespace(completion_mask=np.array([0, *[1] * tokens]))


def test_it_is_awaited_only_while_the_reader_waits():
    samples = SampleQueue()
    assert not samples.is_awaited.is_set()
    with pytest.raises(queue.Empty):
        samples.get(timeout=0.01)
    assert samples.is_awaited.is_set()
    samples.put_all([])
    assert samples.is_awaited.is_set(), "an empty batch feeds no reader"
    samples.put_all([sample(), sample()])
    assert not samples.is_awaited.is_set()
    samples.get()
    samples.get()
    assert not samples.is_awaited.is_set(), "it may be training on them"


def test_a_batch_is_never_seen_in_part():
    samples, seen = SampleQueue(), []
    reader = threading.Thread(target=lambda: seen.extend(samples.get(timeout=5) for _ in range(64)))
    reader.start()
    assert samples.is_awaited.wait(5)
    samples.put_all([sample() for _ in range(64)])
    reader.join(5)
    assert len(seen) == 64
    assert not samples.is_awaited.is_set()


def test_samples_that_the_loader_holds_are_not_surely_trained():
    samples = SampleQueue()
    samples.put_all([sample(tokens) for tokens in (4, 4, 4, 3, 3)])
    for _ in range(5):
        samples.get()
    assert samples.num_put == samples.num_taken == 5
    assert samples.surely_trained(samples=2, tokens=0) == 3
    # with a budget of 7 tokens a microbatch holds 3 + 3, and one more sample waits for the next
    assert samples.surely_trained(samples=0, tokens=7) == 2
    assert samples.surely_trained(samples=9, tokens=0) == 0


def test_the_newest_state_behind_which_all_was_trained():
    snapshots = Snapshots()
    assert snapshots.before(0) is None
    for number, num_put in enumerate((0, 10, 20, 20, 30)):
        snapshots.add(num_put, {"number": number})
    assert snapshots.before(9) == {"number": 0}
    assert snapshots.before(10) == {"number": 1}
    assert snapshots.before(25) == {"number": 3}, "a batch without samples is over with the one before it"
    assert snapshots.before(99) == {"number": 4}
