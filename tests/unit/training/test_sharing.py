"""Sharing a prompt changes what is computed, not what comes out."""

import pytest
import torch

from arrol.engines.embedded.decoder import flat_decoder
from arrol.training.policy import head_logprobs, token_logprobs
from arrol.training.sharing import shared_tokens

PROMPTS = [(5, 6, 7), (5, 6, 7), (8,), (5, 6, 7), (8,), (3, 4)]
COMPLETIONS = [(9, 2, 3, 4), (9, 2), (1,), (6,), (7, 7, 7, 7, 7, 7), (9, 2, 3, 4)]
CPU = torch.device("cpu")


def test_the_worked_example():
    shared = shared_tokens([(5, 6), (5, 6)], [(7, 2), (9,)], CPU)
    assert shared.ids_N.tolist() == [5, 6, 7]
    assert shared.positions_N.tolist() == [0, 1, 2]
    assert shared.source_N.tolist() == [0, 1, 2]
    assert shared.place_RT.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert shared.front_M.tolist() == [1, 2, 1]
    assert shared.target_M.tolist() == [7, 2, 9]


def test_each_prompt_stands_once_and_last_tokens_are_left_out():
    shared = shared_tokens(PROMPTS, COMPLETIONS, CPU)
    assert len(shared.ids_N) == 3 + 1 + 2 + sum(len(c) - 1 for c in COMPLETIONS)
    assert shared.target_M.tolist() == [token for completion in COMPLETIONS for token in completion]
    rows = shared.ids_N[shared.place_RT]
    for row, prompt, completion in zip(rows.tolist(), PROMPTS, COMPLETIONS, strict=True):
        assert tuple(row[: len(prompt) + len(completion) - 1]) == prompt + completion[:-1]


def padded():
    width = max(len(p) + len(c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True))
    ids, selected = torch.zeros(len(PROMPTS), width).long(), torch.zeros(len(PROMPTS), width).bool()
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        ids[row, : len(prompt) + len(completion)] = torch.tensor(prompt + completion)
        selected[row, len(prompt) : len(prompt) + len(completion)] = True
    return ids, selected


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_gradients_equal_those_of_padded_rows(any_model, temperature):
    options = {"temperature": temperature, "with_entropy": True}
    shared = shared_tokens(PROMPTS, COMPLETIONS, CPU)
    hidden = shared.hidden(flat_decoder(any_model))
    results = []
    for logprob, entropy in (
        head_logprobs(any_model, hidden, shared.target_M, **options),
        token_logprobs(any_model, *padded(), **options),
    ):
        any_model.zero_grad()
        (logprob * torch.linspace(-1, 1, len(logprob))).sum().backward()
        gradient = torch.cat([weight.grad.flatten() for weight in any_model.parameters()])
        results.append((logprob.detach(), entropy, gradient))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
