"""What runs here, and what a config resolves to."""

import json

from arrol.cli.main import main


def test_without_a_config_it_says_where_numbers_would_come_from(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"commit", "dirty", "device", "arrol", "torch", "python"} <= set(facts)
    assert main(["info"]) == 0
    assert f"torch = {facts['torch']}" in capsys.readouterr().out


def test_a_run_is_shown_with_its_defaults_and_meanings(run_file, capsys):
    assert main(["info", str(run_file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "training.steps = 100  # Training steps, 1 to 1000000000." in lines
    assert 'task.name = "arithmetic"  # One of arithmetic, countdown, search, dataset.' in lines
    assert 'engine.name = "embedded"  # One of embedded, vllm.' in lines
    assert main(["info", str(run_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["steps"] == 100


def test_a_run_is_shown_under_flags(run_file, capsys):
    assert (
        main(
            [
                "info",
                str(run_file),
                "--pruning.rule",
                "uniform",
                "--pruning.probe_tokens",
                "8",
                "--training.steps",
                "7",
                "--json",
            ]
        )
        == 0
    )
    shown = json.loads(capsys.readouterr().out)
    assert (shown["pruning"]["rule"], shown["training"]["steps"]) == ("uniform", 7)
    assert main(["info", "--training.steps", "7"]) == 2
    assert capsys.readouterr().err == (
        "arrol: flag = '--training.steps': changes a config, and none is given; "
        "write arrol info CONFIG --training.steps 7\n"
    )


def test_the_kind_of_config_is_told_by_its_keys(tmp_path, compare_file, capsys):
    path = tmp_path / "sft.toml"
    for key in ("pretrain_steps = 3", "eval_prompts = 4", 'save_dtype = "bfloat16"'):
        path.write_text(f'{key}\n[task]\nname = "countdown"\n')
        assert main(["info", str(path), "--json"]) == 0
        assert "mixture" in json.loads(capsys.readouterr().out)
    assert main(["info", str(compare_file)]) == 0
    out = capsys.readouterr().out
    assert "seeds = [0, 1]  # One run per arm and seed." in out
    path.write_text("[task]\n")
    assert main(["info", str(path)]) == 2
    assert capsys.readouterr().err == (
        "arrol: model: missing; expected: Folder or hub name of the base model; arithmetic-base is the small one that "
        "comes with arrol.\n"
    )
