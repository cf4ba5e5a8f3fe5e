"""No token of a user stands in a record."""

import numpy as np
import pytest

from arrol.integrations.secrets import hidden_text, hidden_values, hidden_words

TOKEN = "hf_" + "aB3" * 11


def test_values_under_secret_names_are_hidden_and_others_stay():
    given = {
        "hub_token": "x",
        "model_init_kwargs": {"token": "y", "dtype": np.dtype("float32"), "revision": None},
        "token": None,
        "eos_token": "<|im_end|>",
        "prompt_key": "prompt",
        "betas": (0.9, float("inf")),
        "note": f"read with {TOKEN}",
        3: True,
    }
    assert hidden_values(given) == {
        "hub_token": "***",
        "model_init_kwargs": {"token": "***", "dtype": "float32", "revision": None},
        "token": None,
        "eos_token": "<|im_end|>",
        "prompt_key": "prompt",
        "betas": [0.9, float("inf")],
        "note": "read with ***",
        "3": True,
    }


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--hub_token", "x", "--lr", "1"], ["--hub_token", "***", "--lr", "1"]),
        (["--hub-token=x"], ["--hub-token=***"]),
        (["+trainer.api_key=x", "data.prompt_key=q"], ["+trainer.api_key=***", "data.prompt_key=q"]),
        (["--use_auth_token", "--seed", "1"], ["--use_auth_token", "--seed", "1"]),
        (["--note", TOKEN], ["--note", "***"]),
        (["train.py", "token"], ["train.py", "token"]),
    ],
)
def test_words_of_a_command_are_hidden(given, shown):
    assert hidden_words(given) == shown


def test_a_name_that_begins_alike_is_no_token():
    assert hidden_text("hf_hub sk-learn ghp_x") == "hf_hub sk-learn ghp_x"
