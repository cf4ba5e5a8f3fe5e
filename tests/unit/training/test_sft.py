"""Demonstrations in, a model that has learnt them out."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
import torch

from arrol.configs.run import OptimizerConfig
from arrol.configs.sft import ModelShape, SftConfig
from arrol.configs.task import ArithmeticTaskConfig
from arrol.errors import DataError
from arrol.training.policy import character_tokenizer
from arrol.training.sft import encode_demonstrations, file_demonstrations, new_model, warm_start

SHAPE = ModelShape(hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, num_kv_heads=1)


@pytest.fixture
def tokenizer():
    return character_tokenizer("abc")


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_a_new_model_has_its_shape_and_repeats_under_a_seed(tokenizer, architecture):
    shape = SHAPE.model_copy(update={"architecture": architecture})
    first, again, other = (new_model(shape, tokenizer, seed) for seed in (1, 1, 2))
    assert first.config.model_type == architecture
    assert (first.config.vocab_size, first.config.num_hidden_layers, first.config.eos_token_id) == (6, 1, 1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_the_solution_and_its_end_are_learnt_the_prompt_is_not(tokenizer):
    ids_RT, learns_RT = encode_demonstrations([("ab", "c"), ("a", "bca")], tokenizer, torch.device("cpu"))
    assert ids_RT.tolist() == [[3, 4, 5, 1, 0], [3, 4, 5, 3, 1]]
    assert learns_RT.int().tolist() == [[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]]


def test_exact_solutions_come_first_and_the_loss_falls(tokenizer):
    asked, rows = [], []

    def demonstration(position, exact):
        asked.append((position, exact))
        return "a", "bc" if exact else "cb"

    config = SftConfig(
        task=ArithmeticTaskConfig(),
        steps=30,
        pretrain_steps=20,
        batch_size=2,
        optimizer=OptimizerConfig(learning_rate=3e-2, schedule="linear"),
    )
    model = new_model(SHAPE, tokenizer, 0)
    warm_start(model, tokenizer, demonstration, config, lambda step, metrics: rows.append((step, metrics)))
    assert [position for position, _ in asked] == list(range(60))
    assert [exact for _, exact in asked] == [True] * 40 + [False] * 20
    assert [step for step, _ in rows] == list(range(1, 31))
    losses = [metrics["loss/sft"] for _, metrics in rows]
    assert losses[19] < 0.3 < losses[0]
    assert losses[20] > losses[19]  # the other solver surprises
    assert rows[0][1]["tokens/trained"] == 6
    assert rows[0][1]["train/learning_rate"] > rows[-1][1]["train/learning_rate"]


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl.gz", "a.parquet"])
def test_a_file_may_have_any_form_of_a_table(tmp_path, name):
    rows = [{"prompt": p, "solution": p + "!"} for p in "xy"]
    text = "prompt,solution\nx,x!\ny,y!\n" if name == "a.csv" else json.dumps(rows, indent=1)
    data = text.encode()
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    demonstration = file_demonstrations(str(tmp_path / name))
    assert [demonstration(i, False) for i in range(3)] == [("x", "x!"), ("y", "y!"), ("x", "x!")]


def test_a_file_is_cycled_in_order(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "solution": p + "!"}) + "\n" for p in "xyz"))
    demonstration = file_demonstrations(str(path))
    assert [demonstration(i, i % 2 == 0) for i in range(4)] == [("x", "x!"), ("y", "y!"), ("z", "z!"), ("x", "x!")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file; give a file with the columns prompt and solution"),
        ("", "the file is empty; add a row with prompt and solution"),
        (
            '{"prompt": "a", "solution": "b"}\n{"prompt": "a"}\n',
            "line 2 has no solution; add the column, or remove that row",
        ),
        ("{\n", "is not JSON ("),
        ("[1]\n", "row 1 is a number; every row must be an object with named columns"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, content, problem):
    path = tmp_path / "some.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as caught:
        file_demonstrations(str(path))
    assert str(caught.value).startswith("demonstrations")
    assert problem in str(caught.value)
