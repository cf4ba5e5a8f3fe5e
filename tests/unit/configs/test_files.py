"""Which kind of config a file is, and where its paths lead."""

import pytest

from arrol.configs.files import PATHS, RUN_KEYS, WARM_START_KEYS, kind_of, located, read_config, read_toml
from arrol.configs.run import CompareConfig, RunConfig
from arrol.configs.sft import SftConfig
from arrol.configs.task import DatasetTaskConfig
from arrol.errors import ConfigError


def test_the_keys_of_each_kind_are_those_of_the_configs():
    run, warm_start = set(RunConfig.model_fields), set(SftConfig.model_fields)
    assert run - warm_start == RUN_KEYS
    assert warm_start - run == WARM_START_KEYS
    assert {"arms", "run"} <= set(CompareConfig.model_fields)


def test_every_path_is_a_field():
    for path in PATHS:
        model = DatasetTaskConfig if path[0] == "task" else SftConfig
        assert path[-1] in model.model_fields


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"arms": []}, "comparison"),
        ({"run": {}}, "comparison"),
        ({"training": {}}, "run"),
        ({"training": {}, "steps": 5}, "run"),
        ({"steps": 5, "task": {}}, "warm start"),
        ({"task": {}, "model": "m"}, None),
    ],
)
def test_the_keys_say_what_a_file_is(values, kind):
    assert kind_of(values) == kind


@pytest.mark.parametrize(
    ("text", "wanted", "message"),
    [
        ("[run]\n", "run", "is the config of a comparison, not of a run; arrol compare {path} takes it"),
        ("[run]\n", "warm start", "is the config of a comparison, not of a warm start; arrol compare {path} takes it"),
        ("[training]\n", "comparison", "is the config of a run, not of a comparison; arrol train {path} takes it"),
        ("batch_size = 3\n", "run", "is the config of a warm start, not of a run; arrol sft {path} takes it"),
    ],
)
def test_another_kind_names_its_command(tmp_path, text, wanted, message):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(path, wanted)
    assert str(caught.value) == f"config = {str(path)!r}: {message.format(path=path)}"


def test_a_path_is_found_beside_the_file_first(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here / "m", there / "m", here / "only_here"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    values = {"model": "m", "task": {"source": "only_here", "eval_source": "gsm8k"}, "name": "m"}
    changes = {"arms": [{"change": {"model": "m"}}, {"name": "x"}, 3]}
    assert located({"run": values, **changes}, there) == {
        "run": {**values, "model": str(there / "m")},
        "arms": [{"change": {"model": str(there / "m")}}, {"name": "x"}, 3],
    }
    assert located(values, here) == values  # the same folder keeps the name that was written
    assert located({"model": str(here / "m"), "task": 3}, there) == {"model": str(here / "m"), "task": 3}


def test_a_home_folder_is_written_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located({"model": "~/m"}, tmp_path) == {"model": str(tmp_path / "m")}


def test_a_path_in_a_config_need_not_be_text(tmp_path):
    values = {"model": 3, "task": {"source": ["a"]}, "run": 1, "arms": {"a": 1}}
    assert located(values, tmp_path) == values


def test_a_folder_or_a_wrong_name_says_what_to_give(tmp_path):
    def message(path):
        with pytest.raises(ConfigError) as caught:
            read_toml(path)
        return str(caught.value).removeprefix(f"config = {str(path)!r}: ")

    assert message(tmp_path / "a.toml") == ("no such file; give the path of a TOML file, for example one in configs/")
    for name in ("study.toml", "arithmetic.toml"):
        (tmp_path / name).write_text("")
    assert message(tmp_path / "arithmetik.toml") == (
        f"no such file; give the path of a TOML file, such as {tmp_path / 'arithmetic.toml'}"
    )
    assert message(tmp_path) == f"is a folder; give a TOML file, such as {tmp_path / 'arithmetic.toml'}"
    (tmp_path / "config.json").write_text("{}")
    assert message(tmp_path) == "is the folder of a model; give a TOML file that names it as model"
    (tmp_path / "records.jsonl").write_text("")
    assert message(tmp_path) == "is the folder of a run; give its TOML file, with --resume to go on"
    (tmp_path / "x.yaml").write_text("a: 1\n")
    assert message(tmp_path / "x.yaml").endswith(f"a YAML file of TRL is for arrol grpo --config {tmp_path / 'x.yaml'}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bin.toml", b"\xff\xfe", "no text in UTF-8; give the path of a TOML file"),
        pytest.param(
            "deep.toml", b"a = " + b"[" * 100_000, "nested too deeply; give the path of a TOML file", id="deep"
        ),
        ("rows.jsonl", b'{"prompt": "1"}', "no TOML; give the path of a TOML file; problems are for --task.source "),
        (
            "rows.parquet",
            b"PAR1\xff",
            "no text in UTF-8; give the path of a TOML file; problems are for --task.source ",
        ),
    ],
)
def test_a_file_that_is_no_config_is_told_what_to_give(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_toml(tmp_path / name)
    assert str(caught.value).startswith(f"config = '{tmp_path / name}': {message}")
    assert "\n" not in str(caught.value)


def test_a_number_of_thousands_of_digits_is_one_line(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("seed = 1" + "0" * 5000)
    with pytest.raises(ConfigError, match=r"^config = '.*a.toml': a number of thousands of digits; give the path"):
        read_toml(path)


def test_a_name_that_is_too_long_for_a_file_is_left_as_it_is(tmp_path):
    assert located({"model": "x" * 5000}, tmp_path) == {"model": "x" * 5000}
