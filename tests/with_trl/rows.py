"""TRL's loss row by row: what it is given, parts of it, and their gradient."""

import torch

from arrol.integrations.trl import GRPOTrainer


class Spy(GRPOTrainer):
    """Keeps what TRL hands to the loss."""

    def compute_loss(self, model, inputs, *rest, **named):
        self.before = inputs
        return super().compute_loss(model, inputs, *rest, **named)


def gradient(host, compute, parts):
    """Sum over the parts of a batch, and the loss."""
    host.model.zero_grad()
    losses = [compute(host.model, part) for part in parts]
    for loss in losses:
        loss.backward()
    return torch.cat([p.grad.flatten().clone() for p in host.model.parameters()]), sum(losses).item()


def rows_of(inputs, rows):
    size = len(inputs["completion_mask"])
    return {k: v[rows] if torch.is_tensor(v) and v.ndim and len(v) == size else v for k, v in inputs.items()}
