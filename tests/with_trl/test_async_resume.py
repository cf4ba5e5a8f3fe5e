"""A checkpoint holds the worker as it was before the first batch that the trainer has not wholly trained on."""

import json

import async_host
import numpy as np
import pytest

import trl_host
from arrol.errors import DataError
from arrol.integrations.memory import HEAD_FILE, write_head
from trl_host import history

pytestmark = pytest.mark.skipif(not trl_host.has_async(), reason="the worker protocol of TRL 1.16")
STEPS = {"save_strategy": "steps", "save_steps": 2}
"""At ``max_staleness`` 1 a batch begins when the trainer waits for one: no clock says which weights write it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return async_host.model_folder(tmp_path_factory.mktemp("model"))


def tokens(batch):
    return [(s.group_id, s.advantage, s.input_ids.tolist()) for s in batch.samples]


@pytest.mark.parametrize("options", [{"rule": "neyman"}, {"rule": "uniform", "allocation": "aero"}])
def test_a_loaded_worker_goes_on_as_if_nothing_had_happened(folder, tmp_path, options):
    """Head, calibration, history, posterior, random streams and position, with the weights unchanged."""
    args = async_host.config(tmp_path)

    def worker():
        return async_host.worker_of(folder, args, **options)[0]

    def made(maker, count):
        return [tokens(maker.make(lambda: 1, lambda: None)) for _ in range(count)]

    whole, first = worker().batch_maker(), worker().batch_maker()
    expected = made(whole, 4)
    assert made(first, 2) == expected[:2]
    write_head(tmp_path / "checkpoint-1", first.save())
    second = worker()
    assert second.load(tmp_path / "checkpoint-1")
    assert made(second.batch_maker(), 2) == expected[2:]


def test_a_resumed_run_goes_on_behind_what_was_trained(folder, tmp_path):
    """Without ``probe_tokens``: the lengths of the first batch choose the probe."""
    options = {"rule": "neyman", "probe_tokens": None}
    _, worker = async_host.trained(folder, tmp_path, settings={**STEPS, "max_steps": 2}, **options)
    # two steps of 16 samples, and TRL's loader holds the next 16
    assert worker.rollout_buffer.num_taken == 3 * 16
    saved = json.loads((tmp_path / "checkpoint-2" / f"{HEAD_FILE}.json").read_text())
    assert 1 <= saved["step"] < worker.rollout_buffer.num_put, "batches"
    assert saved["position"] == 2 * saved["step"], "two prompts a batch"

    args = async_host.config(tmp_path, **STEPS, max_steps=4)
    again, policy = async_host.worker_of(folder, args, **options)
    resumed = async_host.trainer_of(folder, args, again, policy)
    resumed.train(resume_from_checkpoint=True)
    later = json.loads((tmp_path / "checkpoint-4" / f"{HEAD_FILE}.json").read_text())
    assert resumed.state.global_step == 4
    assert later["step"] > saved["step"]
    assert later["position"] == 2 * later["step"]
    assert later["estimator"]["version"] > saved["estimator"]["version"]
    assert later["groups"] == later["position"], "every prompt of these batches was asked"
    (probe,) = later["probe_tokens"]
    assert saved["probe_tokens"] in ([], [probe])
    assert history(resumed, "arrol/pruning/kept_frac")[-1] < 1.0


def test_two_runs_at_a_staleness_of_one_are_equal(folder, tmp_path):
    one, other = (
        trl_host.weights(async_host.trained(folder, tmp_path / name, settings=STEPS, rule="neyman")[0])
        for name in ("one", "other")
    )
    np.testing.assert_array_equal(one, other)


def test_a_worker_that_is_no_callback_warns(folder, tmp_path):
    args = async_host.config(tmp_path, max_steps=1)
    worker, policy = async_host.worker_of(folder, args)
    host = async_host.trainer_of(folder, args, worker, policy, callbacks=[])
    with pytest.warns(UserWarning, match="pass callbacks=\\[worker\\]"):
        host.train()


def test_a_resume_without_a_head_warns(folder, tmp_path):
    async_host.trained(folder, tmp_path, settings={**STEPS, "max_steps": 2})
    for file in (tmp_path / "checkpoint-2").glob(f"{HEAD_FILE}.*"):
        file.unlink()
    args = async_host.config(tmp_path, **STEPS, max_steps=3)
    worker, policy = async_host.worker_of(folder, args)
    with pytest.warns(UserWarning, match="checkpoint-2 has no head: a new one starts"):
        async_host.trainer_of(folder, args, worker, policy).train(resume_from_checkpoint=True)


def too_few(completions, **columns):
    return [1.0] * (len(completions) - 1)


def test_a_failing_reward_ends_the_training_with_its_message(folder, tmp_path):
    args = async_host.config(tmp_path)
    worker, policy = async_host.worker_of(folder, args, too_few)
    host = async_host.trainer_of(folder, args, worker, policy)
    with pytest.raises(DataError, match="reward_funcs = 'too_few': returned"):
        host.train()


def always_wrong(completions, **columns):
    return [0.0] * len(completions)


def test_a_run_without_mixed_groups_ends_instead_of_waiting(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("arrol.integrations.trl.async_worker.EMPTY_BATCHES", 3)
    settings = {"max_completion_length": 4, "num_generations": 2, "per_device_train_batch_size": 2}
    options = {"rule": "never", "allocation": {"rule": "dapo", "max_draws": 1.0}}
    args = async_host.config(tmp_path, **settings)
    worker, policy = async_host.worker_of(folder, args, always_wrong, **options)
    host = async_host.trainer_of(folder, args, worker, policy)
    with pytest.raises(DataError, match="'dapo': 3 batches in a row had nothing to train on"):
        host.train()
