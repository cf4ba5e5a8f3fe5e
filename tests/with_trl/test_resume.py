"""The head lies beside each checkpoint, and a run that was interrupted ends as if it had not been."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from arrol.errors import CheckpointError
from arrol.integrations.memory import HEAD_FILE
from trl_host import config, has_digit, history, trainer, weights

STEPS = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}


def graded(completions, answer, **columns):
    """Right is 3, wrong is -1: what a quality is worth has to be learned, too."""
    return [4.0 * reward - 1.0 for reward in has_digit(completions, answer)]


@pytest.mark.parametrize(
    ("options", "reward"),
    [
        ({"draw": "systematic"}, has_digit),
        ({"draw": "bernoulli"}, has_digit),
        ({"draw": "systematic"}, graded),
        ({"allocation": "aero"}, has_digit),
        ({"probe_tokens": None, "pruning_warmup_steps": 12}, has_digit),  # saved while lengths are measured
        ({"probe_tokens": None, "pruning_warmup_steps": 3}, has_digit),  # the probe is chosen after the first batch
    ],
)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, options, reward):
    def host(name, steps):
        return trainer(config(tmp_path / name, **options, **{**STEPS, "max_steps": steps}), reward_funcs=reward)

    whole = host("whole", 4)
    whole.train()
    host("parts", 2).train()
    resumed = host("parts", 4)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(whole), weights(resumed))
    assert history(whole, "arrol/tokens/generated") == history(resumed, "arrol/tokens/generated")
    one, other = (
        load_file(tmp_path / name / "checkpoint-4" / f"{HEAD_FILE}.safetensors") for name in ("whole", "parts")
    )
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key], equal_nan=True) for key in one)
    assert whole.pruned.memory.probe_tokens == resumed.pruned.memory.probe_tokens != ()


@pytest.mark.parametrize("given", [None, [6]])
def test_a_probe_given_later_is_kept_and_a_chosen_one_comes_from_the_checkpoint(tmp_path, given):
    """The checkpoint of a measuring run has no probe, and the next one has the probe of its head."""
    unset = {"probe_tokens": None, "pruning_warmup_steps": 8, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    trainer(config(tmp_path, **{**unset, "max_steps": 3})).train()
    heads = [json.loads((tmp_path / f"checkpoint-{n}" / f"{HEAD_FILE}.json").read_text()) for n in (1, 2, 3)]
    assert [head["probe_tokens"] for head in heads[:2]] == [[], []]
    (chosen,) = heads[2]["probe_tokens"]
    resumed = trainer(config(tmp_path / "again", **{**unset, "probe_tokens": given, "max_steps": 4}))
    resumed.train(resume_from_checkpoint=str(tmp_path / ("checkpoint-2" if given else "checkpoint-3")))
    assert list(resumed.pruned.memory.probe_tokens) == (given or [chosen])


def test_the_policy_folder_stays_plain_and_the_head_is_readable(tmp_path):
    host = trainer(config(tmp_path, **STEPS))
    host.train()
    folder = tmp_path / "checkpoint-4"
    head = json.loads((folder / f"{HEAD_FILE}.json").read_text())
    assert head["layout"] == {"features": ["last_hidden", "mean_hidden", "logprobs"], "hidden_size": 32}
    assert head["probe_tokens"] == [6]
    assert head["step"] == 4
    host.save_model(str(tmp_path / "final"))
    assert not list((tmp_path / "final").glob("arrol*"))


def test_a_checkpoint_without_a_head_starts_a_new_one(tmp_path):
    trainer(config(tmp_path, pruning={"rule": "never"}, **{**STEPS, "max_steps": 2})).train()
    host = trainer(config(tmp_path, **STEPS))
    with pytest.warns(UserWarning, match="checkpoint-2 has no head: a new one starts"):
        host.train(resume_from_checkpoint=True)
    assert history(host, "arrol/pruning/reason/warmup")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"probe_tokens": [7]}, "probe_tokens = \\[7\\]"), ({"quality": {"features": ["logprobs"]}}, "layout = ")],
)
def test_a_head_of_another_shape_is_refused_by_name(tmp_path, change, words):
    trainer(config(tmp_path, **{**STEPS, "max_steps": 2})).train()
    with pytest.raises(CheckpointError, match=words):
        trainer(config(tmp_path, **STEPS, **change)).train(resume_from_checkpoint=True)


def test_a_damaged_head_is_refused_by_name(tmp_path):
    trainer(config(tmp_path, **{**STEPS, "max_steps": 2})).train()
    (tmp_path / "checkpoint-2" / f"{HEAD_FILE}.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="arrol_head is damaged"):
        trainer(config(tmp_path, **STEPS)).train(resume_from_checkpoint=True)


class Killed(Exception):
    """Stands for a process that dies."""


@pytest.mark.parametrize("dies_in", ["_save", "_save_optimizer_and_scheduler", "_save_rng_state", "state"])
def test_a_checkpoint_that_was_not_saved_to_its_end_is_passed_over(tmp_path, monkeypatch, dies_in):
    """With the head written first, a checkpoint with transformers' last file has a head."""
    steps = {**STEPS, "save_total_limit": 2}
    whole = trainer(config(tmp_path / "whole", **steps))
    whole.train()
    dying = trainer(config(tmp_path / "parts", **steps))

    def die(self, *rest, **named):
        if dying.state.global_step == 4:
            raise Killed
        return original(self, *rest, **named)

    place, name = (type(dying), dies_in) if dies_in != "state" else (type(dying.state), "save_to_json")
    original = getattr(place, name)
    monkeypatch.setattr(place, name, die)
    with pytest.raises(Killed):
        dying.train()
    monkeypatch.undo()
    assert (tmp_path / "parts" / "checkpoint-4" / f"{HEAD_FILE}.json").exists()
    resumed = trainer(config(tmp_path / "parts", **steps))
    with pytest.warns(UserWarning, match=r"checkpoint-4: not saved to the end .* going on from checkpoint-2"):
        resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.parametrize("as_given", [str, Path])
def test_a_given_checkpoint_brings_its_head_as_text_and_as_path(tmp_path, monkeypatch, as_given):
    trainer(config(tmp_path, **{**STEPS, "max_steps": 2})).train()
    host, found = trainer(config(tmp_path, **STEPS)), []
    load = host.pruned.load
    monkeypatch.setattr(host.pruned, "load", lambda folder: found.append(load(folder)) or found[-1])
    host.train(resume_from_checkpoint=as_given(tmp_path / "checkpoint-2"))
    assert found == [True]


def test_the_only_checkpoint_not_saved_to_its_end_is_an_error_of_one_line(tmp_path):
    trainer(config(tmp_path, **{**STEPS, "max_steps": 2})).train()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text('{"best')
    with pytest.raises(CheckpointError, match=r"checkpoint-2 was not saved to the end .* start again without"):
        trainer(config(tmp_path, **STEPS)).train(resume_from_checkpoint=True)


def test_nothing_to_resume_from_stays_trl_s_error(tmp_path):
    with pytest.raises(ValueError, match="No valid checkpoint found"):
        trainer(config(tmp_path, **STEPS)).train(resume_from_checkpoint=True)
