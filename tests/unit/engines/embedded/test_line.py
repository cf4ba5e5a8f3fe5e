"""The order of the queue, and which prompts are prefilled together."""

from types import SimpleNamespace

import torch

from arrol.engines.embedded.line import Line
from arrol.types import GroupRequest, Prompt, RolloutId


class Passes:
    """Writes down the prompts of every pass; logits say which prompt they belong to."""

    def __init__(self):
        self.lengths = []

    def __call__(self, prompts):
        self.lengths.append([len(prompt) for prompt in prompts])
        return SimpleNamespace(), torch.tensor([[float(prompt[0])] for prompt in prompts])


def request(group, length, size, first=0):
    return GroupRequest(1, group, Prompt(str(group), (group,) * length, "", ""), size, first=first)


def taken(line, most):
    rollout_ids, prompt, prefilled = line.take(most)
    return [tuple(rollout_id) for rollout_id in rollout_ids], len(prompt), float(prefilled.logits_V[0])


def test_siblings_follow_each_other_in_the_order_of_the_requests():
    line = Line(Passes(), 100)
    line.add([request(0, 3, 3), request(1, 2, 1)])
    line.add([request(0, 3, 2, first=3)])
    assert len(line) == 6
    assert taken(line, 2) == ([(1, 0, 0), (1, 0, 1)], 3, 0.0)
    assert taken(line, 9) == ([(1, 0, 2)], 3, 0.0)
    assert taken(line, 9) == ([(1, 1, 0)], 2, 1.0)
    assert taken(line, 9) == ([(1, 0, 3), (1, 0, 4)], 3, 0.0)
    assert not line
    assert len(line) == 0


def test_prompts_are_prefilled_once_in_passes_that_hold_so_many_tokens():
    passes = Passes()
    line = Line(passes, 12)
    line.add([request(0, 3, 2), request(1, 4, 1), request(2, 4, 1), request(3, 13, 1), request(4, 1, 1)])
    line.take(1)
    assert passes.lengths == [[3, 4, 4]]
    for _ in range(5):
        line.take(1)
    assert passes.lengths == [[3, 4, 4], [13], [1]]


def test_requests_added_together_are_prefilled_together_and_a_later_wave_again():
    passes = Passes()
    line = Line(passes, 100)
    line.add([request(0, 3, 2), request(5, 9, 0)])
    line.take(1)
    line.add([request(1, 4, 1), request(0, 3, 1, first=2)])
    line.take(1)
    assert passes.lengths == [[3]]
    line.take(1)
    assert passes.lengths == [[3], [4, 3]]
    assert line.take(1)[0] == [RolloutId(1, 0, 2)]
    assert passes.lengths == [[3], [4, 3]]


def test_a_resumed_rollout_comes_first_with_its_tokens():
    passes = Passes()
    line = Line(passes, 100)
    line.add([request(0, 3, 2)])
    line.add_first((7, 7, 7, 8, 9), [RolloutId(1, 4, 2)])
    assert line.prefill() == 5
    assert taken(line, 9) == ([(1, 4, 2)], 5, 7.0)
    assert taken(line, 9) == ([(1, 0, 0), (1, 0, 1)], 3, 0.0)
    assert passes.lengths == [[5, 3]]


def test_a_pass_is_halved_down_to_one_prompt_and_forgotten_prompts_are_prefilled_again():
    passes = Passes()
    line = Line(passes, 100)
    line.add([request(group, 5, 1) for group in range(8)])
    assert line.shrink()
    assert line.shrink()
    line.prefill()
    assert passes.lengths == [[5, 5]]
    line.forget()
    assert line.shrink()
    assert not line.shrink()
    line.prefill()
    assert passes.lengths == [[5, 5], [5]]
