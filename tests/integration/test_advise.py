"""``arrol advise`` on a pool, a config beside its pool, a run's records and a TRL user's file."""

import json

import numpy as np
import pytest

from arrol.cli.main import main
from unit.lab.conftest import make_pool
from viewer_runs import SmallRun, run_row


def advise(*words):
    return main(["advise", *map(str, words)])


@pytest.fixture
def pool_file(tmp_path):
    path = tmp_path / "p.safetensors"
    make_pool().save(path)
    return path


@pytest.fixture
def samples_file(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt": f"{number}?",
            "completion": "x" * int(rng.integers(8, 80)),
            "reward": float(rng.random() < 0.4),
            "step": 1,
        }
        for number in range(6)
        for _ in range(8)
    ]
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_pool_gets_levers_a_decision_and_plots(pool_file, tmp_path, capsys):
    assert advise(pool_file, "--visits", 2, "--plots", tmp_path / "plots", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["group_size"] == 4
    assert found["noise"]["low"] <= found["noise"]["ratio"] <= found["noise"]["high"]
    assert sum(found["difficulty"].values()) == pytest.approx(1)
    assert len(found["levers"]) > 10
    assert (found["recommendation"] is None) == (found["lines"] == {})
    plots = ["auroc.png", "live.png", "merit.png"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["advice.html", *plots]
    page = (tmp_path / "plots" / "advice.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == len(plots)
    assert all(lever["name"] in page for lever in found["levers"])
    assert page.count("Content-Security-Policy") == 1
    assert list(found["sizes"]) == [cost["name"] for cost in found["costs"]] == ["7b", "flops", "4:3"]


def test_the_screen_fits_80_columns_and_says_what_to_paste(pool_file, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert advise(pool_file, "--visits", 2, "--cost", "flops", "--group-size", 16) == 0
    screen = capsys.readouterr().out
    table = screen[screen.index("lever") : screen.index("Recommendation")]
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "group of 16 (yours)" in table
    assert "num_generations=" in screen
    assert "actor_rollout_ref.rollout.n=" in screen
    assert len(screen.splitlines()) <= 40


def test_a_config_is_read_with_the_pool_beside_it(config, tmp_path, capsys):
    assert advise(config) == 2
    error = capsys.readouterr().err
    assert "does not exist; collect it with arrol lab" in error
    from arrol.configs.run import load_run

    run = load_run(str(config), [])
    make_pool().save(f"{run.out_dir}/{run.name}/pool.safetensors")
    assert advise(config, "--visits", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["has_gradients"]


def test_completions_with_rewards_give_what_needs_no_gradient(samples_file, tmp_path, capsys):
    assert advise(samples_file, "--plots", tmp_path / "plots") == 0
    screen = capsys.readouterr().out
    assert "Unknown without gradients: sigma_w/sigma_b" in screen
    assert "a token is taken as 4 characters" in screen
    assert "steps of 16 prompts x 8" in screen
    assert (tmp_path / "plots" / "live.png").is_file()
    assert f"page: {tmp_path / 'plots' / 'advice.html'}" in screen
    assert "Unknown without gradients" in (tmp_path / "plots" / "advice.html").read_text("utf-8")
    assert advise(samples_file, "--json", "--group-size", 4) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["size"] for row in found["bounds"]] == [2, 4, 8, 16, 32]
    assert found["bounds"][1] == {"size": 4, "low": 1.0, "high": 1.0}


def test_a_run_gives_the_quality_of_its_head(config, tmp_path, capsys):
    words = ["--training.steps", "3", "--pruning.rule", "never", "--pruning.observe", "true"]
    assert main(["train", str(config), *words, "--pruning.probe_tokens", "[2]", "--pruning.warmup_steps", "0"]) == 0
    from arrol.configs.run import load_run

    run = load_run(str(config), [])
    capsys.readouterr()
    assert advise(f"{run.out_dir}/{run.name}", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["has_gradients"]
    assert found["group_size"] == run.training.group_size
    assert [row["tokens"] for row in found["heads"]] == [2]


def test_a_run_of_trl_or_verl_is_read_which_has_no_config_of_arrol_train(tmp_path, capsys):
    run = SmallRun(tmp_path / "host")
    run.records(run_row(sampling={"max_completion_tokens": 8}, task={"reward": []}))
    for step in (1, 2, 3):
        run.step(step, rewards=((1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, None), (0.0, 0.0, 1.0, 0.0)))
    run.end(3)
    assert advise(run.folder, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["group_size"], found["prompts_per_step"]) == (4, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--visits", "0"], "--visits = 0: give at least 1"),
        (["--group-size", "1"], "--group-size = 1: give at least 2"),
        (["--cost", "gpu"], "cost = 'gpu': unknown"),
        (["--group-by", "key"], "--group-by = 'key': only a file of samples needs it; leave it out"),
        (["--designs", "missing.toml"], "missing.toml"),
    ],
)
def test_mistakes_are_one_line(pool_file, capsys, words, message):
    assert advise(pool_file, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_plots_that_cannot_be_written_cost_nothing(pool_file, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("arrol.cli.advise.workload", None)  # nothing is read
    assert advise(pool_file, "--plots", tmp_path / "file" / "plots") == 2
    assert "file/plots': cannot be made (Not a directory); choose another folder" in capsys.readouterr().err


def test_designs_belong_to_a_pool_with_gradients(samples_file, capsys):
    assert advise(samples_file, "--designs", "d.toml") == 2
    assert "--designs = 'd.toml': needs a pool with gradients; collect one with arrol lab" in capsys.readouterr().err


def test_no_name_puts_code_into_the_page(samples_file, tmp_path, capsys):
    hostile = samples_file.rename(tmp_path / "<script>alert(1)<b>.jsonl")
    assert advise(hostile, "--plots", tmp_path / "plots") == 0
    page = (tmp_path / "plots" / "advice.html").read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
