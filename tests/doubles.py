"""A controller that writes down what it is shown and stops the rollouts that it is told to."""

import numpy as np
import torch

from arrol.types import GroupRequest, Prompt

PROMPTS = ((5, 6, 7), (3,), (9, 8, 7, 6, 5, 4, 3, 2, 3, 4, 5), (11, 12, 13, 14, 15, 16))
"""Mixed lengths, 1 to 11."""


class Spy:
    """Stops ``stops`` at the probe of that index, and ``late`` when the clock reaches a step."""

    def __init__(self, probe_tokens, stops=(), at_probe=0, late=None):
        self.probe_tokens, self.stops, self.at_probe = tuple(probe_tokens), set(stops), at_probe
        self.late = late or {}
        self.events, self.ended, self.ticks, self.opened = [], [], [], []

    def open(self, step, group, size, success_rate=None, *, prune=True):
        self.opened.append((step, group, size))

    def probed(self, events):
        self.events += events
        return [e.rollout_id for e in events if e.rollout_id in self.stops and e.probe == self.at_probe]

    def finished(self, rollout_ids):
        self.ended += rollout_ids
        return []

    def tick(self, now):
        self.ticks.append(now)
        return [rollout_id for rollout_id, when in self.late.items() if when == len(self.ticks)]

    def decisions(self, step, group):
        return []


def requests_for(prompts, size, step=1):
    return [GroupRequest(step, g, Prompt(str(g), tuple(ids), "", ""), size) for g, ids in enumerate(prompts)]


def tokens_of(groups):
    return [[completion.token_ids for completion in group] for group in groups]


@torch.no_grad()
def forward(model, prompt, completion):
    """Log-probabilities of the completion and the last hidden states behind each of its tokens, in one plain pass."""
    ids = torch.tensor([[*prompt, *completion]], device=next(model.parameters()).device)
    logits = model(input_ids=ids).logits[0].float()
    hidden = model.base_model(input_ids=ids).last_hidden_state[0].float()
    rows = torch.arange(len(prompt) - 1, ids.shape[1] - 1, device=ids.device)
    logprobs = logits.log_softmax(-1)[rows, ids[0, rows + 1]]
    return logprobs.cpu().numpy(), hidden[len(prompt) :].cpu().numpy()


def assert_logprobs_are_the_models(model, prompts, groups, tolerance=1e-4):
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            expected, _ = forward(model, prompt, completion.token_ids)
            np.testing.assert_allclose(completion.sampler_logprobs_T, expected, atol=tolerance)
