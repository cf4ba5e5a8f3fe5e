"""The vertical slice in a minute of arithmetic: warm start, training, comparison, report; real formats, tiny models."""

import json
import os
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from arrol.cli.main import main
from arrol.configs.sft import ModelShape
from arrol.records.store import read_run
from arrol.training.checkpoint import newest_checkpoint
from integration import tiny

DATA = Path(os.environ.get("ARROL_DATA", Path(__file__).parents[3] / "shared" / "data"))
LETTERS = "".join(map(chr, range(32, 127))) + "\n"
"""Enough to spell a word problem."""


def run_train(path, capsys, *flags):
    """The run's folder; the command must succeed."""
    status = main(["train", str(path), *map(str, flags)])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    match = re.search(r"finished at step \d+; records, rollouts and checkpoints: (\S+)", captured.out)
    return read_run(match.group(1)), Path(match.group(1)), captured.out


def test_a_warm_started_model_trains_with_pruning(tmp_path, capsys):
    sft = {
        "out_dir": str(tmp_path),
        "name": "base",
        "steps": 12,
        "pretrain_steps": 4,
        "batch_size": 16,
        "save_dtype": "bfloat16",
        "eval_prompts": 8,
        "max_completion_tokens": 24,
        "device": "cpu",
        "shape": {"hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2},
        "task": {"name": "arithmetic", "min_ops": 1, "max_ops": 1},
    }
    (tmp_path / "sft.toml").write_text(tiny.toml(sft))
    assert main(["sft", str(tmp_path / "sft.toml"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert 0 <= facts["low"] <= facts["accuracy"] <= facts["high"] <= 1
    assert {"eval/dead_group_frac_8", "eval/prompt_success/std"} <= set(facts)
    losses = [step.metrics["loss/sft"] for step in read_run(tmp_path / "base").steps]
    assert losses[-1] < 3.5  # ln 21 = 3.04 is a guess among all characters; it has begun to learn

    run = {
        "name": "rl",
        "model": str(tmp_path / "base" / "model"),
        "out_dir": str(tmp_path),
        "device": "cpu",
        "task": sft["task"],
        "sampling": {"max_completion_tokens": 24},
        "pruning": {"rule": "balanced", "probe_tokens": [6], "warmup_steps": 1},
        "quality": {"hidden_size": 8},
        "training": {"steps": 3, "prompts_per_step": 2, "group_size": 6},
        "evaluation": {"num_prompts": 4},
    }
    (tmp_path / "run.toml").write_text(tiny.toml(run))
    trained, _, out = run_train(tmp_path / "run.toml", capsys)
    assert sum(step.metrics["rollout/finish/pruned"] for step in trained.steps) > 0
    assert all(step.metrics["pruning/kept_frac"] == 1.0 for step in trained.steps[:1])
    assert "uniform" not in out  # a single run shows no absent controls


GSM8K = [
    {
        "question": f"Ann has {n} eggs and buys {n} more. How many has she?",
        "answer": f"{n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}",
    }
    for n in range(20)
]


def gsm8k_run(tmp_path, capsys, source):
    shape = tiny.SHAPE.model_copy(update={"max_positions": 2048})
    model = tiny.save_model(tmp_path / "model", shape, LETTERS)
    path = tiny.save_config(tmp_path / "gsm8k.toml", model, source, tmp_path / "runs")
    flags = ["--training.steps", "5", "--evaluation.num_prompts", "2", "--evaluation.every", "0"]
    run, _, _ = run_train(path, capsys, *flags, "--task.answer_format", "gsm8k", "--task.template", "qa")
    assert [step.step for step in run.steps] == [1, 2, 3, 4, 5]
    assert all(step.metrics["tokens/generated"] > 0 for step in run.steps)
    return run


def test_five_steps_on_prompts_in_gsm8ks_format(tmp_path, capsys):
    for split, rows in (("train", GSM8K[:15]), ("test", GSM8K[15:])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = gsm8k_run(tmp_path, capsys, tmp_path)
    assert len({row.prompt_key for row in run.rollouts}) == 15


def test_a_run_that_learns_nothing_says_so_while_it_trains_and_at_its_end(tmp_path, capsys):
    for split, rows in (("train", GSM8K[:15]), ("test", GSM8K[15:])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shape = tiny.SHAPE.model_copy(update={"max_positions": 2048})
    model = tiny.save_model(tmp_path / "model", shape, LETTERS)
    path = tiny.save_config(tmp_path / "gsm8k.toml", model, tmp_path, tmp_path / "runs")
    flags = ["--training.steps", "7", "--evaluation.num_prompts", "2", "--evaluation.every", "0"]
    _, _, out = run_train(path, capsys, *flags, "--task.answer_format", "gsm8k", "--task.template", "qa")
    live, _, end = out.partition("final accuracy")
    assert live.count("tiny, step 5: every rollout got the reward 0 in each of 5 steps: ") == 1
    assert end.count("warning: tiny: nothing was learned: no rollout trained in any of 7 steps") == 1
    assert end.count("warning: tiny: every rollout got the reward 0 in each of 7 steps: ") == 1


@pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="no GSM8K: set ARROL_DATA to the folder that holds gsm8k/")
def test_five_steps_on_gsm8k(tmp_path, capsys):
    run = gsm8k_run(tmp_path, capsys, DATA / "gsm8k")
    assert len({row.prompt_key for row in run.rollouts}) == 15


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_local_folders_of_both_architectures_train_with_the_papers_settings(
    tmp_path, prompt_folder, capsys, architecture
):
    shape = ModelShape(
        architecture=architecture, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2
    )
    model = tiny.save_model(tmp_path / "model", shape)
    assert json.loads((model / "config.json").read_text())["model_type"] == architecture
    name = {"qwen3": "qwen3-1.7b", "llama": "llama-3.2-1b"}[architecture]
    paper = Path(__file__).parents[2] / "configs" / f"paper-{name}.toml"
    flags = {
        "model": model,
        "device": "cpu",
        "out_dir": tmp_path / "runs",
        "task.source": prompt_folder,
        "task.eval_source": prompt_folder / "test.jsonl",
        "sampling.max_completion_tokens": 10,
        "pruning.probe_tokens": "[4]",
        "pruning.warmup_steps": 1,
        "training.steps": 3,
        "training.prompts_per_step": 4,
        "evaluation.num_prompts": 2,
    }
    run, folder, _ = run_train(paper, capsys, *(word for key, value in flags.items() for word in (f"--{key}", value)))
    ratios = [step.metrics["loss/importance/mean"] for step in run.steps]
    assert any(0.9 < ratio < 1.1 and ratio != 1.0 for ratio in ratios)  # the engine samples in bfloat16
    before = load_file(model / "model.safetensors")
    after = load_file(newest_checkpoint(folder / "checkpoints") / "policy" / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not before[key].equal(after[key]) for key in before)


def test_reference_importance_and_tensorboard_switched_on(config, tmp_path, capsys):
    flags = ["--algorithm.name", "dapo", "--algorithm.overlong_buffer_tokens", "4", "--algorithm.kl_coef", "0.1"]
    flags += ["--algorithm.importance_cap", "2", "--training.epochs", "2", "--training.steps", "3"]
    run, folder, _ = run_train(config, capsys, *flags, "--report_to", '["tensorboard"]')
    last = run.steps[-1].metrics
    assert last["loss/kl"] > 0
    assert last["loss/importance/mean"] > 0
    assert last["tokens/scored"] > 0
    (events,) = (folder / "tensorboard").iterdir()
    assert b"rollout/success_frac_before" in events.read_bytes()


@pytest.fixture
def compared(tmp_path, config):
    """A comparison's config: two arms, one seed."""
    text = config.read_text().replace('name = "tiny"\n', "")
    top, *tables = text.split("\n[")
    run = "[run]" + top + "".join("\n[run." + table for table in tables)
    arms = (
        'name = "trial"\n[[arms]]\nname = "grpo"\nchange.pruning.rule = "never"\n'
        '[[arms]]\nname = "pruned"\n[[arms]]\nname = "small_group"\n'
        "change = {pruning = {rule = 'never'}, training = {group_size = 3}}\n"
    )
    path = tmp_path / "compare.toml"
    path.write_text(arms + run)
    return path


def test_a_comparison_ends_in_a_table_and_a_report(compared, tmp_path, capsys):
    flags = ["--run.training.steps", "3", "--run.evaluation.every", "0"]
    assert main(["compare", str(compared), *flags]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("grpo", "pruned", "speed-up", "Controls not run: uniform, oracle."))
    folder = tmp_path / "runs" / "trial"
    assert (folder / "report" / "report.md").is_file()
    assert "<html" in (folder / "report" / "report.html").read_text()
    assert list((folder / "report" / "plots").glob("*.png"))
    first, second = (read_run(folder / f"{arm}-seed0") for arm in ("grpo", "pruned"))
    assert [row.prompt_key for row in first.rollouts] == [row.prompt_key for row in second.rollouts]

    assert main(["compare", str(compared), *flags]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main(["compare", str(compared), *flags, "--resume", "--json"]) == 0
    captured = capsys.readouterr()
    rows = {row["arm"]: row for row in json.loads(captured.out)}
    assert rows["pruned"]["kept_frac"] < 1 == rows["grpo"]["kept_frac"]
    assert "pruned-seed0: finished before" in captured.err

    assert main(["report", str(folder), "--out", str(tmp_path / "again"), "--json"]) == 0
    assert {row["arm"]: row for row in json.loads(capsys.readouterr().out)} == rows
    assert (tmp_path / "again" / "report.html").is_file()
