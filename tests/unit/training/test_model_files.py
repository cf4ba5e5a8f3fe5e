"""Damaged files of a model are named before a library reads them."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from arrol.errors import ModelError
from arrol.training.model_files import damage, require_model_files


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": np.zeros(4)}, tmp_path / "model.safetensors")
    return tmp_path


def refusal(folder):
    with pytest.raises(ModelError) as caught:
        require_model_files(folder, "model = 'x'")
    return str(caught.value)


def test_a_whole_folder_passes(folder):
    require_model_files(folder, "model = 'x'")
    (folder / "training_args.bin").write_bytes(b"{")
    require_model_files(folder, "model = 'x'")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (
            "config.json",
            b"{\n",
            "is not JSON (line 2: Expecting property name enclosed in double quotes); ",
        ),
        ("tokenizer.json", b"", "is not JSON (line 1: Expecting value); copy or save"),
        ("tokenizer_config.json", b"[]", "holds no JSON object; copy or save"),
        ("generation_config.json", b"\xff", "is damaged ('utf-8' codec can't decode byte 0xff in position 0"),
        ("config.json", b"[" * 100_000, "is nested too deeply; copy or save the model again"),
        ("config.json", b'{"a": 1' + b"0" * 5000 + b"}", "is damaged (Exceeds the limit (4300 digits)"),
        ("model.safetensors", b"{", "is damaged (Error while deserializing header: "),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, not the file"),
    ],
)
def test_a_damaged_file_is_named(folder, name, content, problem):
    (folder / name).write_bytes(content)
    assert refusal(folder).startswith(f"model = 'x': {folder / name} {problem}")


def test_truncated_weights_are_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert damage(path).startswith("is damaged (")


def test_a_folder_that_is_no_model(tmp_path):
    assert refusal(tmp_path / "none").startswith("model = 'x': no such folder; give a folder with config.json")
    assert refusal(tmp_path) == "model = 'x': the folder has no config.json; give one written by save_pretrained"
