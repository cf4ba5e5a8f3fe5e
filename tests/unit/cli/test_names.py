"""Names that no hub and no cache can give: one line, before torch is loaded."""

import os
import shutil
import subprocess
import sys

import pytest

from arrol.cli.names import require_trl_names
from arrol.errors import DataError, ModelError
from arrol.records.manifest import write_manifest
from arrol.records.state import write_state

CONFIG = 'name = "x"\nmodel = "owner/model"\n[task]\nname = "dataset"\nsource = "owner/rows"\n'
FINDS = "does not answer, and no copy is cached; give a"


def ended_before_torch(*words):
    """A command in a process of its own, which must end with one line and without torch."""
    code = (
        "import sys; from arrol.cli.main import main\n"
        f"status = main({list(words)!r})\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "sys.exit(status)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert ended.stderr.count("\n") == 1
    return ended


@pytest.mark.parametrize("command", ["train", "eval", "lab", "sft"])
def test_a_command_ends_before_it_loads_torch(silent_hub, tmp_path, command):
    (tmp_path / "x.toml").write_text(CONFIG if command != "sft" else CONFIG.partition('"dataset"')[0] + '"countdown"')
    ended = ended_before_torch(command, str(tmp_path / "x.toml"))
    assert ended.stderr.startswith(f"arrol: model = 'owner/model': {silent_hub} {FINDS}")


@pytest.mark.parametrize("command", ["eval", "lab"])
def test_the_data_of_a_run_are_asked_for_before_torch_is_loaded(silent_hub, tmp_path, command):
    """Its policy lies in the folder, its data on the hub; a flag names other data."""
    task = {"name": "dataset", "source": "owner/rows"}
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000001"
    checkpoint.mkdir(parents=True)
    write_state(checkpoint, "state", {"config": {"name": "x", "model": "owner/model", "task": task}})
    (checkpoint / "policy").mkdir()
    (checkpoint / "policy" / "config.json").write_text("{}")
    shutil.copy(checkpoint / "state.safetensors", checkpoint / "policy" / "model.safetensors")
    write_manifest(checkpoint, {})
    for flags, name in (([], "owner/rows"), (["--task.source", "other/rows"], "other/rows")):
        ended = ended_before_torch(command, str(tmp_path / "run"), *flags)
        assert ended.stderr.startswith(f"arrol: source: {name!r} cannot be loaded: {silent_hub} {FINDS}")


def test_a_data_set_is_asked_for_too(silent_hub, tmp_path, capsys):
    from arrol.cli.main import main

    (tmp_path / "model").mkdir()
    (tmp_path / "x.toml").write_text(CONFIG)
    assert main(["train", str(tmp_path / "x.toml"), "--model", str(tmp_path / "model")]) == 2
    assert f"source: 'owner/rows' cannot be loaded: {silent_hub} {FINDS}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--model-name-or-path", "owner/name"], ModelError),
        (["--reward_model_name_or_path=owner/name"], ModelError),
        (["--dataset_name", "owner/name", "--model_name_or_path", "./here"], DataError),
        (["--config", "FILE"], DataError),
    ],
)
def test_names_of_trl_are_found_in_flags_and_file(silent_hub, tmp_path, flags, error):
    (tmp_path / "x.yaml").write_text("dataset_name: owner/name\nlearning_rate: 1e-6\n")
    flags = [flag.replace("FILE", str(tmp_path / "x.yaml")) for flag in flags]
    with pytest.raises(error, match=f"name.* = 'owner/name': {silent_hub} {FINDS}"):
        require_trl_names(flags)


def test_a_cached_model_of_trl_is_loaded_without_the_hub(silent_hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # so that it is restored
    folder = tmp_path / "hub/models--owner--name/snapshots/abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    require_trl_names(["--model_name_or_path", "owner/name", "--dataset_name", str(tmp_path)])
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task.template", "fancy"], "template: 'fancy' is unknown"),
        (["--task.template", "qa", "--task.system_prompt", "s"], "system_prompt: template 'qa' has no roles"),
        (["--task.template_arguments.messages", "1"], "template_arguments: 'messages' is set by arrol"),
    ],
)
def test_a_wrong_prompt_is_one_line_before_torch_is_loaded(silent_hub, tmp_path, flags, message):
    (tmp_path / "model").mkdir()
    (tmp_path / "x.toml").write_text(CONFIG)
    ended = ended_before_torch("train", str(tmp_path / "x.toml"), "--model", str(tmp_path / "model"), *flags)
    assert ended.stderr.startswith(f"arrol: {message}")
