"""Whatever a user gets wrong is one line that names field, value and remedy, exit code 2, and nothing is written."""

import json
import shutil
import tomllib

import pytest

from arrol.cli.main import main
from integration import tiny
from vllm_host import has_vllm

FLAGS = [
    ("keep ratio 0", ["--pruning.keep_ratio", "0"], "pruning.keep_ratio = 0: must be above 0", "(0, 1]"),
    ("keep ratio 2", ["--pruning.keep_ratio", "2"], "pruning.keep_ratio = 2: must be at most", "(0, 1]"),
    ("keep ratio text", ["--pruning.keep_ratio", "half"], "pruning.keep_ratio = 'half': must be", "(0, 1]"),
    (
        "a probe beyond the limit",
        ["--pruning.probe_tokens", "[3, 10]"],
        "pruning.probe_tokens = [3, 10]: beyond the length limit",
        "keep each below sampling.max_completion_tokens = 10",
    ),
    (
        "a group too small for the floor",
        ["--training.group_size", "1"],
        "training.group_size = 1: too small for the floor",
        "pruning.min_survivors = 1",
    ),
    (
        "an unknown key",
        ["--pruning.keep_ration", "0.5"],
        "pruning.keep_ration = 0.5: unknown key",
        "'pruning.keep_ratio'",
    ),
    ("an unknown rule", ["--pruning.rule", "nyman"], "pruning.rule = 'nyman': unknown", "is 'neyman'"),
    (
        "a flag without a value",
        ["--training.steps"],
        "flag = '--training.steps': has no value",
        "write --training.steps",
    ),
    ("no such model", ["--model", "./none"], "model = './none': no such folder", "give a folder with config.json"),
    ("an unknown device", ["--device", "gpu"], "device = 'gpu': not a device", "use auto, cpu, cuda or cuda:N"),
    ("no such data", ["--task.source", "none.jsonl"], "source", "give a path"),
    ("a missing column", ["--task.prompt_column", "ask"], "prompt_column: 'ask'", "available: question, answer"),
    (
        "a missing answer column",
        ["--task.answer_column", "gold"],
        "answer_column: 'gold'",
        "available: question, answer",
    ),
    ("an unknown template", ["--task.template", "fancy"], "template: 'fancy' is unknown", "choose from plain"),
    ("no chat template", ["--task.template", "chat"], "tokenizer: it has no chat template", "use template 'plain'"),
    (
        "a service that is not installed",
        ["--report_to", '["trackio"]'],
        "report_to = 'trackio': not installed",
        "run: pip install trackio",
    ),
]


def refused(capsys, *argv):
    """The one line."""
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("arrol: ")
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(("flags", "problem", "remedy"), [case[1:] for case in FLAGS], ids=[case[0] for case in FLAGS])
def test_a_wrong_field_is_one_line_and_nothing_is_written(config, tmp_path, capsys, flags, problem, remedy):
    line = refused(capsys, "train", config, *flags)
    assert problem in line
    assert remedy in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(has_vllm(), reason="vLLM is installed here")
def test_an_engine_that_is_not_installed_is_one_line(config, tmp_path, capsys):
    line = refused(capsys, "train", config, "--engine", "vllm")
    assert "engine = 'vllm': vLLM could not be loaded" in line
    assert "pip install '.[vllm]' in a checkout of arrol" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "the file is empty|no row|empty"),
        ("{\n", "is not JSON"),
        ("[1]\n", "row 1 is a number"),
        ('{"question": "", "answer": "1"}\n', "prompt_column"),
        ('{"question": "0", "answer": null}\n', "answer_column"),
    ],
)
def test_wrong_data_is_one_line(config, tmp_path, capsys, content, problem):
    (tmp_path / "data.jsonl").write_text(content)
    line = refused(capsys, "train", config, "--task.source", tmp_path / "data.jsonl")
    assert any(part in line for part in problem.split("|")), line
    assert not (tmp_path / "runs").exists()


def test_a_tokenizer_without_eos_is_one_line(config, tmp_path, model_folder, capsys):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            values = json.loads((folder / name).read_text())
            values.pop("eos_token", None)
            (folder / name).write_text(json.dumps(values))
    line = refused(capsys, "train", config, "--model", folder)
    assert "its tokenizer has no eos token" in line
    assert "set eos_token in it" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "config.json").unlink(), "the folder has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON (line 1: "),
        (lambda folder: (folder / "model.safetensors").unlink(), "could not be loaded"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer could be loaded"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line(config, tmp_path, model_folder, capsys, damage, problem):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    damage(folder)
    line = refused(capsys, "train", config, "--model", folder)
    assert any(part in line for part in problem.split("|")), line
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_one_line(config, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    line = refused(capsys, "train", config, "--out_dir", tmp_path / "file")
    assert "choose another folder" in line
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("command", ["train", "compare", "sft", "info"])
def test_a_config_that_is_absent_or_no_toml_is_one_line(command, tmp_path, capsys):
    assert "no such file; give the path of a TOML file" in refused(capsys, command, tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = \n")
    assert "not valid TOML" in refused(capsys, command, tmp_path / "bad.toml")


def test_a_comparison_names_the_arm_that_is_wrong(config, tmp_path, capsys):
    run = tomllib.loads(config.read_text())
    run.pop("name")
    text = '[[arms]]\nname = "a"\n[[arms]]\nname = "b"\nchange.pruning.keep_ratio = 3\n'
    (tmp_path / "compare.toml").write_text(tiny.toml({"run": run}) + text)
    line = refused(capsys, "compare", tmp_path / "compare.toml")
    assert line.startswith("arrol: arm 'b': pruning.keep_ratio = 3: must be at most 1")
    assert not (tmp_path / "runs").exists()


def test_a_report_of_nothing_is_one_line(tmp_path, capsys):
    assert "no such folder; give a folder that arrol train or compare wrote" in refused(
        capsys, "report", tmp_path / "none"
    )
    assert "holds no records.jsonl" in refused(capsys, "report", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--mixture", "{wizard = 1.0}"], "'wizard' is no solver of arithmetic; choose from"),
        (["--demonstrations", "none.jsonl"], "demonstrations = 'none.jsonl': no such file; give a file with"),
        (["--model", "./none"], "model = './none': no such folder"),
    ],
)
def test_a_wrong_warm_start_is_one_line(tmp_path, capsys, flags, problem):
    (tmp_path / "sft.toml").write_text(f'out_dir = {json.dumps(str(tmp_path / "runs"))}\n[task]\nname = "arithmetic"\n')
    assert problem in refused(capsys, "sft", tmp_path / "sft.toml", *flags)
    assert not (tmp_path / "runs").exists()


def test_a_warm_start_never_writes_over_a_folder(tmp_path, capsys):
    (tmp_path / "runs" / "sft" / "model").mkdir(parents=True)
    (tmp_path / "sft.toml").write_text(f'out_dir = {json.dumps(str(tmp_path / "runs"))}\n[task]\nname = "arithmetic"\n')
    line = refused(capsys, "sft", tmp_path / "sft.toml")
    assert "exists; choose another --name or remove it" in line
    assert [path.name for path in (tmp_path / "runs" / "sft").iterdir()] == ["model"]
