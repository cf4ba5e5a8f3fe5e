"""Your own data and reward through ``arrol train`` and ``arrol eval``, and every mistake before torch."""

import json
import subprocess
import sys

import pytest

from arrol.cli.main import main
from arrol.evaluation.samples import read_samples
from arrol.lab.pool import Pool
from arrol.records.store import read_records, read_run
from integration import tiny

REWARDS = '''
import os
import time


def last(completions, gold, **columns):
    """1 where the last letter is the gold one."""
    return [float(text.strip()[-1:] == letter) for text, letter in zip(completions, gold, strict=True)]


async def brevity(completion_ids, **columns):
    return [-0.05 * len(ids) for ids in completion_ids]


def picky(completions, gold, **columns):
    if any("00" in text for text in completions):
        raise ValueError("two in a row")
    return [3.0 * float(text.strip()[-1:] == letter) for text, letter in zip(completions, gold, strict=True)]


def hangs(completions, **columns):
    for text in completions:
        if "00" in text:
            time.sleep(60)
    return [float("1" in text) for text in completions]


def counted(completions, **columns):
    with open(os.environ["TRIALS"], "a") as file:
        file.write("x" * (completions == ["", ""]))
    return [float("1" in text) for text in completions]


def broken(completions, **columns):
    raise RuntimeError("always")


def scalar(completions, **columns):
    return 1.0
'''


@pytest.fixture
def mine(tmp_path, model_folder, monkeypatch):
    """A config with data and a module beside it, in another folder than the working directory."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for split, numbers in (("train", range(7)), ("test", range(8, 16))):
        rows = [{"prompt": f"{number:04b}", "gold": str(number % 2)} for number in numbers]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "rewards_of_mine.py").write_text(REWARDS, "utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tiny.save_config(folder / "mine.toml", model_folder, folder, tmp_path / "runs")
    sys.modules.pop("rewards_of_mine", None)


def call(capsys, *argv):
    assert main([str(word) for word in argv]) == 0
    return json.loads(capsys.readouterr().out)


def steps(tmp_path, name="tiny"):
    return read_run(tmp_path / "runs" / name).steps


def test_a_run_learns_from_a_function_beside_its_config_and_resumes_to_the_same_numbers(mine, tmp_path, capsys):
    flags = ["--task.reward", "rewards_of_mine:last", "--training.checkpoint_every", "2"]
    assert main(["train", str(mine), *flags, "--training.steps", "4"]) == 0
    assert main(["train", str(mine), *flags, "--training.steps", "2", "--name", "again"]) == 0
    assert main(["train", str(mine), *flags, "--training.steps", "4", "--name", "again", "--resume"]) == 0
    whole, resumed = steps(tmp_path), steps(tmp_path, "again")
    names = ("reward/mean", "reward/last/mean", "reward/failed", "rollout/success_frac_after", "eval/reward/mean")
    for name in names:
        found = [row.metrics.get(name) for row in whole]
        assert found == [row.metrics.get(name) for row in resumed]
    assert any(0 < row.metrics["reward/mean"] < 1 for row in whole)
    assert all(row.metrics["reward/failed"] == 0 for row in whole)
    rewards = {row.reward for row in read_records(tmp_path / "runs" / "tiny" / "rollouts.jsonl")}
    assert rewards == {0.0, 1.0, None}
    capsys.readouterr()
    found = call(capsys, "eval", tmp_path / "runs" / "tiny", "--json", "--evaluation.samples_per_prompt", "4")
    metrics = {row["metric"]: row["value"] for row in found["metrics"]}
    assert list(metrics) == ["mean reward", "avg@4", "pass@1", "pass@4"]
    assert metrics["mean reward"] == metrics["avg@4"] == pytest.approx(metrics["pass@1"])
    assert found["facts"]["judged_by"] == {"rewards_of_mine:last": 16}


def test_several_functions_are_weighed_and_one_of_them_is_the_success(mine, tmp_path, capsys):
    reward = '["rewards_of_mine:last", {function = "rewards_of_mine:brevity", weight = 0.5}]'
    flags = ["--task.reward", reward, "--task.success_reward", "last", "--training.steps", "2"]
    assert main(["train", str(mine), *flags]) == 0
    for row in steps(tmp_path):
        metrics = row.metrics
        assert metrics["reward/mean"] == pytest.approx(
            metrics["reward/last/mean"] + 0.5 * metrics["reward/brevity/mean"]
        )
        assert metrics["rollout/success_frac_after"] == pytest.approx(metrics["reward/last/mean"])
        assert metrics["reward/brevity/mean"] < 0
    capsys.readouterr()
    assert main(["train", str(mine), "--task.reward", reward, "--name", "x"]) == 2
    assert "task.success_reward = None: name the one of ['brevity', 'last']" in capsys.readouterr().err


def test_rewards_that_fail_are_counted_and_the_others_train(mine, tmp_path, caplog):
    flags = ["--task.reward", "rewards_of_mine:picky", "--task.success_threshold", "2.5", "--training.steps", "2"]
    assert main(["train", str(mine), *flags, "--pruning", "never"]) == 0
    rollouts = [row for row in read_records(tmp_path / "runs" / "tiny" / "rollouts.jsonl") if row.step == 1]
    failed = [row for row in rollouts if row.dropped == "unrewarded"]
    metrics = steps(tmp_path)[0].metrics
    assert metrics["reward/failed"] == len(failed) > 0
    assert all(row.reward is None and not row.keep for row in failed)
    rewarded = [row for row in rollouts if row.reward is not None]
    assert {(row.reward, row.success) for row in rewarded} == {(0.0, 0.0), (3.0, 1.0)}
    line = next(message for message in caplog.messages if "two in a row" in message)
    assert line.startswith("arrol: task.reward = 'rewards_of_mine:picky': row '")
    assert ": ValueError: two in a row, rewards_of_mine.py line " in line


def test_a_function_that_hangs_costs_its_completions_alone(mine, tmp_path):
    flags = ["--task.reward", "rewards_of_mine:hangs", "--task.reward_time_limit_s", "0.5", "--training.steps", "1"]
    flags += ["--training.prompts_per_step", "1", "--evaluation.num_prompts", "1", "--evaluation.samples_per_prompt"]
    assert main(["train", str(mine), *flags, "3", "--pruning", "never"]) == 0
    rollouts = read_records(tmp_path / "runs" / "tiny" / "rollouts.jsonl")
    metrics = steps(tmp_path)[0].metrics
    assert 0 < metrics["reward/failed"] < len(rollouts)
    assert sum(row.reward is None for row in rollouts) == metrics["reward/failed"]


def test_a_function_that_always_fails_ends_the_run_with_one_line(mine, tmp_path, capsys):
    assert main(["train", str(mine), "--task.reward", "rewards_of_mine:broken"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("arrol: task.reward = 'rewards_of_mine:broken': row '")
    assert "RuntimeError: always, rewards_of_mine.py line " in last
    assert last.endswith("all 8 rewards of the evaluation failed, the first like this: mend the function")


def test_a_config_is_evaluated_by_its_function_and_the_threshold_says_what_is_right(mine, tmp_path, capsys):
    flags = ["--task.reward", "rewards_of_mine:brevity", "--evaluation.samples_per_prompt", "4", "--k", "1,4"]
    found = call(capsys, "eval", mine, "--json", *flags, "--task.success_threshold", "-0.3")
    metrics = {row["metric"]: row["value"] for row in found["metrics"]}
    (file,) = (tmp_path / "runs" / "tiny").glob("samples.jsonl")
    samples = [sample for problem in read_samples(file) for sample in problem.samples]
    assert {sample.success for sample in samples} == {0.0, 1.0}
    assert all((sample.reward > -0.3) == (sample.success == 1) for sample in samples)
    assert metrics["mean reward"] == pytest.approx(sum(s.reward for s in samples) / len(samples))
    assert metrics["avg@4"] == pytest.approx(sum(s.success for s in samples) / len(samples))
    again = call(capsys, "eval", "--samples", file, "--json", "--k", "1,4")
    assert again["metrics"] == found["metrics"], "the file says what is right"
    assert main(["vote", "--samples", str(file)]) == 2
    assert "reward functions judged, and no sample has an answer to vote on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["rewards_of_mine"], "task.reward = 'rewards_of_mine': not module:function"),
        (["rewards_of_mine:lost"], "has no 'lost'; it has last"),
        (["no_module_here:f"], "no module 'no_module_here' in "),
        (["rewards_of_mine:scalar"], "task.reward = 'rewards_of_mine:scalar': returned 1.0, no list"),
        (["json:dumps"], "task.reward = 'json:dumps': needs 'obj', which is no column of the data"),
        (["rewards_of_mine:last", "--task.prompt_column", "q"], "prompt_column: 'q'"),
    ],
)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_mistake_is_one_line_before_torch_is_loaded_and_nothing_is_written(mine, tmp_path, command, flags, message):
    words = [command, str(mine), "--task.reward", *flags]
    code = (
        "import sys; from arrol.cli.main import main\n"
        f"status = main({words!r})\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "sys.exit(status)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert ended.stderr.count("\n") == 1
    assert message in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_a_stop_string_ends_completions_and_is_no_part_of_their_text(mine, tmp_path, capsys):
    flags = ["--task.reward", "rewards_of_mine:picky", "--training.steps", "1", "--sampling.stop", '["00"]']
    assert main(["train", str(mine), *flags, "--pruning", "never"]) == 0
    metrics = steps(tmp_path)[0].metrics
    assert metrics["reward/failed"] == 0, "the function raises an error for a text with 00"
    assert metrics["rollout/completion_tokens/mean"] < 8
    capsys.readouterr()
    call(capsys, "eval", mine, "--json", *flags[:2], *flags[4:], "--evaluation.samples_per_prompt", "8", "--name", "e")
    samples = [s for problem in read_samples(tmp_path / "runs" / "e" / "samples.jsonl") for s in problem.samples]
    assert {s.success for s in samples} == {0.0, 1.0}
    assert not any("00" in s.completion for s in samples)
    assert any(s.num_tokens > len(s.completion) + 1 for s in samples), "the tokens are kept"


def test_the_laboratory_tells_what_is_right_from_what_trains(mine, tmp_path, capsys):
    pool = tmp_path / "pool.safetensors"
    words = ["lab", str(mine), "--prompts", "2", "--rollouts", "8", "--sketch-size", "4", "--visits", "1"]
    words += ["--out", str(pool), "--task.reward"]
    assert main([*words, "rewards_of_mine:broken"]) == 2
    assert "all 16 rewards of these prompts failed, the first like this" in capsys.readouterr().err
    both = "rewards_of_mine:last,rewards_of_mine:brevity"
    threshold = ["--task.success_reward", "brevity", "--task.success_threshold", "-0.15"]
    assert main([*words, both, *threshold, "--json"]) == 0
    facts, collected = json.loads(capsys.readouterr().out)["pool"], Pool.load(pool)
    assert (collected.label_PN == (collected.length_PN < 3)).all()
    assert facts["success"] == pytest.approx(collected.label_PN.mean())
    assert 0 < facts["success"] < 1
    assert (collected.reward_PN < 0.9).all()
    assert len(set(collected.reward_PN.ravel().tolist())) > 2


def test_arms_and_seeds_of_a_comparison_try_their_function_once(mine, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIALS", str(tmp_path / "trials"))
    text = mine.read_text("utf-8")
    head, _, body = text.partition("[task]")
    arms = '[[arms]]\nname = "a"\n[[arms]]\nname = "b"\nchange.pruning.rule = "never"\n'
    run = head.replace("name =", "# name =") + "[run.task]" + body.replace("\n[", "\n[run.")
    run = (
        run.replace("model =", "run.model =").replace("out_dir =", "run.out_dir =").replace("device =", "run.device =")
    )
    (mine.parent / "arms.toml").write_text(f"seeds = [0, 1]\n{run}{arms}", "utf-8")
    flags = ["--run.training.steps", "1", "--run.task.reward", "rewards_of_mine:counted"]
    assert main(["compare", str(mine.parent / "arms.toml"), *flags, "--run.sampling.max_completion_tokens", "8"]) == 0
    assert (tmp_path / "trials").read_text() == "x"
    assert len(list((tmp_path / "runs").rglob("rollouts.jsonl"))) == 4
