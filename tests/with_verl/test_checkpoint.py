"""The head in verl's checkpoints: where it is found, and that no kill between verl's save and ours takes it."""

from types import SimpleNamespace

import pytest

from arrol.errors import CheckpointError
from arrol.integrations.memory import read_head

STATE = {"step": 3}


@pytest.mark.parametrize("mode", ["auto", "resume_path", "disable"])
def test_the_head_is_looked_for_where_verl_resumes(tmp_path, mode):
    from omegaconf import OmegaConf

    from arrol.integrations.verl.manager import resumed_folder

    trainer = {"resume_mode": mode, "default_local_dir": str(tmp_path), "resume_from_path": f"{tmp_path}/global_step_3"}
    config = OmegaConf.create({"trainer": trainer})
    assert (resumed_folder(config) is None) is (mode != "resume_path")
    (tmp_path / "global_step_7").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7")
    found = resumed_folder(config)
    assert (found and found.name) == {"auto": "global_step_7", "resume_path": "global_step_3", "disable": None}[mode]


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [
        ({"save_freq": 2}, [2, 4, 5]),
        ({"save_freq": 2, "checkpoint_callback_class": None}, []),
        ({"save_freq": -1}, []),
        ({"save_freq": 2, "total_training_steps": None}, [2, 4]),
    ],
)
def test_the_head_is_written_ahead_of_each_checkpoint_that_gets_one(tmp_path, trainer, steps):
    from omegaconf import OmegaConf

    from arrol.integrations.verl.checkpoint import coming_checkpoint

    optim = {"optim": {"total_training_steps": -1}}
    usual = {"checkpoint_callback_class": "HeadSaver", "total_training_steps": 5, "default_local_dir": str(tmp_path)}
    config = OmegaConf.create({"trainer": {**usual, **trainer}, "actor_rollout_ref": {"actor": optim}})
    found = {step: coming_checkpoint(config, step) for step in range(1, 6)}
    assert {step: path for step, path in found.items() if path} == {
        step: tmp_path / f"global_step_{step}" for step in steps
    }


def test_a_checkpoint_that_a_kill_left_without_its_head_takes_the_one_ahead(tmp_path):
    from arrol.integrations.verl.checkpoint import ahead_of, checkpoint_head, write_ahead

    checkpoint = tmp_path / "global_step_3"
    assert checkpoint_head(checkpoint) is None
    write_ahead(checkpoint, STATE)
    checkpoint.mkdir()
    assert checkpoint_head(checkpoint) == STATE
    assert read_head(checkpoint) == STATE, "it has its head from now on"
    (checkpoint / "arrol_head.json").write_text("{")
    assert checkpoint_head(tmp_path / "global_step_2") is None, "of another step"
    assert checkpoint_head(checkpoint) == STATE
    (checkpoint / "arrol_head.json").unlink()
    assert checkpoint_head(checkpoint) == STATE, "half of a head"
    (checkpoint / "arrol_head.json").write_text("{")
    (ahead_of(checkpoint) / "arrol_head.json").write_text("{")
    with pytest.raises(CheckpointError, match="arrol_head is damaged"):
        checkpoint_head(checkpoint)


def test_a_full_disk_ahead_of_a_checkpoint_is_a_warning(tmp_path, caplog):
    from arrol.integrations.verl.checkpoint import write_ahead

    (tmp_path / "arrol_ahead").write_text("")
    write_ahead(tmp_path / "global_step_3", STATE)
    assert caplog.messages[-1].startswith("arrol: folder = 'global_step_3': the head could not be saved (")


@pytest.mark.parametrize(("step", "is_written"), [(3, False), (4, True)])
def test_the_head_is_written_when_the_rewards_of_a_step_are_known(tmp_path, monkeypatch, step, is_written):
    """Before verl updates and saves."""
    from omegaconf import OmegaConf

    from arrol.integrations.verl import sampler
    from arrol.integrations.verl.batch import MiniBatches
    from arrol.integrations.verl.checkpoint import ahead_of

    def told(answer):
        return SimpleNamespace(remote=lambda *given: answer)

    trainer = {"save_freq": 4, "checkpoint_callback_class": "HeadSaver", "total_training_steps": 9}
    config = OmegaConf.create({"trainer": {**trainer, "default_local_dir": str(tmp_path)}, "size": 4})
    sizes = MiniBatches(("size",), (2,), 8, 2)
    service = SimpleNamespace(settle=told({}), save=told(STATE), has_selection=told(False))
    monkeypatch.setattr(sampler.ReplayBuffer, "sample", lambda self, **given: (range(32), {}))
    monkeypatch.setattr(sampler, "find_service", lambda: service)
    monkeypatch.setattr(sampler.ray, "get", lambda answer: answer)
    monkeypatch.setattr(sampler.MetricsReplayBuffer, "step_sizes", sampler.StepSizes(config, sizes))
    buffer = object.__new__(sampler.MetricsReplayBuffer)
    buffer.sample(step, "train", 8)
    found = read_head(ahead_of(tmp_path / f"global_step_{step}"))
    assert found == (STATE if is_written else None)


def test_a_disk_that_refuses_does_not_keep_a_run_from_its_head(tmp_path, monkeypatch, caplog):
    from arrol.integrations.verl import checkpoint as module

    folder = tmp_path / "global_step_3"
    module.write_ahead(folder, STATE)
    folder.write_text("no folder")
    assert module.checkpoint_head(folder) == STATE
    assert caplog.messages[-1].startswith("arrol: folder = 'global_step_3': the head could not be saved (")
