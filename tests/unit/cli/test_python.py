"""``arrol.train``: what it takes, what it leaves, and what it refuses before anything is written."""

import asyncio
import sys

import pytest

import arrol
from arrol.cli.main import main
from arrol.errors import ArrolError, ConfigError
from arrol.records.store import Run
from arrol.training.policy import character_tokenizer
from arrol.types import Prompt, Verdict

ROWS = [{"prompt": f"{n}+1=", "gold": str(n + 1)} for n in range(90)]


@pytest.fixture
def config(tmp_path, make_model, monkeypatch):
    """Two short steps on a random model."""
    monkeypatch.chdir(tmp_path)
    tokenizer = character_tokenizer("0123456789+-*=,:;#")
    make_model(vocab_size=len(tokenizer), eos_token_id=1, hidden_size=16, head_dim=4).save_pretrained("model")
    tokenizer.save_pretrained("model")
    return {
        "name": "mine",
        "model": "model",
        "device": "cpu",
        "sampling": {"max_completion_tokens": 4},
        "training": {"steps": 2, "prompts_per_step": 2, "group_size": 2, "checkpoint_every": 1},
        "evaluation": {"every": 0, "num_prompts": 2},
    }


def digits(completions, gold, **columns):
    """Share of digits; a module's function."""
    assert all(isinstance(one, str) for one in gold)
    return [sum(c.isdigit() for c in text) / 4 for text in completions]


class Counting:
    """A task with no more than it needs."""

    def __init__(self, tokenizer):
        self.tokenizer, self.judged, self.closed = tokenizer, 0, False

    def train_prompt(self, position):
        return Prompt(str(position % 5), tuple(self.tokenizer.encode(f"{position % 5}+1=")), "", "1")

    def eval_prompts(self, count):
        return [self.train_prompt(position) for position in range(count)]

    def verify(self, prompt, completion_text):
        self.judged += 1
        return Verdict(float("1" in completion_text), completion_text)


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.parts[len(folder.parts)] != "model"}


def test_rows_and_a_function_of_this_place_train(config, tmp_path, capsys):
    def here(completions, **columns):
        return [float("1" in text) for text in completions]

    run = arrol.train(config, task=ROWS, reward=here)
    assert isinstance(run, Run)
    assert (run.end.outcome, run.folder.as_posix(), len(run.frame())) == ("finished", "runs/mine", 2)
    assert "reward/here/mean" in run.frame()
    (written,) = (tmp_path / "runs").glob("rows-*.jsonl")
    assert run.run.config["task"]["source"] == f"runs/{written.name}"
    assert run.run.config["task"]["reward"][0]["function"].endswith("<locals>.here")
    assert "finished at step 2" in capsys.readouterr().out
    assert main(["eval", "runs/mine"]) == 2
    assert "is a function of a notebook or script that arrol.train was given" in capsys.readouterr().err


def test_a_function_of_a_module_is_an_import_path_for_later_commands(config, capsys):
    run = arrol.train(config, task=ROWS, reward={digits: 2.0}, flags=["--training.steps", "1"])
    assert run.run.config["task"]["reward"] == [{"function": f"{digits.__module__}:digits", "weight": 2.0}]
    assert run.end.step == 1
    assert main(["eval", "runs/mine", "--evaluation.samples_per_prompt", "2"]) == 0


def test_it_goes_on_where_it_stopped_and_needs_a_name_otherwise(config):
    arrol.train(config, task=ROWS, reward=digits, flags=["--training.steps", "1"])
    assert [s.step for s in arrol.train(config, task=ROWS, reward=digits, resume=True).steps] == [1, 2]
    with pytest.raises(ArrolError, match="holds a run already"):
        arrol.train(config, task=ROWS, reward=digits)
    with pytest.raises(ArrolError, match="--resume: runs/other holds no run to go on with"):
        arrol.train({**config, "name": "other"}, task=ROWS, reward=digits, resume=True)


def test_splits_a_file_and_a_config_of_objects_are_taken(config, tmp_path):
    run = arrol.train(config, task={"train": ROWS, "test": ROWS[:3]}, reward=digits)
    assert run.evals[0].num_prompts == 2
    source = next((tmp_path / "runs").glob("rows-*")) / "train.jsonl"
    settled = arrol.RunConfig(**{**config, "name": "file", "task": {"name": "dataset", "source": "x"}})
    assert arrol.train(settled, task=source, reward=digits).end.outcome == "finished"


@pytest.mark.parametrize("made", [False, True])
def test_a_task_that_is_an_object_trains(config, made):
    task = Counting(character_tokenizer("0123456789+-*=,:;#"))
    run = arrol.train(config, task=Counting if made else task)
    assert run.end.outcome == "finished"
    assert run.run.config["task"] == {"name": "python", "object": f"{__name__}:Counting"}
    assert made or task.judged > 4
    assert main(["eval", "runs/mine"]) == 2


def test_an_async_reward_works_inside_a_running_loop_as_in_a_notebook(config):
    async def brief(completion_ids, completions, **columns):
        await asyncio.sleep(0)
        return [-float(len(ids)) for ids in completion_ids]

    async def notebook():
        return arrol.train(config, task=ROWS, reward=brief)

    assert "reward/brief/mean" in asyncio.run(notebook()).frame()


def test_a_lambda_is_a_reward(config):
    run = arrol.train(config, task=ROWS, reward=lambda completions, **columns: [1.0] * len(completions))
    assert run.steps[0].metrics["reward/reward/mean"] == 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": 3}, "task = int: give rows, a path, an object with train_prompt"),
        ({"task": []}, r"task = \[\]: no rows"),
        ({"task": ROWS, "reward": 5}, "reward = 5: no function; give one that takes completions"),
        ({"task": ROWS, "reward": "nowhere:f"}, "no module 'nowhere'"),
        ({"task": ROWS, "reward": lambda texts: [0.0]}, "takes no 'completions'; define it as reward"),
        ({"task": ROWS, "reward": lambda completions, **_: 3}, "returned 3, no list"),
        ({"task": ROWS}, "answer_column: not given and none of"),
        ({"task": "nowhere.jsonl", "reward": digits}, "'nowhere.jsonl' is no file or folder"),
        ({"task": Counting, "reward": digits}, "judges itself; leave one of them out"),
        ({"task": lambda tokenizer: object()}, "task = object: has no train_prompt; see arrol.protocols.Task"),
        ({}, "task: missing"),
        ({"task": ROWS, "flags": ["--steps", "3"]}, "steps = 3: unknown key; the nearest known one"),
        (
            {"task": ROWS, "flags": ["--task.reward_time_limit_s", "3"], "reward": lambda completions: [1.0]},
            "task.reward_time_limit_s = 3: worker processes import functions, and .* is in no module",
        ),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(config, tmp_path, given, message):
    before = files(tmp_path)
    with pytest.raises(ArrolError, match=message) as caught:
        arrol.train(config, **given)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before


def test_a_config_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="config = int: give the path of a TOML file, a dict, or a RunConfig"):
        arrol.train(3)


def test_torch_is_not_loaded_for_a_wrong_config():
    assert "arrol.cli.train" not in vars(sys.modules["arrol.cli.python"])
