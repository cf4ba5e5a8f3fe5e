"""What ``arrol eval`` and ``arrol lab`` sample: a config, a run, a model; and what they refuse."""

import shutil

import pytest
from safetensors.numpy import save_file

from arrol.cli.policies import UNUSED, find_policy, newest_of_run
from arrol.configs.run import RunConfig
from arrol.errors import ArrolError
from arrol.records.manifest import write_manifest
from arrol.records.state import write_state

OWN = "the folder of a run has its own policy and name; leave it out, or give a config or a model in place of {run}"


@pytest.fixture
def run(tmp_path, write_run):
    folder = write_run(tmp_path / "runs" / "mine", "mine")
    checkpoint = folder / "checkpoints" / "step-000001"
    checkpoint.mkdir(parents=True)
    write_state(checkpoint, "state", {"config": {"name": "old", "model": "m", "task": {"name": "arithmetic"}}})
    (checkpoint / "policy").mkdir()
    (checkpoint / "policy" / "config.json").write_text("{}")
    save_file({}, checkpoint / "policy" / "model.safetensors")
    write_manifest(checkpoint, {})
    return folder


def unheard(text):
    raise AssertionError(text)


def refusal(source, *flags, command="eval"):
    with pytest.raises(ArrolError) as caught:
        find_policy(str(source), flags, command, unheard)
    return str(caught.value)


def test_a_run_gives_its_newest_checkpoint_and_its_place(run):
    policy = find_policy(str(run), ["--evaluation.num_prompts", "3"], "eval", unheard)
    assert policy.source == str(run / "checkpoints" / "step-000001" / "policy")
    assert policy.state["config"]["model"] == "m"
    config = policy.config
    assert (config.name, config.out_dir, config.evaluation.num_prompts) == ("mine", str(run.parent), 3)
    assert newest_of_run(str(run), unheard).name == "step-000001"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(run):
    older, newer = run / "checkpoints" / "step-000001", run / "checkpoints" / "step-000002"
    shutil.copytree(older, newer)
    (newer / "policy" / "model.safetensors").write_bytes(b"")
    heard = []
    policy = find_policy(str(run), [], "eval", heard.append)
    assert policy.source == str(older / "policy")
    assert heard == ["checkpoint step-000002: policy/model.safetensors has 0 of its 16 bytes; step-000001 is used"]
    assert find_policy(str(run), [], "eval", unheard, ("state.",)).source == str(newer / "policy")
    (older / "state.json").write_text("{}")
    line = refusal(run)
    assert line.startswith(f"checkpoint = {str(run / 'checkpoints')!r}: step-000002: policy/model.safetensors has 0 of")
    assert "; step-000001: state.json has 2 of its " in line
    assert line.endswith(f"begin another run with --model {older / 'policy'} and another --name")


def test_a_config_gives_its_model(run_file):
    policy = find_policy(str(run_file), ["--model", "owner/other"], "lab", unheard)
    assert (policy.source, policy.state) == ("owner/other", None)


def test_a_model_needs_no_config(tmp_path, monkeypatch):
    model = tmp_path / "a model+"
    model.mkdir()
    (model / "config.json").write_text("{}")
    config = find_policy(str(model), ["--task.source", "x.jsonl"], "eval", unheard).config
    assert (config.name, config.model) == ("a-model-", str(model))
    assert (config.task.name, config.task.source, config.task.split) == ("dataset", "x.jsonl", "")
    assert find_policy(str(model), ["--task.source", "x.jsonl"], "lab", unheard).config.task.split == "train"
    assert find_policy("owner/name", ["--task", "countdown"], "eval", unheard).config.task.name == "countdown"
    monkeypatch.chdir(model)
    assert find_policy(".", ["--task", "countdown"], "eval", unheard).config.name == "a-model-"
    assert refusal("owner/name") == (
        "task: missing; a model has no config; write arrol eval owner/name --task.source FILE, or --task NAME"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "x"], "--model = 'x': " + OWN),
        (["--out-dir", "x"], "--out_dir = 'x': " + OWN),
        (["--training.steps", "3"], "--training: arrol eval does not use it; leave it out"),
        (["--pruning", "never"], "--pruning: arrol eval does not use it; leave it out"),
    ],
)  # fmt: skip
def test_a_flag_that_would_be_ignored_is_refused(run, flags, message):
    assert refusal(run, *flags) == message.format(run=run)


def test_what_a_command_does_not_use_is_a_field():
    assert {name for names in UNUSED.values() for name in names} <= set(RunConfig.model_fields)


def test_a_source_that_is_nothing_says_what_to_give(tmp_path, run, write_run):
    assert refusal(tmp_path / "none") == (
        f"source = {str(tmp_path / 'none')!r}: no such file or folder; give the TOML file of a run, the folder of a "
        "run or of a model, or owner/name of a model on the hub"
    )
    assert refusal(tmp_path / "none.toml").startswith(f"config = {str(tmp_path / 'none.toml')!r}: no such file; ")
    young = write_run(tmp_path / "runs" / "young", "young")
    assert refusal(young).endswith("holds no checkpoint yet; wait for the first, which training.checkpoint_every sets")
    assert refusal(tmp_path / "runs").endswith("holds runs; give the folder of one of them")
    assert refusal(tmp_path).endswith("holds no checkpoint; give the folder of a run that arrol train made")
    for name, note in (
        ("yung", "no such folder; {runs} has mine, young"),
        ("mine/records.jsonl", "is a file; give the"),
    ):
        with pytest.raises(ArrolError) as caught:
            newest_of_run(str(tmp_path / "runs" / name), unheard)
        assert note.format(runs=tmp_path / "runs") in str(caught.value)
    with pytest.raises(ArrolError, match="no such folder; give the folder of a run that arrol train made"):
        newest_of_run(str(tmp_path / "none" / "x"), unheard)
