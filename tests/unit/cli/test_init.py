"""``arrol init`` on small files and the shipped model: what it writes trains."""

import json

import pytest

from arrol.cli.demo import MODEL
from arrol.cli.main import main
from arrol.configs.run import load_run


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{n}+{n}=", "answer": f"{n}+{n}={2 * n}#### {2 * n}"} for n in range(10, 50)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_what_it_writes_is_evaluated_and_trained(here, capsys):
    assert main(["init", "rows.jsonl", "--model", str(MODEL), "--out", "mine.toml"]) == 0
    printed = capsys.readouterr().out
    assert "mine.toml: " in printed
    assert "column 'question', answers in 'answer'." in printed
    config = load_run("mine.toml")
    assert (config.name, config.task.answer_format, config.task.verifier) == ("mine", "gsm8k", "integer")
    assert config.sampling.max_completion_tokens == 22  # 1.5 times the 15 characters of a solution
    small = ["--training.steps", "1", "--training.prompts_per_step", "2", "--evaluation.num_prompts", "2"]
    assert main(["train", "mine.toml", *small]) == 0


def test_a_reward_function_needs_no_answers(here, capsys):
    (here / "mine.py").write_text("def short(completions, **columns):\n    return [1.0 for _ in completions]\n")
    (here / "rows.jsonl").write_text('{"prompt": "1+1="}\n{"prompt": "2+2="}\n{"prompt": "3+3="}\n' * 8)
    assert main(["init", "rows.jsonl", "--model", str(MODEL), "--reward", "mine:short", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"] == "run.toml"
    config = load_run("run.toml")
    assert [one.function for one in config.task.reward] == ["mine:short"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.jsonl"], "source: 'none.jsonl' is no file or folder"),
        (["rows.jsonl", "--model", "nowhere"], "model = 'nowhere': no such folder"),
        (["rows.jsonl", "--out", "rows.jsonl"], "--out = 'rows.jsonl': a config is a .toml file; give such a name"),
        (["rows.jsonl", "--out", "rows.jsonl/x.toml"], "--out = 'rows.jsonl': cannot be made (File exists)"),
        (["rows.jsonl", "--out", "old.toml"], "--out = 'old.toml': exists; give the name of a new file"),
        (["rows.jsonl", "--reward", "absent:right"], "task.reward = 'absent:right': no module 'absent'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(here, capsys, words, message):
    (here / "old.toml").write_text("x")
    before = sorted(here.iterdir())
    model = [] if "--model" in words else ["--model", str(MODEL)]
    assert main(["init", *words, *model]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert sorted(here.iterdir()) == before
