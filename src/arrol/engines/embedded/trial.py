"""A cache tried on two short texts: its hidden states beside those of the model without a cache.

A model brings code of its own. An error that this code raises on a cache means that the model does not run with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from arrol.engines.embedded.memory import is_shortage

SAMPLE = (2, 3, 4, 5, 6), (4, 2, 3)
TOLERANCE = 5e-2
"""Largest difference from a forward pass without cache, as a share of the largest hidden state; bfloat16 needs it."""
FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError)
"""Errors of a model's code."""
StepTwice = Callable[[Sequence[Sequence[int]], torch.Tensor, torch.Tensor], torch.Tensor]
"""Prompts, tokens of three rows, and a move -> hidden states ``[2, D]``.

Two rows of the first prompt and one of the second are fed the tokens; the last row moves into the first, as
``moved = [0, 2]`` says, and the two rows that are left are fed the tokens of the last row and of the second.
"""


def tried(model: Any, step_twice: StepTwice) -> bool:
    """True where the steps give the hidden states of the model without a cache; torch's error where memory ran out."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    prompts = [[token % vocabulary for token in prompt] for prompt in SAMPLE]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            first_3 = torch.tensor([1, 1, 0], device=next(model.parameters()).device) % vocabulary
            ours = step_twice(prompts, first_3, first_3.new_tensor([0, 2]))
            _, other, last = first_3.tolist()
            texts = [[*prompts[1], last, last], [*prompts[0], other, other]]
            whole = [model.base_model(input_ids=first_3.new_tensor([ids]), use_cache=False) for ids in texts]
            theirs = torch.cat([output.last_hidden_state[:, -1] for output in whole])
    except FAILURES as error:
        if is_shortage(error):
            raise
        return False
    finally:
        model.train(was_training)
    most = float(theirs.nan_to_num().abs().max())
    return bool(torch.allclose(ours, theirs, rtol=0, atol=TOLERANCE * most, equal_nan=True))
