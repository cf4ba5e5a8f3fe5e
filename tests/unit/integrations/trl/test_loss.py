"""Rows and columns that carry no loss go; everything else stays where it was."""

import torch

from arrol.integrations.trl.loss import keep_rows, live_rows

PROMPT_MASK = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1]])
COMPLETION_MASK = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]])


def inputs(**more):
    return {
        "prompt_ids": torch.arange(9).view(3, 3),
        "prompt_mask": PROMPT_MASK,
        "completion_ids": torch.arange(12).view(3, 4),
        "completion_mask": COMPLETION_MASK,
        "advantages": torch.tensor([1.0, 2.0, 3.0]),
        "num_items_in_batch": torch.tensor(6),
        **more,
    }


def test_live_rows_have_a_token_in_the_loss():
    assert live_rows(inputs()).tolist() == [True, True, True]
    tool_mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 0, 1]])
    assert live_rows(inputs(tool_mask=tool_mask)).tolist() == [True, False, True]


def test_columns_that_only_the_lost_rows_filled_go_too():
    kept = keep_rows(inputs(ratio=torch.ones(3, 1), logps=torch.arange(12.0).view(3, 4)), torch.tensor([0, 2]))
    assert kept["prompt_ids"].tolist() == [[1, 2], [7, 8]]
    assert kept["prompt_mask"].tolist() == [[1, 1], [0, 1]]
    assert kept["completion_ids"].tolist() == [[0, 1, 2], [8, 9, 10]]
    assert kept["logps"].tolist() == [[0, 1, 2], [8, 9, 10]]
    assert kept["ratio"].shape == (2, 1)
    assert kept["advantages"].tolist() == [1.0, 3.0]
    assert kept["num_items_in_batch"] == 6


def test_prompts_as_wide_as_completions_are_trimmed_on_their_own_side():
    given = inputs()
    given |= {"prompt_ids": torch.arange(12).view(3, 4), "prompt_mask": torch.tensor([[0, 0, 1, 1]] * 3)}
    kept = keep_rows(given, torch.tensor([1]))
    assert kept["prompt_ids"].tolist() == [[6, 7]]
    assert kept["completion_ids"].tolist() == [[4]]
