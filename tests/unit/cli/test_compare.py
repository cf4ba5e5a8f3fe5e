"""The plan of a comparison: what is run, what is skipped, what is refused before anything starts."""

import json
from types import SimpleNamespace

import pytest

from arrol.cli import compare as module
from arrol.cli.main import main
from arrol.cli.train import Ended
from arrol.configs.run import arm_config, load_compare
from arrol.errors import ConfigError


@pytest.fixture
def trained(monkeypatch, tmp_path, write_run):
    """Names of the runs that were asked for; each writes a few rows instead of training."""
    names = []

    def train_one(config, *, arm, resume, console, live):
        names.append(config.name)
        folder = tmp_path / "runs" / "trial" / config.name
        write_run(folder, arm, seed=config.seed, config=config.model_dump(mode="json"))
        end = SimpleNamespace(step=3, outcome="finished")
        return Ended(end, stop_requested=names[-1] == stop_at[0])

    stop_at = [None]
    monkeypatch.setattr(module, "train_one", train_one)
    monkeypatch.setattr(module, "require_run_room", lambda *_: None)  # no model lies there
    return SimpleNamespace(names=names, stop_at=stop_at)


def test_seeds_outside_arms_inside(trained, compare_file, tmp_path, capsys):
    assert main(["compare", str(compare_file)]) == 0
    assert trained.names == ["grpo-seed0", "pruned-seed0", "grpo-seed1", "pruned-seed1"]
    out, err = capsys.readouterr()
    assert "speed-up" in out
    assert err == ""
    assert (tmp_path / "runs" / "trial" / "report" / "report.html").is_file()


def test_an_arm_beyond_the_memory_is_refused_before_the_first_run(trained, compare_file, monkeypatch, capsys):
    def refuse(config, device):
        if config.name == "pruned-seed1":
            raise ConfigError("training.group_size = 9: too large")

    monkeypatch.setattr(module, "require_run_room", refuse)
    assert main(["compare", str(compare_file)]) == 2
    assert trained.names == []
    assert capsys.readouterr().err == "arrol: training.group_size = 9: too large\n"


def test_json_is_all_that_stands_on_stdout(trained, compare_file, capsys):
    assert main(["compare", str(compare_file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert [row["arm"] for row in json.loads(out)][:2] == ["grpo", "pruned"]
    assert "report: " in err


def test_a_signal_ends_the_comparison_even_in_the_last_step_of_a_run(trained, compare_file, capsys):
    trained.stop_at[0] = "pruned-seed0"
    assert main(["compare", str(compare_file)]) == 130
    assert trained.names == ["grpo-seed0", "pruned-seed0"]
    assert "stopped at step 3 of pruned-seed0; go on with --resume" in capsys.readouterr().out
    trained.stop_at[0] = None
    assert main(["compare", str(compare_file), "--resume"]) == 0
    assert trained.names[2:] == ["grpo-seed1", "pruned-seed1"]
    assert "pruned-seed0: finished before" in capsys.readouterr().out


def test_more_steps_go_on_and_another_config_is_refused(trained, compare_file, capsys):
    assert main(["compare", str(compare_file)]) == 0
    assert main(["compare", str(compare_file)]) == 2
    assert "name = 'grpo-seed0': " in capsys.readouterr().err
    assert main(["compare", str(compare_file), "--resume", "--run.training.steps", "4"]) == 0
    assert len(trained.names) == 8
    assert main(["compare", str(compare_file), "--resume", "--run.training.group_size", "4"]) == 2
    assert capsys.readouterr().err.startswith(
        "arrol: training.group_size = 4: the run in that folder was made with 16;"
    )
    assert len(trained.names) == 8


def test_runs_of_arms_that_left_the_file_are_not_in_the_table(trained, compare_file, tmp_path, write_run, capsys):
    write_run(tmp_path / "runs" / "trial" / "old-seed0", "old")
    assert main(["compare", str(compare_file), "--json"]) == 0
    assert "old" not in {row["arm"] for row in json.loads(capsys.readouterr().out)}


def test_each_run_has_a_folder_of_its_own(compare_file, tmp_path):
    compare = load_compare(compare_file)
    folders = [module.run_folder(arm_config(compare, arm, seed)) for seed in compare.seeds for arm in compare.arms]
    assert len(set(folders)) == 4
    assert folders[0] == tmp_path / "runs" / "trial" / "grpo-seed0"
